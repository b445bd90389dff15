//! Before and after an exchange.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{PATIENCE, SHORT, in_time, read_rest, send};
use crate::forward::Buffered;
use crate::forward::http1::{HeadFailure, HeadTimes, discard_body, finish, read_head};
use crate::request::{Framing, Limits};

const TIMES: HeadTimes = HeadTimes {
    idle: PATIENCE,
    head: PATIENCE,
};

#[tokio::test(start_paused = true)]
async fn a_head_is_taken_out_of_the_stream_and_what_follows_stays() {
    let (mut client, side) = duplex(16);
    let mut side = Buffered::new(side);
    let sending = tokio::spawn(async move {
        send(&mut client, "POST /1 HTTP/1.1\r\nHost: svc\r\nContent-Length: 4\r\n\r\nbodyGET /2 HTTP/1.1\r\nHost: svc\r\n\r\n").await;
        client
    });
    let head = in_time(read_head(&mut side, &Limits::default(), TIMES))
        .await
        .unwrap();
    assert_eq!((head.path.as_str(), head.framing), ("/1", Framing::Length(4)));
    assert!(in_time(discard_body(&mut side, head.framing, 100, PATIENCE)).await);
    let head = in_time(read_head(&mut side, &Limits::default(), TIMES))
        .await
        .unwrap();
    assert_eq!(head.path, "/2");
    drop(sending);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_head_may_be_interrupted_without_loss() {
    let (mut client, side) = duplex(1024);
    let mut side = Buffered::new(side);
    send(&mut client, "GET /1 HT").await;
    assert!(
        tokio::time::timeout(SHORT, read_head(&mut side, &Limits::default(), TIMES))
            .await
            .is_err()
    );
    send(&mut client, "TP/1.1\r\nHost: svc\r\n\r\n").await;
    assert_eq!(
        in_time(read_head(&mut side, &Limits::default(), TIMES))
            .await
            .unwrap()
            .path,
        "/1"
    );
}

#[tokio::test(start_paused = true)]
async fn the_ways_in_which_no_head_comes() {
    let limits = Limits::default();
    let read = async |text: &str, close: bool, times: HeadTimes| {
        let (mut client, side) = duplex(64 * 1024);
        send(&mut client, text).await;
        let kept = Some(client).filter(|_| !close);
        let answer = in_time(read_head(&mut Buffered::new(side), &limits, times)).await;
        drop(kept);
        answer.map(|_| ()).unwrap_err()
    };
    assert!(matches!(read("", true, TIMES).await, HeadFailure::Closed));
    assert!(matches!(read("\r\n", true, TIMES).await, HeadFailure::Closed));
    assert!(matches!(
        read("GET / HT", true, TIMES).await,
        HeadFailure::Broken(_)
    ));
    assert!(matches!(
        read("", false, HeadTimes { idle: SHORT, ..TIMES }).await,
        HeadFailure::Idle
    ));
    let stray = read(
        "\r\n",
        false,
        HeadTimes {
            idle: SHORT * 2,
            head: SHORT,
        },
    )
    .await;
    assert!(
        matches!(stray, HeadFailure::Idle),
        "a stray line end begins no request"
    );
    let slow = read("GET / HTTP/1.1\r\n", false, HeadTimes { head: SHORT, ..TIMES }).await;
    assert!(
        matches!(slow, HeadFailure::Refused(refusal) if (refusal.status, refusal.code) == (408, "head_timeout"))
    );
    let bad = read("GET /a/../b HTTP/1.1\r\nHost: svc\r\n\r\n", false, TIMES).await;
    assert!(matches!(bad, HeadFailure::Refused(refusal) if refusal.status == 400));
    let large = read(
        &format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(40_000)),
        false,
        TIMES,
    )
    .await;
    assert!(matches!(large, HeadFailure::Refused(refusal) if refusal.status == 431));
}

