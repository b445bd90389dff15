//! One accepted connection as the gRPC server sees it: the stream with its `:authority` repaired, a deadline for showing
//! HTTP/2 at all, the attested peer, and the place that it takes among the connections until it is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::frames::Frames;
use super::limits::Permit;
use crate::attest::{AttestError, Peer};

/// Who has not spoken HTTP/2 by then is cut.
const OPENING: Duration = Duration::from_secs(5);

/// Who called, or why that cannot be told: then every call is answered with PermissionDenied and the reason.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As the kernel writes it: for limits and the log.
    pub uid: u32,
    pub peer: Result<Peer, AttestError>,
}

pub struct Connection {
    stream: UnixStream,
    frames: Frames,
    deadline: Pin<Box<Sleep>>,
    caller: Caller,
    _permit: Permit,
}

impl Connection {
    pub fn new(stream: UnixStream, caller: Caller, permit: Permit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(OPENING));
        Self {
            stream,
            frames: Frames::new(),
            deadline,
            caller,
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.frames.opened() && this.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no HTTP/2 within the time allowed",
            )));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            this.frames.walk(new);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
