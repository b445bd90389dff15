//! I: identity headers and source; S9 and J15: names, sizes, the user's token.

use super::{forwarded, read, read_with, refused, with};
use crate::request::{Bearer, BodyReader, DeclaredHeader, Limits};

const PLAIN: &str = "GET / HTTP/1.1\r\nHost: svc\r\n\r\n";

#[test]
fn i1_i3_i4_claims_from_outside_are_stripped_in_every_spelling() {
    for name in [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "X_Forwarded_Client_Cert",
        "x-forwarded_client-cert",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Proto",
        "X-Forwarded-Uri",
        "X-Forwarded-User",
        "X-Real-IP",
        "X-Forwarded",
        "Forwarded",
        "x-hopguard-user",
        "X_Hopguard_User",
        "x.hopguard.user",
        "x-hopguard",
        "x-hopguard-anything-new",
        "x-envoy-original-path",
        "X-Envoy-Peer-Metadata",
        "x_envoy_external_address",
        "x-user-sub",
        "X_User_Sub",
        "X-User_Id",
        "x~user~sub",
        "x-original-method",
        "x-original-host",
        "x-original-uri",
        "x-original-path",
        "x-user",
        "client-cert",
        "ssl-client-s-dn",
        "remote-user",
        "x_remote_user",
        "x-auth-request-email",
        "impersonate-group",
        "x-client-ip",
        "x-host",
    ] {
        let head = with(&format!("{name}: forged\r\n")).unwrap();
        assert_eq!(forwarded(&head, &[]), PLAIN, "{name}");
        assert_eq!(head.header(name).count(), 0, "{name}");
        assert!(head.single(name).is_none(), "{name}");
        assert!(
            head.declared(&[declared(name, true)]).unwrap().is_empty(),
            "{name}"
        );
    }
}

#[test]
fn names_that_only_resemble_a_claim_pass() {
    for name in [
        "x-userland",
        "client-certainty",
        "x-remoteness",
        "x-request-id",
        "x-hopguardian",
        "x-envoyage",
        "x-forwardedish",
        "x-real-ipx",
    ] {
        let head = with(&format!("{name}: 1\r\n")).unwrap();
        assert!(
            forwarded(&head, &[]).contains(&format!("\r\n{name}: 1\r\n")),
            "{name}"
        );
    }
}

#[test]
fn what_is_added_replaces_what_was_sent() {
    let head = with("X-Trace: forged\r\nx_trace: forged\r\nAccept: */*\r\n").unwrap();
    let text = forwarded(
        &head,
        &[
            ("x-trace", "ours"),
            ("x-forwarded-client-cert", "URI=spiffe://m/a"),
        ],
    );
    assert_eq!(
        text,
        "GET / HTTP/1.1\r\nHost: svc\r\nAccept: */*\r\nx-trace: ours\r\nx-forwarded-client-cert: URI=spiffe://m/a\r\n\r\n"
    );
}

#[test]
fn a_value_that_could_end_its_line_is_not_written() {
    let head = with("").unwrap();
    for value in ["a\r\nx-user-sub: root", "a\nb", "a\rb", "a\0b", "\u{7f}"] {
        assert_eq!(
            forwarded(&head, &[("x-hopguard-user", value)]),
            PLAIN,
            "{value:?}"
        );
    }
    for name in ["", "a b", "a:b", "a\r\n", "h\u{e9}"] {
        assert_eq!(forwarded(&head, &[(name, "v")]), PLAIN, "{name:?}");
    }
}

#[test]
fn i4_what_connection_names_ends_here_and_is_not_seen() {
    let head = with("Connection: keep-alive, X-Region, x-user-sub, te\r\nX-Region: eu\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nX_Region: us\r\n").unwrap();
    assert_eq!(
        forwarded(&head, &[("x-user-sub", "alice")]),
        "GET / HTTP/1.1\r\nHost: svc\r\nx-user-sub: alice\r\n\r\n"
    );
    assert_eq!(head.header("x-region").count(), 0);
    assert!(head.declared(&[declared("x-region", false)]).unwrap().is_empty());
    for option in [
        "host",
        "Authorization",
        "cookie",
        "content-length",
        "Content-Type",
        "transfer-encoding",
        "content_length",
    ] {
        refused(
            with(&format!("Connection: close, {option}\r\n")),
            400,
            "bad_connection",
            option,
        );
    }
    refused(with("Connection: \"x\"\r\n"), 400, "bad_connection", "no token");
    refused(
        with(&format!("Connection: {}\r\n", "a,".repeat(40))),
        400,
        "bad_connection",
        "many options",
    );
}

