//! One byte stream of a tunnel: the two halves of an HTTP/2 stream enter, `AsyncRead + AsyncWrite` leaves. END_STREAM is
//! the end of a direction, as FIN is in TCP; a stream that is dropped before it said its own end is reset, and the other
//! side reads `ConnectionReset`, never a clean end. What waits to be sent is bounded by the peer's window and our buffer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::life::{Blocked, End, Life, Place};
use super::settings::{DRAIN_BYTES, DRAIN_TIME, WRITE_CHUNK};

/// A stream through a tunnel.
#[derive(Debug)]
pub struct TunnelStream {
    /// Both are there until the drop.
    halves: Option<(SendStream<Bytes>, RecvStream)>,
    /// Received and not yet read.
    rest: Bytes,
    read_ended: bool,
    write_ended: bool,
    blocked: Option<Blocked>,
    place: Option<Place>,
    life: Arc<Life>,
}

impl TunnelStream {
    pub(super) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        life: Arc<Life>,
        place: Option<Place>,
    ) -> Self {
        Self {
            halves: Some((send, recv)),
            rest: Bytes::new(),
            read_ended: false,
            write_ended: false,
            blocked: None,
            place,
            life,
        }
    }

    /// Why the tunnel under this stream ended, if it did.
    pub fn tunnel_ended(&self) -> Option<&End> {
        self.life.ended()
    }

    fn read_into(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let Some((_, recv)) = &mut self.halves else {
            return Poll::Ready(Err(gone()));
        };
        let mut read = 0;
        loop {
            let part = self.rest.split_to(self.rest.len().min(buf.remaining()));
            buf.put_slice(&part);
            read += part.len();
            if buf.remaining() == 0 || self.read_ended {
                return Poll::Ready(Ok(read));
            }
            match recv.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.rest = chunk,
                Poll::Ready(None) => self.read_ended = true,
                // What was read is delivered first; the error stays and comes again.
                Poll::Ready(Some(Err(_))) | Poll::Pending if read > 0 => return Poll::Ready(Ok(read)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(reset(&self.life, &error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// How much of `want` may be sent now.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        let Some((send, _)) = &mut self.halves else {
            return Poll::Ready(Err(gone()));
        };
        send.reserve_capacity(want);
        loop {
            match send.capacity() {
                0 => {}
                some => return Poll::Ready(Ok(some.min(want))),
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(reset(&self.life, &error))),
                None => return Poll::Ready(Err(closed(&self.life, send, cx))),
            }
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = ready!(this.read_into(cx, buf))?;
        if let Some((_, recv)) = &mut this.halves
            && read > 0
        {
            // Fails only when the stream is over, and then there is no window to open.
            let _ = recv.flow_control().release_capacity(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "written after the end",
            )));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Poll::Ready(capacity) = this.poll_capacity(cx, buf.len().min(WRITE_CHUNK)) else {
            if this.blocked.is_none() {
                this.blocked = Some(Blocked::new(&this.life));
            }
            return Poll::Pending;
        };
        this.blocked = None;
        let (Some((send, _)), Some(piece)) = (&mut this.halves, buf.get(..capacity?)) else {
            return Poll::Ready(Err(gone()));
        };
        let sent = send.send_data(Bytes::copy_from_slice(piece), false);
        Poll::Ready(
            sent.map(|()| piece.len())
                .map_err(|error| reset(&this.life, &error)),
        )
    }

    /// What was written is with the task of the tunnel, which sends it without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends this direction; the other one goes on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Ok(()));
        }
        this.write_ended = true;
        this.blocked = None;
        let Some((send, _)) = &mut this.halves else {
            return Poll::Ready(Err(gone()));
        };
        // Window that a cancelled write asked for goes back to the other streams.
        send.reserve_capacity(0);
        match send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(closed(&this.life, send, cx))),
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let Some((mut send, recv)) = self.halves.take() else {
            return;
        };
        if !self.write_ended {
            send.send_reset(Reason::CANCEL);
        } else if !self.read_ended {
            drain(send, recv, self.place.take());
        }
    }
}

/// Reads a stream to its end after its owner has left. A reset instead would be answered by frames for a stream that we
/// may have forgotten, and enough of those end the whole tunnel (`too_many_internal_resets`).
pub(super) fn drain(send: SendStream<Bytes>, mut recv: RecvStream, place: Option<Place>) {
    if recv.is_end_stream() {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let _held = (send, place);
        let to_end = async {
            let mut left = DRAIN_BYTES;
            while let Some(Ok(chunk)) = recv.data().await {
                let _ = recv.flow_control().release_capacity(chunk.len());
                left = match left.checked_sub(chunk.len()) {
                    Some(left) => left,
                    None => return,
                };
            }
        };
        // Past either bound the drop of the halves resets the stream.
        let _ = tokio::time::timeout(DRAIN_TIME, to_end).await;
    });
}

/// The error of a stream that was cut, with the reason of the tunnel when that is what ended.
fn reset(life: &Life, error: &h2::Error) -> io::Error {
    match life.ended() {
        Some(end) => io::Error::new(io::ErrorKind::ConnectionReset, end.clone()),
        None => io::Error::new(
            io::ErrorKind::ConnectionReset,
            format!("stream through the tunnel: {error}"),
        ),
    }
}

/// The error of a write to a direction that is closed. A server that has answered and wants no more says NO_ERROR (RFC 9113
/// 8.1): that is a closed pipe and no failure.
fn closed(life: &Life, send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> io::Error {
    match send.poll_reset(cx) {
        Poll::Ready(Ok(Reason::NO_ERROR)) | Poll::Pending => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the peer reads no more")
        }
        Poll::Ready(Ok(reason)) => reset(life, &h2::Error::from(reason)),
        Poll::Ready(Err(error)) => reset(life, &error),
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
