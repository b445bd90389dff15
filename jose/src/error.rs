//! Why a token or a key set is refused: typed, with labels that metrics and users may rely on. No error holds a part of
//! a token, for errors are logged and tokens are secrets.

/// Whose fault it is, the first question of any outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever sent the token.
    User,
    /// Whoever publishes the keys.
    Issuer,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of canonical base64url around strict JSON.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Past a bound on size.
    #[error("the token is too large: {0}")]
    Oversized(&'static str),
    /// A header parameter that must not be there, or not so.
    #[error("the token's header is refused: {0}")]
    Header(&'static str),
    /// `alg` is unknown or not allowed here.
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    /// The key set has no key of this `kid`: it may be new, so newer keys may help.
    #[error("the token's key id is unknown")]
    UnknownKid,
    /// No key of the set may be tried.
    #[error("no key for the token: {0}")]
    NoKey(&'static str),
    /// The signature is not by the key.
    #[error("the token's signature does not verify")]
    Signature,
    /// Not valid at this time.
    #[error("{0}")]
    Time(#[from] TimeFault),
    /// Of another issuer or for another audience.
    #[error("{0}")]
    Foreign(#[from] Recipient),
    /// A claim is missing or has the wrong form.
    #[error("a claim is refused: {0}")]
    Claim(&'static str),
}

/// How a token misses the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeFault {
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `iat` is to come.
    #[error("the token was issued in the future")]
    FromTheFuture,
}

/// What of a token belongs to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Recipient {
    /// `iss` is not the expected issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` names none of the expected audiences.
    #[error("the token is for another audience")]
    Audience,
}

impl TokenError {
    /// Every label that [`Self::label`] may return.
    pub const LABELS: [&'static str; 13] = [
        "malformed",
        "oversized",
        "bad_header",
        "bad_alg",
        "unknown_kid",
        "no_key",
        "bad_sig",
        "expired",
        "not_yet_valid",
        "issued_in_future",
        "wrong_iss",
        "wrong_aud",
        "bad_claim",
    ];

    /// A stable name for metrics, logs and scripts.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Oversized(_) => "oversized",
            Self::Header(_) => "bad_header",
            Self::Algorithm => "bad_alg",
            Self::UnknownKid => "unknown_kid",
            Self::NoKey(_) => "no_key",
            Self::Signature => "bad_sig",
            Self::Time(TimeFault::Expired) => "expired",
            Self::Time(TimeFault::NotYet) => "not_yet_valid",
            Self::Time(TimeFault::FromTheFuture) => "issued_in_future",
            Self::Foreign(Recipient::Issuer) => "wrong_iss",
            Self::Foreign(Recipient::Audience) => "wrong_aud",
            Self::Claim(_) => "bad_claim",
        }
    }

    /// Always whoever sent the token.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        Blame::User
    }
}

/// Why a document is not a JWK Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Past the bound on bytes.
    #[error("the key set is larger than 256 KiB")]
    TooLarge,
    /// Past the bound on keys.
    #[error("the key set holds more than 100 keys")]
    TooMany,
    /// Not strict JSON, or not a JWK Set.
    #[error("not a JWK Set: {0}")]
    Malformed(&'static str),
}

impl KeySetError {
    /// Always whoever publishes the keys.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        Blame::Issuer
    }
}
