//! A DPoP proof (RFC 9449): the text of a proof, the request that it came with and the time enter, the key that it proves
//! leaves. No memory: whether a proof was seen before, and whether its nonce is ours, is for who has a memory.

use aws_lc_rs::digest::{SHA256, digest};

use crate::algorithm::Algorithms;
use crate::base64url;
use crate::error::TokenError;
use crate::http_uri::HttpUri;
use crate::json::{Json, JsonObject};
use crate::jwk::{Key, KeyPolicy, Thumbprint};
use crate::jws::Jws;
use crate::token::{TokenTypes, seconds};

/// The longest `jti` and `nonce`, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// What a proof must be to be accepted.
#[derive(Clone, Copy, Debug)]
pub struct ProofRules<'a> {
    /// The algorithms that may sign; all are asymmetric.
    pub algorithms: Algorithms,
    /// The request's method, as it came.
    pub method: &'a str,
    /// The request's URI, as its client knows it.
    pub uri: &'a HttpUri,
    /// The access token beside the proof.
    pub token: &'a str,
    /// For how many seconds after `iat` the proof is good.
    pub max_age: i64,
    /// By how many seconds clocks may differ.
    pub leeway: i64,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The key that its sender has.
    pub key: Thumbprint,
    /// `jti`: the proof's own name, at most 256 bytes.
    pub jti: String,
    /// `nonce`, as the sender had it from us, or says so.
    pub nonce: Option<String>,
    /// `iat`, in Unix seconds.
    pub issued: i64,
}

/// Why a proof is not accepted. Holds no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is no sound JWS, or not signed by its own key.
    #[error("the DPoP proof is no sound JWS: {0}")]
    Jws(#[from] TokenError),
    /// It is not a proof for this request.
    #[error("the DPoP proof is refused: {0}")]
    Wrong(&'static str),
}

impl Proof {
    /// Checks a proof by the rules of RFC 9449 section 4.3, all but nonce and replay, at `now` (Unix seconds).
    ///
    /// # Errors
    /// The first [`ProofError`] found.
    pub fn verify(text: &str, rules: &ProofRules<'_>, now: i64) -> Result<Self, ProofError> {
        let jws = Jws::parse(text)?;
        let wrong = ProofError::Wrong;
        if !TokenTypes::proof().admit(jws.typ.as_deref()) {
            return Err(wrong("typ is not dpop+jwt"));
        }
        let algorithm = jws.algorithm(rules.algorithms)?;
        let jwk = jws.jwk.as_ref().ok_or(wrong("no jwk in its header"))?;
        let policy = KeyPolicy {
            algorithms: [algorithm].into_iter().collect(),
            ..KeyPolicy::SIGNATURES
        };
        let key = Key::parse(jwk, &policy).map_err(|_| wrong("jwk is no public key for its algorithm"))?;
        let payload =
            Json::parse(jws.unverified_payload()).map_err(|fault| TokenError::Malformed(fault.0))?;
        let claims = payload.as_object().ok_or(wrong("the payload is not an object"))?;
        if text_claim(claims, "htm") != Some(rules.method) {
            return Err(wrong("htm is not the request's method"));
        }
        let uri = text_claim(claims, "htu").and_then(HttpUri::parse);
        if uri.as_ref() != Some(rules.uri) {
            return Err(wrong("htu is not the request's URI"));
        }
        let issued = times(claims, rules, now)?;
        let hash = base64url::encode(digest(&SHA256, rules.token.as_bytes()).as_ref());
        if text_claim(claims, "ath") != Some(hash.as_str()) {
            return Err(wrong("ath is not the hash of the access token"));
        }
        let jti = bounded(claims, "jti")?.ok_or(wrong("no jti"))?;
        let nonce = bounded(claims, "nonce")?;
        // Last, since it costs the most.
        jws.signed_by(&key, algorithm)?;
        Ok(Self {
            key: key.thumbprint,
            jti,
            nonce,
            issued,
        })
    }
}

/// `iat` within its window; `exp` and `nbf`, which a proof need not have, are kept to.
fn times(claims: &JsonObject, rules: &ProofRules<'_>, now: i64) -> Result<i64, ProofError> {
    let wrong = ProofError::Wrong;
    let time = |name: &str, why: &'static str| seconds(claims.get(name)).map_err(|()| wrong(why));
    let issued = time("iat", "iat is not a time")?.ok_or(wrong("no iat"))?;
    let (early, late) = (now.saturating_sub(rules.leeway), now.saturating_add(rules.leeway));
    if issued > late {
        return Err(wrong("iat is in the future"));
    }
    if issued < early.saturating_sub(rules.max_age) {
        return Err(wrong("iat is too long ago"));
    }
    if time("exp", "exp is not a time")?.is_some_and(|exp| early >= exp)
        || time("nbf", "nbf is not a time")?.is_some_and(|nbf| nbf > late)
    {
        return Err(wrong("it is not valid now"));
    }
    Ok(issued)
}

fn text_claim<'c>(claims: &'c JsonObject, name: &str) -> Option<&'c str> {
    claims.get(name).and_then(Json::as_str)
}

/// A text of 1 to 256 bytes; `None` when it is absent.
fn bounded(claims: &JsonObject, name: &str) -> Result<Option<String>, ProofError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Json::String(text)) if (1..=MAX_TEXT_BYTES).contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => Err(ProofError::Wrong(
            "jti or nonce is not a string of 1 to 256 bytes",
        )),
    }
}

#[cfg(test)]
mod tests;
