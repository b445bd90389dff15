//! The one place where a user's token may stand: the headers of a request enter, one of three answers leaves. A header
//! that is there but no bearer token is bad, never absent.

use std::fmt;

use super::Head;

/// What `Authorization` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// No `Authorization` header.
    Absent,
    /// A token, not looked into.
    Token(&'a str),
    /// Something else, with a stable label: `two_headers`, `not_bearer`, `malformed`.
    Bad(&'static str),
}

/// Never shows the token.
impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Bad(reason) => f.debug_tuple("Bad").field(reason).finish(),
        }
    }
}

impl Bearer<'_> {
    /// What the label of [`Bearer::Bad`] means, for people; holds nothing of the header.
    #[must_use]
    pub fn words(reason: &str) -> &'static str {
        match reason {
            "two_headers" => "more than one Authorization header came: one token or none",
            "not_bearer" => "the Authorization header is not of the Bearer scheme",
            _ => "the Authorization header holds no well-formed token after `Bearer `",
        }
    }
}

impl Head {
    /// Reads `Authorization: Bearer token68` (RFC 6750 2.1): the scheme in any case, one space, one token (J15).
    #[must_use]
    pub fn bearer(&self) -> Bearer<'_> {
        let mut values = self.header("authorization");
        let Some(value) = values.next() else {
            return Bearer::Absent;
        };
        if values.next().is_some() {
            return Bearer::Bad("two_headers");
        }
        let Ok(value) = std::str::from_utf8(value) else {
            return Bearer::Bad("malformed");
        };
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Bearer::Bad("not_bearer");
        }
        if is_token68(token) {
            Bearer::Token(token)
        } else {
            Bearer::Bad("malformed")
        }
    }
}

/// RFC 9110 11.2.
fn is_token68(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(allowed)
}
