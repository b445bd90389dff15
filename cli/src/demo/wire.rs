//! Serving small HTTP/1.1 programs: a listening socket and a handler enter, answers leave. It knows nothing of what they
//! mean.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The body of an answer.
pub type Answer = Response<BoxBody<Bytes, io::Error>>;

/// Listens on `port` of every address that the machine has.
///
/// # Errors
/// The system's error.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        // A kernel without IPv6.
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
    }
}

/// Serves one connection until it ends.
pub async fn serve<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = io::Result<Answer>>,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service_fn(handler))
        .with_upgrades();
    // How a client's connection ended is nothing that these programs would act on.
    let _ended = connection.await;
}

/// Runs until the process is told to end.
///
/// # Errors
/// `work` failed.
pub async fn until_told(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = bytes(status, Bytes::from(text));
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// An answer with these bytes.
pub fn bytes(status: StatusCode, body: Bytes) -> Answer {
    streamed(status, Full::new(body).map_err(|never| match never {}).boxed())
}

/// An answer with this body.
pub fn streamed(status: StatusCode, body: BoxBody<Bytes, io::Error>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

/// A body of `left` bytes that is never in memory whole; with `broken`, it ends in an error instead of its last byte.
pub struct Filler {
    left: u64,
    broken: bool,
}

const CHUNK: &[u8] = &[b'x'; 64 * 1024];

impl Filler {
    /// `length` bytes.
    pub fn whole(length: u64) -> BoxBody<Bytes, io::Error> {
        Self {
            left: length,
            broken: false,
        }
        .boxed()
    }

    /// A body that promises `length` bytes and breaks off before.
    pub fn broken(length: u64) -> BoxBody<Bytes, io::Error> {
        Self {
            left: length,
            broken: true,
        }
        .boxed()
    }
}

impl Body for Filler {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let last = u64::from(self.broken);
        if self.left == last {
            return Poll::Ready(self.broken.then(|| Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let most = usize::try_from(self.left - last).unwrap_or(usize::MAX);
        let chunk = CHUNK.get(..most).unwrap_or(CHUNK);
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk)))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left)
    }
}
