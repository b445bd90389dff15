//! The server's side of one tunnel: a finished TLS connection enters, each CONNECT in it goes to a callback, and the
//! function returns when the tunnel is over. It never answers a stream itself.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::Reason;
use h2::server::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::TunnelError;
use super::cork::{Cork, Uncork, cork};
use super::driver::Warden;
use super::incoming::Incoming;
use super::life::{End, Life};
use super::settings;

/// How one tunnel is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How many streams the peer may have open at once.
    pub max_streams: u32,
    /// After this long the peer is asked to open a new tunnel (GOAWAY); open streams go on.
    pub max_age: Duration,
    /// How long open streams may go on after `drain` asked for the end.
    pub drain_timeout: Duration,
    /// How long the peer may take to begin to speak HTTP/2.
    pub preface_timeout: Duration,
    /// When all of it is cut, see [`super::valid_until`].
    pub valid_until: SystemTime,
}

/// Serves one tunnel until it ends. `on_stream` is called for each CONNECT and must not block. When `drain` completes, the
/// peer gets a GOAWAY, open streams have `drain_timeout`, and then the rest is cut. Dropping the future cuts it at once.
///
/// # Errors
/// Why it ended, unless the peer closed it or the drain came to its end.
pub async fn serve<IO, F>(
    io: IO,
    options: &ServeOptions,
    on_stream: F,
    drain: impl Future<Output = ()>,
) -> Result<(), TunnelError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Incoming),
{
    let (life, bell) = Life::new();
    let (corked, uncork) = cork(io, life.ear());
    let shaking = settings::server(options.max_streams).handshake::<_, Bytes>(corked);
    let mut connection = timeout(options.preface_timeout, uncork.during(shaking))
        .await
        .map_err(|_| TunnelError::Ended(End::Silent))?
        .map_err(|error| TunnelError::Ended(End::Connection(error.to_string())))?;
    let warden = Warden::new(connection.ping_pong(), options.valid_until, &life, bell);
    let mut tunnel = Tunnel {
        connection,
        uncork,
        warden,
        life: Arc::clone(&life),
        on_stream,
    };
    let ended = tunnel.run(options, drain).await;
    let end = match &ended {
        Ok(()) => End::Connection("the tunnel was closed".into()),
        Err(end) => end.clone(),
    };
    // The streams must find the reason when the connection, dropped after this, fails them.
    life.end(end);
    if ended.is_err() {
        tunnel.say_goodbye().await;
    }
    ended.map_err(TunnelError::Ended)
}

struct Tunnel<IO, F> {
    connection: Connection<Cork<IO>, Bytes>,
    uncork: Uncork<IO>,
    warden: Warden,
    life: Arc<Life>,
    on_stream: F,
}

impl<IO, F> Tunnel<IO, F>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Incoming),
{
    async fn run(&mut self, options: &ServeOptions, drain: impl Future<Output = ()>) -> Result<(), End> {
        let began = Instant::now();
        let mut drain = pin!(drain);
        let mut age = pin!(sleep_until(began + options.max_age));
        loop {
            tokio::select! {
                biased;
                ended = std::future::poll_fn(|cx| self.poll(cx)) => return ended,
                () = &mut drain => break,
                () = &mut age, if !age.is_elapsed() => self.connection.graceful_shutdown(),
            }
        }
        self.connection.graceful_shutdown();
        match timeout(options.drain_timeout, std::future::poll_fn(|cx| self.poll(cx))).await {
            Ok(ended) => ended,
            Err(_) => Err(End::Drained),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    (self.on_stream)(Incoming::new(request, respond, Arc::clone(&self.life)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(End::Connection(error.to_string()))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = self.uncork.poll(cx) {
            return Poll::Ready(Err(End::Connection(error.to_string())));
        }
        let end = ready!(self.warden.poll(cx));
        Poll::Ready(Err(end))
    }

    /// A last GOAWAY and the TLS close, if they can be said quickly.
    async fn say_goodbye(&mut self) {
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
        let closing = std::future::poll_fn(|cx| {
            let closed = self.connection.poll_closed(cx);
            let _ = self.uncork.poll(cx);
            closed
        });
        let _ = timeout(Duration::from_millis(200), closing).await;
    }
}
