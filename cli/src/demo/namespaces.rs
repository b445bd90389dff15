//! Namespaces: made, named by process, joined. Descriptors and flags enter, a thread or process in another place leaves.
//! It never gives a privilege in the host's namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::failed;
use crate::ui::{Exit, Failure};

/// The namespaces of a pod, in the order in which they are joined: the user namespace first, because it gives the right to
/// join the others, the mount namespace last, because it takes `/proc` away.
const KINDS: [(&str, CloneFlags); 6] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Open descriptors of one process's namespaces.
#[derive(Debug)]
pub struct Namespaces(Vec<OwnedFd>);

impl Namespaces {
    /// The namespaces of the process `pid`, as `/proc` here names it.
    pub fn of(pid: u32) -> io::Result<Self> {
        let open = |(name, _): &(&str, _)| File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from);
        KINDS.iter().map(open).collect::<io::Result<_>>().map(Self)
    }

    /// What `fds` of the other side gave, in its order.
    pub fn received(fds: Vec<OwnedFd>) -> Option<Self> {
        (fds.len() == KINDS.len()).then_some(Self(fds))
    }

    /// The descriptors, to be sent to another process.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }

    /// Moves this process, which must have one thread only, into all of them. Its children then live in the process
    /// namespace, it does not.
    pub fn join_from_outside(&self) -> Result<(), Failure> {
        self.join(|_| true)
    }

    /// Moves the calling thread into all but the user namespace, in which it already is.
    pub fn join_as_thread(&self) -> Result<(), Failure> {
        unshare(CloneFlags::CLONE_FS).map_err(failed("giving a thread its own root"))?;
        self.join(|kind| kind != CloneFlags::CLONE_NEWUSER)
    }

    /// Moves the calling thread into the network namespace alone.
    pub fn join_network(&self) -> Result<(), Failure> {
        self.join(|kind| kind == CloneFlags::CLONE_NEWNET)
    }

    fn join(&self, wanted: impl Fn(CloneFlags) -> bool) -> Result<(), Failure> {
        for (fd, (name, kind)) in self.0.iter().zip(KINDS) {
            if wanted(kind) {
                setns(fd, kind)
                    .map_err(|error| Failure::new(format!("joining the {name} namespace: {error}")))?;
            }
        }
        Ok(())
    }
}

/// Makes this process root of new user, mount, network, process, IPC and host name namespaces; its first child is the
/// first process of the new process namespace.
///
/// # Errors
/// What forbids it, with the setting that does and the way on.
pub fn become_root() -> Result<(), Failure> {
    let (uid, gid) = (geteuid(), getegid());
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(|error| not_allowed(error, uid.is_root(), &read_knob))?;
    // A group may be mapped by an ordinary user only after setgroups is denied for good: user_namespaces(7).
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

fn write(path: &str, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(failed(&format!("writing `{text}` to {path}")))
}

fn read_knob(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A setting that can forbid user namespaces.
struct Knob {
    path: &'static str,
    /// The value that forbids.
    forbids: &'static str,
    /// What allows.
    allow: &'static str,
    /// Whether root may all the same.
    spares_root: bool,
}

const KNOBS: [Knob; 3] = [
    Knob {
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        forbids: "0",
        allow: "sysctl kernel.unprivileged_userns_clone=1",
        spares_root: true,
    },
    Knob {
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbids: "1",
        allow: "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        spares_root: true,
    },
    Knob {
        path: "/proc/sys/user/max_user_namespaces",
        forbids: "0",
        allow: "sysctl user.max_user_namespaces=15000",
        spares_root: false,
    },
];

/// What forbids it and the way on.
fn not_allowed(error: Errno, root: bool, read: &dyn Fn(&str) -> Option<String>) -> Failure {
    let set = |knob: &&Knob| read(knob.path).as_deref() == Some(knob.forbids);
    let forbidding = KNOBS.iter().filter(|knob| !(root && knob.spares_root)).find(set);
    let as_root = if root { "" } else { "run the demo as root (sudo); " };
    let hint = match forbidding {
        Some(Knob { path, forbids, allow, spares_root }) => {
            let knob = path.trim_start_matches("/proc/sys/").replace('/', ".");
            let or = if *spares_root { "run the demo as root (sudo), or " } else { "" };
            format!("{knob} is {forbids} here: {or}allow it with `sudo {allow}`")
        }
        None if error == Errno::ENOSPC => {
            "a limit of namespaces is reached: raise user.max_user_namespaces and the other user.max_*_namespaces, or end \
             other namespaces"
                .to_owned()
        }
        None => format!(
            "{as_root}in a container, give it the right to make namespaces (Docker: `--privileged`, or `--security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`)"
        ),
    };
    Failure::new(format!(
        "this kernel does not let you make the namespaces of the demo: {error}"
    ))
    .hint(hint)
    .exit(Exit::NotHere)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(root: bool, path: Option<&str>) -> String {
        let forbids = |asked: &str| {
            KNOBS
                .iter()
                .find(|knob| knob.path == asked)
                .map(|knob| knob.forbids.to_owned())
        };
        let read = |asked: &str| if path == Some(asked) { forbids(asked) } else { None };
        let failure = not_allowed(Errno::EPERM, root, &read);
        assert_eq!(failure.exit, Exit::NotHere);
        failure.hint.unwrap()
    }

    #[test]
    fn the_setting_that_forbids_is_named_with_the_way_on() {
        for knob in KNOBS {
            let hint = hint(false, Some(knob.path));
            assert!(hint.contains(knob.allow), "{hint}");
            assert_eq!(hint.contains("as root"), knob.spares_root, "{hint}");
        }
        assert!(hint(false, None).contains("as root"));
    }

    #[test]
    fn root_is_not_told_to_be_root() {
        for path in KNOBS.iter().map(|knob| Some(knob.path)).chain([None]) {
            assert!(!hint(true, path).contains("as root"));
        }
    }
}
