//! One request and its response, both ways at once: the client's stream and the application's enter with a decided
//! request, and what happened leaves. The application may answer before the body is whole; neither direction waits for
//! the other. It never ends a broken message in order: see the room's first page for what the caller then does.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::failure::ExchangeFailure;
use super::pipe::{Broken, Pipe, WaitsFor};
use super::response::{Asked, Down};
use crate::forward::timer::Alarm;
use crate::forward::{Buffered, CloseReason, Progress, copy_both};
use crate::request::{BodyReader, Head, Limits};

/// How long an exchange may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the end of the request to the response head; `None`: the application may think as long as it wants.
    pub response: Option<Duration>,
    /// While a body is on its way, in either direction: without a byte moved.
    pub body_idle: Duration,
    /// After a switch of protocols (WebSocket): without a byte moved.
    pub upgraded_idle: Duration,
}

/// A decided request, ready to go.
pub struct Outgoing<'a> {
    /// As it was read.
    pub head: &'a Head,
    /// As it goes on: [`Head::forward_bytes`].
    pub bytes: Vec<u8>,
    /// Headers for the response.
    pub response_add: &'a [(&'a str, &'a str)],
    /// Asked when the response head is written: whether to tell the client that the connection ends.
    pub close: &'a (dyn Fn() -> bool + Send + Sync),
    /// Whether the upstream connection has carried an exchange before.
    pub reused: bool,
    /// For the response head.
    pub limits: &'a Limits,
    /// How long it may stand still.
    pub times: Times,
    /// Body bytes and the answer, noted as they move.
    pub progress: &'a Progress,
}

/// What became of a request.
#[derive(Debug)]
pub struct Exchange {
    /// Of the final response, as far as one came.
    pub status: Option<u16>,
    /// Bytes of the request's body that went on, as framed; after a switch, all bytes up.
    pub request_bytes: u64,
    /// Bytes of the response's body that went on, as framed; after a switch, all bytes down.
    pub response_bytes: u64,
    /// From the start to the final response head.
    pub ttfb: Option<Duration>,
    /// The client's connection may carry the next request.
    pub client_reusable: bool,
    /// The application's connection may carry the next request.
    pub upstream_reusable: bool,
    /// The protocols were switched, and the connection is over.
    pub upgraded: bool,
    /// Why the response is not whole.
    pub failure: Option<ExchangeFailure>,
    /// The client has bytes of the response: it can be told nothing else any more. With a failure: abort it.
    pub response_started: bool,
    /// Nothing was taken by anyone: the same request may be sent on a fresh connection.
    pub retryable: bool,
}

/// Carries out one exchange. Both streams stay with the caller, who looks at the answer for what to do with them. Dropping
/// the future cuts the exchange: both must then be aborted.
pub async fn exchange<C, U>(
    client: &mut Buffered<C>,
    upstream: &mut Buffered<U>,
    request: Outgoing<'_>,
) -> Exchange
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (times, progress) = (request.times, request.progress);
    let mut run = Run::new(client, upstream, request);
    let outcome = poll_fn(|cx| run.poll(cx)).await;
    let switched = outcome.is_ok() && run.down.switched;
    let mut result = run.result(outcome.err());
    if switched {
        let copied = copy_both(client, upstream, times.upgraded_idle, progress).await;
        result.upgraded = true;
        result.request_bytes = copied.a_to_b;
        result.response_bytes = copied.b_to_a;
        result.failure = match copied.end {
            CloseReason::Closed => None,
            CloseReason::Idle => Some(ExchangeFailure::Idle),
            CloseReason::AFailed(_) => Some(ExchangeFailure::ClientClosed),
            CloseReason::BFailed(error) => Some(ExchangeFailure::UpstreamClosed(error)),
        };
    }
    result
}

/// How far the way up is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Up {
    Sending,
    Sent,
    /// The application takes no more; what it has to say may still come.
    Refused,
}

struct Run<'r, 'a, C, U> {
    client: &'r mut Buffered<C>,
    upstream: &'r mut Buffered<U>,
    asked: Asked<'a>,
    reused: bool,
    times: Times,
    progress: &'a Progress,
    up: Up,
    request: Pipe,
    down: Down,
    began: Instant,
    ttfb: Option<Duration>,
    /// When a byte moved last, or a new phase began.
    moved_at: Instant,
    moved: u64,
    alarm: Alarm,
}

