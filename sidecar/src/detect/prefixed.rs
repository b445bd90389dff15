//! Looking at a stream's first bytes without taking them: a stream enters, the protocol and the same stream leave, with
//! what was read put back in front.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{Protocol, classify};

/// What looking brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// The protocol is known.
    Is(Protocol),
    /// The time passed before enough bytes came; `true` when none came at all (a protocol in which the server speaks
    /// first looks like this).
    TimedOut {
        /// Whether nothing came.
        silent: bool,
    },
    /// The peer closed before enough bytes came.
    Closed,
}

impl Detected {
    /// A stable label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Is(protocol) => protocol.label(),
            Self::TimedOut { .. } => "timeout",
            Self::Closed => "closed",
        }
    }
}

/// Reads until the protocol is known, at most for `deadline`.
///
/// # Errors
/// The stream's own.
pub async fn detect<S: AsyncRead + Unpin>(
    mut stream: S,
    deadline: Duration,
) -> io::Result<(Detected, Prefixed<S>)> {
    let mut seen = BytesMut::with_capacity(2048);
    let looking = async {
        loop {
            if let Some(protocol) = classify(&seen) {
                return Ok(Detected::Is(protocol));
            }
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(Detected::Closed);
            }
        }
    };
    let detected = match tokio::time::timeout(deadline, looking).await {
        Ok(detected) => detected.map_err(|error: io::Error| error)?,
        Err(_) => Detected::TimedOut {
            silent: seen.is_empty(),
        },
    };
    Ok((detected, Prefixed { prefix: seen, stream }))
}

/// A stream with bytes put back in front of it.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S> Prefixed<S> {
    /// The stream as it is, with nothing in front.
    pub fn bare(stream: S) -> Self {
        Self {
            prefix: BytesMut::new(),
            stream,
        }
    }

    /// The stream underneath.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        if let Some(bytes) = self.prefix.get(..count) {
            buf.put_slice(bytes);
        }
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            // The buffer is not needed again: thousands of idle connections would each keep it.
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"GE").await.unwrap();
        let looking = tokio::spawn(detect(far, Duration::from_secs(60)));
        near.write_all(b"T / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(near);
        let (detected, mut stream) = looking.await.unwrap().unwrap();
        assert_eq!(detected, Detected::Is(Protocol::Http1));
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_word_are_told_apart() {
        let (_near, far) = tokio::io::duplex(64);
        assert_eq!(
            detect(far, Duration::from_secs(5)).await.unwrap().0,
            Detected::TimedOut { silent: true }
        );
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"GE").await.unwrap();
        assert_eq!(
            detect(far, Duration::from_secs(5)).await.unwrap().0,
            Detected::TimedOut { silent: false }
        );
        let (near, far) = tokio::io::duplex(64);
        drop(near);
        assert_eq!(
            detect(far, Duration::from_secs(5)).await.unwrap().0,
            Detected::Closed
        );
    }
}
