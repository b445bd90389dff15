use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;
use crate::dial::{self, DialOptions};
use crate::identity::testing::{Ca, bundles};
use crate::tls::{MeshTls, ServerProfile};

const SOON: Duration = Duration::from_secs(20);

/// Waits for `probe` to hold; the test fails when it does not within [`SOON`].
async fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !probe() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

fn mesh(ca: &Ca, path: &str) -> Arc<MeshTls> {
    Arc::new(MeshTls::new(ca.identity(path)).unwrap())
}

fn serve_options() -> ServeOptions {
    ServeOptions {
        max_streams: 1024,
        max_age: Duration::from_secs(600),
        drain_timeout: SOON,
        preface_timeout: SOON,
        valid_until: SystemTime::now() + Duration::from_secs(600),
    }
}

fn pool(change: impl FnOnce(&mut PoolOptions)) -> Arc<Pool> {
    let mut options = PoolOptions {
        dial: DialOptions {
            mark: None,
            timeout: SOON,
        },
        max_age: Duration::from_secs(600),
        streams_per_tunnel: 1000,
        idle: Duration::from_secs(600),
    };
    change(&mut options);
    Pool::new(options)
}

/// An HBONE server over loopback.
struct Server {
    addr: SocketAddr,
    /// Tunnels accepted so far.
    tunnels: Arc<AtomicUsize>,
    drain: watch::Sender<bool>,
    /// How each tunnel ended.
    ends: mpsc::UnboundedReceiver<Result<(), TunnelError>>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(
        tls: &Arc<MeshTls>,
        options: ServeOptions,
        on_stream: impl Fn(Incoming) + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tunnels = Arc::new(AtomicUsize::new(0));
        let (drain, draining) = watch::channel(false);
        let (ended, ends) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        let (tls, count) = (Arc::clone(tls), Arc::clone(&tunnels));
        task.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (tls, options, on_stream) = (Arc::clone(&tls), options.clone(), on_stream.clone());
                let (ended, mut draining) = (ended.clone(), draining.clone());
                let count = Arc::clone(&count);
                serving.spawn(async move {
                    dial::tune(&tcp).unwrap();
                    let acceptor = tokio_rustls::TlsAcceptor::from(tls.server(ServerProfile::Hbone));
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let drain = async move { drop(draining.wait_for(|d| *d).await) };
                    let _ = ended.send(serve(stream, &options, on_stream, drain).await);
                });
            }
        });
        Self {
            addr,
            tunnels,
            drain,
            ends,
            _task: task,
        }
    }

    async fn echo(tls: &Arc<MeshTls>, options: ServeOptions) -> Self {
        Self::start(tls, options, |incoming| {
            drop(tokio::spawn(echo(incoming.accept().unwrap())))
        })
        .await
    }

    fn target(&self, expected: spiffe::SpiffeId) -> Target {
        Target {
            tunnel_addr: self.addr,
            authority: "10.0.0.9:8080".parse().unwrap(),
            expected: Arc::new([expected]),
            headers: vec![("traceparent", "00-x".into())],
        }
    }

    fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }

    async fn end(&mut self) -> Result<(), TunnelError> {
        timeout(SOON, self.ends.recv())
            .await
            .expect("an end in time")
            .unwrap()
    }
}

/// Sends back what comes, and its end.
async fn echo(mut stream: TunnelStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) if stream.write_all(&buffer[..n]).await.is_ok() => {}
            _ => return,
        }
    }
    let _ = stream.shutdown().await;
}

