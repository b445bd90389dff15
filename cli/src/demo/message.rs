//! Messages over a unix socket: one JSON line each way, with descriptors beside it. It bounds what it reads and decides
//! nothing.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message: configuration overrides of a test are the largest thing that travels.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// The most descriptors beside one message.
const MAX_FDS: usize = 8;

/// The socket that the parent process gave as standard input.
///
/// # Errors
/// The descriptor cannot be duplicated.
pub fn from_stdin() -> io::Result<UnixStream> {
    let fd: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(UnixStream::from(fd))
}

/// Sends one message with its descriptors.
///
/// # Errors
/// The system's error; `BrokenPipe` when the other end is gone.
pub fn send(mut socket: &UnixStream, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(bytes.get(sent..).unwrap_or_default())
}

/// Receives one message and its descriptors; `None` when the other end closed.
///
/// # Errors
/// The system's error, a message that is too long or not the JSON expected.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut message = Vec::new();
    let mut fds = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while !message.ends_with(b"\n") {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            return if message.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        message.extend_from_slice(chunk.get(..got.bytes).unwrap_or_default());
        if message.len() > MAX_MESSAGE {
            return Err(io::Error::other("message too long"));
        }
    }
    Ok(Some((serde_json::from_slice(&message)?, fds)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_message_carries_its_descriptors() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut probe, passed) = UnixStream::pair().unwrap();
        // Longer than the socket holds: whoever sends waits for whoever receives.
        let sender = std::thread::spawn(move || send(&near, &"x".repeat(300_000), &[passed.as_fd()]));
        let (text, fds): (String, _) = receive(&far).unwrap().unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(text.len(), 300_000);
        let received: OwnedFd = fds.into_iter().next().unwrap();
        UnixStream::from(received).write_all(b"hello").unwrap();
        let mut greeting = [0; 5];
        probe.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello");
    }

    #[test]
    fn a_closed_end_is_no_message_and_half_a_message_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert!(receive::<String>(&far).unwrap().is_none());
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"\"half").unwrap();
        drop(near);
        assert!(receive::<String>(&far).is_err());
    }
}
