//! Facts as Cedar sees them: the peer, the service, the user and the context enter as plain values and leave as Cedar
//! entities and a context. Facts that do not fit the schema give a `Misfit`, which denies; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use cedar_policy_core::ast::{self, Value};
use cedar_policy_core::evaluator::RestrictedEvaluator;
use cedar_policy_core::extensions::Extensions;
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
    kept: KeptValues,
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

/// The entities of a token, as the context names them.
#[derive(Debug)]
pub(super) struct Uids {
    user: Value,
    actor: Option<Value>,
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
            kept: KeptValues::default(),
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
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let mut attrs = vec![
            ("trust_domain".to_owned(), text(domain)),
            ("path".to_owned(), text(id.path())),
        ];
        if let Some((ns, sa)) = form {
            attrs.push(("ns".to_owned(), text(ns)));
            attrs.push(("sa".to_owned(), text(sa)));
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
    pub(super) fn users(&self, user: &User, uses: Uses) -> Result<Vec<ast::Entity>, Misfit> {
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

    /// The user and who acts for the user, as the context names them.
    pub(super) fn names(&self, user: &User) -> Uids {
        let name = |subject: &str| Value::from(self.user_uid(&user.alias, subject).as_ref().clone());
        Uids {
            user: name(&user.subject),
            actor: user.actor.as_deref().map(name),
        }
    }

    /// The user's entity with the attributes that are read, in the roles that policies may name.
    fn user(&self, user: &User, uses: Uses) -> Result<ast::Entity, Misfit> {
        let roles = self.roles.get(&user.alias).ok_or(Misfit)?;
        let parents = user.roles.iter().filter_map(|role| roles.get(role));
        let parents = parents.map(|role| role.as_ref().clone()).collect();
        let mut attrs = Vec::new();
        let mut add = |name: &str, value: Option<Value>| {
            attrs.extend(value.map(|value| (name.into(), value.into())));
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
        let uid = self.user_uid(&user.alias, &user.subject).as_ref().clone();
        Ok(ast::Entity::new_with_attr_partial_value(
            uid,
            attrs,
            HashSet::new(),
            parents,
            [],
        ))
    }

    fn user_uid(&self, alias: &str, subject: &str) -> EntityUid {
        uid(&self.types.user, &format!("{alias}|{subject}"))
    }

    /// The declared claims; one of another type than declared is a misfit, never left out: a forbid may depend on it.
    fn claims(&self, claims: &[(String, ClaimValue)]) -> Result<Value, Misfit> {
        let mut fields = Vec::new();
        for (name, value) in claims {
            let value = match (self.claims.get(name), value) {
                (None, _) => continue,
                (Some(ClaimKind::String), ClaimValue::String(text)) => string(text),
                (Some(ClaimKind::Strings), ClaimValue::Strings(list)) => strings(list),
                (Some(ClaimKind::Long), ClaimValue::Long(number)) => Value::from(*number),
                (Some(ClaimKind::Bool), ClaimValue::Bool(yes)) => Value::from(*yes),
                _ => return Err(Misfit),
            };
            fields.push((name.as_str(), value));
        }
        record(fields)
    }

    /// The context of a decision with the attributes that are read. `params` are those of the matched route, `names` the
    /// entities of the token.
    pub(super) fn context(
        &self,
        facts: &Facts<'_>,
        uses: Uses,
        params: Option<&Value>,
        names: Option<&Uids>,
    ) -> Result<ast::Context, Misfit> {
        let mut pairs = BTreeMap::new();
        if uses.context("port") {
            pairs.insert("port".into(), Value::from(i64::from(facts.port)));
        }
        if uses.context("tls") {
            pairs.insert("tls".into(), Value::from(facts.tls));
        }
        if uses.context("src_ip") {
            pairs.insert("src_ip".into(), self.kept.address(facts.src_ip)?);
        }
        if uses.context("now") {
            pairs.insert("now".into(), self.kept.now(facts.now_millis)?);
        }
        if let What::Http(http) = &facts.what {
            if uses.context("path") {
                let path = super::route::canonical_escapes(http.path);
                pairs.insert("path".into(), string(&path));
            }
            if uses.context("host") {
                pairs.insert("host".into(), string(http.host));
            }
            if uses.context("headers") {
                pairs.insert("headers".into(), self.declared(http)?);
            }
            if let Some(params) = params.filter(|_| uses.context("params")) {
                pairs.insert("params".into(), params.clone());
            }
            if let Some(names) = names.filter(|_| uses.context("user")) {
                pairs.insert("user".into(), names.user.clone());
            }
            let actor = names.and_then(|names| names.actor.as_ref());
            if let Some(actor) = actor.filter(|_| uses.context("actor")) {
                pairs.insert("actor".into(), actor.clone());
            }
        }
        Ok(ast::Context::Value(Arc::new(pairs)))
    }

    /// The declared headers that were sent.
    fn declared(&self, http: &HttpFacts<'_>) -> Result<Value, Misfit> {
        let declared = http
            .headers
            .iter()
            .filter(|(name, values)| self.headers.contains(name) && !values.is_empty());
        record(declared.map(|(name, values)| (name.as_str(), strings(values))))
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// A string for Cedar.
pub(super) fn string(text: &str) -> Value {
    Value::from(text)
}

fn strings(list: &[String]) -> Value {
    Value::set_of_lits(list.iter().map(|text| text.as_str().into()), None)
}

/// A record, each of whose names is there once.
pub(super) fn record<'n>(fields: impl IntoIterator<Item = (&'n str, Value)>) -> Result<Value, Misfit> {
    let mut pairs = BTreeMap::new();
    for (name, value) in fields {
        if pairs.insert(name.into(), value).is_some() {
            return Err(Misfit);
        }
    }
    Ok(Value::record_arc(Arc::new(pairs), None))
}

/// What Cedar makes of an expression: values of its extensions are only made so.
fn made(expression: &RestrictedExpression) -> Result<Value, Misfit> {
    let maker = RestrictedEvaluator::new(Extensions::all_available());
    maker
        .interpret(expression.as_ref().as_borrowed())
        .map_err(|_| Misfit)
}

/// An IPv4 peer of a dual-stack listener comes as `::ffff:a.b.c.d`; policies mean `a.b.c.d`.
fn ip(addr: IpAddr) -> Result<Value, Misfit> {
    made(&RestrictedExpression::new_ip(addr.to_canonical().to_string()))
}

/// A point in time; Cedar writes years of four digits.
fn datetime(millis: i64) -> Result<Value, Misfit> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map_err(|_| Misfit)?;
    if !(0..=9999).contains(&at.year()) {
        return Err(Misfit);
    }
    made(&RestrictedExpression::new_datetime(format!(
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

/// Addresses that are kept; two that fall on one place replace each other.
const ADDRESSES: usize = 64;

/// Values that Cedar makes by parsing a text, of what is mostly the same from one decision to the next.
#[derive(Debug)]
struct KeptValues {
    now: ArcSwapOption<(i64, Value)>,
    addresses: Box<[ArcSwapOption<(IpAddr, Value)>]>,
}

impl Default for KeptValues {
    fn default() -> Self {
        Self {
            now: ArcSwapOption::empty(),
            addresses: (0..ADDRESSES).map(|_| ArcSwapOption::empty()).collect(),
        }
    }
}

impl KeptValues {
    fn now(&self, millis: i64) -> Result<Value, Misfit> {
        kept(Some(&self.now), millis, || datetime(millis))
    }

    fn address(&self, addr: IpAddr) -> Result<Value, Misfit> {
        let last = match addr {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[15],
        };
        kept(self.addresses.get(usize::from(last) % ADDRESSES), addr, || {
            ip(addr)
        })
    }
}

/// What is kept at a place for a key, else what `make` gives, which is then kept.
fn kept<K: PartialEq>(
    place: Option<&ArcSwapOption<(K, Value)>>,
    key: K,
    make: impl FnOnce() -> Result<Value, Misfit>,
) -> Result<Value, Misfit> {
    if let Some(known) = place.map(ArcSwapOption::load)
        && let Some((of, value)) = known.as_deref()
        && *of == key
    {
        return Ok(value.clone());
    }
    let value = make()?;
    if let Some(place) = place {
        place.store(Some(Arc::new((key, value.clone()))));
    }
    Ok(value)
}
