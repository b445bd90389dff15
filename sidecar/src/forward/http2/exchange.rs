//! What the exchanges with applications of both versions share: the client's stream in pieces, the clock, and how the two
//! directions end together.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Response};
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use crate::forward::Progress;
use crate::forward::http1::{Exchange, ExchangeFailure};
use crate::request::{BadResponse, Head, Limits, Refusal, passed_trailers};

/// One stream of a client.
pub struct Stream {
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
}

/// How long an exchange may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// While someone does not take what is there for it, or a client does not send its request.
    pub body_idle: Duration,
    /// While the response has begun and nothing is said: a call that streams may be silent for long.
    pub quiet: Duration,
}

/// A decided request, ready to go.
pub struct Outgoing<'a> {
    /// As it was read.
    pub head: &'a Head,
    /// What is added to it.
    pub add: &'a [(&'a str, &'a str)],
    /// What is added to the response.
    pub response_add: &'a [(&'a str, &'a str)],
    /// For the response head.
    pub limits: &'a Limits,
    /// How long it may stand still.
    pub times: Times,
    /// Body bytes and the answer, noted as they move.
    pub progress: &'a Progress,
}

impl Stream {
    /// Whether the request has no body, as far as is known.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Writes an answer of ours; `false`: the client has gone. What is left of the request's body is read within `most`
    /// bytes and `time`, so that most clients see no reset behind the answer.
    pub async fn answer(&mut self, answer: Answer, most: usize, time: Duration) -> bool {
        let answering = async {
            let ended = answer.body.is_empty();
            let mut send = self.respond.send_response(answer.response, ended)?;
            if !ended {
                send_data(&mut send, answer.body).await?;
                send.send_data(Bytes::new(), true)?;
            }
            Ok::<(), h2::Error>(())
        };
        let told = matches!(timeout(time, answering).await, Ok(Ok(())));
        let mut left = most;
        let discarding = async {
            while let Some(Ok(chunk)) = poll_fn(|cx| self.body.poll_data(cx)).await {
                let _ended = self.body.flow_control().release_capacity(chunk.len());
                match left.checked_sub(chunk.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        if told {
            let _late = timeout(time, discarding).await;
        }
        told
    }

    /// Ends the stream so that nobody takes what was sent for whole.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

/// What both directions of one exchange share.
pub(super) struct Shared<'a> {
    head: &'a Head,
    pub(super) times: Times,
    pub(super) progress: &'a Progress,
    /// The response has begun.
    answering: AtomicBool,
    /// Something of the body was taken: the request cannot be sent again.
    taken: AtomicBool,
}

impl<'a> Shared<'a> {
    pub(super) fn new(outgoing: &Outgoing<'a>) -> Self {
        Self {
            head: outgoing.head,
            times: outgoing.times,
            progress: outgoing.progress,
            answering: AtomicBool::new(false),
            taken: AtomicBool::new(false),
        }
    }

    pub(super) fn untouched(&self) -> bool {
        !self.taken.load(Ordering::Acquire)
    }

    /// The next bytes of the request's body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut RecvStream) -> Result<Option<Bytes>, ExchangeFailure> {
        let mut silent = Duration::ZERO;
        loop {
            match timeout(self.times.body_idle, poll_fn(|cx| body.poll_data(cx))).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(chunk))) if chunk.is_empty() => {}
                Ok(Some(Ok(chunk))) => {
                    self.taken.store(true, Ordering::Release);
                    return Ok(Some(chunk));
                }
                Ok(Some(Err(error))) => return Err(of_client(&error)),
                // While the application speaks, the client may be silent for as long as the application may.
                Err(_) if self.answering.load(Ordering::Acquire) && silent < self.times.quiet => {
                    silent = silent.saturating_add(self.times.body_idle);
                }
                Err(_) => return Err(ExchangeFailure::ClientStalled),
            }
        }
    }

    /// Sees that the body ends where its declared length says. Asked before its last byte goes on, so that the application
    /// never takes for whole what was not.
    pub(super) async fn nothing_more(&self, body: &mut RecvStream) -> Result<(), ExchangeFailure> {
        match self.chunk(body).await? {
            None => Ok(()),
            Some(_) => Err(wrong_length()),
        }
    }

    /// The trailers of the request that go on, behind its last byte.
    pub(super) async fn trailers(&self, body: &mut RecvStream) -> Result<HeaderMap, ExchangeFailure> {
        let trailers = timeout(self.times.body_idle, poll_fn(|cx| body.poll_trailers(cx))).await;
        let trailers = trailers.map_err(|_| ExchangeFailure::ClientStalled)?;
        let trailers = trailers.map_err(|error| of_client(&error))?.unwrap_or_default();
        self.head
            .passed_trailers(&trailers)
            .map_err(ExchangeFailure::RequestBody)
    }

    /// Bytes of the body went on: the client may send as many more.
    pub(super) fn passed(&self, body: &mut RecvStream, bytes: usize) {
        // Fails only when the stream is over, and then there is no window to open.
        let _ended = body.flow_control().release_capacity(bytes);
        count(&self.progress.a_to_b, bytes);
    }
}

