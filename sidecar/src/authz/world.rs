//! The model, checked once: a `Model` enters, what policies may name leaves, in a form that schema, checks and the slice
//! share. A model that is wrong gives a `PolicyError`, never a smaller mesh.

use std::collections::{BTreeMap, BTreeSet};

use spiffe::{SpiffeId, TrustDomain};

use super::model::{
    ClaimKind, GroupModel, IssuerModel, Model, PolicyError, PortKind, RouteModel, ServiceModel,
};
use super::route::{Template, is_identifier};
use crate::request::Spellings;

/// The methods that have an action of their own, and the group that each is in.
pub(super) const METHODS: [(&str, &str); 8] = [
    ("GET", "read"),
    ("HEAD", "read"),
    ("OPTIONS", "read"),
    ("POST", "write"),
    ("PUT", "write"),
    ("PATCH", "write"),
    ("DELETE", "write"),
    ("OTHER", "write"),
];

/// The most routes of one service: they are compared pair by pair.
const MAX_ROUTES: usize = 1000;

/// The action that stands for a method: its own, or `OTHER` (methods are case-sensitive, RFC 9110 9.1).
pub(super) fn method_action(method: &str) -> &'static str {
    METHODS
        .iter()
        .find(|(name, _)| *name == method)
        .map_or("OTHER", |(name, _)| name)
}

/// A checked model.
#[derive(Debug)]
pub(super) struct World {
    pub(super) trust_domain: String,
    /// The own trust domain and those that groups and services name.
    pub(super) trust_domains: BTreeSet<String>,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) services: BTreeMap<String, ServiceFacts>,
    pub(super) groups: Vec<Group>,
    /// Issuer alias to the roles that policies may name.
    pub(super) roles: BTreeMap<String, BTreeSet<String>>,
    pub(super) claims: BTreeMap<String, ClaimKind>,
    pub(super) headers: BTreeSet<String>,
    /// Alias and `iss` of each issuer.
    pub(super) issuers: Vec<(String, String)>,
    identities: BTreeSet<String>,
}

/// One service, checked.
#[derive(Debug)]
pub(super) struct ServiceFacts {
    pub(super) namespace: String,
    pub(super) http: bool,
    pub(super) opaque: bool,
    pub(super) ports: Vec<(u16, PortKind)>,
    /// The hosts that it answers to, beside its addresses.
    pub(super) hosts: Vec<String>,
    /// Whether some route of it allows spellings of a path that are refused elsewhere.
    pub(super) lenient: bool,
    pub(super) routes: Vec<Route>,
}

/// One declared route, checked.
#[derive(Debug)]
pub(super) struct Route {
    /// The action's id, `<service>#<route>`.
    pub(super) action: String,
    /// Each method that it answers to; the action of a request by it is in `parent`.
    pub(super) methods: Vec<RouteMethod>,
    pub(super) template: Template,
}

/// One method of a route.
#[derive(Debug)]
pub(super) struct RouteMethod {
    pub(super) method: String,
    /// The method's action, `OTHER` for one that has none.
    pub(super) parent: &'static str,
    /// The action of such a request: the route's own when it has one method, else `<service>#<route>:<METHOD>`. One
    /// action for several methods would be in all their groups, and a permit for reading would let writes pass.
    pub(super) action: String,
}

/// A group of workloads.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    patterns: Vec<Pattern>,
}

/// A pattern of SPIFFE IDs.
#[derive(Debug)]
struct Pattern {
    trust_domain: String,
    segments: Vec<String>,
    /// A last `**`: one segment or more.
    rest: bool,
}

impl World {
    /// Checks the model.
    pub(super) fn new(model: &Model) -> Result<Self, PolicyError> {
        let trust_domain = trust_domain(&model.trust_domain)?;
        let mut world = Self {
            trust_domains: BTreeSet::from([trust_domain.clone()]),
            trust_domain,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            groups: Vec::new(),
            roles: BTreeMap::new(),
            claims: BTreeMap::new(),
            headers: BTreeSet::new(),
            issuers: Vec::new(),
            identities: BTreeSet::new(),
        };
        for service in &model.services {
            world.add_service(service)?;
        }
        for group in &model.groups {
            world.add_group(group)?;
        }
        for issuer in &model.issuers {
            world.add_issuer(issuer)?;
        }
        for header in &model.headers {
            label("header", &header.name)?;
            if !world.headers.insert(header.name.clone()) {
                return Err(twice("header", &header.name));
            }
        }
        Ok(world)
    }

