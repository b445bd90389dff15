//! What to do about a decision, in words.

use super::super::facts::Reason;
use super::view::{Clause, Effect, Explanation, Judged, Nearest, State};

/// The facts do not fit the schema.
pub(super) fn misfit() -> String {
    "the request does not fit the mesh file (a claim of another type than declared, say), and is denied for that"
        .to_owned()
}

/// Of a decision as far as it is told.
pub(super) fn of(reason: Reason, told: &Explanation) -> String {
    match reason {
        Reason::Allowed => format!("allowed by {}", told.rules.join(", ")),
        Reason::Forbidden => forbidden(told),
        _ if super::is_error(reason) => failed(told),
        Reason::NoPolicies => {
            "no policies are loaded: `hopguard policy check` says what is wrong with them".to_owned()
        }
        Reason::UserRequired => {
            let rule = told.nearest.as_ref().map_or("", |nearest| &nearest.rule);
            format!(
                "send a user's token (`authorization: Bearer ...`): `{rule}` needs nothing but a user that fits"
            )
        }
        _ => nearest(told),
    }
}

fn made_by(told: &Explanation) -> impl Iterator<Item = &Judged> {
    told.considered
        .iter()
        .filter(|judged| judged.effect == Effect::Forbid && told.rules.contains(&judged.id))
}

fn forbidden(told: &Explanation) -> String {
    let Some(rule) = made_by(told).next() else {
        return "a policy forbids it, and a forbid wins over every permit".to_owned();
    };
    let why = rule.reason.clone().unwrap_or_else(|| {
        let clauses: Vec<&str> = rule.clauses.iter().map(|clause| clause.text.as_str()).collect();
        if clauses.is_empty() {
            "by its scope alone".to_owned()
        } else {
            clauses.join("; ")
        }
    });
    // What an `unless` would have needed lifts it.
    let lifted: Vec<String> = rule.clauses.iter().flat_map(lifts).collect();
    let lifted = if lifted.is_empty() {
        "no permit helps".to_owned()
    } else {
        format!("what would lift it: {}", lifted.join("; "))
    };
    format!(
        "`{}` forbids it ({}:{}): {why}; a forbid wins over every permit, {lifted}",
        rule.id, rule.file, rule.line
    )
}

fn lifts(clause: &Clause) -> Vec<String> {
    let failing = clause.parts.iter().filter(|part| part.state == State::False);
    failing.filter_map(|part| part.note.clone()).collect()
}

fn failed(told: &Explanation) -> String {
    match made_by(told).next() {
        Some(rule) => format!(
            "`{}` is a forbid that cannot be evaluated here, and so denies: correct {}:{}",
            rule.id, rule.file, rule.line
        ),
        None => misfit(),
    }
}

fn nearest(told: &Explanation) -> String {
    match &told.nearest {
        None => format!(
            "no permit is about {} on {}: write one, and see `hopguard can` before it is loaded",
            told.action, told.service
        ),
        Some(near) if near.scope_matched => format!(
            "nearest is `{}` ({}:{}): {}",
            near.rule,
            near.file,
            near.line,
            near.needs.join("; ")
        ),
        Some(near) => format!(
            "no permit fits caller, action and service; nearest is `{}` ({}:{}): {}{}",
            near.rule,
            near.file,
            near.line,
            near.needs.join("; "),
            means(near)
        ),
    }
}

fn means(near: &Nearest) -> String {
    near.reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(" ({reason})"))
}
