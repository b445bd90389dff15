//! S1 to S13: requests that end in two places, heads that are none, and connections that carry more than one request.

use std::time::Duration;

use hopguard_tests::{Flight, Until, Via, eventually};

use crate::ask::{Ask, Wire, fire, passes, refused};
use crate::keys::{admin_token, user_token};
use crate::rig::{Rig, forbids, permits};

fn closed(rig: &Rig, bytes: &[u8]) -> Flight {
    let flight = rig.send(Via::Mtls, &[bytes], Until::Closed);
    let shown: String = String::from_utf8_lossy(bytes).chars().take(300).collect();
    assert!(
        ["closed", "reset"].contains(&flight.end.as_str()),
        "{shown:?}: {flight:?}"
    );
    flight
}

/// Asserts that the bytes are answered once, with one of these statuses, and that the connection is closed.
fn refused_raw(rig: &Rig, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
    let bytes = bytes.as_ref();
    let flight = closed(rig, bytes);
    let shown: String = String::from_utf8_lossy(bytes).chars().take(300).collect();
    let answers = flight.answers(&["POST", "POST"]);
    assert_eq!(
        answers.len(),
        1,
        "{shown:?}: {:?}",
        String::from_utf8_lossy(&flight.bytes())
    );
    assert!(statuses.contains(&answers[0].status), "{shown:?}: {answers:?}");
}

/// A POST to a form that may be posted to, with these header lines and this body.
fn post(lines: &str, body: &str) -> Vec<u8> {
    post_as("1.1", lines, body)
}

fn post_as(version: &str, lines: &str, body: &str) -> Vec<u8> {
    let token = user_token();
    format!("POST /public/form HTTP/{version}\r\nHost: orders\r\nx-case: raw\r\nAuthorization: Bearer {token}\r\n{lines}\r\n{body}").into_bytes()
}

/// A second request that must not be taken for one.
const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: orders\r\nx-case: smuggled\r\n\r\n";

/// S1, S2, S3.
#[test]
fn a_body_ends_in_one_place() {
    for rig in [permits(), forbids()] {
        let chunks = format!("0\r\n\r\n{SMUGGLED}");
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: identity, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding: chunked\x0b\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: chunked;q=1\r\n",
            "Transfer-Encoding:\r\n chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            " Transfer-Encoding: chunked\r\n",
            "X: y\r\n Transfer-Encoding: chunked\r\n",
            "X: y\nTransfer-Encoding: chunked\r\n",
            "X: y\rTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \r\n",
            "Transfer_Encoding: chunked\r\n",
            "transfer.encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 5 \x0b\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5.0\r\n",
            "Content-Length: 5e1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 9223372036854775808\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length : 5\r\n",
            "content_length: 5\r\n",
            "Content.Length: 5\r\n",
            "Content-Length: 5\r\ncontent_length: 0\r\n",
        ] {
            refused_raw(&rig, post(lines, &chunks), &[400]);
        }
        refused_raw(
            &rig,
            post_as("1.0", "Transfer-Encoding: chunked\r\n", &chunks),
            &[400],
        );
        refused_raw(
            &rig,
            post_as(
                "1.0",
                "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
                &chunks,
            ),
            &[400],
        );
        rig.settle();
    }
}

/// S4: the head has gone on when a chunk turns out bad, so the application's connection is broken off: no whole request arrives, and
/// nothing behind it.
#[test]
fn bad_chunks_break_the_request_off() {
    let rig = permits();
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5;ext\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello",
        "ffffffffffffffff\r\nhello",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
        "5\r\nhello\r\n0\r\n : z\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: a\nb\r\n\r\n",
        "5\r\nhello\r\n0\r\nnothing\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ] {
        broken(&rig, body);
    }
    broken(&rig, &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1025)));
    broken(
        &rig,
        &format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "y".repeat(9000)),
    );
    broken(&rig, &format!("5\r\nhello\r\n0\r\n{}\r\n", "x: y\r\n".repeat(40)));
    rig.settle();
}

fn broken(rig: &Rig, body: &str) {
    let bytes = [
        post("Transfer-Encoding: chunked\r\n", body),
        SMUGGLED.as_bytes().to_vec(),
    ]
    .concat();
    let flight = closed(rig, &bytes);
    let answers = flight.answers(&["POST", "GET"]);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.is_empty() || statuses == [400], "{body:?}: {statuses:?}");
    // Either the head never went on, or what followed it broke off. The control behind it comes after both.
    let said = fire(rig, Wire::Mtls, &Ask::get("/public").with_bob(), "control");
    assert_eq!(said.status, Some(200), "{body:?}");
    rig.echo.take("x-case: control", 1).unwrap();
    let seen = eventually(Duration::from_secs(20), || {
        let sights = rig.echo.sights();
        match sights.iter().find(|sight| sight.ended == "whole") {
            Some(whole) => Err(format!(
                "{body:?} arrived whole: {:?} {:?}",
                whole.line(),
                String::from_utf8_lossy(&whole.body)
            )),
            None => Ok(sights.len()),
        }
    })
    .unwrap();
    assert!(seen <= 1, "{body:?}");
    rig.echo.clear();
}

