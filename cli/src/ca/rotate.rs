//! `hopguard ca rotate`: a rotation of a running authority. Progress goes to stderr, what came of it to stdout.

use clap::ValueEnum;
use hopguard_ca::admin::{Kind, Request, RotateStep};
use serde_json::Value;

use super::ask::{Which, ask, list, number, span, text};
use crate::ui::{Exit, Failure, Ui};

/// Shown by `--help`.
pub const EXAMPLES: &str = "\
Without --step it goes the whole way: a new authority is prepared and published, signs as soon as every workload was sent \
it, and the old one leaves the bundle when nothing is alive that it signed. That takes about two lives of an SVID. Ctrl-C \
ends the telling, not the rotation: the authority finishes it by itself, and the same command shows it again.

Examples:
  hopguard ca rotate --config /etc/hopguard/ca.toml
  hopguard ca rotate --kind jwt
  hopguard ca rotate --step prepare      # publish a new root, and hold it back
  hopguard ca rotate --step activate
  hopguard ca rotate --abort             # take the prepared one out of the bundle again
  hopguard ca rotate --force             # a stolen key: at once, and say whom that breaks";

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Whose authority: x509 (the trust root of X.509-SVIDs) or jwt (the key of JWT-SVIDs)
    #[arg(long, value_enum, default_value = "x509", hide_possible_values = true)]
    kind: KindArg,
    /// One step alone: prepare, activate or retire
    #[arg(long, value_enum, hide_possible_values = true)]
    step: Option<StepArg>,
    /// Take what is prepared out of the bundle again; it has signed nothing
    #[arg(long, conflicts_with_all = ["step", "force"])]
    abort: bool,
    /// Do not wait; what that breaks is said before it is done
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    X509,
    Jwt,
}

#[derive(Clone, Copy, ValueEnum)]
enum StepArg {
    Prepare,
    Activate,
    Retire,
}

/// Runs it.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let request = Request::Rotate {
        kind: match args.kind {
            KindArg::X509 => Kind::X509,
            KindArg::Jwt => Kind::Jwt,
        },
        step: args.step.map(|step| match step {
            StepArg::Prepare => RotateStep::Prepare,
            StepArg::Activate => RotateStep::Activate,
            StepArg::Retire => RotateStep::Retire,
        }),
        abort: args.abort,
        force: args.force,
    };
    let done = ask(&args.which, &request, None, |said| tell(ui, said))?;
    if ui.is_json() {
        ui.json(&done);
    } else {
        ui.line(outcome(&done));
    }
    Ok(Exit::Done)
}

fn tell(ui: &Ui, said: &Value) {
    if ui.is_json() {
        ui.note(said.to_string());
        return;
    }
    for line in progress(said) {
        ui.note(line);
    }
}

fn progress(said: &Value) -> Vec<String> {
    let step = text(said, "step");
    let id = text(said, "authority");
    if said.get("done").is_some() {
        let old = said.get("new").and_then(Value::as_bool) == Some(false);
        return vec![match step {
            "prepare" if old => format!("prepare: {id} was prepared before"),
            "prepare" => format!("prepare: {id} is made and in the bundle"),
            "activate" => format!("activate: {id} signs from now on"),
            _ => {
                let gone: Vec<&str> = list(said, "authorities")
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                format!("retire: {} left the bundle", gone.join(", "))
            }
        }];
    }
    let broken = list(said, "breaks");
    if !broken.is_empty() {
        let breaks = broken
            .iter()
            .map(|one| format!("{step}: forced: {}{}", text(one, "text"), at_most(one)));
        return breaks.collect();
    }
    let waits = list(said, "waits_for")
        .iter()
        .map(|one| format!("{step}: waits: {}{}", text(one, "text"), at_most(one)));
    waits.collect()
}

/// How long that lasts at most.
pub fn at_most(one: &Value) -> String {
    number(one, "seconds").map_or(String::new(), |left| format!(" (at most {})", span(left)))
}

fn outcome(done: &Value) -> String {
    let gone: Vec<&str> = list(done, "removed").iter().filter_map(Value::as_str).collect();
    if let Some(id) = done.get("aborted").and_then(Value::as_str) {
        return format!("{id} left the bundle; nothing was signed by it");
    }
    if let Some(id) = done.get("prepared").and_then(Value::as_str) {
        return match done.get("new").and_then(Value::as_bool) {
            Some(true) => {
                format!(
                    "{id} is prepared and in the bundle; it signs after `hopguard ca rotate --step activate`"
                )
            }
            _ => format!("{id} was prepared before"),
        };
    }
    match (text(done, "active"), gone.as_slice()) {
        ("", gone) => format!("{} left the bundle", gone.join(", ")),
        (active, []) => format!("{active} signs"),
        (active, gone) => format!("{active} signs; {} left the bundle", gone.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_says_what_is_waited_for_and_what_is_broken() {
        let reason = json!({"text": "3 SVIDs are alive", "seconds": 100});
        assert_eq!(
            progress(&json!({"step": "activate", "authority": "a", "waits_for": [reason]})),
            ["activate: waits: 3 SVIDs are alive (at most 100 s)"]
        );
        assert_eq!(
            progress(&json!({"step": "retire", "authority": "a", "breaks": [reason]})),
            ["retire: forced: 3 SVIDs are alive (at most 100 s)"]
        );
        assert_eq!(
            progress(&json!({"step": "prepare", "authority": "a", "done": true, "new": false})),
            ["prepare: a was prepared before"]
        );
    }

    #[test]
    fn the_outcome_is_one_line() {
        for (done, line) in [
            (
                json!({"active": "b", "removed": ["a"]}),
                "b signs; a left the bundle",
            ),
            (json!({"active": "b"}), "b signs"),
            (json!({"removed": ["a"]}), "a left the bundle"),
            (
                json!({"aborted": "b"}),
                "b left the bundle; nothing was signed by it",
            ),
            (json!({"prepared": "b", "new": false}), "b was prepared before"),
        ] {
            assert_eq!(outcome(&done), line);
        }
    }
}
