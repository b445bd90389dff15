//! A process that is held: by a pidfd that the kernel hands out with the socket (`SO_PEERPIDFD`, Linux 6.5), else by its
//! directory in /proc and its start time. Either names one process for ever, whatever becomes of its number.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::AttestError;

/// How often a process without a pidfd is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug)]
pub struct Process {
    pid: i32,
    held: Held,
    /// The executable that it ran when it was met; none where the kernel did not let us see it.
    met: OnceLock<Option<Executable>>,
    replaced: AtomicBool,
}

/// Which file runs: its device and inode.
pub type Executable = (u64, u64);

#[derive(Debug)]
enum Held {
    Pidfd(AsyncFd<OwnedFd>),
    Proc { dir: OwnedFd, start: u64 },
}

impl Process {
    /// The process that connected this socket.
    pub fn behind(stream: &impl AsFd, pid: i32, uid: u32) -> Result<Self, AttestError> {
        let process = match getsockopt(stream, PeerPidfd) {
            Ok(pidfd) => {
                let held = watched(pidfd).map_err(|error| AttestError::Kernel(error.to_string()))?;
                Self::of(pid, Held::Pidfd(held))
            }
            Err(Errno::ENOPROTOOPT) => Self::by_start_time(pid, uid)?,
            Err(Errno::ESRCH | Errno::ENODATA | Errno::EINVAL) => return Err(AttestError::Gone(pid)),
            Err(errno) => return Err(AttestError::Kernel(errno.to_string())),
        };
        process.check()?;
        process.meet();
        process.check()?;
        Ok(process)
    }

    fn of(pid: i32, held: Held) -> Self {
        let (met, replaced) = (OnceLock::new(), AtomicBool::new(false));
        Self {
            pid,
            held,
            met,
            replaced,
        }
    }

    /// Notes what it runs now. No file system is asked: one of the caller's own might never answer.
    fn meet(&self) -> Option<Executable> {
        let look = || {
            own_proc().ok()?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let file = rustix::fs::openat(self.dir().ok()?, "exe", flags, Mode::empty()).ok()?;
            executable(&file).ok()
        };
        *self.met.get_or_init(look)
    }

    /// Whether this is the file that it ran when it was met. Once it is another, the process is refused for good.
    pub fn still_runs(&self, file: impl AsFd) -> Result<(), String> {
        let now = executable(file).map_err(|errno| format!("its executable cannot be read: {errno}"))?;
        match self.meet() {
            Some(met) if met == now => Ok(()),
            Some(_) => {
                self.replaced.store(true, Ordering::Release);
                Err(AttestError::Replaced(self.pid).to_string())
            }
            None => Err("its executable could not be seen when it connected".to_owned()),
        }
    }

    /// For kernels without `SO_PEERPIDFD`. The number could have been reused between connect and now; then its new owner
    /// must at least have the uid that the kernel proved, or it is refused.
    pub fn by_start_time(pid: i32, uid: u32) -> Result<Self, AttestError> {
        let gone = |_| AttestError::Gone(pid);
        let dir = open_dir(pid).map_err(gone)?;
        let status = read_small(&dir, "status").map_err(gone)?;
        if effective(&status, "Uid:") != Some(uid) {
            return Err(AttestError::Gone(pid));
        }
        let stat = read_small(&dir, "stat").map_err(gone)?;
        let start = start_time(&stat).ok_or(AttestError::Gone(pid))?;
        Ok(Self::of(pid, Held::Proc { dir, start }))
    }

