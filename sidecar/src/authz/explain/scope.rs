//! The scope of a permit against a request: which of its three parts miss, judged by Cedar.

use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, EvalResult, Expression, Policy, PrincipalConstraint, ResourceConstraint,
};

use super::super::index::Origin;
use super::view::{Explanation, Miss, Part, State};
use super::words::Seen;

/// The parts of a permit's scope that miss, with how far that is; `None` when none does, or it cannot be read.
pub(super) fn miss(id: &str, origin: &Origin, seen: &Seen<'_>, told: &Explanation) -> Option<(usize, Miss)> {
    let policy = Policy::parse(None, &*origin.text).ok()?;
    let mut parts = Vec::new();
    let mut distance = 0;
    let mut part = |text: Option<String>, weight: usize, note: &dyn Fn() -> String| {
        let Some(text) = text else { return };
        let holds = Expression::from_str(&text).map(|expression| seen.value(&expression));
        if matches!(holds, Ok(Ok(EvalResult::Bool(true)))) {
            return;
        }
        distance += weight;
        parts.push(Part {
            text,
            state: State::False,
            note: Some(note()),
        });
    };
    // Another caller, then another service, then another action: that is how often people mean what they wrote.
    part(principal(&policy), 4, &|| peer(told));
    part(action(&policy), 6, &|| asked(told));
    part(resource(&policy), 5, &|| format!("this is {}", told.service));
    if parts.is_empty() {
        return None;
    }
    Some((
        distance,
        Miss {
            id: id.to_owned(),
            file: origin.file.to_string(),
            line: origin.line,
            reason: origin.reason.as_deref().map(str::to_owned),
            parts,
        },
    ))
}

fn principal(policy: &Policy) -> Option<String> {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => None,
        PrincipalConstraint::Eq(uid) => Some(format!("principal == {uid}")),
        PrincipalConstraint::In(uid) => Some(format!("principal in {uid}")),
        PrincipalConstraint::Is(kind) => Some(format!("principal is {kind}")),
        PrincipalConstraint::IsIn(kind, uid) => Some(format!("principal is {kind} in {uid}")),
    }
}

fn action(policy: &Policy) -> Option<String> {
    match policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(uid) => Some(format!("action == {uid}")),
        ActionConstraint::In(uids) => match uids.as_slice() {
            [one] => Some(format!("action in {one}")),
            many => {
                let many: Vec<String> = many.iter().map(ToString::to_string).collect();
                Some(format!("action in [{}]", many.join(", ")))
            }
        },
    }
}

fn resource(policy: &Policy) -> Option<String> {
    match policy.resource_constraint() {
        ResourceConstraint::Any => None,
        ResourceConstraint::Eq(uid) => Some(format!("resource == {uid}")),
        ResourceConstraint::In(uid) => Some(format!("resource in {uid}")),
        ResourceConstraint::Is(kind) => Some(format!("resource is {kind}")),
        ResourceConstraint::IsIn(kind, uid) => Some(format!("resource is {kind} in {uid}")),
    }
}

fn peer(told: &Explanation) -> String {
    match told.groups.as_slice() {
        _ if told.peer == "plaintext" => "the peer showed no certificate".to_owned(),
        [] => format!("the peer is {}, in no group", told.peer),
        groups => format!("the peer is {}, in {}", told.peer, groups.join(", ")),
    }
}

fn asked(told: &Explanation) -> String {
    match &told.route {
        Some(route) => format!("the request is the route {route}"),
        None => format!("the action is {}", told.action),
    }
}
