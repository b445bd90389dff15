//! How the command line speaks: results to stdout, progress and errors to stderr, plain in a pipe, JSON on request, and
//! nothing in it that a terminal would obey. It decides nothing.

mod printable;

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use serde::Serialize;

pub use printable::printable;

/// What a result is printed as (`-o`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document, or one a line where results come as they happen.
    Json,
}

/// Exit codes, the same for every verb; `hopguard --help` and docs/cli.md say what they mean by [`Exit::meaning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or healthy.
    Done = 0,
    /// The answer is no, or the operation failed.
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A file is wrong: configuration, policy, entries, a certificate, a token.
    BadFile = 3,
    /// Not permitted, or not possible on this machine.
    NotHere = 4,
    /// `run`, `demo exec`: the command is there and cannot be executed, as shells say it.
    NotExecutable = 126,
    /// `run`, `demo exec`: there is no such command, as shells say it.
    NoCommand = 127,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::No,
        Self::Usage,
        Self::BadFile,
        Self::NotHere,
        Self::NotExecutable,
        Self::NoCommand,
    ];

    /// What it says, in the words of `--help` and of the documents.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or healthy",
            Self::No => "the answer is no, or the operation failed",
            Self::Usage => "the command line is wrong",
            Self::BadFile => "a file that was given is wrong",
            Self::NotHere => "not permitted, or not possible on this machine",
            Self::NotExecutable => "`run`, `demo exec`: the command cannot be executed",
            Self::NoCommand => "`run`, `demo exec`: there is no such command",
        }
    }

    /// What a process of ours meant by its code.
    pub fn of_code(code: Option<i32>) -> Self {
        Self::ALL
            .into_iter()
            .find(|exit| Some(*exit as i32) == code)
            .unwrap_or(Self::No)
    }

    /// The codes and their meanings, for `--help`.
    pub fn help() -> String {
        let line = |exit: Self| format!("\n  {:<3}  {}", exit as i32, exit.meaning());
        let lines: String = Self::ALL.into_iter().map(line).collect();
        format!("Exit codes:{lines}\n\nDocumentation: docs/cli.md")
    }
}

/// A failed verb: what went wrong, where, and what to do.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub exit: Exit,
    /// What went wrong, with the place.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::No,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with a hint; an empty one is none.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }

    /// The same with another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

/// Why a part of the result is lost: the first write to stdout that failed, but for a reader that has gone.
static LOST: OnceLock<String> = OnceLock::new();

/// Where a verb writes.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    output: Output,
    color: bool,
}

impl Ui {
    /// Colour only on a terminal, and never with `NO_COLOR` (<https://no-color.org>).
    pub fn new(output: Output) -> Self {
        Self {
            output,
            color: output == Output::Text && may_color() && std::io::stdout().is_terminal(),
        }
    }

    /// Whether results are to be JSON.
    pub fn is_json(self) -> bool {
        self.output == Output::Json
    }

    /// Whether colour may be used on stdout.
    pub fn color(self) -> bool {
        self.color
    }

    /// One line of result, to stdout. A reader that has gone is no failure of the verb; any other failed write is, see
    /// [`Ui::ended`].
    pub fn line(self, text: impl AsRef<str>) {
        self.write(&printable::lines(text.as_ref(), self.color));
    }

    /// One line of progress or explanation, to stderr.
    pub fn note(self, text: impl AsRef<str>) {
        let color = may_color() && std::io::stderr().is_terminal();
        let text = printable::lines(text.as_ref(), color);
        // There is nowhere left to say that nobody can be told.
        let _nobody_hears = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A result as one line of JSON, to stdout.
    pub fn json(self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.write(&printable::json(&text)),
            Err(error) => self.lost(format!("the result cannot be written as JSON: {error}")),
        }
    }

    /// A value of others as indented JSON, for people.
    pub fn json_for_people(self, value: &serde_json::Value) {
        self.write(&printable::json(&format!("{value:#}")));
    }

    fn write(self, text: &str) {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // Whoever read us has enough, as `head` has.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => self.lost(format!("standard output cannot be written: {error}")),
        }
    }

    /// Said at once, because a verb may stay for long, and only once.
    fn lost(self, why: String) {
        if LOST.set(why.clone()).is_ok() {
            self.failure(
                &Failure::new(why).hint("a part of the result is missing: look at where the output goes"),
            );
        }
    }

    /// How the process ends: no verb is done whose result could not be written.
    pub fn ended(self, exit: Exit) -> Exit {
        match LOST.get() {
            Some(_) if exit == Exit::Done => Exit::No,
            _ => exit,
        }
    }

    /// Paints `text` with an ANSI colour code when colour may be used.
    pub fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// Says why a verb failed, to stderr (as JSON to stderr too when JSON was asked for), and what to do.
    pub fn failure(self, failure: &Failure) {
        if self.is_json() {
            let said = serde_json::json!({"error": failure.message, "hint": failure.hint, "exit": failure.exit as i32});
            self.note(printable::json(&said.to_string()));
        } else {
            self.note(format!("hopguard: {}", failure.message));
            if let Some(hint) = &failure.hint {
                self.note(format!("  hint: {hint}"));
            }
        }
    }
}

/// Unless `NO_COLOR` is set to something, or the terminal is a dumb one.
pub fn may_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_the_command_line_has_every_exit_code_with_its_meaning() {
        let docs = include_str!("../../docs/cli.md");
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit as i32, exit.meaning());
            assert!(docs.contains(&row), "docs/cli.md has no row {row}");
        }
        let rows = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| "))
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(rows.count(), Exit::ALL.len(), "docs/cli.md has a code of its own");
    }

    #[test]
    fn an_empty_hint_is_none_and_a_code_is_what_it_was() {
        assert_eq!(Failure::new("x").hint("").hint, None);
        for exit in Exit::ALL {
            assert_eq!(Exit::of_code(Some(exit as i32)), exit);
        }
        assert_eq!(Exit::of_code(Some(77)), Exit::No);
        assert_eq!(Exit::of_code(None), Exit::No);
    }
}
