//! `hopguard why`: a PID enters; what the authority finds about the process leaves, with each entry and the first thing
//! that it misses.

use std::borrow::Cow;
use std::path::PathBuf;

use hopguard_ca::admin::Request;
use serde_json::Value;

use crate::authority::{self, ask, is, joined, list, number, text};
use crate::explain::{fact, hint};
use crate::ui::{Exit, Failure, Ui, printable};

/// How many entries that do not match are told.
const MOST: usize = 20;

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The process, in the authority's PID namespace; it need not be connected
    #[arg(value_name = "PID")]
    pid: i32,
    /// The name of the Workload API socket that it would come through [default: the one that it is connected to, else
    /// `default`]
    #[arg(long, value_name = "NAME")]
    socket: Option<String>,
    /// The authority's configuration, for its administration socket
    #[arg(long, value_name = "FILE", default_value = "ca.toml")]
    config: PathBuf,
    /// The authority's administration socket itself
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

const AFTER_HELP: &str = "Example: hopguard why $(pidof orders)\n\
Exit codes: 0 it gets an identity, 1 it gets none or is not there, 2 usage, 3 a file is wrong, 4 the authority cannot be \
asked.";

/// Runs the verb.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let socket = authority::socket(args.admin_socket.as_deref(), &args.config, "--admin-socket")?;
    let request = Request::Why {
        pid: args.pid,
        socket: args.socket.clone(),
    };
    let told = ask(&socket, &request)?;
    let granted = list(&told, "grants").iter().any(|grant| !is(grant, "revoked"));
    if ui.is_json() {
        ui.json(&told);
    } else {
        print(&told, ui);
    }
    Ok(if granted { Exit::Done } else { Exit::No })
}

fn print(told: &Value, ui: &Ui) {
    let grants = list(told, "grants");
    let pid = number(told, "pid");
    match grants {
        [] => ui.line(format!(
            "{}: no entry grants process {pid} an identity",
            ui.paint("31", "refused")
        )),
        grants => {
            for (at, grant) in grants.iter().enumerate() {
                let default = if at == 0 { "  (its default identity)" } else { "" };
                let (color, word) = match is(grant, "revoked") {
                    true => ("31", "revoked, so not issued"),
                    false => ("32", "granted"),
                };
                let word = ui.paint(color, word);
                ui.line(format!("{word}: {}{default}", shown(grant, "spiffe_id")));
            }
        }
    }
    connections(told, ui);
    for one in list(told, "facts")
        .iter()
        .filter(|one| text(one, "name") != "socket")
    {
        let value = match text(one, "state") {
            "proven" => shown(one, "value").into_owned(),
            "absent" => format!("none: {}", shown(one, "reason")),
            _ => format!("{}: {}", ui.paint("33", "not proven"), shown(one, "reason")),
        };
        fact(ui, &shown(one, "name"), &value);
    }
    considered(told, ui);
    let near = nearest(told);
    match (grants, near.first()) {
        ([], Some(near)) => {
            let line = number(near, "line");
            let (condition, found) = (shown(near, "condition"), shown(near, "found"));
            hint(
                &format!("the nearest entry, line {line}, asks for {condition}; found: {found}"),
                ui,
            );
        }
        ([], None) => hint(
            "the entries file is empty: write an entry, then `hopguard entry plan`",
            ui,
        ),
        _ => {}
    }
}

/// A text of the answer on one line: paths, arguments and labels of a process say what its owner likes.
fn shown<'a>(value: &'a Value, key: &str) -> Cow<'a, str> {
    printable(text(value, key))
}

fn connections(told: &Value, ui: &Ui) {
    let (pid, socket) = (number(told, "pid"), shown(told, "socket"));
    match list(told, "connected") {
        [] => fact(
            ui,
            "process",
            &format!("{pid}, not connected; as if by socket {socket}"),
        ),
        open => {
            fact(ui, "process", &format!("{pid}, as by socket {socket}"));
            for one in open {
                let has = joined(one, "has");
                let has = if has.is_empty() {
                    "nothing yet".into()
                } else {
                    printable(&has)
                };
                fact(
                    ui,
                    "stream",
                    &format!("open at socket {}, has {has}", shown(one, "socket")),
                );
            }
        }
    }
}

/// Entries that do not match, those that miss least first.
fn nearest(told: &Value) -> Vec<&Value> {
    let missed = list(told, "entries")
        .iter()
        .filter(|entry| text(entry, "outcome") != "granted");
    let mut missed: Vec<&Value> = missed.collect();
    missed.sort_by_key(|entry| (text(entry, "outcome") != "refused", -number(entry, "held")));
    missed
}

fn considered(told: &Value, ui: &Ui) {
    let file = shown(told, "file");
    let place = |entry: &Value| {
        format!(
            "{} ({file}:{})",
            ui.paint("1", &shown(entry, "spiffe_id")),
            number(entry, "line")
        )
    };
    let granted = list(told, "entries")
        .iter()
        .filter(|entry| text(entry, "outcome") == "granted");
    for entry in granted {
        let again = if is(entry, "again") {
            ", as one before it does"
        } else {
            ""
        };
        ui.line(format!(
            "  entry {} grants {}{again}",
            place(entry),
            shown(entry, "grants")
        ));
    }
    let missed = nearest(told);
    for entry in missed.iter().take(MOST) {
        let refused = text(entry, "outcome") == "refused";
        let verdict = if refused { "is refused" } else { "does not match" };
        ui.line(format!("  entry {} {verdict}", place(entry)));
        let (mark, found) = match refused {
            true => (ui.paint("33", "!"), shown(entry, "reason").into_owned()),
            false => (ui.paint("31", "-"), format!("found {}", shown(entry, "found"))),
        };
        ui.line(format!("    {mark} {}  <- {found}", shown(entry, "condition")));
    }
    if missed.len() > MOST {
        ui.line(format!(
            "  and {} more that do not match, with -o json",
            missed.len() - MOST
        ));
    }
}
