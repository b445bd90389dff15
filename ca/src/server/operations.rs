//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod audit;
mod backup;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Refused, Request};
use crate::audit::Audit;
use crate::config::Config;
use crate::registration::Entries;
use backup::Backups;

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    entries: watch::Receiver<Arc<Entries>>,
    socket: PathBuf,
    backups: Backups,
    audit: Audit,
}

impl Operations {
    /// Operations on these.
    pub fn new(
        keyring: Arc<Keyring>,
        entries: watch::Receiver<Arc<Entries>>,
        config: &Config,
        audit: Audit,
    ) -> Self {
        Self {
            keyring,
            entries,
            socket: config.admin_socket.clone(),
            backups: Backups::new(config),
            audit,
        }
    }

    fn status(&self) -> Value {
        let trust = self.keyring.published();
        let authorities = self.keyring.records();
        let authorities: Vec<Value> = authorities
            .iter()
            .map(|record| {
                json!({"id": record.id, "kind": format!("{:?}", record.kind).to_lowercase(), "not_after": record.not_after})
            })
            .collect();
        json!({
            "trust_domain": trust.domain.as_str(),
            "sequence": trust.sequence,
            "entries": self.entries.borrow().len(),
            "authorities": authorities,
            "admin_socket": self.socket,
        })
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, _progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, ?request, "asked on the administration socket");
            let event = audit::of(&request, uid);
            audit::before(&self.audit, event.as_ref()).await?;
            let answer = match request {
                Request::Status => Ok::<_, Refused>(self.status()),
                Request::Backup => self.backups.make().await,
            };
            audit::after(&self.audit, event, &answer).await;
            answer
        })
    }
}
