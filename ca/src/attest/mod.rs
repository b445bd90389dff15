//! Who is on the other side of a unix socket: what the kernel proves enters, facts leave. The process is held, so that
//! a reused PID is never taken for it, and is asked again before every answer. Nothing that a caller says is believed,
//! and what cannot be read is a fact that is not proven, never a fact that is skipped.
//!
//! Limits, as with every Workload API on a unix socket: the credentials are those of the process that connected. A
//! descriptor that it hands to another process speaks for it until it ends. Path and hash narrow a uid down; they do not
//! keep apart two programs of a uid that is itself hostile (it can trace, preload or re-execute its own programs). A
//! process that runs another program than when its connection was accepted is refused for as long as the connection lives.

mod cgroup;
mod executable;
mod ids;
mod names;
mod process;

use std::sync::Arc;

use tokio::net::UnixStream;

use crate::registration::{Ask, Entries, Fact, Facts};
pub use executable::Inspector;
use ids::Ids;
pub use names::{unknown_group, unknown_user};
use process::Process;

/// Why a caller is nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// Its PID namespace is not ours or below ours, so nothing more can be learned about it.
    #[error("the caller's process is not visible in this PID namespace")]
    Invisible,
    /// The process that connected has ended; whoever holds the socket now was not attested.
    #[error("the process that connected (pid {0}) is gone")]
    Gone(i32),
    /// Its uid is that of anybody: it has none in this user namespace.
    #[error("the caller's uid {0} is not mapped in this user namespace, so it may be anybody's")]
    Unmapped(u32),
    /// It runs another program than when it connected.
    #[error("process {0} runs another program than when it connected: connect anew")]
    Replaced(i32),
    /// The kernel did not tell.
    #[error("the kernel does not tell who called: {0}")]
    Kernel(String),
}

/// The process behind one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    socket: Arc<str>,
    process: Arc<Process>,
}

impl Peer {
    /// Asks the kernel who connected. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the process is invisible to us, or has ended already.
    pub fn of(stream: &UnixStream, socket: Arc<str>) -> Result<Self, AttestError> {
        let credentials = stream
            .peer_cred()
            .map_err(|error| AttestError::Kernel(error.to_string()))?;
        let pid = credentials
            .pid()
            .filter(|pid| *pid > 0)
            .ok_or(AttestError::Invisible)?;
        let process = Process::behind(stream, pid, credentials.uid())?;
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            socket,
            process: Arc::new(process),
        })
    }

    /// The process that has this PID now, as if it came through a socket: for those who ask what it would get. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// When there is none that we see.
    pub fn named(pid: i32, socket: Arc<str>) -> Result<Self, AttestError> {
        let (process, uid, gid) = Process::named(pid)?;
        Ok(Self {
            uid,
            gid,
            socket,
            process: Arc::new(process),
        })
    }

    /// The same process at another socket.
    #[must_use]
    pub fn at(&self, socket: Arc<str>) -> Self {
        Self {
            socket,
            ..self.clone()
        }
    }

    /// The uid as the kernel writes it: for limits and the log, not for a decision.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The PID when it connected: for the log.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The name of the socket that it came through.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Returns when the process has ended.
    pub async fn gone(&self) {
        self.process.gone().await;
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// When it has ended: then nothing may be sent to the holder of the socket.
    pub fn check(&self) -> Result<(), AttestError> {
        self.process.check()
    }

    /// Everything about the caller that these entries need, proven now.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn facts(&self, entries: &Entries, inspector: &Inspector) -> Result<Facts, AttestError> {
        let mut facts = self.told(inspector)?;
        // Each turn settles one fact, and there are few.
        while let Some(ask) = entries.asks(&facts) {
            self.read(ask, &mut facts, inspector).await;
        }
        self.check()?;
        Ok(facts)
    }

    /// Everything about the caller, needed or not.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn all_facts(&self, inspector: &Inspector) -> Result<Facts, AttestError> {
        let mut facts = self.told(inspector)?;
        for ask in Ask::ALL {
            self.read(ask, &mut facts, inspector).await;
        }
        self.check()?;
        Ok(facts)
    }

    /// What the connection tells.
    fn told(&self, inspector: &Inspector) -> Result<Facts, AttestError> {
        self.check()?;
        let ids = inspector.ids();
        if !matches!(ids.uid(self.uid), Fact::Proven(_)) {
            return Err(AttestError::Unmapped(self.uid));
        }
        Ok(Facts::new(
            ids.uid(self.uid),
            ids.gid(self.gid),
            self.socket.clone(),
        ))
    }

    /// Settles one fact. A name is that of a number that is proven, else it is not proven for the same reason.
    async fn read(&self, ask: Ask, facts: &mut Facts, inspector: &Inspector) {
        let (uid, process) = (self.uid, &self.process);
        match ask {
            Ask::Cgroup => facts.cgroup = proven(inspector.cgroup(uid, process).await),
            Ask::Path => facts.path = proven(inspector.path(uid, process).await),
            Ask::Sha256 => facts.sha256 = proven(inspector.sha256(uid, process).await),
            Ask::User => {
                facts.user = match named(&facts.uid) {
                    Ok(number) => proven(inspector.user(number).await),
                    Err(reason) => Fact::Unproven(reason),
                }
            }
            Ask::Group => {
                facts.group = match named(&facts.gid) {
                    Ok(number) => proven(inspector.group(uid, number).await),
                    Err(reason) => Fact::Unproven(reason),
                }
            }
        }
    }
}

/// The number whose name is asked for.
fn named(number: &Fact<u32>) -> Result<u32, Arc<str>> {
    match number {
        Fact::Proven(number) => Ok(*number),
        Fact::Absent(reason) | Fact::Unproven(reason) => Err(reason.clone()),
        Fact::Unasked => Err("its number was not read".into()),
    }
}

fn proven<T>(read: Result<T, String>) -> Fact<T> {
    match read {
        Ok(value) => Fact::Proven(value),
        Err(reason) => Fact::Unproven(reason.into()),
    }
}

#[cfg(test)]
mod tests;
