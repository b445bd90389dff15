//! A JSON Web Token (RFC 7519, RFC 8725): text enters, proven claims leave. What may be read before the proof is what
//! selects the issuer and the key, nothing else.

use std::collections::BTreeMap;

use crate::algorithm::{Algorithm, Algorithms};
use crate::error::{Recipient, TimeFault, TokenError};
use crate::json::{Json, JsonObject};
use crate::jwk::Thumbprint;
use crate::jws::Jws;
use crate::keys::KeySet;

/// The end of the year 9999 in Unix seconds: past it a time is a mistake, or an attempt at a token for ever.
const LAST_SECOND: i64 = 253_402_300_799;

/// What a token must be to be accepted.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The algorithms that may sign.
    pub algorithms: Algorithms,
    /// The values that `typ` may have.
    pub types: TokenTypes,
    /// The issuer that `iss` must name, byte for byte; `None` when the keys alone tell the issuer (SPIFFE).
    pub issuer: Option<String>,
    /// `aud` must name one of these; none of these means that no token is accepted.
    pub audiences: Vec<String>,
    /// By how many seconds clocks may differ.
    pub leeway: i64,
}

/// The values that `typ` may have (RFC 7515 section 4.1.9, RFC 8725 section 3.11).
#[derive(Clone, Debug)]
pub struct TokenTypes {
    /// Whether it may be absent.
    pub absent: bool,
    /// Media types without `application/`, compared without regard to case.
    pub names: Vec<String>,
}

impl TokenTypes {
    /// User tokens: absent, `JWT`, or `at+jwt` (RFC 9068).
    #[must_use]
    pub fn user() -> Self {
        Self {
            absent: true,
            names: vec!["JWT".to_owned(), "at+jwt".to_owned()],
        }
    }

    /// Access tokens that say so (RFC 9068 section 4): `at+jwt` alone.
    #[must_use]
    pub fn access() -> Self {
        Self {
            absent: false,
            names: vec!["at+jwt".to_owned()],
        }
    }

    /// Proofs of possession (RFC 9449 section 4.2): `dpop+jwt` alone.
    #[must_use]
    pub fn proof() -> Self {
        Self {
            absent: false,
            names: vec!["dpop+jwt".to_owned()],
        }
    }

    /// JWT-SVIDs: absent, `JWT` or `JOSE`.
    #[must_use]
    pub fn svid() -> Self {
        Self {
            absent: true,
            names: vec!["JWT".to_owned(), "JOSE".to_owned()],
        }
    }

    pub(crate) fn admit(&self, typ: Option<&str>) -> bool {
        let Some(typ) = typ else { return self.absent };
        let prefix = "application/";
        let short = match typ.get(..prefix.len()) {
            Some(start) if start.eq_ignore_ascii_case(prefix) => typ.get(prefix.len()..).unwrap_or(typ),
            _ => typ,
        };
        self.names.iter().any(|name| name.eq_ignore_ascii_case(short))
    }
}

/// A token whose structure is sound and of which nothing is proven.
#[derive(Clone)]
pub struct Token<'t> {
    jws: Jws<'t>,
    claims: JsonObject,
}

impl<'t> Token<'t> {
    /// Reads a compact serialization.
    ///
    /// # Errors
    /// As [`Jws::parse`], and [`TokenError::Malformed`] when the payload is not a strict JSON object.
    pub fn parse(token: &'t str) -> Result<Self, TokenError> {
        let jws = Jws::parse(token)?;
        let payload =
            Json::parse(jws.unverified_payload()).map_err(|fault| TokenError::Malformed(fault.0))?;
        let Json::Object(claims) = payload else {
            return Err(TokenError::Malformed("the payload is not an object"));
        };
        Ok(Self { jws, claims })
    }

    /// What the token says of its issuer: selects the configuration, proves nothing.
    ///
    /// # Errors
    /// [`TokenError::Claim`] when `iss` is missing or not a string.
    pub fn issuer(&self) -> Result<&str, TokenError> {
        issuer(&self.claims)
    }

    /// Whether the token names an issuer at all: a JWT-SVID need not.
    #[must_use]
    pub fn names_issuer(&self) -> bool {
        self.claims.contains_key("iss")
    }

    /// What the token says of its subject: selects the bundle of a JWT-SVID, proves nothing.
    ///
    /// # Errors
    /// [`TokenError::Claim`] when `sub` is missing, not a string, empty, or holds control characters.
    pub fn subject(&self) -> Result<&str, TokenError> {
        subject(&self.claims)
    }

    /// The key id in the header: selects the key, proves nothing.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.jws.kid.as_deref()
    }

    /// The algorithm in the header, if we know it: proves nothing.
    #[must_use]
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.jws.algorithm
    }

    /// Accepts the token if it obeys `rules` at `now` (Unix seconds) and a key of `keys` signed it. The cheap checks
    /// come first, so that a token that could not pass costs no signature and makes nobody fetch keys.
    ///
    /// # Errors
    /// The first [`TokenError`] found.
    pub fn verify(self, keys: &KeySet, rules: &Rules, now: i64) -> Result<Verified, TokenError> {
        let algorithm = self.jws.algorithm(rules.algorithms)?;
        if !rules.types.admit(self.jws.typ.as_deref()) {
            return Err(TokenError::Header("typ"));
        }
        let claims = Claims::check(self.claims, rules, now)?;
        let key = self.jws.verify(keys, rules.algorithms)?;
        Ok(Verified {
            claims,
            kid: self.jws.kid,
            algorithm,
            key,
        })
    }
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("jws", &self.jws)
            .finish_non_exhaustive()
    }
}

