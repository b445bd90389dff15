//! What somebody who listens on the cable sees of a request and its answer; and that less than TLS 1.3 with a certificate is
//! refused for just that reason. (tcpdump cannot listen here: it insists on setgroups(2), which a user namespace without a
//! range of groups forbids. A raw socket of Python's sees the same.)

#![cfg(test)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, folder, succeeded};
use serde_json::Value;
use tempfile::NamedTempFile;

const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = r#"@id("orders-may-echo")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"POST",
  resource == Service::"shop/payments"
)
when { context.path == "/echo" };
"#;

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let dir = folder(&[("policies/echo.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap()
});

/// A text that nobody else sends.
fn random() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap()
        .trim()
        .to_owned()
}

/// Writes every packet of an interface, each behind its length.
const LISTEN: &str = r#"
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
packets.bind((sys.argv[1], 0))
print("listening", file=sys.stderr, flush=True)
while True:
    packet = packets.recv(1 << 18)
    sys.stdout.buffer.write(len(packet).to_bytes(4, "little") + packet)
    sys.stdout.buffer.flush()
"#;

/// Somebody who listens in a pod.
struct Listener {
    _child: Guard,
    file: NamedTempFile,
}

impl Listener {
    fn start(pod: &str, interface: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        let mut child = MESH
            .root_command(pod, &["python3", "-c", LISTEN, interface])
            .stdout(File::create(file.path()).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        let child = Guard(child);
        assert_eq!(said, "listening\n");
        Self { _child: child, file }
    }

    /// The packets, each as it was on the wire.
    fn packets(&self) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.file.path()).unwrap();
        let mut packets = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some((packet, next)) = after.split_at_checked(length) else {
                break;
            };
            packets.push(packet.to_vec());
            rest = next;
        }
        packets
    }

    fn has(&self, text: &str) -> bool {
        self.packets()
            .iter()
            .any(|packet| packet.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    fn bytes(&self) -> usize {
        self.packets().iter().map(Vec::len).sum()
    }
}

/// A datagram in the clear from `pod` to payments, until the capture has it: whatever was sent before it is in the capture too.
fn fence(dump: &Listener, pod: &str) {
    let text = random();
    let script = format!("echo {text} > /dev/udp/10.77.0.13/9");
    eventually(PATIENCE, || {
        // Refused when the answer to the one before has come: nobody listens.
        let _refused = MESH.exec(pod, &["bash", "-c", &script]);
        dump.has(&text)
            .then_some(())
            .ok_or("the capture has no datagram that went in the clear")
    })
    .unwrap();
}

#[test]
fn a_request_and_its_answer_are_read_on_the_loopback_and_not_on_the_cable() {
    let marker = random();
    // Repeated, so that it stands whole in some packet wherever packets begin; less than what a raw socket can hold.
    let body = format!("{marker};").repeat(1_000);
    let (inside, cable) = (
        Listener::start("payments", "lo"),
        Listener::start("payments", "eth0"),
    );

    let mut curl = MESH
        .command(
            "orders",
            &[
                "curl",
                "-sS",
                "-f",
                "--max-time",
                "50",
                "--data-binary",
                "@-",
                "http://payments:8080/echo",
            ],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = curl.stdin.take().unwrap();
    stdin.write_all(body.as_bytes()).unwrap();
    drop(stdin);
    let answer = succeeded(curl.wait_with_output().unwrap()).unwrap();
    assert!(answer == body, "the echo is another: {} bytes", answer.len());
    fence(&inside, "payments");
    fence(&cable, "orders");

    assert!(inside.has(&marker), "the capture does not work");
    assert!(inside.bytes() >= 2 * body.len(), "{}", inside.bytes());
    assert!(!cable.has(&marker), "readable on the cable");
    assert!(
        cable.bytes() >= 2 * body.len(),
        "request and answer went another way: {}",
        cable.bytes()
    );

    let record = eventually(PATIENCE, || {
        MESH.records("payments")
            .into_iter()
            .find(|record| record["http"]["path"] == "/echo" && record["tls"]["mode"] == "hbone")
            .ok_or("no record yet")
    })
    .unwrap();
    let tls = [&record["tls"]["version"], &record["tls"]["kx"]];
    assert_eq!(tls, ["TLSv1.3", "X25519MLKEM768"], "{record}");
    assert_eq!(
        record["src"]["spiffe_id"],
        "spiffe://mesh.local/ns/shop/sa/orders"
    );
}

/// What openssl has to say about a handshake with payments, and the failed handshakes that payments recorded meanwhile.
fn openssl(port: u16, arguments: &[&str]) -> String {
    let address = format!("10.77.0.13:{port}");
    let mut line = vec![
        "timeout", "50", "openssl", "s_client", "-ign_eof", "-connect", &address,
    ];
    line.extend(arguments);
    let output = MESH.exec("stranger", &line).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn failed_handshakes() -> Vec<Value> {
    let records = MESH.records("payments");
    records
        .into_iter()
        .filter(|record| record["error"] == "handshake_failed")
        .collect()
}

#[test]
fn tls_1_2_and_a_client_without_certificate_are_refused_for_just_that() {
    let svid = MESH.svid("orders", "stranger").unwrap();
    let (cert, key) = (format!("{svid}/svid.0.pem"), format!("{svid}/svid.0.key"));
    let with_svid = ["-cert", &cert, "-key", &key];

    // The control: with the same certificate and TLS 1.3 both ports let it in.
    let url = "https://payments:8080/echo";
    let line = [
        "curl", "-sS", "-k", "-f", "--cert", &cert, "--key", &key, "-d", "let in", url,
    ];
    let answer = succeeded(MESH.exec("stranger", &line).unwrap()).unwrap();
    assert_eq!(answer, "let in");
    let asked = MESH
        .tunnel("stranger", &svid, "10.77.0.13:15008", &["CONNECT 10.77.0.13:1"])
        .unwrap();
    assert_eq!(asked[0]["status"], 400, "{asked:?}");
    assert_eq!(failed_handshakes(), [Value::Null; 0]);

    for port in [15008, 8080] {
        let alpn = if port == 15008 { "h2" } else { "http/1.1" };
        let old = openssl(port, &[&["-tls1_2", "-alpn", alpn][..], &with_svid].concat());
        assert!(old.contains("alert protocol version"), "{port}: {old}");
        let nobody = openssl(port, &["-tls1_3", "-alpn", alpn]);
        assert!(nobody.contains("alert certificate required"), "{port}: {nobody}");
    }
    let failed = eventually(PATIENCE, || {
        let failed = failed_handshakes();
        if failed.len() == 4 {
            Ok(failed)
        } else {
            Err(format!("{failed:?}"))
        }
    })
    .unwrap();
    for record in failed {
        assert_eq!(record["decision"]["verdict"], "deny", "{record}");
        assert!(record["detail"].is_string(), "{record}");
        assert!(record["src"]["spiffe_id"].is_null(), "{record}");
    }
}
