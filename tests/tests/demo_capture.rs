//! What somebody sees who listens between the pods: not one byte of what the applications say. The same listening finds it
//! on the pods' own loopbacks, which proves that it would find it elsewhere.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, succeeded};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

/// Repeated, so that it stands whole in some packet wherever packets begin.
const MARKER: &str = "the-order-of-alice-is-nobody-elses-business;";
const REPEATED: usize = 25_000;

/// What crossed one interface.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Crossed {
    bytes: u64,
    marker: bool,
}

/// A running capture of everything that crosses a pod's interfaces.
struct Capture {
    child: Guard,
    stdin: Option<ChildStdin>,
}

impl Capture {
    fn of(mesh: &Mesh, pod: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let line = [
            this.to_str().unwrap(),
            "--ignored",
            "--exact",
            "capture",
            "--nocapture",
        ];
        let mut command = mesh.root_command(pod, &line);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{MARKER}").unwrap();
        until_line(&mut child, "capturing");
        Self {
            child: Guard(child),
            stdin: Some(stdin),
        }
    }

    fn end(mut self) -> BTreeMap<String, Crossed> {
        drop(self.stdin.take());
        let mut said = String::new();
        self.child
            .0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("captured "))
            .unwrap_or_else(|| panic!("{said}"));
        serde_json::from_str(line).unwrap()
    }
}

/// Reads byte by byte, so that nothing after the line is taken.
fn until_line(child: &mut Child, wanted: &str) {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = String::new();
    while !line.ends_with(&format!("{wanted}\n")) {
        let mut byte = [0];
        stdout
            .read_exact(&mut byte)
            .unwrap_or_else(|e| panic!("{e}: {line}"));
        line.push(byte[0].into());
    }
}

#[test]
fn what_crosses_between_pods_cannot_be_read() {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let token = mesh.token("alice", "none").unwrap();
    let captures = ["orders", "payments", "fabric"].map(|pod| (pod, Capture::of(&mesh, pod)));

    let bearer = format!("authorization: Bearer {token}");
    let url = "http://payments:8080/charge";
    let mut curl = mesh.command(
        "orders",
        &["curl", "-sS", "-f", "-H", &bearer, "--data-binary", "@-", url],
    );
    let mut curl = curl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    curl.stdin
        .take()
        .unwrap()
        .write_all(MARKER.repeat(REPEATED).as_bytes())
        .unwrap();
    succeeded(curl.wait_with_output().unwrap()).unwrap();

    let body = (MARKER.len() * REPEATED) as u64;
    let [orders, payments, fabric] = captures.map(|(pod, capture)| (pod, capture.end()));
    for (pod, crossed) in [orders, payments] {
        assert!(
            crossed["lo"].marker,
            "{pod}: the capture does not work: {crossed:?}"
        );
        assert!(crossed["lo"].bytes >= body, "{pod}: {crossed:?}");
        assert!(
            !crossed["eth0"].marker,
            "{pod}: readable on the cable: {crossed:?}"
        );
        assert!(
            crossed["eth0"].bytes >= body,
            "{pod}: it went another way: {crossed:?}"
        );
    }
    let (_, fabric) = fabric;
    assert!(
        fabric["to-payments"].bytes >= body && fabric["to-orders"].bytes >= body,
        "{fabric:?}"
    );
    assert!(fabric.values().all(|crossed| !crossed.marker), "{fabric:?}");
}

#[test]
#[ignore = "not a test: runs in a pod, for the test above"]
fn capture() {
    let mut marker = String::new();
    io::stdin().lock().read_line(&mut marker).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _closed = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, SeqCst);
    });
    let packets = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )
    .unwrap();
    setsockopt(&packets, sockopt::RcvBuf, &(16 * 1024 * 1024)).unwrap();
    setsockopt(&packets, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
    println!("capturing");
    let mut crossed: BTreeMap<usize, Crossed> = BTreeMap::new();
    let mut packet = vec![0; 256 * 1024];
    loop {
        match recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut packet) {
            Ok((length, from)) => {
                let seen = crossed.entry(from.map_or(0, |from| from.ifindex())).or_default();
                seen.bytes += length as u64;
                let mut windows = packet[..length].windows(marker.trim().len());
                seen.marker = seen.marker || windows.any(|window| window == marker.trim().as_bytes());
            }
            // Only when nothing more comes is the end looked for.
            Err(_) if ended.load(SeqCst) => break,
            Err(_) => {}
        }
    }
    let named: BTreeMap<String, Crossed> = crossed
        .into_iter()
        .map(|(index, seen)| (interface(index), seen))
        .collect();
    println!("captured {}", serde_json::to_string(&named).unwrap());
}

fn interface(index: usize) -> String {
    let name = nix::net::if_::if_indextoname(index.try_into().unwrap()).unwrap();
    name.into_string().unwrap()
}

#[test]
fn the_key_exchange_is_the_hybrid_one_and_less_is_refused() {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let token = mesh.token("alice", "none").unwrap();
    let bearer = format!("authorization: Bearer {token}");
    let ordered = mesh.exec(
        "orders",
        &[
            "curl",
            "-sS",
            "-f",
            "-X",
            "POST",
            "-H",
            &bearer,
            "http://payments:8080/charge",
        ],
    );
    succeeded(ordered.unwrap()).unwrap();
    let record = eventually(Duration::from_secs(10), || {
        let records = mesh.records("payments");
        records
            .into_iter()
            .find(|record| record["kind"] == "request")
            .ok_or("no record yet")
    });
    let tls = &record.unwrap()["tls"];
    assert_eq!(
        (&tls["kx"], &tls["version"]),
        (&"X25519MLKEM768".into(), &"TLSv1.3".into()),
        "{tls}"
    );

    let before = mesh.counted("payments").unwrap();
    for (port, version) in [
        ("8080", "1.2"),
        ("8080", "1.3"),
        ("15008", "1.2"),
        ("15008", "1.3"),
    ] {
        let url = format!("https://payments:{port}/charge");
        let line = [
            "curl",
            "-sS",
            "-k",
            "--max-time",
            "10",
            "--tls-max",
            version,
            "-X",
            "POST",
            "-H",
            &bearer,
            &url,
        ];
        let refused = mesh.exec("stranger", &line).unwrap();
        assert!(
            !refused.status.success(),
            "TLS {version} without a certificate was let in at {port}"
        );
    }
    assert_eq!(mesh.counted("payments").unwrap(), before);
    let refused = eventually(Duration::from_secs(10), || {
        let records = mesh.records("payments");
        let failed: Vec<_> = records
            .into_iter()
            .filter(|record| record["error"] == "handshake_failed")
            .collect();
        if failed.len() == 4 {
            Ok(failed)
        } else {
            Err(format!("{failed:?}"))
        }
    });
    for record in refused.unwrap() {
        assert_eq!(record["decision"]["verdict"], "deny", "{record}");
    }
}
