//! The sockets: made with their mode before anybody can connect, never over a socket that is alive, and removed at the
//! end if they are still ours. What leaves is a connection with its peer attested and admitted.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::{mpsc, watch};

use super::connection::{Caller, Connection};
use super::limits::Admission;
use crate::attest::Peer;
use crate::audit::Event;

/// As much as most kernels allow (`net.core.somaxconn`): while it is full, nobody can connect.
const BACKLOG: u32 = 4096;
/// After an accept that failed (no descriptors left), so that it does not spin.
const BREATHER: Duration = Duration::from_millis(100);
/// `sun_path` of unix(7), without its closing zero.
const MAX_PATH: usize = 107;

/// A Workload API socket as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The name that selectors use.
    pub name: Arc<str>,
    /// Where it is.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// Why a socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit.
    #[error("the socket path `{0}` is longer than {MAX_PATH} bytes")]
    TooLong(PathBuf),
    /// Its directory is missing.
    #[error("the socket `{0}` is in no directory that exists")]
    NoDirectory(PathBuf),
    /// Somebody listens on it.
    #[error("the socket `{0}` is in use by another process")]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("`{0}` exists and is not a socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("the socket `{path}`: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Socket {
    /// Whether the machine is ready for the socket; makes nothing.
    ///
    /// # Errors
    /// What would keep it from being made here: the path's length, its directory, or something else that lies there.
    pub fn check(&self) -> Result<(), SocketError> {
        let path = &self.path;
        if path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path.clone()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        match parent.map(std::fs::metadata) {
            None => {}
            Some(Ok(found)) if found.is_dir() => {}
            Some(Ok(_)) => return Err(SocketError::NoDirectory(path.clone())),
            Some(Err(source)) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(SocketError::Io {
                    path: path.clone(),
                    source,
                });
            }
            Some(Err(_)) => return Err(SocketError::NoDirectory(path.clone())),
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket(path.clone())),
            _ => Ok(()),
        }
    }
}

impl SocketError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::TooLong(_) => "choose a shorter path".to_owned(),
            Self::NoDirectory(path) => {
                format!("mkdir -p {}", path.parent().unwrap_or(Path::new("/")).display())
            }
            Self::InUse(_) => "stop the other process, or choose another path".to_owned(),
            Self::NotASocket(_) => "remove it, or choose another path".to_owned(),
            Self::Io { .. } => "the directory must be writable for this user".to_owned(),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    socket: Socket,
    inode: (u64, u64),
}

impl Bound {
    /// Makes the socket and listens. Must be called in a tokio runtime.
    pub fn new(socket: &Socket) -> Result<Self, SocketError> {
        let path = &socket.path;
        let io = |source| SocketError::Io {
            path: path.clone(),
            source,
        };
        socket.check()?;
        remove_stale(path)?;
        let unix = UnixSocket::new_stream().map_err(io)?;
        unix.bind(path).map_err(io)?;
        // Before `listen` nobody can connect, so nobody slips in before the mode is set.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(socket.mode)).map_err(io)?;
        let made = std::fs::symlink_metadata(path).map_err(io)?;
        let listener = unix.listen(BACKLOG).map_err(io)?;
        Ok(Self {
            listener,
            socket: socket.clone(),
            inode: (made.dev(), made.ino()),
        })
    }

    /// Accepts until `closing`, and hands over whoever was attested and admitted.
    pub async fn accept(
        self,
        admission: Arc<Admission>,
        connections: mpsc::Sender<Connection>,
        mut closing: watch::Receiver<bool>,
    ) {
        loop {
            let stream = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                stream = self.next() => stream,
            };
            if let Some(connection) = self.admit(stream, &admission)
                && connections.send(connection).await.is_err()
            {
                return;
            }
        }
    }

    /// The next connection, whoever it is from.
    pub async fn next(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::error!(socket = %self.socket.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream, admission: &Arc<Admission>) -> Option<Connection> {
        let uid = stream.peer_cred().ok()?.uid();
        let permit = match admission.connect(uid, Instant::now()) {
            Ok(permit) => permit,
            Err(reason) => {
                if let Some(unlogged) = admission.may_log(uid, Instant::now()) {
                    tracing::warn!(uid, socket = %self.socket.name, %reason, unlogged, "connection refused");
                    admission.tell(&Event {
                        uid: Some(uid),
                        socket: Some(self.socket.name.clone()),
                        untold: unlogged,
                        ..Event::new("connection", "refused").because(&reason)
                    });
                }
                return None;
            }
        };
        let peer = Peer::of(&stream, self.socket.name.clone());
        Some(Connection::new(stream, Caller { uid, peer }, permit))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let path = &self.socket.path;
        let ours =
            std::fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens on any more: only a refused connection proves that.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io)?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io)
        }
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(path: PathBuf) -> Socket {
        Socket {
            name: "default".into(),
            path,
            mode: 0o660,
        }
    }

    #[tokio::test]
    async fn it_has_its_mode_and_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.sock");
        let bound = Bound::new(&socket(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind, as after a crash");
        let bound = Bound::new(&socket(path.clone())).unwrap();
        assert!(matches!(
            Bound::new(&socket(path.clone())),
            Err(SocketError::InUse(_))
        ));
        drop(bound);
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.sock");
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(
            Bound::new(&socket(path.clone())),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
        std::fs::remove_file(&path).unwrap();

        let bound = Bound::new(&socket(path.clone())).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists(), "another process's socket of the same name");
    }

    #[tokio::test]
    async fn a_missing_directory_and_a_long_path_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Bound::new(&socket(dir.path().join("no/w.sock"))).unwrap_err();
        assert!(missing.hint().starts_with("mkdir -p"));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(Bound::new(&socket(long)), Err(SocketError::TooLong(_))));
    }
}