#[test]
fn hop_by_hop_headers_end_here() {
    for line in [
        "Proxy-Authorization: Basic eA==",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: 5",
        "TE: gzip",
        "HTTP2-Settings: AAA",
        "Proxy: http://evil",
        "Connection: close",
        "Connection: ,, close ,",
        "Upgrade: h2c",
        "Upgrade: websocket",
    ] {
        assert_eq!(
            forwarded(&with(&format!("{line}\r\n")).unwrap(), &[]),
            PLAIN,
            "{line}"
        );
    }
}

#[test]
fn a_client_that_takes_trailers_says_so_to_the_application() {
    let te = "GET / HTTP/1.1\r\nHost: svc\r\nconnection: te\r\nte: trailers\r\n\r\n";
    for lines in [
        "TE: trailers\r\n",
        "Connection: TE\r\nTE: gzip;q=0.5, Trailers\r\n",
    ] {
        assert_eq!(forwarded(&with(lines).unwrap(), &[]), te, "{lines}");
    }
    let old = read("GET / HTTP/1.0\r\nTE: trailers\r\n\r\n").unwrap();
    assert_eq!(forwarded(&old, &[]), "GET / HTTP/1.0\r\n\r\n");
}

/// What is taken out of the trailers is not announced either, by no version of HTTP.
#[test]
fn trailers_that_do_not_pass_are_not_announced() {
    for (sent, left) in [
        ("grpc-status,  x-checksum", Some("grpc-status,  x-checksum")),
        (
            "grpc-status, X-User-Sub, x-checksum",
            Some("grpc-status, x-checksum"),
        ),
        ("X_Hopguard_User", None),
        ("authorization, content-length, host", None),
        ("x y, grpc-status,", Some("grpc-status")),
        ("trailer, te", None),
    ] {
        let head = with(&format!("Trailer: {sent}\r\nTransfer-Encoding: chunked\r\n")).unwrap();
        let line = left.map_or_else(String::new, |left| format!("Trailer: {left}\r\n"));
        assert_eq!(
            forwarded(&head, &[]),
            format!("GET / HTTP/1.1\r\nHost: svc\r\n{line}transfer-encoding: chunked\r\n\r\n"),
            "{sent}"
        );
        let request = head.http2_request(&[]).unwrap();
        let passed = request.headers().get("trailer");
        assert_eq!(passed.map(|value| value.to_str().unwrap()), left, "{sent}");
    }
}

/// What policies read of a header was decided on before the trailers came.
#[test]
fn a_trailer_is_never_taken_for_a_header_that_policies_read() {
    let mut head = with("Trailer: x-region, x-sum\r\nTransfer-Encoding: chunked\r\n").unwrap();
    let declared = DeclaredHeader {
        cedar: "x_region".to_owned(),
        name: "x-region".to_owned(),
        list: false,
    };
    head.withhold(&[declared].into());
    assert!(forwarded(&head, &[]).contains("Trailer: x-sum\r\n"));
    let wire = b"0\r\nX_Region: us\r\nx-sum: 1\r\n\r\n";
    let (mut reader, mut passed, mut at) = (BodyReader::of(&head), Vec::new(), 0);
    while !reader.is_done() {
        let fed = reader.feed(&wire[at..]).unwrap();
        passed.extend_from_slice(&wire[at..at + fed.forward]);
        at += fed.consumed;
    }
    assert_eq!(String::from_utf8(passed).unwrap(), "0\r\nx-sum: 1\r\n\r\n");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-region", "us".parse().unwrap());
    trailers.insert("x-sum", "1".parse().unwrap());
    let passed = head.passed_trailers(&trailers).unwrap();
    assert_eq!((passed.len(), &passed["x-sum"]), (1, &"1".parse().unwrap()));
}

