//! What must not be said twice: a value and its place enter, and a second time is recorded with the line of the first.

use std::collections::BTreeMap;
use std::ops::Range;

use super::document::{Document, Section, Wrong};
use super::shape::shown;

/// The values seen so far.
pub(super) struct Seen<'d> {
    document: &'d Document,
    what: &'static str,
    first: BTreeMap<String, Range<usize>>,
}

impl<'d> Seen<'d> {
    pub(super) fn new(document: &'d Document, what: &'static str) -> Self {
        Self {
            document,
            what,
            first: BTreeMap::new(),
        }
    }

    /// Takes a value; records a problem and returns false when it was there before.
    pub(super) fn insert(&mut self, value: &str, span: &Range<usize>) -> bool {
        if let Some(first) = self.first.get(value) {
            let first = self.document.line(first);
            self.document.add(
                span.clone(),
                format!(
                    "{} `{}` appears twice (first in line {first})",
                    self.what,
                    shown(value)
                ),
                Some("take one of them out, or rename it".to_owned()),
            );
            return false;
        }
        self.first.insert(value.to_owned(), span.clone());
        true
    }

    /// The values of a list, each parsed and each at most once.
    pub(super) fn all<T: ToString>(
        section: &Section<'d, '_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let mut seen = Self::new(section.document, "the value");
        let values = section
            .all_parsed(key, parse)
            .into_iter()
            .filter(|at| seen.insert(&at.value.to_string(), &at.span));
        values.map(|at| at.value).collect()
    }
}