/// The limit counts, not the size of the first buffer.
#[tokio::test(start_paused = true)]
async fn a_large_head_within_its_limit_is_read() {
    let limits = Limits {
        head_bytes: 200_000,
        ..Limits::default()
    };
    let (mut client, side) = duplex(1000);
    let text = format!(
        "GET / HTTP/1.1\r\nHost: svc\r\nx: {}\r\n\r\n",
        "a".repeat(150_000)
    );
    let sending = tokio::spawn(async move { client.write_all(text.as_bytes()).await.map(|()| client) });
    let head = in_time(read_head(&mut Buffered::new(side), &limits, TIMES))
        .await
        .unwrap();
    assert_eq!(head.header("x").map(<[u8]>::len).collect::<Vec<_>>(), [150_000]);
    drop(sending);
}

#[tokio::test(start_paused = true)]
async fn an_unwanted_body_is_dropped_or_the_connection_is() {
    for (framing, text, gone) in [
        (Framing::None, "NEXT", true),
        (Framing::Length(4), "bodyNEXT", true),
        (Framing::Length(1000), "body", false),
        (Framing::Chunked, "5\r\nhello\r\n0\r\n\r\nNEXT", true),
        (Framing::Chunked, "0x\r\n", false),
        (
            Framing::Chunked,
            "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n",
            false,
        ),
        (Framing::Length(10), "short", false),
    ] {
        let (mut client, side) = duplex(1024);
        send(&mut client, text).await;
        client.shutdown().await.unwrap();
        let mut side = Buffered::new(side);
        assert_eq!(
            in_time(discard_body(&mut side, framing, 50, PATIENCE)).await,
            gone,
            "{framing:?} {text}"
        );
        if gone {
            assert_eq!(read_rest_of(side).await, "NEXT");
        }
    }
    let (mut client, side) = duplex(64);
    send(&mut client, "bo").await;
    assert!(
        !in_time(discard_body(
            &mut Buffered::new(side),
            Framing::Length(4),
            50,
            SHORT
        ))
        .await,
        "too slow"
    );
}

async fn read_rest_of(mut side: Buffered<tokio::io::DuplexStream>) -> String {
    let mut text = String::new();
    in_time(side.read_to_string(&mut text)).await.unwrap();
    text
}

/// The last answer arrives although the client is still sending, over a real socket, where closing with unread bytes resets.
#[tokio::test]
async fn a_connection_is_finished_so_that_its_answer_arrives() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (side, _) = listener.accept().await.unwrap();
    let sidecar = tokio::spawn(async move {
        let mut side = Buffered::new(side);
        side.fill().await.unwrap();
        side.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        finish(&mut side, 1 << 20, PATIENCE).await;
    });
    let body = vec![b'a'; 300_000];
    in_time(client.write_all(&body)).await.unwrap();
    let mut answer = String::new();
    in_time(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    drop(client);
    in_time(sidecar).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn finishing_waits_neither_for_ever_nor_without_bound() {
    let (mut client, side) = duplex(64);
    in_time(finish(&mut Buffered::new(side), 1 << 20, SHORT)).await;
    assert_eq!(read_rest(&mut client).await, "");
    let (mut client, side) = duplex(64);
    let flood = tokio::spawn(async move { while client.write_all(&[0; 64]).await.is_ok() {} });
    in_time(finish(
        &mut Buffered::new(side),
        10_000,
        Duration::from_secs(3600),
    ))
    .await;
    in_time(flood).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_told_from_a_stale_one() {
    let (mut app, side) = duplex(64);
    let mut side = Buffered::new(side);
    assert!(side.is_quiet());
    send(&mut app, "x").await;
    assert!(!side.is_quiet(), "it said something unasked");
    let (app, side) = duplex(64);
    let mut side = Buffered::new(side);
    drop(app);
    assert!(!side.is_quiet(), "it is closed");
    assert!(side.at_eof());
}
