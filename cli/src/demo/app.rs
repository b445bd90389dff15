//! An application of the demo: plain HTTP/1.1 enters and leaves. It knows nothing of the mesh; it hands on the two headers
//! that any program hands on, `authorization` and `traceparent`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::failed;
use super::pods::{APP_PORT, OPAQUE_PORT};
use super::wire::{self, Answer, Filler};
use crate::ui::{Exit, Failure};

/// The longest answer of a next hop that is handed on.
const MAX_ANSWER: usize = 1024 * 1024;

/// Arguments of `demo app`.
#[derive(clap::Args)]
pub struct Args {
    /// What it calls itself in answers
    name: String,
    #[arg(long, default_value_t = APP_PORT)]
    port: u16,
    /// A port for raw TCP: greets first, then echoes
    #[arg(long, default_value_t = OPAQUE_PORT)]
    opaque: u16,
    /// Where an order goes next
    #[arg(long)]
    next: Option<Uri>,
}

struct App {
    name: String,
    next: Option<Uri>,
    requests: AtomicU64,
    connections: AtomicU64,
    sunk: AtomicU64,
    greeted: AtomicU64,
}

/// Serves until told to end.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let app = Arc::new(App {
        name: args.name.clone(),
        next: args.next.clone(),
        requests: AtomicU64::new(0),
        connections: AtomicU64::new(0),
        sunk: AtomicU64::new(0),
        greeted: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting"))?;
    runtime
        .block_on(wire::until_told(serve(app, args.port, args.opaque)))
        .map_err(failed("serving"))?;
    runtime.shutdown_background();
    Ok(Exit::Done)
}

async fn serve(app: Arc<App>, port: u16, opaque: u16) -> io::Result<()> {
    let raw = wire::listen(opaque).await?;
    tokio::spawn(greet_and_echo(raw, Arc::clone(&app)));
    let listener = wire::listen(port).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        app.connections.fetch_add(1, Relaxed);
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _off = stream.set_nodelay(true);
            wire::serve(stream, |request| answer(Arc::clone(&app), request)).await;
        });
    }
}

/// A protocol in which the server speaks first.
async fn greet_and_echo(listener: TcpListener, app: Arc<App>) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        app.greeted.fetch_add(1, Relaxed);
        let greeting = format!("hello from {}\n", app.name);
        tokio::spawn(async move {
            stream.write_all(greeting.as_bytes()).await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        });
    }
}

async fn answer(app: Arc<App>, request: Request<Incoming>) -> io::Result<Answer> {
    let path = request.uri().path().to_owned();
    let (first, argument) = match path.trim_start_matches('/').split_once('/') {
        Some((first, rest)) => (first.to_owned(), rest.parse::<u64>().unwrap_or(0)),
        None => (path.trim_start_matches('/').to_owned(), 0),
    };
    if first == "count" {
        return Ok(wire::json(StatusCode::OK, &app.counts()));
    }
    app.requests.fetch_add(1, Relaxed);
    let ok = StatusCode::OK;
    Ok(match first.as_str() {
        "order" | "charge" => app.order(request).await,
        "echo" => wire::streamed(ok, request.into_body().map_err(io::Error::other).boxed()),
        "bytes" => wire::streamed(ok, Filler::whole(argument)),
        "sink" => app.sink(request.into_body()).await?,
        "slow" => {
            tokio::time::sleep(Duration::from_millis(argument)).await;
            wire::json(ok, &json!({"service": app.name, "slow": argument}))
        }
        "upgrade" => upgrade(request),
        "headers" => wire::json(ok, &received(&request)),
        // Ends the connection without an answer, or in the middle of one.
        "close" => return Err(io::ErrorKind::ConnectionAborted.into()),
        "truncate" => wire::streamed(ok, Filler::broken(argument.max(1))),
        "" => wire::json(ok, &json!({"service": app.name})),
        _ => wire::json(
            StatusCode::NOT_FOUND,
            &json!({"service": app.name, "error": "no such path"}),
        ),
    })
}

/// RFC 9110, 7.8: whatever protocol is asked for, it is an echo.
fn upgrade(mut request: Request<Incoming>) -> Answer {
    let protocol = request
        .headers()
        .get(UPGRADE)
        .cloned()
        .unwrap_or(HeaderValue::from_static("echo"));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.map_err(io::Error::other)?);
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    });
    let mut answer = wire::bytes(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    answer.headers_mut().insert(UPGRADE, protocol);
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer
}

/// What came in, as the application sees it.
fn received(request: &Request<Incoming>) -> Value {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({"method": request.method().as_str(), "target": request.uri().to_string(), "headers": headers})
}

impl App {
    fn counts(&self) -> Value {
        json!({
            "service": self.name,
            "count": self.requests.load(Relaxed),
            "connections": self.connections.load(Relaxed),
            "sunk": self.sunk.load(Relaxed),
            "greeted": self.greeted.load(Relaxed),
        })
    }

    async fn sink(&self, mut body: Incoming) -> io::Result<Answer> {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            length += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        self.sunk.fetch_add(length, Relaxed);
        Ok(wire::json(
            StatusCode::OK,
            &json!({"service": self.name, "bytes": length}),
        ))
    }

    /// Places the order at the next hop, for the same user, and says what came of it.
    async fn order(&self, request: Request<Incoming>) -> Answer {
        let Some(next) = &self.next else {
            // Whoever answers without having read the request makes its sender fail.
            let _read = self.sink(request.into_body()).await;
            return wire::json(StatusCode::OK, &json!({"service": self.name, "done": true}));
        };
        match call(next, &request).await {
            Ok((status, said)) => wire::json(status, &json!({"service": self.name, "next": said})),
            Err(error) => {
                let text = error.to_string();
                wire::json(
                    StatusCode::BAD_GATEWAY,
                    &json!({"service": self.name, "error": text}),
                )
            }
        }
    }
}

async fn call(next: &Uri, request: &Request<Incoming>) -> io::Result<(StatusCode, Value)> {
    let authority = next.authority().map(ToString::to_string).unwrap_or_default();
    let stream = TcpStream::connect(&authority).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    let mut onward = Request::builder()
        .method(Method::POST)
        .uri(next.path())
        .header(HOST, &authority)
        .header(CONNECTION, "close");
    for name in [AUTHORIZATION.as_str(), "traceparent"] {
        for value in request.headers().get_all(name) {
            onward = onward.header(name, value);
        }
    }
    let onward = onward.body(Full::new(Bytes::new())).map_err(io::Error::other)?;
    let answer = sender.send_request(onward).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let said = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    Ok((status, said))
}
