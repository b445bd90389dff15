//! A provider that nobody here wrote: Canaille, from PyPI, behind a front that counts what it is asked for and misbehaves on request.
//! Tokens are its own, from its token endpoint. What the demo's provider is put through is in `life_outage`.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use hopguard_tests::{Counted, Guard, Load, Mesh, Options, eventually, folder, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// No two fetches that tokens ask for are nearer to each other.
const FLOOR: Duration = Duration::from_secs(10);

const POLICY: &str = r#"@id("web-reads-for-users")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };
"#;

/// The services of the demo, with an issuer for each port.
fn mesh_file(ports: &[u16]) -> String {
    let service = |name: &str| {
        format!(
            "[[service]]\nname = \"shop/{name}\"\nhosts = [\"{name}\"]\nspiffe_ids = [\"spiffe://mesh.local/ns/shop/sa/{name}\"]\n\
             [[service.port]]\nport = 8080\n"
        )
    };
    let issuer = |port: &u16| {
        format!(
            "[[issuer]]\nalias = \"p{port}\"\nissuer = \"http://127.0.0.1:{port}/\"\nallow_http_loopback = true\naudiences = [\"shop\"]\n"
        )
    };
    let services: String = ["web", "orders", "payments"].map(service).concat();
    let issuers: String = ports.iter().map(issuer).collect();
    format!("trust_domain = \"mesh.local\"\n{services}{issuers}")
}

fn mesh(ports: &[u16]) -> Mesh {
    let dir = folder(&[("mesh.toml", &mesh_file(ports)), ("policies/users.cedar", POLICY)]);
    let options = Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    };
    Mesh::start(&options).unwrap()
}

/// The python of tests/python/setup.sh.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let setup = source("python/setup.sh");
        let done = Command::new("sh").arg(setup).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
    })
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Canaille in the pod of orders, on loopback, where only the sidecar of that pod finds it.
struct Provider<'m> {
    mesh: &'m Mesh,
    _process: Guard,
}

impl<'m> Provider<'m> {
    fn start(mesh: &'m Mesh, ports: &[u16]) -> Self {
        let script = source("python/provider.py");
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut line = vec![python().to_str().unwrap(), "-B", script.to_str().unwrap()];
        line.extend(ports.iter().map(String::as_str));
        let mut child = mesh
            .command("orders", &line)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let _over = sender.send(lines.next());
            lines.for_each(drop);
        });
        let process = Guard(child);
        let first = ready.recv_timeout(PATIENCE).unwrap();
        assert_eq!(first.as_deref(), Some("ready"), "the provider did not start");
        Self {
            mesh,
            _process: process,
        }
    }

    fn ask(&self, port: u16, path: &str) -> String {
        let url = format!("http://127.0.0.1:{port}/_/{path}");
        let line = ["curl", "-sSf", "--max-time", "20", &url];
        succeeded(self.mesh.exec("orders", &line).unwrap()).unwrap()
    }

    /// A header with a token that the provider gives alice now.
    fn bearer(&self, port: u16) -> String {
        format!("authorization: Bearer {}", self.ask(port, "token"))
    }

    /// How often it was asked for discovery, and for keys.
    fn counts(&self, port: u16) -> (u64, u64) {
        let counts: Value = serde_json::from_str(&self.ask(port, "count")).unwrap();
        let number = |name: &str| counts[name].as_u64().unwrap();
        (number("discovery"), number("jwks"))
    }
}

/// `count` requests from web to orders with this header, over 64 connections at once.
fn at_once(mesh: &Mesh, header: &str, count: &str) -> Counted {
    let arguments = [
        "--url",
        "http://orders:8080/",
        "--connections",
        "64",
        "--requests",
        count,
        "--header",
        header,
    ];
    Load::start(mesh, "web", &arguments)
        .unwrap()
        .finish(PATIENCE)
        .unwrap()
}

/// The status of one request.
fn status(mesh: &Mesh, header: &str) -> String {
    let line = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "--max-time",
        "20",
        "-w",
        "%{http_code}",
        "-H",
        header,
        "http://orders:8080/",
    ];
    String::from_utf8(mesh.exec("web", &line).unwrap().stdout).unwrap()
}

fn becomes(mesh: &Mesh, header: &str, wanted: &str) {
    eventually(PATIENCE, || match status(mesh, header) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}, not {wanted}")),
    })
    .unwrap();
}

