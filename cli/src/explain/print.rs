//! How an explanation looks in a terminal: values enter, lines leave. It decides nothing.

use hopguard_sidecar::authz::{Clause, Effect, Explanation, Judged, Miss, State, Word};
use hopguard_sidecar::tools::Explained;
use serde_json::Value;

use crate::ui::Ui;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// How many policies are told beside the nearest.
const MOST: usize = 20;

/// A refusal.
pub fn explained(explained: &Explained, ui: &Ui) {
    if ui.is_json() {
        return ui.json(explained);
    }
    let status = explained
        .status
        .map(|status| format!("{status} "))
        .unwrap_or_default();
    let what = explained
        .request
        .clone()
        .unwrap_or_else(|| explained.kind.clone());
    let (color, verdict) = if explained.verdict == "allow" {
        (YELLOW, "let in, then ended")
    } else {
        (RED, "refused")
    };
    let verdict = ui.paint(color, verdict);
    ui.line(format!("{verdict}: {status}{}  {what}", explained.reason));
    fact(ui, "at", &format!("{}, {}", explained.at, explained.direction));
    let peer = explained
        .peer
        .as_deref()
        .unwrap_or("no workload identity was proven");
    fact(ui, "peer", &format!("{peer}  ({})", explained.peer_address));
    fact(ui, "user", &user(explained));
    fact(ui, "called", &explained.called);
    if let Some(detail) = &explained.detail {
        fact(ui, "detail", detail);
    }
    fact(ui, "policies", &format!("version {}", explained.policy_version));
    if let Some(inputs) = &explained.inputs {
        fact(ui, "read", &inputs.to_string());
    }
    if let Some(told) = &explained.decision {
        decision(told, ui);
    } else {
        ui.line("  no policy was asked");
    }
    for note in &explained.notes {
        ui.line(format!("  {} {note}", ui.paint(YELLOW, "note:")));
    }
    hint(&explained.hint, ui);
}

/// What to do.
pub fn hint(hint: &str, ui: &Ui) {
    ui.line(format!("  {} {hint}", ui.paint(BOLD, "hint:")));
}

/// One fact.
pub fn fact(ui: &Ui, name: &str, value: &str) {
    ui.line(format!("  {} {value}", ui.paint(DIM, &format!("{name:<9}"))));
}

fn user(explained: &Explained) -> String {
    let Some(user) = &explained.user else {
        return "none: no token proved one, or records do not show users".to_owned();
    };
    let text = |field: &str| user.get(field).and_then(Value::as_str);
    let name = text("sub").or_else(|| text("hash")).unwrap_or("?");
    let mut said = format!("{name} of {}", text("iss").unwrap_or("?"));
    if let Some(client) = text("client_id") {
        said.push_str(&format!(", through {client}"));
    }
    let actors = user.get("act").and_then(Value::as_array);
    for actor in actors.into_iter().flatten() {
        let field = |name: &str| actor.get(name).and_then(Value::as_str);
        said.push_str(&format!(
            ", acted for by {}",
            field("sub").or_else(|| field("hash")).unwrap_or("?")
        ));
    }
    said
}

/// A decision, policy by policy, the nearest first.
pub fn decision(told: &Explanation, ui: &Ui) {
    let nearest = told.nearest.as_ref().map(|nearest| nearest.rule.as_str());
    let is_nearest = |judged: &&Judged| Some(judged.id.as_str()) == nearest;
    if let Some(judged) = told.considered.iter().find(is_nearest) {
        ui.line(format!("  {}", ui.paint(BOLD, "nearest")));
        policy(judged, true, ui);
    } else if let Some(miss) = told.missed.iter().find(|miss| Some(miss.id.as_str()) == nearest) {
        ui.line(format!("  {}", ui.paint(BOLD, "nearest, but its scope misses")));
        missed(miss, ui);
    }
    let others: Vec<&Judged> = told
        .considered
        .iter()
        .filter(|judged| !is_nearest(judged))
        .collect();
    if !others.is_empty() {
        ui.line(format!(
            "  {}",
            ui.paint(BOLD, "considered, because their scope fits")
        ));
    }
    for judged in others.iter().take(MOST) {
        policy(judged, told.rules.contains(&judged.id), ui);
    }
    let more = others.len().saturating_sub(MOST) + told.more;
    if more > 0 {
        ui.line(format!("    and {more} more, with -o json"));
    }
    let others: Vec<&Miss> = told
        .missed
        .iter()
        .filter(|miss| Some(miss.id.as_str()) != nearest)
        .collect();
    if !others.is_empty() {
        ui.line(format!("  {}", ui.paint(BOLD, "permits whose scope misses")));
    }
    others.iter().take(MOST).for_each(|miss| missed(miss, ui));
}

/// One policy: whether it applies, and its clauses; all of them, or those that matter.
fn policy(judged: &Judged, whole: bool, ui: &Ui) {
    let effect = match judged.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let shadow = if judged.shadow { ", in shadow" } else { "" };
    let applies = match judged.state {
        State::True => "applies",
        State::Error => "cannot be evaluated",
        State::False | State::NotReached => "does not apply",
    };
    let reason = judged.reason.as_ref().map(|reason| format!(": {reason}"));
    ui.line(format!(
        "    {effect} {} ({}:{}) {applies}{shadow}{}",
        ui.paint(BOLD, &judged.id),
        judged.file,
        judged.line,
        reason.unwrap_or_default()
    ));
    for clause in &judged.clauses {
        parts(clause, whole, ui);
    }
}

fn parts(clause: &Clause, whole: bool, ui: &Ui) {
    let word = match clause.word {
        Word::When => "when",
        Word::Unless => "unless",
        Word::Policy => "whole",
    };
    for part in &clause.parts {
        if !whole && part.state == State::True && clause.word == Word::When {
            continue;
        }
        let (color, mark) = match part.state {
            State::True => (GREEN, "+"),
            State::False => (RED, "-"),
            State::Error => (YELLOW, "!"),
            State::NotReached => (DIM, "?"),
        };
        let note = match (&part.note, part.state) {
            (Some(note), _) => format!("  <- {note}"),
            (None, State::NotReached) => "  <- not reached".to_owned(),
            (None, _) => String::new(),
        };
        ui.line(format!(
            "      {word:<6} {} {}{note}",
            ui.paint(color, mark),
            part.text
        ));
    }
}

fn missed(miss: &Miss, ui: &Ui) {
    let reason = miss.reason.as_ref().map(|reason| format!(": {reason}"));
    ui.line(format!(
        "    permit {} ({}:{}){}",
        ui.paint(BOLD, &miss.id),
        miss.file,
        miss.line,
        reason.unwrap_or_default()
    ));
    for part in &miss.parts {
        let note = part.note.as_ref().map(|note| format!("  <- {note}"));
        ui.line(format!(
            "      scope  {} {}{}",
            ui.paint(RED, "-"),
            part.text,
            note.unwrap_or_default()
        ));
    }
}
