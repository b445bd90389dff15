//! The way down: bytes from the application enter, interim answers and the final response go to the client. Knows what was
//! asked, and refuses what does not answer it.

use std::io;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::ExchangeFailure;
use super::pipe::{Broken, Pipe, WaitsFor};
use crate::forward::Buffered;
use crate::request::{
    BadResponse, BodyReader, ClientSide, Framing, Head, Limits, ResponseFraming, ResponseHead, Version,
    parse_response,
};

/// More interim answers than this are no answer.
const MAX_INTERIM: usize = 32;

/// What the way down must know of the request.
pub(super) struct Asked<'a> {
    pub(super) head: &'a Head,
    pub(super) limits: &'a Limits,
    pub(super) add: &'a [(&'a str, &'a str)],
    pub(super) close: &'a (dyn Fn() -> bool + Send + Sync),
}

/// Where the way down is.
enum Stage {
    AwaitHead,
    Interim(Pipe),
    Final(Pipe),
    Done,
}

/// The way down.
pub(super) struct Down {
    stage: Stage,
    interim: usize,
    /// Of the final response.
    pub(super) status: Option<u16>,
    /// The client was told to go on with its body.
    pub(super) continued: bool,
    /// A byte of the final response, or part of an interim one, is on its way to the client.
    pub(super) started: bool,
    pub(super) upstream_reusable: bool,
    pub(super) client_reusable: bool,
    pub(super) switched: bool,
    /// The client waits for a word to send its body, and will not get it.
    body_in_doubt: bool,
    /// Bytes of the final body that were written.
    pub(super) body_bytes: u64,
}

impl Down {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::AwaitHead,
            interim: 0,
            status: None,
            continued: false,
            started: false,
            upstream_reusable: false,
            client_reusable: false,
            switched: false,
            body_in_doubt: false,
            body_bytes: 0,
        }
    }

    /// Whether the application has not begun its final answer.
    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.stage, Stage::AwaitHead)
    }

    /// Whether not one byte of any answer came.
    pub(super) fn said_nothing(&self) -> bool {
        self.awaits_head() && self.interim == 0
    }

    /// Whether the rest of the request's body is of no use once the response is done.
    pub(super) fn body_unwanted(&self) -> bool {
        self.body_in_doubt || !self.upstream_reusable
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Which side the response waits for, while it is on its way.
    pub(super) fn waits_for(&self) -> WaitsFor {
        match &self.stage {
            Stage::Interim(pipe) | Stage::Final(pipe) => pipe.waits_for,
            Stage::AwaitHead | Stage::Done => WaitsFor::Source,
        }
    }

    /// Ready when the final response is written whole.
    pub(super) fn poll<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        (upstream, client): (&mut Buffered<U>, &mut Buffered<C>),
        asked: &Asked<'_>,
        (body_sent, moved): (u64, &AtomicU64),
    ) -> Poll<Result<(), ExchangeFailure>>
    where
        C: AsyncWrite + Unpin,
        U: AsyncRead + Unpin,
    {
        loop {
            match &mut self.stage {
                Stage::AwaitHead => {
                    let head = ready!(poll_head(cx, upstream, asked))?;
                    upstream.consume(head.len);
                    self.stage = self.take(&head, asked, body_sent)?;
                }
                Stage::Interim(pipe) => {
                    let moving = pipe.poll(cx, upstream, client, moved);
                    // Half an interim answer: nothing else can be said on this connection.
                    self.started = moving.is_pending() && pipe.has_begun();
                    ready!(moving).map_err(broken)?;
                    self.stage = Stage::AwaitHead;
                }
                Stage::Final(pipe) => {
                    let moving = pipe.poll(cx, upstream, client, moved);
                    self.started |= pipe.has_begun();
                    self.body_bytes = pipe.body_bytes;
                    ready!(moving).map_err(broken)?;
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Decides what becomes of a head.
    fn take(
        &mut self,
        head: &ResponseHead,
        asked: &Asked<'_>,
        body_sent: u64,
    ) -> Result<Stage, ExchangeFailure> {
        let none = BodyReader::new(Framing::None);
        let old = asked.head.version == Version::H10;
        if head.is_interim() {
            self.interim = self.interim.saturating_add(1);
            if self.interim > MAX_INTERIM {
                return Err(bad("too_many_interim", "too many interim answers"));
            }
            if old {
                // RFC 9110 15.2: HTTP/1.0 knows none.
                return Ok(Stage::AwaitHead);
            }
            self.continued |= head.status == 100;
            return Ok(Stage::Interim(Pipe::new(
                head.forward_bytes(&[], ClientSide::Open),
                none,
            )));
        }
        if head.status == 101 {
            check_switch(head, asked.head)?;
            self.switched = true;
        }
        if old && head.framing == ResponseFraming::Chunked {
            return Err(bad(
                "chunked_to_http10",
                "a chunked answer to an HTTP/1.0 request",
            ));
        }
        // The client was never told to send its body, so nobody knows whether it will (RFC 9110 10.1.1).
        self.body_in_doubt = asked.head.expect_continue && !self.continued && body_sent == 0;
        let ends = head.framing == ResponseFraming::Eof || self.body_in_doubt;
        let keep = asked.head.keep_alive && !ends && !self.switched && !(asked.close)();
        let side = match (keep, old) {
            (false, _) => ClientSide::Close,
            (true, true) => ClientSide::KeepAlive,
            (true, false) => ClientSide::Open,
        };
        self.status = Some(head.status);
        self.client_reusable = keep;
        self.upstream_reusable = head.keep_alive && head.framing != ResponseFraming::Eof && !self.switched;
        Ok(Stage::Final(Pipe::new(
            head.forward_bytes(asked.add, side),
            head.framing.reader(),
        )))
    }
}

/// The next head of the application.
fn poll_head<U>(
    cx: &mut Context<'_>,
    upstream: &mut Buffered<U>,
    asked: &Asked<'_>,
) -> Poll<Result<ResponseHead, ExchangeFailure>>
where
    U: AsyncRead + Unpin,
{
    loop {
        let read = parse_response(upstream.data(), &asked.head.method, asked.limits);
        if let Some(head) = read.map_err(ExchangeFailure::BadResponse)? {
            return Poll::Ready(Ok(head));
        }
        let failure = match ready!(upstream.poll_fill(cx)) {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => continue,
            Err(error) => error,
        };
        return Poll::Ready(Err(ExchangeFailure::UpstreamClosed(failure)));
    }
}

/// A switch must be to a protocol that was asked for.
fn check_switch(head: &ResponseHead, request: &Head) -> Result<(), ExchangeFailure> {
    let asked = request.upgrade.as_deref().unwrap_or_default();
    let name = |protocol: &str| {
        protocol
            .trim()
            .split('/')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    let answered = head.upgrade.as_deref().map(name).unwrap_or_default();
    if !answered.is_empty() && asked.split(',').any(|protocol| name(protocol) == answered) {
        return Ok(());
    }
    Err(bad(
        "unasked_switch",
        "a switch to a protocol that nobody asked for",
    ))
}

fn broken(broken: Broken) -> ExchangeFailure {
    match broken {
        Broken::Source(error) => ExchangeFailure::UpstreamClosed(error),
        Broken::Body(refusal) => bad(refusal.code, &refusal.detail),
        Broken::Sink => ExchangeFailure::ClientClosed,
    }
}

fn bad(code: &'static str, detail: &str) -> ExchangeFailure {
    ExchangeFailure::BadResponse(BadResponse {
        code,
        detail: detail.to_owned(),
    })
}
