use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::admin::serve_relay;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn relay(text: &str) -> Arc<Relay> {
    Arc::new(Relay::new(text.parse().unwrap(), None))
}

async fn found(probe: &str) -> Result<(), String> {
    let relay = relay(&format!(r#"{{"/app-health/a/livez": {probe}}}"#));
    relay.ask("/app-health/a/livez", HERE).await.unwrap()
}

/// An application that answers `/well` by 200, `/moved` by 302 and everything else by 500, with what it was asked in a header.
async fn application() -> (u16, Arc<AtomicUsize>, Arc<Notify>) {
    let (listener, port) = listener().await;
    let (asked, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, waited) = (Arc::clone(&asked), Arc::clone(&go));
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (counted, waited) = (Arc::clone(&counted), Arc::clone(&waited));
            tokio::spawn(http1_answers(io, counted, waited));
        }
    });
    (port, asked, go)
}

async fn http1_answers(io: TcpStream, asked: Arc<AtomicUsize>, go: Arc<Notify>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            let status = match request.uri().path() {
                "/well" if request.headers().get("x-a").is_some_and(|a| a == "b") => 200,
                "/host" if request.headers()["host"] == "example.org" => 204,
                "/moved" => 302,
                "/slow" => {
                    go.notified().await;
                    200
                }
                _ => 500,
            };
            let body = Full::new(Bytes::from_static(b"a secret of the application"));
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    let _ended = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .await;
}

