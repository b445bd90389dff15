//! The client's connection: bytes enter, streams with a request leave. It answers PINGs and sends its own, says GOAWAY, and
//! never answers a stream itself.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::Reason;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::exchange::Stream;
use super::settings;
use crate::request::Limits;
use crate::tunnel::{Cork, End, Life, Uncork, Warden, cork};

/// A request that came in a stream.
pub struct Incoming {
    /// Its head, as the HTTP/2 layer decoded it.
    pub parts: Parts,
    /// Where its body comes from and its answer goes to.
    pub stream: Stream,
}

/// One connection of a client.
pub struct Client<IO> {
    connection: h2::server::Connection<Cork<IO>, Bytes>,
    uncork: Uncork<IO>,
    warden: Warden,
}

impl<IO> Client<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Takes the preface within `within`. The connection ends at `valid_until` at the latest.
    ///
    /// # Errors
    /// The client did not begin as HTTP/2 does, or not in time.
    pub async fn begin(
        io: IO,
        limits: &Limits,
        within: Duration,
        valid_until: SystemTime,
    ) -> Result<Self, End> {
        let (life, bell) = Life::new();
        let (corked, uncork) = cork(io, life.ear());
        let shaking = settings::server(limits).handshake::<_, Bytes>(corked);
        let mut connection = timeout(within, uncork.during(shaking))
            .await
            .map_err(|_| End::Silent)?
            .map_err(|error| End::Connection(error.to_string()))?;
        let warden = Warden::new(connection.ping_pong(), valid_until, &Arc::clone(&life), bell);
        Ok(Self {
            connection,
            uncork,
            warden,
        })
    }

    /// The next request; `None` when the connection is over. Moves the bytes of all streams: it must be polled for as long
    /// as one is open. May be dropped and called again.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn next(&mut self) -> Result<Option<Incoming>, End> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Incoming>, End>> {
        let failed = |error: &dyn std::fmt::Display| Poll::Ready(Err(End::Connection(error.to_string())));
        let accepted = self.connection.poll_accept(cx);
        if let Poll::Ready(Err(error)) = self.uncork.poll(cx) {
            return failed(&error);
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (parts, body) = request.into_parts();
                let stream = Stream { body, respond };
                return Poll::Ready(Ok(Some(Incoming { parts, stream })));
            }
            Poll::Ready(Some(Err(error))) => return failed(&error),
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Pending => {}
        }
        let end = ready!(self.warden.poll(cx));
        Poll::Ready(Err(end))
    }

    /// Tells the client to come again on a new connection. Streams that are open go on; [`Self::next`] answers `None` after
    /// the last.
    pub fn wind_down(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends everything in it, with a last word to the client if it can be said quickly.
    pub async fn end(&mut self, reason: Reason) {
        self.connection.abrupt_shutdown(reason);
        let closing = std::future::poll_fn(|cx| {
            let closed = self.connection.poll_closed(cx);
            // The end is near either way.
            let _written = self.uncork.poll(cx);
            closed
        });
        let _late = timeout(Duration::from_millis(200), closing).await;
    }
}
