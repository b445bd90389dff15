//! Large bodies over real sockets, and an application that is rude over one.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{HeadTimes, Outgoing, PATIENCE, SHORT, Times, in_time};
use crate::forward::http1::{Exchange, exchange, read_head};
use crate::forward::{Buffered, MAX_BUFFER, Progress, connect_app};
use crate::request::Limits;

const BULK: u64 = 64 << 20;

/// A listener and both ends of one connection to it.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

async fn forward(client: TcpStream, app: std::net::SocketAddr) -> (Exchange, usize) {
    let dial = crate::dial::DialOptions {
        mark: None,
        timeout: PATIENCE,
    };
    let mut upstream = Buffered::new(connect_app(app, &dial).await.unwrap());
    let mut client = Buffered::new(client);
    let limits = Limits::default();
    let head = read_head(
        &mut client,
        &limits,
        HeadTimes {
            idle: PATIENCE,
            head: PATIENCE,
        },
    )
    .await
    .unwrap();
    let request = Outgoing {
        head: &head,
        bytes: head.forward_bytes(&[]),
        response_add: &[],
        close: &|| false,
        reused: false,
        limits: &limits,
        times: Times {
            response: None,
            body_idle: PATIENCE,
            upgraded_idle: PATIENCE,
        },
        progress: &Progress::default(),
    };
    let exchange = exchange(&mut client, &mut upstream, request).await;
    crate::forward::http1::finish(&mut client, 1 << 30, PATIENCE).await;
    let held = client.into_parts().1.len() + upstream.into_parts().1.len();
    (exchange, held)
}

/// Byte `n` of the pattern: a lost, doubled or moved block shows.
fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]
}

async fn write_pattern(stream: &mut (impl AsyncWriteExt + Unpin), total: u64) {
    let mut at = 0;
    while at < total {
        let block: Vec<u8> = (at..(at + 65_536).min(total)).map(pattern).collect();
        stream.write_all(&block).await.unwrap();
        at += block.len() as u64;
    }
}

async fn read_pattern(stream: &mut (impl AsyncReadExt + Unpin), total: u64) {
    let mut at = 0;
    let mut block = vec![0; 65_536];
    while at < total {
        let count = stream.read(&mut block).await.unwrap();
        assert!(count > 0, "ended at {at}");
        assert!(
            block[..count]
                .iter()
                .zip(at..)
                .all(|(byte, at)| *byte == pattern(at)),
            "wrong after {at}"
        );
        at += count as u64;
    }
}

async fn read_head_of(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_each_way_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let (client, side) = connection().await;
    let sidecar = tokio::spawn(forward(side, app));
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head_of(&mut stream).await;
        let (mut read, mut write) = stream.split();
        let answer = async {
            write
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {BULK}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            write_pattern(&mut write, BULK).await;
        };
        tokio::join!(read_pattern(&mut read, BULK), answer);
        stream
    });
    let (mut read, mut write) = client.into_split();
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: {BULK}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write_pattern(&mut write, BULK).await;
        write
    });
    in_time(async {
        read_head_of(&mut read).await;
        read_pattern(&mut read, BULK).await;
    })
    .await;
    drop((in_time(app).await.unwrap(), in_time(sending).await.unwrap()));
    drop(read);
    let (exchange, held) = in_time(sidecar).await.unwrap();
    assert!(exchange.failure.is_none(), "{exchange:?}");
    assert_eq!(
        (exchange.request_bytes, exchange.response_bytes, held),
        (BULK, BULK, 0)
    );
}

/// What nobody takes, nobody reads: between an application that writes and a client that does not read there is one buffer.
#[tokio::test(start_paused = true)]
async fn a_response_that_nobody_reads_waits_in_bounded_memory() {
    let (mut client, side) = tokio::io::duplex(1024);
    let (mut app, upstream) = tokio::io::duplex(1024);
    let sidecar = tokio::spawn(super::forward(
        Buffered::new(side),
        Buffered::new(upstream),
        super::SETTING,
    ));
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: svc\r\n\r\n")
        .await
        .unwrap();
    read_head_of(&mut app).await;
    app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        .await
        .unwrap();
    let mut written = 0;
    while let Ok(Ok(count)) = tokio::time::timeout(SHORT, app.write(&[b'a'; 512])).await {
        written += count;
        assert!(written <= MAX_BUFFER + 4096, "{written} bytes and no end");
    }
    drop(client);
    assert_eq!(in_time(sidecar).await.unwrap().label(), "client_closed");
}

/// It answers and slams the door on a body it did not read: the system resets the connection, and the answer was on it.
#[tokio::test]
async fn an_answer_before_a_reset_is_delivered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let (mut client, side) = connection().await;
    let sidecar = tokio::spawn(forward(side, app));
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: svc\r\nContent-Length: 100000000\r\n\r\n")
        .await
        .unwrap();
    client.write_all(&[b'a'; 4096]).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head_of(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        .await
        .unwrap();
    drop(stream);
    let head = in_time(read_head_of(&mut client)).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    let mut body = [0; 3];
    in_time(client.read_exact(&mut body)).await.unwrap();
    assert_eq!(&body, b"big");
    drop(client);
    let (exchange, _) = in_time(sidecar).await.unwrap();
    assert!(exchange.failure.is_none(), "{exchange:?}");
    assert!(!exchange.client_reusable && !exchange.upstream_reusable);
}

#[tokio::test]
async fn an_application_that_is_down_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let dial = crate::dial::DialOptions {
        mark: None,
        timeout: PATIENCE,
    };
    let failure = in_time(connect_app(addr, &dial)).await.unwrap_err();
    assert_eq!(failure.label(), "app_refused");
    assert!(failure.to_string().contains(&addr.to_string()));
}
