//! Bytes in both directions between two streams, whatever they mean: two streams enter, counts and the reason of the end
//! leave. A half-close on one side becomes a half-close on the other; when one side is dead, the copy ends.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scratch;
use super::timer::IdleTimer;

/// What happened so far, for whoever watches a connection while it lives, or ends it.
#[derive(Debug, Default)]
pub struct Progress {
    /// From the first stream to the second: from the client up.
    pub a_to_b: AtomicU64,
    /// From the second to the first: down to the client.
    pub b_to_a: AtomicU64,
    /// How the application answered: status of the final head, and how long it took. Never set on an opaque connection.
    answered: OnceLock<(u16, Duration)>,
}

impl Progress {
    /// The final head came.
    pub(super) fn answered(&self, status: u16, after: Duration) {
        // The first counts: there is one final head.
        let _known = self.answered.set((status, after));
    }

    /// The status of the final head, and the time until it, as far as one came.
    #[must_use]
    pub fn answer(&self) -> Option<(u16, Duration)> {
        self.answered.get().copied()
    }

    /// Both counts: up, down.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.a_to_b.load(Ordering::Relaxed),
            self.b_to_a.load(Ordering::Relaxed),
        )
    }
}

/// How a copy ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Both sides ended their direction in order.
    Closed,
    /// Nothing moved for the idle time.
    Idle,
    /// The first stream failed: reset, or ended without its proper end.
    AFailed(io::Error),
    /// The second stream failed.
    BFailed(io::Error),
}

impl CloseReason {
    /// A stable label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle_timeout",
            Self::AFailed(_) => "client_failed",
            Self::BFailed(_) => "upstream_failed",
        }
    }

    /// Whether both streams must be let go without an orderly end.
    #[must_use]
    pub fn is_abort(&self) -> bool {
        !matches!(self, Self::Closed)
    }
}

/// What was copied.
#[derive(Debug)]
pub struct Copied {
    /// Bytes from the first stream to the second, by this copy.
    pub a_to_b: u64,
    /// Bytes from the second stream to the first, by this copy.
    pub b_to_a: u64,
    /// How it ended.
    pub end: CloseReason,
}

/// Copies until both directions have ended, one side fails, or nothing moves for `idle`. `progress` is added to as bytes
/// are written. Dropping the future loses no count.
///
/// Memory: one shared buffer a thread, and what one side does not take, at most 64 KiB a direction.
pub async fn copy_both<A, B>(a: &mut A, b: &mut B, idle: Duration, progress: &Progress) -> Copied
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let before = progress.counts();
    let (mut up, mut down) = (Half::default(), Half::default());
    let mut timer = IdleTimer::new(idle);
    let end = poll_fn(|cx| {
        let a_to_b = up
            .poll(cx, a, b, &progress.a_to_b)
            .map_err(|fault| fault.sides(true));
        let b_to_a = down
            .poll(cx, b, a, &progress.b_to_a)
            .map_err(|fault| fault.sides(false));
        match (a_to_b, b_to_a) {
            (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => Poll::Ready(end),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(CloseReason::Closed),
            _ => {
                let (up, down) = progress.counts();
                timer.poll(cx, up.wrapping_add(down)).map(|()| CloseReason::Idle)
            }
        }
    })
    .await;
    let after = progress.counts();
    Copied {
        a_to_b: after.0.saturating_sub(before.0),
        b_to_a: after.1.saturating_sub(before.1),
        end,
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What was read and not yet taken.
    held: Vec<u8>,
    at: usize,
    unflushed: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Open,
    Ending,
    Ended,
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Fault {
    fn sides(self, up: bool) -> CloseReason {
        match (self, up) {
            (Self::Read(error), true) | (Self::Write(error), false) => CloseReason::AFailed(error),
            (Self::Read(error), false) | (Self::Write(error), true) => CloseReason::BFailed(error),
        }
    }
}

impl Half {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.stage {
                Stage::Open => {
                    ready!(self.poll_held(cx, to, moved))?;
                    match self.poll_move(cx, from, to, moved) {
                        Poll::Ready(Ok(0)) => self.stage = Stage::Ending,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                        Poll::Pending => {
                            // Nothing more to read: what was written must not wait in a TLS or HTTP/2 buffer.
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Write)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Ending => {
                    ready!(self.poll_held(cx, to, moved))?;
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Write)?;
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what was held back.
    fn poll_held<W>(&mut self, cx: &mut Context<'_>, to: &mut W, moved: &AtomicU64) -> Poll<Result<(), Fault>>
    where
        W: AsyncWrite + Unpin,
    {
        while let Some(rest) = self.held.get(self.at..).filter(|rest| !rest.is_empty()) {
            let count = ready!(poll_some(cx, to, rest, moved)).map_err(Fault::Write)?;
            self.at = self.at.saturating_add(count);
            self.unflushed = true;
        }
        if self.at > 0 {
            self.held = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as is taken. `0`: the source has ended its direction.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &AtomicU64,
    ) -> Poll<Result<usize, Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        scratch::with(|space| {
            let mut read = ReadBuf::new(space);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(Fault::Read)?;
            let mut rest = read.filled();
            let got = rest.len();
            while !rest.is_empty() {
                match poll_some(cx, to, rest, moved) {
                    Poll::Ready(Ok(count)) => {
                        rest = rest.get(count..).unwrap_or_default();
                        self.unflushed = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Write(error))),
                    Poll::Pending => {
                        self.held = rest.to_vec();
                        break;
                    }
                }
            }
            Poll::Ready(Ok(got))
        })
    }
}

/// Writes at least one byte, and counts.
fn poll_some<W>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8], moved: &AtomicU64) -> Poll<io::Result<usize>>
where
    W: AsyncWrite + Unpin,
{
    let count = ready!(Pin::new(to).poll_write(cx, bytes))?;
    if count == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    moved.fetch_add(u64::try_from(count).unwrap_or_default(), Ordering::Relaxed);
    Poll::Ready(Ok(count))
}

#[cfg(test)]
mod tests;
