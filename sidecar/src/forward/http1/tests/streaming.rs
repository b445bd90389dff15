//! Both directions at once: echoes, early answers, 100-continue, switches.

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};

use super::{SETTING, Setting, between, forward, in_time, read_head_of, read_rest, read_until, send};
use crate::forward::Buffered;

const CHUNKED: &str = "POST /e HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The application answers at once and echoes; the client sends a chunk only after the echo of the one before. A proxy that
/// holds anything back, in either direction, stops here.
#[tokio::test(start_paused = true)]
async fn an_echo_flows_while_the_request_is_open() {
    let (client, app, done) = between(Setting { pipe: 7, ..SETTING });
    echo(client, app).await;
    in_time(done).await.unwrap().assert_reusable();
}

/// The same over streams that keep what is written until they are flushed, as TLS may.
#[tokio::test(start_paused = true)]
async fn an_echo_flows_through_streams_that_buffer() {
    let ((client, client_side), (app, app_side)) = (duplex(64), duplex(64));
    let (client_side, app_side) = (
        Buffered::new(BufStream::new(client_side)),
        Buffered::new(BufStream::new(app_side)),
    );
    let done = tokio::spawn(forward(client_side, app_side, SETTING));
    echo(client, app).await;
    in_time(done).await.unwrap().assert_reusable();
}

