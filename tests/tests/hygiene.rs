//! Small things that a hostile or a careless peer tries: silence, half a word, a spelling of its own, heads that are refused.
//! What is refused is refused in time, and its record says what was asked.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, folder};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
@id("web-reads-one-page")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders")
when { context.path == "/headers/caf%C3%A9" || context.path == "/headers" };
"#;

fn mesh(set: &[&str]) -> Mesh {
    let dir = folder(&[("policies/hygiene.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        set: set.iter().map(|one| (*one).to_owned()).collect(),
        ..Options::default()
    })
    .unwrap()
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    mesh(&[
        "sidecar.orders:inbound.detect_timeout=\"2s\"",
        "sidecar.orders:limits.head_timeout=\"4s\"",
    ])
});

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// curl in pod web: head and body.
fn curl(more: &[&str]) -> String {
    let line: Vec<&str> = ["curl", "-sSi", "--path-as-is", "--max-time", "20"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    text(&MESH.exec("web", &line).unwrap())
}

/// A script in Python with `socket`, `time` and what it prints.
fn python(mesh: &Mesh, pod: &str, script: &str) -> Command {
    let script = format!("import socket, sys, time\n{script}");
    mesh.command(pod, &["python3", "-u", "-c", &script])
}

fn told(mesh: &Mesh, pod: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, || {
        let found = mesh.records(pod).into_iter().rev().find(|record| is_it(record));
        found.ok_or("no such record")
    })
    .unwrap()
}

/// Connects to orders through the mesh, says this and no more; what came back, and the seconds until it was over.
fn held_open(say: &str) -> (String, f64) {
    let script = format!(
        r#"
s = socket.create_connection(('orders', 8080), 30); s.settimeout(90)
began = time.monotonic(); s.sendall({say}); got = b''
try:
    while part := s.recv(65536): got += part
except ConnectionResetError: pass
print(time.monotonic() - began, got[:12].decode())
"#
    );
    let said = text(&python(&MESH, "web", &script).output().unwrap());
    let (seconds, got) = said.split_once(' ').unwrap_or_else(|| panic!("{said}"));
    (got.trim().to_owned(), seconds.parse().unwrap())
}

#[test]
fn silence_in_a_tunnel_ends_as_silence_at_the_port_does() {
    let (got, seconds) = held_open("b''");
    assert!(got.is_empty() && seconds < 20.0, "{got} {seconds}");
    let record = told(&MESH, "orders", |record| {
        record["decision"]["reason"] == "detection_timeout"
    });
    assert_eq!(
        (&record["src"]["spiffe_id"], &record["kind"]),
        (&json!("spiffe://mesh.local/ns/shop/sa/web"), &json!("connection"))
    );
}

/// A head may take `head_timeout`, also one that could still become the preface of HTTP/2.
#[test]
fn a_head_that_may_become_a_preface_takes_no_longer_than_another() {
    for say in ["b'PRI * HT'", "b'P'", "b'GET /headers'"] {
        let (got, seconds) = held_open(say);
        assert_eq!(got, "HTTP/1.1 408", "{say}");
        // Twice the time is 8 s.
        assert!((3.5..7.5).contains(&seconds), "{say}: {seconds}");
    }
}

#[test]
fn the_record_of_a_refused_head_says_what_was_asked() {
    for (more, proto) in [
        (&["--http1.1"][..], "HTTP/1.1"),
        (&["--http2-prior-knowledge"], "HTTP/2"),
    ] {
        let path = format!("/{}//b", proto.replace('/', "-"));
        let url = format!("http://orders:8080{path}?secret=1");
        let answer = curl(&[more, &["-X", "PUT", &url]].concat());
        assert!(
            answer.contains(" 400") && answer.contains("empty_segment"),
            "{answer}"
        );
        let record = told(&MESH, "orders", |record| record["http"]["path"] == *path);
        let http = &record["http"];
        assert_eq!(
            (&http["method"], &http["status"], &http["proto"]),
            (&json!("PUT"), &json!(400), &json!(proto)),
            "{record}"
        );
        assert!(!record.to_string().contains("secret"), "{record}");
    }
    // A head that is none at all: what stands in its first line.
    let (got, _) = held_open("b'DELETE /half/a/head HTTP/1.1\\r\\nbad name: 1\\r\\n\\r\\n'");
    assert_eq!(got, "HTTP/1.1 400");
    let record = told(&MESH, "orders", |record| record["http"]["path"] == "/half/a/head");
    assert_eq!(
        (&record["http"]["method"], &record["error"]),
        (&json!("DELETE"), &json!("malformed_header")),
        "{record}"
    );
}

