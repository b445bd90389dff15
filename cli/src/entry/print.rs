//! How entries, plans and identities look in a terminal: answers of the authority enter, lines leave.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authority::{is, joined, list, number, text};
use crate::explain::fact;
use crate::ui::{Exit, Ui};

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// How many callers are told by name.
const MOST: usize = 50;

/// `entry list`.
pub fn entries(told: &Value, ui: &Ui) {
    if ui.is_json() {
        return ui.json(told);
    }
    let all = list(told, "entries");
    for one in all {
        ui.line(entry(one, ui));
    }
    let file = text(told, "file");
    ui.note(format!(
        "{} in force, of {file}",
        many(all.len(), "entry", "entries")
    ));
    if !list(told, "problems").is_empty() {
        ui.note("the file that lies there now is refused, and these are older:");
        for problem in list(told, "problems") {
            ui.note(placed(problem));
        }
    }
}

/// One entry in a line.
pub fn entry(one: &Value, ui: &Ui) -> String {
    let selectors = match joined(one, "selectors") {
        none if none.is_empty() => "each caller by its own".to_owned(),
        selectors => selectors,
    };
    let hint = match text(one, "hint") {
        "" => String::new(),
        hint => format!("  hint {hint:?}"),
    };
    format!("{}  {selectors}{hint}", ui.paint(BOLD, text(one, "spiffe_id")))
}

/// `entry show`.
pub fn identity(told: &Value, ui: &Ui) {
    if ui.is_json() {
        return ui.json(told);
    }
    ui.line(ui.paint(BOLD, text(told, "spiffe_id")));
    let file = text(told, "file");
    for one in list(told, "entries") {
        fact(
            ui,
            "entry",
            &format!("{}  ({file}:{})", entry(one, ui), number(one, "line")),
        );
    }
    if list(told, "entries").is_empty() {
        fact(ui, "entry", "none grants it any more");
    }
    for svid in list(told, "svids") {
        let until = moment(number(svid, "not_after"));
        fact(
            ui,
            "SVID",
            &format!(
                "{} until {until}  {}",
                text(svid, "serial"),
                text(svid, "spiffe_id")
            ),
        );
    }
    if list(told, "svids").is_empty() {
        fact(ui, "SVID", "none is valid");
    }
    for caller in list(told, "callers") {
        let default = if is(caller, "default") {
            ", its default identity"
        } else {
            ""
        };
        let since = moment(number(caller, "since"));
        fact(
            ui,
            "caller",
            &format!(
                "{} since {since}{default}  {}",
                who(caller),
                joined(caller, "has")
            ),
        );
    }
    if list(told, "callers").is_empty() {
        fact(ui, "caller", "nobody has a stream open with it");
    }
}

/// `entry plan`, or what is wrong with the new text.
pub fn plan(plan: &Value, ui: &Ui) -> Exit {
    let wrong = !list(plan, "problems").is_empty();
    let exit = if wrong { Exit::BadFile } else { Exit::Done };
    if ui.is_json() {
        ui.json(plan);
        return exit;
    }
    if wrong {
        problems(plan, ui);
        return exit;
    }
    let (added, removed, changed) = (list(plan, "added"), list(plan, "removed"), list(plan, "changed"));
    let nothing = added.is_empty() && removed.is_empty() && changed.is_empty() && !is(plan, "reordered");
    for one in removed {
        ui.line(format!("{} {}", ui.paint(RED, "-"), entry(one, ui)));
    }
    for one in added {
        ui.line(format!("{} {}", ui.paint(GREEN, "+"), entry(one, ui)));
    }
    for one in changed {
        for (mark, color, key) in [("~ -", RED, "before"), ("~ +", GREEN, "after")] {
            let form = one.get(key).unwrap_or(&Value::Null);
            ui.line(format!("{} {}", ui.paint(color, mark), entry(form, ui)));
        }
    }
    if is(plan, "reordered") {
        ui.line("the entries stand in another order: the first that matches is a caller's default identity");
    }
    if nothing {
        ui.line("no entry changes");
    } else {
        let (added, removed, changed) = (added.len(), removed.len(), changed.len());
        ui.line(format!("{added} added, {removed} removed, {changed} changed"));
    }
    callers(plan, ui);
    exit
}

fn callers(plan: &Value, ui: &Ui) {
    let reached = list(plan, "callers");
    let open = usize::try_from(number(plan, "open_callers")).unwrap_or_default();
    let open = many(open, "caller has streams", "callers have streams");
    ui.line(format!("{open} open; something changes for {}", reached.len()));
    for caller in reached.iter().take(MOST) {
        let mut changes = Vec::new();
        for (key, color, word) in [("loses", RED, "loses"), ("gains", GREEN, "gains")] {
            let ids = joined(caller, key);
            if !ids.is_empty() {
                changes.push(format!("{} {ids}", ui.paint(color, word)));
            }
        }
        if let Some(default) = caller
            .get("default")
            .filter(|default| !text(default, "after").is_empty())
        {
            changes.push(format!("default identity {}", text(default, "after")));
        }
        if is(caller, "nothing_left") {
            changes.push(ui.paint(YELLOW, "nothing is left: its streams end"));
        }
        ui.line(format!("  {}: {}", who(caller), changes.join("; ")));
    }
    if reached.len() > MOST {
        ui.line(format!("  and {} more, with -o json", reached.len() - MOST));
    }
}

/// What is wrong with a file.
pub fn problems(told: &Value, ui: &Ui) {
    for problem in list(told, "problems") {
        ui.line(placed(problem));
        let hint = text(problem, "hint");
        if !hint.is_empty() {
            ui.line(format!("  hint: {hint}"));
        }
    }
}

fn placed(problem: &Value) -> String {
    let (file, message) = (text(problem, "file"), text(problem, "message"));
    match number(problem, "line") {
        0 => format!("{file}: {message}"),
        line => format!("{file}:{line}:{}: {message}", number(problem, "column")),
    }
}

/// A caller, in few words.
pub fn who(caller: &Value) -> String {
    let (pid, uid, socket) = (
        number(caller, "pid"),
        number(caller, "uid"),
        text(caller, "socket"),
    );
    format!("pid {pid} (uid {uid}, socket {socket})")
}

fn moment(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn many(count: usize, one: &str, more: &str) -> String {
    let word = if count == 1 { one } else { more };
    format!("{count} {word}")
}
