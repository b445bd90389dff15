//! Where a user's token stands in a request: the head and the places that are configured enter; nothing, one token, or the
//! reason why it cannot be told leaves. A token in two places is no token: the application could read the other one.
//!
//! A name counts in every spelling that some application takes for it: PHP reads `access.token` and `access+token` as
//! `access_token`, ASP.NET knows no case in a query, and old readers part a query at `;` and cookies at `,`.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;

use super::bearer::{Bearer, is_token68};
use super::{Head, strip};

/// Where a token may stand beside `Authorization`, which is always looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenPlaces {
    /// The name of a cookie.
    pub cookie: Option<String>,
    /// The name of a parameter of the query (RFC 6750 section 2.3).
    pub query: Option<String>,
}

/// A request's token.
#[derive(Clone, PartialEq, Eq)]
pub enum Presented<'a> {
    /// There is none.
    Absent,
    /// A bearer token.
    Bearer(Cow<'a, str>),
    /// A token with `Authorization: DPoP`, to be taken with its proof only.
    Dpop(&'a str),
    /// Something that is not exactly one token, with a stable label: those of [`Bearer::Bad`], `two_tokens`.
    Bad(&'static str),
}

/// Never shows the token.
impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Bearer(_) => f.write_str("Bearer(..)"),
            Self::Dpop(_) => f.write_str("Dpop(..)"),
            Self::Bad(reason) => f.debug_tuple("Bad").field(reason).finish(),
        }
    }
}

impl Head {
    /// The one token of this request, in one of its places.
    #[must_use]
    pub fn presented(&self, places: &TokenPlaces) -> Presented<'_> {
        let mut found = match self.bearer() {
            Bearer::Absent => Presented::Absent,
            Bearer::Token(token) => Presented::Bearer(Cow::Borrowed(token)),
            Bearer::Dpop(token) => Presented::Dpop(token),
            Bearer::Bad(reason) => return Presented::Bad(reason),
        };
        let cookies = places.cookie.iter().flat_map(|name| self.cookies(name));
        let parameters = places.query.iter().flat_map(|name| self.parameters(name));
        for value in cookies.chain(parameters) {
            if found != Presented::Absent {
                return Presented::Bad("two_tokens");
            }
            found = match value {
                Some(token) if is_token68(&token) => Presented::Bearer(token),
                _ => return Presented::Bad("malformed"),
            };
        }
        found
    }

    /// The proof beside a token (RFC 9449 section 4.3, 1): exactly one header, exactly one value.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn proof(&self) -> Result<&str, &'static str> {
        let mut values = self
            .headers()
            .filter(|header| strip::same_folded(header.name, "dpop"))
            .map(|header| header.value);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err("there must be exactly one DPoP header");
        };
        std::str::from_utf8(value).map_err(|_| "the DPoP header is not ASCII")
    }

    /// The values of the cookies of this name, over all lines (RFC 6265 section 4.2.1; HTTP/2 may split them). `None` for
    /// one that is not UTF-8.
    fn cookies<'h>(&'h self, name: &str) -> impl Iterator<Item = Option<Cow<'h, str>>> {
        let pairs = self
            .header("cookie")
            .flat_map(|line| line.split(|&byte| byte == b';'));
        pairs.flat_map(move |pair| {
            let whole = cookie(pair, name).map(|value| std::str::from_utf8(value).ok().map(Cow::Borrowed));
            // Behind a comma it is a cookie to some, and part of a value to others.
            let behind = pair.split(|&byte| byte == b',').skip(1);
            whole
                .into_iter()
                .chain(behind.filter_map(move |part| cookie(part, name).map(|_| None)))
        })
    }

    /// The values of the query's parameters of this name, decoded as forms are. `None` for one that is not UTF-8.
    fn parameters<'h>(&'h self, name: &str) -> impl Iterator<Item = Option<Cow<'h, str>>> {
        let pairs = self.query.iter().flat_map(|query| query.split(SEPARATORS));
        pairs.filter(move |pair| is_parameter(pair, name)).map(|pair| {
            let value = pair.split_once('=').map_or("", |(_, value)| value);
            // A form's `+` is a blank, and no token has one.
            if value.contains('+') {
                None
            } else {
                percent_decode_str(value).decode_utf8().ok()
            }
        })
    }

    /// The same request without its token, and without the proof beside it: what an application gets that shall not be
    /// able to use the token itself. Everything else goes on as it came.
    #[must_use]
    pub fn without_token(&self, places: &TokenPlaces) -> Self {
        let mut head = self.clone();
        head.fields.rewrite("authorization", |_| None);
        head.fields.rewrite("dpop", |_| None);
        if let Some(name) = &places.cookie {
            head.fields.rewrite("cookie", |line| {
                let pairs = line.split(|&byte| byte == b';');
                let kept: Vec<&[u8]> = pairs.filter(|pair| cookie(pair, name).is_none()).collect();
                let kept = kept.join(&b';');
                let kept = kept.trim_ascii();
                (!kept.is_empty()).then(|| kept.to_vec())
            });
        }
        if let (Some(name), Some(query)) = (&places.query, &self.query) {
            let is_kept = |pair: &&str| !is_parameter(pair.trim_end_matches(SEPARATORS), name);
            let kept: String = query.split_inclusive(SEPARATORS).filter(is_kept).collect();
            let path = self.origin.split('?').next().unwrap_or_default();
            if kept != *query {
                // Without the separator that stood before the token.
                let kept = if query.ends_with(SEPARATORS) {
                    &kept
                } else {
                    kept.strip_suffix(SEPARATORS).unwrap_or(&kept)
                };
                head.origin = if kept.is_empty() {
                    path.to_owned()
                } else {
                    format!("{path}?{kept}")
                };
            }
        }
        head
    }
}

/// What parts a query.
const SEPARATORS: [char; 2] = ['&', ';'];

/// The value of a cookie, if it is of this name. Blanks around the name are cut off, as careless applications do.
fn cookie<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
    let (found, value) = pair.split_at_checked(at)?;
    let same = folded(found.trim_ascii().iter().copied()).eq(folded(name.bytes()));
    same.then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

/// Whether a parameter is of this name once it is decoded: `%61ccess_token` is `access_token` to the application.
fn is_parameter(pair: &str, name: &str) -> bool {
    let found = pair.split_once('=').map_or(pair, |(found, _)| found);
    let found: Vec<u8> = percent_decode_str(&found.replace('+', " ")).collect();
    let lower = |bytes: &[u8]| bytes.to_ascii_lowercase();
    let (found, name) = (lower(found.trim_ascii()), lower(name.as_bytes()));
    folded(found.into_iter()).eq(folded(name.into_iter()))
}

/// A name as PHP knows it: what may not stand in the name of a variable is `_`.
fn folded(name: impl Iterator<Item = u8>) -> impl Iterator<Item = u8> {
    name.map(|byte| match byte {
        b'.' | b' ' | b'[' | b'-' => b'_',
        other => other,
    })
}
