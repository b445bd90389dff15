//! How the command line speaks: results to stdout, progress and errors to stderr, plain in a pipe, JSON on request. It
//! decides nothing.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

/// What a result is printed as (`-o`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document, or one a line where results come as they happen.
    Json,
}

/// Exit codes, the same for every verb; documented in `hopguard help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or healthy.
    Done = 0,
    /// The answer is no, or the operation failed.
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A file is wrong: configuration, policy, entries.
    BadFile = 3,
    /// Not permitted, or not possible on this machine.
    NotHere = 4,
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

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with another exit code.
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

/// Where a verb writes.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    output: Output,
    color: bool,
}

impl Ui {
    /// Colour only on a terminal, and never with `NO_COLOR` (<https://no-color.org>).
    pub fn new(output: Output) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            output,
            color: output == Output::Text && !no_color && std::io::stdout().is_terminal(),
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

    /// One line of result, to stdout. A closed pipe is no failure of the verb.
    pub fn line(self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _closed = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
    }

    /// One line of progress or explanation, to stderr.
    pub fn note(self, text: impl AsRef<str>) {
        let _closed = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// A result as one line of JSON, to stdout.
    pub fn json(self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(text),
            Err(error) => self.note(format!("the result cannot be written as JSON: {error}")),
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
            self.note(
                serde_json::json!({"error": failure.message, "hint": failure.hint, "exit": failure.exit as i32}).to_string(),
            );
        } else {
            self.note(format!("hopguard: {}", failure.message));
            if let Some(hint) = &failure.hint {
                self.note(format!("  hint: {hint}"));
            }
        }
    }
}
