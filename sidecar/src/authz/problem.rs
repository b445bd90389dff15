//! What is wrong with a policy file, and where: a byte span enters, file, line and column leave.

use std::fmt;
use std::path::PathBuf;

/// One reason why a set of policies was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The policy file; empty when the mesh itself is wrong (then there is no place either).
    pub file: PathBuf,
    /// Where it begins, in bytes from the start of the file.
    pub offset: usize,
    /// How many bytes it covers.
    pub len: usize,
    /// Line, from 1; 0 when there is no place.
    pub line: usize,
    /// Column in characters, from 1; 0 when there is no place.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        } else if !self.file.as_os_str().is_empty() {
            write!(f, "{}: ", self.file.display())?;
        }
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PolicyProblem {}

/// A span in a file: bytes from `start` up to `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The most problems that one load reports: the rest would be noise, and the report stays bounded.
const MOST: usize = 200;

/// Collects the problems of one load.
#[derive(Debug, Default)]
pub(super) struct Problems {
    list: Vec<PolicyProblem>,
}

impl Problems {
    /// A problem at a place in a file.
    pub(super) fn at(
        &mut self,
        file: (&PathBuf, &str),
        span: Span,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let (path, text) = file;
        let start = span.start.min(text.len());
        let (line, column) = place(text, start);
        self.push(PolicyProblem {
            file: path.clone(),
            offset: start,
            len: span.end.min(text.len()).saturating_sub(start),
            line,
            column,
            message: message.into(),
            hint,
        });
    }

    /// A problem of a whole file, or, with an empty path, of the set or the mesh.
    pub(super) fn whole(&mut self, file: PathBuf, message: impl Into<String>, hint: Option<&str>) {
        self.push(PolicyProblem {
            file,
            offset: 0,
            len: 0,
            line: 0,
            column: 0,
            message: message.into(),
            hint: hint.map(str::to_owned),
        });
    }

    fn push(&mut self, problem: PolicyProblem) {
        if self.list.len() < MOST && !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    /// Whether nothing was wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All problems, by file and place.
    pub(super) fn sorted(mut self) -> Vec<PolicyProblem> {
        self.list.sort_by(|a, b| {
            (&a.file, a.offset, a.len, &a.message).cmp(&(&b.file, b.offset, b.len, &b.message))
        });
        self.list
    }
}

/// Line and column (in characters) of a byte offset, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let from = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let column = before
        .get(from..)
        .unwrap_or_default()
        .iter()
        .filter(|b| (**b & 0xc0) != 0x80) // continuation bytes of UTF-8 are no characters of their own
        .count()
        + 1;
    (line, column)
}
