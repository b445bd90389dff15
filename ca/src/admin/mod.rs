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
    /// Issue an SVID to the operator.
    IssueSvid {
        /// Whose it shall be.
        spiffe_id: String,
        /// For how many seconds; without it, as long as workloads get it.
        ttl: Option<u64>,
        /// The audience of a JWT-SVID; without one it is an X.509-SVID.
        #[serde(default)]
        audience: Vec<String>,
    },
    /// A copy of state and keys, in a file beside them, which whoever asked takes and removes.
    Backup,
    /// The entries in force.
    EntryList,
    /// One identity: its entries, its SVIDs, and who has it.
    EntryShow {
        /// A SPIFFE ID, or a template as its entry writes it.
        spiffe_id: String,
    },
    /// What another text of the entries file would change.
    EntryPlan {
        /// The file that the text is from, for what is said of it.
        name: Option<PathBuf>,
        /// The text.
        text: String,
    },
    /// Answers once the authority has read a text of its entries file.
    EntrySettled {
        /// SHA-256 of the text, in hexadecimal.
        digest: String,
    },
    /// What a process is given, and why.
    Why {
        /// In the authority's PID namespace.
        pid: i32,
        /// The name of the Workload API socket.
        socket: Option<String>,
    },
    /// Take an identity, a certificate or an authority back.
    Revoke(Revoke),
    /// What is revoked.
    Revoked,
    /// A request for an authority that the organisation's root is to sign.
    Csr,
    /// Take in what it signed.
    Import {
        /// The chain: own certificate, what lies between, root.
        pem: String,
    },
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

impl Request {
    /// The name of the verb, for the log.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Backup => "backup",
            Self::IssueSvid { .. } => "svid issue",
            Self::Rotate { .. } => "rotate",
            Self::Revoke(_) => "revoke",
            Self::Revoked => "revoke list",
            Self::Csr => "csr",
            Self::Import { .. } => "import",
            Self::EntryList => "entry list",
            Self::EntryShow { .. } => "entry show",
            Self::EntryPlan { .. } => "entry plan",
            Self::EntrySettled { .. } => "entry settled",
            Self::Why { .. } => "why",
        }
    }
}

/// What is to be taken back, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// What.
    pub target: Target,
    /// Why; may be empty.
    pub reason: String,
    /// Let it have SVIDs again instead.
    pub lift: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Also when it breaks somebody.
    pub force: bool,
}

/// What can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A SPIFFE ID.
    Identity(String),
    /// A serial number, hexadecimal.
    Serial(String),
    /// The id of an authority.
    Authority(String),
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
