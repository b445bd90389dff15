//! The place where a user's token stands unless another is configured: the headers of a request enter, one of four answers
//! leaves. A header that is there but no token is bad, never absent.

use std::fmt;

use super::Head;

/// What `Authorization` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearer<'a> {
    /// No `Authorization` header.
    Absent,
    /// A token, not looked into.
    Token(&'a str),
    /// A token that is bound to a key (RFC 9449 section 7.1), not looked into.
    Dpop(&'a str),
    /// Something else, with a stable label: `two_headers`, `not_bearer`, `malformed`.
    Bad(&'static str),
}

/// Never shows the token.
impl fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Dpop(_) => f.write_str("Dpop(..)"),
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
            "two_tokens" => "tokens came in more than one place: one token in one place, or none",
            "not_bearer" => "the Authorization header is neither of the Bearer nor of the DPoP scheme",
            _ => "what stands in the place of the token is no well-formed token",
        }
    }
}

impl Head {
    /// Reads `Authorization: Bearer token68` (RFC 6750 2.1) and `Authorization: DPoP token68`: the scheme in any case, spaces
    /// (RFC 9110 11.4: at least one), one token (J15).
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
        let token = token.trim_start_matches(' ');
        let dpop = scheme.eq_ignore_ascii_case("dpop");
        if !dpop && !scheme.eq_ignore_ascii_case("bearer") {
            return Bearer::Bad("not_bearer");
        }
        match is_token68(token) {
            true if dpop => Bearer::Dpop(token),
            true => Bearer::Token(token),
            false => Bearer::Bad("malformed"),
        }
    }
}

/// RFC 9110 11.2.
pub(super) fn is_token68(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !body.is_empty() && body.bytes().all(allowed)
}
