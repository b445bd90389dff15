//! The Cedar schema of a mesh: a fixed part and a part generated from the model enter one text. Nothing that policies can
//! name is missing from it, and nothing is in it that a decision never sets.

use std::fmt::Write;

use super::model::{ClaimKind, Model, PolicyError};
use super::world::{METHODS, World};

/// The same for every mesh.
const FIXED: &str = r#"// The peer: always there, proven by its certificate, or Plaintext when it has none.
entity TrustDomain;
entity Namespace in [TrustDomain];
entity Group;
entity Workload in [Namespace, Group, TrustDomain] {
  trust_domain: String, path: String, ns?: String, sa?: String,
};
entity Plaintext enum ["plaintext"];
// The service that is called.
entity Service in [Namespace, TrustDomain];
// The user that a token proves: never merged with the peer, and often absent. Who acts for the user (RFC 8693) is one
// too, of whom the token proves no more than the name.
entity Role;
entity User in [Role] {
  issuer: String, sub: String, aud: Set<String>, scope: Set<String>,
  azp?: String, acr?: String, amr: Set<String>, auth_time?: datetime, exp: datetime,
  claims: Claims,
};
"#;

/// The attributes of a request's context, without the parameters of a route.
const HTTP: &str = "path: String, host: String, port: Long, tls: Bool, src_ip: ipaddr, now: datetime, \
headers: Headers, user?: User, actor?: User";
const CONNECT: &str = "port: Long, tls: Bool, src_ip: ipaddr, now: datetime";

/// The schema of a mesh, as Cedar text.
///
/// # Errors
/// What is wrong with the model.
pub fn schema(model: &Model) -> Result<String, PolicyError> {
    Ok(text(&World::new(model)?))
}

/// The schema of a checked model.
pub(super) fn text(world: &World) -> String {
    let mut out = FIXED.to_owned();
    let claims = world
        .claims
        .iter()
        .map(|(name, kind)| (name.as_str(), type_of(*kind)));
    let headers = world.headers.iter().map(|name| (name.as_str(), "Set<String>"));
    let _ = writeln!(out, "type Claims = {};", record(claims, "?"));
    let _ = writeln!(out, "type Headers = {};", record(headers, "?"));
    let _ = writeln!(out, "action \"http\";\naction \"read\", \"write\" in [\"http\"];");
    for (method, group) in METHODS {
        let _ = writeln!(out, "action \"{method}\" in [\"{group}\"]{}", applies(HTTP));
    }
    let _ = writeln!(out, "action \"connect\"{}", applies(CONNECT));
    for route in world.services.values().flat_map(|service| &service.routes) {
        let params = record(route.template.params().map(|name| (name, "String")), "");
        let context = format!("{HTTP}, params: {params}");
        if route.methods.len() > 1 {
            let _ = writeln!(out, "action {};", quoted(&route.action));
        }
        for method in &route.methods {
            let parents = if route.methods.len() > 1 {
                format!("{}, \"{}\"", quoted(&route.action), method.parent)
            } else {
                format!("\"{}\"", method.parent)
            };
            let _ = writeln!(
                out,
                "action {} in [{parents}]{}",
                quoted(&method.action),
                applies(&context)
            );
        }
    }
    out
}

fn applies(context: &str) -> String {
    format!(
        "\n  appliesTo {{ principal: [Workload, Plaintext], resource: [Service],\n    context: {{ {context} }} }};"
    )
}

fn record<'n>(fields: impl Iterator<Item = (&'n str, &'static str)>, optional: &str) -> String {
    let fields: Vec<String> = fields
        .map(|(name, kind)| format!("{}{optional}: {kind}", quoted(name)))
        .collect();
    format!("{{ {} }}", fields.join(", "))
}

fn type_of(kind: ClaimKind) -> &'static str {
    match kind {
        ClaimKind::String => "String",
        ClaimKind::Strings => "Set<String>",
        ClaimKind::Long => "Long",
        ClaimKind::Bool => "Bool",
    }
}

/// A Cedar string literal. `world` lets no name through that needs an escape; this is the second wall.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}
