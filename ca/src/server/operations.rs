//! What operators ask of the running authority, done. Each verb is a function of its own; this file only says which.

mod entries;
mod why;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::keyring::Keyring;
use crate::admin::{Answer, Operator, Progress, Refused, Request};
pub use entries::{Registry, unknown_names};

/// Everything that verbs need.
pub struct Operations {
    keyring: Arc<Keyring>,
    registry: Registry,
    socket: PathBuf,
}

impl Operations {
    /// Operations on these.
    pub fn new(keyring: Arc<Keyring>, registry: Registry, socket: PathBuf) -> Self {
        Self {
            keyring,
            registry,
            socket,
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
            "entries": self.registry.entries.borrow().len(),
            "authorities": authorities,
            "admin_socket": self.socket,
        })
    }
}

impl Operator for Operations {
    fn operate(&self, request: Request, uid: u32, _progress: Progress) -> Answer<'_> {
        Box::pin(async move {
            tracing::debug!(uid, verb = request.verb(), "asked on the administration socket");
            match request {
                Request::Status => Ok::<_, Refused>(self.status()),
                Request::EntryList => Ok(self.registry.list()),
                Request::EntryShow { spiffe_id } => self.registry.show(&spiffe_id).await,
                Request::EntryPlan { name, text } => self.registry.plan(name, &text).await,
                Request::EntrySettled { digest } => self.registry.settled(&digest).await,
                Request::Why { pid, socket } => self.registry.why(pid, socket.as_deref()).await,
            }
        })
    }
}
