//! What a check found, and how the findings are shown: for people with a mark and a hint, as JSON with stable names.

use serde::Serialize;
use serde_json::json;

use crate::ui::{Ui, printable};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, or may work, and somebody should know.
    Warn,
    /// Does not work.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Ok,
            detail: detail.into(),
            hint: None,
        }
    }

    /// Somebody should know.
    pub fn warn(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            state: State::Warn,
            hint: Some(hint.into()).filter(|hint| !hint.is_empty()),
            ..Self::ok(name, detail)
        }
    }

    /// Does not work.
    pub fn fail(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            hint: Some(hint.into()).filter(|hint| !hint.is_empty()),
            ..Self::ok(name, detail)
        }
    }
}

/// Findings about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What they are about.
    pub name: &'static str,
    /// The findings.
    pub checks: Vec<Check>,
}

impl Group {
    /// Findings about one thing.
    pub fn new(name: &'static str, checks: Vec<Check>) -> Self {
        Self { name, checks }
    }
}

/// Shows all findings.
pub fn show(groups: &[Group], ui: &Ui) {
    let count = |state| {
        groups
            .iter()
            .flat_map(|group| &group.checks)
            .filter(|check| check.state == state)
            .count()
    };
    let (failed, warned) = (count(State::Fail), count(State::Warn));
    if ui.is_json() {
        return ui
            .json(&json!({"healthy": failed == 0, "failed": failed, "warned": warned, "groups": groups}));
    }
    for group in groups {
        ui.line(group.name);
        for check in &group.checks {
            let (colour, mark) = match check.state {
                State::Ok => ("32", "\u{221a}"),
                State::Warn => ("33", "\u{203c}"),
                State::Fail => ("31", "\u{d7}"),
            };
            ui.line(format!(
                "  {} {}: {}",
                ui.paint(colour, mark),
                printable(&check.name),
                printable(&check.detail)
            ));
            if let Some(hint) = &check.hint {
                ui.line(format!("      hint: {hint}"));
            }
        }
        ui.line("");
    }
    ui.line(match (failed, warned) {
        (0, 0) => "all is well".to_owned(),
        (0, warned) => format!("nothing keeps hopguard from working; {warned} to know about"),
        (failed, warned) => format!("{failed} to put right, {warned} to know about"),
    });
}
