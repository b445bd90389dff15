//! A JWS in compact serialization (RFC 7515 section 3.1): text enters, its parts leave, each proven to be the only
//! reading; then a key set enters and the payload leaves if one of its keys signed it. Payloads are bytes here; what
//! they mean is [`crate::Token`]'s.

use crate::algorithm::{Algorithm, Algorithms};
use crate::base64url;
use crate::error::TokenError;
use crate::json::{Json, JsonObject};
use crate::jwk::{Key, MAX_KID_BYTES, Thumbprint};
use crate::keys::KeySet;

/// The longest token, in bytes of text.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// The longest header, in bytes of JSON.
pub const MAX_HEADER_BYTES: usize = 1024;

/// A JWS whose structure is sound and whose signature is not yet checked.
#[derive(Clone)]
pub struct Jws<'t> {
    /// What the signature covers: header and payload as they came.
    signed: &'t str,
    signature: Vec<u8>,
    payload: Vec<u8>,
    /// `None`: a name that we do not know, kept so that a token's issuer can still be told.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    /// A key that the header offers. Nothing but a proof of possession may be checked with it: in a token it is the word
    /// of whoever made the token.
    pub(crate) jwk: Option<Json>,
}

impl<'t> Jws<'t> {
    /// Takes a compact serialization apart.
    ///
    /// # Errors
    /// [`TokenError::Oversized`], [`TokenError::Malformed`], or [`TokenError::Header`] for a header with an extension
    /// (`crit`, `b64`), of a nested token (`cty`), or with a `kid` or `typ` of the wrong form. Headers that offer a key
    /// (`jwk jku x5u x5c`) are not looked at, save that a DPoP proof is checked with its own `jwk` ([`crate::Proof`]).
    pub fn parse(token: &'t str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Oversized("over 8 KiB"));
        }
        let malformed = TokenError::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed("not three parts"))?;
        let (header, payload) = signed.split_once('.').ok_or(malformed("not three parts"))?;
        // A fourth part would be a dot in the payload, which is no base64url.
        let decode = |part: &str| base64url::decode(part).ok_or(malformed("not canonical base64url"));
        let header = decode(header)?;
        if header.len() > MAX_HEADER_BYTES {
            return Err(TokenError::Oversized("header over 1 KiB"));
        }
        let signature = decode(signature)?;
        if signature.is_empty() {
            return Err(malformed("no signature"));
        }
        let payload = decode(payload)?;
        let header = Json::parse(&header).map_err(|fault| malformed(fault.0))?;
        let header = header
            .as_object()
            .ok_or(malformed("the header is not an object"))?;
        refuse_extensions(header)?;
        let Some(Json::String(algorithm)) = header.get("alg") else {
            return Err(TokenError::Header("no alg"));
        };
        Ok(Self {
            signed,
            signature,
            payload,
            algorithm: algorithm.parse().ok(),
            kid: text(header, "kid", "kid is not a string of at most 256 bytes")?,
            typ: text(header, "typ", "typ is not a string of at most 256 bytes")?,
            jwk: header.get("jwk").cloned(),
        })
    }

    /// The payload, of which nothing is proven yet.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The algorithm, if it is one that may be allowed at all.
    ///
    /// # Errors
    /// [`TokenError::Algorithm`] when it is not in `allowed`.
    pub fn algorithm(&self, allowed: Algorithms) -> Result<Algorithm, TokenError> {
        self.algorithm
            .filter(|a| allowed.contains(*a))
            .ok_or(TokenError::Algorithm)
    }

    /// Checks that a key of `keys` signed this, with an algorithm of `allowed` that is also the key's own.
    ///
    /// # Errors
    /// [`TokenError::Algorithm`], [`TokenError::UnknownKid`], [`TokenError::NoKey`] or [`TokenError::Signature`].
    pub fn verify(&self, keys: &KeySet, allowed: Algorithms) -> Result<Thumbprint, TokenError> {
        let algorithm = self.algorithm(allowed)?;
        let mut outcome = Err(TokenError::Signature);
        for key in keys.select(self.kid.as_deref(), algorithm)? {
            outcome = self.signed_by(key, algorithm).map(|()| key.thumbprint);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Checks that `key` signed this with `algorithm`.
    pub(crate) fn signed_by(&self, key: &Key, algorithm: Algorithm) -> Result<(), TokenError> {
        key.verifier(algorithm)
            .ok_or(TokenError::NoKey("no key fits its algorithm"))?
            .verify_sig(self.signed.as_bytes(), &self.signature)
            .map_err(|_| TokenError::Signature)?;
        Ok(())
    }
}

fn refuse_extensions(header: &JsonObject) -> Result<(), TokenError> {
    for (name, why) in [
        // RFC 7515 section 4.1.11: not understood, so refused; and we understand none.
        ("crit", "crit"),
        // RFC 7797: the payload would not be base64url.
        ("b64", "b64"),
        // RFC 7519 section 5.2: a nested token.
        ("cty", "cty"),
        // RFC 7516: encrypted or compressed.
        ("enc", "enc"),
        ("zip", "zip"),
    ] {
        if header.contains_key(name) {
            return Err(TokenError::Header(why));
        }
    }
    Ok(())
}

fn text(header: &JsonObject, name: &str, why: &'static str) -> Result<Option<String>, TokenError> {
    match header.get(name) {
        None => Ok(None),
        Some(Json::String(text)) if text.len() <= MAX_KID_BYTES => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Header(why)),
    }
}

impl std::fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jws")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