impl<'r, 'a, C, U> Run<'r, 'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    fn new(client: &'r mut Buffered<C>, upstream: &'r mut Buffered<U>, request: Outgoing<'a>) -> Self {
        upstream.allow(request.limits.head_bytes);
        let now = Instant::now();
        Self {
            client,
            upstream,
            asked: Asked {
                head: request.head,
                limits: request.limits,
                add: request.response_add,
                close: request.close,
            },
            reused: request.reused,
            times: request.times,
            progress: request.progress,
            up: Up::Sending,
            request: Pipe::new(request.bytes, BodyReader::of(request.head)),
            down: Down::new(),
            began: now,
            ttfb: None,
            moved_at: now,
            moved: 0,
            alarm: Alarm::default(),
        }
    }

    /// Both ways, then the watch over the side that should be silent, then the clock.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeFailure>> {
        self.poll_up(cx)?;
        self.poll_down(cx)?;
        if self.down.is_done() {
            if self.up != Up::Sending || self.down.body_unwanted() || self.upstream_left(cx) {
                return Poll::Ready(Ok(()));
            }
        } else if self.up == Up::Sent && self.client_left(cx) {
            return Poll::Ready(Err(ExchangeFailure::ClientClosed));
        }
        self.poll_clock(cx)
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeFailure> {
        if self.up != Up::Sending {
            return Ok(());
        }
        match self
            .request
            .poll(cx, self.client, self.upstream, &self.progress.a_to_b)
        {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => self.up = Up::Sent,
            Poll::Ready(Err(Broken::Sink)) => self.up = Up::Refused,
            Poll::Ready(Err(Broken::Body(refusal))) => return Err(ExchangeFailure::RequestBody(refusal)),
            // With its answer in hand a client may stop sending.
            Poll::Ready(Err(Broken::Source(_))) if self.down.is_done() => self.up = Up::Refused,
            // It ended its direction in order: it may be there to hear why nothing came of it.
            Poll::Ready(Err(Broken::Source(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ExchangeFailure::RequestTruncated);
            }
            Poll::Ready(Err(Broken::Source(_))) => return Err(ExchangeFailure::ClientClosed),
        }
        self.moved_at = Instant::now();
        Ok(())
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeFailure> {
        let sent = self.request.body_bytes;
        let awaited = self.down.status.is_none();
        let streams = (&mut *self.upstream, &mut *self.client);
        let polled = self
            .down
            .poll(cx, streams, &self.asked, (sent, &self.progress.b_to_a));
        if awaited && let Some(status) = self.down.status {
            self.moved_at = Instant::now();
            let ttfb = self.moved_at.saturating_duration_since(self.began);
            self.ttfb = Some(ttfb);
            self.progress.answered(status, ttfb);
        }
        match polled {
            Poll::Ready(Err(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    /// With the request sent, the client has nothing to say but its next request. Its end is taken for its going away, as
    /// nearly all servers do: work for nobody is stopped, and the application's connection closed.
    fn client_left(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.client.is_full() {
            match self.client.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// With the response done while the body still goes up: whether the application closed, or says more than it was asked.
    fn upstream_left(&mut self, cx: &mut Context<'_>) -> bool {
        !self.upstream.data().is_empty() || self.upstream.is_full() || self.upstream.poll_fill(cx).is_ready()
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeFailure>> {
        let (up, down) = (self.request.body_bytes, self.down.body_bytes);
        let moved = up.wrapping_add(down);
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = Instant::now();
        }
        let thinking = self.down.awaits_head() && (self.up != Up::Sending || self.awaits_word());
        let time = if thinking {
            self.times.response
        } else {
            Some(self.times.body_idle)
        };
        let Some(deadline) = time.and_then(|time| self.moved_at.checked_add(time)) else {
            return Poll::Pending;
        };
        self.alarm.poll_at(cx, deadline).map(|()| self.late())
    }

    /// Whether the client waits for `100 Continue`: then it is the application's turn.
    fn awaits_word(&self) -> bool {
        self.asked.head.expect_continue && !self.down.continued && self.request.body_bytes == 0
    }

    /// Who is to blame for the silence.
    fn late(&self) -> Result<(), ExchangeFailure> {
        if self.down.is_done() {
            return Ok(());
        }
        if self.down.awaits_head() {
            return Err(match (self.up, self.request.waits_for) {
                (Up::Sending, _) if self.awaits_word() => ExchangeFailure::UpstreamTimeout,
                (Up::Sending, WaitsFor::Source) => ExchangeFailure::ClientStalled,
                (Up::Sending, WaitsFor::Sink) => ExchangeFailure::UpstreamStalled,
                _ => ExchangeFailure::UpstreamTimeout,
            });
        }
        Err(match self.down.waits_for() {
            WaitsFor::Source => ExchangeFailure::UpstreamStalled,
            WaitsFor::Sink => ExchangeFailure::ClientStalled,
        })
    }

    fn result(self, failure: Option<ExchangeFailure>) -> Exchange {
        let whole = failure.is_none() && self.up == Up::Sent;
        let quiet = self.upstream.data().is_empty() && !self.upstream.at_eof();
        let retryable = matches!(failure, Some(ExchangeFailure::UpstreamClosed(_))) && quiet_death(&self);
        self.client.release();
        self.upstream.release();
        Exchange {
            status: self.down.status,
            request_bytes: self.request.body_bytes,
            response_bytes: self.down.body_bytes,
            ttfb: self.ttfb,
            client_reusable: whole && self.down.client_reusable && !self.client.at_eof(),
            upstream_reusable: whole && self.down.upstream_reusable && quiet,
            upgraded: false,
            response_started: self.down.started,
            retryable,
            failure,
        }
    }
}

/// Whether a kept connection died without having taken or said anything, so that the request may be sent again: its body
/// is still with us, and either nothing of it left at all, or its method may be repeated (RFC 9110 9.2.2).
fn quiet_death<C, U>(run: &Run<'_, '_, C, U>) -> bool {
    let repeatable =
        ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&run.asked.head.method.as_str());
    run.reused
        && run.down.said_nothing()
        && run.upstream.data().is_empty()
        && run.request.body_bytes == 0
        && (repeatable || !run.request.has_begun())
}
