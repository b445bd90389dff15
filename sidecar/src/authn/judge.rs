//! A token, or its claims, judged outside of a running sidecar: for people who want to know before it matters. The rules,
//! the keys' sources and the mapping are those of requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hopguard_jose::{Claims, Json, KeySet, MAX_TOKEN_BYTES, Times, Token, TokenError};

use super::document;
use super::error::{AuthnError, Rejection};
use super::http::Client;
use super::issuer::{self, rules};
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
    /// The keys that were given are no key set.
    #[error("{0}")]
    BadKeys(String),
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
    let json = Json::parse(claims).map_err(|error| format!("no claims: {error}"))?;
    let object = json.as_object().ok_or("no claims: not a JSON object")?;
    Ok(object.get("iss").and_then(Json::as_str).map(str::to_owned))
}

/// The user that claims tell of, mapped as those of a token, and what a token with them would be refused for. What is not
/// there (`aud`, `exp`) is taken as a good token would have it.
///
/// # Errors
/// They are no claims of a user.
pub fn of_claims(
    options: &IssuerOptions,
    claims: &[u8],
    now: SystemTime,
) -> Result<(VerifiedUser, Vec<String>), String> {
    let all = match Json::parse(claims) {
        Ok(Json::Object(all)) => all,
        Ok(_) => return Err("no claims: not a JSON object".to_owned()),
        Err(error) => return Err(format!("no claims: {error}")),
    };
    let subject = all
        .get("sub")
        .and_then(Json::as_str)
        .filter(|sub| !sub.is_empty());
    let subject = subject
        .ok_or("the claims have no `sub`, so they tell of nobody")?
        .to_owned();
    let mut refused = Vec::new();
    let audience = match all.get("aud") {
        None => options.audiences.clone(),
        Some(Json::String(one)) => vec![one.clone()],
        Some(many) => {
            let many = many
                .as_strings()
                .ok_or("`aud` is no string and no list of strings")?;
            many.into_iter().map(str::to_owned).collect()
        }
    };
    if !audience.iter().any(|aud| options.audiences.contains(aud)) {
        refused.push(format!(
            "`aud` names none of the issuer's `audiences` ({})",
            options.audiences.join(", ")
        ));
    }
    let time = |name: &str| match all.get(name) {
        None => Ok(None),
        Some(Json::Int(seconds)) => Ok(Some(*seconds)),
        Some(_) => Err(format!("`{name}` is no whole number of seconds")),
    };
    let times = Times {
        exp: time("exp")?.unwrap_or_else(|| unix(now).saturating_add(LIFE)),
        nbf: time("nbf")?,
        iat: time("iat")?,
    };
    let leeway = rules(options).leeway;
    refused.extend(
        times
            .check(unix(now), leeway)
            .err()
            .map(|fault| fault.to_string()),
    );
    let claims = Claims {
        subject,
        audience,
        times,
        all,
    };
    let user = Mapping::new(options)
        .user(who(options), (claims, Proof::default()), 0)
        .map_err(|refusal| refusal.to_string())?;
    Ok((user, refused))
}

fn who(options: &IssuerOptions) -> (Arc<str>, Arc<str>) {
    (
        Arc::from(options.alias.as_str()),
        Arc::from(options.issuer.as_str()),
    )
}
