//! More than 10,000 requests of a caller who wants to hurt: others are served all the while, and what it takes is bounded.
//!
//! As root the caller is one uid and the others are another, with the limits that everybody has. Else all have one uid, and
//! the limits are wide open.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hopguard_tests::frames::{END_HEADERS, END_STREAM, block, frame, preface};
use hopguard_tests::{eventually, hopguard};

use crate::*;

const KIB_MORE: u64 = 160 << 10;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

fn connect(authority: &Authority) -> Option<UnixStream> {
    let stream = UnixStream::connect(authority.path("w.sock")).ok()?;
    let patience = Some(Duration::from_millis(200));
    stream.set_write_timeout(patience).unwrap();
    stream.set_read_timeout(patience).unwrap();
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    Some(stream)
}

/// Sends, and does not care what becomes of it.
fn send(stream: &mut Option<UnixStream>, bytes: &[u8]) -> bool {
    let sent = stream
        .as_mut()
        .is_some_and(|stream| stream.write_all(bytes).is_ok());
    if !sent {
        *stream = None;
    }
    sent
}

fn read_some(stream: &mut Option<UnixStream>) {
    if let Some(stream) = stream {
        let _closed_or_late = stream.read(&mut [0; 16 << 10]);
    }
}

fn fields(more: usize) -> Vec<u8> {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ]
    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    .to_vec();
    fields.extend((0..more).map(|at| (format!("x-{at}").into_bytes(), vec![b'v'; 100])));
    block(&fields)
}

/// A call with this body, on a connection of its own, answered or not.
fn call_with(authority: &Authority, headers: &[u8], body: &[u8]) {
    let mut stream = connect(authority);
    let mut bytes = preface();
    bytes.extend(frame(1, END_HEADERS, 1, headers));
    for piece in body.chunks(16 << 10) {
        bytes.extend(frame(0, 0, 1, piece));
    }
    bytes.extend(frame(0, END_STREAM, 1, &[]));
    send(&mut stream, &bytes);
    read_some(&mut stream);
}

fn malformed(authority: &Authority) {
    let bodies: [&[u8]; 5] = [
        // A message that is no protobuf, one that is compressed, one that promises 4 GiB, half a frame, and a large one.
        b"\0\0\0\0\x04\xff\xff\xff\xff",
        b"\x01\0\0\0\x04gzip",
        b"\0\xff\xff\xff\xffaaaaaaaaaaaaaaaa",
        b"\0\0\0",
        &[0; 200 << 10],
    ];
    for _ in 0..300 {
        for body in bodies {
            call_with(authority, &fields(0), body);
        }
    }
}

fn much_metadata(authority: &Authority) {
    for _ in 0..500 {
        call_with(authority, &fields(120), &[0; 5]);
    }
}

fn giant_frames(authority: &Authority) {
    for _ in 0..500 {
        let mut stream = connect(authority);
        send(&mut stream, &preface());
        send(&mut stream, b"\xff\xff\xff\x01\x04\0\0\0\x01");
        send(&mut stream, &[0x41; 32 << 10]);
    }
}

/// A header block that never ends.
fn continuation(authority: &Authority) {
    for _ in 0..50 {
        let mut stream = connect(authority);
        send(&mut stream, &preface());
        send(&mut stream, &frame(1, 0, 1, &fields(0)));
        for _ in 0..200 {
            REQUESTS.fetch_add(1, Ordering::Relaxed);
            if !send(
                &mut stream,
                &frame(9, 0, 1, &block(&[(b"x".to_vec(), vec![b'y'; 8000])])),
            ) {
                break;
            }
        }
    }
}

fn rapid_reset(authority: &Authority) {
    for _ in 0..20 {
        let mut stream = connect(authority);
        send(&mut stream, &preface());
        for at in 0..500_u32 {
            let mut bytes = frame(1, END_HEADERS, 2 * at + 1, &fields(0));
            bytes.extend(frame(3, 0, 2 * at + 1, &8_u32.to_be_bytes()));
            REQUESTS.fetch_add(1, Ordering::Relaxed);
            if !send(&mut stream, &bytes) {
                break;
            }
        }
    }
}

/// Asks to be answered again and again, and reads nothing.
fn control_flood(authority: &Authority) {
    for _ in 0..20 {
        let mut stream = connect(authority);
        send(&mut stream, &preface());
        let flood: Vec<u8> = (0..500)
            .flat_map(|_| [frame(6, 0, 0, &[7; 8]), frame(4, 0, 0, &[0, 4, 0, 0, 0, 9])].concat())
            .collect();
        for _ in 0..20 {
            REQUESTS.fetch_add(1, Ordering::Relaxed);
            if !send(&mut stream, &flood) {
                break;
            }
        }
    }
}

