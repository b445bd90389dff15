//! The reading of HTTP/2 heads: P24, H4, S7 and what they share with HTTP/1.1. What the HTTP/2 layer refuses before us is
//! tried on the wire (`forward/http2`); here stands what it lets through.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::{on_route, refused};
use crate::request::{
    BodyReader, Framing, Head, Limits, Part, Refusal, ResponseHead, Spellings, Version, add_trailer,
    parse_response, passed_response, passed_trailers, read_http2, trailer_lines,
};

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let uri = if uri.starts_with(['?', '/']) {
        Uri::builder().path_and_query(uri).build().unwrap()
    } else {
        uri.parse().unwrap()
    };
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn asked(method: &str, uri: &str, headers: &[(&str, &str)], ended: bool) -> Result<Head, Refusal> {
    let head = read_http2(&parts(method, uri, headers), ended, &Limits::default())?;
    on_route(head, Spellings::default())
}

fn get(headers: &[(&str, &str)]) -> Result<Head, Refusal> {
    asked("GET", "http://svc/x?y=1", headers, true)
}

/// As an application of HTTP/1.1 gets it.
fn http1(head: &Head, add: &[(&str, &str)]) -> String {
    String::from_utf8(head.forward_bytes(add)).unwrap()
}

#[test]
fn a_head_has_the_same_meaning_as_in_http1() {
    let head = asked(
        "POST",
        "https://Orders.shop.:8443/a%2Db/c?d=%2F",
        &[
            ("authorization", "Bearer abc"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("x-user-sub", "mallory"),
            ("x_hopguard_user", "{}"),
            ("x-region", "eu"),
        ],
        false,
    )
    .unwrap();
    assert_eq!(
        (head.version, head.host.as_str(), head.framing, head.keep_alive),
        (Version::H2, "orders.shop", Framing::Chunked, true)
    );
    let same = super::read("GET /a%2Db/c?d=%2F HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((&head.path, &head.query), (&same.path, &same.query));
    assert!(matches!(head.bearer(), crate::request::Bearer::Token("abc")));
    assert_eq!(
        http1(&head, &[("x-region", "us")]),
        "POST /a%2Db/c?d=%2F HTTP/1.1\r\nauthorization: Bearer abc\r\ncookie: a=1; b=2\r\n\
         transfer-encoding: chunked\r\nhost: Orders.shop.:8443\r\nconnection: te\r\nte: trailers\r\nx-region: us\r\n\r\n"
    );
    let request = head.http2_request(&[("x-region", "us")]).unwrap();
    assert_eq!(request.uri(), "http://Orders.shop.:8443/a%2Db/c?d=%2F");
    let mut names: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "authorization=Bearer abc",
            "cookie=a=1; b=2",
            "te=trailers",
            "x-region=us"
        ]
    );
}

#[test]
fn bodies_are_delimited_by_what_was_declared_or_by_chunks() {
    let framing =
        |headers: &[(&str, &str)], ended| asked("POST", "http://svc/", headers, ended).unwrap().framing;
    assert_eq!(framing(&[], true), Framing::None);
    assert_eq!(framing(&[], false), Framing::Chunked);
    assert_eq!(framing(&[("content-length", "7")], false), Framing::Length(7));
    assert_eq!(framing(&[("content-length", "0")], true), Framing::Length(0));
    for (value, code) in [
        ("7", "bad_content_length"),
        ("+7", "bad_content_length"),
        ("7, 7", "bad_content_length"),
        ("", "bad_content_length"),
    ] {
        refused(
            asked("POST", "http://svc/", &[("content-length", value)], true),
            400,
            code,
            value,
        );
    }
    let twice = [("content-length", "7"), ("content-length", "7")];
    refused(
        asked("POST", "http://svc/", &twice, false),
        400,
        "repeated_content_length",
        "two lengths",
    );
}

