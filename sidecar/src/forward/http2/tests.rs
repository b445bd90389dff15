//! Real clients of HTTP/2 over pipes, real applications over loopback sockets, and the room between them: everything but
//! the decision.

mod apps;
mod exchanges;
mod wire;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::dial::DialOptions;
use crate::forward::http1::Exchange;
use crate::forward::{ErrorAnswer, Progress, connect_app};
use crate::request::{Head, Limits, read_http2};

/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

const DIAL: DialOptions = DialOptions {
    mark: None,
    timeout: PATIENCE,
};

/// What the room does with each request.
#[derive(Clone, Copy)]
enum Treat {
    /// Asks the application what it speaks.
    Ask(SocketAddr),
    Http1(SocketAddr),
    /// Answers itself, with this status.
    Refuse(u16),
}

/// What became of one stream.
#[derive(Debug)]
struct Done {
    exchange: Option<Exchange>,
}

impl Done {
    fn label(&self) -> &'static str {
        let failure = self
            .exchange
            .as_ref()
            .and_then(|exchange| exchange.failure.as_ref());
        failure.map_or("none", crate::forward::http1::ExchangeFailure::label)
    }
}

/// A client's end of a connection that is served, and what became of its streams.
struct Served {
    io: DuplexStream,
    done: tokio::sync::mpsc::UnboundedReceiver<Done>,
}

impl Served {
    async fn next(&mut self) -> Done {
        tokio::time::timeout(PATIENCE, self.done.recv())
            .await
            .expect("a stream ends")
            .expect("the connection lives")
    }
}

/// Serves one connection as the sidecar does, with every request let through.
fn served(to: Treat) -> Served {
    beside(to, &std::sync::Arc::default())
}

/// The same beside other connections to the same applications.
fn beside(to: Treat, apps: &std::sync::Arc<Apps>) -> Served {
    let (io, near) = duplex(64 * 1024);
    let (tell, done) = tokio::sync::mpsc::unbounded_channel();
    let apps = std::sync::Arc::clone(apps);
    tokio::spawn(async move {
        let until = SystemTime::now() + Duration::from_secs(3600);
        let Ok(mut client) = Client::begin(near, &Limits::default(), PATIENCE, until).await else {
            return;
        };
        let links = std::sync::Arc::new(Links::default());
        while let Ok(Some(incoming)) = client.next().await {
            let (tell, apps) = (tell.clone(), std::sync::Arc::clone(&apps));
            let links = std::sync::Arc::clone(&links);
            tokio::spawn(async move {
                let exchange = one(to, (&apps, &links), incoming).await;
                let _test_is_over = tell.send(Done { exchange });
            });
        }
    });
    Served { io, done }
}

async fn one(to: Treat, (apps, links): (&Apps, &Links), incoming: Incoming) -> Option<Exchange> {
    let Incoming { parts, mut stream } = incoming;
    let head = match read_http2(&parts, stream.is_ended(), &Limits::default()) {
        Ok(head) => head,
        Err(refusal) => {
            say(&mut stream, refusal.status, None).await;
            return None;
        }
    };
    let progress = Progress::default();
    let outgoing = Outgoing {
        head: &head,
        add: &[("x-added", "yes")],
        response_add: &[],
        limits: &Limits::default(),
        times: Times {
            body_idle: PATIENCE,
            quiet: PATIENCE,
        },
        progress: &progress,
    };
    let addr = match to {
        Treat::Refuse(status) => {
            say(&mut stream, status, Some(&head)).await;
            return None;
        }
        Treat::Ask(addr) | Treat::Http1(addr) => addr,
    };
    let lease = match to {
        Treat::Ask(_) => links.place(&asking(apps, addr, false)).await.unwrap(),
        _ => None,
    };
    let exchange = match lease {
        Some(lease) => to_http2(&mut stream, lease, &outgoing).await,
        None => {
            let mut app = Http1App::new(connect_app(addr, &DIAL).await.unwrap(), None);
            let exchange = to_http1(&mut stream, &mut app, &outgoing).await;
            if exchange.failure.is_some() {
                app.abort();
            }
            exchange
        }
    };
    if exchange.failure.is_some() {
        stream.reset(h2::Reason::INTERNAL_ERROR);
    }
    Some(exchange)
}

async fn say(stream: &mut Stream, status: u16, head: Option<&Head>) {
    let error = ErrorAnswer {
        status,
        code: "no_rule",
        detail: "50 % of it\u{e9}",
        id: Some("d-1"),
        headers: &[("x-hopguard-id", "d-1")],
        close: false,
        to_head: false,
    };
    let grpc = head.is_some_and(|head| is_grpc(head.header("content-type").next()));
    assert!(stream.answer(answer(&error, grpc), 1024, PATIENCE).await);
}

/// Asks `addr` what it speaks.
fn asking(apps: &Apps, addr: SocketAddr, certain: bool) -> To<'_> {
    const LIMITS: Limits = Limits {
        head_bytes: 32 * 1024,
        headers: 100,
        target_bytes: 8 * 1024,
    };
    To {
        apps,
        addr,
        certain,
        dial: &DIAL,
        limits: &LIMITS,
    }
}

/// A client on a connection that is served.
async fn client(served: &mut Served) -> SendRequest<Bytes> {
    let io = std::mem::replace(&mut served.io, duplex(1).0);
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(uri: &str) -> Request<()> {
    Request::post(uri).body(()).unwrap()
}

/// A whole answer: status, headers, body, trailers.
type Whole = (u16, HeaderMap, Vec<u8>, HeaderMap);

async fn whole(response: h2::client::ResponseFuture) -> Result<Whole, h2::Error> {
    let reading = async {
        let (parts, mut body) = response.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok((parts.status.as_u16(), parts.headers, bytes, trailers))
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer")
}
