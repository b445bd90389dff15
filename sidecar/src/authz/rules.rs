//! What Cedar's validator cannot know: a policy and the mesh enter, problems leave. Entity ids are free in Cedar, so a
//! misspelt name validates and its forbid never matches; here everything named must exist. It changes no policy.

use std::str::FromStr;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, ResourceConstraint};
use spiffe::SpiffeId;

use super::expr::{CONTEXT, Reads, USER};
use super::problem::Span;
use super::scan::Scan;
use super::world::{METHODS, ServiceFacts, World};

/// One finding: where, what, and what to do.
pub(super) type Finding = (Span, String, Option<String>);

/// A policy with its place.
pub(super) struct Placed<'s> {
    pub(super) policy: &'s Policy,
    pub(super) reads: &'s Reads,
    pub(super) scan: &'s Scan<'s>,
    pub(super) span: Span,
}

/// Everything that is wrong with one policy.
pub(super) fn findings(world: &World, placed: &Placed<'_>) -> Vec<Finding> {
    let mut found = annotations(placed);
    found.extend(names(world, placed));
    found.extend(attributes(world, placed));
    found.extend(patterns(placed));
    found.extend(exact_methods(world, placed));
    found.extend(reach(world, placed));
    found
}

impl Placed<'_> {
    /// Where an entity is named, else the policy.
    fn place_of(&self, uid: &EntityUid) -> Span {
        let literals = self.scan.entities(self.span);
        let named = literals
            .iter()
            .find(|(text, _)| EntityUid::from_str(text).is_ok_and(|u| u == *uid));
        named.map_or(self.span, |(_, span)| *span)
    }

    fn place_of_word(&self, word: &str) -> Span {
        self.scan.find(self.span, word).unwrap_or(self.span)
    }
}

fn annotations(placed: &Placed<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (key, value) in placed.policy.annotations() {
        let problem = match (key, value) {
            ("id", _) => None, // `load` has seen to it
            ("audit", "always" | "deny") => None,
            ("audit", _) => Some((
                format!("`@audit(\"{value}\")` is not known"),
                "`always` or `deny`",
            )),
            ("mode", "shadow") => None,
            ("mode", _) => Some((
                format!("`@mode(\"{value}\")` is not known"),
                "only `shadow`; a policy without `@mode` is in force",
            )),
            ("reason", "") => Some(("`@reason` is empty".to_owned(), "say what the policy asks for")),
            ("reason", text) if text.chars().count() > 300 || text.chars().any(char::is_control) => Some((
                "`@reason` is no line of at most 300 characters".to_owned(),
                "shorten it",
            )),
            ("reason", _) => None,
            _ => Some((
                format!("annotation `@{key}` is not known"),
                "`@id`, `@audit`, `@mode` and `@reason` are",
            )),
        };
        if let Some((message, hint)) = problem {
            let place = placed.scan.annotation(placed.span, key).unwrap_or(placed.span);
            found.push((place, message, Some(hint.to_owned())));
        }
    }
    found
}

/// Every entity that is named must be one that the mesh has.
fn names(world: &World, placed: &Placed<'_>) -> Vec<Finding> {
    let mut uids = placed.policy.entity_literals();
    uids.sort();
    uids.dedup();
    uids.iter()
        .filter_map(|uid| {
            let (message, hint) = unknown(world, uid)?;
            Some((placed.place_of(uid), message, hint))
        })
        .collect()
}

/// What is wrong with a name, if anything.
fn unknown(world: &World, uid: &EntityUid) -> Option<(String, Option<String>)> {
    let id = uid.id().unescaped();
    let none = |known: bool, what: &str, all: Vec<&str>| {
        (!known).then(|| {
            (
                format!("{what} `{id}` is not in the mesh file"),
                nearest(id, &all),
            )
        })
    };
    match uid.type_name().to_string().as_str() {
        "Service" => none(
            world.services.contains_key(id),
            "service",
            world.services.keys().map(String::as_str).collect(),
        ),
        "Namespace" => none(
            world.namespaces.contains(id),
            "namespace",
            world.namespaces.iter().map(String::as_str).collect(),
        ),
        "TrustDomain" => none(
            world.trust_domains.contains(id),
            "trust domain",
            world.trust_domains.iter().map(String::as_str).collect(),
        ),
        "Group" => none(
            world.groups.iter().any(|g| g.name == id),
            "group",
            world.groups.iter().map(|g| g.name.as_str()).collect(),
        ),
        "Workload" => workload(world, id),
        "Role" | "User" => of_issuer(world, uid),
        // Actions and the one Plaintext are in the schema: the validator knows them.
        _ => None,
    }
}

