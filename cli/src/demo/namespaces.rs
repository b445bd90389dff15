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
    unshare(flags).map_err(|error| not_allowed(error, &read_knob))?;
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

/// The settings that can forbid user namespaces: the file, the value that forbids, what allows.
const KNOBS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces=15000",
    ),
];

fn not_allowed(error: Errno, read: &dyn Fn(&str) -> Option<String>) -> Failure {
    let forbidding = KNOBS
        .iter()
        .find(|(path, forbids, _)| read(path).as_deref() == Some(forbids));
    let hint = match forbidding {
        Some((path, value, allow)) => {
            let knob = path.trim_start_matches("/proc/sys/").replace('/', ".");
            format!("{knob} is {value} here: run the demo as root (sudo), or allow it with `sudo {allow}`")
        }
        None if error == Errno::ENOSPC => {
            "the limit of namespaces is reached: raise user.max_user_namespaces, or end other namespaces".to_owned()
        }
        None => "run the demo as root (sudo); in a container, give it the right to make namespaces \
                 (Docker: `--privileged`, or `--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                 --security-opt systempaths=unconfined`)"
            .to_owned(),
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

    #[test]
    fn the_setting_that_forbids_is_named_with_the_way_on() {
        for (path, forbids, allow) in KNOBS {
            let failure = not_allowed(Errno::EPERM, &|asked| (asked == path).then(|| forbids.to_owned()));
            let hint = failure.hint.unwrap();
            assert!(hint.contains(allow) && hint.contains("as root"), "{hint}");
            assert_eq!(failure.exit, Exit::NotHere);
        }
        let unknown = not_allowed(Errno::EPERM, &|_| None);
        assert!(unknown.hint.unwrap().contains("as root"));
    }
}