/// Asks with 192 tokens of as many unknown keys, 64 at once; returns how many got which status.
fn unknown_kids(mesh: &Mesh, good: &str, round: &str) -> String {
    let script = r#"
import base64, collections, http.client, json, sys, threading
good, name = sys.argv[1].split()[-1], sys.argv[2]
payload = good.split(".")[1]
found = collections.Counter()
def ask(number):
    connection = http.client.HTTPConnection("orders", 8080, timeout=20)
    for turn in range(3):
        head = json.dumps({"alg": "RS512", "kid": f"{name}-{number}-{turn}"}).encode()
        token = base64.urlsafe_b64encode(head).rstrip(b"=").decode() + "." + payload + ".AAAA"
        connection.request("GET", "/", headers={"authorization": "Bearer " + token})
        answer = connection.getresponse()
        answer.read()
        found[answer.status] += 1
threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(dict(found))
"#;
    let line = ["python3", "-c", script, good, round];
    succeeded(mesh.exec("web", &line).unwrap())
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_foreign_provider_is_believed_and_left_in_peace() {
    const PORT: u16 = 9999;
    let mesh = mesh(&[PORT]);
    // Before there is a provider nobody is believed, and nobody who needs no token is in the way of that.
    let stranger = "authorization: Bearer eyJhbGciOiJSUzUxMiJ9.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjk5OTkvIiwic3ViIjoiYSIsImF1ZCI6InNob3AiLCJleHAiOjQwMDAwMDAwMDB9.AAAA";
    assert_eq!(status(&mesh, stranger), "503");
    let provider = Provider::start(&mesh, &[PORT]);
    let first = provider.bearer(PORT);
    becomes(&mesh, &first, "200");
    let known = provider.counts(PORT);
    assert!(known.0 >= 1 && known.1 >= 1, "{known:?}");
    // Known keys: nobody asks the provider.
    let counted = at_once(&mesh, &first, "2000");
    assert_eq!(counted.all_good().unwrap(), 2000);
    assert_eq!(provider.counts(PORT), known);
    // A new key, at 64 connections at once: one fetch, which all of them wait for. Nothing was asked for by a token so far.
    provider.ask(PORT, "rotate");
    let second = provider.bearer(PORT);
    let asked = Instant::now();
    let counted = at_once(&mesh, &second, "64");
    assert_eq!(counted.all_good().unwrap(), 64);
    assert_eq!(provider.counts(PORT), (known.0, known.1 + 1));
    assert_eq!(status(&mesh, &first), "200", "the old key is still published");
    // 192 unknown keys: none of them is believed, and the provider is asked at most once in ten seconds.
    let told = unknown_kids(&mesh, &second, "a");
    assert_eq!(told, "{401: 192}");
    let (_, jwks) = provider.counts(PORT);
    let most = known.1 + 1 + asked.elapsed().as_secs() / FLOOR.as_secs();
    assert!(jwks <= most, "asked {jwks} times, at most {most} is right");
    // A key that the old ones make room for: taken once the floor is past, and then the old ones prove nothing any more.
    provider.ask(PORT, "rotate?forget");
    let third = provider.bearer(PORT);
    becomes(&mesh, &third, "200");
    becomes(&mesh, &first, "401");
    becomes(&mesh, &second, "401");
    let (_, jwks) = provider.counts(PORT);
    let most = known.1 + 1 + asked.elapsed().as_secs() / FLOOR.as_secs();
    assert!(jwks <= most, "asked {jwks} times, at most {most} is right");
    // An outage is nobody's business while keys are known.
    drop(provider);
    let counted = at_once(&mesh, &third, "64");
    assert_eq!(counted.all_good().unwrap(), 64);
}

#[test]
fn a_bad_answer_replaces_no_good_keys() {
    const WAYS: [(u16, &str); 7] = [
        (9001, "down"),
        (9002, "html"),
        (9003, "empty"),
        (9004, "half"),
        (9005, "huge"),
        (9006, "redirect"),
        (9007, "slow"),
    ];
    let ports = WAYS.map(|(port, _)| port);
    let mesh = mesh(&ports);
    let provider = Provider::start(&mesh, &ports);
    let old = WAYS.map(|(port, way)| (port, way, provider.bearer(port)));
    for (_, _, token) in &old {
        becomes(&mesh, token, "200");
    }
    // All of them share the keys, so one rotation is all of theirs.
    for (port, way) in WAYS {
        provider.ask(port, &format!("be?{way}"));
    }
    provider.ask(9001, "rotate");
    let new = WAYS.map(|(port, way)| (port, way, provider.bearer(port)));
    let before = WAYS.map(|(port, _)| provider.counts(port).1);
    for (_, way, token) in &new {
        // A slow answer is waited for; a bad one proves nothing.
        let wanted = if *way == "slow" { "200" } else { "401" };
        assert_eq!(status(&mesh, token), wanted, "{way}");
    }
    for ((port, way), before) in WAYS.iter().zip(before) {
        assert_eq!(provider.counts(*port).1, before + 1, "{way}: asked once");
    }
    for (_, way, token) in &old {
        assert_eq!(status(&mesh, token), "200", "{way}: what was known stays known");
    }
    for (port, _) in WAYS {
        provider.ask(port, "be?ok");
    }
    for (_, _, token) in &new {
        becomes(&mesh, token, "200");
    }
}

/// At its start an issuer that answers nonsense, or for somebody else, is believed in nothing; the others are not kept waiting.
#[test]
fn an_issuer_that_is_somebody_else_has_no_users() {
    let ports = [9101, 9102, 9103];
    let mesh = mesh(&[]);
    let provider = Provider::start(&mesh, &ports);
    provider.ask(9101, "be?other_issuer");
    provider.ask(9102, "be?empty");
    let tokens = ports.map(|port| provider.bearer(port));
    mesh.put("mesh/mesh.toml", &mesh_file(&ports)).unwrap();
    becomes(&mesh, &tokens[2], "200");
    eventually(PATIENCE, || {
        let asked = [9101, 9102].map(|port| provider.counts(port).0);
        if asked.iter().all(|count| *count > 0) {
            Ok(())
        } else {
            Err(format!("{asked:?}"))
        }
    })
    .unwrap();
    for token in &tokens[..2] {
        assert_eq!(status(&mesh, token), "503");
    }
    // Each comes to itself.
    provider.ask(9101, "be?ok");
    provider.ask(9102, "be?ok");
    for token in &tokens {
        becomes(&mesh, token, "200");
    }
}
