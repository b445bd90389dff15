//! How operators speak with a running authority: one request a connection enters, lines of progress and one answer leave.
//! It asks an [`Operator`] and decides nothing itself. The socket is for the authority's own user and root alone.
//!
//! The words: a client writes one line of JSON, a [`Request`]. The authority writes lines of JSON, each an [`Said`]; the
//! last one is `done` or `refused`.

mod socket;

pub use socket::{AdminSocket, ask, serve};

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is in force, and how long the mesh lives without this process.
    Status,
    /// A copy of state and keys, in a file beside them, which whoever asked takes and removes.
    Backup,
    /// Replace the authority of a kind, the whole way or one step of it.
    Rotate {
        /// Whose authority.
        kind: Kind,
        /// One step alone.
        step: Option<RotateStep>,
        /// Take back what is prepared instead.
        abort: bool,
        /// Also when it breaks somebody.
        force: bool,
    },
}

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

/// One step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotateStep {
    /// Make the next authority and publish it; it signs when an operator says so.
    Prepare,
    /// Let the prepared one sign.
    Activate,
    /// Take the retired one out of the bundle.
    Retire,
}

/// One line of the authority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It goes on.
    Progress(Value),
    /// The answer.
    Done(Value),
    /// It was not done, and nothing was changed.
    Refused(Refused),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    #[serde(default)]
    pub hint: String,
    /// Whether the fault is the authority's own, not that of what was asked.
    #[serde(default)]
    pub internal: bool,
}

impl Refused {
    /// A refusal of what was asked.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
            internal: false,
        }
    }

    /// A fault of the authority.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            hint: "the authority's log says more".to_owned(),
            internal: true,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] crate::workload::SocketError),
    /// The authority cannot be reached.
    #[error("{path}: {source}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What answers is no authority of this version.
    #[error("{0}: what answers there is no authority of this version")]
    Strange(PathBuf),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Where lines of progress go; a client that is gone is not waited for.
pub type Progress = mpsc::Sender<Value>;

/// An operator's answer.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, Refused>> + Send + 'a>>;

/// Whoever does what is asked.
pub trait Operator: Send + Sync {
    /// Does it, telling how it goes. `uid` is who asked, for the audit log.
    fn operate(&self, request: Request, uid: u32, progress: Progress) -> Answer<'_>;
}
