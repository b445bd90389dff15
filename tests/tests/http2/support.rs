//! A mesh with a gRPC application, and clients that talk to it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, folder, hopguard_bin, output_within, succeeded};
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// Web is a front door, orders and payments take whom the policies let in; the gRPC application stands beside payments,
/// on one port that asks it what it speaks and on one that says so.
pub const POLICY: &str = r#"
@id("anyone-at-the-door")
permit(principal is Plaintext, action in Action::"http", resource == Service::"shop/web")
when { context.path != "/forbidden" };

@id("orders-asks-anything-but-the-ledger")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action in Action::"http", resource == Service::"shop/payments")
when { context.path != "/forbidden" && !(context.path like "/echo.Echo/*") };

@id("clerks-call-echo")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action == Action::"POST", resource == Service::"shop/payments")
when { context.path like "/echo.Echo/*" && context has user && context.user in Role::"corp|clerk" };
"#;

pub const BOB: &str = r#"
@id("bob-calls-echo")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action == Action::"POST", resource == Service::"shop/payments")
when { context.path like "/echo.Echo/*" && context has user };
"#;

pub const BOB_FILE: &str = "mesh/policies/bob.cedar";

/// A mesh with a gRPC application beside that of payments.
pub struct Grpc {
    pub mesh: Mesh,
    _app: Guard,
}

pub static MESH: LazyLock<Grpc> = LazyLock::new(|| grpc(&[], None));

/// Who counts what the application behind the door gets has it alone.
pub static DOOR: Mutex<()> = Mutex::new(());

pub fn door() -> MutexGuard<'static, ()> {
    DOOR.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn mesh() -> &'static Mesh {
    &MESH.mesh
}

pub fn beside(name: &str) -> String {
    hopguard_bin().with_file_name(name).to_str().unwrap().to_owned()
}

pub fn grpc(policies: &[(&str, &str)], svid_ttl: Option<&str>) -> Grpc {
    let ports = r#"port = 9090
  protocol = "opaque"
  [[service.port]]
  port = 8081
  [[service.port]]
  port = 8082
  app_protocol = "http2"
"#;
    let demo = include_str!("../../../cli/src/demo/files/mesh.toml");
    let file = demo.replace("port = 9090\n  protocol = \"opaque\"\n", ports);
    assert_ne!(file, demo);
    let mut files = vec![("mesh.toml", file.as_str()), ("policies/http2.cedar", POLICY)];
    files.extend_from_slice(policies);
    let dir = folder(&files);
    let options = Options {
        dir: Some(dir.path().to_path_buf()),
        svid_ttl: svid_ttl.map(str::to_owned),
        ..Options::default()
    };
    let mesh = Mesh::start(&options).unwrap();
    let bin = beside("hopguard-grpc");
    let script = format!("{bin} serve 8081 & exec {bin} serve 8082");
    let app = mesh.command("payments", &["sh", "-c", &script]).spawn().unwrap();
    let app = Guard(app);
    for port in ["8081", "8082"] {
        eventually(PATIENCE, || {
            let probe = format!("exec 3<>/dev/tcp/localhost/{port}");
            succeeded(mesh.exec("payments", &["bash", "-c", &probe])?)
        })
        .unwrap();
    }
    Grpc { mesh, _app: app }
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// curl in a pod; the body, and behind it version and status.
pub fn curl(pod: &str, arguments: &[&str]) -> String {
    let line: Vec<&str> = [
        "curl",
        "-sS",
        "--max-time",
        "50",
        "-w",
        "\n%{http_version} %{http_code}",
    ]
    .into_iter()
    .chain(arguments.iter().copied())
    .collect();
    text(&mesh().exec(pod, &line).unwrap())
}

pub fn called(mesh: &Mesh, arguments: &[&str]) -> Vec<Value> {
    let bin = beside("hopguard-grpc");
    let line: Vec<&str> = [bin.as_str()]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let done = output_within(Duration::from_secs(110), mesh.command("orders", &line)).unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", text(&done));
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

pub fn requests(mesh: &Mesh, pod: &str, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut records = mesh.records(pod);
    records.retain(|record| record["kind"] == "request" && fits(record));
    records
}

/// What a chatting client has told, line by line.
pub struct Chat {
    _child: Guard,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Chat {
    pub fn start(mesh: &Mesh, tokens: &[&str]) -> Self {
        let bin = beside("hopguard-grpc");
        let mut line = vec![bin.as_str(), "chat", "http://payments:8081"];
        line.extend(tokens);
        let mut child = mesh
            .command("orders", &line)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let filled = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                filled
                    .lock()
                    .unwrap()
                    .extend(serde_json::from_str::<Value>(&line).ok());
            }
        });
        Self {
            _child: Guard(child),
            lines,
        }
    }

    /// How many words of a call were echoed so far.
    pub fn echoed(&self, call: usize) -> u64 {
        let lines = self.lines.lock().unwrap();
        let of_call = lines.iter().filter(|line| line["call"] == call);
        of_call
            .filter_map(|line| line["echoed"].as_u64())
            .max()
            .map_or(0, |last| last + 1)
    }

    /// How a call ended.
    pub fn ended(&self, call: usize) -> Option<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .find(|line| line["call"] == call && line["ended"] == true)
            .cloned()
    }

    pub fn goes_on(&self, call: usize) {
        let before = self.echoed(call);
        eventually(PATIENCE, || match self.echoed(call) {
            now if now > before + 2 => Ok(()),
            now => Err(format!("{now} echoes, {:?}", self.ended(call))),
        })
        .unwrap();
    }
}

/// A client that writes and reads frames, for what no library does: it answers PINGs and SETTINGS, and opens no window of
/// its own accord. A script goes on with `door`, `head`, `frame` and `frames`.
pub const FRAMES: &str = r#"
import socket, struct, sys
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def head(path, method=b'GET'):
    fields = [(b':method', method), (b':scheme', b'http'), (b':path', path), (b':authority', b'web')]
    return b''.join(b'\0' + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
def door(settings=b''):
    s = socket.create_connection(('web', 8080)); s.settimeout(50)
    s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, settings))
    return s
def frames(s):
    data = b''
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], 'big'):
            length, kind, flags = int.from_bytes(data[:3], 'big'), data[3], data[4]
            stream, payload, data = int.from_bytes(data[5:9], 'big'), data[9:9 + length], data[9 + length:]
            if kind == 4 and not flags & 1: s.sendall(frame(4, 1, 0))
            if kind == 6 and not flags & 1: s.sendall(frame(6, 1, 0, payload))
            yield kind, flags, stream, payload
        try: more = s.recv(65536)
        except ConnectionResetError: more = b''
        if not more: return
        data += more
def say(*words): print(*words, flush=True)
"#;

/// A script behind [`FRAMES`] that runs in the pod of somebody who has no part in the mesh, line by line.
pub struct Script {
    child: Guard,
    lines: BufReader<std::process::ChildStdout>,
}

impl Script {
    pub fn start(mesh: &Mesh, script: &str) -> Self {
        let script = format!("{FRAMES}{script}");
        let mut child = mesh
            .command("stranger", &["python3", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self {
            child: Guard(child),
            lines,
        }
    }

    /// The next line that it says; empty when it has ended. The sockets in the script do not wait for ever.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Lets it go on where it waits for a line.
    pub fn go_on(&mut self) {
        let stdin = self.child.0.stdin.as_mut().unwrap();
        stdin.write_all(b"go on\n").unwrap();
        stdin.flush().unwrap();
    }
}