/// What a verified token says, and by which key.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The claims.
    pub claims: Claims,
    /// The key id that the token named.
    pub kid: Option<String>,
    /// The algorithm that signed it.
    pub algorithm: Algorithm,
    /// The key that signed it.
    pub key: Thumbprint,
}

/// Proven claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `sub`: not empty, no control characters.
    pub subject: String,
    /// `aud` as a list: not empty.
    pub audience: Vec<String>,
    /// When the token is valid.
    pub times: Times,
    /// Every claim, the ones above too.
    pub all: BTreeMap<String, Json>,
}

impl Claims {
    /// Reads claims whose sender is proven by other means than a signature (RFC 7662 section 2.2), by the rules for those
    /// of a token: issuer, audience, subject and times.
    ///
    /// # Errors
    /// The first [`TokenError`] found.
    pub fn check(all: JsonObject, rules: &Rules, now: i64) -> Result<Self, TokenError> {
        if let Some(expected) = &rules.issuer
            && issuer(&all)? != expected
        {
            return Err(Recipient::Issuer.into());
        }
        let audience = audience(&all)?;
        if !audience.iter().any(|aud| rules.audiences.contains(aud)) {
            return Err(Recipient::Audience.into());
        }
        let subject = subject(&all)?.to_owned();
        let times = Times::read(&all)?;
        times.check(now, rules.leeway)?;
        Ok(Self {
            subject,
            audience,
            times,
            all,
        })
    }
}

/// When a token is valid, in Unix seconds; fractions are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `exp`: not valid from this second on.
    pub exp: i64,
    /// `nbf`: not valid before this second.
    pub nbf: Option<i64>,
    /// `iat`: when it was issued.
    pub iat: Option<i64>,
}

impl Times {
    fn read(claims: &JsonObject) -> Result<Self, TokenError> {
        Ok(Self {
            exp: seconds(claims.get("exp"))
                .map_err(|()| TokenError::Claim("exp is not a time"))?
                .ok_or(TokenError::Claim("exp is missing"))?,
            nbf: seconds(claims.get("nbf")).map_err(|()| TokenError::Claim("nbf is not a time"))?,
            iat: seconds(claims.get("iat")).map_err(|()| TokenError::Claim("iat is not a time"))?,
        })
    }

    /// Whether `now` lies within, give or take `leeway` seconds.
    ///
    /// # Errors
    /// The [`TimeFault`].
    pub const fn check(&self, now: i64, leeway: i64) -> Result<(), TimeFault> {
        let (early, late) = (now.saturating_sub(leeway), now.saturating_add(leeway));
        if early >= self.exp {
            return Err(TimeFault::Expired);
        }
        if let Some(nbf) = self.nbf
            && nbf > late
        {
            return Err(TimeFault::NotYet);
        }
        if let Some(iat) = self.iat
            && iat > late
        {
            return Err(TimeFault::FromTheFuture);
        }
        Ok(())
    }
}

fn issuer(claims: &JsonObject) -> Result<&str, TokenError> {
    claims
        .get("iss")
        .and_then(Json::as_str)
        .ok_or(TokenError::Claim("iss is missing or not a string"))
}

fn subject(claims: &JsonObject) -> Result<&str, TokenError> {
    let subject = claims
        .get("sub")
        .and_then(Json::as_str)
        .filter(|sub| !sub.is_empty());
    // It goes into headers and logs.
    subject
        .filter(|sub| !sub.chars().any(char::is_control))
        .ok_or(TokenError::Claim("sub is missing, empty, or not plain text"))
}

/// A NumericDate (RFC 7519 section 2): a number between 1970 and 9999, its fraction dropped.
pub(crate) fn seconds(claim: Option<&Json>) -> Result<Option<i64>, ()> {
    let seconds = match claim {
        None => return Ok(None),
        Some(Json::Int(seconds)) => *seconds,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float casts saturating, and the range is checked below"
        )]
        Some(Json::Float(seconds)) => seconds.floor() as i64,
        Some(_) => return Err(()),
    };
    if (0..=LAST_SECOND).contains(&seconds) {
        Ok(Some(seconds))
    } else {
        Err(())
    }
}

/// `aud`, a string or an array of strings, not empty (RFC 7519 section 4.1.3).
fn audience(claims: &JsonObject) -> Result<Vec<String>, TokenError> {
    let audience = match claims.get("aud") {
        None => return Err(TokenError::Claim("aud is missing")),
        Some(Json::String(one)) => vec![one.clone()],
        Some(other) => {
            let all = other.as_strings().filter(|all| !all.is_empty());
            let all = all.ok_or(TokenError::Claim("aud is not a string or an array of strings"))?;
            all.into_iter().map(str::to_owned).collect()
        }
    };
    Ok(audience)
}

#[cfg(test)]
mod tests;
