//! Streams decided one by one, gRPC between real ends, translation to applications of HTTP/1.1, and nothing malformed behind a
//! sidecar.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use hopguard_tests::{Guard, Mesh, Options, eventually, folder, output_within, succeeded};

use crate::support::*;

#[test]
fn curl_speaks_http2_to_an_application_of_http1() {
    let prior = "--http2-prior-knowledge";
    // Through a tunnel, from pod to pod.
    let said = curl(
        "orders",
        &[
            prior,
            "-H",
            "X-User-Sub: forged",
            "http://payments:8080/headers?q=1",
        ],
    );
    assert!(said.ends_with("\n2 200"), "{said}");
    assert!(!said.contains("forged"), "{said}");
    assert!(said.contains("x-forwarded-client-cert"), "{said}");
    // In plaintext, at the front door.
    let door = door();
    let said = curl("stranger", &[prior, "http://web:8080/headers"]);
    assert!(said.ends_with("\n2 200"), "{said}");
    let said = curl("stranger", &[prior, "-i", "http://web:8080/forbidden"]);
    assert!(
        said.contains("HTTP/2 403") && said.contains("x-hopguard-id: "),
        "{said}"
    );
    drop(door);
    // Bodies in both directions, of known and of unknown length.
    let script = "head -c 3000000 /dev/zero | curl -sS --http2-prior-knowledge -T - -X POST http://payments:8080/echo | wc -c";
    let echoed = mesh().exec("orders", &["sh", "-c", script]).unwrap();
    assert_eq!(succeeded(echoed).unwrap().trim(), "3000000");
    let said = curl("orders", &[prior, "-d", "five!", "http://payments:8080/echo"]);
    assert!(said.starts_with("five!\n2 200"), "{said}");
    let said = curl("orders", &[prior, "-I", "http://payments:8080/"]);
    assert!(said.contains("HTTP/2 200"), "{said}");
    // What the application breaks off is broken off for the client.
    let broken = [
        "curl",
        "-sS",
        "--max-time",
        "50",
        prior,
        "-o",
        "/dev/null",
        "http://payments:8080/truncate/1000000",
    ];
    let broken = mesh().exec("orders", &broken).unwrap();
    assert!(!broken.status.success(), "{}", text(&broken));
    let found = requests(mesh(), "payments", |record| record["http"]["proto"] == "HTTP/2");
    assert!(!found.is_empty());
}

/// A sidecar that reaches nobody says so in the client's own words.
#[test]
fn a_client_of_http2_is_told_why_nobody_is_reached() {
    let said = curl(
        "orders",
        &["--http2-prior-knowledge", "-i", "http://192.0.2.77:8080/"],
    );
    assert!(
        said.contains("HTTP/2 502") && said.contains("x-hopguard-id: "),
        "{said}"
    );
    let said = called(mesh(), &["say", "http://192.0.2.77:8080", "hello", "-"]);
    assert_eq!(said[0]["code"], 14, "{said:?}");
    assert!(said[0]["id"].as_str().is_some(), "{said:?}");
}

/// A peer of the mesh that speaks mutual TLS straight to the port, and one that does not say what it speaks.
#[test]
fn alpn_gives_http2_on_ports_of_http_alone() {
    let svid = mesh().svid("orders", "stranger").unwrap();
    let (cert, key) = (format!("{svid}/svid.0.pem"), format!("{svid}/svid.0.key"));
    let mutual = ["-k", "--cert", &cert, "--key", &key];
    let ask = |more: &[&str]| {
        let line: Vec<&str> = mutual.iter().copied().chain(more.iter().copied()).collect();
        curl("stranger", &line)
    };
    let said = ask(&["--http2", "https://payments:8080/headers"]);
    assert!(said.ends_with("\n2 200"), "{said}");
    let said = ask(&["--http1.1", "https://payments:8080/headers"]);
    assert!(said.ends_with("\n1.1 200"), "{said}");
    let said = ask(&["--no-alpn", "--http1.1", "https://payments:8080/headers"]);
    assert!(said.ends_with("\n1.1 200"), "{said}");
    // Without a certificate the handshake fails as ever.
    let bare = curl("stranger", &["-k", "--http2", "https://payments:8080/headers"]);
    assert!(bare.ends_with(" 000") || bare.contains("curl: ("), "{bare}");
}

