//! What breaks an exchange, and what each side sees of it.

use tokio::io::AsyncWriteExt;

use super::{SETTING, SHORT, Setting, between, in_time, read_head_of, read_rest, read_until, send, talk};
use crate::forward::http1::{Blame, ExchangeFailure};

const GET: &str = "GET / HTTP/1.1\r\nHost: svc\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n";
const WIDE: Setting = Setting {
    pipe: 64 * 1024,
    ..SETTING
};

#[tokio::test(start_paused = true)]
async fn an_application_that_closes_early_is_told_apart() {
    for (response, started) in [
        ("", false),
        ("HTTP/1.1 200 OK\r\ncontent-le", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            true,
        ),
    ] {
        let (mut client, mut app, done) = between(WIDE);
        send(&mut client, GET).await;
        read_head_of(&mut app).await;
        send(&mut app, response).await;
        drop(app);
        let done = in_time(done).await.unwrap();
        done.assert_failed("upstream_closed", started);
        assert!(
            !done.exchange.retryable,
            "a fresh connection that dies is no stale one"
        );
        assert_eq!(
            done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
            Some(502)
        );
        assert_eq!(
            done.exchange.failure.as_ref().map(ExchangeFailure::blame),
            Some(Blame::Upstream)
        );
        drop(done);
        let got = read_rest(&mut client).await;
        assert!(!got.ends_with("\r\n0\r\n\r\n"), "never a clean end: {got}");
        assert_eq!(got.is_empty(), !started);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_died_may_be_replaced() {
    for (request, reused, retryable) in [
        (GET, true, true),
        (GET, false, false),
        ("DELETE /1 HTTP/1.1\r\nHost: svc\r\n\r\n", true, true),
        (
            "PUT /1 HTTP/1.1\r\nHost: svc\r\nContent-Length: 0\r\n\r\n",
            true,
            true,
        ),
        // It may have been done already.
        (
            "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 0\r\n\r\n",
            true,
            false,
        ),
        // Its body is gone.
        (
            "PUT / HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\nab",
            true,
            false,
        ),
    ] {
        let (mut client, mut app, done) = between(Setting { reused, ..WIDE });
        send(&mut client, request).await;
        read_until(
            &mut app,
            request
                .split("\r\n\r\n")
                .last()
                .filter(|body| !body.is_empty())
                .unwrap_or("\r\n\r\n"),
        )
        .await;
        drop(app);
        let done = in_time(done).await.unwrap();
        done.assert_failed("upstream_closed", false);
        assert_eq!(done.exchange.retryable, retryable, "{request} reused={reused}");
    }
    // Closed before a byte was written: nothing can have been done, whatever the method.
    for request in [
        "POST / HTTP/1.1\r\nHost: svc\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: svc\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let (mut client, app, done) = between(Setting { reused: true, ..WIDE });
        drop(app);
        send(&mut client, request).await;
        let done = in_time(done).await.unwrap();
        done.assert_failed("upstream_closed", false);
        assert!(done.exchange.retryable, "{request}");
        assert!(
            request.ends_with(std::str::from_utf8(done.client.data()).unwrap()),
            "the body is still there"
        );
    }
    // After one byte of an answer it is not a stale connection any more.
    let (mut client, mut app, done) = between(Setting { reused: true, ..WIDE });
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    send(&mut app, "H").await;
    drop(app);
    assert!(!in_time(done).await.unwrap().exchange.retryable);
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_two_meanings_is_a_502_and_the_client_gets_no_byte() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
        "not http at all\r\n\r\n",
    ] {
        let (_, done, mut client, _app) = talk(WIDE, GET, "\r\n\r\n", response).await;
        done.assert_failed("bad_response", false);
        assert_eq!(
            done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
            Some(502)
        );
        drop(done);
        assert_eq!(read_rest(&mut client).await, "");
    }
    let old = "GET / HTTP/1.0\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    talk(WIDE, old, "\r\n\r\n", chunked)
        .await
        .1
        .assert_failed("bad_response", false);
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(40);
    talk(WIDE, GET, "\r\n\r\n", &interim)
        .await
        .1
        .assert_failed("bad_response", false);
}

#[tokio::test(start_paused = true)]
async fn a_response_whose_chunks_break_is_cut() {
    let good = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let bad = "0x5\r\nworld\r\n0\r\n\r\n";
    let (mut client, mut app, done) = between(WIDE);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    send(&mut app, good).await;
    read_until(&mut client, "hello\r\n").await;
    send(&mut app, bad).await;
    let done = in_time(done).await.unwrap();
    done.assert_failed("bad_response", true);
    drop(done);
    assert_eq!(read_rest(&mut client).await, "");
    // Seen before anything went on, it is a 502.
    let (_, done, mut client, _app) = talk(WIDE, GET, "\r\n\r\n", &format!("{good}{bad}")).await;
    done.assert_failed("bad_response", false);
    drop(done);
    assert_eq!(read_rest(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_request_body_whose_chunks_break_is_never_ended() {
    for (body, passed) in [
        ("5\r\nhello\r\n0x5\r\nworld\r\n0\r\n\r\n", "5\r\nhello\r\n"),
        ("5;a\nhello\r\n0\r\n\r\n", ""),
        ("5\r\nhelloXX0\r\n\r\n", "5\r\nhello"),
        ("0\r\nbad trailer\r\n\r\n", "0\r\n"),
    ] {
        let (mut client, mut app, done) = between(WIDE);
        send(&mut client, &format!("{CHUNKED}{body}")).await;
        let done = in_time(done).await.unwrap();
        done.assert_failed("bad_request_body", false);
        assert_eq!(
            done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
            Some(400)
        );
        drop(done);
        let got = read_rest(&mut app).await;
        let rest = got.split_once("\r\n\r\n").map_or("", |(_, rest)| rest);
        assert!(passed.starts_with(rest), "{body:?}: the application got {rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_takes_the_work_with_it() {
    // While the application thinks.
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    drop(client);
    let done = in_time(done).await.unwrap();
    done.assert_failed("client_closed", false);
    assert_eq!(
        done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
        None
    );
    drop(done);
    assert_eq!(read_rest(&mut app).await, "", "the application sees the end");

    // In the middle of its body.
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, &format!("{CHUNKED}5\r\nhel")).await;
    read_until(&mut app, "hel").await;
    drop(client);
    // It may only have ended its direction: it is told, if it is still there.
    let done = in_time(done).await.unwrap();
    done.assert_failed("request_truncated", false);
    assert_eq!(
        done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
        Some(400)
    );

    // In the middle of the response.
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhello").await;
    read_until(&mut client, "hello").await;
    drop(client);
    in_time(done).await.unwrap().assert_failed("client_closed", true);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_is_left_in_time() {
    let (mut client, mut app, done) = between(Setting {
        response: Some(SHORT),
        ..SETTING
    });
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    let done = in_time(done).await.unwrap();
    done.assert_failed("upstream_timeout", false);
    assert_eq!(
        done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
        Some(504)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_100_is_not_the_one_that_stalls() {
    let expects = "PUT / HTTP/1.1\r\nHost: svc\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let (mut client, mut app, done) = between(Setting {
        response: Some(SHORT * 3),
        body_idle: SHORT,
        ..SETTING
    });
    send(&mut client, expects).await;
    read_head_of(&mut app).await;
    in_time(done)
        .await
        .unwrap()
        .assert_failed("upstream_timeout", false);
    // Told to go on, it is its turn.
    let (mut client, mut app, done) = between(Setting {
        body_idle: SHORT,
        ..SETTING
    });
    send(&mut client, expects).await;
    read_head_of(&mut app).await;
    send(&mut app, "HTTP/1.1 100 Continue\r\n\r\n").await;
    read_head_of(&mut client).await;
    in_time(done)
        .await
        .unwrap()
        .assert_failed("client_stalled", false);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_closes_in_the_middle_of_an_upload_without_a_word() {
    let (mut client, mut app, done) = between(Setting {
        reused: true,
        ..SETTING
    });
    send(&mut client, &format!("{CHUNKED}5\r\nhel")).await;
    read_until(&mut app, "hel").await;
    drop(app);
    let done = in_time(done).await.unwrap();
    done.assert_failed("upstream_closed", false);
    assert!(!done.exchange.retryable, "part of the body is gone");
}

/// Thinking is not idling: without a response time-out an application may take longer than the idle time.
#[tokio::test(start_paused = true)]
async fn an_application_may_think_longer_than_a_body_may_idle() {
    let (mut client, mut app, done) = between(Setting {
        body_idle: SHORT,
        ..SETTING
    });
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    assert!(
        tokio::time::timeout(SHORT * 4, read_head_of(&mut client))
            .await
            .is_err()
    );
    assert!(!done.is_finished());
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    in_time(done).await.unwrap().assert_reusable();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_ends_and_names_the_side() {
    let idle = Setting {
        body_idle: SHORT,
        ..SETTING
    };
    let (mut client, mut app, done) = between(idle);
    send(&mut client, &format!("{CHUNKED}5\r\nhel")).await;
    read_until(&mut app, "hel").await;
    let done = in_time(done).await.unwrap();
    done.assert_failed("client_stalled", false);
    assert_eq!(
        done.exchange.failure.as_ref().and_then(ExchangeFailure::status),
        Some(408)
    );

    // The application takes nothing.
    let head = "POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 1000000\r\n\r\n";
    let (mut other, _app2, other_done) = between(idle);
    send(&mut other, head).await;
    let body = tokio::spawn(async move { other.write_all(&[b'a'; 70_000]).await.map(|()| other) });
    in_time(other_done)
        .await
        .unwrap()
        .assert_failed("upstream_stalled", false);
    drop(body);

    // The application stops in the middle of its response.
    let (mut client, mut app, done) = between(idle);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    read_until(&mut client, "half").await;
    in_time(done)
        .await
        .unwrap()
        .assert_failed("upstream_stalled", true);

    // The client takes nothing of it.
    let (mut client, mut app, done) = between(idle);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    let sending = tokio::spawn(async move {
        let _ = app
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            .await;
        let _ = app.write_all(&[b'a'; 200_000]).await;
        app
    });
    in_time(done).await.unwrap().assert_failed("client_stalled", true);
    drop((client, sending));
}

#[tokio::test(start_paused = true)]
async fn a_switched_connection_that_stands_still_ends() {
    let (mut client, mut app, done) = between(Setting {
        upgraded_idle: SHORT,
        ..SETTING
    });
    send(
        &mut client,
        "GET / HTTP/1.1\r\nHost: svc\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    )
    .await;
    read_head_of(&mut app).await;
    send(
        &mut app,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    )
    .await;
    read_head_of(&mut client).await;
    let done = in_time(done).await.unwrap();
    assert_eq!(done.label(), "idle_timeout");
    assert!(done.exchange.upgraded);
}

/// A client may flood its connection while it waits; what we keep of it is bounded.
#[tokio::test(start_paused = true)]
async fn pipelined_requests_wait_in_bounded_memory() {
    let (mut client, mut app, done) = between(SETTING);
    send(&mut client, GET).await;
    read_head_of(&mut app).await;
    let mut written = 0;
    while let Ok(Ok(count)) = tokio::time::timeout(SHORT, client.write(GET.as_bytes())).await {
        written += count;
        assert!(written < 200_000, "the sidecar reads without end");
    }
    assert!(written >= crate::forward::MAX_BUFFER, "{written}");
    send(&mut app, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let done = in_time(done).await.unwrap();
    done.assert_reusable();
    assert_eq!(done.client.data().len(), crate::forward::MAX_BUFFER);
}
