//! What is not wrong but never happens: a policy that compares with a text or number which what it compares can never be. It
//! is silent, so a permit opens nothing and a forbid protects nothing. A policy enters, warnings leave.

use std::collections::BTreeSet;

use cedar_policy::ActionConstraint;
use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, Policy as Syntax};

use super::expr::chain;
use super::model::PortKind;
use super::parse::{Parsed, Source, Wrong};
use super::problem::Problems;
use super::route::canonical_escapes;
use super::rules::{fits, nearest};
use super::world::{ServiceFacts, World};
use crate::request::{Head, Limits, Spellings, parse_head};

/// A comparison of an attribute with a literal.
enum Compared {
    /// Of an attribute, by its chain from the variable.
    Text(Vec<String>, String),
    /// The same of a number.
    Number(Vec<String>, i64),
    /// `context.actor in Role::".."`: the role.
    ActorsRole(String),
}

/// Looks at one policy.
pub(super) fn look(world: &World, source: &Source<'_>, parsed: &Parsed, found: &mut Problems) {
    let Ok(Syntax::Static(policy)) = parsed.policy.to_pst() else {
        return;
    };
    let mut compared = Vec::new();
    for clause in policy.body().clauses() {
        match clause {
            Clause::When(expr) | Clause::Unless(expr) => walk(expr, &mut compared),
        }
    }
    if compared.is_empty() {
        return;
    }
    let constraint = parsed.policy.resource_constraint();
    let services: Vec<&ServiceFacts> = world
        .services
        .iter()
        .filter(|(name, service)| fits(&constraint, world, name, service))
        .map(|(_, service)| service)
        .collect();
    for one in &compared {
        let wrong = match one {
            Compared::Text(of, text) => never_text(world, &services, of, text),
            Compared::Number(of, number) => never_number(&services, parsed, of, *number),
            Compared::ActorsRole(_) => Some(actors_role()),
        };
        if let Some(wrong) = wrong {
            let place = place(source, parsed, one);
            source.problem(found, parsed.file, place, wrong);
        }
    }
}

/// Where the literal stands.
fn place(source: &Source<'_>, parsed: &Parsed, one: &Compared) -> super::problem::Span {
    let word = match one {
        Compared::Text(_, text) | Compared::ActorsRole(text) => format!("\"{text}\""),
        Compared::Number(_, number) => number.to_string(),
    };
    let scan = source.scan(parsed.file);
    let place = scan.and_then(|scan| scan.find(parsed.span, &word));
    place.unwrap_or(parsed.span)
}

fn walk(expr: &Expr, found: &mut Vec<Compared>) {
    match expr {
        Expr::BinaryOp { op, left, right } => {
            match op {
                BinaryOp::Eq | BinaryOp::NotEq => {
                    pair(left, right, found);
                    pair(right, left, found);
                }
                // `["a", "b"].contains(context.path)`.
                BinaryOp::Contains => pair(right, left, found),
                BinaryOp::In if chain(left) == ["context", "actor"] => roles(right, found),
                _ => {}
            }
            walk(left, found);
            walk(right, found);
        }
        Expr::UnaryOp { expr, .. } => walk(expr, found),
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => [cond, then_expr, else_expr]
            .into_iter()
            .for_each(|one| walk(one, found)),
        _ => {}
    }
}

/// An attribute and the literal, or literals, beside it.
fn pair(attribute: &Expr, literal: &Expr, found: &mut Vec<Compared>) {
    match literal {
        Expr::Literal(Literal::String(text)) => {
            found.push(Compared::Text(chain(attribute), text.to_string()));
        }
        Expr::Literal(Literal::Long(number)) => found.push(Compared::Number(chain(attribute), *number)),
        Expr::Set(items) => items.iter().for_each(|item| pair(attribute, item, found)),
        _ => {}
    }
}

fn roles(expr: &Expr, found: &mut Vec<Compared>) {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) if uid.ty.to_string() == "Role" => {
            found.push(Compared::ActorsRole(uid.eid.to_string()));
        }
        Expr::Set(items) => items.iter().for_each(|item| roles(item, found)),
        _ => {}
    }
}

fn never_text(world: &World, services: &[&ServiceFacts], of: &[String], text: &str) -> Option<Wrong> {
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    match of.as_slice() {
        ["context", "path"] => path(services, text),
        ["context", "host"] => host(services, text),
        ["context", "user" | "actor", "issuer"] => issuer(world, text),
        ["context", "params", name] if text.is_empty() => Some((
            format!(
                "`context.params.{name}` is never \"\": a parameter stands for a segment that is not empty"
            ),
            Some("declare a route without the parameter for the path without it".to_owned()),
        )),
        _ => None,
    }
}