/// S8, S9: request lines and heads that are none.
#[test]
fn malformed_heads_are_refused() {
    for rig in [permits(), forbids()] {
        let rest = "Host: orders\r\nx-case: raw\r\n\r\n";
        for line in [
            "GET  /admin HTTP/1.1\r\n",
            "GET /public  HTTP/1.1\r\n",
            " GET /public HTTP/1.1\r\n",
            "GET\t/public\tHTTP/1.1\r\n",
            "GET /public\tHTTP/1.1\r\n",
            "GET /public HTTP/1.1 \r\n",
            "GET /public HTTP/1.1\n",
            "GET /public HTTP/1.1\r",
            "GET /pub\rlic HTTP/1.1\r\n",
            "GET /pub\0lic HTTP/1.1\r\n",
            "GET /public HTTP/1.10\r\n",
            "GET /public HTTP/1.2\r\n",
            "GET /public HTTP/0.9\r\n",
            "GET /public HTTP/01.1\r\n",
            "GET /public HTTP/1.\r\n",
            "GET /public HTTP/\r\n",
            "GET /public http/1.1\r\n",
            "GET /public HTTPS/1.1\r\n",
            "GET /public XTTP/1.1\r\n",
            "GET /public\r\n",
            "GET\r\n",
            "/public HTTP/1.1\r\n",
            "GET /public /admin HTTP/1.1\r\n",
            "G(T /public HTTP/1.1\r\n",
            "G\u{e9}T /public HTTP/1.1\r\n",
            "GET:/public HTTP/1.1\r\n",
            "\r\n\r\nGET /public HTTP/1.1\r\n",
            "\nGET /public HTTP/1.1\r\n",
        ] {
            refused_raw(&rig, format!("{line}{rest}"), &[400]);
        }
        refused_raw(
            &rig,
            format!("{} /public HTTP/1.1\r\n{rest}", "X".repeat(1024)),
            &[400],
        );
        refused_raw(&rig, format!("GET /public HTTP/2.0\r\n{rest}"), &[400, 505]);
        refused_raw(&rig, format!("GET /public HTTP/3.0\r\n{rest}"), &[400, 505]);
        for lines in [
            "X Y: z\r\n",
            "X\t: z\r\n",
            "X : z\r\n",
            ": z\r\n",
            "nothing\r\n",
            "X: y\r\n z\r\n",
            "X: y\r\n\tz\r\n",
            "X: y\0z\r\n",
            "X: y\x08z\r\n",
            "X: \x7f\r\n",
            "X: y\rz\r\n",
            "X: y\nz: w\r\n",
            "X(Y): z\r\n",
            "X\u{e9}: z\r\n",
            "X\0: z\r\n",
            "\"X\": z\r\n",
            "X@Y: z\r\n",
            "X: y\n\r\n",
        ] {
            refused_raw(&rig, post(lines, ""), &[400]);
        }
        refused_raw(&rig, post(&"x: y\r\n".repeat(101), ""), &[431]);
        refused_raw(
            &rig,
            post(&format!("x: {}\r\n", "y".repeat(64 * 1024)), ""),
            &[431],
        );
        refused_raw(
            &rig,
            post(&format!("{}: y\r\n", "x".repeat(64 * 1024)), ""),
            &[431],
        );
        refused_raw(
            &rig,
            post("Expect: 200-maybe\r\nContent-Length: 0\r\n", ""),
            &[417],
        );
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00"[..],
            b"SSH-2.0-x\r\n\r\n",
            b"\0\0\0\0\0\0\0\0\r\n",
            b"EHLO x\r\n\r\n",
        ] {
            refused_raw(&rig, bytes, &[400]);
        }
        rig.settle();
    }
}

/// S8: methods are case-sensitive, and one that is unknown is `OTHER`.
#[test]
fn a_method_is_what_it_is() {
    let (a, d) = (permits(), forbids());
    for method in [
        "get",
        "Get",
        "GETX",
        "PROPFIND",
        "TRACE",
        "PURGE",
        "M-SEARCH",
        "!#$%&'*+.^_`|~",
    ] {
        refused(&a, Wire::Mtls, &Ask::new(method, "/public").with_bob(), &[403]);
        passes(&d, Wire::Mtls, &Ask::new(method, "/public").with_bob());
        refused(&d, Wire::Mtls, &Ask::new(method, "/admin").with_bob(), &[403]);
        refused(&d, Wire::Mtls, &Ask::new(method, "/admin/x").with_bob(), &[403]);
    }
    a.settle();
    d.settle();
}

