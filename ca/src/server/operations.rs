//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod entries;
mod rotate;
mod status;
mod why;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Request};
use crate::workload::Streams;
pub use entries::{Registry, unknown_names};

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    streams: Arc<Streams>,
    registry: Registry,
    socket: PathBuf,
}

impl Operations {
    /// Operations on these.
    pub fn new(keyring: Arc<Keyring>, registry: Registry, socket: PathBuf) -> Self {
        Self {
            keyring,
            streams: registry.shared.streams(),
            registry,
            socket,
        }
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, verb = request.verb(), "asked on the administration socket");
            match request {
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
                Request::EntryList => Ok(self.registry.list()),
                Request::EntryShow { spiffe_id } => self.registry.show(&spiffe_id).await,
                Request::EntryPlan { name, text } => self.registry.plan(name, &text).await,
                Request::EntrySettled { digest } => self.registry.settled(&digest).await,
                Request::Why { pid, socket } => self.registry.why(pid, socket.as_deref()).await,
            }
        })
    }
}
