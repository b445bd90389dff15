//! Where a claim stands in a token: a path and proven claims enter, the value leaves if it is there (pure).

use std::fmt;

use hopguard_jose::{Json, JsonObject};

/// Where a claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimPath {
    /// The name of a top-level claim, or names with dots between them that lead down. A URL, as namespaced claims are named
    /// (`https://idp.example/roles`), is one name. Nothing is both: who could have the issuer write a claim named
    /// `realm_access.roles` must not thereby speak for the one that lies in `realm_access`.
    Dotted(String),
    /// Names that lead down, each taken as it is: for names with dots that are no URL, and what lies below one with dots.
    Steps(Vec<String>),
}

impl ClaimPath {
    /// The value there.
    pub(super) fn find<'c>(&self, all: &'c JsonObject) -> Option<&'c Json> {
        match self {
            Self::Dotted(path) if is_url(path) => all.get(path),
            Self::Dotted(path) => down(all, path.split('.')),
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

/// Whether a path is one name, though it has dots.
fn is_url(path: &str) -> bool {
    path.contains("://")
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