/// S6, S11: each request of a connection is decided by itself, and what a refused one leaves unread is not taken for the next.
#[test]
fn each_request_of_a_connection_is_decided() {
    let rig = permits();
    let (bob, root) = (user_token(), admin_token());
    let get = |path: &str, token: &str| Ask::get(path).token(token).http1("chain");
    let bytes = [
        get("/public/1", &bob),
        get("/admin/2", &bob),
        get("/admin/3", &root),
        get("/admin/4", &bob),
        Ask::get("/admin/5").http1("chain"),
        get("/public/6", &bob),
    ]
    .concat();
    let methods = vec!["GET".to_owned(); 6];
    for via in [Via::Mtls, Via::Hbone] {
        let flight = rig.send(via, &[&bytes], Until::Answers(methods.clone()));
        let statuses: Vec<u16> = flight
            .answers(&["GET"; 6])
            .iter()
            .map(|answer| answer.status)
            .collect();
        assert_eq!(statuses, [200, 403, 200, 403, 401, 200], "{flight:?}");
        let seen: Vec<String> = rig
            .echo
            .take("x-case: chain", 3)
            .unwrap()
            .iter()
            .map(|sight| sight.target().1)
            .collect();
        assert_eq!(seen, ["/public/1", "/admin/3", "/public/6"]);
    }
    // A refused request with a body that looks like a request.
    let inner = get("/admin/inner", &root);
    let refused = Ask::new("POST", "/admin/outer")
        .token(&bob)
        .body(&inner)
        .http1("chain");
    let bytes = [refused, get("/public/after", &bob)].concat();
    let until = Until::Answers(vec!["POST".to_owned(), "GET".to_owned()]);
    let flight = rig.send(Via::Mtls, &[&bytes], until);
    let statuses: Vec<u16> = flight
        .answers(&["POST", "GET"])
        .iter()
        .map(|answer| answer.status)
        .collect();
    assert!(statuses == [403, 200] || statuses == [403], "{statuses:?}");
    let after = rig.echo.take("x-case: chain", statuses.len() - 1).unwrap();
    assert!(
        after.iter().all(|sight| sight.target().1 == "/public/after"),
        "{after:?}"
    );
    // The same, too long to be drained: the connection ends.
    let large = vec![b'x'; 1 << 20];
    let mut bytes = Ask::new("POST", "/admin/outer")
        .token(&bob)
        .body(&large)
        .http1("chain");
    bytes.extend(get("/public/after", &bob));
    let flight = rig.send(Via::Mtls, &[&bytes], Until::Closed);
    let statuses: Vec<u16> = flight
        .answers(&["POST", "GET"])
        .iter()
        .map(|answer| answer.status)
        .collect();
    assert_eq!(statuses, [403], "{}", flight.end);
    // The application answers before it has read: its connection is not used for another request.
    let bytes = [
        Ask::new("POST", "/public/form")
            .token(&bob)
            .claim("x-unseen", "")
            .header("x-want", "200 early")
            .body(b"0123456789")
            .http1("chain"),
        get("/public/after", &bob),
    ]
    .concat();
    let until = Until::Answers(vec!["POST".to_owned(), "GET".to_owned()]);
    let flight = rig.send(Via::Mtls, &[&bytes], until);
    assert_eq!(flight.answers(&["POST", "GET"])[0].status, 200, "{flight:?}");
    rig.echo
        .take("x-case: chain", flight.answers(&["POST", "GET"]).len())
        .unwrap();
    rig.settle();
}

/// S13: no early data: a ticket that would let one send it is not given.
#[test]
fn nothing_is_taken_before_the_handshake_ends() {
    let rig = permits();
    let text = format!(
        "GET /public HTTP/1.1\r\nHost: orders\r\nx-case: late\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        user_token()
    );
    let flight = rig.send(Via::Mtls, &[text.as_bytes()], Until::Closed);
    assert_eq!(flight.answers(&["GET"])[0].status, 200);
    rig.echo.take("x-case: late", 1).unwrap();
    let svid = "/tmp/svid-web";
    let line = format!(
        "echo | openssl s_client -connect 10.77.0.12:8080 -tls1_3 -cert {svid}/svid.0.pem -key {svid}/svid.0.key -ign_eof 2>&1 | grep -ci 'max early data: [1-9]\\|new session ticket'"
    );
    let told = rig
        .mesh
        .exec("stranger", &["timeout", "20", "sh", "-c", &line])
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "0", "{told:?}");
    rig.settle();
}
