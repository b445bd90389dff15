//! S4: chunked bodies and lengths, in any portions.

use crate::request::{BodyReader, Fed, Framing};

/// Feeds `input` in the portions that `cuts` end, as a connection would, and gives what went on and what was left.
fn run(framing: Framing, portions: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), &'static str> {
    let mut reader = BodyReader::new(framing);
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for portion in portions {
        held.extend_from_slice(portion);
        loop {
            let Fed {
                consumed,
                forward,
                done,
            } = reader.feed(&held).map_err(|refusal| {
                assert_eq!(refusal.status, 400);
                refusal.code
            })?;
            assert!(forward <= consumed && consumed <= held.len());
            out.extend_from_slice(&held[..forward]);
            held.drain(..consumed);
            assert_eq!(done, reader.is_done());
            if consumed == 0 || done {
                break;
            }
        }
    }
    Ok((out, held, reader.is_done()))
}

fn chunked(input: &[u8]) -> Result<(Vec<u8>, Vec<u8>, bool), &'static str> {
    run(Framing::Chunked, &[input])
}

#[test]
fn good_chunked_bodies_pass_as_they_came() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nB\r\n hopguarded\r\n0\r\n\r\n",
        "000a\r\n0123456789\r\n00\r\n\r\n",
        "A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
        "1\r\n\0\r\n0\r\n\r\n",
        "0\r\nX-Checksum: abc\r\nServer-Timing: db;dur=5\r\n\r\n",
        "0000000000000005\r\nhello\r\n0\r\n\r\n",
    ] {
        let whole = format!("{body}GET /next HTTP/1.1\r\n");
        let (out, rest, done) = chunked(whole.as_bytes()).unwrap_or_else(|code| panic!("{body:?}: {code}"));
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), done), (body, true));
        assert_eq!(rest, b"GET /next HTTP/1.1\r\n", "what follows is not touched");
    }
}

#[test]
fn extensions_and_forbidden_trailers_are_left_out() {
    let forbidden = [
        "x-user-sub: root",
        "X_User_Sub: root",
        "x-hopguard-user: x",
        "X-Forwarded-Client-Cert: x",
        "content-length: 5",
        "Transfer-Encoding: chunked",
        "content_length: 5",
        "Host: evil",
        "authorization: Bearer x",
        "Cookie: a=b",
        "Connection: close",
        "Trailer: x",
        "x-envoy-a: 1",
        "Expect: x",
        "forwarded: for=1",
    ];
    for line in forbidden {
        let body = format!("5;a=b\r\nhello\r\n0;x\r\nX-Sum: 1\r\n{line}\r\nX-More: 2\r\n\r\n");
        let (out, _, done) = chunked(body.as_bytes()).unwrap_or_else(|code| panic!("{line}: {code}"));
        assert_eq!(
            String::from_utf8_lossy(&out),
            "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
            "{line}"
        );
        assert!(done);
    }
    let quoted = b"1;a=\"b;c\";d ; e=f\r\nx\r\n0\r\n\r\n";
    assert_eq!(chunked(quoted).unwrap().0, b"1\r\nx\r\n0\r\n\r\n");
}