/// An error of the client's stream: it went away, or broke a rule that the HTTP/2 layer holds (a declared length).
fn of_client(error: &h2::Error) -> ExchangeFailure {
    if error.is_reset() && error.is_library() {
        return ExchangeFailure::RequestBody(Refusal {
            status: 400,
            code: "bad_request_body",
            detail: format!("the stream breaks HTTP/2: {error}"),
        });
    }
    ExchangeFailure::ClientClosed
}

pub(super) fn wrong_length() -> ExchangeFailure {
    ExchangeFailure::RequestBody(Refusal {
        status: 400,
        code: "bad_content_length",
        detail: "the body does not have the declared length".to_owned(),
    })
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
}

/// Sends all of `chunk`, as the other side takes it.
pub(super) async fn send_data(send: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        send.reserve_capacity(chunk.len());
        let capacity = poll_fn(|cx| poll_capacity(send, cx)).await?;
        let piece = chunk.split_to(capacity.min(chunk.len()));
        send.send_data(piece, false)?;
    }
    Ok(())
}

fn poll_capacity(send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, h2::Error>> {
    loop {
        match send.capacity() {
            0 => {}
            some => return Poll::Ready(Ok(some)),
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
}

/// The way down to the client.
pub(super) struct Down<'a> {
    respond: &'a mut SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    shared: &'a Shared<'a>,
    /// Headers of ours for the final head.
    add: &'a [(&'a str, &'a str)],
    began: Instant,
    interim: usize,
    pub(super) status: Option<u16>,
    pub(super) ttfb: Option<Duration>,
}

/// More interim answers than this are no answer.
const MAX_INTERIM: usize = 32;

impl<'a> Down<'a> {
    pub(super) fn new(
        respond: &'a mut SendResponse<Bytes>,
        shared: &'a Shared<'a>,
        add: &'a [(&'a str, &'a str)],
    ) -> Self {
        Self {
            respond,
            send: None,
            shared,
            add,
            began: Instant::now(),
            interim: 0,
            status: None,
            ttfb: None,
        }
    }

    /// Waits for something from the application, unless the client leaves first.
    pub(super) async fn unless_left<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, ExchangeFailure> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = poll_fn(|cx| self.poll_left(cx)) => Err(ExchangeFailure::ClientClosed),
        }
    }

    /// The same for what must come within the time of a silent call.
    pub(super) async fn heard<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ExchangeFailure> {
        let quiet = self.shared.times.quiet;
        let heard = self.unless_left(timeout(quiet, work)).await?;
        heard.map_err(|_| ExchangeFailure::UpstreamStalled)
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        }
    }

    /// An interim answer of the application.
    pub(super) fn interim(&mut self, response: Response<()>) -> Result<(), ExchangeFailure> {
        self.interim = self.interim.saturating_add(1);
        if self.interim > MAX_INTERIM {
            return Err(bad("too_many_interim", "too many interim answers"));
        }
        let sent = self.respond.send_informational(response);
        sent.map_err(|_| ExchangeFailure::ClientClosed)
    }

    /// The final head; with `end` it is all.
    pub(super) fn head(&mut self, mut response: Response<()>, end: bool) -> Result<(), ExchangeFailure> {
        let status = response.status().as_u16();
        self.shared.answering.store(true, Ordering::Release);
        for (name, value) in self.add {
            // Of our own making, in visible ASCII; the names are constants.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(*value)) {
                response.headers_mut().insert(name, value);
            }
        }
        let sent = self.respond.send_response(response, end);
        self.send = Some(sent.map_err(|_| ExchangeFailure::ClientClosed)?);
        let ttfb = self.began.elapsed();
        (self.status, self.ttfb) = (Some(status), Some(ttfb));
        self.shared.progress.answered(status, ttfb);
        Ok(())
    }

    /// Bytes of the body.
    pub(super) async fn data(&mut self, chunk: Bytes) -> Result<(), ExchangeFailure> {
        let (bytes, patience) = (chunk.len(), self.shared.times.body_idle);
        let Some(send) = &mut self.send else {
            return Ok(());
        };
        match timeout(patience, send_data(send, chunk)).await {
            Err(_) => Err(ExchangeFailure::ClientStalled),
            Ok(Err(_)) => Err(ExchangeFailure::ClientClosed),
            Ok(Ok(())) => {
                count(&self.shared.progress.b_to_a, bytes);
                Ok(())
            }
        }
    }

    /// The end of the body.
    pub(super) fn end(&mut self, trailers: &HeaderMap) -> Result<(), ExchangeFailure> {
        let trailers = passed_trailers(trailers).map_err(|refusal| bad(refusal.code, &refusal.detail))?;
        let Some(send) = &mut self.send else {
            return Ok(());
        };
        let ended = if trailers.is_empty() {
            send.send_data(Bytes::new(), true)
        } else {
            send.send_trailers(trailers)
        };
        ended.map_err(|_| ExchangeFailure::ClientClosed)
    }

    /// What became of the exchange, as far as the way down knows.
    pub(super) fn result(self, failure: Option<ExchangeFailure>) -> Exchange {
        let (request_bytes, response_bytes) = self.shared.progress.counts();
        Exchange {
            status: self.status,
            request_bytes,
            response_bytes,
            ttfb: self.ttfb,
            client_reusable: true,
            upstream_reusable: false,
            upgraded: false,
            response_started: self.shared.answering.load(Ordering::Acquire),
            retryable: false,
            failure,
        }
    }
}

