//! S: the request line and the framing of bodies.

use super::{forwarded, read, refused};
use crate::request::{Framing, Head, Refusal, Version};

fn post(lines: &str) -> Result<Head, Refusal> {
    read(format!("POST / HTTP/1.1\r\nHost: svc\r\n{lines}\r\n"))
}

const BAD_FRAMING: &[(&str, &str)] = &[
    (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "length_and_chunked",
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "length_and_chunked",
    ),
    ("Transfer-Encoding: xchunked\r\n", "bad_transfer_encoding"),
    (
        "Transfer-Encoding: chunked, identity\r\n",
        "bad_transfer_encoding",
    ),
    (
        "Transfer-Encoding: identity, chunked\r\n",
        "bad_transfer_encoding",
    ),
    ("Transfer-Encoding: gzip, chunked\r\n", "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked, chunked\r\n", "bad_transfer_encoding"),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "bad_transfer_encoding",
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "bad_transfer_encoding",
    ),
    ("Transfer-Encoding: identity\r\n", "bad_transfer_encoding"),
    ("Transfer-Encoding:\r\n", "bad_transfer_encoding"),
    ("Transfer-Encoding: \"chunked\"\r\n", "bad_transfer_encoding"),
    ("Transfer-Encoding: chunked;q=1\r\n", "bad_transfer_encoding"),
    ("Transfer-Encoding: \x0bchunked\r\n", "control_byte"),
    ("Transfer-Encoding: chunked\x0c\r\n", "control_byte"),
    ("Transfer-Encoding : chunked\r\n", "malformed_header"),
    (
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "repeated_content_length",
    ),
    (
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "repeated_content_length",
    ),
    ("Content-Length: 5, 5\r\n", "bad_content_length"),
    ("Content-Length: 5,6\r\n", "bad_content_length"),
    ("Content-Length: +5\r\n", "bad_content_length"),
    ("Content-Length: -0\r\n", "bad_content_length"),
    ("Content-Length: 0x5\r\n", "bad_content_length"),
    ("Content-Length: 5 \u{a0}\r\n", "bad_content_length"),
    ("Content-Length: 1 0\r\n", "bad_content_length"),
    ("Content-Length:\r\n", "bad_content_length"),
    ("Content-Length: 9223372036854775808\r\n", "bad_content_length"),
    ("Content-Length: 18446744073709551621\r\n", "bad_content_length"),
    ("Content-Length: 00000000000000000005\r\n", "bad_content_length"),
    ("Content-Length : 5\r\n", "malformed_header"),
    ("content_length: 5\r\n", "disguised_framing"),
    ("transfer_encoding: chunked\r\n", "disguised_framing"),
];

#[test]
fn s1_s2_two_answers_about_the_end_of_a_body_are_refused() {
    for (lines, code) in BAD_FRAMING.iter().copied() {
        refused(post(lines), 400, code, lines);
    }
    let old = read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused(old, 400, "transfer_encoding_http10", "HTTP/1.0");
}

#[test]
fn framing_is_written_anew() {
    for (lines, framing, line) in [
        ("", Framing::None, ""),
        (
            "Content-Length: 0\r\n",
            Framing::Length(0),
            "content-length: 0\r\n",
        ),
        (
            "CONTENT-LENGTH:  0042 \r\n",
            Framing::Length(42),
            "content-length: 42\r\n",
        ),
        (
            "content-length: 9223372036854775807\r\n",
            Framing::Length(0x7fff_ffff_ffff_ffff),
            "content-length: 9223372036854775807\r\n",
        ),
        (
            "Transfer-Encoding: Chunked\r\n",
            Framing::Chunked,
            "transfer-encoding: chunked\r\n",
        ),
    ] {
        let head = post(lines).unwrap();
        assert_eq!(head.framing, framing, "{lines}");
        assert_eq!(
            forwarded(&head, &[]),
            format!("POST / HTTP/1.1\r\nHost: svc\r\n{line}\r\n"),
            "{lines}"
        );
    }
}

