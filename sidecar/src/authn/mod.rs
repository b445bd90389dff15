//! User tokens: a bearer token enters, a [`VerifiedUser`] leaves, or the [`Rejection`] that answers the request. Beside
//! the road, each issuer's keys are found by OpenID discovery and kept fresh; those of JWT-SVIDs are handed in.
//!
//! ```text
//!  data runtime      verify(token, now)   digest -> cache, else parse -> issuer -> keys -> claims
//!                        | unknown kid: ask once, wait at most 2 s
//!                        | no JWT: the issuer is asked, once for a token, wait at most 2 s
//!  control runtime   run()                one task a key source: discover, fetch, at 80 % of the TTL again
//!                    set_bundles()        the JWT bundles of the Workload API
//! ```
//!
//! The cache knows tokens, not who sends them: whether a token counts for its sender ([`Binding::check`], [`Proofs`]) is asked
//! on every request, after it.
//!
//! What it never does: take a token without a key that was fetched from its issuer, let an empty or bad answer replace
//! good keys, use keys past their hard limit, fall back to any built-in key, or keep a bearer token in memory.

mod access;
mod authenticator;
mod binding;
mod bundles;
mod cache;
mod claim_path;
mod counts;
mod document;
mod endpoint;
mod error;
mod generations;
mod http;
mod introspection;
mod issuer;
mod issuers;
mod judge;
mod keys;
mod opaque;
mod options;
mod proofs;
mod provider;
mod source;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod user;

pub use authenticator::{Authenticator, Prepared, renewable};
pub use binding::{Binding, Demand, Demands, Dpop, Sender};
pub use bundles::JwtBundles;
pub use claim_path::ClaimPath;
pub use counts::{Counters, FetchCount, TokenCount};
pub use error::{AuthnError, Blame, FetchError, FetchFault, Rejection};
pub use hopguard_jose::{Algorithm, HttpUri, Proof, Thumbprint};
pub use judge::{TokenFailure, issuer_of, of_claims, of_token};
pub use opaque::is_prefix as is_token_prefix;
pub use options::{
    AuthnOptions, CacheLimits, ClaimKind, ClaimOptions, ClientAuth, IntrospectionOptions, IssuerKind,
    IssuerOptions,
};
pub use proofs::{ProofRefusal, Proofs, Proven};
pub use status::{IssuerState, IssuerStatus, probe};
pub use user::{ClaimValue, VerifiedUser};

/// Unix seconds; a clock before 1970 reads as 1970, when every token is from the future.
pub fn unix(now: std::time::SystemTime) -> i64 {
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
