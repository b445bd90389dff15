//! Response heads: strict where a desync begins, tolerant where a page only looks odd.

use crate::request::{BadResponse, ClientSide, Limits, ResponseFraming, ResponseHead, parse_response};

fn read_for(method: &str, text: impl AsRef<[u8]>) -> Result<ResponseHead, BadResponse> {
    parse_response(text.as_ref(), method, &Limits::default()).map(|head| head.expect("a complete head"))
}

fn read(text: impl AsRef<[u8]>) -> Result<ResponseHead, BadResponse> {
    read_for("GET", text)
}

fn written(head: &ResponseHead, add: &[(&str, &str)], side: ClientSide) -> String {
    String::from_utf8_lossy(&head.forward_bytes(add, side)).into_owned()
}

#[test]
fn framing_of_a_response() {
    for (method, head, framing) in [
        (
            "GET",
            "200 OK\r\nContent-Length: 5\r\n",
            ResponseFraming::Length(5),
        ),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: CHUNKED\r\n",
            ResponseFraming::Chunked,
        ),
        ("GET", "200 OK\r\n", ResponseFraming::Eof),
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n", ResponseFraming::None),
        ("HEAD", "200 OK\r\n", ResponseFraming::None),
        ("GET", "204 No Content\r\n", ResponseFraming::None),
        (
            "GET",
            "304 Not Modified\r\nContent-Length: 5\r\n",
            ResponseFraming::None,
        ),
        ("GET", "100 Continue\r\n", ResponseFraming::None),
        (
            "GET",
            "101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n",
            ResponseFraming::None,
        ),
        (
            "POST",
            "201 Created\r\nContent-Length: 0\r\n",
            ResponseFraming::Length(0),
        ),
        (
            "GET",
            "999 Odd\r\nContent-Length: 1\r\n",
            ResponseFraming::Length(1),
        ),
    ] {
        let read =
            read_for(method, format!("HTTP/1.1 {head}\r\n")).unwrap_or_else(|bad| panic!("{head}: {bad}"));
        assert_eq!(read.framing, framing, "{method} {head}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_not_passed_on() {
    for (text, code) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "length_and_chunked",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "repeated_content_length",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "bad_content_length",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "bad_content_length",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent_Length: 5\r\n\r\n",
            "disguised_framing",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "bad_transfer_encoding",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            "bad_transfer_encoding",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "transfer_encoding_http10",
        ),
        (
            "HTTP/1.1 204 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "repeated_content_length",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", "bare_lf"),
        ("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "bare_cr"),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "control_byte"),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "folded_header"),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "malformed_header"),
        ("HTTP/2 200 OK\r\n\r\n", "bad_status_line"),
        ("HTTP/1.1  200 OK\r\n\r\n", "bad_status_line"),
        ("HTTP/1.1 20 OK\r\n\r\n", "bad_status_line"),
        ("HTTP/1.1 2000 OK\r\n\r\n", "bad_status_line"),
        ("HTTP/1.1 099 OK\r\n\r\n", "bad_status_line"),
        ("HTTP/1.1 +20 OK\r\n\r\n", "bad_status_line"),
        ("ICY 200 OK\r\n\r\n", "bad_status_line"),
        ("<html>hello</html>\r\n\r\n", "bad_status_line"),
    ] {
        assert_eq!(read(text).map(|_| ()).unwrap_err().code, code, "{text:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(101));
    assert_eq!(read(many).map(|_| ()).unwrap_err().code, "too_many_headers");
    let large = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(40_000));
    assert_eq!(read(large).map(|_| ()).unwrap_err().code, "head_too_large");
}

#[test]
fn odd_but_legal_heads_pass() {
    for (text, line) in [
        ("HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n"),
        ("HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200 \r\n"),
        (
            "HTTP/1.0 200 All  is fine, really: 100%\r\n\r\n",
            "HTTP/1.1 200 All  is fine, really: 100%\r\n",
        ),
        (
            "HTTP/1.1 404 Nicht gefunden \u{2013} \u{e4}\r\n\r\n",
            "HTTP/1.1 404 Nicht gefunden \u{2013} \u{e4}\r\n",
        ),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
    ] {
        let head = read(text).unwrap_or_else(|bad| panic!("{text}: {bad}"));
        assert!(written(&head, &[], ClientSide::Open).starts_with(line), "{text}");
    }
    let latin = read(b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nX: again\r\n\r\n").unwrap();
    assert_eq!(latin.header("x").collect::<Vec<_>>(), [&b"caf\xe9"[..], b"again"]);
    assert!(
        latin
            .forward_bytes(&[], ClientSide::Open)
            .windows(6)
            .any(|six| six == b"caf\xe9\r\n")
    );
}

#[test]
fn every_prefix_of_a_response_is_incomplete() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n";
    for cut in 0..text.len() {
        assert!(
            matches!(parse_response(&text[..cut], "GET", &Limits::default()), Ok(None)),
            "{cut}"
        );
    }
}

#[test]
fn hop_by_hop_headers_of_the_application_end_here() {
    let head = read(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\n\
         Upgrade: h2c\r\nX-Hopguard-Id: forged\r\nx_hopguard_id: forged\r\nX-Envoy-Upstream-Service-Time: 3\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nCONTENT-LENGTH: 05\r\nServer: x\r\n\r\n",
    )
    .unwrap();
    assert!(head.keep_alive);
    assert_eq!(
        written(
            &head,
            &[("server", "ours"), ("x-bad", "a\r\nb")],
            ClientSide::Close
        ),
        "HTTP/1.1 200 OK\r\nX-Envoy-Upstream-Service-Time: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         content-length: 5\r\nconnection: close\r\nserver: ours\r\n\r\n"
    );
    assert!(written(&head, &[], ClientSide::KeepAlive).contains("\r\nconnection: keep-alive\r\n"));
    assert!(!written(&head, &[], ClientSide::Open).contains("\r\nconnection:"));
}

#[test]
fn bodiless_answers_keep_what_describes_the_body_they_would_have() {
    let head = read_for("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert!(written(&head, &[], ClientSide::Open).contains("content-length: 5"));
    let not_modified = read("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n").unwrap();
    assert!(written(&not_modified, &[], ClientSide::Open).contains("content-length: 5"));
    let none = read("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(
        written(&none, &[], ClientSide::Open),
        "HTTP/1.1 204 No Content\r\n\r\n"
    );
}

#[test]
fn interim_answers_pass_bare_and_a_switch_names_its_protocol() {
    let early = read("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x\r\n\r\n").unwrap();
    assert!(early.is_interim());
    assert_eq!(
        written(&early, &[("x-a", "b")], ClientSide::Close),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    );
    let switch =
        read("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
            .unwrap();
    assert!(!switch.is_interim());
    assert_eq!(switch.upgrade.as_deref(), Some("websocket"));
    assert_eq!(
        written(&switch, &[], ClientSide::Open),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn keep_alive_of_the_upstream() {
    for (text, keeps) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(read(text).unwrap().keep_alive, keeps, "{text}");
    }
}

#[test]
fn an_answer_announces_only_the_trailers_that_pass() {
    let head = read("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-hopguard-id, x-sum\r\n\r\n")
        .unwrap();
    let said = written(&head, &[], ClientSide::Open);
    assert!(said.contains("\r\nTrailer: x-sum\r\n"), "{said}");
    let said = head.http2_response().unwrap();
    assert_eq!(said.headers()["trailer"], "x-sum");
}