    fn add_service(&mut self, service: &ServiceModel) -> Result<(), PolicyError> {
        let namespace = match service.name.split_once('/') {
            Some((ns, name)) if is_plain(ns) && is_plain(name) => ns.to_owned(),
            _ => {
                return Err(bad(
                    "service",
                    &service.name,
                    "is not `namespace/name` of letters, digits, `-`, `_`, `.`",
                ));
            }
        };
        let facts = ServiceFacts {
            namespace: namespace.clone(),
            http: service.ports.iter().any(|(_, kind)| *kind == PortKind::Http),
            opaque: service.ports.iter().any(|(_, kind)| *kind == PortKind::Opaque),
            ports: service.ports.clone(),
            hosts: service.hosts.clone(),
            lenient: service
                .routes
                .iter()
                .any(|route| route.spellings != Spellings::default()),
            routes: routes(service)?,
        };
        if self.services.insert(service.name.clone(), facts).is_some() {
            return Err(twice("service", &service.name));
        }
        self.namespaces.insert(namespace);
        for id in &service.spiffe_ids {
            self.identities.insert(id.to_string());
            self.trust_domains.insert(id.trust_domain_name().to_owned());
            if id.trust_domain_name() == self.trust_domain
                && let Some((ns, _)) = kubernetes_form(id)
            {
                self.namespaces.insert(ns.to_owned());
            }
        }
        Ok(())
    }

    fn add_group(&mut self, group: &GroupModel) -> Result<(), PolicyError> {
        label("group", &group.name)?;
        if self.groups.iter().any(|g| g.name == group.name) {
            return Err(twice("group", &group.name));
        }
        let mut patterns = Vec::new();
        for text in &group.patterns {
            let pattern = Pattern::parse(text).map_err(|problem| PolicyError::Pattern {
                group: group.name.clone(),
                pattern: text.clone(),
                problem,
            })?;
            self.trust_domains.insert(pattern.trust_domain.clone());
            if pattern.trust_domain == self.trust_domain
                && let [ns, name, ..] = pattern.segments.as_slice()
                && ns == "ns"
                && name != "*"
            {
                self.namespaces.insert(name.clone());
            }
            patterns.push(pattern);
        }
        self.groups.push(Group {
            name: group.name.clone(),
            patterns,
        });
        Ok(())
    }

    fn add_issuer(&mut self, issuer: &IssuerModel) -> Result<(), PolicyError> {
        label("issuer", &issuer.alias)?;
        self.issuers.push((issuer.alias.clone(), issuer.issuer.clone()));
        for role in &issuer.role_names {
            if role.is_empty() || role.chars().any(char::is_control) {
                return Err(bad("role", role, "is empty or holds a control character"));
            }
        }
        let roles = issuer.role_names.iter().cloned().collect();
        if self.roles.insert(issuer.alias.clone(), roles).is_some() {
            return Err(twice("issuer", &issuer.alias));
        }
        for (name, kind) in &issuer.claims {
            label("claim", name)?;
            if self
                .claims
                .insert(name.clone(), *kind)
                .is_some_and(|other| other != *kind)
            {
                return Err(PolicyError::ClaimType { name: name.clone() });
            }
        }
        Ok(())
    }

    /// The groups that a workload is in.
    pub(super) fn groups_of<'w>(&'w self, id: &'w SpiffeId) -> impl Iterator<Item = &'w Group> {
        self.groups
            .iter()
            .filter(|g| g.patterns.iter().any(|p| p.matches(id)))
    }

    /// Whether a workload of the own trust domain is one that the mesh file speaks of.
    pub(super) fn knows_workload(&self, id: &SpiffeId) -> bool {
        self.identities.contains(&id.to_string()) || self.groups_of(id).next().is_some()
    }
}

