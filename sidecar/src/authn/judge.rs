//! A token, or its claims, judged outside of a running sidecar: for people who want to know before it matters. The rules,
//! the keys' sources and the mapping are those of requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hopguard_jose::{Claims, Json, JsonObject, KeySet, MAX_TOKEN_BYTES, Token, TokenError};

use super::document;
use super::error::{AuthnError, Rejection};
use super::http::Client;
use super::issuer::{self, rules};
use super::opaque::is_jose;
use super::options::{IssuerKind, IssuerOptions};
use super::provider::Provider;
use super::trust::Roots;
use super::unix;
use super::user::{Mapping, Proof, VerifiedUser};
use crate::dial::DialOptions;

/// The longest that one document of a provider may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a token lives of which nothing else is said, in seconds.
const LIFE: i64 = 3600;

/// Why a token proves nobody.
#[derive(Debug, thiserror::Error)]
pub enum TokenFailure {
    /// It is refused: a request with it is answered 401.
    #[error("{0}")]
    Refused(Rejection),
    /// Nobody can say: the issuer cannot be used as configured, or its keys cannot be had (a sidecar answers 503 until it
    /// has them).
    #[error("{0}")]
    NoKeys(#[from] AuthnError),
    /// Its issuer's tokens are not judged by keys that it publishes.
    #[error(
        "tokens of issuer `{0}` are judged by a running sidecar alone: by its Workload API, or by asking the issuer"
    )]
    NotHere(String),
    /// It is no JWT, and this issuer is asked about such tokens.
    #[error("the token is opaque: what it means is known to issuer `{0}`, which a running sidecar asks")]
    Opaque(String),
    /// The keys that were given are no key set.
    #[error("{0}")]
    BadKeys(String),
    /// The claims that were given are none.
    #[error("{0}")]
    BadClaims(String),
}

impl From<TokenError> for TokenFailure {
    fn from(error: TokenError) -> Self {
        Self::Refused(error.into())
    }
}

/// The user that a token proves at `now`, by the keys given, or else by those that its issuer publishes. Only that issuer
/// is asked.
///
/// # Errors
/// [`TokenFailure`].
pub async fn of_token(
    issuers: &[IssuerOptions],
    (keys, dial): (Option<&[u8]>, DialOptions),
    token: &str,
    now: SystemTime,
) -> Result<VerifiedUser, TokenFailure> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Oversized("over 8 KiB").into());
    }
    if let Some(failure) = opaque(issuers, token) {
        return Err(failure);
    }
    let parsed = Token::parse(token)?;
    let named = parsed.issuer()?;
    let Some(options) = issuers.iter().find(|issuer| issuer.issuer == named) else {
        let known: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
        return Err(TokenFailure::Refused(Rejection::Invalid {
            reason: "unknown_issuer",
            detail: format!(
                "the token's issuer is none of the configured ones ({})",
                known.join(", ")
            ),
        }));
    };
    issuer::check(options)?;
    if options.kind != IssuerKind::Provider || issuer::asks_for_every_token(options) {
        return Err(TokenFailure::NotHere(options.alias.clone()));
    }
    let keys = match keys {
        Some(given) => document::key_set(given).map_err(|fault| TokenFailure::BadKeys(fault.to_string()))?,
        None => published(options, dial).await?,
    };
    let verified = parsed.verify(&keys, &rules(options), unix(now))?;
    let proof = Proof {
        kid: verified.kid,
        key: Some(verified.key),
        due: None,
    };
    Ok(Mapping::new(options).user(who(options), (verified.claims, proof), 0)?)
}

/// What becomes of a token that is no JWT; nothing of others.
fn opaque(issuers: &[IssuerOptions], token: &str) -> Option<TokenFailure> {
    if token.is_empty() || is_jose(token) {
        return None;
    }
    let mut asked = issuers.iter().filter_map(|issuer| {
        Some((
            &issuer.alias,
            issuer.introspection.as_ref()?.token_prefix.as_deref(),
        ))
    });
    let prefixed = asked
        .clone()
        .find(|(_, prefix)| prefix.is_some_and(|prefix| token.starts_with(prefix)));
    let found = prefixed.or_else(|| asked.find(|(_, prefix)| prefix.is_none()));
    Some(match found {
        Some((alias, _)) => TokenFailure::Opaque(alias.clone()),
        None => TokenFailure::Refused(Rejection::Invalid {
            reason: "malformed",
            detail: "the token is malformed: it is no JWT, and no issuer of the mesh file is asked about tokens like it"
                .to_owned(),
        }),
    })
}

async fn published(options: &IssuerOptions, dial: DialOptions) -> Result<KeySet, AuthnError> {
    let (_, trust) = Roots::default().trust(options)?;
    let client = Client {
        trust,
        dial,
        timeout: PATIENCE,
    };
    let provider = Provider::new(options, client)?;
    let at = provider.locate().await?;
    let (keys, _) = provider.keys(&at).await?;
    Ok(keys)
}

/// The `iss` of claims.
///
/// # Errors
/// They are no JSON object.
pub fn issuer_of(claims: &[u8]) -> Result<Option<String>, String> {
    Ok(object(claims)?
        .get("iss")
        .and_then(Json::as_str)
        .map(str::to_owned))
}

/// The user that claims tell of, by the rules for those of a token. What is not there (`iss`, `aud`, `exp`) is taken as a good
/// token of the issuer would have it; what is there counts.
///
/// # Errors
/// [`TokenFailure::Refused`] where a token with these claims is refused, [`TokenFailure::BadClaims`] where they tell of nobody.
pub fn of_claims(
    options: &IssuerOptions,
    claims: &[u8],
    now: SystemTime,
) -> Result<VerifiedUser, TokenFailure> {
    let mut all = object(claims).map_err(TokenFailure::BadClaims)?;
    if !all.contains_key("sub") {
        let what = "the claims have no `sub`, so they tell of nobody";
        return Err(TokenFailure::BadClaims(what.to_owned()));
    }
    let audiences = options.audiences.iter().cloned().map(Json::String);
    for (name, value) in [
        ("iss", Json::String(options.issuer.clone())),
        ("aud", Json::Array(audiences.collect())),
        ("exp", Json::Int(unix(now).saturating_add(LIFE))),
    ] {
        all.entry(name.to_owned()).or_insert(value);
    }
    let claims = Claims::check(all, &rules(options), unix(now))?;
    Ok(Mapping::new(options).user(who(options), (claims, Proof::default()), 0)?)
}

fn object(claims: &[u8]) -> Result<JsonObject, String> {
    match Json::parse(claims) {
        Ok(Json::Object(all)) => Ok(all),
        Ok(_) => Err("no claims: not a JSON object".to_owned()),
        Err(error) => Err(format!("no claims: {error}")),
    }
}

fn who(options: &IssuerOptions) -> (Arc<str>, Arc<str>) {
    (
        Arc::from(options.alias.as_str()),
        Arc::from(options.issuer.as_str()),
    )
}