const BAD_REQUEST_LINES: &[(&str, u16, &str)] = &[
    ("GET  /admin HTTP/1.1", 400, "bad_request_line"),
    (" GET /admin HTTP/1.1", 400, "folded_header"),
    ("GET /admin  HTTP/1.1", 400, "bad_request_line"),
    ("GET /admin HTTP/1.1 ", 400, "bad_request_line"),
    ("GET /ad min HTTP/1.1", 400, "bad_request_line"),
    ("GET\t/admin HTTP/1.1", 400, "control_byte"),
    ("GET /admin\tHTTP/1.1", 400, "control_byte"),
    ("GET /admin\rHTTP/1.1", 400, "bare_cr"),
    ("GET /admin", 400, "bad_request_line"),
    ("GET", 400, "bad_request_line"),
    ("GET /admin HTTP/1.10", 400, "bad_version"),
    ("GET /admin HTTP/1.2", 400, "bad_version"),
    ("GET /admin HTTP/0.9", 400, "bad_version"),
    ("GET /admin HTTP/01.1", 400, "bad_version"),
    ("GET /admin http/1.1", 400, "bad_version"),
    ("GET /admin HTTP/1", 400, "bad_version"),
    ("GET /admin HTCPCP/1.0", 400, "bad_version"),
    ("GET /admin ICY", 400, "bad_version"),
    ("GET /admin HTTP/2.0", 505, "http2_not_supported"),
    ("G\u{cb}T /admin HTTP/1.1", 400, "bad_method"),
    ("GET: /admin HTTP/1.1", 400, "bad_method"),
    ("GET, /admin HTTP/1.1", 400, "bad_method"),
    ("\"GET\" /admin HTTP/1.1", 400, "bad_method"),
];

#[test]
fn s8_the_request_line_is_exact() {
    for (line, status, code) in BAD_REQUEST_LINES.iter().copied() {
        refused(read(format!("{line}\r\nHost: svc\r\n\r\n")), status, code, line);
    }
    refused(
        read(format!("{} / HTTP/1.1\r\nHost: svc\r\n\r\n", "M".repeat(1000))),
        400,
        "bad_method",
        "1 kB",
    );
    // Told at once, not when the line ends.
    refused(read("M".repeat(40)), 400, "bad_method", "an endless method");
    refused(read("GET /\n"), 400, "bare_lf", "LF");
    refused(
        read("GET / HTTP/1.1\nHost: svc\n\n"),
        400,
        "bare_lf",
        "LF all through",
    );
    refused(
        read("GET / HTTP/1.1\r\nHost: svc\n\r\n"),
        400,
        "bare_lf",
        "one LF",
    );
    refused(
        read("GET / HTTP/1.1\r\nHost: svc\r\r\n\r\n"),
        400,
        "bare_cr",
        "CR CR LF",
    );
    refused(
        read("\n\nGET / HTTP/1.1\r\nHost: svc\r\n\r\n"),
        400,
        "bare_lf",
        "LF before",
    );
    refused(
        read("\r\n\r\nGET / HTTP/1.1\r\nHost: svc\r\n\r\n"),
        400,
        "bad_request_line",
        "two empty lines before",
    );
}

#[test]
fn methods_are_tokens_and_keep_their_case() {
    for method in [
        "GET",
        "get",
        "PATCH",
        "PROPFIND",
        "M-SEARCH",
        "QUERY",
        "BREW",
        "X!#$%&'*+.^_`|~9",
        "UPDATEREDIRECTREF",
    ] {
        let head = read(format!("{method} / HTTP/1.1\r\nHost: svc\r\n\r\n")).unwrap();
        assert_eq!(head.method, method);
    }
    assert!(read(format!("{} / HTTP/1.1\r\nHost: svc\r\n\r\n", "M".repeat(32))).is_ok());
    refused(
        read(format!("{} / HTTP/1.1\r\nHost: svc\r\n\r\n", "M".repeat(33))),
        400,
        "bad_method",
        "33 bytes",
    );
}

#[test]
fn http2_and_tls_are_named_in_the_refusal() {
    let preface = read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_err();
    assert_eq!((preface.status, preface.code), (505, "http2_not_supported"));
    assert!(preface.detail.contains("HTTP/2"), "{preface}");
    assert_eq!(read(b"\x16\x03\x01\x02\x00\x01").unwrap_err().code, "tls_bytes");
}

#[test]
fn s11_each_request_on_a_connection_is_read_for_itself() {
    let first = "GET /public HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer a\r\n\r\n";
    let both = format!("{first}GET /admin HTTP/1.1\r\nHost: other\r\n\r\n");
    let head = read(&both).unwrap();
    assert_eq!((head.path.as_str(), head.len), ("/public", first.len()));
    let next = read(&both.as_bytes()[head.len..]).unwrap();
    assert_eq!((next.path.as_str(), next.host.as_str()), ("/admin", "other"));
    assert_eq!(next.bearer(), crate::request::Bearer::Absent);
}

#[test]
fn keep_alive_is_what_the_version_and_connection_say() {
    for (version, lines, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Close, keep-alive\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = read(format!("GET / HTTP/{version}\r\nHost: svc\r\n{lines}\r\n")).unwrap();
        assert_eq!(head.keep_alive, keeps, "{version} {lines}");
        assert_eq!(
            head.version,
            if version == "1.1" {
                Version::H11
            } else {
                Version::H10
            }
        );
    }
}
