//! Why a redirect was not put in place, taken away or read, and in what state the machine was left.

use std::path::PathBuf;

use crate::change::Held;
use crate::drift::Drift;
use crate::state::BadSave;

/// A failed apply, undo or check.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {undone}")]
pub struct ApplyError {
    /// What went wrong.
    pub cause: Cause,
    /// What the machine was left with.
    pub undone: Undone,
}

impl From<Cause> for ApplyError {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            undone: Undone::Untouched,
        }
    }
}

/// What a failure left behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// Nothing had been changed.
    #[error("nothing was changed")]
    Untouched,
    /// What had been changed was put back.
    #[error("everything is as it was before")]
    AsBefore,
    /// Putting it back failed too.
    #[error("putting the rules back FAILED as well, the redirect may be incomplete ({0})")]
    Failed(String),
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A program is not installed.
    #[error("`{program}` was not found in PATH, /usr/sbin or /sbin")]
    Missing {
        /// Its name.
        program: String,
    },
    /// A program could not be started or talked to.
    #[error("`{}` could not be run: {error}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The kernel does not let this process read or change rules.
    #[error("`{}` is not permitted to: {said}", program.display())]
    NotPermitted {
        /// The program.
        program: PathBuf,
        /// Its complaint.
        said: String,
    },
    /// A program failed.
    #[error("`{}` failed ({status}): {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its complaint.
        said: String,
    },
    /// A program did not end.
    #[error("`{}` did not end in {seconds} s and was stopped", program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// How long it was given.
        seconds: u64,
    },
    /// What a program printed is not understood.
    #[error("what `{}` prints cannot be relied on: {bad}", program.display())]
    Unreadable {
        /// The program.
        program: PathBuf,
        /// Why.
        bad: BadSave,
    },
    /// A uid or gid that this user namespace does not have.
    #[error("{what} {id} does not exist in this user namespace, so no rule can name it")]
    Unmapped {
        /// `uid` or `gid`.
        what: &'static str,
        /// The number.
        id: u32,
    },
    /// A rule of somebody else's leads to our chains.
    #[error("the chain `{}` of table {} leads to hopguard's: `{}`", .0.by, .0.table.name(), .0.rule)]
    Held(Held),
    /// The rules read back are not the ones written.
    #[error("the rules did not take: {}", list(.0))]
    DidNotTake(Vec<Drift>),
}

/// Who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Whoever runs the command: privileges, settings.
    User,
    /// The machine: programs, kernel modules, other rules.
    Machine,
}

impl Cause {
    /// Who can do something about it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotPermitted { .. } | Self::Unmapped { .. } => Blame::User,
            _ => Blame::Machine,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing { .. } => "install iptables: apt-get install iptables (it brings ip6tables)".to_owned(),
            Self::Start { .. } => "look at the program's file: permissions, architecture".to_owned(),
            Self::NotPermitted { said, .. } if said.contains("xtables.lock") => {
                "make /run writable for this process, or name another lock file: XTABLES_LOCKFILE=/tmp/xtables.lock".to_owned()
            }
            Self::NotPermitted { .. } => "it takes CAP_NET_ADMIN in the user namespace that owns this network namespace: run as \
                root, in a container with `cap_add: [NET_ADMIN]`, or try it in a namespace of your own: unshare -Urn"
                .to_owned(),
            Self::Failed { said, .. } => failed_hint(said),
            Self::TimedOut { .. } => "another program may hold the iptables lock; try again".to_owned(),
            Self::Unreadable { bad: BadSave::Foreign { table }, .. } => {
                format!("see them with `nft list ruleset`; hopguard's rules need a table `{table}` that iptables can read")
            }
            Self::Unreadable { .. } => "update iptables, or choose the other implementation: --backend nft or legacy".to_owned(),
            Self::Unmapped { .. } => "tell the sidecar by mark (--mark 1337), or by an id of /proc/self/uid_map".to_owned(),
            Self::Held(held) => {
                format!("remove that rule first: iptables -t {} -D {} {}", held.table.name(), held.by, held.rule)
            }
            Self::DidNotTake(_) => "another program changes the same rules; find it, then try again".to_owned(),
        }
    }
}

fn failed_hint(said: &str) -> String {
    let lower = said.to_lowercase();
    if lower.contains("extension")
        || lower.contains("no chain/target/match")
        || lower.contains("missing kernel module")
    {
        "the kernel lacks a netfilter module (nat, REDIRECT, owner, mark, conntrack, addrtype, REJECT): load it on the host, or \
         leave out what needs it (--guard off, --udp leave)"
            .to_owned()
    } else if lower.contains("--wait") || lower.contains("unrecognized option") {
        "this iptables is older than 1.6.2: update it".to_owned()
    } else {
        "see the rules it was given: hopguard iptables print".to_owned()
    }
}

fn list(drift: &[Drift]) -> String {
    let shown: Vec<String> = drift.iter().take(5).map(ToString::to_string).collect();
    shown.join("; ")
}
