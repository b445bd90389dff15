//! Which issuer is asked about a token that is no JWT (pure): a token enters, the one issuer that it can be of leaves, or
//! none. A token that is a JWT, well formed or not, is never taken for another thing, so that no issuer is shown the tokens
//! of another.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

use super::error::AuthnError;
use super::issuer::Issuer;

/// Issuers that are asked about opaque tokens.
#[derive(Default)]
pub(super) struct Routes {
    by_prefix: Vec<(String, Arc<Issuer>)>,
    /// Has what no prefix fits.
    rest: Option<Arc<Issuer>>,
}

impl Routes {
    /// Adds an issuer with introspection; others are left out.
    ///
    /// # Errors
    /// A token could be of this one and of another.
    pub(super) fn add(&mut self, issuer: &Arc<Issuer>) -> Result<(), AuthnError> {
        let Some(introspection) = &issuer.options.introspection else {
            return Ok(());
        };
        let fail = |problem: String| {
            Err(AuthnError::Option {
                alias: issuer.alias.to_string(),
                problem,
            })
        };
        let Some(prefix) = &introspection.token_prefix else {
            if let Some(other) = &self.rest {
                return fail(format!(
                    "its opaque tokens cannot be told from those of `{}`: give one of them a token_prefix",
                    other.alias
                ));
            }
            self.rest = Some(Arc::clone(issuer));
            return Ok(());
        };
        if !is_prefix(prefix) {
            return fail(format!(
                "token_prefix `{prefix}` is empty, cannot begin a bearer token, or could begin a JWT"
            ));
        }
        let clash = |known: &String| known.starts_with(prefix.as_str()) || prefix.starts_with(known.as_str());
        if let Some((known, other)) = self.by_prefix.iter().find(|(known, _)| clash(known)) {
            return fail(format!(
                "token_prefix `{prefix}` and `{known}` of `{}` begin the same tokens",
                other.alias
            ));
        }
        self.by_prefix.push((prefix.clone(), Arc::clone(issuer)));
        Ok(())
    }

    /// The issuer that is asked about `token`.
    pub(super) fn of(&self, token: &str) -> Option<&Arc<Issuer>> {
        if is_jose(token) {
            return None;
        }
        let prefixed = self
            .by_prefix
            .iter()
            .find(|(prefix, _)| token.starts_with(prefix));
        prefixed.map(|(_, issuer)| issuer).or(self.rest.as_ref())
    }
}

/// Whether opaque tokens may be known by this beginning: 1 to 64 characters of a bearer token, with which no JWT begins.
#[must_use]
pub fn is_prefix(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) && !may_begin_json(text)
}

/// Whether base64 that begins like this may hold a JSON object: `{` is `e` and two bits more.
fn may_begin_json(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    let second = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'w'..=b'z' | b'-' | b'_' | b'+' | b'/');
    first == Some(b'e') && bytes.next().is_none_or(second)
}

/// Whether a token is, or was meant to be, a JWS or JWE in compact form: a JSON object in some base64 before the first dot.
/// Lenient on purpose: what another issuer's careless library would still read as its JWT must not be shown around.
pub(super) fn is_jose(token: &str) -> bool {
    let Some((header, _)) = token.split_once('.') else {
        return false;
    };
    let plain: String = header
        .chars()
        .filter(|c| *c != '=')
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let lenient = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    lenient
        .decode(plain)
        .is_ok_and(|bytes| bytes.trim_ascii_start().starts_with(b"{"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    #[test]
    fn whatever_may_be_a_jwt_is_one() {
        for header in [
            r#"{"alg":"ES256"}"#,
            "{}",
            " \n{\"alg\":\"none\"}",
            "{\"alg\":\"dir\",\"enc\":\"A\"}",
            "{broken",
        ] {
            for body in [".e30.AAAA", ".e30.", ".", "..", ".a.b.c.d"] {
                for encoded in [URL_SAFE_NO_PAD.encode(header), STANDARD.encode(header)] {
                    assert!(is_jose(&format!("{encoded}{body}")), "{header} {body}");
                }
            }
        }
        for opaque in [
            "abc",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "v4.public.eyJ9",
            "ory_at_abc.def",
            "a.b.c",
            "eyJhbGciOiJFUzI1NiJ9",
            "",
        ] {
            assert!(!is_jose(opaque), "{opaque}");
        }
    }

    #[test]
    fn a_prefix_cannot_begin_a_jwt() {
        for good in ["ory_at_", "ghp_", "v4.public.", "ea", "E"] {
            assert!(is_prefix(good), "{good}");
        }
        for bad in ["", "e", "ey", "eyJ", "ew", "e3", "e30.", "a b", "a\"", "ä"] {
            assert!(!is_prefix(bad), "{bad}");
        }
    }
}
