//! The request target: its bytes enter with the method, a [`Target`] leaves: the path to decide on, the query, the
//! authority when it names one, and where the part begins that is forwarded (RFC 9112 3.2).

use super::host::{self, Authority};
use super::{Refusal, path};

/// A request target, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) bare: Option<String>,
    /// Why it is refused unless its route allows how it is spelled.
    pub(super) odd: Option<Refusal>,
    pub(super) query: Option<String>,
    /// Of an absolute-form target: the authority, with its own text.
    pub(super) authority: Option<(Authority, String)>,
    /// What goes on, in origin-form.
    pub(super) origin: String,
}

/// Reads the target of any method but CONNECT.
pub(super) fn read(method: &str, target: &str) -> Result<Target, Refusal> {
    if target.contains('#') {
        return Err(Refusal::bad("fragment", "the target has a fragment (`#`)"));
    }
    if target == "*" {
        return star(method);
    }
    if target.starts_with('/') {
        return origin(target.to_owned(), None);
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(Refusal::bad(
            "bad_target",
            "the target is neither a path, nor an absolute URI, nor `*`",
        ));
    };
    let default = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => {
            return Err(Refusal::bad(
                "bad_target",
                "the scheme of the target is neither http nor https",
            ));
        }
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (text, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let mut authority = host::authority(text.as_bytes())?;
    authority.port = Some(authority.port.unwrap_or(default));
    let authority = Some((authority, text.to_owned()));
    if rest.is_empty() && method == "OPTIONS" {
        // RFC 9112 3.2.4: the form without a path asks about the server.
        return Ok(Target {
            authority,
            ..star(method)?
        });
    }
    let slash = if rest.starts_with('/') { "" } else { "/" };
    origin(format!("{slash}{rest}"), authority)
}

fn star(method: &str) -> Result<Target, Refusal> {
    if method != "OPTIONS" {
        return Err(Refusal::bad("bad_target", "only OPTIONS has the target `*`"));
    }
    let star = "*".to_owned();
    Ok(Target {
        path: star.clone(),
        bare: None,
        odd: None,
        query: None,
        authority: None,
        origin: star,
    })
}

fn origin(origin: String, authority: Option<(Authority, String)>) -> Result<Target, Refusal> {
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (origin.as_str(), None),
    };
    let (normal, odd) = path::read(path)?;
    Ok(Target {
        path: normal.path,
        bare: normal.bare,
        odd,
        query,
        authority,
        origin,
    })
}
