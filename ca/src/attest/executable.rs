//! What has to be read about a process, bounded in time and number for each uid; and path and SHA-256 of the executable
//! that it runs, read through the process itself, so that a file put in its
//! place is never taken for it. Either it is read and the process ran all the while, or there is a reason.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::Ids;
use super::process::{Process, own_proc};
use crate::registration::Cgroup;

/// Larger executables are refused rather than read.
const MAX_EXECUTABLE: u64 = 512 << 20;
/// One reading; a file system of the caller's own may never answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Readings at once for one uid: one that hangs holds up its own uid only.
const READS_PER_UID: usize = 2;
const CACHE: usize = 256;
/// A file that changed this recently may change again without a new time stamp (its clock has ticks): not cached.
const RACY_SECONDS: i64 = 2;

/// Reads executables, and remembers hashes.
#[derive(Debug)]
pub struct Inspector {
    ids: Ids,
    hashes: Arc<Mutex<HashMap<Version, Hash>>>,
    readers: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

type Hash = [u8; 32];

/// One state of one file. The change time cannot be set by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Inspector {
    /// An inspector for the namespaces that this process lives in.
    pub fn new() -> Self {
        Self {
            ids: Ids::of_this_process(),
            hashes: Arc::default(),
            readers: Mutex::default(),
        }
    }

    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    pub(super) async fn path(&self, uid: u32, process: &Arc<Process>) -> Result<PathBuf, String> {
        let process = process.clone();
        self.read(uid, move || path(&process)).await
    }

    pub(super) async fn sha256(&self, uid: u32, process: &Arc<Process>) -> Result<Hash, String> {
        let (process, hashes) = (process.clone(), self.hashes.clone());
        self.read(uid, move || sha256(&process, &hashes)).await
    }

    pub(super) async fn cgroup(&self, uid: u32, process: &Arc<Process>) -> Result<Cgroup, String> {
        let process = process.clone();
        self.read(uid, move || super::cgroup::read(&process)).await
    }

    pub(super) async fn user(&self, uid: u32) -> Result<Arc<str>, String> {
        self.read(uid, move || super::names::user(uid)).await
    }

    pub(super) async fn group(&self, uid: u32, gid: u32) -> Result<Arc<str>, String> {
        self.read(uid, move || super::names::group(gid)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let readers = self.readers_of(uid);
        let reading = async move {
            let permit = readers
                .acquire_owned()
                .await
                .map_err(|_| "the authority is ending".to_owned())?;
            let work = tokio::task::spawn_blocking(move || {
                let answer = work();
                drop(permit);
                answer
            });
            work.await.map_err(|_| "its reader failed".to_owned())?
        };
        match tokio::time::timeout(TIMEOUT, reading).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("it was not read within {TIMEOUT:?}")),
        }
    }

    fn readers_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() > 1024 {
            readers.retain(|_, semaphore| {
                Arc::strong_count(semaphore) > 1 || semaphore.available_permits() < READS_PER_UID
            });
        }
        readers
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(READS_PER_UID)))
            .clone()
    }
}

impl Default for Inspector {
    fn default() -> Self {
        Self::new()
    }
}

/// The path is proven when the process sees the same mounts as we do, and the file at that path is the one that runs.
fn path(process: &Process) -> Result<PathBuf, String> {
    let dir = open(process)?;
    let theirs = rustix::fs::readlinkat(&dir, "ns/mnt", Vec::new()).map_err(denied)?;
    let ours = std::fs::read_link("/proc/self/ns/mnt").map_err(|error| error.to_string())?;
    if theirs.as_bytes() != ours.as_os_str().as_encoded_bytes() {
        return Err("it runs in another mount namespace, where a path means another file".to_owned());
    }
    let link = rustix::fs::readlinkat(&dir, "exe", Vec::new()).map_err(denied)?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
    let running =
        rustix::fs::openat(&dir, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(denied)?;
    process.still_runs(&running)?;
    let running = metadata(running)?;
    // The kernel marks a removed file with " (deleted)" in the link, which a file name may also end with; what lies at
    // the path decides.
    let there =
        std::fs::symlink_metadata(&path).map_err(|_| "the file at its path was removed".to_owned())?;
    if (there.dev(), there.ino()) != (running.dev(), running.ino()) {
        return Err("the file at its path is not the one that runs: it was replaced".to_owned());
    }
    process.check().map_err(|gone| gone.to_string())?;
    Ok(path)
}

fn sha256(process: &Process, hashes: &Mutex<HashMap<Version, Hash>>) -> Result<Hash, String> {
    let dir = open(process)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file =
        std::fs::File::from(rustix::fs::openat(&dir, "exe", flags, Mode::empty()).map_err(denied)?);
    process.still_runs(&file)?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if !found.is_file() || found.len() > MAX_EXECUTABLE {
        return Err(format!(
            "its executable is not a plain file of at most {} MiB",
            MAX_EXECUTABLE >> 20
        ));
    }
    let version = Version::of(&found);
    let known = hashes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&version)
        .copied();
    let hash = match known {
        Some(hash) => hash,
        None => {
            let hash = hash(&mut file).map_err(|error| error.to_string())?;
            let after = file.metadata().map_err(|error| error.to_string())?;
            if Version::of(&after) != version {
                return Err("its executable changed while it was read".to_owned());
            }
            remember(hashes, version, hash);
            hash
        }
    };
    process.check().map_err(|gone| gone.to_string())?;
    Ok(hash)
}

/// The process's directory, if /proc counts processes as we do.
pub(super) fn open(process: &Process) -> Result<OwnedFd, String> {
    own_proc()?;
    process
        .dir()
        .map_err(|error| format!("its directory in /proc cannot be opened: {error}"))
}

fn metadata(fd: OwnedFd) -> Result<std::fs::Metadata, String> {
    std::fs::File::from(fd)
        .metadata()
        .map_err(|error| error.to_string())
}

fn denied(errno: Errno) -> String {
    match errno {
        Errno::ACCESS | Errno::PERM => {
            "the kernel does not let us see its executable (another uid needs CAP_SYS_PTRACE; some processes are never \
             visible)"
                .to_owned()
        }
        Errno::NOENT | Errno::SRCH => "the process is gone or has no executable".to_owned(),
        errno => format!("its executable cannot be read: {errno}"),
    }
}

fn hash(file: &mut std::fs::File) -> std::io::Result<Hash> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 << 10];
    let mut left = MAX_EXECUTABLE;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        left = left
            .checked_sub(count as u64)
            .ok_or_else(|| std::io::Error::other("it grew while it was read"))?;
        context.update(buffer.get(..count).unwrap_or_default());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok(hash)
}

fn remember(hashes: &Mutex<HashMap<Version, Hash>>, version: Version, hash: Hash) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if version.changed.0.saturating_add(RACY_SECONDS) >= i64::try_from(now).unwrap_or(0) {
        return;
    }
    let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
    if hashes.len() >= CACHE {
        hashes.clear();
    }
    hashes.insert(version, hash);
}

impl Version {
    fn of(found: &std::fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}
