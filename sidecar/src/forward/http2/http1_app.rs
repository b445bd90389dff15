//! A stream and an application that speaks HTTP/1.1: the request is written as any HTTP/1.1 request is, the body in chunks
//! of our own or with the length that was declared and is held; the answer is read as strictly as any, and told as HTTP/2.

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::HeaderMap;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::exchange::{Down, Outgoing, Sent, Shared, Stream, bad, both, closed, wrong_length};
use super::slots::Slot;
use crate::forward::http1::{Exchange, ExchangeFailure};
use crate::forward::{Buffered, abort};
use crate::request::{
    Framing, Head, Limits, Part, ResponseFraming, ResponseHead, add_trailer, parse_response, trailer_lines,
};

/// A connection to an application that speaks HTTP/1.1.
pub struct Http1App {
    read: Buffered<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// It has carried an exchange.
    reused: bool,
    /// The right to have it, given back when it ends.
    _slot: Option<Slot>,
}

impl Http1App {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: TcpStream, slot: Option<Slot>) -> Self {
        let (read, write) = stream.into_split();
        Self {
            read: Buffered::new(read),
            write,
            reused: false,
            _slot: slot,
        }
    }

    /// Whether the application has neither closed it nor said something unasked.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        self.read.is_quiet()
    }

    /// Ends it with a reset.
    pub fn abort(self) {
        abort(self.write.as_ref());
        // Its drop would say an orderly end first.
        self.write.forget();
    }
}

/// Carries out one exchange. `upstream_reusable` tells what may become of `app`; dropping the future cuts the exchange, and
/// `app` must then be aborted.
pub async fn to_http1(stream: &mut Stream, app: &mut Http1App, outgoing: &Outgoing<'_>) -> Exchange {
    let shared = Shared::new(outgoing);
    let Stream { body, respond } = stream;
    let Http1App {
        read, write, reused, ..
    } = app;
    let mut down = Down::new(respond, &shared, outgoing.response_add);
    read.allow(outgoing.limits.head_bytes);
    let done = both(
        up(body, write, outgoing, &shared),
        answered(read, &mut down, outgoing.head, outgoing.limits),
    )
    .await;
    let said_nothing = read.data().is_empty();
    let quiet = said_nothing && !read.at_eof();
    let (reusable, failure) = match done {
        Ok((sent, reusable)) => (reusable && sent == Sent::Whole && quiet, None),
        Err(failure) => (false, Some(failure)),
    };
    read.release();
    // A kept connection that the application had closed meanwhile: it processed nothing of this request.
    let lost = matches!(failure, Some(ExchangeFailure::UpstreamClosed(_)));
    let repeatable =
        ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&outgoing.head.method.as_str());
    let retryable = lost && *reused && said_nothing && repeatable && shared.untouched();
    *reused = true;
    Exchange {
        upstream_reusable: reusable,
        retryable,
        ..down.result(failure)
    }
}

/// The request. A body that breaks off is an error, and the connection must then be aborted.
async fn up(
    body: &mut RecvStream,
    write: &mut OwnedWriteHalf,
    outgoing: &Outgoing<'_>,
    shared: &Shared<'_>,
) -> Result<Sent, ExchangeFailure> {
    let head = Bytes::from(outgoing.head.forward_bytes(outgoing.add));
    let mut left = match outgoing.head.framing {
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    if left == Some(0) {
        shared.nothing_more(body).await?;
    }
    if put(write, head, shared).await? == Sent::Refused {
        return Ok(Sent::Refused);
    }
    while let Some(chunk) = shared.chunk(body).await? {
        let bytes = chunk.len();
        let sent = match &mut left {
            None => {
                let size = Bytes::from(format!("{bytes:x}\r\n"));
                put(write, size.chain(chunk).chain(&b"\r\n"[..]), shared).await?
            }
            Some(left) => {
                let length = u64::try_from(bytes).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or_else(wrong_length)?;
                if *left == 0 {
                    shared.nothing_more(body).await?;
                }
                put(write, chunk, shared).await?
            }
        };
        if sent == Sent::Refused {
            return Ok(Sent::Refused);
        }
        shared.passed(body, bytes);
    }
    let trailers = shared.trailers(body).await?;
    match left {
        None => {
            put(
                write,
                Bytes::from_static(b"0\r\n").chain(&*trailer_lines(&trailers)),
                shared,
            )
            .await
        }
        // HTTP/1.1 has trailers behind chunks only.
        Some(0) => Ok(Sent::Whole),
        Some(_) => Err(wrong_length()),
    }
}

async fn put(
    write: &mut OwnedWriteHalf,
    mut bytes: impl Buf,
    shared: &Shared<'_>,
) -> Result<Sent, ExchangeFailure> {
    match timeout(shared.times.body_idle, write.write_all_buf(&mut bytes)).await {
        Err(_) => Err(ExchangeFailure::UpstreamStalled),
        Ok(Err(_)) => Ok(Sent::Refused),
        Ok(Ok(())) => Ok(Sent::Whole),
    }
}

/// The answer. `true`: the connection may carry another exchange.
async fn answered(
    read: &mut Buffered<OwnedReadHalf>,
    down: &mut Down<'_>,
    request: &Head,
    limits: &Limits,
) -> Result<bool, ExchangeFailure> {
    let head = loop {
        let head = down.unless_left(next_head(read, request, limits)).await??;
        let response = head.http2_response().map_err(ExchangeFailure::BadResponse)?;
        if !head.is_interim() {
            let ended = head.framing.reader().is_done();
            down.head(response, ended)?;
            break head;
        }
        down.interim(response)?;
    };
    let mut reader = head.framing.reader();
    if reader.is_done() {
        return Ok(head.keep_alive);
    }
    let mut trailers = HeaderMap::new();
    while !reader.is_done() {
        let part = reader
            .part(read.data())
            .map_err(|refusal| bad(refusal.code, &refusal.detail))?;
        match part {
            Part::Data(bytes) => {
                let chunk = Bytes::copy_from_slice(read.data().get(..bytes).unwrap_or_default());
                read.consume(bytes);
                down.data(chunk).await?;
            }
            Part::Trailer(bytes) => {
                add_trailer(&mut trailers, read.data().get(..bytes).unwrap_or_default());
                read.consume(bytes);
            }
            Part::Framing(bytes) => read.consume(bytes),
            Part::More => match down.heard(read.fill()).await? {
                Ok(0) if reader.ends_with_connection() => break,
                Ok(0) => return Err(closed()),
                Ok(_) => {}
                Err(error) => return Err(ExchangeFailure::UpstreamClosed(error)),
            },
        }
    }
    down.end(&trailers)?;
    Ok(head.keep_alive && head.framing != ResponseFraming::Eof)
}

/// The next head of the application.
async fn next_head(
    read: &mut Buffered<OwnedReadHalf>,
    request: &Head,
    limits: &Limits,
) -> Result<ResponseHead, ExchangeFailure> {
    loop {
        let parsed = parse_response(read.data(), &request.method, limits);
        if let Some(head) = parsed.map_err(ExchangeFailure::BadResponse)? {
            read.consume(head.len);
            return Ok(head);
        }
        match read.fill().await {
            Ok(0) => return Err(closed()),
            Ok(_) => {}
            Err(error) => return Err(ExchangeFailure::UpstreamClosed(error)),
        }
    }
}
