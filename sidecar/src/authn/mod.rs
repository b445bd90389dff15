//! User tokens: a bearer token enters, a [`VerifiedUser`] leaves, or the [`Rejection`] that answers the request. Beside
//! the road, each issuer's keys are found by OpenID discovery and kept fresh.
//!
//! ```text
//!  data runtime      verify(token, now)   digest -> cache, else parse -> issuer -> keys -> claims
//!                        | unknown kid: ask once, wait at most 2 s
//!  control runtime   run()                one task a key source: discover, fetch, at 80 % of the TTL again
//! ```
//!
//! What it never does: take a token without a key that was fetched from its issuer, let an empty or bad answer replace
//! good keys, use keys past their hard limit, fall back to any built-in key, or keep a bearer token in memory.

mod authenticator;
mod cache;
mod counts;
mod document;
mod endpoint;
mod error;
mod generations;
mod http;
mod issuer;
mod judge;
mod options;
mod provider;
mod source;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod user;

pub use authenticator::{Authenticator, ISSUER_CHANGED, Prepared};
pub use counts::{Counters, FetchCount, TokenCount};
pub use error::{AuthnError, Blame, FetchError, FetchFault, Rejection};
pub use hopguard_jose::{Algorithm, Thumbprint};
pub use judge::{TokenFailure, issuer_of, of_claims, of_token};
pub use options::{AuthnOptions, CacheLimits, ClaimKind, ClaimOptions, IssuerOptions};
pub use status::{IssuerState, IssuerStatus, probe};
pub use user::{ClaimValue, VerifiedUser};

/// Unix seconds; a clock before 1970 reads as 1970, when every token is from the future.
fn unix(now: std::time::SystemTime) -> i64 {
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
