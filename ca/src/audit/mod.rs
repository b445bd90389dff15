//! The audit log: what was issued, refused or changed enters, numbered and chained lines of JSON leave, on the disk before
//! the caller goes on. It holds no token and no key, decides nothing, and by default what cannot be written here is not
//! done: who waits for a record learns that it was not written.
//!
//! A line carries the SHA-256 of the line before it, so a line that was changed, added or taken out breaks the chain at
//! its place; number and hash of the last line are kept beside the state, so a log whose end was cut is found too.

mod chain;
mod file;
mod writer;

pub use chain::{Broken, Head, Verified, verify};
pub use file::stored_head;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// Records that wait for the disk; past it callers wait for room, and those who do not wait are counted.
const QUEUE: usize = 4096;
/// Who waits longer is told that nothing was written.
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer text of somebody else's is cut.
const MAX_TEXT: usize = 1024;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file that is only ever appended to.
    File(PathBuf),
    /// Standard error, for a journal that keeps it.
    Stderr,
}

/// What happened. Only what is known is written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Event {
    /// What it is about.
    pub event: &'static str,
    /// How it ended.
    pub outcome: &'static str,
    /// Who asked, as the kernel says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Through which socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Arc<str>>,
    /// What the entry asked of the caller, and was proven: its selectors, and its template where it has one.
    #[serde(skip_serializing_if = "nothing")]
    pub selectors: Arc<[String]>,
    /// Whose identity it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Serial number of the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The authority that signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// For whom a JWT-SVID is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// End of validity, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// So many of the kind were counted since the last record, and not written.
    #[serde(skip_serializing_if = "is_zero")]
    pub untold: u64,
    /// More, where a verb has more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

fn nothing(selectors: &Arc<[String]>) -> bool {
    selectors.is_empty()
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Event {
    /// An event, and how it ended.
    pub fn new(event: &'static str, outcome: &'static str) -> Self {
        Self {
            event,
            outcome,
            ..Self::default()
        }
    }

    /// The same with a reason, cut where it is too long.
    pub fn because(mut self, reason: &dyn std::fmt::Display) -> Self {
        self.reason = Some(cut(&reason.to_string()));
        self
    }
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let start = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    format!("{start}…")
}

/// Why a record is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be used at all.
    #[error("the audit log `{path}`: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Writing failed; the log says why.
    #[error("the audit log cannot be written")]
    Unwritten,
    /// Writing takes too long.
    #[error("the audit log was not written within {PATIENCE:?}")]
    Slow,
}

impl AuditError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => {
                "`audit` must name a file in a folder that exists and that this user may write, used by one authority"
            }
            Self::Unwritten | Self::Slow => {
                "free space for it; until then nothing is issued, unless ca.toml says `audit_required = false`"
            }
        }
    }
}

/// The handle through which everybody records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    queue: Option<mpsc::Sender<Waiting>>,
    required: bool,
}

/// A record, without number and chain.
struct Waiting {
    what: What,
    done: Option<oneshot::Sender<bool>>,
}

enum What {
    /// The members of the object after the chain's own.
    Record(Vec<u8>),
    /// The file may have been moved away: open it by its name again.
    Reopen,
}

impl Audit {
    /// No audit log: everything is allowed, nothing is written.
    pub fn none() -> Self {
        Self {
            queue: None,
            required: false,
        }
    }

    /// Opens the log; number and hash of its last line are kept in the file `head`. `required`: what cannot be written
    /// must not be done. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the target cannot be used.
    pub fn open(target: Target, head: PathBuf, required: bool) -> Result<Self, AuditError> {
        let sink = file::Sink::open(target, &head)?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(writer::write(sink, waiting));
        Ok(Self {
            queue: Some(queue),
            required,
        })
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns once the record is written.
    ///
    /// # Errors
    /// When it is not, and must be: then what it tells of must not be done.
    pub async fn record(&self, event: &Event) -> Result<(), AuditError> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let (done, answer) = oneshot::channel();
        let record = waiting(event, Some(done));
        let written = async {
            queue.send(record).await.map_err(|_| AuditError::Unwritten)?;
            match answer.await {
                Ok(true) => Ok(()),
                Ok(false) | Err(_) => Err(AuditError::Unwritten),
            }
        };
        let written = tokio::time::timeout(PATIENCE, written)
            .await
            .unwrap_or(Err(AuditError::Slow));
        if self.required { written } else { Ok(()) }
    }

    /// Records what was refused: nothing waits for it, because nothing goes out. False when there was no room.
    pub fn tell(&self, event: &Event) -> bool {
        let Some(queue) = &self.queue else { return true };
        queue.try_send(waiting(event, None)).is_ok()
    }

    /// Opens the file by its name again, after it was moved away.
    pub async fn reopen(&self) {
        if let Some(queue) = &self.queue {
            let reopen = Waiting {
                what: What::Reopen,
                done: None,
            };
            let _ended = queue.send(reopen).await;
        }
    }
}

fn waiting(event: &Event, done: Option<oneshot::Sender<bool>>) -> Waiting {
    Waiting {
        what: What::Record(chain::members(event, SystemTime::now())),
        done,
    }
}

#[cfg(test)]
mod tests;
