//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod audit;
mod backup;
mod entries;
mod import;
mod issue;
mod revoke;
mod rotate;
mod status;
mod why;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Refused, Request};
use crate::audit::Audit;
use crate::config::Config;
use crate::workload::Streams;
use backup::Backups;
pub use entries::{Registry, unknown_names};

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    streams: Arc<Streams>,
    registry: Registry,
    socket: PathBuf,
    backups: Backups,
    audit: Audit,
}

impl Operations {
    /// Operations on these.
    pub fn new(keyring: Arc<Keyring>, registry: Registry, config: &Config, audit: Audit) -> Self {
        Self {
            keyring,
            streams: registry.shared.streams(),
            registry,
            socket: config.admin_socket.clone(),
            backups: Backups::new(config),
            audit,
        }
    }

    async fn perform(&self, request: Request, uid: u32, progress: &Progress) -> Result<Value, Refused> {
        match request {
            Request::Status => self.status(SystemTime::now()).await,
            Request::Backup => self.backups.make().await,
            Request::IssueSvid {
                spiffe_id,
                ttl,
                audience,
            } => {
                let wanted = issue::Wanted {
                    spiffe_id,
                    ttl,
                    audience,
                };
                issue::issue(&self.keyring, wanted, uid).await
            }
            Request::Rotate {
                kind,
                step,
                abort,
                force,
            } => {
                let order = rotate::Order { step, abort, force };
                tracing::info!(uid, ?kind, ?order, "an operator rotates");
                rotate::rotate(&self.keyring, kind, order, progress).await
            }
            Request::Revoke(asked) => revoke::revoke(&self.keyring, &asked, uid).await,
            Request::Revoked => Ok(revoke::revoked(&self.keyring)),
            Request::Csr => import::request(&self.keyring, uid).await,
            Request::Import { pem } => import::import(&self.keyring, &pem, uid).await,
            Request::EntryList => Ok(self.registry.list()),
            Request::EntryShow { spiffe_id } => self.registry.show(&spiffe_id).await,
            Request::EntryPlan { name, text } => self.registry.plan(name, &text).await,
            Request::EntrySettled { digest } => self.registry.settled(&digest).await,
            Request::Why { pid, socket } => self.registry.why(pid, socket.as_deref()).await,
        }
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, verb = request.verb(), "asked on the administration socket");
            let event = audit::of(&request, uid);
            audit::before(&self.audit, &request, event.as_ref()).await?;
            let answer = self.perform(request, uid, &progress).await;
            audit::after(&self.audit, event, &answer).await;
            answer
        })
    }
}