fn never_number(services: &[&ServiceFacts], parsed: &Parsed, of: &[String], number: i64) -> Option<Wrong> {
    if of != ["context", "port"] {
        return None;
    }
    let (http, opaque) = match parsed.policy.action_constraint() {
        ActionConstraint::Any => (true, true),
        ActionConstraint::Eq(uid) => kinds([uid.id().unescaped()]),
        ActionConstraint::In(uids) => kinds(uids.iter().map(|uid| uid.id().unescaped())),
    };
    let wanted = |kind: PortKind| match kind {
        PortKind::Http => http,
        PortKind::Opaque => opaque,
    };
    let ports = services.iter().flat_map(|service| &service.ports);
    let fitting: BTreeSet<u16> = ports
        .clone()
        .filter(|(_, kind)| wanted(*kind))
        .map(|(port, _)| *port)
        .collect();
    if fitting.is_empty() || fitting.iter().any(|port| i64::from(*port) == number) {
        return None;
    }
    let other = ports.clone().find(|(port, _)| i64::from(*port) == number);
    let why = match other {
        Some((_, PortKind::Http)) => "it is an http port, and the policy is about connections to opaque ones",
        Some((_, PortKind::Opaque)) => "it is an opaque port, and the policy is about HTTP",
        None => "no service that the policy is about has that port",
    };
    let all: Vec<String> = fitting.iter().take(8).map(u16::to_string).collect();
    Some((
        format!("`context.port` is never {number} here: {why}"),
        Some(format!("the ports that it can be: {}", all.join(", "))),
    ))
}

/// Whether actions are about HTTP, and about connections.
fn kinds<'a>(ids: impl IntoIterator<Item = &'a str>) -> (bool, bool) {
    ids.into_iter()
        .fold((false, false), |(http, opaque), id| match id {
            "connect" => (http, true),
            _ => (true, opaque),
        })
}

fn actors_role() -> Wrong {
    (
        "an actor is in no role: a token says the roles of its user, and of who acts for the user the name alone".to_owned(),
        Some("name the actor, as `context.actor == User::\"alias|subject\"`, or ask for a role of `context.user`".to_owned()),
    )
}

fn issuer(world: &World, text: &str) -> Option<Wrong> {
    if world.issuers.iter().any(|(_, issuer)| issuer == text) {
        return None;
    }
    let hint = match world.issuers.iter().find(|(alias, _)| alias == text) {
        Some((alias, issuer)) => format!("`{alias}` is its alias; write \"{issuer}\""),
        None => {
            let known: Vec<&str> = world.issuers.iter().map(|(_, issuer)| issuer.as_str()).collect();
            nearest(text, &known).unwrap_or_else(|| "name an issuer of the mesh file by its URL".to_owned())
        }
    };
    Some((
        format!("no user is of the issuer \"{text}\": the mesh file has no such `issuer`"),
        Some(hint),
    ))
}

fn path(services: &[&ServiceFacts], text: &str) -> Option<Wrong> {
    let method = if text == "*" { "OPTIONS" } else { "GET" };
    // Where some route allows other spellings, a path that is refused elsewhere may come.
    let lenient = services.iter().any(|service| service.lenient);
    let read = |path: &str| {
        let head = read(method, path, "x")?;
        let strict = head.spelled(|_| None::<()>, |()| Spellings::default());
        match strict {
            Err(refusal) if !lenient => Err(refusal.detail),
            _ => Ok(head),
        }
    };
    let (why, normal) = match read(text) {
        Ok(head) => {
            let can = |path: &str| canonical_escapes(path) == text;
            if can(&head.path) || head.bare_path.as_deref().is_some_and(can) {
                return None;
            }
            let path = canonical_escapes(&head.path).into_owned();
            (format!("such a request is decided on as \"{path}\""), path)
        }
        Err(detail) => {
            let escaped = text.replace(' ', "%20");
            let escaped = if escaped.starts_with('/') {
                escaped
            } else {
                format!("/{escaped}")
            };
            let good = read(&escaped).is_ok();
            let why = format!("a request for it is refused ({detail})");
            (why, if good { escaped } else { "/a/path".to_owned() })
        }
    };
    Some((
        format!("`context.path` is never \"{}\": {why}", text.escape_debug()),
        Some(format!(
            "write it as requests are decided on, \"{normal}\": from the first `/`, without query, its other characters escaped"
        )),
    ))
}

fn host(services: &[&ServiceFacts], text: &str) -> Option<Wrong> {
    let shown = text.escape_debug();
    let (why, hint) = match read("GET", "/", text) {
        Err(detail) => (format!("it is no host ({detail})"), None),
        Ok(head) if head.host != text => (
            "a host is compared in lower case, without port and last dot".to_owned(),
            Some(format!("write \"{}\"", head.host)),
        ),
        Ok(head) => {
            // Addresses are answered to as well, and nobody lists those of each pod.
            let address = head.host.starts_with('[') || head.host.parse::<std::net::IpAddr>().is_ok();
            let mut known = services.iter().flat_map(|service| &service.hosts);
            let open = services.iter().any(|service| service.hosts.is_empty());
            if address || open || known.any(|host| host == text) {
                return None;
            }
            let known: Vec<&str> = services
                .iter()
                .flat_map(|service| &service.hosts)
                .map(String::as_str)
                .collect();
            (
                "no service that the policy is about answers to it".to_owned(),
                nearest(text, &known),
            )
        }
    };
    let hint = hint.unwrap_or_else(|| "write one of the `hosts` of the service in the mesh file".to_owned());
    Some((format!("`context.host` is never \"{shown}\": {why}"), Some(hint)))
}

/// A request as the sidecar would read it.
fn read(method: &str, path: &str, host: &str) -> Result<Head, String> {
    if [path, host].iter().any(|text| text.chars().any(char::is_control)) {
        return Err("it holds a control character".to_owned());
    }
    let text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    match parse_head(text.as_bytes(), &Limits::default()) {
        Ok(Some(head)) if head.len == text.len() => Ok(head),
        Ok(_) => Err("it is no request".to_owned()),
        Err(refusal) => Err(refusal.detail),
    }
}