/// A gRPC client reads `grpc-status`, and takes a 400 without one for something else.
#[test]
fn a_grpc_call_whose_head_is_refused_is_told_as_grpc_tells() {
    let answer = curl(&[
        "--http2-prior-knowledge",
        "-H",
        "content-type: application/grpc",
        "-d",
        "",
        "http://orders:8080/pkg.Echo//Say",
    ]);
    assert!(
        answer.starts_with("HTTP/2 200") && answer.contains("grpc-status: 3"),
        "{answer}"
    );
    let record = told(&MESH, "orders", |record| {
        record["http"]["path"] == "/pkg.Echo//Say"
    });
    assert_eq!(
        (&record["http"]["status"], &record["http"]["grpc_status"]),
        (&json!(400), &json!(3)),
        "{record}"
    );
}

/// What orders answers to a request whose path is written into it as it is: curl would encode it.
fn asked(path: &str) -> String {
    let script = format!(
        r#"
s = socket.create_connection(('orders', 8080), 30); s.settimeout(30)
s.sendall('GET {path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n'.encode()); got = b''
while part := s.recv(65536): got += part
sys.stdout.buffer.write(got)
"#
    );
    text(&python(&MESH, "web", &script).output().unwrap())
}

/// One page, percent-encoded or as it is: one decision, and the application is asked for that page.
#[test]
fn a_path_in_utf8_is_one_path_in_either_spelling() {
    let by_http2 = |path: &str| curl(&["--http2-prior-knowledge", &format!("http://orders:8080{path}")]);
    for spelling in ["caf\u{e9}", "caf%C3%A9", "caf%c3%a9"] {
        let path = format!("/headers/{spelling}");
        for answer in [asked(&path), by_http2(&path)] {
            let page = [
                "/headers/caf\u{e9}\"",
                "/headers/caf%c3%a9\"",
                "/headers/caf%C3%A9\"",
            ];
            assert!(page.iter().any(|page| answer.contains(page)), "{path}: {answer}");
        }
    }
    // No spelling of another page passes.
    for spelling in ["cafe\u{301}", "cafe%CC%81", "caf%E9", "caf\u{e8}"] {
        let path = format!("/headers/{spelling}");
        for answer in [asked(&path), by_http2(&path)] {
            let refused = [" 403 ", " 400 "].iter().any(|status| answer.contains(status));
            assert!(refused && !answer.contains("\"target\""), "{path}: {answer}");
        }
    }
}

/// What leaves the mesh in plain is cut by the end of a drain as everything is, and told.
#[test]
fn a_plain_connection_that_outlives_the_drain_is_told() {
    let mesh = mesh(&[
        "sidecar.orders:outbound.egress=\"plain\"",
        "sidecar.orders:drain.timeout=\"2s\"",
    ]);
    let listener = r#"
s = socket.create_server(('10.77.0.15', 8099)); print('here')
c, _ = s.accept(); c.sendall(c.recv(100))
try: c.recv(100)
except ConnectionResetError: pass
"#;
    let spawn = |mut command: Command| {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (Guard(child), lines)
    };
    let line = |lines: &mut BufReader<std::process::ChildStdout>| {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    let (_world, mut said) = spawn(python(&mesh, "stranger", listener));
    assert_eq!(line(&mut said), "here");
    let client = r#"
s = socket.create_connection(('10.77.0.15', 8099), 30); s.settimeout(60)
s.sendall(b'hello'); print(s.recv(100).decode())
try: print('got', s.recv(100))
except ConnectionResetError: print('cut')
"#;
    let (_client, mut said) = spawn(python(&mesh, "orders", client));
    assert_eq!(line(&mut said), "hello");
    mesh.ctl("stop", "orders").unwrap();
    assert_eq!(line(&mut said), "cut");
    let record = told(&mesh, "orders", |record| {
        record["decision"]["reason"] == "egress_plain"
    });
    assert_eq!(
        (
            &record["tcp"]["close"],
            &record["tcp"]["bytes_in"],
            &record["tcp"]["bytes_out"]
        ),
        (&json!("drained"), &json!(5), &json!(5)),
        "{record}"
    );
}