#[tokio::test]
async fn the_application_is_asked_what_was_configured() {
    let (port, _, _) = application().await;
    let http = |path: &str, headers: &str| {
        format!(
            r#"{{"http": {{"port": {port}, "path": "{path}", "headers": [{headers}]}}, "timeout_seconds": 5}}"#
        )
    };
    assert_eq!(found(&http("/well", r#"["X-A", "b"]"#)).await, Ok(()));
    assert_eq!(found(&http("/host", r#"["Host", "example.org"]"#)).await, Ok(()));
    assert_eq!(found(&http("/moved", "")).await, Ok(()));
    assert_eq!(found(&http("/well", "")).await, Err("status 500".to_owned()));
    let tcp = |port: u16| format!(r#"{{"tcp": {{"port": {port}}}, "timeout_seconds": 5}}"#);
    assert_eq!(found(&tcp(port)).await, Ok(()));
    let (gone, free) = listener().await;
    drop(gone);
    assert!(found(&tcp(free)).await.unwrap_err().contains("refused"));
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_not_well() {
    let (_silent, port) = listener().await;
    for kind in [
        format!(r#"{{"http": {{"port": {port}, "path": "/"}}, "timeout_seconds": 3}}"#),
        format!(r#"{{"grpc": {{"port": {port}}}, "timeout_seconds": 3}}"#),
    ] {
        assert_eq!(found(&kind).await, Err("no answer within 3s".to_owned()));
    }
}

/// A gRPC server that answers every call by this message and this status.
async fn grpc(message: &'static [u8], code: &'static str) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            tokio::spawn(async move {
                let mut body = request.into_body();
                let asked = body.data().await.unwrap().unwrap();
                assert_eq!(&asked[..], b"\0\0\0\0\x06\x0a\x04shop");
                let mut sent = answer.send_response(Response::new(()), false).unwrap();
                sent.send_data(Bytes::from_static(message), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(code));
                sent.send_trailers(trailers).unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn grpc_health_is_asked_as_its_protocol_says() {
    for (message, code, wanted) in [
        (&b"\0\0\0\0\x02\x08\x01"[..], "0", Ok(())),
        (b"\0\0\0\0\x02\x08\x02", "0", Err("gRPC health 2, not SERVING")),
        (b"\0\0\0\0\0", "0", Err("gRPC health 0, not SERVING")),
        (b"", "12", Err("gRPC status 12")),
        (
            b"\0\0\0\0\x02\xff\xff",
            "0",
            Err("the answer is no health of gRPC"),
        ),
    ] {
        let port = grpc(message, code).await;
        let asked = format!(r#"{{"grpc": {{"port": {port}, "service": "shop"}}, "timeout_seconds": 5}}"#);
        assert_eq!(found(&asked).await, wanted.map_err(str::to_owned));
    }
}

async fn sent(address: SocketAddr, request: &str) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn nothing_but_the_named_probes_can_be_reached_and_nothing_is_passed_on() {
    let (port, asked, _) = application().await;
    let (listener, relay_port) = listener().await;
    let text = format!(
        r#"{{"/app-health/a/livez": {{"http": {{"port": {port}, "path": "/well", "headers": [["x-a", "b"]]}}, "timeout_seconds": 5}}}}"#
    );
    let _serving = tokio::spawn(serve_relay(listener, relay(&text)));
    let address = SocketAddr::new(HERE, relay_port);
    let good = sent(
        address,
        "GET /app-health/a/livez?x=y HTTP/1.1\r\nhost: h\r\nx-a: c\r\n\r\n",
    )
    .await;
    assert!(
        good.starts_with("HTTP/1.1 200") && good.ends_with("{\"well\":true}\n"),
        "{good}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    for (request, status) in [
        ("GET /app-health/a/readyz HTTP/1.1\r\nhost: h\r\n\r\n", "404"),
        ("GET /app-health/a/livez/ HTTP/1.1\r\nhost: h\r\n\r\n", "404"),
        ("GET /app-health/a/../a/livez HTTP/1.1\r\nhost: h\r\n\r\n", "404"),
        ("GET /app-health/a/%6civez HTTP/1.1\r\nhost: h\r\n\r\n", "404"),
        ("GET /well HTTP/1.1\r\nhost: h\r\nx-a: b\r\n\r\n", "404"),
        (
            "POST /app-health/a/livez HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
            "405",
        ),
        ("CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: h\r\n\r\n", "404"),
    ] {
        let answer = sent(address, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}{answer}"
        );
    }
    assert_eq!(
        asked.load(Ordering::SeqCst),
        1,
        "the application heard of none of them"
    );
}

#[tokio::test]
async fn however_many_ask_the_application_is_asked_once_at_a_time() {
    let (port, asked, go) = application().await;
    let text = format!(
        r#"{{"/app-health/a/livez": {{"http": {{"port": {port}, "path": "/slow"}}, "timeout_seconds": 9}}}}"#
    );
    let relay = relay(&text);
    let many: Vec<_> = (0..100)
        .map(|_| {
            let relay = Arc::clone(&relay);
            tokio::spawn(async move { relay.ask("/app-health/a/livez", HERE).await })
        })
        .collect();
    // The first asks; all others have come by the time that it is answered, and share one question more.
    let answers = async {
        for one in many {
            assert_eq!(one.await.unwrap(), Some(Ok(())));
        }
    };
    let releases = async {
        loop {
            go.notify_one();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = answers => {}
        () = releases => {}
    }
    assert!(asked.load(Ordering::SeqCst) <= 2, "{asked:?}");
}

#[test]
fn what_cannot_be_a_probe_is_refused() {
    for (text, said) in [
        ("", "EOF"),
        ("[]", "invalid type"),
        (r#"{"/x": {"tcp": {"port": 1}, "timeout_seconds": 1}}"#, "below"),
        (r#"{"/app-health/a/b": {"timeout_seconds": 1}}"#, "is wanted"),
        (
            r#"{"/app-health/a/b": {"tcp": {"port": 1}, "grpc": {"port": 1}, "timeout_seconds": 1}}"#,
            "is wanted",
        ),
        (
            r#"{"/app-health/a/b": {"tcp": {"port": 0}, "timeout_seconds": 1}}"#,
            "not 0",
        ),
        (
            r#"{"/app-health/a/b": {"tcp": {"port": 1, "host": "x"}, "timeout_seconds": 1}}"#,
            "unknown field",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "x"}, "timeout_seconds": 1}}"#,
            "no path",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "//x/y"}, "timeout_seconds": 1}}"#,
            "no path",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "/a b"}, "timeout_seconds": 1}}"#,
            "no path",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "/", "headers": [["a b", ""]]}, "timeout_seconds": 1}}"#,
            "header",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "/", "headers": [["a", "b\r\nc: d"]]}, "timeout_seconds": 1}}"#,
            "header",
        ),
        (
            r#"{"/app-health/a/b": {"http": {"port": 1, "path": "/", "headers": [["Content-Length", "5"]]}, "timeout_seconds": 1}}"#,
            "not for probes",
        ),
    ] {
        let error = text.parse::<AppProbes>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    assert!(" ".repeat(MAX_TEXT + 1).parse::<AppProbes>().is_err());
}
