//! The administration socket: a path enters, connections of the own user and of root leave. The application shares the
//! loopback with the sidecar but not its user, so it is a unix socket, 0600, and the kernel says who the peer is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use super::AdminError;
use super::serve::Listener;

/// The listening socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that the file of a successor is not removed.
    file: Option<(u64, u64)>,
    uid: u32,
}

impl AdminSocket {
    /// Creates the socket, 0600. The folder must be there. A socket that is left from a process that ended is replaced; one
    /// that somebody listens on, or a file of another kind, is not touched. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn bind(path: &Path) -> Result<Self, AdminError> {
        clear_stale(path)?;
        let listener = listen(path).map_err(|source| system(path, source))?;
        let file = fs::symlink_metadata(path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
            uid: geteuid().as_raw(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for AdminSocket {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<Option<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?.uid();
        if may_ask(peer, self.uid) {
            return Ok(Some(stream));
        }
        tracing::warn!(uid = peer, "refused on the administration socket: another user");
        Ok(None)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        if there.is_some() && there == self.file {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

fn clear_stale(path: &Path) -> Result<(), AdminError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(system(path, source)),
    };
    if !metadata.file_type().is_socket() {
        return Err(AdminError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(AdminError::InUse(path.to_owned())),
        // Only this answer says that nobody listens; any other leaves it open.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| system(path, source))
        }
        Err(source) => Err(system(path, source)),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before `listen`, so there is no moment with wider rights.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(64)?;
    UnixListener::from_std(socket.into())
}

fn system(path: &Path, source: io::Error) -> AdminError {
    AdminError::System {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000));
        assert!(may_ask(0, 1000));
        assert!(!may_ask(1001, 1000));
        // A peer of another user namespace shows as the overflow user.
        assert!(!may_ask(65534, 1000));
        assert!(!may_ask(1000, 0));
    }

    #[tokio::test]
    async fn it_is_private_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(socket.path(), path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = AdminSocket::bind(&path).unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::InUse(_))));
        assert!(path.exists());

        // A successor that took the path over keeps its file.
        fs::remove_file(&path).unwrap();
        let second = AdminSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(
            AdminSocket::bind(&dir.path().join("no/admin.sock")),
            Err(AdminError::System { .. })
        ));
    }
}
