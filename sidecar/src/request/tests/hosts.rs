//! H: host and authority.

use super::{forwarded, read, refused, with};

fn host(value: &str) -> Result<crate::request::Head, crate::request::Refusal> {
    read(format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"))
}

#[test]
fn h1_one_service_has_one_name() {
    for value in [
        "svc.shop",
        "SVC.shop",
        "svc.shop.",
        "svc.shop:8080",
        "svc.shop:",
        "Svc.Shop.:8080",
    ] {
        let head = host(value).unwrap();
        assert_eq!(head.host, "svc.shop", "{value}");
        assert!(
            forwarded(&head, &[]).contains(&format!("\r\nHost: {value}\r\n")),
            "the application gets what was sent"
        );
    }
    for (value, name) in [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[FD77:0:0::12]:8080", "[fd77::12]"),
        ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"),
        ("my_app", "my_app"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a", "a"),
    ] {
        assert_eq!(host(value).unwrap().host, name, "{value}");
    }
}

const NO_HOSTS: &[&str] = &[
    "",
    "a, b",
    "a,b",
    "a b",
    "user@svc",
    "user:pw@svc",
    "svc/path",
    "svc?x",
    "svc#x",
    "svc:x",
    "svc:70000",
    "svc:-1",
    "svc:80:80",
    "svc:+80",
    "svc..",
    ".svc",
    "a..b",
    ".",
    "[::1",
    "::1",
    "[::1]x",
    "[::1%25eth0]",
    "[svc]",
    "[]",
    "http://svc",
    "svc\\evil",
    "s%76c",
    "sv\u{e9}",
    "svc;x",
    "a*",
    "\"svc\"",
    "svc:8080, svc:8080",
];

#[test]
fn h2_a_host_that_is_not_one_host_is_refused() {
    refused(with("Host: svc\r\n"), 400, "repeated_host", "the same twice");
    refused(with("host: other\r\n"), 400, "repeated_host", "two");
    refused(read("GET / HTTP/1.1\r\n\r\n"), 400, "no_host", "none in 1.1");
    refused(
        read("GET / HTTP/1.1\r\n Host : a\r\n\r\n"),
        400,
        "folded_header",
        " Host : a",
    );
    refused(
        read("GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        400,
        "malformed_header",
        "Host : a",
    );
    refused(
        read("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"),
        400,
        "folded_header",
        "folded",
    );
    for value in NO_HOSTS.iter().copied() {
        refused(host(value), 400, "bad_host", value);
    }
    refused(host(&"a.".repeat(200)), 400, "bad_host", "400 bytes");
    refused(
        read("GET / HTTP/1.0\r\nHost:\r\n\r\n"),
        400,
        "bad_host",
        "empty in 1.0",
    );
}

#[test]
fn http_1_0_needs_no_host() {
    let head = read("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((head.host.as_str(), head.keep_alive), ("", false));
}

#[test]
fn h6_a_forwarded_host_is_never_believed() {
    let head = with("X-Forwarded-Host: admin.internal\r\nForwarded: host=admin.internal\r\n").unwrap();
    assert_eq!(head.host, "svc");
    assert_eq!(forwarded(&head, &[]), "GET / HTTP/1.1\r\nHost: svc\r\n\r\n");
}
