//! What an application speaks is found out, remembered and forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::forward::ConnectFailure;

/// An application that says `words` to whoever connects, and how often somebody did.
async fn saying(words: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                stream.write_all(words).await.unwrap();
                let mut rest = Vec::new();
                let _asked = stream.read_to_end(&mut rest).await;
            });
        }
    });
    (addr, count)
}

/// A SETTINGS frame as servers send it, and its acknowledgement of ours.
const SETTINGS: &[u8] = &[
    0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, // at most two streams at once
    0, 0, 0, 4, 1, 0, 0, 0, 0,
];

/// A client's place at `addr`, if it speaks HTTP/2.
async fn place(apps: &Apps, addr: SocketAddr, certain: bool) -> Result<Option<Lease>, ConnectFailure> {
    Links::default().place(&asking(apps, addr, certain)).await
}

#[tokio::test]
async fn whatever_does_not_begin_with_settings_speaks_http1() {
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"220 mail\r\n",
        &[0, 0, 0, 4, 1, 0, 0, 0, 0],
        &[0, 0, 0, 4, 0, 0, 0, 0, 1],
        &[0, 0, 8, 6, 0, 0, 0, 0, 0],
        b"\x15\x03\x01\0\x02\x02\x50",
    ] {
        let (addr, count) = saying(words).await;
        let apps = Apps::default();
        assert!(place(&apps, addr, false).await.unwrap().is_none(), "{words:?}");
        assert!(place(&apps, addr, false).await.unwrap().is_none());
        assert_eq!(count.load(Ordering::SeqCst), 1, "asked once");
        apps.forget(addr);
        assert!(place(&apps, addr, false).await.unwrap().is_none());
        assert_eq!(count.load(Ordering::SeqCst), 2, "asked again");
        let declared = place(&apps, addr, true).await;
        assert!(matches!(declared, Err(ConnectFailure::NotHttp2 { .. })));
    }
}

#[tokio::test]
async fn silence_is_no_http2() {
    let (addr, count) = saying(b"").await;
    let apps = Apps::default();
    assert!(place(&apps, addr, false).await.unwrap().is_none());
    assert!(place(&apps, addr, false).await.unwrap().is_none());
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn places_are_bounded_by_what_the_application_takes() {
    let (addr, count) = saying(SETTINGS).await;
    let (apps, links) = (Apps::default(), Links::default());
    let to = asking(&apps, addr, false);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(links.place(&to).await.unwrap().unwrap());
    }
    assert_eq!(count.load(Ordering::SeqCst), 1, "one connection for both");
    // Its settings are known now: a third finds no place there.
    while held[0].sender.current_max_send_streams() != 2 {
        tokio::task::yield_now().await;
    }
    held.push(links.place(&to).await.unwrap().unwrap());
    assert_eq!(count.load(Ordering::SeqCst), 2);
    held.clear();
    held.push(links.place(&to).await.unwrap().unwrap());
    assert_eq!(count.load(Ordering::SeqCst), 2, "a free place is used again");
    // Another client has connections of its own.
    held.push(place(&apps, addr, false).await.unwrap().unwrap());
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_port_without_an_application_is_no_version() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let refused = place(&Apps::default(), addr, false).await;
    assert!(matches!(refused, Err(ConnectFailure::Refused { .. })));
}
