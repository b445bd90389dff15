//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod audit;
mod backup;
mod rotate;
mod status;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::watch;

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Refused, Request};
use crate::audit::Audit;
use crate::config::Config;
use crate::registration::Entries;
use crate::workload::{Shared, Streams};
use backup::Backups;

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    streams: Arc<Streams>,
    entries: watch::Receiver<Arc<Entries>>,
    socket: PathBuf,
    backups: Backups,
    audit: Audit,
}

impl Operations {
    /// Operations on these.
    pub fn new(
        keyring: Arc<Keyring>,
        shared: &Shared,
        entries: watch::Receiver<Arc<Entries>>,
        config: &Config,
        audit: Audit,
    ) -> Self {
        Self {
            keyring,
            streams: shared.streams(),
            entries,
            socket: config.admin_socket.clone(),
            backups: Backups::new(config),
            audit,
        }
    }
}

impl Operations {
    async fn perform(&self, request: Request, uid: u32, progress: &Progress) -> Result<Value, Refused> {
        match request {
            Request::Status => self.status(SystemTime::now()).await,
            Request::Backup => self.backups.make().await,
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
        }
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, ?request, "asked on the administration socket");
            let event = audit::of(&request, uid);
            audit::before(&self.audit, event.as_ref()).await?;
            let answer = self.perform(request, uid, &progress).await;
            audit::after(&self.audit, event, &answer).await;
            answer
        })
    }
}
