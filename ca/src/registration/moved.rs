//! Whether the kernel saw a file being moved to the place of another: whoever does that has finished it, so nobody has to
//! wait until it is still. What it does not see (another machine's change, a directory that was replaced) is left to
//! those who look.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What Kubernetes swaps for all files of a volume at once, each of which is a link through it.
const VOLUME: &str = "..data";

/// Moves to one place.
pub struct Moves {
    told: Option<AsyncFd<OwnedFd>>,
    name: Vec<u8>,
}

impl Moves {
    /// Moves to the place of this file. Must be called in a tokio runtime.
    pub fn to(file: &Path) -> Self {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let told = watched(folder.unwrap_or(Path::new(".")));
        if let Err(error) = &told {
            tracing::debug!(%error, file = %file.display(), "moves are not told: changes are seen a little later");
        }
        Self {
            told: told.ok(),
            name: file.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec(),
        }
    }

    /// Returns when there was one. Nothing is lost when it is dropped before.
    pub async fn next(&self) {
        while let Some(told) = &self.told
            && let Ok(mut guard) = told.readable().await
        {
            if self.seen() {
                return;
            }
            guard.clear_ready();
        }
        std::future::pending().await
    }

    /// Whether there was one since the last time.
    fn seen(&self) -> bool {
        let Some(told) = &self.told else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(told.get_ref(), &mut buffer);
        let mut seen = false;
        // The last answer is that there are no more.
        while let Ok(event) = events.next() {
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            seen |= name.is_some_and(|name| name == self.name || name == VOLUME.as_bytes());
        }
        seen
    }
}

#[expect(
    deprecated,
    reason = "its successor is an unsafe function; an OwnedFd keeps what that one asks for"
)]
fn watched(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let told = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    add_watch(&told, folder, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
    AsyncFd::with_interest(told, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_move_to_the_place_is_seen_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("entries.toml"), "1").unwrap();
        let moves = Moves::to(&path("entries.toml"));
        std::fs::write(path("entries.toml"), "2").unwrap();
        std::fs::write(path("new"), "3").unwrap();
        std::fs::rename(path("new"), path("newer")).unwrap();
        std::fs::rename(path("entries.toml"), path("entries.toml~")).unwrap();
        std::fs::write(path("entries.toml"), "half").unwrap();
        assert!(!moves.seen());
        for name in ["entries.toml", VOLUME] {
            std::fs::rename(path("newer"), path(name)).unwrap();
            tokio::time::timeout(Duration::from_secs(10), moves.next())
                .await
                .unwrap();
            assert!(!moves.seen(), "once");
            std::fs::write(path("newer"), "4").unwrap();
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let moves = Moves::to(&dir.path().join("no/entries.toml"));
        assert!(!moves.seen());
        assert!(tokio::time::timeout(Duration::ZERO, moves.next()).await.is_err());
    }
}