    /// The process that has this number now, with its effective uid and gid: for those who ask about a process that has
    /// not connected.
    pub fn named(pid: i32) -> Result<(Self, u32, u32), AttestError> {
        let gone = |_| AttestError::Gone(pid);
        own_proc().map_err(AttestError::Kernel)?;
        let number = Some(pid)
            .filter(|pid| *pid > 0)
            .and_then(rustix::process::Pid::from_raw)
            .ok_or(AttestError::Gone(pid))?;
        let dir = open_dir(pid).map_err(gone)?;
        let held = match rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => Held::Pidfd(watched(pidfd).map_err(|error| AttestError::Kernel(error.to_string()))?),
            Err(rustix::io::Errno::NOSYS) => {
                let stat = read_small(&dir, "stat").map_err(gone)?;
                let start = start_time(&stat).ok_or(AttestError::Gone(pid))?;
                let dir = dir.try_clone().map_err(gone)?;
                Held::Proc { dir, start }
            }
            Err(rustix::io::Errno::INVAL) => {
                return Err(AttestError::Kernel(format!("{pid} is a thread, not a process")));
            }
            Err(rustix::io::Errno::SRCH) => return Err(AttestError::Gone(pid)),
            Err(errno) => return Err(AttestError::Kernel(errno.to_string())),
        };
        let process = Self::of(pid, held);
        process.meet();
        // Opened before it was held: what a directory of an ended process answers is an error, never its successor's.
        let status = read_small(&dir, "status").map_err(gone)?;
        process.check()?;
        let ids = effective(&status, "Uid:").zip(effective(&status, "Gid:"));
        let (uid, gid) = ids.ok_or_else(|| AttestError::Kernel("its status is not understood".to_owned()))?;
        Ok((process, uid, gid))
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs (a zombie does not).
    pub fn check(&self) -> Result<(), AttestError> {
        if self.replaced.load(Ordering::Acquire) {
            return Err(AttestError::Replaced(self.pid));
        }
        let runs = match &self.held {
            Held::Pidfd(pidfd) => !ended(pidfd.get_ref()),
            // A directory of a process that ended answers ESRCH, also when the number was given to another.
            Held::Proc { dir, start } => {
                read_small(dir, "stat").is_ok_and(|stat| start_time(&stat) == Some(*start))
            }
        };
        if runs {
            Ok(())
        } else {
            Err(AttestError::Gone(self.pid))
        }
    }

    /// Returns when it has ended.
    pub async fn gone(&self) {
        match &self.held {
            Held::Pidfd(pidfd) => {
                while !ended(pidfd.get_ref()) {
                    match pidfd.readable().await {
                        Ok(mut guard) => guard.clear_ready(),
                        // The runtime is going down; whoever waits ends for that reason.
                        Err(_) => return,
                    }
                }
            }
            Held::Proc { .. } => {
                while self.check().is_ok() {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Its directory in /proc. The caller reads through it and calls [`Self::check`] afterwards: if the process runs
    /// then, its number was its own all the time.
    pub fn dir(&self) -> std::io::Result<OwnedFd> {
        match &self.held {
            Held::Pidfd(_) => open_dir(self.pid),
            Held::Proc { dir, .. } => dir.try_clone(),
        }
    }
}

/// Which file this is, by what the kernel remembers of it.
fn executable(file: impl AsFd) -> rustix::io::Result<Executable> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, "", flags, StatxFlags::INO)?;
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    Ok((device, found.stx_ino))
}

/// Whether /proc counts processes as we do: with a foreign /proc the same number is another process.
pub fn own_proc() -> Result<(), String> {
    let own = std::fs::read_link("/proc/self").map_err(|error| format!("/proc cannot be read: {error}"))?;
    if own.as_os_str() == std::process::id().to_string().as_str() {
        Ok(())
    } else {
        Err("/proc here belongs to another PID namespace".to_owned())
    }
}

fn open_dir(pid: i32) -> std::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?)
}

#[expect(
    deprecated,
    reason = "its successor is an unsafe function; an OwnedFd keeps what that one asks for"
)]
fn watched(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// A pidfd is readable once the process has ended.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(rustix::event::poll(&mut wanted, Some(&at_once)), Ok(0))
}