async fn echo(mut client: DuplexStream, mut app: DuplexStream) {
    let app = tokio::spawn(async move {
        read_head_of(&mut app).await;
        send(&mut app, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        loop {
            let chunk = read_until(&mut app, "\r\n").await;
            let rest = read_until(&mut app, "\r\n").await;
            send(&mut app, &format!("{chunk}{rest}")).await;
            if chunk == "0\r\n" {
                return app;
            }
        }
    });
    send(&mut client, CHUNKED).await;
    read_head_of(&mut client).await;
    for turn in 0..50 {
        let chunk = format!("6\r\nturn{turn:02}\r\n");
        send(&mut client, &chunk).await;
        assert_eq!(read_until(&mut client, &chunk).await, chunk);
    }
    send(&mut client, "0\r\n\r\n").await;
    assert_eq!(read_until(&mut client, "0\r\n\r\n").await, "0\r\n\r\n");
    in_time(app).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_in_single_bytes_pass() {
    let (mut client, mut app, done) = between(Setting { pipe: 1, ..SETTING });
    let app = tokio::spawn(async move {
        let got = read_until(&mut app, "0\r\n\r\n").await;
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world" {
            app.write_u8(*byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        (got, app)
    });
    for byte in format!("{CHUNKED}3\r\nabc\r\n0\r\n\r\n").bytes() {
        in_time(client.write_u8(byte)).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = read_until(&mut client, "hello world").await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world");
    let (got, _app) = in_time(app).await.unwrap();
    assert!(got.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{got}");
    in_time(done).await.unwrap().assert_reusable();
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_of_an_application_that_closes_ends_both() {
    let (mut client, mut app, done) = between(SETTING);
    send(
        &mut client,
        "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 1000000\r\n\r\npart",
    )
    .await;
    read_until(&mut app, "part").await;
    send(
        &mut app,
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig",
    )
    .await;
    drop(app);
    assert!(read_until(&mut client, "big").await.starts_with("HTTP/1.1 413 "));
    let done = in_time(done).await.unwrap();
    assert!(done.exchange.failure.is_none(), "{:?}", done.exchange);
    assert_eq!(
        (done.exchange.status, done.exchange.request_bytes),
        (Some(413), 4)
    );
    assert!(!done.exchange.client_reusable && !done.exchange.upstream_reusable);
}

/// It answers, lets the connection live, and reads what is left of the body all the same.
#[tokio::test(start_paused = true)]
async fn an_early_answer_lets_the_body_come_to_its_end() {
    let (mut client, mut app, done) = between(SETTING);
    send(
        &mut client,
        "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 8\r\n\r\npart",
    )
    .await;
    read_until(&mut app, "part").await;
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(read_until(&mut client, "ok").await.starts_with("HTTP/1.1 200 "));
    assert!(!done.is_finished());
    send(&mut client, "part").await;
    assert_eq!(read_until(&mut app, "part").await, "part");
    in_time(done).await.unwrap().assert_reusable();
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_and_a_client_that_stops_is_no_failure() {
    let (mut client, mut app, done) = between(SETTING);
    send(
        &mut client,
        "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 8\r\n\r\npart",
    )
    .await;
    read_until(&mut app, "part").await;
    send(
        &mut app,
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno",
    )
    .await;
    read_until(&mut client, "no").await;
    drop(client);
    let done = in_time(done).await.unwrap();
    assert!(done.exchange.failure.is_none() && done.exchange.status == Some(401));
    assert!(!done.exchange.client_reusable && !done.exchange.upstream_reusable);
}

const EXPECTS: &str = "PUT / HTTP/1.1\r\nHost: svc\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_100_gets_it_from_the_application() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, EXPECTS).await;
    assert!(read_head_of(&mut app).await.contains("Expect: 100-continue\r\n"));
    send(&mut app, "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(read_head_of(&mut client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut client, "body").await;
    assert_eq!(read_until(&mut app, "body").await, "body");
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(!read_head_of(&mut client).await.contains("connection"));
    in_time(done).await.unwrap().assert_reusable();
}

/// Nobody knows whether the client now sends the body it announced, so neither connection goes on.
#[tokio::test(start_paused = true)]
async fn a_final_answer_instead_of_100_closes() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, EXPECTS).await;
    read_head_of(&mut app).await;
    send(&mut app, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    assert!(
        read_head_of(&mut client)
            .await
            .contains("\r\nconnection: close\r\n")
    );
    let done = in_time(done).await.unwrap();
    assert!(done.exchange.failure.is_none());
    assert!(!done.exchange.client_reusable && !done.exchange.upstream_reusable);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_wait_for_100_is_served() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, &format!("{EXPECTS}body")).await;
    read_until(&mut app, "body").await;
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    read_head_of(&mut client).await;
    in_time(done).await.unwrap().assert_reusable();
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_switch_becomes_a_copy_and_loses_no_byte() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, &format!("{UPGRADE}early")).await;
    let got = read_until(&mut app, "\r\n\r\n").await;
    assert!(
        got.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
        "{got}"
    );
    send(&mut app, &format!("{SWITCH}hello")).await;
    let answer = read_until(&mut client, "hello").await;
    assert!(
        answer
            .starts_with("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n"),
        "{answer}"
    );
    assert_eq!(read_until(&mut app, "early").await, "early");
    for turn in 0..20 {
        let frame = format!("GET /admin HTTP/1.1 {turn}\r\n\r\n");
        send(&mut client, &frame).await;
        assert_eq!(read_until(&mut app, &frame).await, frame);
        send(&mut app, &frame).await;
        assert_eq!(read_until(&mut client, &frame).await, frame);
    }
    // Half-close: the application still says goodbye.
    client.shutdown().await.unwrap();
    assert_eq!(read_rest(&mut app).await, "");
    send(&mut app, "goodbye").await;
    app.shutdown().await.unwrap();
    assert_eq!(read_rest(&mut client).await, "goodbye");
    let done = in_time(done).await.unwrap();
    assert!(
        done.exchange.upgraded && done.exchange.failure.is_none(),
        "{:?}",
        done.exchange
    );
    assert_eq!(done.exchange.status, Some(101));
    assert!(done.exchange.request_bytes > 5 && done.exchange.response_bytes > 12);
    assert!(!done.exchange.client_reusable && !done.exchange.upstream_reusable);
}

#[tokio::test(start_paused = true)]
async fn a_refused_switch_is_an_answer_like_any_other() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, UPGRADE).await;
    read_head_of(&mut app).await;
    send(
        &mut app,
        "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    read_head_of(&mut client).await;
    let done = in_time(done).await.unwrap();
    done.assert_reusable();
    assert!(!done.exchange.upgraded);
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_nobody_asked_for_is_refused() {
    let plain = "GET / HTTP/1.1\r\nHost: svc\r\n\r\n";
    let h2c = "GET / HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let unnamed = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    for (request, response) in [
        (plain, SWITCH),
        (h2c, other),
        (UPGRADE, other),
        (UPGRADE, unnamed),
    ] {
        let (mut client, mut app, done) = between(SETTING);
        send(&mut client, request).await;
        read_head_of(&mut app).await;
        send(&mut app, response).await;
        let done = in_time(done).await.unwrap();
        done.assert_failed("bad_response", false);
        drop(done);
        assert_eq!(read_rest(&mut client).await, "");
    }
}

/// A reader that takes its time does not lose the end.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_gets_all() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, "GET / HTTP/1.1\r\nHost: svc\r\n\r\n").await;
    read_head_of(&mut app).await;
    let body = "0123456789".repeat(5_000);
    let sending = tokio::spawn({
        let body = body.clone();
        async move {
            send(
                &mut app,
                &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
            )
            .await;
            app
        }
    });
    read_head_of(&mut client).await;
    let mut got = vec![0; body.len()];
    in_time(client.read_exact(&mut got)).await.unwrap();
    assert!(got == body.as_bytes());
    in_time(done).await.unwrap().assert_reusable();
    drop(sending);
}
