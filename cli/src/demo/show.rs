//! How the story looks in a terminal: outcomes enter, lines leave. It decides nothing.

use super::map;
use super::records::Hop;
use super::script::Scenario;
use super::spec::{DEFAULT_NAME, Spec};
use super::story::{Outcome, edges};
use crate::ui::Ui;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// What is about to be seen.
pub fn opening(spec: &Spec, ui: &Ui) {
    let addresses = match (spec.families.v4, spec.families.v6) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4 only",
        (false, _) => "IPv6 only, not one IPv4 address",
    };
    ui.line(format!(
        "{}: web, orders and payments, each with a sidecar and an identity of its own ({addresses})",
        ui.paint(BOLD, "hopguard demo")
    ));
    ui.line("What follows is what the sidecars recorded, hop by hop.");
}

/// A scenario begins.
pub fn title(scenario: &Scenario, ui: &Ui) {
    ui.line("");
    ui.line(ui.paint(BOLD, &format!("{}. {}", scenario.id, scenario.title)));
}

/// A scenario has ended.
pub fn outcome(outcome: &Outcome, ui: &Ui) {
    for seen in &outcome.observed.hops {
        hop(seen, ui);
    }
    for tried in &outcome.observed.attempts {
        let came = match (tried.status, &tried.refused) {
            (Some(status), _) => format!("HTTP {status}"),
            (None, Some(refused)) => format!("no HTTP answer ({refused})"),
            (None, None) => "nothing".to_owned(),
        };
        ui.line(format!("   {} {came}", ui.paint(DIM, &format!("{}:", tried.how))));
    }
    if outcome.ok {
        ui.line(format!("   {}", ui.paint(GREEN, "✔ as it must be")));
    }
    for problem in &outcome.problems {
        ui.line(format!("   {}", ui.paint(RED, &format!("✘ {problem}"))));
    }
}

/// One hop.
pub fn hop(hop: &Hop, ui: &Ui) {
    let arrow = if hop.identity { "══▶" } else { "──▶" };
    let way = format!("{:<9} {arrow} {:<9}", hop.src, hop.dst);
    let user = hop
        .user
        .as_deref()
        .map_or_else(|| "nobody".to_owned(), |user| format!("for {user}"));
    let (color, verdict) = if hop.verdict == "allow" {
        (GREEN, "allowed")
    } else {
        (RED, "refused")
    };
    let verdict = ui.paint(color, verdict);
    ui.line(format!("   {way} {user:<10} {verdict}  {}", why(hop)));
}

fn why(hop: &Hop) -> String {
    let detail = hop.detail.as_deref().unwrap_or_default();
    let colon = if detail.is_empty() { "" } else { ": " };
    match (&hop.rule, hop.verdict.as_str()) {
        (Some(rule), "allow") => format!("{rule}{colon}{detail}"),
        (Some(rule), _) => format!("{}; needed: {rule}{colon}{detail}", hop.reason),
        (None, _) => format!("{}{colon}{detail}", hop.reason),
    }
}

/// The map, and whether all went as it must.
pub fn ending(outcomes: &[Outcome], ui: &Ui) {
    ui.line("");
    ui.line(ui.paint(
        BOLD,
        "Who called whom  (══▶ identity proven by mTLS, ──▶ no identity, ✗ refused)",
    ));
    for line in map::draw(&edges(outcomes)) {
        ui.line(format!("   {line}"));
    }
    let wrong = outcomes.iter().filter(|outcome| !outcome.ok).count();
    ui.line("");
    ui.line(if wrong == 0 {
        ui.paint(
            GREEN,
            &format!("All {} scenarios went as they must.", outcomes.len()),
        )
    } else {
        ui.paint(
            RED,
            &format!("{wrong} of {} scenarios did not go as they must.", outcomes.len()),
        )
    });
}

/// What to try.
pub fn commands(spec: &Spec, ui: &Ui) {
    let me = &spec.program;
    let named = if spec.name == DEFAULT_NAME {
        String::new()
    } else {
        format!(" --name {}", spec.name)
    };
    let bearer = |user: &str| format!("-H \"authorization: Bearer $({me} demo token{named} {user})\"");
    let exec = format!("{me} demo exec{named}");
    ui.line("");
    ui.line(ui.paint(
        BOLD,
        "The mesh stays up. Try, in another terminal, and watch here:",
    ));
    for (command, what) in [
        (
            format!(
                "{exec} laptop -- curl -i -X POST {} http://web:8080/order",
                bearer("alice")
            ),
            "alice orders",
        ),
        (
            format!("{exec} laptop -- curl -i -X POST http://web:8080/order"),
            "nobody orders",
        ),
        (
            format!(
                "{exec} web -- curl -i -X POST {} http://orders:8080/order",
                bearer("bob")
            ),
            "past the front door",
        ),
        (
            format!("{exec} stranger -- curl -i http://payments:8080/count"),
            "no identity",
        ),
        (format!("{exec} --root web -- iptables -t nat -S"), "the redirect"),
        (
            format!("{me} demo explain{named} ID"),
            "why, clause by clause; the id is in the answer",
        ),
        (format!("{me} demo ctl{named} stop ca"), "traffic goes on"),
    ] {
        ui.line(format!("   {command}   {}", ui.paint(DIM, &format!("# {what}"))));
    }
    ui.line("ctrl-C ends everything and leaves nothing behind.");
    ui.line("");
}