/// A small file of a process's directory.
pub fn read_small(dir: &OwnedFd, name: &str) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(16 << 10).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Field 22 of /proc/PID/stat (proc(5)), unless the process is dead or a zombie. The second field, the program's name,
/// is the process's own and may hold blanks and parentheses: only what follows the last `)` is read.
fn start_time(stat: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(stat);
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The second number after `Uid:` or `Gid:` in /proc/PID/status. The first line is the program's name, its own choice:
/// the kernel escapes line ends in it.
fn effective(status: &[u8], key: &str) -> Option<u32> {
    let text = String::from_utf8_lossy(status);
    let line = text.lines().skip(1).find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn child() -> Child {
        Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    /// Held by pidfd, as `behind` does it (there the kernel makes the pidfd from the socket).
    fn by_pidfd(pid: i32) -> Process {
        let raw = rustix::process::Pid::from_raw(pid).unwrap();
        let fd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).unwrap();
        Process::of(pid, Held::Pidfd(watched(fd).unwrap()))
    }

    #[tokio::test]
    async fn a_process_that_ended_is_gone_by_either_proof() {
        for hold in [by_pidfd as fn(i32) -> Process, |pid| {
            Process::by_start_time(pid, uid()).unwrap()
        }] {
            let child = child();
            let process = hold(pid(&child));
            process.check().unwrap();
            end(child);
            assert_eq!(process.check(), Err(AttestError::Gone(process.pid())));
            tokio::time::timeout(std::time::Duration::from_secs(10), process.gone())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_zombie_is_gone_by_either_proof() {
        for hold in [by_pidfd as fn(i32) -> Process, |pid| {
            Process::by_start_time(pid, uid()).unwrap()
        }] {
            let mut child = child();
            let process = hold(pid(&child));
            child.kill().unwrap();
            tokio::time::timeout(std::time::Duration::from_secs(10), process.gone())
                .await
                .unwrap();
            assert!(process.check().is_err());
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_reused_number_is_not_the_process() {
        // The number lives on as another process: same /proc entry, other start time.
        let us = i32::try_from(std::process::id()).unwrap();
        let Process {
            held: Held::Proc { dir, start },
            ..
        } = Process::by_start_time(us, uid()).unwrap()
        else {
            panic!("held by /proc")
        };
        let start = start - 1;
        let before = Process::of(us, Held::Proc { dir, start });
        assert_eq!(before.check(), Err(AttestError::Gone(us)));
    }

    #[tokio::test]
    async fn a_number_that_belongs_to_another_uid_is_refused() {
        let us = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(
            Process::by_start_time(us, uid() + 1),
            Err(AttestError::Gone(_))
        ));
    }

    #[tokio::test]
    async fn the_directory_of_an_ended_process_does_not_open_for_its_successor() {
        let child = child();
        let process = Process::by_start_time(pid(&child), uid()).unwrap();
        let dir = process.dir().unwrap();
        end(child);
        assert!(
            read_small(&dir, "stat").is_err(),
            "bound to the process, not to its number"
        );
    }

    #[tokio::test]
    async fn a_process_is_named_by_its_number_with_its_ids() {
        let child = child();
        let (process, uid, gid) = Process::named(pid(&child)).unwrap();
        assert_eq!((uid, gid), (self::uid(), rustix::process::getegid().as_raw()));
        process.check().unwrap();
        let gone = pid(&child);
        end(child);
        assert_eq!(process.check(), Err(AttestError::Gone(gone)));
        for nobody in [gone, 0, -1, i32::MAX] {
            assert!(Process::named(nobody).is_err(), "{nobody}");
        }
    }

    #[tokio::test]
    async fn the_kernel_names_the_process_behind_a_socket() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let us = i32::try_from(std::process::id()).unwrap();
        let process = Process::behind(&ours, us, uid()).unwrap();
        process.check().unwrap();
    }

    #[test]
    fn a_name_cannot_forge_the_start_time() {
        let tail = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1 18446744073709551615 1";
        for name in [
            "cat",
            "a b",
            "x) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 7 (",
            ")))",
        ] {
            assert_eq!(
                start_time(format!("9 ({name}) {tail}").as_bytes()),
                Some(4242),
                "{name}"
            );
        }
        for dead in ["Z", "X", "x"] {
            let stat = format!("9 (cat) {}", tail.replacen('S', dead, 1));
            assert_eq!(start_time(stat.as_bytes()), None);
        }
        assert_eq!(start_time(b"9 (cat) S 1"), None);
        assert_eq!(start_time(b""), None);
    }
}
