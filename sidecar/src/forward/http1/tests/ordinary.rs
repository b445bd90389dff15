//! Exchanges of every day.

use super::{SETTING, Setting, between, forward, in_time, read_head_of, read_rest, read_until, send, talk};
use crate::forward::Buffered;

const GET: &str = "GET /a HTTP/1.1\r\nHost: svc\r\n\r\n";
/// More than any head and body of these tests: nothing waits for a reader.
const WIDE: Setting = Setting {
    pipe: 64 * 1024,
    ..SETTING
};

#[tokio::test(start_paused = true)]
async fn a_request_and_its_response() {
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let (mut client, mut app, done) = between(Setting {
        add: &[("x-hopguard-id", "d-1")],
        ..SETTING
    });
    send(&mut client, GET).await;
    let got = read_head_of(&mut app).await;
    assert_eq!(
        got,
        "GET /a HTTP/1.1\r\nHost: svc\r\nx-hopguard-user: alice\r\n\r\n"
    );
    send(&mut app, response).await;
    assert_eq!(
        read_until(&mut client, "hello").await,
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-hopguard-id: d-1\r\n\r\nhello"
    );
    let done = in_time(done).await.unwrap();
    done.assert_reusable();
    let exchange = &done.exchange;
    assert_eq!(
        (exchange.status, exchange.request_bytes, exchange.response_bytes),
        (Some(200), 0, 5)
    );
    assert!(
        exchange.ttfb.is_some() && exchange.response_started && !exchange.upgraded && !exchange.retryable
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_pipelined_requests_one_after_the_other() {
    let (mut client, mut app, done) = between(WIDE);
    send(
        &mut client,
        &format!("POST /1 HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\none{GET}"),
    )
    .await;
    let got = read_until(&mut app, "one").await;
    assert!(
        got.starts_with("POST /1 ") && got.ends_with("\r\n\r\none"),
        "{got}"
    );
    send(&mut app, "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
    let first = in_time(done).await.unwrap();
    first.assert_reusable();
    let second = tokio::spawn(forward(first.client, first.upstream, WIDE));
    assert!(read_head_of(&mut app).await.starts_with("GET /a HTTP/1.1\r\n"));
    send(&mut app, "HTTP/1.1 204 No Content\r\n\r\n").await;
    in_time(second).await.unwrap().assert_reusable();
    assert_eq!(
        read_until(&mut client, "204 No Content\r\n\r\n").await,
        "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
    );
}

#[tokio::test(start_paused = true)]
async fn chunked_bodies_pass_and_lose_only_what_must_not_pass() {
    let request = "POST / HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;ext=1\r\nhello\r\n0\r\nX-Sum: 1\r\nX-User-Id: root\r\n\r\n";
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nX-T: 2\r\n\r\n";
    let (got, done, mut client, _app) = talk(WIDE, request, "1\r\n\r\n", response).await;
    assert!(
        got.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        "{got}"
    );
    let answer = read_until(&mut client, "X-T: 2\r\n\r\n").await;
    assert!(
        answer.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nX-T: 2\r\n\r\n"),
        "{answer}"
    );
    done.assert_reusable();
    assert_eq!(
        (done.exchange.request_bytes, done.exchange.response_bytes),
        (25, 21)
    );
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_body_end_at_their_head() {
    for (method, head) in [
        ("HEAD", "200 OK\r\ncontent-length: 500\r\n"),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked\r\n"),
        ("GET", "204 No Content\r\n"),
        ("GET", "304 Not Modified\r\ncontent-length: 500\r\n"),
        ("GET", "200 OK\r\ncontent-length: 0\r\n"),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: svc\r\n\r\n");
        let response = format!("HTTP/1.1 {head}\r\n");
        let (_, done, mut client, _app) = talk(WIDE, &request, "\r\n\r\n", &response).await;
        done.assert_reusable();
        assert_eq!(read_head_of(&mut client).await, response, "{method} {head}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_whole_answer_reaches_nobody() {
    for response in [
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
    ] {
        let (_, done, mut client, _app) = talk(WIDE, GET, "\r\n\r\n", response).await;
        assert!(done.exchange.failure.is_none() && done.exchange.client_reusable);
        assert!(
            !done.exchange.upstream_reusable,
            "the application's connection is out of step"
        );
        drop(done);
        let got = read_rest(&mut client).await;
        assert!(
            !got.contains("evil") && !got.contains("more") && got.matches("HTTP/1.1").count() == 1,
            "{got}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_until_the_end_ends_the_client_connection() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    send(&mut app, "HTTP/1.0 200 OK\r\n\r\nas long as it lasts").await;
    drop(app);
    assert_eq!(
        read_until(&mut client, "lasts").await,
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nas long as it lasts"
    );
    let done = in_time(done).await.unwrap();
    assert!(done.exchange.failure.is_none(), "{:?}", done.exchange);
    assert!(!done.exchange.client_reusable && !done.exchange.upstream_reusable);
    assert_eq!(done.exchange.response_bytes, 19);
}

#[tokio::test(start_paused = true)]
async fn the_client_is_told_when_its_connection_ends() {
    let closing = Setting { close: true, ..WIDE };
    for (setting, request, connection, reusable) in [
        (WIDE, GET, "", true),
        (closing, GET, "connection: close\r\n", false),
        (
            WIDE,
            "GET / HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n\r\n",
            "connection: close\r\n",
            false,
        ),
        (WIDE, "GET / HTTP/1.0\r\n\r\n", "connection: close\r\n", false),
        (
            WIDE,
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "connection: keep-alive\r\n",
            true,
        ),
    ] {
        let response = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n";
        let (_, done, mut client, _app) = talk(setting, request, "\r\n\r\n", response).await;
        assert_eq!(
            read_head_of(&mut client).await,
            format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{connection}\r\n"),
            "{request}"
        );
        assert_eq!(done.exchange.client_reusable, reusable, "{request}");
        assert!(done.exchange.upstream_reusable, "{request}");
    }
    let closed = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (_, done, _client, _app) = talk(WIDE, GET, "\r\n\r\n", closed).await;
    assert!(done.exchange.client_reusable && !done.exchange.upstream_reusable);
}

#[tokio::test(start_paused = true)]
async fn interim_answers_pass_and_http_1_0_gets_none() {
    let response = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (_, done, mut client, _app) = talk(WIDE, GET, "\r\n\r\n", response).await;
    done.assert_reusable();
    assert_eq!(read_until(&mut client, "ok").await, response);
    let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (_, _done, mut client, _app) = talk(WIDE, old, "\r\n\r\n", response).await;
    assert!(
        read_until(&mut client, "ok")
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
}

#[tokio::test(start_paused = true)]
async fn an_early_read_is_part_of_the_stream() {
    let (client, client_side) = tokio::io::duplex(1024);
    let (mut app, app_side) = tokio::io::duplex(1024);
    let peeked = Buffered::with_data(client_side, GET.as_bytes().to_vec());
    let done = tokio::spawn(forward(peeked, Buffered::new(app_side), SETTING));
    assert!(read_head_of(&mut app).await.starts_with("GET /a "));
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    in_time(done).await.unwrap().assert_reusable();
    drop(client);
}

/// What a connection costs while a request is under way, beside its buffers: guarded from both sides, so that what is
/// gained is kept.
#[tokio::test(start_paused = true)]
async fn a_request_under_way_is_small() {
    let limits = crate::request::Limits::default();
    let head = crate::request::parse_head(GET.as_bytes(), &limits)
        .unwrap()
        .unwrap();
    let (client, app) = (tokio::io::duplex(1).0, tokio::io::duplex(1).0);
    let (mut client, mut app) = (Buffered::new(client), Buffered::new(app));
    let progress = crate::forward::Progress::default();
    let request = crate::forward::http1::Outgoing {
        head: &head,
        bytes: Vec::new(),
        response_add: &[],
        close: &|| false,
        reused: false,
        limits: &limits,
        times: crate::forward::http1::Times {
            response: None,
            body_idle: super::SHORT,
            upgraded_idle: super::SHORT,
        },
        progress: &progress,
    };
    let exchange = size_of_val(&crate::forward::http1::exchange(&mut client, &mut app, request));
    let copy = size_of_val(&crate::forward::copy_both(
        &mut client,
        &mut app,
        super::SHORT,
        &progress,
    ));
    assert!((600..2_000).contains(&exchange), "{exchange} bytes an exchange");
    assert!((150..600).contains(&copy), "{copy} bytes a copy");
}
