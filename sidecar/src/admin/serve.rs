//! One HTTP/1 server for all of them: connections enter, one answer each leaves, bounded in time, head size and number. It
//! reads no body and keeps no connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// The least that hyper takes for a head, in bytes.
const HEAD_BYTES: usize = 8192;
const HEADERS: usize = 64;

/// What one server may take.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at once; for one more, the oldest is closed.
    pub(super) connections: usize,
    /// Time for the head of a request.
    pub(super) head: Duration,
    /// Time for a connection as a whole.
    pub(super) whole: Duration,
}

impl Bounds {
    /// For listeners that strangers reach.
    pub(super) fn open() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(5),
            whole: Duration::from_secs(10),
        }
    }

    /// For the relay of probes, whose answers may take as long as the application does.
    pub(super) fn relay() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(5),
            whole: Duration::from_secs(70),
        }
    }

    /// For the administration socket.
    pub(super) fn admin() -> Self {
        Self {
            connections: 16,
            head: Duration::from_secs(5),
            whole: Duration::from_secs(30),
        }
    }
}

/// An answer to one request.
pub(super) struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
}

impl Answer {
    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        let mut body = value.to_string();
        body.push('\n');
        Self {
            status,
            kind: "application/json",
            body: body.into(),
        }
    }

    pub(super) fn open_metrics(text: String) -> Self {
        Self {
            status: StatusCode::OK,
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: text.into(),
        }
    }
}

/// Where connections come from.
pub(super) trait Listener: Send {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, or `None` for one that is not served.
    fn accept(&mut self) -> impl Future<Output = io::Result<Option<Self::Io>>> + Send;

    /// The address of ours at which it arrived.
    fn here(_io: &Self::Io) -> Option<IpAddr> {
        None
    }
}

/// What is answered at which path.
pub(super) trait Route: Send + Sync + 'static {
    /// Whether there is anything. Must not block.
    fn knows(&self, path: &str) -> bool;

    /// What is there, for a connection that arrived at `here`.
    fn answer(&self, path: &str, here: Option<IpAddr>) -> impl Future<Output = Option<Answer>> + Send;
}

impl<F: Fn(&str) -> Option<Answer> + Send + Sync + 'static> Route for F {
    fn knows(&self, path: &str) -> bool {
        self(path).is_some()
    }

    async fn answer(&self, path: &str, _here: Option<IpAddr>) -> Option<Answer> {
        self(path)
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<Option<TcpStream>> {
        TcpListener::accept(self).await.map(|(stream, _)| Some(stream))
    }

    fn here(io: &TcpStream) -> Option<IpAddr> {
        io.local_addr().ok().map(|here| here.ip())
    }
}

/// Serves what is at hand, until it is dropped.
pub(super) async fn serve<F>(listener: impl Listener, bounds: Bounds, route: F)
where
    F: Fn(&str) -> Option<Answer> + Send + Sync + 'static,
{
    serve_route(listener, bounds, route).await;
}

/// Serves until it is dropped; what is being answered then ends with it.
pub(super) async fn serve_route<L: Listener>(mut listener: L, bounds: Bounds, route: impl Route) {
    let route = Arc::new(route);
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok(Some(io)) => {
                while connections.try_join_next().is_some() {}
                by_age.retain(|connection| !connection.is_finished());
                // A probe must never wait behind those who say nothing: whoever asks is answered within a moment, so the
                // oldest connection is the one that has had its chance.
                while by_age.len() >= bounds.connections {
                    let oldest = by_age.pop_front();
                    oldest.into_iter().for_each(|oldest| oldest.abort());
                }
                let route = Arc::clone(&route);
                let here = L::here(&io);
                by_age.push_back(connections.spawn(async move {
                    let _in_time = timeout(bounds.whole, connection(io, bounds, (route, here))).await;
                }));
            }
            Ok(None) => {}
            Err(error) => {
                // Out of descriptors: at once again would only burn time.
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<Io>(io: Io, bounds: Bounds, (route, here): (Arc<impl Route>, Option<IpAddr>))
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let route = Arc::clone(&route);
        async move { Ok::<_, Infallible>(answer(&request, &*route, here).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .header_read_timeout(bounds.head)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to health, metrics or administration failed");
    }
}

async fn answer(
    request: &Request<Incoming>,
    route: &impl Route,
    here: Option<IpAddr>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let answer = if matches!(*request.method(), Method::GET | Method::HEAD) {
        route.answer(path, here).await
    } else if route.knows(path) {
        Some(Answer::json(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "nothing can be changed here: GET"}),
        ))
    } else {
        None
    };
    let answer =
        answer.unwrap_or_else(|| Answer::json(StatusCode::NOT_FOUND, &json!({"error": "not found"})));
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
