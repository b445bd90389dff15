//! Strict JWS, JWKS and JSON, for whoever must believe a token: the text of a token and a key set enter, proven claims
//! leave. No clock (`now` is an argument), no I/O, no memory between calls.
//!
//! ```text
//!  "a.b.c"  --Token::parse-->  Token       structure, header and JSON are sound; nothing is proven
//!           .issuer() .kid()               what selects the issuer's configuration and its keys
//!           --verify(keys, rules, now)-->  Verified   claims within the rules, signed by a key of the set
//! ```
//!
//! What it never does: accept `none` or a shared-secret algorithm, take a key or a key's address from the token, repair
//! what is malformed, or put a part of a token into an error.
//!
//! A DPoP proof (RFC 9449) has a road of its own: its key is in its header, and what it proves is that whoever sends the
//! request has that key.
//!
//! References: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (algorithms), RFC 7519 (JWT), RFC 8037 (EdDSA), RFC 8725 (best
//! practice).

mod algorithm;
mod base64url;
#[cfg(test)]
mod differential;
mod dpop;
mod error;
mod http_uri;
mod json;
mod jwk;
mod jws;
mod keys;
#[cfg(test)]
mod testing;
mod token;
#[cfg(test)]
mod vectors;

pub use algorithm::{Algorithm, Algorithms, UnknownAlgorithm};
pub use dpop::{Proof, ProofError, ProofRules};
pub use error::{Blame, KeySetError, Recipient, TimeFault, TokenError};
pub use http_uri::HttpUri;
pub use json::{Json, JsonError, JsonObject};
pub use jwk::{KeyPolicy, MAX_KID_BYTES, Thumbprint};
pub use jws::{Jws, MAX_HEADER_BYTES, MAX_TOKEN_BYTES};
pub use keys::{IgnoredKey, KeySet, MAX_KEY_SET_BYTES, MAX_KEYS};
pub use token::{Claims, Rules, Times, Token, TokenTypes, Verified};
