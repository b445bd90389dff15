//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod import;
mod revoke;
mod rotate;
mod status;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Request};
use crate::registration::Entries;
use crate::workload::{Shared, Streams};

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    streams: Arc<Streams>,
    entries: watch::Receiver<Arc<Entries>>,
    socket: PathBuf,
}

impl Operations {
    /// Operations on these.
    pub fn new(
        keyring: Arc<Keyring>,
        shared: &Shared,
        entries: watch::Receiver<Arc<Entries>>,
        socket: PathBuf,
    ) -> Self {
        Self {
            keyring,
            streams: shared.streams(),
            entries,
            socket,
        }
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, ?request, "asked on the administration socket");
            match request {
                Request::Revoke(asked) => revoke::revoke(&self.keyring, &asked, uid).await,
                Request::Csr => import::request(&self.keyring, uid).await,
                Request::Import { pem } => import::import(&self.keyring, &pem, uid).await,
                Request::Revoked => Ok(revoke::revoked(&self.keyring)),
                Request::Status => self.status(SystemTime::now()).await,
                Request::Rotate {
                    kind,
                    step,
                    abort,
                    force,
                } => {
                    let order = rotate::Order { step, abort, force };
                    tracing::info!(uid, ?kind, ?order, "an operator rotates");
                    rotate::rotate(&self.keyring, kind, order, &progress).await
                }
            }
        })
    }
}
