//! Where a claim stands in a token: a path and proven claims enter, the value leaves if it is there (pure).

use std::fmt;

use hopguard_jose::{Json, JsonObject};

/// Where a claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimPath {
    /// The name of a top-level claim, or names with dots between them that lead down. A name that itself holds dots, as
    /// namespaced claims do (`https://idp.example/roles`), wins.
    Dotted(String),
    /// Names that lead down, each taken as it is: for what lies below a name with dots.
    Steps(Vec<String>),
}

impl ClaimPath {
    /// The value there.
    pub(super) fn find<'c>(&self, all: &'c JsonObject) -> Option<&'c Json> {
        match self {
            Self::Dotted(path) => all.get(path).or_else(|| down(all, path.split('.'))),
            Self::Steps(steps) => down(all, steps.iter().map(String::as_str)),
        }
    }

    /// Whether it leads nowhere by its form.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Dotted(path) => path.is_empty(),
            Self::Steps(steps) => steps.is_empty() || steps.iter().any(String::is_empty),
        }
    }

    /// Whether it is the claim whose string is a list with blanks between (RFC 6749 section 3.3).
    pub(super) fn is_scope(&self) -> bool {
        matches!(self, Self::Dotted(path) if matches!(path.as_str(), "scope" | "scp"))
    }
}

fn down<'c, 's>(all: &'c JsonObject, mut steps: impl Iterator<Item = &'s str>) -> Option<&'c Json> {
    let first = all.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.as_object()?.get(step))
}

impl From<&str> for ClaimPath {
    fn from(path: &str) -> Self {
        Self::Dotted(path.to_owned())
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dotted(path) => f.write_str(path),
            Self::Steps(steps) => f.write_str(&steps.join(" > ")),
        }
    }
}
