//! One direction of an HTTP/1.1 message: a rewritten head and the body that follows in the source enter, both go on to
//! the sink, the body judged byte by byte before it does. It never ends the sink; how a broken body is made visible is
//! the caller's part.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::forward::Buffered;
use crate::request::{BodyReader, Refusal};

/// Why a direction stopped before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// The source failed, or ended in the middle of the body (`UnexpectedEof`).
    Source(io::Error),
    /// The body is not framed as it must be.
    Body(Refusal),
    /// The sink failed.
    Sink,
}

/// Which side a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    Source,
    Sink,
}

/// A message on its way.
pub(super) struct Pipe {
    head: Vec<u8>,
    written: usize,
    reader: BodyReader,
    /// At the front of the source's buffer: judged, to be written.
    ready: usize,
    /// Behind those: judged, to be left out.
    skip: usize,
    ended: bool,
    unflushed: bool,
    pub(super) waits_for: WaitsFor,
    /// Bytes of the body that were written.
    pub(super) body_bytes: u64,
}

impl Pipe {
    pub(super) fn new(head: Vec<u8>, reader: BodyReader) -> Self {
        let ended = reader.is_done();
        Self {
            head,
            written: 0,
            reader,
            ready: 0,
            skip: 0,
            ended,
            unflushed: false,
            waits_for: WaitsFor::Source,
            body_bytes: 0,
        }
    }

    /// Whether any byte was handed to the sink.
    pub(super) fn has_begun(&self) -> bool {
        self.written > 0
    }

    /// Moves what can be moved. Ready when the whole message is written and flushed.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered<R>,
        to: &mut Buffered<W>,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            self.judge(from)?;
            self.waits_for = WaitsFor::Sink;
            if self.written < self.head.len() || self.ready > 0 {
                ready!(self.poll_write(cx, from, to, moved)).map_err(|_| Broken::Sink)?;
            } else if self.skip > 0 {
                from.consume(self.skip);
                self.skip = 0;
            } else if self.ended {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                return Poll::Ready(Ok(()));
            } else {
                match from.poll_fill(cx) {
                    Poll::Ready(Ok(0)) if self.reader.ends_with_connection() => self.ended = true,
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Broken::Source(io::ErrorKind::UnexpectedEof.into())));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error))),
                    Poll::Pending => {
                        // Nothing more to read: what was written must not wait in a buffer below.
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                            self.unflushed = false;
                        }
                        self.waits_for = WaitsFor::Source;
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Judges what lies in the source's buffer, unless there is judged matter already.
    fn judge<R>(&mut self, from: &Buffered<R>) -> Result<(), Broken> {
        if self.ready == 0 && self.skip == 0 && !self.ended {
            let fed = self.reader.feed(from.data()).map_err(Broken::Body)?;
            self.ready = fed.forward;
            self.skip = fed.consumed.saturating_sub(fed.forward);
            self.ended = fed.done;
        }
        Ok(())
    }

    /// One write: head and body together where the sink can take both.
    fn poll_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered<R>,
        to: &mut Buffered<W>,
        moved: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        let head = self.head.get(self.written..).unwrap_or_default();
        let body = from.data().get(..self.ready).unwrap_or_default();
        let count = ready!(if head.is_empty() {
            Pin::new(to).poll_write(cx, body)
        } else if body.is_empty() || !to.is_write_vectored() {
            Pin::new(to).poll_write(cx, head)
        } else {
            Pin::new(to).poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])
        })?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_head = count.min(head.len());
        let of_body = count.saturating_sub(of_head);
        self.unflushed = true;
        self.written = self.written.saturating_add(of_head);
        self.ready = self.ready.saturating_sub(of_body);
        from.consume(of_body);
        let of_body = u64::try_from(of_body).unwrap_or_default();
        self.body_bytes = self.body_bytes.saturating_add(of_body);
        moved.fetch_add(of_body, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}
