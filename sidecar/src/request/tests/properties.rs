//! What holds for any bytes.

use proptest::prelude::*;

use crate::request::{BodyReader, ClientSide, Framing, Limits, parse_head, parse_response};

/// Heads that are nearly right: the interesting ones.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Host: svc".to_owned()),
        Just("Content-Length: 5".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("Connection: close, x-a".to_owned()),
        Just("Connection: upgrade".to_owned()),
        Just("Upgrade: websocket, h2c".to_owned()),
        Just("Expect: 100-continue".to_owned()),
        Just("X-User-Sub: root".to_owned()),
        Just("Authorization: Bearer a.b.c".to_owned()),
        "[a-zA-Z_.-]{1,12}:[ \t]{0,2}[ -~\u{e9}]{0,20}",
    ];
    let target = prop_oneof![
        Just("/".to_owned()),
        Just("*".to_owned()),
        Just("http://svc/x".to_owned()),
        "/[a-zA-Z0-9%./;?*{}~_\u{e9}-]{0,30}",
        "(http|https)://[a-z.:0-9\\[\\]]{0,12}[/?a-z]{0,8}",
    ];
    let version = prop_oneof![9 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0")];
    (
        "(GET|POST|OPTIONS|get|[A-Z]{1,6})",
        target,
        version,
        prop::collection::vec(line, 0..6),
    )
        .prop_map(|(method, target, version, lines)| {
            let mut text = format!("{method} {target} {version}\r\nHost: svc\r\n");
            for line in lines {
                text.push_str(&line);
                text.push_str("\r\n");
            }
            text.push_str("\r\n");
            text.into_bytes()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_head(&bytes, &Limits::default());
        let _ = parse_response(&bytes, "GET", &Limits::default());
        let _ = BodyReader::new(Framing::Chunked).feed(&bytes);
    }

    /// What goes on is read again as the same request, and goes on unchanged: the application cannot see another one.
    #[test]
    fn what_goes_on_is_a_fixpoint(bytes in nearly_a_head(), allow_semicolon in any::<bool>()) {
        let limits = Limits { allow_semicolon, ..Limits::default() };
        if let Ok(Some(head)) = parse_head(&bytes, &limits) {
            let once = head.forward_bytes(&[]);
            let again = parse_head(&once, &limits).expect("what we write, we take").expect("whole");
            prop_assert_eq!(&again.method, &head.method);
            prop_assert_eq!(&again.path, &head.path);
            prop_assert_eq!(&again.bare_path, &head.bare_path);
            prop_assert_eq!(&again.query, &head.query);
            prop_assert_eq!(&again.host, &head.host);
            prop_assert_eq!(again.framing, head.framing);
            prop_assert_eq!(again.version, head.version);
            prop_assert_eq!(&again.upgrade, &head.upgrade);
            prop_assert_eq!(again.expect_continue, head.expect_continue);
            prop_assert_eq!(again.bearer(), head.bearer());
            prop_assert_eq!(again.len, once.len());
            prop_assert_eq!(again.forward_bytes(&[]), once);
        }
    }

    /// The path rules leave nothing that a reader could fold into another path.
    #[test]
    fn a_decided_path_has_no_second_reading(target in "/[a-zA-Z0-9%./\\\\;\u{ff0f}\u{e9}~-]{0,24}") {
        let text = format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n");
        if let Ok(Some(head)) = parse_head(text.as_bytes(), &Limits::default()) {
            let once = percent_encoding::percent_decode_str(&head.path).decode_utf8().expect("UTF-8").into_owned();
            let twice = percent_encoding::percent_decode_str(&once).decode_utf8().expect("UTF-8").into_owned();
            prop_assert_eq!(&once, &twice, "a second decoding changes nothing");
            prop_assert!(!once.contains("//") && !once.contains('\\') && !once.contains(char::is_control));
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert_eq!(once.matches('/').count(), head.path.matches('/').count());
            prop_assert!(head.path.is_ascii());
        }
    }

    #[test]
    fn a_response_is_a_fixpoint(bytes in "HTTP/1\\.[01] [1-5][0-9]{2} [ -~]{0,10}\r\n(Content-Length: [0-9]{1,2}\r\n|Transfer-Encoding: chunked\r\n|Connection: close\r\n|X-A: [a-z]{0,5}\r\n){0,3}\r\n") {
        if let Ok(Some(head)) = parse_response(bytes.as_bytes(), "GET", &Limits::default()) {
            let once = head.forward_bytes(&[], ClientSide::Open);
            let again = parse_response(&once, "GET", &Limits::default()).expect("ours").expect("whole");
            prop_assert_eq!(again.status, head.status);
            prop_assert_eq!(again.framing, head.framing);
            prop_assert_eq!(again.forward_bytes(&[], ClientSide::Open), once);
        }
    }
}