fn workload(world: &World, id: &str) -> Option<(String, Option<String>)> {
    let parsed = match SpiffeId::new(id) {
        Ok(parsed) => parsed,
        Err(error) => {
            let hint = "`spiffe://TRUST-DOMAIN/PATH`, for example `spiffe://mesh.local/ns/shop/sa/web`";
            return Some((
                format!("`{id}` is not a SPIFFE ID: {error}"),
                Some(hint.to_owned()),
            ));
        }
    };
    if parsed.to_string() != id {
        return Some((
            format!("`{id}` is not how this SPIFFE ID is written"),
            Some(format!("write `{parsed}`")),
        ));
    }
    if parsed.path().is_empty() {
        let hint = "a trust domain is named by `TrustDomain::\"..\"`";
        return Some((format!("`{id}` names no workload"), Some(hint.to_owned())));
    }
    (parsed.trust_domain_name() == world.trust_domain && !world.knows_workload(&parsed)).then(|| {
        (
            format!("workload `{id}` is not in the mesh file"),
            Some("add it to the `spiffe_ids` of a service or to a group".to_owned()),
        )
    })
}

/// Roles and users belong to an issuer: `alias|name`.
fn of_issuer(world: &World, uid: &EntityUid) -> Option<(String, Option<String>)> {
    let id = uid.id().unescaped();
    let kind = uid.type_name().to_string();
    let what = kind.to_lowercase();
    let Some((alias, name)) = id.split_once('|').filter(|(_, name)| !name.is_empty()) else {
        return Some((
            format!("{what} `{id}` does not say of which issuer"),
            Some(format!("write `{kind}::\"ALIAS|NAME\"`")),
        ));
    };
    let Some(roles) = world.roles.get(alias) else {
        let all: Vec<&str> = world.roles.keys().map(String::as_str).collect();
        return Some((
            format!("issuer `{alias}` is not in the mesh file"),
            nearest(alias, &all),
        ));
    };
    (kind == "Role" && !roles.contains(name)).then(|| {
        let all: Vec<&str> = roles.iter().map(String::as_str).collect();
        let hint = nearest(name, &all).unwrap_or_else(|| "add it there".to_owned());
        (
            format!("role `{name}` is not in `role_names` of issuer `{alias}`"),
            Some(hint),
        )
    })
}

/// `has` of a name that nobody declared is false for Cedar, not an error, and a forbid behind it never matches.
fn attributes(world: &World, placed: &Placed<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for asked in &placed.reads.asked {
        let names: Vec<&str> = asked.iter().map(String::as_str).collect();
        for end in 1..names.len() {
            let (Some(of), Some(name)) = (names.get(..end), names.get(end)) else {
                continue;
            };
            let Some(known) = declared(world, of) else {
                continue;
            };
            if !known.contains(name) {
                let of = of.join(".");
                let message = format!("`{of} has {name}` is never true: nothing of that name is declared");
                found.push((placed.place_of_word(name), message, nearest(name, &known)));
                break;
            }
        }
    }
    found
}

/// The attributes of what a chain of attributes leads to; `None` when that is for the validator alone.
fn declared<'w>(world: &'w World, of: &[&str]) -> Option<Vec<&'w str>> {
    Some(match of {
        ["context"] => CONTEXT.to_vec(),
        ["context", "user" | "actor"] => USER.to_vec(),
        ["context", "user" | "actor", "claims"] => world.claims.keys().map(String::as_str).collect(),
        ["context", "headers"] => world.headers.iter().map(String::as_str).collect(),
        ["context", "params"] => {
            let routes = world.services.values().flat_map(|service| &service.routes);
            routes.flat_map(|route| route.template.params()).collect()
        }
        ["principal"] => vec!["trust_domain", "path", "ns", "sa"],
        ["resource" | "action"] => Vec::new(),
        // `(if .. then context.user else ..) has x`: any name that is declared somewhere.
        [""] => {
            let fixed = CONTEXT
                .iter()
                .chain(&USER)
                .copied()
                .chain(["trust_domain", "path", "ns", "sa"]);
            let own = world.claims.keys().chain(&world.headers).map(String::as_str);
            let routes = world.services.values().flat_map(|service| &service.routes);
            fixed
                .chain(own)
                .chain(routes.flat_map(|route| route.template.params()))
                .collect()
        }
        _ => return None,
    })
}

fn patterns(placed: &Placed<'_>) -> Option<Finding> {
    placed.reads.inner_wildcard.then(|| {
        (
            placed.place_of_word("like"),
            "`like` with a `*` inside matches across `/`: `/a/*/c` also matches `/a/b/x/c`".to_owned(),
            Some("declare a route in the mesh file and name its action".to_owned()),
        )
    })
}