#[test]
fn p24_paths_are_the_paths_of_http1() {
    for (path, code) in [
        ("/a/../b", "dot_segment"),
        ("/a/%2e%2e/b", "dot_segment"),
        ("//a", "empty_segment"),
        ("/a%2fb", "encoded_slash"),
        ("/a%00", "encoded_control"),
        ("/a;b=1", "semicolon"),
    ] {
        let by_http1 = super::get(path).expect_err(path);
        let by_http2 = asked("GET", &format!("http://svc{path}"), &[], true).expect_err(path);
        assert_eq!(
            (by_http1.status, by_http1.code),
            (by_http2.status, by_http2.code),
            "{path} ({code})"
        );
    }
    // Without an authority the layer below has no URI but the path.
    refused(
        asked("GET", "?x", &[("host", "svc")], true),
        400,
        "bad_target",
        "a query alone",
    );
    refused(
        asked("GET", "*", &[("host", "svc")], true),
        400,
        "bad_target",
        "*",
    );
    assert_eq!(asked("OPTIONS", "*", &[("host", "svc")], true).unwrap().path, "*");
    let long = format!("/{}", "a".repeat(9000));
    refused(
        asked("GET", &long, &[("host", "svc")], true),
        414,
        "target_too_long",
        "a long path",
    );
}

#[test]
fn h4_one_authority() {
    for host in ["svc", "SVC", "svc.", "svc:80"] {
        assert_eq!(get(&[("host", host)]).unwrap().host, "svc", "{host}");
    }
    for host in ["other", "svc:81", "svc.evil"] {
        refused(get(&[("host", host)]), 400, "host_mismatch", host);
    }
    refused(
        get(&[("host", "svc"), ("host", "svc")]),
        400,
        "repeated_host",
        "twice",
    );
    refused(asked("GET", "/x", &[], true), 400, "no_host", "none");
    refused(
        asked("GET", "http://u@svc/", &[], true),
        400,
        "bad_host",
        "user information",
    );
    refused(
        asked("GET", "ftp://svc/", &[], true),
        400,
        "bad_target",
        "another scheme",
    );
    for (uri, authority) in [("HTTP://svc/x", "svc"), ("HttpS://svc/x", "svc:443")] {
        let mut parts = parts("GET", uri, &[("host", authority)]);
        // As the layer below hands it over: without making it lower case.
        let mut whole = std::mem::take(&mut parts.uri).into_parts();
        whole.scheme = Some(uri.split(':').next().unwrap().parse().unwrap());
        parts.uri = Uri::from_parts(whole).unwrap();
        let head = read_http2(&parts, true, &Limits::default()).unwrap();
        let onwards = head.http2_request(&[]).unwrap();
        assert_eq!(onwards.uri().scheme_str(), Some("http"), "{uri}");
    }
    // A host field alone is what a gateway from HTTP/1.1 sends (RFC 9113 8.3.1).
    assert_eq!(
        asked("GET", "/x", &[("host", "Svc:8080")], true).unwrap().host,
        "svc"
    );
}

#[test]
fn s7_nothing_of_a_connection_is_in_a_stream() {
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-region"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        refused(get(&[(name, value)]), 400, "connection_header", name);
    }
    for name in ["content_length", "transfer_encoding", "content.length"] {
        refused(get(&[(name, "5")]), 400, "disguised_framing", name);
    }
    for value in [" x", "x ", "\tx", " "] {
        refused(get(&[("x-region", value)]), 400, "padded_header", value);
    }
    refused(
        asked("CONNECT", "svc:80", &[], false),
        405,
        "connect_not_allowed",
        "CONNECT",
    );
    refused(get(&[("expect", "magic")]), 417, "bad_expectation", "expect");
    let long = "M".repeat(33);
    refused(
        asked(&long, "http://svc/", &[], true),
        400,
        "bad_method",
        "a long method",
    );
}

