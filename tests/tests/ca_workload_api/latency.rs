//! How long it takes from a written entry to the SVID in the client, with a thousand streams open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::support::*;

const STREAMS: usize = 1000;
/// What is measured is printed; this only keeps a hang from being a pass.
const AT_MOST: Duration = Duration::from_secs(10);

/// Opens a connection with one stream of FetchX509SVID, as a sidecar does, and tells when each message is whole.
async fn stream(path: Arc<std::path::PathBuf>, told: mpsc::UnboundedSender<(Instant, Vec<u8>)>) {
    let socket = UnixStream::connect(&*path).await.unwrap();
    let (mut send, connection): (SendRequest<bytes::Bytes>, _) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    send = send.ready().await.unwrap();
    let request = http::Request::post("http://localhost/SpiffeWorkloadAPI/FetchX509SVID")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("workload.spiffe.io", "true")
        .body(())
        .unwrap();
    let (answer, mut body) = send.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(&[0; 5]), true).unwrap();
    let mut messages = answer.await.unwrap().into_body();
    let mut got = Vec::new();
    while let Some(Ok(part)) = messages.data().await {
        messages.flow_control().release_capacity(part.len()).unwrap();
        got.extend_from_slice(&part);
        while let Some(length) = got.get(1..5) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if got.len() < 5 + length {
                break;
            }
            let message = got.drain(..5 + length).collect();
            if told.send((Instant::now(), message)).is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_written_entry_is_an_svid_in_a_thousand_open_streams() {
    let limits = "[limits]\ncalls_per_second = 10000\ncall_burst = 10000\n";
    let authority = Authority::with(&for_us("a"), "1h", limits);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    if limit.maximum.is_some_and(|most| most < 2 * STREAMS as u64) {
        eprintln!("only {limit:?} descriptors are allowed here: skipped");
        return;
    }
    let rounds = if std::env::var_os("HOPGUARD_TEST_LONG").is_some() {
        50
    } else {
        4
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut took = runtime.block_on(async {
        let (told, mut messages) = mpsc::unbounded_channel();
        let path = Arc::new(authority.path("w.sock"));
        for _ in 0..STREAMS {
            tokio::spawn(stream(path.clone(), told.clone()));
        }
        let mut all = async |name: &[u8]| {
            let mut at = Vec::with_capacity(STREAMS);
            while at.len() < STREAMS {
                let next = tokio::time::timeout(DEADLINE, messages.recv()).await;
                let (when, message): (Instant, Vec<u8>) = next.expect("every stream has it in time").unwrap();
                if message.windows(name.len()).any(|part| part == name) {
                    at.push(when);
                }
            }
            at
        };
        all(b"spiffe://mesh.local/a").await;
        let mut took = Vec::new();
        for round in 0..rounds {
            let name = format!("round-{round}.");
            let start = Instant::now();
            authority.write_entries(&(for_us("a") + &for_us(&name)));
            let arrived = all(format!("spiffe://mesh.local/{name}").as_bytes()).await;
            took.extend(arrived.into_iter().map(|at| at.duration_since(start)));
        }
        took
    });
    took.sort_unstable();
    let part = |share: usize| took[(took.len() * share / 1000).min(took.len() - 1)];
    let line = serde_json::json!({
        "what": "entry written -> SVID in the client", "streams": STREAMS, "samples": took.len(),
        "p50_ms": part(500).as_millis(), "p99_ms": part(990).as_millis(), "max_ms": part(1000).as_millis(),
    });
    println!("{line}");
    assert!(part(990) < AT_MOST, "{line}");
}