/// How the way up ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of the request was taken.
    Whole,
    /// The application takes no more; what it has to say may still come.
    Refused,
}

/// Both directions at once. The response is waited for when the request is sent, and the rest of the request is still
/// brought to an application that has answered already, for as long as it takes it.
pub(super) async fn both<T>(
    up: impl Future<Output = Result<Sent, ExchangeFailure>>,
    down: impl Future<Output = Result<T, ExchangeFailure>>,
) -> Result<(Sent, T), ExchangeFailure> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let (mut sent, mut answered) = (None, None);
    loop {
        tokio::select! {
            biased;
            ended = &mut up, if sent.is_none() => match ended {
                Ok(end) => sent = Some(end),
                // With its answer in hand a client may stop sending.
                Err(_) if answered.is_some() => sent = Some(Sent::Refused),
                Err(failure) => return Err(failure),
            },
            done = &mut down, if answered.is_none() => answered = Some(done?),
        }
        answered = match (sent, answered) {
            (Some(sent), Some(answered)) => return Ok((sent, answered)),
            (_, answered) => answered,
        };
    }
}

pub(super) fn bad(code: &'static str, detail: &str) -> ExchangeFailure {
    ExchangeFailure::BadResponse(BadResponse {
        code,
        detail: detail.to_owned(),
    })
}

/// The application's end of a connection.
pub(super) fn closed() -> ExchangeFailure {
    ExchangeFailure::UpstreamClosed(io::ErrorKind::UnexpectedEof.into())
}