/// `action == Action::"POST"` leaves out the routes under POST, so a forbid written so lets them pass.
fn exact_methods(world: &World, placed: &Placed<'_>) -> Vec<Finding> {
    let scope = placed.policy.resource_constraint();
    let routed = |method: &str| {
        let services = services(world, &scope);
        let mut routes = services.flat_map(|(_, service)| &service.routes);
        routes
            .find(|r| r.methods.iter().any(|m| m.parent == method))
            .map(|r| r.action.clone())
    };
    let mut exact: Vec<(String, bool)> = placed
        .reads
        .exact_actions
        .iter()
        .map(|id| (id.clone(), false))
        .collect();
    if let ActionConstraint::Eq(uid) = placed.policy.action_constraint() {
        // A permit that says which path it means speaks of undeclared ones knowingly; a forbid must not miss any.
        let deliberate = placed.policy.effect() == Effect::Permit && placed.reads.path;
        exact.push((uid.id().unescaped().to_owned(), deliberate));
    }
    exact
        .into_iter()
        .filter(|(id, deliberate)| !deliberate && METHODS.iter().any(|(method, _)| method == id))
        .filter_map(|(method, _)| {
            let route = routed(&method)?;
            let uid = EntityUid::from_str(&format!("Action::\"{method}\"")).ok()?;
            Some((
                placed.place_of(&uid),
                format!("comparing with `Action::\"{method}\"` leaves out the declared routes under it, such as `{route}`"),
                Some(format!("write `action in Action::\"{method}\"`")),
            ))
        })
        .collect()
}

/// The services that a resource constraint can mean.
fn services<'w>(
    world: &'w World,
    scope: &'w ResourceConstraint,
) -> impl Iterator<Item = (&'w String, &'w ServiceFacts)> {
    world
        .services
        .iter()
        .filter(|(name, service)| fits(scope, world, name, service))
}

/// Whether a resource constraint can mean a service.
pub(super) fn fits(scope: &ResourceConstraint, world: &World, name: &str, service: &ServiceFacts) -> bool {
    let is = |uid: &EntityUid, kind: &str, id: &str| {
        uid.type_name().to_string() == kind && uid.id().unescaped() == id
    };
    match scope {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
        ResourceConstraint::Eq(uid) => is(uid, "Service", name),
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            is(uid, "Service", name)
                || is(uid, "Namespace", &service.namespace)
                || is(uid, "TrustDomain", &world.trust_domain)
        }
    }
}

/// A policy that names both actions and services must be able to meet: a rule about HTTP says nothing on an opaque port,
/// and one about connections nothing on an http port. Silence there would pass for protection.
fn reach(world: &World, placed: &Placed<'_>) -> Vec<Finding> {
    let scope = placed.policy.resource_constraint();
    if matches!(scope, ResourceConstraint::Any | ResourceConstraint::Is(_)) {
        return Vec::new();
    }
    let services: Vec<_> = services(world, &scope).collect();
    if services.is_empty() {
        return Vec::new(); // the name itself is unknown, and already reported
    }
    let actions = match placed.policy.action_constraint() {
        ActionConstraint::Any => return Vec::new(),
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids,
    };
    let misses = actions.iter().filter(|uid| {
        !services
            .iter()
            .any(|(name, s)| can(uid.id().unescaped(), name, s))
    });
    misses
        .map(|uid| {
            let id = uid.id().unescaped();
            let (message, hint) = match id {
                "connect" => (
                    "`connect` is only decided on opaque ports, and the services named here have none",
                    "name an HTTP action, `Action::\"http\"` for all of them",
                ),
                id if id.contains('#') => (
                    "this route belongs to none of the services named here",
                    "name the route's own service",
                ),
                _ => (
                    "HTTP actions are only decided on http ports, and the services named here have none",
                    "write `action == Action::\"connect\"`",
                ),
            };
            (
                placed.place_of(uid),
                format!("`Action::\"{id}\"` never happens here: {message}"),
                Some(hint.to_owned()),
            )
        })
        .collect()
}

/// Whether an action can be asked of a service.
fn can(action: &str, name: &str, service: &ServiceFacts) -> bool {
    match action.split_once('#') {
        Some((of, _)) => of == name && service.http,
        None if action == "connect" => service.opaque,
        None => service.http,
    }
}

/// A hint that names what was probably meant, else what there is.
pub(super) fn nearest(name: &str, all: &[&str]) -> Option<String> {
    let close = all.iter().map(|known| (distance(name, known), known)).min();
    match close {
        Some((steps, known)) if steps <= 2 => Some(format!("did you mean `{known}`?")),
        Some(_) if all.len() <= 8 => Some(format!("there are: {}", all.join(", "))),
        Some(_) => None,
        None => Some("there are none".to_owned()),
    }
}

/// Edit distance, for hints; long names are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}
