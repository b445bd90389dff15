//! One way of writing policies: the text of a policy file enters, the same policies in that form leave. What Cedar's
//! formatter gives is believed only after it was read again: the same policies, every comment, and nothing left to change.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};

use super::parse::{MAX_DEPTH, said};
use super::problem::{PolicyProblem, Problems, Span};
use super::scan::Scan;

const STYLE: Config = Config {
    line_width: 100,
    indent_width: 2,
};

/// A policy file in the one form.
///
/// # Errors
/// It is no policy file, or the form cannot be shown to mean the same: then the file stays as it is.
pub fn format(path: &Path, text: &str) -> Result<String, Vec<PolicyProblem>> {
    let mut problems = Problems::default();
    let file = path.to_owned();
    match formatted(text) {
        Ok(formatted) => return Ok(formatted),
        Err(Wrong::At(span, message, hint)) => problems.at((&file, text), span, message, hint),
        Err(Wrong::Ours(message)) => {
            let hint = "the file is left as it is; please report it with the file";
            problems.whole(PathBuf::from(path), message, Some(hint));
        }
    }
    Err(problems.sorted())
}

enum Wrong {
    /// Of the file.
    At(Span, String, Option<String>),
    /// Of the formatter.
    Ours(String),
}

fn formatted(text: &str) -> Result<String, Wrong> {
    if let Some(span) = Scan::new(text).deeper_than(MAX_DEPTH) {
        let message = format!("an expression nests deeper than {MAX_DEPTH} here");
        return Err(Wrong::At(span, message, None));
    }
    let before = policies(text).map_err(|(span, message, hint)| Wrong::At(span, message, hint))?;
    if before.is_empty() {
        return Ok(text.to_owned()); // comments alone: there is nothing to bring into form
    }
    let pretty = |text: &str| {
        policies_str_to_pretty(text, &STYLE)
            .map_err(|error| Wrong::Ours(format!("cannot be formatted: {error}")))
    };
    let once = pretty(text)?;
    let after = policies(&once).map_err(|(_, message, _)| Wrong::Ours(message))?;
    if before != after {
        return Err(Wrong::Ours("would mean something else once formatted".to_owned()));
    }
    if comments(text) != comments(&once) {
        return Err(Wrong::Ours("would lose a comment once formatted".to_owned()));
    }
    if pretty(&once)? != once {
        return Err(Wrong::Ours("would not stay as it is once formatted".to_owned()));
    }
    Ok(once)
}

/// The policies of a text as values that do not know how they were written.
fn policies(text: &str) -> Result<Vec<serde_json::Value>, (Span, String, Option<String>)> {
    let set = PolicySet::from_str(text).map_err(|errors| match errors.iter().next() {
        Some(error) => {
            let (span, (message, hint)) = said(error);
            (span.unwrap_or_default(), message, hint)
        }
        None => (Span::default(), errors.to_string(), None),
    })?;
    let mut all: Vec<_> = set.policies().collect();
    // The names that Cedar gives by their order: `policy10` comes after `policy9`.
    all.sort_by_key(|policy| policy.as_ref().loc().map(|loc| loc.start()));
    let json = all.iter().map(|policy| {
        let json = policy.to_json();
        json.map_err(|error| (Span::default(), error.to_string(), None))
    });
    json.collect()
}

/// Every comment, without the blanks around it. Their order may change where a line is broken anew.
fn comments(text: &str) -> Vec<String> {
    let scan = Scan::new(text);
    let whole = Span {
        start: 0,
        end: text.len(),
    };
    let mut found = Vec::new();
    let mut end = 0;
    let tokens = scan
        .within(whole)
        .iter()
        .map(|token| (token.span.start, token.span.end));
    for (start, next) in tokens.chain([(text.len(), text.len())]) {
        let between = text.get(end..start).unwrap_or_default();
        let lines = between.lines().filter_map(|line| line.split_once("//"));
        found.extend(lines.map(|(_, comment)| comment.trim().to_owned()));
        end = next;
    }
    found.sort_unstable();
    found
}
