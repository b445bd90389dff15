//! A stream and an application that speaks HTTP/2: one stream here is one stream there. Resets pass both ways, bytes only
//! as fast as the other side takes them.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use tokio::time::timeout;

use super::apps::Lease;
use super::exchange::{Down, Outgoing, Sent, Shared, Stream, both, send_data};
use crate::forward::http1::{Exchange, ExchangeFailure};
use crate::request::{Framing, passed_response};

/// Carries out one exchange. Dropping the future resets the stream at the application.
pub async fn to_http2(stream: &mut Stream, mut lease: Lease, outgoing: &Outgoing<'_>) -> Exchange {
    let shared = Shared::new(outgoing);
    let Stream { body, respond } = stream;
    let mut down = Down::new(respond, &shared, outgoing.response_add);
    let request = match outgoing.head.http2_request(outgoing.add) {
        Ok(request) => request,
        Err(refusal) => return down.result(Some(ExchangeFailure::RequestBody(refusal))),
    };
    if matches!(outgoing.head.framing, Framing::Length(0))
        && let Err(failure) = shared.nothing_more(body).await
    {
        return down.result(Some(failure));
    }
    let (response, send) = match lease.sender.send_request(request, body.is_end_stream()) {
        Ok(opened) => opened,
        Err(error) => {
            let retryable = shared.untouched();
            return Exchange {
                retryable,
                ..down.result(Some(lost(&error)))
            };
        }
    };
    let done = both(up(body, send, &shared), answered(response, &mut down)).await;
    let refused = matches!(&done, Err(ExchangeFailure::UpstreamClosed(error)) if is_refused(error));
    let retryable = refused && shared.untouched();
    Exchange {
        retryable,
        ..down.result(done.err())
    }
}

/// The request. When the client breaks it off, so do we.
async fn up(
    body: &mut RecvStream,
    mut send: SendStream<Bytes>,
    shared: &Shared<'_>,
) -> Result<Sent, ExchangeFailure> {
    if body.is_end_stream() {
        return Ok(Sent::Whole);
    }
    let moved = moved(body, &mut send, shared).await;
    if moved.is_err() {
        send.send_reset(Reason::CANCEL);
    }
    moved
}

async fn moved(
    body: &mut RecvStream,
    send: &mut SendStream<Bytes>,
    shared: &Shared<'_>,
) -> Result<Sent, ExchangeFailure> {
    loop {
        let chunk = tokio::select! {
            chunk = shared.chunk(body) => chunk?,
            // The application wants no more of it, or has failed: what it has to say is on its way down.
            _ = poll_fn(|cx| send.poll_reset(cx)) => return Ok(Sent::Refused),
        };
        let Some(chunk) = chunk else {
            break;
        };
        let bytes = chunk.len();
        match timeout(shared.times.body_idle, send_data(send, chunk)).await {
            Err(_) => return Err(ExchangeFailure::UpstreamStalled),
            Ok(Err(_)) => return Ok(Sent::Refused),
            Ok(Ok(())) => shared.passed(body, bytes),
        }
    }
    let trailers = shared.trailers(body).await?;
    let ended = if trailers.is_empty() {
        send.send_data(Bytes::new(), true)
    } else {
        send.send_trailers(trailers)
    };
    Ok(if ended.is_ok() { Sent::Whole } else { Sent::Refused })
}

/// What the application says next.
enum Said {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

async fn answered(mut response: ResponseFuture, down: &mut Down<'_>) -> Result<(), ExchangeFailure> {
    let said = loop {
        let said = down
            .unless_left(poll_fn(|cx| poll_said(&mut response, cx)))
            .await?;
        match said.map_err(|error| lost(&error))? {
            Said::Interim(interim) => {
                let (parts, ()) = interim.into_parts();
                down.interim(passed_response(&parts).map_err(ExchangeFailure::BadResponse)?)?;
            }
            Said::Final(said) => break said,
        }
    };
    let (parts, mut body) = said.into_parts();
    let passed = passed_response(&parts).map_err(ExchangeFailure::BadResponse)?;
    let ended = body.is_end_stream();
    down.head(passed, ended)?;
    if ended {
        return Ok(());
    }
    while let Some(chunk) = down.heard(poll_fn(|cx| body.poll_data(cx))).await? {
        let chunk = chunk.map_err(|error| lost(&error))?;
        let bytes = chunk.len();
        down.data(chunk).await?;
        // Fails only when the stream is over, and then there is no window to open.
        let _ended = body.flow_control().release_capacity(bytes);
    }
    let trailers = down.heard(poll_fn(|cx| body.poll_trailers(cx))).await?;
    down.end(&trailers.map_err(|error| lost(&error))?.unwrap_or_default())
}

fn poll_said(response: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Result<Said, h2::Error>> {
    match response.poll_informational(cx) {
        Poll::Ready(Some(interim)) => return Poll::Ready(interim.map(Said::Interim)),
        Poll::Ready(None) | Poll::Pending => {}
    }
    Pin::new(response).poll(cx).map(|said| said.map(Said::Final))
}

fn lost(error: &h2::Error) -> ExchangeFailure {
    let kind = if error.reason() == Some(Reason::REFUSED_STREAM) {
        io::ErrorKind::ConnectionRefused
    } else {
        io::ErrorKind::ConnectionReset
    };
    ExchangeFailure::UpstreamClosed(io::Error::new(kind, error.to_string()))
}

/// RFC 9113 8.7: nothing of the request was processed.
fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}
