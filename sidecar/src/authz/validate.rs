//! Cedar's strict validation: a schema and a set enter, what Cedar finds wrong leaves, warnings included, said once and
//! with hints in hopguard's terms. It overrules nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cedar_policy::{
    ActionConstraint, PolicyId, PolicySet, PrincipalConstraint, Schema, ValidationMode, ValidationWarning,
    Validator,
};
use miette::Diagnostic;

use super::parse::{Parsed, Parsings, Source, Wrong, said};
use super::problem::{Problems, Span};

/// Where a message names an action, while messages that differ by nothing else are brought together.
const ACTION: &str = "\u{0}";

/// Cedar tells a fault once for each action that the policy is about; here once, with one of them.
type Told = BTreeMap<(usize, Span, Wrong), BTreeSet<String>>;

/// Validates the whole set.
pub(super) fn validate(source: &Source<'_>, schema: &Schema, set: &Parsings, problems: &mut Problems) {
    let all = match PolicySet::from_policies(set.values().map(|parsed| parsed.policy.clone())) {
        Ok(all) => all,
        Err(error) => return problems.whole(PathBuf::new(), error.to_string(), None),
    };
    let result = Validator::new(schema.clone()).validate(&all, ValidationMode::Strict);
    let mut told = Told::new();
    let mut faulty: BTreeSet<&PolicyId> = BTreeSet::new();
    for error in result.validation_errors() {
        faulty.insert(error.policy_id());
        tell(&mut told, set, error.policy_id(), error);
    }
    // That a policy fits no action has often a reason that we can name; that it never matches follows from either, and
    // from other faults, and is then not said beside them.
    let mut idle: BTreeMap<&PolicyId, &ValidationWarning> = BTreeMap::new();
    for warning in result.validation_warnings() {
        let id = warning.policy_id();
        match warning {
            ValidationWarning::InvalidActionApplication(_) => {
                idle.insert(id, warning);
            }
            ValidationWarning::ImpossiblePolicy(_) => {
                idle.entry(id).or_insert(warning);
            }
            _ => {
                faulty.insert(id);
                tell(&mut told, set, id, warning);
            }
        }
    }
    for (id, warning) in idle {
        let parsed = match warning {
            ValidationWarning::InvalidActionApplication(_) => set.get(id.as_ref() as &str),
            _ => None,
        };
        match parsed.and_then(|parsed| inapplicable(parsed, source)) {
            Some((file, span, wrong)) => {
                told.entry((file, span, wrong)).or_default();
            }
            None if !faulty.contains(id) => tell(&mut told, set, id, warning),
            None => {}
        }
    }
    for ((file, span, (message, hint)), actions) in told {
        let named = actions.first().map(|first| match actions.len() {
            1 => first.clone(),
            count => format!("{first} and {} more", count - 1),
        });
        let message = message.replacen(ACTION, &named.unwrap_or_default(), 1);
        source.problem(problems, file, span, (message, hint));
    }
}

fn tell(told: &mut Told, set: &Parsings, id: &PolicyId, found: &dyn Diagnostic) {
    let id: &str = id.as_ref();
    let Some(parsed) = set.get(id) else {
        return; // only policies of the set were validated
    };
    let (span, (message, hint)) = said(found);
    // The place says which policy; Cedar's way of saying it too would come twice.
    let plain = |text: String| {
        let text = text.replace(&format!("for policy `{id}`, "), "");
        text.replace(&format!("for policy `{id}`: "), "")
            .replace("``", "`")
    };
    let (message, action) = split_action(&plain(message));
    let place = (
        parsed.file,
        span.unwrap_or(parsed.span),
        (message, hint.map(plain)),
    );
    told.entry(place).or_default().extend(action);
}

/// Why a policy fits no action at all, where the reason is a usual one.
fn inapplicable(parsed: &Parsed, source: &Source<'_>) -> Option<(usize, Span, Wrong)> {
    let at = |word: &str, message: String, hint: String| {
        let found = source
            .scan(parsed.file)
            .and_then(|scan| scan.find(parsed.span, word));
        Some((parsed.file, found.unwrap_or(parsed.span), (message, Some(hint))))
    };
    let principal = match parsed.policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) => Some(uid.type_name().to_string()),
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => Some(kind.to_string()),
        PrincipalConstraint::Any => None,
    };
    if principal.is_some_and(|kind| kind == "User" || kind == "Role") {
        let hint = "the principal is the calling workload; write `when { context has user && \
                    context.user in Role::\"ALIAS|ROLE\" }`";
        return at(
            "principal",
            "a user is never the principal".to_owned(),
            hint.to_owned(),
        );
    }
    let ActionConstraint::Eq(uid) = parsed.policy.action_constraint() else {
        return None;
    };
    let id = uid.id().unescaped();
    if !matches!(id, "http" | "read" | "write") && !id.contains('#') {
        return None;
    }
    let message = format!("`action == {uid}` never matches: it stands for several actions");
    at("action", message, format!("write `action in {uid}`"))
}

/// The first action that a message names, apart from the message.
fn split_action(message: &str) -> (String, Option<String>) {
    let parts = message.split_once("Action::\"").and_then(|(before, rest)| {
        let (id, after) = rest.split_once('"')?;
        Some((format!("{before}{ACTION}{after}"), format!("Action::\"{id}\"")))
    });
    match parts {
        Some((message, action)) => (message, Some(action)),
        None => (message.to_owned(), None),
    }
}
