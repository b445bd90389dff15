//! What was proven of a request, said to the application so that it can check who says it: caller, user and decision enter, a
//! signed statement (a JWS, RFC 7515) leaves, and beside it the public keys (RFC 7517). Any JWT library can verify it. The
//! keys are made at start, live in memory only, and rotate; each is published before it signs and for as long as what it
//! signed may be believed.
//!
//! Off unless it is configured. It never says what was not proven, and what it cannot sign is not forwarded.

mod ring;
mod statement;

use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde_json::Value;

use ring::Ring;
use statement::Statement;
pub use statement::{Said, User};

/// The header that carries the statement. Whatever came under its name from outside was stripped.
pub const HEADER: &str = "x-hopguard-assertion";
/// `typ` of a statement: no verifier of other tokens that looks at it takes one for such (RFC 8725 section 3.11).
pub const TYPE: &str = "hopguard-assertion+jwt";

/// What may be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertionOptions {
    /// The port on loopback where the keys are served.
    pub port: u16,
    /// `aud`.
    pub audience: String,
    /// How long a statement is valid.
    pub ttl: Duration,
    /// Whether it names method, path and host too.
    pub request: bool,
}

/// Why there is no statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// No key could be made or used.
    #[error("the system gives no key, or no signature")]
    Key,
    /// Applications would refuse so large a header.
    #[error(
        "the statement would be larger than {} bytes: the user has too many roles, or the path is too long",
        statement::MAX_BYTES
    )]
    TooLarge,
    /// There is no identity of our own that could say it.
    #[error("the sidecar has no identity")]
    NoIdentity,
}

/// Signs statements.
pub struct Signer {
    options: AssertionOptions,
    ring: ArcSwap<Ring>,
}

impl Signer {
    /// Makes the first keys.
    ///
    /// # Errors
    /// [`AssertionError::Key`].
    pub fn new(options: AssertionOptions, now: SystemTime) -> Result<Self, AssertionError> {
        let ring = ArcSwap::from_pointee(Ring::new(seconds(now))?);
        Ok(Self { options, ring })
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &AssertionOptions {
        &self.options
    }

    /// The statement for one request at `now`, as the value of [`HEADER`].
    ///
    /// # Errors
    /// [`AssertionError`]: the request must not go on without it.
    pub fn sign(&self, said: &Said<'_>, now: SystemTime) -> Result<String, AssertionError> {
        let statement = Statement::new(said, &self.options, seconds(now));
        self.ring.load().sign(&statement)
    }

    /// The public keys, as a JWK Set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        self.ring.load().jwks()
    }

    /// Rotates the keys when it is time, for ever. Runs on the control runtime.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.rotate(SystemTime::now());
        }
    }

    /// Rotates the keys if it is time. One at a time: nobody else changes them.
    fn rotate(&self, now: SystemTime) {
        let ring = self.ring.load_full();
        match ring.rotated(seconds(now), self.options.ttl) {
            None => {}
            Some(Ok(next)) => {
                tracing::info!(
                    kid = next.kid(),
                    "the key of statements to the application rotated"
                );
                self.ring.store(std::sync::Arc::new(next));
            }
            // The key in use goes on: it is no worse than it was.
            Some(Err(error)) => tracing::error!(%error, "the key of statements could not be rotated"),
        }
    }
}

/// Time between two looks at the clock: it can be set, so nothing is computed far ahead.
const LOOK: Duration = Duration::from_secs(30);

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
