//! A connection to an application, the first bytes of which are looked at: HTTP/2 begins with a SETTINGS frame, and nothing
//! else does (RFC 9113 3.4). Before they are seen to be that, no byte of them reaches the HTTP/2 layer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Length, type, flags, stream.
const FRAME_HEAD: usize = 9;

/// A connection whose first bytes are not yet known.
pub(super) struct Sniffed {
    io: TcpStream,
    head: Vec<u8>,
    /// Gone once it was told.
    told: Option<oneshot::Sender<bool>>,
}

impl Sniffed {
    /// Tells whether `io` answers as HTTP/2 does.
    pub(super) fn new(io: TcpStream) -> (Self, oneshot::Receiver<bool>) {
        let (told, heard) = oneshot::channel();
        let head = Vec::with_capacity(FRAME_HEAD);
        let told = Some(told);
        (Self { io, head, told }, heard)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.told.is_some() {
            let mut space = [0; FRAME_HEAD];
            let room = space
                .get_mut(..FRAME_HEAD.saturating_sub(self.head.len()))
                .unwrap_or_default();
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let ended = read.filled().is_empty();
            self.head.extend_from_slice(read.filled());
            let verdict = if ended {
                Some(false)
            } else {
                is_settings(&self.head)
            };
            let Some(settings) = verdict else {
                continue;
            };
            if let Some(told) = self.told.take() {
                // Whoever asked may have lost patience.
                let _gone = told.send(settings);
            }
            if !settings {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether a frame head is that of a first SETTINGS; `None`: not enough of it.
fn is_settings(head: &[u8]) -> Option<bool> {
    match head {
        [0, _, _, 4, 0, 0, 0, 0, 0] => Some(true),
        [_, _, _, kind, ..] if *kind != 4 => Some(false),
        _ if head.len() < FRAME_HEAD => None,
        _ => Some(false),
    }
}

impl AsyncRead for Sniffed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        if self.head.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.head.len().min(buf.remaining());
        let rest = self.head.split_off(count);
        buf.put_slice(&self.head);
        self.head = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