/// The namespace and service account of an ID of the form `/ns/NS/sa/SA`.
pub(super) fn kubernetes_form(id: &SpiffeId) -> Option<(&str, &str)> {
    let mut parts = id.path().split('/').skip(1);
    match (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) {
        (Some("ns"), Some(ns), Some("sa"), Some(sa), None) => Some((ns, sa)),
        _ => None,
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or("does not begin with `spiffe://`")?;
        let (domain, path) = rest
            .split_once('/')
            .ok_or("names no workload: a trust domain alone has no path")?;
        let trust_domain = trust_domain(domain).map_err(|e| e.to_string())?;
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let rest = segments.last().is_some_and(|s| s == "**");
        if rest {
            segments.pop();
        }
        if segments.iter().any(|s| s == "**") {
            return Err("`**` can only be the last segment".to_owned());
        }
        // What is left must be an ID once each `*` is a segment: the library's own rules for paths apply.
        let sample: Vec<&str> = segments.iter().map(|s| if s == "*" { "x" } else { s }).collect();
        let tail = if rest { vec!["x"] } else { Vec::new() };
        let id = format!("spiffe://{trust_domain}/{}", [sample, tail].concat().join("/"));
        SpiffeId::new(&id)
            .map_err(|e| format!("{e} (`*` stands for a whole segment, a last `**` for the rest)"))?;
        Ok(Self {
            trust_domain,
            segments,
            rest,
        })
    }

    fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain_name() != self.trust_domain {
            return false;
        }
        let mut parts = id.path().split('/').skip(1);
        for segment in &self.segments {
            match parts.next() {
                Some(part) if segment == "*" || segment == part => {}
                _ => return false,
            }
        }
        parts.next().is_some() == self.rest
    }
}

/// The routes of a service, no two of them ambiguous.
fn routes(service: &ServiceModel) -> Result<Vec<Route>, PolicyError> {
    let fail = |route: &str, problem: String| PolicyError::Route {
        service: service.name.clone(),
        route: route.to_owned(),
        problem,
    };
    if service.routes.len() > MAX_ROUTES {
        return Err(fail("*", format!("more than {MAX_ROUTES} routes")));
    }
    let mut routes: Vec<Route> = Vec::new();
    for model in &service.routes {
        let route = route(service, model).map_err(|problem| fail(&model.name, problem))?;
        for (other, first) in routes.iter().zip(&service.routes) {
            if first.name == model.name {
                return Err(fail(&model.name, "is declared twice".to_owned()));
            }
            let shared = route
                .methods
                .iter()
                .find(|m| other.methods.iter().any(|o| o.method == m.method));
            if let Some(method) = shared
                && let Some(example) = other.template.ambiguous_with(&route.template)
            {
                return Err(PolicyError::Ambiguous {
                    service: service.name.clone(),
                    first: first.name.clone(),
                    second: model.name.clone(),
                    method: method.method.clone(),
                    example,
                });
            }
        }
        routes.push(route);
    }
    if !routes.is_empty() && !service.ports.iter().any(|(_, kind)| *kind == PortKind::Http) {
        return Err(fail("*", "the service has routes but no http port".to_owned()));
    }
    Ok(routes)
}

fn route(service: &ServiceModel, model: &RouteModel) -> Result<Route, String> {
    if !is_plain(&model.name) {
        return Err("the name is not of letters, digits, `-`, `_`, `.`".to_owned());
    }
    let action = format!("{}#{}", service.name, model.name);
    let distinct: BTreeSet<&String> = model.methods.iter().collect();
    if distinct.is_empty() || distinct.len() != model.methods.len() {
        return Err("needs at least one method, and each once".to_owned());
    }
    let mut methods = Vec::new();
    for method in &model.methods {
        if method.is_empty()
            || method == "CONNECT"
            || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
        {
            return Err(format!(
                "method `{method}` is not one that a route can have (upper case, not CONNECT)"
            ));
        }
        methods.push(RouteMethod {
            method: method.clone(),
            parent: method_action(method),
            action: if model.methods.len() == 1 {
                action.clone()
            } else {
                format!("{action}:{method}")
            },
        });
    }
    Ok(Route {
        action,
        methods,
        template: Template::parse(&model.path)?,
    })
}

/// A trust domain in its only spelling.
fn trust_domain(name: &str) -> Result<String, PolicyError> {
    match TrustDomain::new(name) {
        Ok(domain) if domain.as_str() == name => Ok(domain.as_str().to_owned()),
        _ => Err(bad(
            "trust domain",
            name,
            "is not one (lower case letters, digits, `.`, `-`, `_`)",
        )),
    }
}

/// A name that becomes part of an entity's id or an attribute.
fn label(what: &'static str, name: &str) -> Result<(), PolicyError> {
    if is_plain(name) || is_identifier(name) {
        Ok(())
    } else {
        Err(bad(what, name, "is not of letters, digits, `-`, `_`, `.`"))
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn bad(what: &'static str, name: &str, problem: &'static str) -> PolicyError {
    PolicyError::Name {
        what,
        name: name.to_owned(),
        problem,
    }
}

fn twice(what: &'static str, name: &str) -> PolicyError {
    PolicyError::Twice {
        what,
        name: name.to_owned(),
    }
}
