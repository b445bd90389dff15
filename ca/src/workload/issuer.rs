//! The seam to whoever signs. It knows nothing of callers: who may have an identity was decided before it is asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use spiffe::SpiffeId;
use tokio::sync::watch;

use crate::authority::{JwtSvid, Svid, Trust};

/// An issuer's answer.
pub type Issue<'a> = Pin<Box<dyn Future<Output = Result<Arc<Svid>, IssueError>> + Send + 'a>>;

/// An issuer's answer for a JWT-SVID.
pub type IssueJwt<'a> = Pin<Box<dyn Future<Output = Result<JwtSvid, IssueError>> + Send + 'a>>;

/// Why there is no SVID now. The caller may try again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IssueError(pub String);

/// Whoever signs.
pub trait Issuer: Send + Sync {
    /// Signs an SVID; what is answered was recorded before.
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a>;

    /// Signs a JWT-SVID for an audience, which is not empty; what is answered was recorded before.
    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String], now: SystemTime) -> IssueJwt<'a>;

    /// Whether an identity is revoked: its tokens are not to be believed, and it gets no new ones.
    fn revoked(&self, _id: &SpiffeId) -> bool {
        false
    }

    /// Whether a token of an identity, issued in this second (since 1970), is to be believed: not when the identity is revoked,
    /// and not when it was since.
    fn believes(&self, id: &SpiffeId, _issued: Option<i64>) -> bool {
        !self.revoked(id)
    }

    /// Whether an SVID may be held on to until it is due: not when its authority was taken out of
    /// the bundle before, and not when it was taken back itself.
    fn stands(&self, _svid: &Svid) -> bool {
        true
    }

    /// The trust bundle, and its changes.
    fn trust(&self) -> watch::Receiver<Arc<Trust>>;
}
