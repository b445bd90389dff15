//! The ends of an exchange on the client's side: waiting for a head, getting rid of a body that nobody wants, closing so
//! that the last answer arrives.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::forward::Buffered;
use crate::request::{BodyReader, Framing, Head, Limits, Refusal, parse_head};

/// How long to wait for a request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadTimes {
    /// For its first byte.
    pub idle: Duration,
    /// From the first byte to the last.
    pub head: Duration,
}

/// Why there is no request head.
#[derive(Debug, thiserror::Error)]
pub enum HeadFailure {
    /// The client closed between two requests: the orderly end.
    #[error("the client closed the connection")]
    Closed,
    /// No request began in the idle time: close without a word.
    #[error("no request came in time")]
    Idle,
    /// The client closed or failed in the middle of a head.
    #[error("the client closed in the middle of a request head")]
    Broken(io::Error),
    /// To be answered, then the connection closed.
    #[error("{0}")]
    Refused(Refusal),
}

/// Reads the next request head and takes it out of the buffer. May be dropped and called again: no byte is lost.
///
/// # Errors
/// See [`HeadFailure`]. A head that takes longer than `times.head` is refused with 408.
pub async fn read_head<C>(
    client: &mut Buffered<C>,
    limits: &Limits,
    times: HeadTimes,
) -> Result<Head, HeadFailure>
where
    C: AsyncRead + Unpin,
{
    client.allow(limits.head_bytes);
    // A stray line end after a body (RFC 9112 2.2) begins no request.
    while matches!(client.data(), b"" | b"\r" | b"\r\n") {
        client.release();
        match timeout(times.idle, client.fill()).await {
            Err(_) => return Err(HeadFailure::Idle),
            // A reset between two requests harms nobody.
            Ok(Ok(0) | Err(_)) => return Err(HeadFailure::Closed),
            Ok(Ok(_)) => {}
        }
    }
    let deadline = Instant::now().checked_add(times.head);
    loop {
        if let Some(head) = parse_head(client.data(), limits).map_err(HeadFailure::Refused)? {
            client.consume(head.len);
            return Ok(head);
        }
        let filled = match deadline {
            Some(deadline) => timeout_at(deadline, client.fill())
                .await
                .map_err(|_| HeadFailure::Refused(late()))?,
            None => client.fill().await,
        };
        if filled.map_err(HeadFailure::Broken)? == 0 {
            return Err(HeadFailure::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

fn late() -> Refusal {
    Refusal {
        status: 408,
        code: "head_timeout",
        detail: "the request head did not come in time".to_owned(),
    }
}

/// Reads and drops the body of a request that is not forwarded. `true`: it is gone, and the connection may carry the next
/// request. `false`: it is too long, too slow or broken, and the connection must be closed (S6).
pub async fn discard_body<C>(client: &mut Buffered<C>, framing: Framing, most: u64, time: Duration) -> bool
where
    C: AsyncRead + Unpin,
{
    if matches!(framing, Framing::Length(length) if length > most) {
        return false;
    }
    let mut reader = BodyReader::new(framing);
    let mut left = most;
    let discard = async {
        while !reader.is_done() {
            let Ok(fed) = reader.feed(client.data()) else {
                return false;
            };
            client.consume(fed.consumed);
            match left.checked_sub(u64::try_from(fed.consumed).unwrap_or(u64::MAX)) {
                Some(rest) => left = rest,
                None => return false,
            }
            if fed.consumed == 0 && !matches!(client.fill().await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    timeout(time, discard).await.unwrap_or(false)
}

/// Ends a connection after its last answer: ends our direction, then reads and drops what the client still sends, within
/// `most` bytes and `time`. Closing with unread bytes would make the system reset the connection, and the client might
/// lose the answer (RFC 9112 9.6).
pub async fn finish<C>(client: &mut Buffered<C>, most: u64, time: Duration)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let linger = async {
        if client.shutdown().await.is_err() {
            return;
        }
        let mut left = most;
        while !client.at_eof() && left > 0 {
            let held = client.data().len();
            client.consume(held);
            match client.fill().await {
                Ok(count @ 1..) => left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)),
                _ => return,
            }
        }
    };
    // Past the time the client had its chance.
    let _ = timeout(time, linger).await;
}
