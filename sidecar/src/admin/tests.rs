use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;

struct State(Mutex<Readiness>);

impl State {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Readiness {
            ready: false,
            reasons: vec!["no identity yet".to_owned()],
        })))
    }
}

impl AdminState for State {
    fn section(&self, name: &str) -> Option<Value> {
        (name == "policy").then(|| json!({"version": "abc"}))
    }

    fn explain(&self, id: &str) -> Result<Value, Value> {
        if id == "known" {
            Ok(json!({"id": id}))
        } else {
            Err(json!({"error": "no such id"}))
        }
    }

    fn readiness(&self) -> Readiness {
        self.0.lock().unwrap().clone()
    }
}

async fn tcp() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _reset_at_worst = tokio::time::timeout(Duration::from_secs(10), io.read_to_string(&mut answer))
        .await
        .expect("no answer in time");
    answer
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let io = TcpStream::connect(address).await.unwrap();
    let answer = ask(io, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    split(&answer)
}

async fn get_unix(path: &Path, target: &str) -> (u16, String) {
    let io = UnixStream::connect(path).await.unwrap();
    let answer = ask(io, &format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    split(&answer)
}

fn split(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
    let body = answer
        .split_once("\r\n\r\n")
        .map_or("", |(_, body)| body)
        .to_owned();
    (status, body)
}

#[tokio::test]
async fn health_lives_and_readiness_says_why_not() {
    let state = State::new();
    let (listener, address) = tcp().await;
    tokio::spawn(serve_health(listener, Arc::clone(&state) as Arc<dyn AdminState>));
    assert_eq!(get(address, "/healthz").await.0, 200);
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body.trim(), r#"{"ready":false,"reasons":["no identity yet"]}"#);
    *state.0.lock().unwrap() = Readiness {
        ready: true,
        reasons: vec![],
    };
    assert_eq!(get(address, "/readyz?verbose").await.0, 200);
    assert_eq!(get(address, "/policy").await.0, 404);
    assert_eq!(get(address, "/").await.0, 404);
}

#[tokio::test]
async fn metrics_are_open_metrics_and_nothing_else_is_there() {
    let (listener, address) = tcp().await;
    tokio::spawn(serve_metrics(listener, Metrics::new()));
    let io = TcpStream::connect(address).await.unwrap();
    let answer = ask(io, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.contains("process_resident_memory_bytes ") && answer.ends_with("# EOF\n"));
    assert_eq!(get(address, "/status").await.0, 404);
}

#[tokio::test]
async fn the_socket_shows_the_sections_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let socket = AdminSocket::bind(&path).unwrap();
    let server = tokio::spawn(serve_admin(socket, State::new()));
    assert_eq!(
        get_unix(&path, "/policy").await,
        (200, "{\"version\":\"abc\"}\n".to_owned())
    );
    assert_eq!(get_unix(&path, "/tunnels").await.0, 503);
    assert_eq!(
        get_unix(&path, "/explain/known").await,
        (200, "{\"id\":\"known\"}\n".to_owned())
    );
    for unknown in ["/explain/", "/explain/other", "/explain/known/x"] {
        assert_eq!(get_unix(&path, unknown).await.0, 404, "{unknown}");
    }
    let (status, index) = get_unix(&path, "/").await;
    assert_eq!(status, 200);
    for name in SECTIONS {
        assert!(index.contains(&format!("/{name}")), "{index}");
    }
    for target in ["/secrets", "/policy/", "//policy", "/policy/../config", "/POLICY"] {
        assert_eq!(get_unix(&path, target).await.0, 404, "{target}");
    }
    server.abort();
    let _ended = server.await;
    assert!(!path.exists(), "the file goes with the server");
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    tokio::spawn(serve_admin(AdminSocket::bind(&path).unwrap(), State::new()));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let io = UnixStream::connect(&path).await.unwrap();
        let request = format!("{method} /policy HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}");
        let answer = ask(io, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        assert!(answer.contains("allow: GET, HEAD"));
    }
    let io = UnixStream::connect(&path).await.unwrap();
    let answer = ask(io, "HEAD /policy HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_has_one_request_and_heads_are_bounded() {
    let (listener, address) = tcp().await;
    tokio::spawn(serve_health(listener, State::new()));
    let io = TcpStream::connect(address).await.unwrap();
    let two = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    assert_eq!(ask(io, two).await.matches("HTTP/1.1 200").count(), 1);

    let many: String = (0..100).map(|n| format!("h{n}: x\r\n")).collect();
    let large = format!("h: {}\r\n", "x".repeat(20_000));
    for headers in [many, large] {
        let io = TcpStream::connect(address).await.unwrap();
        let answer = ask(io, &format!("GET /healthz HTTP/1.1\r\n{headers}\r\n")).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let io = TcpStream::connect(address).await.unwrap();
    let answer = ask(io, "\x16\x03\x01 not http at all\r\n\r\n").await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(get(address, "/healthz").await.0, 200);
}

#[tokio::test]
async fn who_asks_does_not_wait_behind_those_who_say_nothing() {
    let (listener, address) = tcp().await;
    let bounds = Bounds {
        connections: 2,
        // Nobody is cut for being slow while this test runs.
        head: Duration::from_secs(3600),
        whole: Duration::from_secs(3600),
    };
    tokio::spawn(serve(listener, bounds, |path| {
        (path == "/x").then(|| Answer::json(StatusCode::OK, &json!({})))
    }));
    let mut silent = Vec::new();
    for _ in 0..9 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(get(address, "/x").await.0, 200);
    }
    // The oldest made room.
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(10), silent[0].read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the oldest connection is still open");
}

#[tokio::test]
async fn those_who_say_nothing_are_cut_and_others_then_served() {
    let (listener, address) = tcp().await;
    let bounds = Bounds {
        connections: 2,
        head: Duration::from_millis(200),
        whole: Duration::from_millis(400),
    };
    tokio::spawn(serve(listener, bounds, |path| {
        (path == "/x").then(|| Answer::json(StatusCode::OK, &json!({})))
    }));
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // They hold both places; this one is served once they were cut.
    assert_eq!(get(address, "/x").await.0, 200);
    for mut io in silent {
        let mut rest = Vec::new();
        let cut = tokio::time::timeout(Duration::from_secs(10), io.read_to_end(&mut rest)).await;
        assert!(cut.is_ok(), "a silent connection is still open");
    }
}
