//! `hopguard ca status`: what a running authority says of itself.

use std::time::Duration;

use hopguard_ca::admin::Request;
use serde_json::Value;

use super::ask::{Which, ask, list, moment, number, span, text};
use super::rotate::at_most;
use crate::ui::{Exit, Failure, Ui};

/// Shown by `--help`.
pub const EXAMPLES: &str = "\
Examples:
  hopguard ca status --config /etc/hopguard/ca.toml
  hopguard ca status --socket /var/lib/hopguard/admin.sock -o json";

/// How long the authority may take to count.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

/// Runs it.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let status = ask(&args.which, &Request::Status, Some(PATIENCE), |_| ())?;
    if ui.is_json() {
        ui.json(&status);
    } else {
        for line in lines(&status) {
            ui.line(line);
        }
    }
    Ok(Exit::Done)
}

fn lines(status: &Value) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: bundle {}, {} entries",
        text(status, "trust_domain"),
        number(status, "sequence").unwrap_or_default(),
        number(status, "entries").unwrap_or_default()
    )];
    for authority in list(status, "authorities") {
        lines.push(line_of(authority));
    }
    for rotation in list(status, "rotation") {
        lines.extend(rotation_of(rotation));
    }
    let none = Value::Null;
    let streams = status.get("streams").unwrap_or(&none);
    let count = |key| number(streams, key).unwrap_or_default();
    lines.push(format!(
        "streams: {} of SVIDs, {} of bundles, {} of JWT bundles; {} were not sent the newest bundle yet",
        count("svids"),
        count("bundles"),
        count("jwt_bundles"),
        count("behind")
    ));
    lines.push(format!(
        "SVIDs alive: {}",
        number(status, "svids_alive").unwrap_or_default()
    ));
    lines.push(survival(status.get("survival").unwrap_or(&none)));
    lines
}

fn line_of(authority: &Value) -> String {
    let left = number(authority, "seconds_left").unwrap_or_default();
    let end = match left {
        ..0 => format!("ended {} ago", span(-left)),
        _ => format!(
            "ends in {} ({})",
            span(left),
            moment(number(authority, "not_after").unwrap_or_default())
        ),
    };
    let age = number(authority, "age_seconds").map_or(String::new(), span);
    let signed = number(authority, "svids_alive")
        .map_or(String::new(), |count| format!(", {count} SVIDs of it alive"));
    let held = match authority.get("held").and_then(Value::as_bool) {
        Some(true) => ", held back",
        _ => "",
    };
    format!(
        "{:<4} {:<8} {}  published {age} ago, {end}{signed}{held}",
        text(authority, "kind"),
        text(authority, "state"),
        text(authority, "id")
    )
}

fn rotation_of(rotation: &Value) -> Vec<String> {
    let kind = text(rotation, "kind");
    let step = text(rotation, "step");
    match (text(rotation, "state"), number(rotation, "seconds")) {
        ("waits", _) => list(rotation, "waits_for")
            .iter()
            .map(|one| {
                format!(
                    "{kind} rotation: {step} waits: {}{}",
                    text(one, "text"),
                    at_most(one)
                )
            })
            .collect(),
        ("due", _) => vec![format!("{kind} rotation: {step} is due now")],
        (_, Some(left)) => vec![format!(
            "{kind} rotation: none; the next begins in {} ({})",
            span(left),
            moment(number(rotation, "prepare_at").unwrap_or_default())
        )],
        (_, None) => vec![format!(
            "{kind} rotation: none; the next authority must be imported"
        )],
    }
}

/// In one line, and what is counted.
fn survival(survival: &Value) -> String {
    let (Some(first), Some(last)) = (
        number(survival, "first_out_seconds"),
        number(survival, "last_out_seconds"),
    ) else {
        return "if the authority dies now: nobody has an SVID that could end".to_owned();
    };
    let who = match text(survival, "first_out_id") {
        "" => String::new(),
        id => format!(" ({id})"),
    };
    format!(
        "if the authority dies now: the first workload is out in {}{who}, the last in {}; the root ends in {} (first: what the {} \
         open streams were sent last; last: of all SVIDs alive, also the {} that no open stream holds)",
        span(first),
        span(last),
        number(survival, "root_ends_seconds").map_or_else(|| "?".to_owned(), span),
        number(survival, "streams_counted").unwrap_or_default(),
        number(survival, "svids_without_stream").unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_told_in_lines() {
        let status = json!({
            "trust_domain": "td", "sequence": 7, "entries": 2,
            "authorities": [
                {"kind": "x509", "state": "active", "id": "aa", "age_seconds": 60, "seconds_left": 7200,
                 "not_after": 1_800_000_000, "svids_alive": 3, "held": false},
                {"kind": "jwt", "state": "prepared", "id": "bb", "age_seconds": 1, "seconds_left": -5, "held": true},
            ],
            "rotation": [
                {"kind": "x509", "state": "waits", "step": "activate", "waits_for": [{"text": "2 SVIDs", "seconds": 9}]},
                {"kind": "jwt", "state": "rests", "seconds": 86_400, "prepare_at": 1_800_000_000},
            ],
            "streams": {"svids": 4, "bundles": 1, "jwt_bundles": 0, "behind": 1},
            "svids_alive": 3,
            "survival": {"first_out_seconds": 10, "first_out_id": "spiffe://td/a", "last_out_seconds": 300,
                         "root_ends_seconds": 7200, "streams_counted": 4, "svids_without_stream": 1},
        });
        let lines = lines(&status);
        assert_eq!(lines[0], "td: bundle 7, 2 entries");
        assert_eq!(
            lines[1],
            "x509 active   aa  published 60 s ago, ends in 2 h (2027-01-15T08:00:00Z), 3 SVIDs of it alive"
        );
        assert_eq!(
            lines[2],
            "jwt  prepared bb  published 1 s ago, ended 5 s ago, held back"
        );
        assert_eq!(lines[3], "x509 rotation: activate waits: 2 SVIDs (at most 9 s)");
        assert!(
            lines[4].starts_with("jwt rotation: none; the next begins in 24 h"),
            "{}",
            lines[4]
        );
        assert!(
            lines[7].starts_with("if the authority dies now: the first workload is out in 10 s (spiffe://td/a), the last in 5 min;"),
            "{}",
            lines[7]
        );
        assert!(!lines.iter().any(|line| line.contains('\n')));
    }

    #[test]
    fn without_an_svid_there_is_nothing_to_survive() {
        assert!(survival(&json!({})).contains("nobody has an SVID"));
    }
}