#[test]
fn grpc_calls_of_every_kind_pass_for_those_who_may() {
    let alice = mesh().token("alice", "none").unwrap();
    for url in ["http://payments:8081", "http://payments:8082"] {
        let said = called(mesh(), &["say", url, "hello", &alice]);
        assert_eq!(
            (&said[0]["code"], &said[0]["text"]["text"]),
            (&0.into(), &"hello".into()),
            "{url}: {said:?}"
        );
        let seen = &said[0]["text"]["metadata"];
        assert!(
            seen["x-hopguard-user"].as_str().unwrap().contains("alice"),
            "{seen}"
        );
        assert!(
            seen["x-forwarded-client-cert"]
                .as_str()
                .unwrap()
                .contains("/sa/orders"),
            "{seen}"
        );
        assert_eq!(seen["te"], "trailers");
        // The application's own failure is its client's to see: trailers-only answers pass.
        let said = called(mesh(), &["say", url, "fail", &alice]);
        assert_eq!(
            (&said[0]["code"], &said[0]["message"]),
            (&9.into(), &"as it was asked".into()),
            "{said:?}"
        );
        let said = called(mesh(), &["join", url, "4000", &alice]);
        assert_eq!(said[0]["length"], 4_000_000, "{said:?}");
    }
    // HTTP/1.1 has no way to an application that speaks HTTP/2 only.
    let said = curl("orders", &["--http1.1", "http://payments:8082/x"]);
    assert!(
        said.ends_with("\n1.1 505") && said.contains("http2_only"),
        "{said}"
    );
}

/// Every call on one connection is decided for its own token.
#[test]
fn a_hundred_streams_at_once_are_decided_one_by_one() {
    let (alice, bob) = (
        mesh().token("alice", "none").unwrap(),
        mesh().token("bob", "none").unwrap(),
    );
    let expired = mesh().token("alice", "expired").unwrap();
    let kinds = [alice.as_str(), bob.as_str(), expired.as_str(), "-"];
    let tokens: Vec<&str> = kinds.into_iter().cycle().take(100).collect();
    let mut line = vec!["say", "http://payments:8081", "one"];
    line.extend(&tokens);
    let said = called(mesh(), &line);
    assert_eq!(said.len(), 100);
    let mut ids = Vec::new();
    for (at, said) in said.iter().enumerate() {
        // Served, PERMISSION_DENIED, and twice UNAUTHENTICATED.
        let code = [0, 7, 16, 16][at % 4];
        assert_eq!(said["code"], code, "{at}: {said}");
        if code == 0 {
            let user = said["text"]["metadata"]["x-hopguard-user"].as_str().unwrap();
            assert!(user.contains("alice"), "{at}: {said}");
        } else {
            let id = said["id"].as_str().unwrap().to_owned();
            assert!(said["message"].as_str().unwrap().contains(&id), "{said}");
            ids.push(id);
        }
    }
    // One record a stream, and the denial's is found by what the client was told.
    eventually(PATIENCE, || {
        let found = requests(mesh(), "payments", |record| {
            ids.iter().any(|id| record["request_id"] == id.as_str())
        });
        if found.len() == ids.len() && found.iter().all(|record| record["http"]["proto"] == "HTTP/2") {
            // What the client was told stands beside the status that it means.
            for record in &found {
                let told = (&record["http"]["status"], &record["http"]["grpc_status"]);
                assert!(
                    told == (&403.into(), &7.into()) || told == (&401.into(), &16.into()),
                    "{record}"
                );
            }
            Ok(())
        } else {
            Err(format!("{} of {}", found.len(), ids.len()))
        }
    })
    .unwrap();
}

