//! What other programs need to reason about a set: the mesh and the policies enter, one JSON document leaves. With the
//! schema it says everything that a decision takes from configuration; nothing is decided here.

use serde_json::{Map, Value, json};
use spiffe::SpiffeId;

use super::model::{ClaimKind, IssuerModel, Model, PortKind, ServiceModel};
use super::parse::Parsings;
use super::world::{METHODS, Route, World, kubernetes_form};

/// The facts of a mesh and its set. Ids are those of the schema's entities.
pub(super) fn facts(model: &Model, world: &World, set: &Parsings, version: &str) -> Value {
    let ids = |shadow: bool| -> Vec<&String> {
        let of = set
            .iter()
            .filter(|(_, parsed)| parsed.policy.annotation("mode").is_some() == shadow);
        of.map(|(id, _)| id).collect()
    };
    let groups = model
        .groups
        .iter()
        .map(|group| (group.name.clone(), json!(group.patterns)));
    let namespaces = world
        .namespaces
        .iter()
        .map(|name| (name.clone(), json!({"trust_domain": world.trust_domain})));
    json!({
        "trust_domain": world.trust_domain,
        "trust_domains": world.trust_domains,
        "namespaces": namespaces.collect::<Map<_, _>>(),
        "services": model.services.iter().map(|of| (of.name.clone(), service(of, world))).collect::<Map<_, _>>(),
        "workloads": workloads(model, world),
        "groups": groups.collect::<Map<_, _>>(),
        "plaintext": "plaintext",
        "issuers": issuers(model),
        "roles": model.issuers.iter().flat_map(|issuer| {
            issuer.role_names.iter().map(|role| format!("{}|{role}", issuer.alias))
        }).collect::<Vec<_>>(),
        "headers": world.headers,
        "actions": actions(),
        "port": ports(model),
        "policies": {"version": version, "in_force": ids(false), "shadow": ids(true)},
    })
}

fn service(model: &ServiceModel, world: &World) -> Value {
    let ports = |kind: PortKind| -> Vec<u16> {
        let of = model.ports.iter().filter(|(_, of)| *of == kind);
        of.map(|(port, _)| *port).collect()
    };
    let facts = world.services.get(&model.name);
    json!({
        "namespace": facts.map(|facts| &facts.namespace),
        "trust_domain": world.trust_domain,
        "http_ports": ports(PortKind::Http),
        "opaque_ports": ports(PortKind::Opaque),
        "spiffe_ids": model.spiffe_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "routes": facts.into_iter().flat_map(|facts| &facts.routes).zip(&model.routes)
            .map(|(facts, model)| route(facts, &model.path)).collect::<Vec<_>>(),
    })
}

/// A route, and the action of each of its methods.
fn route(route: &Route, path: &str) -> Value {
    let methods = route
        .methods
        .iter()
        .map(|method| json!({"method": method.method, "action": method.action, "in": method.parent}));
    json!({
        "action": route.action,
        "path": path,
        "params": route.template.params().collect::<Vec<_>>(),
        "methods": methods.collect::<Vec<_>>(),
    })
}

/// Every workload that the mesh file names, with its ancestors.
fn workloads(model: &Model, world: &World) -> Map<String, Value> {
    let all = model.services.iter().flat_map(|service| &service.spiffe_ids);
    let one = |id: &SpiffeId| {
        // A workload of another trust domain is in no namespace of ours, whatever its path says.
        let form = kubernetes_form(id).filter(|_| id.trust_domain_name() == world.trust_domain);
        let namespace = form.map(|(namespace, _)| namespace);
        let groups = world.groups_of(id).map(|group| group.name.as_str());
        let facts = json!({
            "trust_domain": id.trust_domain_name(),
            "namespace": namespace,
            "groups": groups.collect::<Vec<_>>(),
        });
        (id.to_string(), facts)
    };
    all.map(one).collect()
}

fn issuers(model: &Model) -> Map<String, Value> {
    let one = |issuer: &IssuerModel| {
        let claims = issuer.claims.iter().map(|(name, kind)| {
            let kind = match kind {
                ClaimKind::String => "String",
                ClaimKind::Strings => "Set<String>",
                ClaimKind::Long => "Long",
                ClaimKind::Bool => "Bool",
            };
            (name.clone(), json!(kind))
        });
        let facts = json!({"roles": issuer.role_names, "claims": claims.collect::<Map<_, _>>()});
        (issuer.alias.clone(), facts)
    };
    model.issuers.iter().map(one).collect()
}

/// The methods that have an action of their own; `OTHER` stands for every other one.
fn actions() -> Map<String, Value> {
    let methods = METHODS
        .iter()
        .map(|(method, group)| ((*method).to_owned(), json!({"in": [group, "http"]})));
    methods
        .chain([("connect".to_owned(), json!({"in": []}))])
        .collect()
}

fn ports(model: &Model) -> Value {
    let mut declared: Vec<u16> = model
        .services
        .iter()
        .flat_map(|service| service.ports.iter().map(|(port, _)| *port))
        .collect();
    declared.sort_unstable();
    declared.dedup();
    json!({"min": 1, "max": u16::MAX, "declared": declared})
}
