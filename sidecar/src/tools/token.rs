//! A user without a request: a token or its claims enter, the user that a sidecar would see leaves.

use std::time::SystemTime;

use crate::authn::{self, IssuerOptions, Rejection, VerifiedUser};
use crate::dial::DialOptions;

pub use crate::authn::TokenFailure;

/// The user that claims tell of which nobody signed, mapped as the sidecar maps them. `alias` names the issuer; without it the
/// claims' own `iss` does. What is not there (`aud`, `exp`) is taken as a good token would have it; what is there counts.
///
/// # Errors
/// Why a token with these claims would be refused, or what is wrong with them.
pub fn of_claims(
    issuers: &[IssuerOptions],
    alias: Option<&str>,
    claims: &[u8],
    now: SystemTime,
) -> Result<VerifiedUser, TokenFailure> {
    let named = authn::issuer_of(claims).map_err(TokenFailure::BadClaims)?;
    let wanted = |issuer: &&IssuerOptions| match alias {
        Some(alias) => issuer.alias == alias,
        None => named.as_deref() == Some(issuer.issuer.as_str()),
    };
    let known = || {
        let all: Vec<String> = issuers
            .iter()
            .map(|issuer| format!("{} ({})", issuer.alias, issuer.issuer))
            .collect();
        if all.is_empty() {
            "the mesh file has none".to_owned()
        } else {
            format!("there are: {}", all.join(", "))
        }
    };
    let issuer = issuers.iter().find(wanted).ok_or_else(|| match (alias, &named) {
        (Some(alias), _) => TokenFailure::BadClaims(format!("there is no issuer `{alias}`; {}", known())),
        (None, Some(named)) => TokenFailure::Refused(Rejection::Invalid {
            reason: "unknown_issuer",
            detail: format!(
                "`iss` is `{named}`, which is no issuer of the mesh file; {}",
                known()
            ),
        }),
        (None, None) => TokenFailure::BadClaims(format!(
            "the claims have no `iss`: name the issuer by --issuer; {}",
            known()
        )),
    })?;
    authn::of_claims(issuer, claims, now)
}

/// The user that a token proves. The issuer is asked for its keys, unless they are given.
///
/// # Errors
/// Why the token would be refused, or why nobody can say.
pub async fn of_token(
    issuers: &[IssuerOptions],
    keys: Option<&[u8]>,
    token: &str,
    now: SystemTime,
) -> Result<VerifiedUser, TokenFailure> {
    let dial = DialOptions {
        mark: None,
        timeout: std::time::Duration::from_secs(5),
    };
    authn::of_token(issuers, (keys, dial), token, now).await
}