/// Frames written by hand, with everything that a head may not be: the application counts no request, and each is answered
/// with a reset, a GOAWAY or a status of 400 and more.
#[test]
fn what_is_malformed_reaches_no_application() {
    let _door = door();
    let script = r#"
import socket, struct, sys
def frame(kind, flags, stream, payload): return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def block(fields): return b''.join(b'\0' + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
GOOD = [(b':method', b'GET'), (b':scheme', b'http'), (b':path', b'/'), (b':authority', b'web')]
def fields(*changed):
    names = [n for n, _ in changed]
    return sorted([f for f in GOOD if f[0] not in names] + list(changed), key=lambda f: not f[0].startswith(b':'))
BAD = [fields(*c) for c in [
    [(b':path', b'')], [(b':path', b'admin')], [(b':path', b'/a b')], [(b':path', b'/a'), (b':path', b'/b')], [(b':path', b'/a/../b')],
    [(b':path', b'/%2e%2e/b')], [(b':path', b'*')], [(b':authority', b'other')], [(b':authority', b'web'), (b'host', b'other')],
    [(b':method', b'GET / HTTP/1.1')], [(b':method', b'CONNECT')], [(b':method', b'CONNECT'), (b':protocol', b'websocket')],
    [(b':scheme', b'http://x/')], [(b'X-Upper', b'1')], [(b'x y', b'1')], [(b'x:y', b'1')], [(b'x-a', b'1\r\nx-b: 2')],
    [(b'x\r\ny', b'1')], [(b'x-a', b' 1')], [(b'connection', b'close')], [(b'keep-alive', b'1')], [(b'transfer-encoding', b'chunked')],
    [(b'te', b'gzip')], [(b'upgrade', b'h2c')], [(b'content-length', b'5')], [(b'content_length', b'5')],
    [(b'x-%d' % i, b'1') for i in range(101)],
]]
def ask(head):
    s = socket.create_connection(('web', 8080)); s.settimeout(20)
    s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + frame(1, 5, 1, block(head)))
    data = b''
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], 'big'):
            length, kind = int.from_bytes(data[:3], 'big'), data[3]
            stream, payload, data = int.from_bytes(data[5:9], 'big'), data[9:9 + length], data[9 + length:]
            if kind == 3: return 'reset'
            if kind == 7: return 'goaway'
            if kind == 1 and stream == 1: return '200' if payload[:1] == b'\x88' else 'refused'
        more = s.recv(65536)
        if not more: return 'closed'
        data += more
for head in BAD: print(ask(head), head[:6])
print('good', ask(GOOD))
"#;
    let before = mesh().counted("web").unwrap();
    let asking = mesh().command("stranger", &["python3", "-c", script]);
    let said = succeeded(output_within(PATIENCE, asking).unwrap()).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 28, "{said}");
    for line in &lines[..27] {
        assert!(
            line.starts_with("reset ") || line.starts_with("goaway ") || line.starts_with("refused "),
            "{said}"
        );
    }
    assert_eq!(lines[27], "good 200");
    assert_eq!(mesh().counted("web").unwrap(), before + 1, "the good one alone");
    eventually(PATIENCE, || {
        let found = requests(mesh(), "web", |record| {
            record["http"]["proto"] == "HTTP/2" && record["error"] == "too_many_headers"
        });
        if found.is_empty() {
            Err("a head that we refuse has a record")
        } else {
            Ok(())
        }
    })
    .unwrap();
}

/// A stream costs its client nothing, and us a descriptor where the application speaks HTTP/1.1: they are bounded together,
/// and a client's share of them leaves room for the others.
#[test]
fn a_client_with_many_streams_leaves_the_application_to_others() {
    let dir = folder(&[("policies/http2.cedar", POLICY)]);
    let mesh = Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        // Sixteen connections to the application for all streams, four of them for one address.
        set: vec!["sidecar.web:limits.connections=32".to_owned()],
        ..Options::default()
    })
    .unwrap();
    let script = r#"
import socket, struct, sys
def frame(kind, flags, stream, payload): return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
HEAD = b''.join(b'\0' + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in
    [(b':method', b'POST'), (b':scheme', b'http'), (b':path', b'/echo'), (b':authority', b'web')])
s = socket.create_connection(('web', 8080)); s.settimeout(30)
s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + b''.join(frame(1, 4, 2 * i + 1, HEAD) for i in range(40)))
data, answered = b'', set()
while len(answered) < 36:
    more = s.recv(65536)
    if not more: sys.exit('closed')
    data += more
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], 'big'):
        length, kind, stream = int.from_bytes(data[:3], 'big'), data[3], int.from_bytes(data[5:9], 'big')
        data = data[9 + length:]
        if kind == 1: answered.add(stream)
print('answered', len(answered), flush=True)
sys.stdin.read()
"#;
    let mut greedy = mesh.command("stranger", &["python3", "-c", script]);
    let mut greedy = Guard(
        greedy
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(greedy.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "answered 36\n");
    for more in [&["--http2-prior-knowledge"][..], &[]] {
        let line = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ];
        let line = [&line[..], more, &["http://web:8080/headers"]].concat();
        assert_eq!(succeeded(mesh.exec("laptop", &line).unwrap()).unwrap(), "200");
    }
    eventually(PATIENCE, || {
        match requests(&mesh, "web", |record| record["http"]["status"] == 503).len() {
            36 => Ok(()),
            other => Err(format!("{other} refusals in the records")),
        }
    })
    .unwrap();
}