async fn ask(stream: &mut TunnelStream, question: &[u8]) -> io::Result<()> {
    stream.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .expect("an answer in time")?;
    assert_eq!(answer, question);
    Ok(())
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// A CA, web's TLS, and orders' TLS.
fn pair() -> (Ca, Arc<MeshTls>, Arc<MeshTls>) {
    let ca = Ca::new("mesh.test");
    let (web, orders) = (mesh(&ca, "/web"), mesh(&ca, "/orders"));
    (ca, web, orders)
}

#[tokio::test]
async fn a_stream_goes_through_and_the_next_reuses_the_tunnel() {
    let (ca, web, orders) = pair();
    let (seen, mut heads) = mpsc::unbounded_channel();
    let server = Server::start(&orders, serve_options(), move |incoming| {
        let head = (
            incoming.authority(),
            incoming.header("traceparent").map(str::to_owned),
            incoming.header("x").is_none(),
        );
        seen.send(head).unwrap();
        tokio::spawn(echo(incoming.accept().unwrap()));
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    for round in 0..3 {
        let mut opened = pool.open(&web, &target, now()).await.unwrap();
        assert_eq!(opened.reused, round > 0);
        assert_eq!(opened.peer.id, ca.id("/orders"));
        assert_eq!(opened.session.kx, "X25519MLKEM768");
        assert!(opened.valid_until < orders.identity().not_after && opened.valid_until > now());
        ask(&mut opened.stream, b"hello").await.unwrap();
        assert_eq!(
            heads.recv().await.unwrap(),
            (Ok(target.authority), Some("00-x".into()), true)
        );
        assert_eq!(pool.usage(), (1, 1));
    }
    assert_eq!(server.tunnels(), 1);
    eventually("places given back", || pool.usage() == (1, 0)).await;
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open_both_ways() {
    let (ca, web, orders) = pair();
    let (streams, mut accepted) = mpsc::unbounded_channel();
    let server = Server::start(&orders, serve_options(), move |i| {
        drop(streams.send(i.accept().unwrap()))
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    for client_first in [true, false] {
        let client = pool.open(&web, &target, now()).await.unwrap().stream;
        let server = accepted.recv().await.unwrap();
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"all I say").await.unwrap();
        first.shutdown().await.unwrap();
        let mut said = String::new();
        timeout(SOON, second.read_to_string(&mut said))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(said, "all I say");
        // Only now, long after the end of the other direction.
        for word in ["and", "I", "go", "on"] {
            second.write_all(word.as_bytes()).await.unwrap();
            let mut heard = vec![0; word.len()];
            timeout(SOON, first.read_exact(&mut heard))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(heard, word.as_bytes());
        }
        second.shutdown().await.unwrap();
        assert_eq!(timeout(SOON, first.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
        assert_eq!(
            first.write(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}

/// Byte `at` of a stream with this seed.
fn byte(seed: u64, at: u64) -> u8 {
    let mixed = (at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_le_bytes()[7]
}

async fn send_pattern(half: &mut (impl tokio::io::AsyncWrite + Unpin), seed: u64, total: u64) {
    let mut at = 0;
    let mut size = 1;
    while at < total {
        let chunk: Vec<u8> = (at..(at + size).min(total)).map(|n| byte(seed, n)).collect();
        half.write_all(&chunk).await.unwrap();
        at += size;
        size = (size * 7 + 13) % 300_000 + 1;
    }
    half.shutdown().await.unwrap();
}

async fn check_pattern(half: &mut (impl tokio::io::AsyncRead + Unpin), seed: u64, total: u64) {
    let mut at = 0;
    let mut buffer = vec![0; 200_001];
    loop {
        let room = usize::try_from((at * 31) % 200_000 + 1).unwrap();
        let n = half.read(&mut buffer[..room]).await.unwrap();
        if n == 0 {
            break;
        }
        for found in &buffer[..n] {
            assert_eq!(*found, byte(seed, at), "at {at}");
            at += 1;
        }
    }
    assert_eq!(at, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_both_ways_at_once_arrives_as_it_was_sent() {
    const TOTAL: u64 = 24 << 20;
    let (ca, web, orders) = pair();
    let server = Server::start(&orders, serve_options(), |incoming| {
        let (mut read, mut write) = tokio::io::split(incoming.accept().unwrap());
        tokio::spawn(async move {
            tokio::join!(
                check_pattern(&mut read, 1, TOTAL),
                send_pattern(&mut write, 2, TOTAL)
            );
        });
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    let mut streams = JoinSet::new();
    for _ in 0..2 {
        let stream = pool.open(&web, &target, now()).await.unwrap().stream;
        streams.spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::join!(
                check_pattern(&mut read, 2, TOTAL),
                send_pattern(&mut write, 1, TOTAL)
            );
        });
    }
    timeout(SOON * 3, streams.join_all()).await.unwrap();
    assert_eq!(server.tunnels(), 1);
}

#[tokio::test]
async fn readers_that_stand_still_do_not_stop_the_others() {
    let (ca, web, orders) = pair();
    // Streams whose first byte is `s` are never read; the others are echoed.
    let server = Server::start(&orders, serve_options(), |incoming| {
        let mut stream = incoming.accept().unwrap();
        tokio::spawn(async move {
            match stream.read_u8().await.unwrap() {
                b's' => std::future::pending().await,
                _ => echo(stream).await,
            }
        });
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    let stuck = Arc::new(AtomicUsize::new(0));
    let mut stalled = JoinSet::new();
    let mut calm = pool.open(&web, &target, now()).await.unwrap().stream;
    calm.write_all(b"e").await.unwrap();
    for _ in 0..8 {
        let mut stream = pool.open(&web, &target, now()).await.unwrap().stream;
        let stuck = Arc::clone(&stuck);
        stalled.spawn(async move {
            stream.write_all(b"s").await.unwrap();
            let mut sent = 0;
            loop {
                match timeout(Duration::from_millis(300), stream.write_all(&[7; 64 << 10])).await {
                    Ok(written) => written.unwrap(),
                    Err(_) => break,
                }
                sent += 64 << 10;
                // Bounded: the peer's window and our buffer, never more.
                assert!(
                    sent <= (1 << 20) + (256 << 10) + (64 << 10),
                    "{sent} bytes went to nobody"
                );
            }
            stuck.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        });
    }
    eventually("all stuck", || stuck.load(Ordering::SeqCst) == 8).await;
    for _ in 0..100 {
        ask(&mut calm, b"still here").await.unwrap();
    }
}

#[tokio::test]
async fn a_full_tunnel_gets_a_second_one_beside_it() {
    let (ca, web, orders) = pair();
    let narrow = ServeOptions {
        max_streams: 3,
        ..serve_options()
    };
    for (server, per_tunnel) in [
        (Server::echo(&orders, serve_options()).await, 3),
        (Server::echo(&orders, narrow).await, 1000),
    ] {
        let (pool, target) = (
            pool(|o| o.streams_per_tunnel = per_tunnel),
            server.target(ca.id("/orders")),
        );
        let mut open = Vec::new();
        for expected in [1, 1, 1, 2, 2, 2, 3] {
            let mut opened = pool.open(&web, &target, now()).await.unwrap();
            ask(&mut opened.stream, b"x").await.unwrap();
            open.push(opened);
            assert_eq!(server.tunnels(), expected);
        }
        assert_eq!(pool.usage(), (3, 7));
        open.clear();
        eventually("places given back", || pool.usage() == (3, 0)).await;
        pool.open(&web, &target, now()).await.unwrap();
        assert_eq!(server.tunnels(), 3);
    }
}

#[tokio::test]
async fn a_peer_that_allows_no_streams_is_given_up() {
    let (ca, web, orders) = pair();
    let server = Server::echo(
        &orders,
        ServeOptions {
            max_streams: 0,
            ..serve_options()
        },
    )
    .await;
    let refused = pool(|_| {})
        .open(&web, &server.target(ca.id("/orders")), now())
        .await;
    assert!(matches!(refused, Err(TunnelError::Full { .. })), "{refused:?}");
    assert_eq!(server.tunnels(), 1);
}

#[tokio::test]
async fn many_at_once_share_one_connect() {
    let (ca, web, orders) = pair();
    let server = Server::echo(&orders, serve_options()).await;
    let (pool, target) = (pool(|_| {}), Arc::new(server.target(ca.id("/orders"))));
    let mut opens = JoinSet::new();
    for _ in 0..100 {
        let (pool, web, target) = (Arc::clone(&pool), Arc::clone(&web), Arc::clone(&target));
        opens.spawn(async move {
            let mut opened = pool.open(&web, &target, now()).await.unwrap();
            ask(&mut opened.stream, b"x").await.unwrap();
            opened
        });
    }
    assert_eq!(opens.join_all().await.len(), 100);
    assert_eq!(server.tunnels(), 1);
}

#[tokio::test]
async fn after_goaway_a_new_tunnel_is_opened_and_the_old_streams_go_on() {
    let (ca, web, orders) = pair();
    let mut server = Server::echo(&orders, serve_options()).await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    let mut old = pool.open(&web, &target, now()).await.unwrap();
    ask(&mut old.stream, b"before").await.unwrap();
    server.drain.send(true).unwrap();
    // Each tunnel of this server is now drained as soon as it is there: only a fresh one can take the stream.
    let other = Server::echo(&orders, serve_options()).await;
    ask(&mut old.stream, b"while draining").await.unwrap();
    let moved = Target {
        tunnel_addr: other.addr,
        ..target.clone()
    };
    ask(&mut pool.open(&web, &moved, now()).await.unwrap().stream, b"new")
        .await
        .unwrap();
    old.stream.shutdown().await.unwrap();
    assert_eq!(
        timeout(SOON, old.stream.read(&mut [0; 8]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_was_never_processed_is_tried_again_in_a_new_tunnel() {
    let (ca, web, orders) = pair();
    // An old tunnel gets its GOAWAY by age while it is in the pool.
    let server = Server::echo(
        &orders,
        ServeOptions {
            max_age: Duration::from_millis(200),
            ..serve_options()
        },
    )
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    let mut rounds = 0;
    let end = Instant::now() + SOON;
    while server.tunnels() < 6 {
        assert!(Instant::now() < end);
        let mut opened = pool
            .open(&web, &target, now())
            .await
            .expect("no stream is lost to a GOAWAY");
        ask(&mut opened.stream, b"x").await.unwrap();
        opened.stream.shutdown().await.unwrap();
        rounds += 1;
    }
    assert!(rounds > 6);
}

#[tokio::test]
async fn a_tunnel_whose_peer_restarted_is_replaced() {
    let (ca, web, orders) = pair();
    let first = Server::echo(&orders, serve_options()).await;
    let relay = Relay::start(first.addr).await;
    let (pool, mut target) = (pool(|_| {}), first.target(ca.id("/orders")));
    target.tunnel_addr = relay.addr;
    ask(&mut pool.open(&web, &target, now()).await.unwrap().stream, b"x")
        .await
        .unwrap();
    relay.cut();
    let mut opened = pool.open(&web, &target, now()).await.unwrap();
    ask(&mut opened.stream, b"y").await.unwrap();
    assert_eq!(first.tunnels(), 2);
}

#[tokio::test]
async fn a_tunnel_that_has_gone_silent_is_left_for_a_new_one() {
    let (ca, web, orders) = pair();
    let server = Server::echo(&orders, serve_options()).await;
    let relay = Relay::start(server.addr).await;
    let pool = pool(|o| o.dial.timeout = Duration::from_secs(3));
    let target = Target {
        tunnel_addr: relay.addr,
        ..server.target(ca.id("/orders"))
    };
    let mut old = pool.open(&web, &target, now()).await.unwrap();
    ask(&mut old.stream, b"x").await.unwrap();
    relay.freeze();
    let mut opened = pool.open(&web, &target, now()).await.unwrap();
    assert!(!opened.reused);
    ask(&mut opened.stream, b"y").await.unwrap();
    assert_eq!(server.tunnels(), 2);
    assert_eq!(
        old.stream.tunnel_ended(),
        None,
        "only its own PING decides over the old one"
    );
}

/// A TCP relay whose open connections can be cut or frozen; new ones are relayed.
struct Relay {
    addr: SocketAddr,
    orders: Arc<std::sync::Mutex<watch::Sender<&'static str>>>,
    _task: JoinSet<()>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let orders = Arc::new(std::sync::Mutex::new(watch::channel("go").0));
        let current = Arc::clone(&orders);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut relays = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let mut order = current.lock().unwrap().subscribe();
                relays.spawn(async move {
                    let mut onward = TcpStream::connect(to).await.unwrap();
                    let changed = tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut onward) => "over",
                        order = order.wait_for(|o| *o != "go") => *order.unwrap(),
                    };
                    if changed == "freeze" {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            addr,
            orders,
            _task: task,
        }
    }

    fn order(&self, order: &'static str) {
        let old = std::mem::replace(&mut *self.orders.lock().unwrap(), watch::channel("go").0);
        old.send(order).unwrap();
    }

    fn cut(&self) {
        self.order("cut");
    }

    fn freeze(&self) {
        self.order("freeze");
    }
}

#[tokio::test]
async fn a_black_hole_delays_only_those_who_want_to_go_there() {
    let (ca, web, orders) = pair();
    let server = Server::echo(&orders, serve_options()).await;
    // Accepted by the kernel, never answered.
    let hole = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let pool = pool(|o| o.dial.timeout = Duration::from_secs(2));
    let target = server.target(ca.id("/orders"));
    let lost = Arc::new(Target {
        tunnel_addr: hole.local_addr().unwrap(),
        ..target.clone()
    });
    let began = Instant::now();
    let mut waiters = JoinSet::new();
    for _ in 0..20 {
        let (pool, web, lost) = (Arc::clone(&pool), Arc::clone(&web), Arc::clone(&lost));
        waiters.spawn(async move { (pool.open(&web, &lost, now()).await, began.elapsed()) });
    }
    let mut opened = pool.open(&web, &target, now()).await.unwrap();
    ask(&mut opened.stream, b"x").await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "the good peer waited for the black hole"
    );
    for (result, took) in waiters.join_all().await {
        assert!(matches!(result, Err(TunnelError::TimedOut { .. })), "{result:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

#[tokio::test]
async fn a_closed_port_is_an_answer_at_once() {
    let (ca, web, _) = pair();
    let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let target = Target {
        tunnel_addr: addr,
        authority: "10.0.0.9:80".parse().unwrap(),
        expected: Arc::new([ca.id("/orders")]),
        headers: vec![],
    };
    let refused = pool(|_| {}).open(&web, &target, now()).await;
    assert!(
        matches!(
            refused,
            Err(TunnelError::Connect {
                kind: io::ErrorKind::ConnectionRefused,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn wrong_peers_get_no_stream() {
    let (ca, web, orders) = pair();
    let server = Server::echo(&orders, serve_options()).await;
    let pool = pool(|_| {});
    let refused = pool
        .open(&web, &server.target(ca.id("/payments")), now())
        .await
        .unwrap_err();
    assert_eq!(refused.label(), "peer_untrusted");
    assert!(
        refused.to_string().contains("it is spiffe://mesh.test/orders"),
        "{refused}"
    );

    // The peer does not trust us: in TLS 1.3 that comes after our own handshake is done.
    let stranger = Ca::new("other.test");
    let unwelcome = MeshTls::new(stranger.identity_with("/web", bundles(&[&ca, &stranger]), |_| {})).unwrap();
    let refused = pool
        .open(&Arc::new(unwelcome), &server.target(ca.id("/orders")), now())
        .await
        .unwrap_err();
    assert_eq!(refused.label(), "refused_by_peer");
    assert_eq!(server.tunnels(), 0);

    let expired = ca.identity_with("/web", ca.bundles(), |p| {
        p.not_after = (now() - Duration::from_secs(1)).into()
    });
    let expired = Arc::new(MeshTls::new(expired).unwrap());
    let refused = pool
        .open(&expired, &server.target(ca.id("/orders")), now())
        .await
        .unwrap_err();
    assert!(matches!(refused, TunnelError::OwnExpired));
}

#[tokio::test]
async fn a_refusal_is_a_status_and_the_tunnel_stays() {
    let (ca, web, orders) = pair();
    let server = Server::start(&orders, serve_options(), |incoming| {
        incoming.refuse(401, "no_rule")
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    for _ in 0..3000 {
        match pool.open(&web, &target, now()).await {
            Err(error @ TunnelError::Refused { status: 401, .. }) => assert_eq!(
                error.to_string(),
                "spiffe://mesh.test/orders refused the connection: its policy does not allow it (no_rule)"
            ),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.tunnels(), 1);
    let odd = Server::start(&orders, serve_options(), |incoming| incoming.refuse(200, "odd")).await;
    let refused = pool
        .open(&web, &odd.target(ca.id("/orders")), now())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, TunnelError::Refused { status: 503, .. }),
        "a refusal never opens: {refused}"
    );
}

#[tokio::test]
async fn a_dropped_stream_is_a_reset_and_never_a_clean_end() {
    let (ca, web, orders) = pair();
    let (streams, mut accepted) = mpsc::unbounded_channel();
    let server = Server::start(&orders, serve_options(), move |i| {
        drop(streams.send(i.accept().unwrap()))
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    for client_drops in [true, false] {
        let client = pool.open(&web, &target, now()).await.unwrap().stream;
        let server = accepted.recv().await.unwrap();
        let (gone, mut left) = if client_drops {
            (client, server)
        } else {
            (server, client)
        };
        drop(gone);
        let error = timeout(SOON, left.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let end = Instant::now() + SOON;
        while let Ok(n) = left.write(b"into the void").await {
            assert!(n > 0 && Instant::now() < end);
            tokio::task::yield_now().await;
        }
    }
    // An incoming stream that nobody answers is reset as well.
    let silent = Server::start(&orders, serve_options(), drop).await;
    let lost = pool.open(&web, &silent.target(ca.id("/orders")), now()).await;
    assert!(matches!(lost, Err(TunnelError::Lost { .. })), "{lost:?}");
}

/// One short stream as applications leave it: to the end, half read, or left at once while the answer is on its way.
async fn short_stream(mut stream: TunnelStream, manner: usize) {
    stream.write_u8(1).await.unwrap();
    let mut first = [0; 100];
    stream.read_exact(&mut first).await.unwrap();
    if manner > 0 {
        stream.shutdown().await.unwrap();
    }
    if manner > 1 {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [9; 900]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_thousand_short_streams_do_not_wear_a_tunnel_out() {
    let (ca, web, orders) = pair();
    let server = Server::start(&orders, serve_options(), |incoming| {
        tokio::spawn(async move {
            let mut stream = incoming.accept().unwrap();
            let _ = stream.read_u8().await;
            for _ in 0..10 {
                let _ = stream.write_all(&[9; 100]).await;
                tokio::task::yield_now().await;
            }
            let _ = stream.shutdown().await;
        });
    })
    .await;
    let (pool, target) = (pool(|_| {}), Arc::new(server.target(ca.id("/orders"))));
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let (pool, web, target) = (Arc::clone(&pool), Arc::clone(&web), Arc::clone(&target));
        workers.spawn(async move {
            for round in 0..5000 {
                let opened = pool.open(&web, &target, now()).await.unwrap();
                short_stream(opened.stream, (worker + round) % 3).await;
            }
        });
    }
    timeout(SOON * 6, workers.join_all()).await.unwrap();
    assert_eq!(server.tunnels(), 1);
}

#[tokio::test]
async fn everything_is_cut_before_an_svid_ends() {
    let ca = Ca::new("mesh.test");
    let short = |path: &str| {
        let end = now() + Duration::from_secs(3);
        let identity = ca.identity_with(path, ca.bundles(), |p| p.not_after = end.into());
        Arc::new(MeshTls::new(identity).unwrap())
    };
    for (web, orders) in [
        (short("/web"), mesh(&ca, "/orders")),
        (mesh(&ca, "/web"), short("/orders")),
    ] {
        let end = web.identity().not_after.min(orders.identity().not_after);
        let until = valid_until(web.identity().not_after, orders.identity().not_after, now());
        let (streams, mut accepted) = mpsc::unbounded_channel();
        let options = ServeOptions {
            valid_until: until,
            ..serve_options()
        };
        let mut server =
            Server::start(&orders, options, move |i| drop(streams.send(i.accept().unwrap()))).await;
        let mut client = pool(|_| {})
            .open(&web, &server.target(ca.id("/orders")), now())
            .await
            .unwrap();
        let mut served = accepted.recv().await.unwrap();
        let (one, two) = tokio::join!(
            timeout(SOON, client.stream.read_u8()),
            timeout(SOON, served.read_u8())
        );
        assert!(now() < end, "a byte could have passed on a dead SVID");
        assert!(now() > end - Duration::from_secs(1), "cut much too early");
        for error in [one.unwrap().unwrap_err(), two.unwrap().unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
        let reasons = [client.stream.tunnel_ended(), served.tunnel_ended()];
        assert!(reasons.contains(&Some(&End::Expired)), "{reasons:?}");
        let _ = server.end().await;
    }
}

#[tokio::test]
async fn a_new_identity_gets_new_tunnels_and_old_streams_go_on() {
    let (ca, web, orders) = pair();
    let server = Server::echo(&orders, serve_options()).await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    let mut old = pool.open(&web, &target, now()).await.unwrap();
    let rotated = mesh(&ca, "/web");
    pool.adopt(&rotated, now());
    assert_eq!(pool.usage().0, 0);
    let mut new = pool.open(&rotated, &target, now()).await.unwrap();
    assert!(!new.reused);
    assert_eq!(server.tunnels(), 2);
    ask(&mut old.stream, b"old").await.unwrap();
    ask(&mut new.stream, b"new").await.unwrap();
    pool.retire_all();
    ask(&mut new.stream, b"retired").await.unwrap();
    assert_eq!(pool.living(), 2);
    drop((old, new));
    eventually("drained", || pool.living() == 0).await;
    assert!(!pool.open(&rotated, &target, now()).await.unwrap().reused);
}

#[tokio::test]
async fn a_peer_that_new_bundles_do_not_trust_is_cut() {
    let (own, friend) = (Ca::new("own.test"), Ca::new("friend.test"));
    let both = bundles(&[&own, &friend]);
    let web = Arc::new(MeshTls::new(own.identity_with("/web", Arc::clone(&both), |_| {})).unwrap());
    let ally = Arc::new(MeshTls::new(friend.identity_with("/ally", both, |_| {})).unwrap());
    let (trusted, doubtful) = (
        Server::echo(&mesh(&own, "/orders"), serve_options()).await,
        Server::echo(&ally, serve_options()).await,
    );
    let pool = pool(|_| {});
    let mut stays = pool
        .open(&web, &trusted.target(own.id("/orders")), now())
        .await
        .unwrap();
    let mut goes = pool
        .open(&web, &doubtful.target(friend.id("/ally")), now())
        .await
        .unwrap();
    ask(&mut goes.stream, b"x").await.unwrap();
    pool.adopt(&mesh(&own, "/web"), now());
    let error = timeout(SOON, goes.stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(goes.stream.tunnel_ended(), Some(End::Untrusted(_))));
    ask(&mut stays.stream, b"x").await.unwrap();
}

#[tokio::test]
async fn a_tunnel_without_streams_closes_and_one_that_is_old_takes_no_more() {
    let (ca, web, orders) = pair();
    let mut server = Server::echo(&orders, serve_options()).await;
    let idle = pool(|o| o.idle = Duration::from_millis(100));
    let target = server.target(ca.id("/orders"));
    let mut opened = idle.open(&web, &target, now()).await.unwrap();
    ask(&mut opened.stream, b"x").await.unwrap();
    opened.stream.shutdown().await.unwrap();
    assert_eq!(opened.stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(opened);
    server.end().await.expect("closed properly");
    assert_eq!(idle.usage(), (0, 0));

    let aging = pool(|o| o.max_age = Duration::from_millis(100));
    let mut old = aging.open(&web, &target, now()).await.unwrap();
    eventually("too old", || aging.usage().0 == 0).await;
    ask(&mut old.stream, b"old").await.unwrap();
    assert!(!aging.open(&web, &target, now()).await.unwrap().reused);
    drop(old);
    server.end().await.expect("closed properly");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut() {
    let (ca, web, orders) = pair();
    let options = ServeOptions {
        drain_timeout: Duration::from_millis(100),
        ..serve_options()
    };
    let mut server = Server::echo(&orders, options).await;
    let mut opened = pool(|_| {})
        .open(&web, &server.target(ca.id("/orders")), now())
        .await
        .unwrap();
    ask(&mut opened.stream, b"x").await.unwrap();
    server.drain.send(true).unwrap();
    assert!(matches!(
        server.end().await,
        Err(TunnelError::Ended(End::Drained))
    ));
    let error = timeout(SOON, opened.stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_that_never_speaks_http2_is_sent_away() {
    let (ca, web, orders) = pair();
    let options = ServeOptions {
        preface_timeout: Duration::from_millis(100),
        ..serve_options()
    };
    let mut server = Server::echo(&orders, options).await;
    let connector = tokio_rustls::TlsConnector::from(web.client(&[ca.id("/orders")]).unwrap());
    for greeting in [&b""[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let tcp = TcpStream::connect(server.addr).await.unwrap();
        let mut tls = connector.connect(server.addr.ip().into(), tcp).await.unwrap();
        tls.write_all(greeting).await.unwrap();
        assert!(server.end().await.is_err());
    }
}

#[tokio::test]
async fn what_is_no_plain_connect_never_has_an_authority() {
    let (ca, web, orders) = pair();
    let (seen, mut heads) = mpsc::unbounded_channel();
    let server = Server::start(&orders, serve_options(), move |incoming| {
        seen.send(incoming.authority()).unwrap();
        incoming.refuse(400, "no_relay");
    })
    .await;
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(web.client(&[ca.id("/orders")]).unwrap());
    let tls = connector.connect(server.addr.ip().into(), tcp).await.unwrap();
    let (mut send, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    for (method, uri, expected) in [
        ("GET", "http://10.0.0.1:80/", BadAuthority::NotConnect),
        ("OPTIONS", "http://10.0.0.1:80/", BadAuthority::NotConnect),
        ("CONNECT", "orders:80", BadAuthority::NotAnAddress),
    ] {
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        let (answer, _stream) = send.send_request(request, true).unwrap();
        assert_eq!(timeout(SOON, answer).await.unwrap().unwrap().status(), 400);
        assert_eq!(heads.recv().await.unwrap(), Err(expected), "{method} {uri}");
    }
}

#[tokio::test]
async fn a_withdrawn_stream_is_noticed_before_it_is_answered() {
    let (ca, web, orders) = pair();
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let noticed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&noticed);
    let server = Server::start(&orders, serve_options(), move |mut incoming| {
        let (seen, flag) = (seen.clone(), Arc::clone(&flag));
        tokio::spawn(async move {
            seen.send(()).unwrap();
            incoming.withdrawn().await;
            flag.store(true, Ordering::SeqCst);
            assert!(incoming.accept().is_err());
        });
    })
    .await;
    let (pool, target) = (pool(|_| {}), server.target(ca.id("/orders")));
    tokio::select! {
        opened = pool.open(&web, &target, now()) => panic!("{opened:?}"),
        _ = arrived.recv() => {}
    }
    eventually("withdrawn", || noticed.load(Ordering::SeqCst)).await;
    assert_eq!(server.tunnels(), 1);
}
