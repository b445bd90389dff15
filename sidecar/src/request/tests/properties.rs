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
        Just("TE: trailers, deflate".to_owned()),
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
    fn what_goes_on_is_a_fixpoint(bytes in nearly_a_head()) {
        let limits = Limits::default();
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
        if let Ok(head) = super::read(&text) {
            let once = percent_encoding::percent_decode_str(&head.path).decode_utf8().expect("UTF-8").into_owned();
            let twice = percent_encoding::percent_decode_str(&once).decode_utf8().expect("UTF-8").into_owned();
            prop_assert_eq!(&once, &twice, "a second decoding changes nothing");
            prop_assert!(!once.contains("//") && !once.contains('\\') && !once.contains(char::is_control));
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert_eq!(once.matches('/').count(), head.path.matches('/').count());
            prop_assert!(head.path.is_ascii());
        }
    }

    /// Whatever is allowed, no decoding and no cutting makes a dot segment of a path, nor a segment of nothing.
    #[test]
    fn no_spelling_hides_a_dot_segment(target in "/(%2[fF5]|2e|2f|25|[a.;/%]|%2e){0,12}") {
        let text = format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n");
        if let Ok(Some(head)) = parse_head(text.as_bytes(), &Limits::default()) {
            for reading in head.readings() {
                let mut text = reading.to_owned();
                prop_assert!(!text.contains("//"), "{text}");
                for _ in 0..4 {
                    prop_assert!(text.split('/').all(|part| !matches!(part.split(';').next(), Some("." | ".."))), "{reading}: {text}");
                    text = percent_encoding::percent_decode_str(&text).decode_utf8().expect("UTF-8").into_owned();
                }
            }
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

/// Feeds a whole body; what went on, and whether it ended.
fn pass(body: &[u8]) -> Result<(Vec<u8>, bool), &'static str> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut rest, mut out) = (body, Vec::new());
    loop {
        let fed = reader.feed(rest).map_err(|refusal| refusal.code)?;
        out.extend_from_slice(&rest[..fed.forward]);
        rest = &rest[fed.consumed..];
        if fed.done || fed.consumed == 0 {
            return Ok((out, fed.done));
        }
    }
}

/// A reader as an application has one: no limits, no judgement. `None`: it would not take this.
fn decode(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return body.ends_with(b"\r\n").then_some(data);
        }
        data.extend_from_slice(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever extensions and trailers a good body has, the application decodes the same data from what goes on.
    #[test]
    fn good_chunks_carry_their_data(
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), "(;[a-z=\" ]{0,9})?"), 0..6),
        trailers in prop::collection::vec("[a-zA-Z_-]{1,16}: [ -~]{0,9}", 0..4),
    ) {
        let mut body = Vec::new();
        for (data, extension) in &chunks {
            body.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n");
        for trailer in &trailers {
            body.extend_from_slice(format!("{trailer}\r\n").as_bytes());
        }
        body.extend_from_slice(b"\r\n");
        let (out, done) = pass(&body).expect("good");
        prop_assert!(done);
        let data: Vec<u8> = chunks.into_iter().flat_map(|(data, _)| data).collect();
        prop_assert_eq!(decode(&out), Some(data));
        prop_assert_eq!(pass(&out), Ok((out, true)));
    }

    /// Of a body that was tampered with, nothing goes on that another strict reader would take for more or for less.
    #[test]
    fn tampered_chunks_never_end_otherwise(at in 0_usize..60, byte in any::<u8>(), insert in any::<bool>()) {
        let mut body = b"5;a=b\r\nhello\r\nb\r\nhello world\r\n0\r\nX-A: 1\r\nX-User-Id: 2\r\n\r\n".to_vec();
        let at = at % body.len();
        if insert { body.insert(at, byte) } else { body[at] = byte }
        if let Ok((out, done)) = pass(&body) {
            prop_assert_eq!(pass(&out), Ok((out.clone(), done)));
            if done {
                prop_assert!(decode(&out).is_some());
            }
        }
    }
}
