//! Between a foreign client and a foreign server (hyper), over sockets, on connections that are kept.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{HeadTimes, Outgoing, PATIENCE, Times, in_time};
use crate::forward::http1::{Exchange, HeadFailure, exchange, read_head};
use crate::forward::{Buffered, Progress};
use crate::request::Limits;

type AnyBody = BoxBody<Bytes, Infallible>;

/// A chunked body of these parts, with their number in a trailer.
fn chunks(parts: Vec<Bytes>) -> AnyBody {
    struct Parts(std::vec::IntoIter<Frame<Bytes>>);
    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(Ok))
        }
    }
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-parts"),
        HeaderValue::from(parts.len()),
    )]);
    let frames: Vec<_> = parts
        .into_iter()
        .map(Frame::data)
        .chain([Frame::trailers(trailers)])
        .collect();
    Parts(frames.into_iter()).boxed()
}

fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).boxed()
}

/// The application: echoes bodies, answers the rest by its path, switches to an echo on request.
async fn application(request: Request<Incoming>) -> Result<Response<AnyBody>, Infallible> {
    let answer = Response::builder().header(
        "x-user",
        request.headers().get("x-hopguard-user").cloned().unwrap(),
    );
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/echo" => {
            let body = request.into_body().collect().await.expect("a whole body");
            let trailers = body.trailers().cloned().unwrap_or_default();
            assert!(!trailers.contains_key("x-user-id"), "stripped");
            let parts = trailers.get("x-parts").cloned().unwrap_or(HeaderValue::from(0));
            let data = body.to_bytes();
            let echoed = data.chunks(1000).map(Bytes::copy_from_slice).collect();
            let answer = answer
                .header("trailer", "x-parts")
                .header("x-parts-received", parts);
            answer.body(chunks(echoed)).unwrap()
        }
        "/empty" => {
            // Without this hyper answers at once and closes: then the next request needs another connection.
            request.into_body().collect().await.expect("a whole body");
            answer.status(StatusCode::NO_CONTENT).body(full("")).unwrap()
        }
        "/ws" => {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.expect("a switch"));
                let (mut read, mut write) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let answer = answer.status(StatusCode::SWITCHING_PROTOCOLS);
            answer
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(full(""))
                .unwrap()
        }
        _ => answer.body(full(vec![b'x'; 10_000])).unwrap(),
    })
}

/// Listens, and serves every connection. The address, and how many connections came so far.
async fn serve() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let service = hyper::service::service_fn(application);
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    (addr, count)
}

/// A sidecar in front of `app`, for one client connection: every request in turn, over one connection to the application.
async fn sidecar(client: TcpStream, app: SocketAddr) -> Vec<Exchange> {
    let (mut client, mut upstream) = (
        Buffered::new(client),
        Buffered::new(TcpStream::connect(app).await.unwrap()),
    );
    let (limits, mut done) = (Limits::default(), Vec::new());
    loop {
        let head = match read_head(
            &mut client,
            &limits,
            HeadTimes {
                idle: PATIENCE,
                head: PATIENCE,
            },
        )
        .await
        {
            Ok(head) => head,
            Err(HeadFailure::Closed) => return done,
            Err(failure) => panic!("{failure}"),
        };
        assert!(done.is_empty() || upstream.is_quiet(), "after {:?}", done.last());
        let request = Outgoing {
            head: &head,
            bytes: head.forward_bytes(&[("x-hopguard-user", "alice")]),
            response_add: &[("x-hopguard-id", "d-1")],
            close: &|| false,
            reused: !done.is_empty(),
            limits: &limits,
            times: Times {
                response: Some(PATIENCE),
                body_idle: PATIENCE,
                upgraded_idle: PATIENCE,
            },
            progress: &Progress::default(),
        };
        let exchange = exchange(&mut client, &mut upstream, request).await;
        let go_on = exchange.client_reusable && exchange.upstream_reusable;
        done.push(exchange);
        if !go_on {
            return done;
        }
    }
}

async fn through(app: SocketAddr) -> (SendRequest<AnyBody>, JoinHandle<Vec<Exchange>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let done = tokio::spawn(sidecar(far.unwrap().0, app));
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near.unwrap()))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    (sender, done)
}

async fn ask(sender: &mut SendRequest<AnyBody>, request: Request<AnyBody>) -> Response<Incoming> {
    sender.ready().await.expect("the connection lives");
    sender.send_request(request).await.expect("an answer")
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "svc")
        .header("x-hopguard-user", "forged")
        .header("te", "trailers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_exchanges_of_every_kind_on_one_connection() {
    let (app, connections) = serve().await;
    let (mut sender, done) = through(app).await;
    in_time(async {
        for turn in 0..25_usize {
            let got = ask(&mut sender, request("GET", "/page").body(full("")).unwrap()).await;
            assert_eq!(
                (&got.headers()["x-user"], &got.headers()["x-hopguard-id"]),
                (&"alice".parse().unwrap(), &"d-1".parse().unwrap())
            );
            assert_eq!(got.into_body().collect().await.unwrap().to_bytes().len(), 10_000);

            let parts: Vec<Bytes> = (0..turn).map(|part| vec![b'p'; part * 97 + 1].into()).collect();
            let whole = parts.concat();
            let body = request("POST", "/echo")
                .header("trailer", "x-parts")
                .body(chunks(parts))
                .unwrap();
            let got = ask(&mut sender, body).await;
            assert_eq!(got.headers()["x-parts-received"], turn.to_string().as_str());
            let body = got.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned();
            assert_eq!(body.to_bytes(), whole);
            assert_eq!(
                trailers.unwrap()["x-parts"],
                whole.chunks(1000).count().to_string().as_str()
            );

            let got = ask(&mut sender, request("HEAD", "/page").body(full("")).unwrap()).await;
            assert_eq!(got.headers()["content-length"], "10000");
            assert!(got.into_body().collect().await.unwrap().to_bytes().is_empty());

            let got = ask(
                &mut sender,
                request("PUT", "/empty").body(full(vec![b'b'; 70_000])).unwrap(),
            )
            .await;
            assert_eq!(got.status(), StatusCode::NO_CONTENT);
        }
        drop(sender);
    })
    .await;
    let done = in_time(done).await.unwrap();
    assert_eq!((done.len(), connections.load(Ordering::SeqCst)), (100, 1));
    assert!(done.iter().all(|exchange| exchange.failure.is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_between_foreign_ends() {
    let (app, _) = serve().await;
    let (mut sender, done) = through(app).await;
    let ask = request("GET", "/ws")
        .header("connection", "upgrade")
        .header("upgrade", "echo");
    let got = in_time(sender.send_request(ask.body(full("")).unwrap()))
        .await
        .unwrap();
    assert_eq!(got.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(in_time(hyper::upgrade::on(got)).await.unwrap());
    in_time(async {
        for size in [1, 1000, 100_000] {
            let data = vec![b'w'; size];
            let mut echo = vec![0; size];
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let (sent, _) = tokio::join!(write.write_all(&data), read.read_exact(&mut echo));
            sent.unwrap();
            assert!(echo == data);
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    let done = in_time(done).await.unwrap();
    assert_eq!(
        (done.len(), done[0].upgraded, done[0].request_bytes),
        (1, true, 101_001)
    );
    assert!(done[0].failure.is_none(), "{:?}", done[0]);
}