#[test]
fn upgrade_goes_on_only_when_connection_names_it_and_never_into_another_http() {
    let upgrade = |lines: &str| with(lines).unwrap().upgrade;
    assert_eq!(
        upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\n").as_deref(),
        Some("websocket")
    );
    assert_eq!(
        upgrade("Connection: keep-alive, upgrade\r\nUpgrade: h2c, WebSocket\r\n").as_deref(),
        Some("WebSocket")
    );
    assert_eq!(
        upgrade("Connection: upgrade\r\nUpgrade: SPDY/3.1\r\n").as_deref(),
        Some("SPDY/3.1")
    );
    for lines in [
        "Upgrade: websocket\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade: web socket\r\n",
    ] {
        assert_eq!(upgrade(lines), None, "{lines}");
        assert_eq!(forwarded(&with(lines).unwrap(), &[]), PLAIN, "{lines}");
    }
    let head = with("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n").unwrap();
    assert_eq!(
        forwarded(&head, &[]),
        "GET / HTTP/1.1\r\nHost: svc\r\nSec-WebSocket-Key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    // With a body, or in HTTP/1.0, the offer is not taken up.
    assert_eq!(
        upgrade("Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n"),
        None
    );
    assert_eq!(
        read("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            .unwrap()
            .upgrade,
        None
    );
}

fn declared(name: &str, list: bool) -> DeclaredHeader {
    DeclaredHeader {
        cedar: "role".into(),
        name: name.into(),
        list,
    }
}

#[test]
fn i7_a_policy_sees_all_values_of_a_header() {
    let role = |lines: &str, list| {
        with(lines)
            .unwrap()
            .declared(&[declared("x-role", list)])
            .map(|mut found| found.pop().map(|(_, values)| values))
    };
    let set = |values: &[&str]| Some(values.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(role("", false).unwrap(), None);
    assert_eq!(role("X-Role:  user \r\n", false).unwrap(), set(&["user"]));
    assert_eq!(
        role("x-role: user,admin\r\n", false).unwrap(),
        set(&["user,admin"])
    );
    assert_eq!(
        role("x-role: user,admin\r\n", true).unwrap(),
        set(&["user", "admin"])
    );
    assert_eq!(
        role("x-role: user\r\nX-ROLE: admin , user,\r\n", true).unwrap(),
        set(&["user", "admin"])
    );
    assert_eq!(role("x-role:\r\n", false).unwrap(), set(&[""]));
    assert_eq!(role("x-role:\r\n", true).unwrap(), set(&[]));
    for (lines, code) in [
        ("x-role: user\r\nx-role: admin\r\n", "header_repeated"),
        ("x-role: user\r\nx-role: user\r\n", "header_repeated"),
        ("x-role: user\r\nx_role: admin\r\n", "header_spelling"),
        ("X_Role: admin\r\n", "header_spelling"),
    ] {
        assert_eq!(role(lines, false).unwrap_err().code, code, "{lines}");
    }
    assert_eq!(
        role("x-role: a\r\nx_role: b\r\n", true).unwrap_err().code,
        "header_spelling"
    );
}

#[test]
fn i8_values_are_bytes_but_control_bytes() {
    for byte in [0_u8, 1, 0x0b, 0x1b, 0x7f] {
        let mut text = b"GET / HTTP/1.1\r\nHost: svc\r\nx-a: 1".to_vec();
        text.push(byte);
        text.extend_from_slice(b"\r\n\r\n");
        refused(read(&text), 400, "control_byte", &format!("0x{byte:02x}"));
    }
    let raw = b"GET / HTTP/1.1\r\nHost: svc\r\nx-a:\t caf\xe9\tok \t\r\n\r\n";
    let head = read(raw).unwrap();
    assert_eq!(head.header("x-a").collect::<Vec<_>>(), [b"caf\xe9\tok"]);
    assert!(
        head.forward_bytes(&[])
            .windows(9)
            .any(|nine| nine == b"caf\xe9\tok\r\n")
    );
    assert_eq!(head.single("x-a"), None);
    assert_eq!(
        head.declared(&[declared("x-a", false)]).unwrap_err().code,
        "header_not_utf8"
    );
}

#[test]
fn s9_names_counts_and_sizes() {
    refused(with("a b: 1\r\n"), 400, "malformed_header", "space in a name");
    refused(
        with("a : 1\r\n"),
        400,
        "malformed_header",
        "space before the colon",
    );
    refused(with(": 1\r\n"), 400, "malformed_header", "no name");
    refused(with("nothing\r\n"), 400, "malformed_header", "no colon");
    refused(with("h\u{e9}: 1\r\n"), 400, "malformed_header", "no token");
    refused(with("x: 1\r\n y\r\n"), 400, "folded_header", "folded");
    refused(with("x: 1\r\n\ty\r\n"), 400, "folded_header", "folded by a tab");
    for name in [
        "content_length",
        "Content_Length",
        "transfer_encoding",
        "Transfer.Encoding",
        "content~length",
    ] {
        refused(with(&format!("{name}: 5\r\n")), 400, "disguised_framing", name);
    }
    assert!(with(&"x: 1\r\n".repeat(99)).is_ok(), "100 header lines with Host");
    refused(
        with(&"x: 1\r\n".repeat(100)),
        431,
        "too_many_headers",
        "101 header lines",
    );
    refused(
        with(&format!("x: {}\r\n", "a".repeat(64 * 1024))),
        431,
        "head_too_large",
        "64 KiB",
    );
    let limits = Limits {
        head_bytes: PLAIN.len(),
        ..Limits::default()
    };
    assert!(read_with(PLAIN, &limits).is_ok(), "exactly as large as allowed");
    let limits = Limits {
        head_bytes: PLAIN.len() - 1,
        ..Limits::default()
    };
    refused(read_with(PLAIN, &limits), 431, "head_too_large", "one byte more");
}

#[test]
fn expectations() {
    for (lines, waits) in [
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", true),
        ("expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("Expect: 100-continue\r\n", false),
        ("Expect: 100-continue\r\nContent-Length: 0\r\n", false),
    ] {
        let head = with(lines).unwrap();
        assert_eq!(head.expect_continue, waits, "{lines}");
        assert!(
            forwarded(&head, &[])
                .to_lowercase()
                .contains("expect: 100-continue"),
            "{lines}"
        );
    }
    refused(with("Expect: 200-ok\r\n"), 417, "bad_expectation", "another");
    refused(
        with("Expect: 100-continue, x\r\n"),
        417,
        "bad_expectation",
        "a list",
    );
    refused(
        with("Expect: 100-continue\r\nExpect: x\r\n"),
        417,
        "bad_expectation",
        "a second",
    );
    let old = read("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert!(!old.expect_continue);
    assert_eq!(
        forwarded(&old, &[]),
        "POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\n"
    );
}

#[test]
fn j15_one_bearer_token_in_one_place() {
    let token = "a".repeat(8000);
    let long = format!("Authorization: Bearer {token}\r\n");
    for (lines, token) in [
        ("Authorization: Bearer a.b-c_d~e+f/g==\r\n", "a.b-c_d~e+f/g=="),
        ("authorization: bearer x\r\n", "x"),
        ("AUTHORIZATION:   BEARER x  \r\n", "x"),
        (long.as_str(), &token),
    ] {
        assert_eq!(with(lines).unwrap().bearer(), Bearer::Token(token), "{lines}");
    }
    assert_eq!(with("X: Authorization\r\n").unwrap().bearer(), Bearer::Absent);
    assert_eq!(with("Cookie: token=x\r\n").unwrap().bearer(), Bearer::Absent);
    assert_eq!(
        with("Authorization:  Bearer   x\r\n").unwrap().bearer(),
        Bearer::Token("x")
    );
    for (lines, reason) in [
        (
            "Authorization: Bearer x\r\nAuthorization: Bearer x\r\n",
            "two_headers",
        ),
        (
            "Authorization: Bearer x\r\nauthorization: Basic eDp5\r\n",
            "two_headers",
        ),
        ("Authorization: Basic eDp5\r\n", "not_bearer"),
        ("Authorization: DPoP\r\n", "malformed"),
        ("Authorization: DPoP x y\r\n", "malformed"),
        ("Authorization: eyJhbGciOi.e30.x\r\n", "not_bearer"),
        ("Authorization:\r\n", "not_bearer"),
        ("Authorization: BearerX x\r\n", "not_bearer"),
        ("Authorization: Bearer\tx\r\n", "not_bearer"),
        ("Authorization: Bearer\r\n", "malformed"),
        ("Authorization: Bearer \tx\r\n", "malformed"),
        ("Authorization:  Bearer \r\n", "malformed"),
        ("Authorization: Bearer x y\r\n", "malformed"),
        ("Authorization: Bearer x,Bearer y\r\n", "malformed"),
        ("Authorization: Bearer x, y\r\n", "malformed"),
        ("Authorization: Bearer =\r\n", "malformed"),
        ("Authorization: Bearer a=b\r\n", "malformed"),
        ("Authorization: Bearer \"x\"\r\n", "malformed"),
        ("Authorization: Bearer \u{e9}\r\n", "malformed"),
    ] {
        assert_eq!(with(lines).unwrap().bearer(), Bearer::Bad(reason), "{lines}");
    }
    let raw = b"GET / HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer \xff\r\n\r\n";
    assert_eq!(read(raw).unwrap().bearer(), Bearer::Bad("malformed"));
}

#[test]
fn nothing_secret_is_printed() {
    let head = read("GET /a?secret=1 HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer sesame\r\n\r\n").unwrap();
    let text = format!(
        "{head:?} {:?} {:?}",
        head.bearer(),
        head.headers().collect::<Vec<_>>()
    );
    assert!(
        text.contains("Authorization") && !text.contains("sesame") && !text.contains("secret"),
        "{text}"
    );
}
