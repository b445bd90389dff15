use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::forward::{MAX_BUFFER, abort};

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(40);

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("done in time")
}

fn between(pipe: usize, idle: Duration) -> (DuplexStream, DuplexStream, Arc<Progress>, JoinHandle<Copied>) {
    let (a, mut a_side) = duplex(pipe);
    let (b, mut b_side) = duplex(pipe);
    let progress = Arc::new(Progress::default());
    let shared = Arc::clone(&progress);
    let copy = tokio::spawn(async move { copy_both(&mut a_side, &mut b_side, idle, &shared).await });
    (a, b, progress, copy)
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test(start_paused = true)]
async fn a_half_close_stays_a_half_close() {
    let (mut a, mut b, progress, copy) = between(8, PATIENCE);
    a.write_all(b"a question").await.unwrap();
    a.shutdown().await.unwrap();
    let mut text = String::new();
    in_time(b.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "a question");
    assert!(!copy.is_finished(), "the other direction is open");
    let answer = tokio::spawn(async move {
        b.write_all(b"a long answer, in parts").await.unwrap();
        b
    });
    text.clear();
    let mut a = tokio::spawn(async move {
        let mut part = [0; 23];
        a.read_exact(&mut part).await.unwrap();
        (a, String::from_utf8(part.to_vec()).unwrap())
    });
    let (mut a, text) = in_time(&mut a).await.unwrap();
    assert_eq!(text, "a long answer, in parts");
    in_time(answer).await.unwrap().shutdown().await.unwrap();
    let copied = in_time(copy).await.unwrap();
    assert!(matches!(copied.end, CloseReason::Closed) && !copied.end.is_abort());
    assert_eq!((copied.a_to_b, copied.b_to_a), (10, 23));
    assert_eq!(progress.counts(), (10, 23));
    assert_eq!(in_time(a.read(&mut [0; 1])).await.unwrap(), 0);
}

/// Streams that keep what is written until they are flushed, as TLS may.
#[tokio::test(start_paused = true)]
async fn what_was_written_does_not_wait_in_a_buffer() {
    let ((mut a, a_side), (mut b, b_side)) = (duplex(64), duplex(64));
    let copy = tokio::spawn(async move {
        let (mut a_side, mut b_side) = (
            tokio::io::BufStream::new(a_side),
            tokio::io::BufStream::new(b_side),
        );
        copy_both(&mut a_side, &mut b_side, PATIENCE, &Progress::default()).await
    });
    for turn in 0..10 {
        a.write_u8(turn).await.unwrap();
        assert_eq!(in_time(b.read_u8()).await.unwrap(), turn);
        b.write_u8(turn).await.unwrap();
        assert_eq!(in_time(a.read_u8()).await.unwrap(), turn);
    }
    drop((a, b));
    in_time(copy).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_moved_for_the_idle_time_is_the_end() {
    let (mut a, mut b, _, copy) = between(8, SHORT);
    a.write_all(b"x").await.unwrap();
    assert_eq!(in_time(b.read_u8()).await.unwrap(), b'x');
    let copied = in_time(copy).await.unwrap();
    assert_eq!(
        (copied.end.label(), copied.end.is_abort(), copied.a_to_b),
        ("idle_timeout", true, 1)
    );
}

/// Every byte puts the end off.
#[tokio::test(start_paused = true)]
async fn what_moves_is_not_idle() {
    let (mut a, mut b, _, copy) = between(8, SHORT);
    for _ in 0..10 {
        tokio::time::advance(SHORT * 3 / 4).await;
        a.write_all(b"x").await.unwrap();
        in_time(b.read_u8()).await.unwrap();
    }
    assert!(!copy.is_finished());
    assert_eq!(in_time(copy).await.unwrap().end.label(), "idle_timeout");
    drop((a, b));
}

#[tokio::test]
async fn when_one_side_is_dead_the_copy_ends() {
    for dies_first in [true, false] {
        let (a, mut a_side) = tcp().await;
        let (b, mut b_side) = tcp().await;
        let copy = tokio::spawn(async move {
            let progress = Progress::default();
            let copied = copy_both(&mut a_side, &mut b_side, PATIENCE, &progress).await;
            abort(&a_side);
            abort(&b_side);
            copied
        });
        let (dying, mut living) = if dies_first { (a, b) } else { (b, a) };
        abort(&dying);
        drop(dying);
        let copied = in_time(copy).await.unwrap();
        assert_eq!(
            copied.end.label(),
            if dies_first {
                "client_failed"
            } else {
                "upstream_failed"
            }
        );
        let end = in_time(living.read(&mut [0; 1])).await;
        assert_eq!(
            end.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset,
            "a reset, not an orderly end"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_takes_nothing_holds_back_the_other_in_bounded_memory() {
    let (mut a, mut b, _, copy) = between(1024, PATIENCE);
    let mut written = 0_usize;
    let block: Vec<u8> = (0..=255).collect();
    while let Ok(Ok(count)) = tokio::time::timeout(SHORT, a.write(&block[written % 256..])).await {
        written += count;
        assert!(written <= MAX_BUFFER + 4 * 1024, "{written} bytes and no end");
    }
    // Nothing is lost or moved when it takes it after all.
    a.shutdown().await.unwrap();
    let mut got = Vec::new();
    in_time(b.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got.len(), written);
    assert!(
        got.iter()
            .enumerate()
            .all(|(at, byte)| usize::from(*byte) == at % 256)
    );
    drop((a, b));
    assert_eq!(in_time(copy).await.unwrap().end.label(), "closed");
}

#[tokio::test]
async fn a_copy_that_is_cut_keeps_its_counts() {
    let (mut a, mut b, progress, copy) = between(64, PATIENCE);
    a.write_all(b"counted").await.unwrap();
    in_time(b.read_exact(&mut [0; 7])).await.unwrap();
    copy.abort();
    assert!(in_time(copy).await.unwrap_err().is_cancelled());
    assert_eq!(progress.counts(), (7, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_each_way_arrive_whole() {
    const BULK: usize = 64 << 20;
    let ((a, mut a_side), (b, mut b_side)) = (tcp().await, tcp().await);
    let copy =
        tokio::spawn(
            async move { copy_both(&mut a_side, &mut b_side, PATIENCE, &Progress::default()).await },
        );
    let end = |stream: TcpStream| {
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            let block = vec![7; 1 << 20];
            for _ in 0..BULK >> 20 {
                write.write_all(&block).await.unwrap();
            }
        });
        let reading = tokio::spawn(async move {
            let (mut total, mut block) = (0, vec![0; 1 << 20]);
            loop {
                match read.read(&mut block).await.unwrap() {
                    0 => return total,
                    count => total += count,
                }
            }
        });
        (writing, reading)
    };
    let (a, b) = (end(a), end(b));
    in_time(async {
        a.0.await.unwrap();
        b.0.await.unwrap();
        assert_eq!((a.1.await.unwrap(), b.1.await.unwrap()), (BULK, BULK));
    })
    .await;
    let copied = in_time(copy).await.unwrap();
    assert_eq!(
        (copied.a_to_b, copied.b_to_a, copied.end.label()),
        (BULK as u64, BULK as u64, "closed")
    );
}
