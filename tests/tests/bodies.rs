//! Traffic as it really is: large, slow, many, broken. Orders speaks to payments through both sidecars.

#![cfg(test)]

use std::fs;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hopguard_tests::{Mesh, Options, eventually, output_within, succeeded};
use serde_json::Value;

/// Any route of payments and orders for a peer of the mesh; the strangers stay out.
const WIDE: &str = r#"
@id("peers-do-anything")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action in Action::"http", resource == Service::"shop/payments")
when { context.path != "/forbidden" };
"#;

static MESH: LazyLock<Mesh> = LazyLock::new(wide);

/// Tests that stop a part have it for themselves.
static PARTS: Mutex<()> = Mutex::new(());

fn wide() -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("policies")).unwrap();
    fs::write(dir.path().join("policies/wide.cedar"), WIDE).unwrap();
    let options = Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    };
    Mesh::start(&options).unwrap()
}

fn alone() -> MutexGuard<'static, ()> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// curl in pod orders; the last line of its output is what `-w` asked for.
fn curl(arguments: &[&str]) -> (Option<i32>, String, String) {
    let line: Vec<&str> = ["curl", "-sS", "--max-time", "110"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let done = output_within(Duration::from_secs(120), MESH.command("orders", &line)).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

fn python(script: &str) -> String {
    let command = MESH.command("orders", &["python3", "-c", script]);
    succeeded(output_within(Duration::from_secs(120), command).unwrap()).unwrap()
}

fn rss(part: &str) -> u64 {
    let pid = MESH.pid(part).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

const GIB: u64 = 1 << 30;
/// What the two copies may take beside what an idle sidecar has.
const BOUND: u64 = 64 << 20;

#[test]
fn a_body_of_one_gib_each_way_in_bounded_memory() {
    let parts = alone();
    let before = ["orders", "payments"].map(rss);
    let script =
        format!("head -c {GIB} /dev/zero | curl -sS --max-time 110 -T - -X POST http://payments:8080/sink");
    let up = MESH.command("orders", &["sh", "-c", &script]);
    let up =
        std::thread::spawn(move || succeeded(output_within(Duration::from_secs(120), up).unwrap()).unwrap());
    let url = format!("http://payments:8080/bytes/{GIB}");
    let down =
        std::thread::spawn(move || curl(&["-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url]));
    let mut most = [0; 2];
    while !(up.is_finished() && down.is_finished()) {
        for (most, part) in most.iter_mut().zip(["orders", "payments"]) {
            *most = rss(part).max(*most);
        }
    }
    drop(parts);
    let up: Value = serde_json::from_str(&up.join().unwrap()).unwrap();
    assert_eq!(up["bytes"].as_u64(), Some(GIB));
    let (code, text, errors) = down.join().unwrap();
    assert_eq!(
        (code, text.as_str()),
        (Some(0), format!("200 {GIB}").as_str()),
        "{errors}"
    );
    for (most, before) in most.iter().zip(before) {
        assert!(*most < before + BOUND, "from {before} to {most} bytes resident");
    }
}

#[test]
fn a_thousand_connections_at_once() {
    let _parts = alone();
    let load = hopguard_tests::hopguard_bin().with_file_name("hopguard-load");
    let line = [
        load.to_str().unwrap(),
        "--url",
        "http://payments:8080/slow/500",
        "--connections",
        "1000",
        "--requests",
        "3000",
    ];
    let done = output_within(Duration::from_secs(120), MESH.command("orders", &line)).unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let report: Value = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(report["sent"].as_u64(), Some(3000), "{report}");
    assert_eq!(report["answered"].as_u64(), Some(3000), "{report}");
    assert_eq!(report["statuses"]["200"].as_u64(), Some(3000), "{report}");
    assert!(report["connections_opened"].as_u64() >= Some(1000), "{report}");
}

#[test]
fn an_application_that_answers_late_is_waited_for() {
    let _parts = alone();
    let (code, text, errors) = curl(&[
        "-w",
        " %{http_code} %{time_total}",
        "http://payments:8080/slow/3000",
    ]);
    assert_eq!(code, Some(0), "{errors}");
    let mut words = text.rsplit(' ');
    let seconds: f64 = words.next().unwrap().parse().unwrap();
    assert_eq!(words.next(), Some("200"));
    assert!(seconds >= 3.0, "{text}");
}

#[test]
fn an_application_that_is_down_is_a_503_with_the_reason() {
    let _parts = alone();
    MESH.ctl("stop", "app:payments").unwrap();
    let (code, text, errors) = curl(&["-i", "http://payments:8080/headers"]);
    MESH.ctl("start", "app:payments").unwrap();
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    let body: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(body["reason"].as_str().unwrap().contains("application"), "{body}");
    let id = body["id"].as_str().unwrap().to_owned();
    assert!(
        text.to_lowercase().contains(&format!("x-hopguard-id: {id}")),
        "{text}"
    );
    let told = |record: &Value| record["request_id"] == Value::String(id.clone());
    eventually(Duration::from_secs(20), || {
        MESH.records("payments")
            .iter()
            .any(told)
            .then_some(())
            .ok_or("no record has the id of the answer")
    })
    .unwrap();
    eventually(Duration::from_secs(30), || MESH.counted("payments").map(drop)).unwrap();
}

#[test]
fn an_application_that_closes_early_is_never_a_clean_answer() {
    let _parts = alone();
    let (code, text, errors) = curl(&["-i", "http://payments:8080/close"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
    assert!(text.contains("upstream_closed"), "{text}");
}

#[test]
fn a_peer_that_is_down_is_an_answer_with_the_reason() {
    let _parts = alone();
    MESH.ctl("stop", "payments").unwrap();
    let (code, text, errors) = curl(&["-i", "http://payments:8080/headers"]);
    MESH.ctl("start", "payments").unwrap();
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("\"reason\""), "{text}");
    eventually(Duration::from_secs(60), || {
        let (_, text, _) = curl(&[
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://payments:8080/headers",
        ]);
        if text == "200" {
            Ok(())
        } else {
            Err(format!("still {text}"))
        }
    })
    .unwrap();
}

#[test]
fn an_unknown_destination_is_an_answer_with_the_reason() {
    let (code, text, errors) = curl(&["-i", "http://laptop:8080/"]);
    let (code, text, errors) = match code {
        // The name of a pod outside the mesh may not be known inside it.
        Some(6) => curl(&["-i", "http://10.77.0.16:8080/"]),
        _ => (code, text, errors),
    };
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.starts_with("HTTP/1.1 502 "), "{text}");
    assert!(text.contains("egress_denied"), "{text}");
}

/// One socket, bytes as given, everything that comes until `count` heads were seen or the peer closes.
const RAW: &str = r#"
import socket, sys
s = socket.create_connection(("payments", 8080), 30)
s.settimeout(60)
def read_until(n):
    got = b""
    while got.count(b"HTTP/1.1 ") < n or not got.endswith(END):
        piece = s.recv(65536)
        if not piece: break
        got += piece
    return got
"#;

#[test]
fn a_kept_connection_survives_a_denial_and_pipelined_requests_are_answered_in_order() {
    let _parts = alone();
    let script = format!(
        r#"{RAW}
END = b""
s.sendall(b"GET /forbidden HTTP/1.1\r\nHost: payments\r\n\r\n")
first = s.recv(65536)
assert first.startswith(b"HTTP/1.1 403 "), first
s.sendall(b"".join(b"GET /bytes/%d HTTP/1.1\r\nHost: payments\r\n\r\n" % n for n in (11, 22, 33)))
got = b""
while b"ontent-length: 33" not in got: got += s.recv(65536)
order = [got.index(b"ontent-length: %d" % n) for n in (11, 22, 33)]
assert order == sorted(order), got
print("in order")
"#
    );
    assert_eq!(python(&script).trim(), "in order");
}

#[test]
fn head_continue_and_trailers_pass() {
    let _parts = alone();
    let script = format!(
        r#"{RAW}
END = b""
s.sendall(b"HEAD /bytes/1234 HTTP/1.1\r\nHost: payments\r\n\r\n")
head = s.recv(65536)
assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n") and b"ontent-length: 1234" in head, head
s.sendall(b"POST /sink HTTP/1.1\r\nHost: payments\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
go = s.recv(65536)
assert go == b"HTTP/1.1 100 Continue\r\n\r\n", go
s.sendall(b"hello")
got = b""
while b'"bytes":5' not in got: got += s.recv(65536)
assert got.startswith(b"HTTP/1.1 200"), got
s.sendall(b"POST /sink HTTP/1.1\r\nHost: payments\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
got = b""
while b'"bytes":5' not in got: got += s.recv(65536)
print("passed")
"#
    );
    assert_eq!(python(&script).trim(), "passed");
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let _parts = alone();
    let script = format!(
        r#"{RAW}
END = b""
s.sendall(b"GET /upgrade HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
got = b""
while b"\r\n\r\n" not in got: got += s.recv(65536)
assert got.startswith(b"HTTP/1.1 101 "), got
for n in range(50):
    s.sendall(b"ping %d\n" % n)
    got = b""
    while not got.endswith(b"\n"): got += s.recv(65536)
    assert got == b"ping %d\n" % n, got
print("echoed")
"#
    );
    assert_eq!(python(&script).trim(), "echoed");
}