#[test]
fn s4_bad_chunked_bodies_are_refused() {
    let long_extension = format!("5;{}\r\nhello\r\n", "a".repeat(1024));
    let endless_extension = format!("5;{}", "a".repeat(2000));
    let many_trailers = format!("0\r\n{}", "a: b\r\n".repeat(33));
    let large_trailers = format!("0\r\n{}", format!("a: {}\r\n", "b".repeat(4000)).repeat(3));
    for (body, code) in [
        ("0x5\r\nhello\r\n", "bad_chunk_size"),
        ("+5\r\nhello\r\n", "bad_chunk_size"),
        ("-5\r\nhello\r\n", "bad_chunk_size"),
        (" 5\r\nhello\r\n", "bad_chunk_size"),
        ("5 \r\nhello\r\n", "bad_chunk_size"),
        ("5\t\r\nhello\r\n", "bad_chunk_size"),
        ("\r\nhello\r\n", "bad_chunk_size"),
        ("g\r\nhello\r\n", "bad_chunk_size"),
        ("5_0\r\nhello\r\n", "bad_chunk_size"),
        ("00000000000000005\r\nhello\r\n", "bad_chunk_size"),
        ("8000000000000000\r\n", "bad_chunk_size"),
        ("FFFFFFFFFFFFFFFF\r\n", "bad_chunk_size"),
        ("5\nhello\r\n", "bad_chunk_size"),
        ("5\rhello\r\n", "bad_chunk_size"),
        ("5;ext\nhello\r\n", "bad_chunk_extension"),
        ("5;ext\rhello\r\n", "bad_chunk_extension"),
        ("5;e\0\r\nhello\r\n", "bad_chunk_extension"),
        (&long_extension, "bad_chunk_extension"),
        (&endless_extension, "bad_chunk_extension"),
        ("5\r\nhelloX", "bad_chunk_end"),
        ("5\r\nhello\n0\r\n\r\n", "bad_chunk_end"),
        ("5\r\nhello\r0\r\n\r\n", "bad_chunk_end"),
        ("4\r\nhello\r\n0\r\n\r\n", "bad_chunk_end"),
        ("0\r\n\n", "bad_trailer"),
        ("0\r\n\rX", "bad_trailer"),
        ("0\r\nno colon\r\n\r\n", "bad_trailer"),
        ("0\r\n: x\r\n\r\n", "bad_trailer"),
        ("0\r\na : x\r\n\r\n", "bad_trailer"),
        ("0\r\na: x\r\n folded\r\n\r\n", "bad_trailer"),
        ("0\r\na: x\ny: z\r\n\r\n", "bad_trailer"),
        ("0\r\na: \0\r\n\r\n", "bad_trailer"),
        (&many_trailers, "bad_trailer"),
        (&large_trailers, "bad_trailer"),
    ] {
        assert_eq!(chunked(body.as_bytes()).map(|_| ()), Err(code), "{body:?}");
    }
}

#[test]
fn the_portions_make_no_difference() {
    let body = b"5;a=\"b\"\r\nhello\r\n10\r\n0123456789abcdef\r\n0;z\r\nX-A: 1\r\nX-User-Id: 2\r\nX-B: 3\r\n\r\nNEXT";
    let whole = chunked(body).unwrap();
    assert_eq!(
        whole.0,
        b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nX-A: 1\r\nX-B: 3\r\n\r\n"
    );
    assert_eq!(whole.1, b"NEXT");
    for cut in 0..=body.len() {
        assert_eq!(
            run(Framing::Chunked, &[&body[..cut], &body[cut..]]).unwrap(),
            whole,
            "cut at {cut}"
        );
    }
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(run(Framing::Chunked, &bytes).unwrap(), whole, "byte by byte");
}

#[test]
fn a_bad_body_is_bad_in_any_portions() {
    for body in [
        "5\r\nhello\r\n0x\r\n",
        "1;\n",
        "2\r\nabc\r\n",
        "0\r\nbad\r\n\r\n",
        "0\r\nx: \x01\r\n",
    ] {
        let code = chunked(body.as_bytes()).map(|_| ()).unwrap_err();
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(run(Framing::Chunked, &bytes).map(|_| ()), Err(code), "{body:?}");
    }
}

#[test]
fn lengths_end_exactly() {
    let (out, rest, done) = run(Framing::Length(5), &[b"he", b"", b"llo, wor", b"ld"]).unwrap();
    assert_eq!(
        (out.as_slice(), rest.as_slice(), done),
        (&b"hello"[..], &b", world"[..], true)
    );
    let (out, _, done) = run(Framing::Length(5), &[b"hell"]).unwrap();
    assert_eq!((out.as_slice(), done), (&b"hell"[..], false));
    assert!(BodyReader::new(Framing::None).is_done());
    assert!(BodyReader::new(Framing::Length(0)).is_done());
    assert!(!BodyReader::new(Framing::Length(u64::MAX)).is_done());
}

#[test]
fn a_body_until_the_end_never_ends_by_itself() {
    let mut reader = BodyReader::until_eof();
    assert!(reader.ends_with_connection());
    let fed = reader.feed(b"0\r\n\r\n").unwrap();
    assert_eq!(
        fed,
        Fed {
            consumed: 5,
            forward: 5,
            done: false
        }
    );
    assert!(!BodyReader::new(Framing::Length(3)).ends_with_connection());
}
