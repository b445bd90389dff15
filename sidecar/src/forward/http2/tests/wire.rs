//! Frames that no proper client sends, written by hand: none of them becomes a request, whoever refuses it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literals without indexing (RFC 7541 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Frames that come back until the stream or the connection has ended: kind, stream, payload.
async fn answers(io: &mut DuplexStream) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    let reading = async {
        loop {
            let mut head = [0; 9];
            if io.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if io.read_exact(&mut payload).await.is_err() {
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let ends = head[3] == RST_STREAM
                || head[3] == GOAWAY
                || stream != 0 && matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0;
            frames.push((head[3], stream, payload));
            if ends {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer");
    frames
}

/// An application that counts who connects.
async fn counting() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut space = [0; 4096];
                let _head = stream.read(&mut space).await;
                let _gone = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
                while matches!(stream.read(&mut space).await, Ok(1..)) {}
            });
        }
    });
    (addr, count)
}

const GOOD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "svc"),
];

fn with(changed: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut fields: Vec<_> = GOOD
        .iter()
        .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name))
        .copied()
        .collect();
    fields.extend_from_slice(changed);
    fields.sort_by_key(|(name, _)| !name.starts_with(':'));
    fields
}

/// What is wrong with each, in place of the good one's field of that name.
const WRONG: &[&[(&str, &str)]] = &[
    &[(":path", "")],
    &[(":path", "admin")],
    &[(":path", "/a b")],
    &[(":path", "/a"), (":path", "/b")],
    &[(":path", "http://svc/")],
    &[(":path", "*")],
    &[(":method", "GET / HTTP/1.1")],
    &[(":method", "GET\r\nX: y")],
    &[(":method", "")],
    &[(":method", "CONNECT"), (":protocol", "websocket")],
    &[(":scheme", "http://x/")],
    &[(":scheme", "")],
    &[(":authority", "svc\r\nx: y")],
    &[(":authority", "svc other")],
    &[(":authority", "a"), ("host", "b")],
    &[(":status", "200")],
    &[(":unknown", "1")],
    &[("X-Upper", "1")],
    &[("x y", "1")],
    &[("x:y", "1")],
    &[("x\r\ny", "1")],
    &[("", "1")],
    &[("x-a", "1\r\nx-b: 2")],
    &[("x-a", "1\n2")],
    &[("x-a", "1\0")],
    &[("x-a", " 1")],
    &[("connection", "close")],
    &[("keep-alive", "1")],
    &[("proxy-connection", "1")],
    &[("transfer-encoding", "chunked")],
    &[("upgrade", "h2c")],
    &[("te", "gzip")],
    &[("content-length", "5")],
    &[("content-length", "x")],
];

fn malformed() -> Vec<Vec<(&'static str, &'static str)>> {
    let mut table: Vec<_> = WRONG.iter().map(|changed| with(changed)).collect();
    for missing in [":method", ":scheme", ":path", ":authority"] {
        table.push(
            GOOD.iter()
                .filter(|(name, _)| *name != missing)
                .copied()
                .collect(),
        );
    }
    // A pseudo-header behind a field.
    table.push(vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        ("x-a", "1"),
        (":authority", "svc"),
    ]);
    table
}

#[tokio::test]
async fn malformed_heads_reach_nobody() {
    let (addr, count) = counting().await;
    for fields in malformed() {
        let mut served = served(Treat::Http1(addr));
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields)));
        served.io.write_all(&bytes).await.unwrap();
        let frames = answers(&mut served.io).await;
        let refused = frames.iter().any(|(kind, stream, payload)| match *kind {
            RST_STREAM | GOAWAY => true,
            // 200 is one byte, the eighth line of the static table.
            HEADERS => *stream == 1 && !payload.starts_with(&[0x88]),
            _ => false,
        });
        assert!(refused, "{fields:?}: {frames:?}");
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0, "{fields:?}");
    }
    // The same by the book does arrive.
    let mut served = served(Treat::Http1(addr));
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(GOOD)));
    served.io.write_all(&bytes).await.unwrap();
    let frames = answers(&mut served.io).await;
    assert!(
        frames
            .iter()
            .any(|(kind, _, payload)| *kind == HEADERS && payload.starts_with(&[0x88])),
        "{frames:?}"
    );
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// More or less content than was declared: the application's connection is aborted, and the stream reset.
#[tokio::test]
async fn a_body_of_another_length_than_declared_is_no_message() {
    for (declared, body) in [("5", &b"four"[..]), ("3", b"four"), ("0", b"four")] {
        let (addr, _) = counting().await;
        let mut served = served(Treat::Http1(addr));
        let fields = with(&[(":method", "POST"), ("content-length", declared)]);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(&fields)));
        bytes.extend(frame(DATA, END_STREAM, 1, body));
        served.io.write_all(&bytes).await.unwrap();
        let frames = answers(&mut served.io).await;
        assert!(
            frames
                .iter()
                .any(|(kind, ..)| matches!(*kind, RST_STREAM | GOAWAY)),
            "{declared}: {frames:?}"
        );
    }
}

/// CVE-2024-27316 and its like: a header block without an end.
#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    let mut served = served(Treat::Refuse(403));
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(HEADERS, 0, 1, &block(GOOD)));
    served.io.write_all(&bytes).await.unwrap();
    let (mut read, mut write) = tokio::io::split(served.io);
    let flood = tokio::spawn(async move {
        let piece = frame(CONTINUATION, 0, 1, &block(&[("x-a", &"a".repeat(8000))]));
        let mut sent = 0_usize;
        while write.write_all(&piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < 64 << 20, "taken without end");
        }
    });
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, read.read_to_end(&mut all))
        .await
        .expect("the connection ends")
        .unwrap();
    drop(read);
    flood.await.unwrap();
}

/// CVE-2023-44487: streams that are opened and reset in one breath.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let mut served = served(Treat::Refuse(403));
    let (mut read, mut write) = tokio::io::split(std::mem::replace(&mut served.io, duplex(1).0));
    let flood = tokio::spawn(async move {
        write.write_all(PREFACE).await.unwrap();
        let head = block(GOOD);
        for stream in (1..200_000_u32).step_by(2) {
            let mut bytes = Vec::new();
            for at in 0..100 {
                let stream = stream * 100 + at * 2 + 1;
                bytes.extend(frame(HEADERS, END_HEADERS, stream, &head));
                bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            }
            if write.write_all(&bytes).await.is_err() {
                return true;
            }
        }
        false
    });
    let mut all = Vec::new();
    let reading = async {
        let _ended = read.read_to_end(&mut all).await;
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the connection ends");
    drop(read);
    assert!(flood.await.unwrap(), "all were taken");
}