#[test]
fn s12_heads_are_bounded_as_in_http1() {
    let names: Vec<String> = (0..101).map(|at| format!("x-{at}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    refused(get(&many), 431, "too_many_headers", "101 headers");
    assert!(get(&many[..100]).is_ok());
    let same = vec![("x-a", "1"); 101];
    refused(get(&same), 431, "too_many_headers", "one header 101 times");
    // Crumbs are one header.
    assert!(get(&vec![("cookie", "a=1"); 150]).is_ok());
    let big = "a".repeat(33 * 1024);
    refused(get(&[("x-a", &big)]), 431, "head_too_large", "a large header");
}

fn response(text: &str, method: &str) -> ResponseHead {
    parse_response(text.as_bytes(), method, &Limits::default())
        .unwrap()
        .unwrap()
}

#[test]
fn answers_of_http1_lose_what_belongs_to_their_connection() {
    let head = response(
        "HTTP/1.1 200 Fine\r\nContent-Type: text/plain\r\nConnection: x-hop, close\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nX-Hopguard-Id: forged\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
        "GET",
    );
    let said = head.http2_response().unwrap();
    let mut names: Vec<_> = said.headers().iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "set-cookie", "set-cookie"]);
    let head = response("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "HEAD");
    assert_eq!(head.http2_response().unwrap().headers()["content-length"], "7");
    let switch = response(
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "GET",
    );
    assert!(switch.http2_response().is_err());
}

#[test]
fn answers_of_http2_are_held_to_the_same() {
    let answer = http::Response::builder()
        .status(200)
        .header("x-hopguard-user", "forged")
        .header("proxy-authenticate", "x")
        .header("content-type", "text/plain")
        .body(())
        .unwrap();
    let passed = passed_response(&answer.into_parts().0).unwrap();
    assert_eq!(passed.headers().len(), 1);
    let switch = http::Response::builder().status(101).body(()).unwrap();
    assert!(passed_response(&switch.into_parts().0).is_err());
}

#[test]
fn trailers_never_frame_route_or_claim() {
    let mut trailers = HeaderMap::new();
    for name in [
        "grpc-status",
        "x-user-sub",
        "x_hopguard_user",
        "authorization",
        "content-length",
        "host",
        "x-forwarded-for",
        "trailer",
    ] {
        trailers.insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_static("1"),
        );
    }
    let passed = passed_trailers(&trailers).unwrap();
    assert_eq!(
        passed.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(),
        ["grpc-status"]
    );
    assert_eq!(trailer_lines(&passed), b"grpc-status: 1\r\n\r\n");
    let many: HeaderMap = (0..33)
        .map(|at| {
            let name = http::HeaderName::from_bytes(format!("x-{at}").as_bytes()).unwrap();
            (name, HeaderValue::from_static("1"))
        })
        .collect();
    assert!(passed_trailers(&many).is_err());
}

#[test]
fn the_content_of_chunks_is_told_from_their_framing() {
    let wire = b"5;x=1\r\nhello\r\n1\r\n!\r\n0\r\ngrpc-status: 0 \r\nx-user-sub: m\r\n\r\n";
    for portion in [1, 2, 3, wire.len()] {
        let mut reader = BodyReader::new(Framing::Chunked);
        let (mut held, mut content, mut trailers) = (Vec::new(), Vec::new(), HeaderMap::new());
        for piece in wire.chunks(portion) {
            held.extend_from_slice(piece);
            loop {
                let taken = match reader.part(&held).unwrap() {
                    Part::Data(bytes) => {
                        content.extend_from_slice(&held[..bytes]);
                        bytes
                    }
                    Part::Trailer(bytes) => {
                        add_trailer(&mut trailers, &held[..bytes]);
                        bytes
                    }
                    Part::Framing(bytes) => bytes,
                    Part::More => break,
                };
                held.drain(..taken);
            }
        }
        assert!(reader.is_done(), "{portion}");
        assert_eq!(
            (content.as_slice(), trailers.len()),
            (&b"hello!"[..], 1),
            "{portion}"
        );
        assert_eq!(trailers["grpc-status"], "0");
    }
    assert!(BodyReader::new(Framing::Chunked).part(b"zz\r\n").is_err());
}
