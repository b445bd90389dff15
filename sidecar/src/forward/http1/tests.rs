//! Exchanges between real ends: the test is the client and the application, over pipes that hold a few bytes (so that
//! every write is partial) and over loopback sockets.

mod bulk;
mod edges;
mod failures;
mod foreign;
mod ordinary;
mod streaming;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::{Exchange, HeadTimes, Outgoing, Times, exchange, read_head};
use crate::forward::{Buffered, Progress};
use crate::request::Limits;

/// Nothing in these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(40);

#[derive(Clone, Copy)]
struct Setting {
    response: Option<Duration>,
    body_idle: Duration,
    upgraded_idle: Duration,
    close: bool,
    reused: bool,
    add: &'static [(&'static str, &'static str)],
    /// What each pipe holds.
    pipe: usize,
}

const SETTING: Setting = Setting {
    response: None,
    body_idle: PATIENCE,
    upgraded_idle: PATIENCE,
    close: false,
    reused: false,
    add: &[],
    pipe: 64,
};

/// What the sidecar made of one request, and what is left of its streams.
struct Done<S = DuplexStream> {
    exchange: Exchange,
    client: Buffered<S>,
    upstream: Buffered<S>,
}

impl<S> Done<S> {
    fn label(&self) -> &'static str {
        self.exchange
            .failure
            .as_ref()
            .map_or("none", super::ExchangeFailure::label)
    }

    /// Both connections can carry the next request.
    #[track_caller]
    fn assert_reusable(&self) {
        let exchange = &self.exchange;
        assert!(
            exchange.client_reusable && exchange.upstream_reusable && exchange.failure.is_none(),
            "{exchange:?}"
        );
    }

    #[track_caller]
    fn assert_failed(&self, label: &str, started: bool) {
        let exchange = &self.exchange;
        assert_eq!(
            (self.label(), exchange.response_started),
            (label, started),
            "{exchange:?}"
        );
        assert!(
            !exchange.client_reusable && !exchange.upstream_reusable,
            "{exchange:?}"
        );
    }
}

async fn forward<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Buffered<S>,
    mut upstream: Buffered<S>,
    setting: Setting,
) -> Done<S> {
    let limits = Limits::default();
    let times = HeadTimes {
        idle: PATIENCE,
        head: PATIENCE,
    };
    let head = read_head(&mut client, &limits, times)
        .await
        .expect("a request head");
    let progress = Progress::default();
    let request = Outgoing {
        head: &head,
        bytes: head.forward_bytes(&[("x-hopguard-user", "alice")]),
        response_add: setting.add,
        close: &|| setting.close,
        reused: setting.reused,
        limits: &limits,
        times: Times {
            response: setting.response,
            body_idle: setting.body_idle,
            upgraded_idle: setting.upgraded_idle,
        },
        progress: &progress,
    };
    let exchange = exchange(&mut client, &mut upstream, request).await;
    assert_eq!(
        progress.counts(),
        (exchange.request_bytes, exchange.response_bytes),
        "counted as it moved"
    );
    Done {
        exchange,
        client,
        upstream,
    }
}

/// A sidecar between a client and an application: their ends of the pipes, and its answer.
fn between(setting: Setting) -> (DuplexStream, DuplexStream, JoinHandle<Done>) {
    let (client, client_side) = duplex(setting.pipe);
    let (app, app_side) = duplex(setting.pipe);
    let done = tokio::spawn(forward(
        Buffered::new(client_side),
        Buffered::new(app_side),
        setting,
    ));
    (client, app, done)
}

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("done in time")
}

/// Reads up to and with `end`.
async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    in_time(async {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
            }
        }
        String::from_utf8(text).expect("text")
    })
    .await
}

async fn read_head_of(stream: &mut DuplexStream) -> String {
    read_until(stream, "\r\n\r\n").await
}

/// Reads to the end of the stream.
async fn read_rest(stream: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    in_time(stream.read_to_end(&mut text)).await.expect("an end");
    String::from_utf8(text).expect("text")
}

async fn send(stream: &mut DuplexStream, text: &str) {
    in_time(stream.write_all(text.as_bytes())).await.expect("written");
}

/// A client that sends all of `request`, an application that reads up to `until` and then sends all of `response`; what
/// each of them got. Both keep their ends open.
async fn talk(
    setting: Setting,
    request: &str,
    until: &str,
    response: &str,
) -> (String, Done, DuplexStream, DuplexStream) {
    let (mut client, mut app, done) = between(setting);
    let sending = async {
        client.write_all(request.as_bytes()).await.expect("written");
        client
    };
    let answering = async {
        let got = read_until(&mut app, until).await;
        send(&mut app, response).await;
        (got, app)
    };
    let (client, (got, app)) = in_time(async { tokio::join!(sending, answering) }).await;
    let done = in_time(done).await.expect("no panic");
    (got, done, client, app)
}