fn churn(authority: &Authority) {
    for _ in 0..4000 {
        drop(connect(authority));
    }
}

/// Connections that stay: silent, in the middle of their preface, with half-open calls, with calls whose answers nobody reads.
fn held(authority: &Authority) -> Vec<Option<UnixStream>> {
    let mut held = Vec::new();
    for at in 0..400 {
        let mut stream = connect(authority);
        match at % 4 {
            0 => true,
            1 => send(&mut stream, b"PRI * HTTP/2.0\r\n"),
            2 => {
                let mut bytes = preface();
                for call in 0..40 {
                    bytes.extend(frame(1, END_HEADERS, 2 * call + 1, &fields(0)));
                    bytes.extend(frame(0, 0, 2 * call + 1, &[0; 1000]));
                    REQUESTS.fetch_add(1, Ordering::Relaxed);
                }
                send(&mut stream, &bytes)
            }
            _ => {
                let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
                // No window at all: what is answered has to wait on the other side.
                bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
                for call in 0..40 {
                    bytes.extend(frame(1, END_HEADERS, 2 * call + 1, &fields(0)));
                    bytes.extend(frame(0, END_STREAM, 2 * call + 1, &[0; 5]));
                    REQUESTS.fetch_add(1, Ordering::Relaxed);
                }
                send(&mut stream, &bytes)
            }
        };
        held.push(stream);
    }
    held
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn kib(pid: i32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B'])
        .trim()
        .parse()
        .unwrap()
}

/// Who suffers, if anybody does.
fn victim(authority: &Authority) -> Value {
    let other: &[&str] = if is_root() { &["--uid", "65534"] } else { &[] };
    first(authority, other)
}

#[test]
fn ten_thousand_requests_of_a_hostile_caller_leave_others_served_and_memory_bounded() {
    let entries = [for_us("a"), entry("v", &["unix:uid:65534".to_owned()])].concat();
    let mut authority = authority(&entries, "");
    if is_root() {
        // The limits that everybody has.
        let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
        std::fs::write(authority.path("ca.toml"), config.replace(OPEN, "")).unwrap();
    }
    authority.run(hopguard());
    let expected = if is_root() { "v" } else { "a" };
    let expected = format!("spiffe://mesh.local/{expected}");
    assert_eq!(victim(&authority)["ids"][0], *expected);
    let pid = pid(&authority);
    let before = (kib(pid, "VmRSS"), descriptors(pid));

    let over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let attacks: [fn(&Authority); 7] = [
            churn,
            malformed,
            much_metadata,
            giant_frames,
            continuation,
            rapid_reset,
            control_flood,
        ];
        let authority = &authority;
        let held = scope.spawn(|| held(authority));
        let attackers: Vec<_> = attacks
            .into_iter()
            .map(|attack| scope.spawn(move || attack(authority)))
            .collect();
        let victims = scope.spawn(|| {
            let (mut served, mut again) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) || served < 10 {
                // As clients do it: who finds the line of those who want to connect full comes again.
                let got = eventually(DEADLINE, || {
                    let said = victim(authority);
                    if said["ids"][0] == *expected {
                        return Ok(());
                    }
                    assert_eq!(said["status"], "UNAVAILABLE", "{said}");
                    again.push(said["details"].to_string());
                    Err(said)
                });
                got.unwrap_or_else(|error| panic!("after {served} times: {error}"));
                served += 1;
            }
            (served, again)
        });
        let held = held.join().unwrap();
        for attacker in attackers {
            attacker.join().unwrap();
        }
        // Served with all of them still open, too.
        over.store(true, Ordering::Relaxed);
        let served = victims.join().unwrap();
        drop(held);
        served
    });
    let requests = REQUESTS.load(Ordering::Relaxed);
    assert!(requests >= 10_000, "{requests}");
    let peak = kib(pid, "VmHWM");
    let closed = eventually(DEADLINE, || match descriptors(pid) {
        now if now <= before.1 + 16 => Ok(now),
        now => Err(format!("{now} descriptors, and {} before", before.1)),
    });
    let after = (kib(pid, "VmRSS"), closed.unwrap());
    println!(
        "{requests} hostile requests, others served {} times, after {} more tries {:?}; RSS {} KiB before, {peak} at most, {} after; \
         descriptors {} and {}",
        served.0,
        served.1.len(),
        served.1,
        before.0,
        after.0,
        before.1,
        after.1
    );
    assert!(peak < before.0 + KIB_MORE, "{peak} KiB, and {} before", before.0);
    assert_eq!(victim(&authority)["ids"][0], *expected);
}
