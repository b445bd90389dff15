//! Facts as Cedar sees them: the peer, the service, the user and the context enter as plain values and leave as Cedar
//! entities and a context. Facts that do not fit the schema give a `Misfit`, which denies; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::str::FromStr;

use cedar_policy::{Context, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use spiffe::SpiffeId;
use time::OffsetDateTime;

use super::expr::Uses;
use super::facts::{ClaimValue, Facts, HttpFacts, User, What};
use super::model::{ClaimKind, PolicyError};
use super::world::{World, kubernetes_form};

/// The facts do not fit what the schema says. The decision is then a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit;

/// Makes entities of one mesh.
#[derive(Debug)]
pub(super) struct Maker {
    types: Types,
    /// Issuer alias to role to the role's entity: what the token says beyond it is nothing that a policy can name.
    roles: HashMap<String, HashMap<String, EntityUid>>,
    claims: BTreeMap<String, ClaimKind>,
    headers: BTreeSet<String>,
}

#[derive(Debug)]
struct Types {
    trust_domain: EntityTypeName,
    namespace: EntityTypeName,
    group: EntityTypeName,
    workload: EntityTypeName,
    plaintext: EntityTypeName,
    service: EntityTypeName,
    user: EntityTypeName,
    action: EntityTypeName,
}

impl Maker {
    /// The maker for a mesh.
    pub(super) fn new(world: &World) -> Result<Self, PolicyError> {
        let name = |text: &str| {
            EntityTypeName::from_str(text).map_err(|e| PolicyError::Schema {
                detail: e.to_string(),
            })
        };
        let role = name("Role")?;
        let types = Types {
            trust_domain: name("TrustDomain")?,
            namespace: name("Namespace")?,
            group: name("Group")?,
            workload: name("Workload")?,
            plaintext: name("Plaintext")?,
            service: name("Service")?,
            user: name("User")?,
            action: name("Action")?,
        };
        let roles_of = |(alias, roles): (&String, &BTreeSet<String>)| {
            let uids = roles
                .iter()
                .map(|r| (r.clone(), uid(&role, &format!("{alias}|{r}"))))
                .collect();
            (alias.clone(), uids)
        };
        Ok(Self {
            types,
            roles: world.roles.iter().map(roles_of).collect(),
            claims: world.claims.clone(),
            headers: world.headers.clone(),
        })
    }

    /// The entity of an action's id.
    pub(super) fn action(&self, id: &str) -> EntityUid {
        uid(&self.types.action, id)
    }

    /// The service's entity, in its namespace and the own trust domain.
    pub(super) fn service(&self, world: &World, name: &str, namespace: &str) -> Entity {
        let parents = [
            uid(&self.types.namespace, namespace),
            uid(&self.types.trust_domain, &world.trust_domain),
        ];
        Entity::new_no_attrs(uid(&self.types.service, name), parents.into())
    }

    /// The peer without a certificate.
    pub(super) fn plaintext(&self) -> Entity {
        Entity::with_uid(uid(&self.types.plaintext, "plaintext"))
    }

    /// The peer's entity and its ancestors. A workload of another trust domain is in no namespace of ours, whatever its
    /// path says.
    pub(super) fn workload(&self, world: &World, id: &SpiffeId) -> Result<(Entity, Vec<EntityUid>), Misfit> {
        let domain = id.trust_domain_name();
        let form = kubernetes_form(id);
        let mut ancestors = vec![uid(&self.types.trust_domain, domain)];
        if let Some((namespace, _)) = form.filter(|_| domain == world.trust_domain) {
            ancestors.push(uid(&self.types.namespace, namespace));
        }
        ancestors.extend(
            world
                .groups_of(id)
                .map(|group| uid(&self.types.group, &group.name)),
        );
        let mut attrs = vec![
            ("trust_domain".to_owned(), string(domain)),
            ("path".to_owned(), string(id.path())),
        ];
        if let Some((ns, sa)) = form {
            attrs.push(("ns".to_owned(), string(ns)));
            attrs.push(("sa".to_owned(), string(sa)));
        }
        let entity = Entity::new_with_tags(
            uid(&self.types.workload, &id.to_string()),
            attrs,
            ancestors.iter().cloned(),
            [],
        );
        Ok((entity.map_err(|_| Misfit)?, ancestors))
    }

    /// The user, and who acts for the user, as far as they are read. Of an actor the token proves the name alone: it has no
    /// role, no scope and no claim. Who acts for itself is one entity.
    pub(super) fn users(&self, user: &User, uses: Uses) -> Result<Vec<Entity>, Misfit> {
        let mut users = vec![self.user(user, uses)?];
        let actor = user.actor.as_ref().filter(|_| uses.context("actor"));
        if let Some(actor) = actor.filter(|actor| **actor != user.subject) {
            let actor = User {
                alias: user.alias.clone(),
                issuer: user.issuer.clone(),
                subject: actor.clone(),
                exp: user.exp,
                ..User::default()
            };
            users.push(self.user(&actor, uses)?);
        }
        Ok(users)
    }

    /// The user's entity with the attributes that are read, in the roles that policies may name.
    fn user(&self, user: &User, uses: Uses) -> Result<Entity, Misfit> {
        let roles = self.roles.get(&user.alias).ok_or(Misfit)?;
        let parents: Vec<EntityUid> = user
            .roles
            .iter()
            .filter_map(|role| roles.get(role).cloned())
            .collect();
        let mut attrs = Vec::new();
        let mut add = |name: &str, value: Option<RestrictedExpression>| {
            attrs.extend(value.map(|value| (name.to_owned(), value)));
        };
        let wanted = |name: &str| uses.user(name).then_some(());
        add("issuer", wanted("issuer").map(|()| string(&user.issuer)));
        add("sub", wanted("sub").map(|()| string(&user.subject)));
        add("aud", wanted("aud").map(|()| strings(&user.audience)));
        add("scope", wanted("scope").map(|()| strings(&user.scope)));
        add(
            "azp",
            user.azp.as_deref().map(string).filter(|_| uses.user("azp")),
        );
        add(
            "acr",
            user.acr.as_deref().map(string).filter(|_| uses.user("acr")),
        );
        add("amr", wanted("amr").map(|()| strings(&user.amr)));
        if let Some(at) = user.auth_time.filter(|_| uses.user("auth_time")) {
            add("auth_time", Some(datetime(at.checked_mul(1000).ok_or(Misfit)?)?));
        }
        if uses.user("exp") {
            add("exp", Some(datetime(user.exp.checked_mul(1000).ok_or(Misfit)?)?));
        }
        if uses.user("claims") {
            add("claims", Some(self.claims(&user.claims)?));
        }
        Entity::new_with_tags(self.user_uid(&user.alias, &user.subject), attrs, parents, [])
            .map_err(|_| Misfit)
    }

    fn user_uid(&self, alias: &str, subject: &str) -> EntityUid {
        uid(&self.types.user, &format!("{alias}|{subject}"))
    }

    /// The declared claims; one of another type than declared is a misfit, never left out: a forbid may depend on it.
    fn claims(&self, claims: &[(String, ClaimValue)]) -> Result<RestrictedExpression, Misfit> {
        let mut fields = Vec::new();
        for (name, value) in claims {
            let value = match (self.claims.get(name), value) {
                (None, _) => continue,
                (Some(ClaimKind::String), ClaimValue::String(text)) => string(text),
                (Some(ClaimKind::Strings), ClaimValue::Strings(list)) => strings(list),
                (Some(ClaimKind::Long), ClaimValue::Long(number)) => RestrictedExpression::new_long(*number),
                (Some(ClaimKind::Bool), ClaimValue::Bool(yes)) => RestrictedExpression::new_bool(*yes),
                _ => return Err(Misfit),
            };
            fields.push((name.clone(), value));
        }
        RestrictedExpression::new_record(fields).map_err(|_| Misfit)
    }

    /// The context of a decision with the attributes that are read. `params` are those of the matched route.
    pub(super) fn context(
        &self,
        facts: &Facts<'_>,
        uses: Uses,
        params: Option<&[(String, RestrictedExpression)]>,
    ) -> Result<Context, Misfit> {
        let mut pairs = Vec::new();
        if uses.context("port") {
            pairs.push((
                "port".to_owned(),
                RestrictedExpression::new_long(facts.port.into()),
            ));
        }
        if uses.context("tls") {
            pairs.push(("tls".to_owned(), RestrictedExpression::new_bool(facts.tls)));
        }
        if uses.context("src_ip") {
            pairs.push(("src_ip".to_owned(), ip(facts.src_ip)));
        }
        if uses.context("now") {
            pairs.push(("now".to_owned(), datetime(facts.now_millis)?));
        }
        if let What::Http(http) = &facts.what {
            self.request(http, uses, &mut pairs)?;
            if let Some(params) = params.filter(|_| uses.context("params")) {
                let record = RestrictedExpression::new_record(params.iter().cloned()).map_err(|_| Misfit)?;
                pairs.push(("params".to_owned(), record));
            }
        }
        Context::from_pairs(pairs).map_err(|_| Misfit)
    }

    fn request(
        &self,
        http: &HttpFacts<'_>,
        uses: Uses,
        pairs: &mut Vec<(String, RestrictedExpression)>,
    ) -> Result<(), Misfit> {
        if uses.context("path") {
            pairs.push((
                "path".to_owned(),
                string(&super::route::canonical_escapes(http.path)),
            ));
        }
        if uses.context("host") {
            pairs.push(("host".to_owned(), string(http.host)));
        }
        if uses.context("headers") {
            let declared = http
                .headers
                .iter()
                .filter(|(name, values)| self.headers.contains(name) && !values.is_empty());
            let fields = declared.map(|(name, values)| (name.clone(), strings(values)));
            let record = RestrictedExpression::new_record(fields).map_err(|_| Misfit)?;
            pairs.push(("headers".to_owned(), record));
        }
        let subjects = http.user.map(|user| {
            (
                user,
                [("user", Some(&user.subject)), ("actor", user.actor.as_ref())],
            )
        });
        for (user, (name, subject)) in subjects
            .into_iter()
            .flat_map(|(user, both)| both.map(|one| (user, one)))
        {
            if let Some(subject) = subject.filter(|_| uses.context(name)) {
                let uid = self.user_uid(&user.alias, subject);
                pairs.push((name.to_owned(), RestrictedExpression::new_entity_uid(uid)));
            }
        }
        Ok(())
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// A string for Cedar.
pub(super) fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn strings(list: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(list.iter().map(|text| string(text)))
}

/// An IPv4 peer of a dual-stack listener comes as `::ffff:a.b.c.d`; policies mean `a.b.c.d`.
fn ip(addr: IpAddr) -> RestrictedExpression {
    RestrictedExpression::new_ip(addr.to_canonical().to_string())
}

/// A point in time; Cedar writes years of four digits.
fn datetime(millis: i64) -> Result<RestrictedExpression, Misfit> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map_err(|_| Misfit)?;
    if !(0..=9999).contains(&at.year()) {
        return Err(Misfit);
    }
    Ok(RestrictedExpression::new_datetime(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )))
}
