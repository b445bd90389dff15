//! Opaque tokens against a provider that nobody here wrote: Canaille answers what they mean, the running sidecar believes it
//! for as long as it may, and nothing passes when it does not answer.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, folder, succeeded};

const POLICIES: &str = r#"
@id("users-look")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders")
when { context has user };
"#;

const SECRET: &str = "correct horse & battery staple";
/// In a network of its own.
const PORT: &str = "9099";

static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/setup.sh");
    let output = Command::new(script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
});

fn issuer(cache: &str) -> String {
    format!(
        r#"
[[issuer]]
alias = "opaque"
issuer = "http://127.0.0.1:{PORT}/"
audiences = ["shop"]
allow_http_loopback = true
introspection = {{ client_id = "shop", client_secret_file = "canaille.secret", cache = "{cache}", every_token = true }}
"#
    )
}

/// The provider, where the sidecar of orders is.
fn provider(mesh: &Mesh) -> Guard {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/introspected.py");
    let mut child = mesh
        .command("orders", &[PYTHON.to_str().unwrap(), script, PORT, SECRET])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let guard = Guard(child);
    assert_eq!(line, "ready\n", "the provider did not start");
    guard
}

struct Story {
    mesh: Mesh,
}

impl Story {
    /// A mesh whose own provider has company.
    fn start() -> Self {
        let files = folder(&[("policies/opaque.cedar", POLICIES)]);
        let mesh = Mesh::start(&Options {
            dir: Some(files.path().to_path_buf()),
            // This provider knows no workload by its SPIFFE ID.
            set: vec!["mesh:service.1.port.0.bind=\"none\"".to_owned()],
            ..Options::default()
        })
        .unwrap();
        let secret = mesh.file("mesh/canaille.secret");
        fs::write(&secret, format!("{SECRET}\n")).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        Self { mesh }
    }

    fn configure(&self, cache: &str) {
        self.with_issuer(&issuer(cache));
    }

    /// Puts a mesh file with another issuer in force.
    fn with_issuer(&self, issuer: &str) {
        let path = self.mesh.file("mesh/mesh.toml");
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("\n[[issuer]]\nalias = \"opaque\"").next().unwrap();
        let before = self.mesh.admin("orders", "config").unwrap()["mesh"]["hash"].clone();
        self.mesh
            .put("mesh/mesh.toml", &format!("{text}{issuer}"))
            .unwrap();
        eventually(Duration::from_secs(20), || {
            let now = self.mesh.admin("orders", "config")?["mesh"]["hash"].clone();
            let policy = self.mesh.admin("orders", "policy")?;
            if now == before {
                Err(policy.to_string())
            } else {
                Ok(())
            }
        })
        .unwrap();
    }

    /// Status and body of a request of web to orders.
    fn ask(&self, token: &str, more: &[&str]) -> (String, String) {
        let bearer = format!("authorization: Bearer {token}");
        let line = ["curl", "-sS", "-i", "--max-time", "30", "-H", bearer.as_str()];
        let line = [
            &line[..],
            if more.is_empty() {
                &["http://orders:8080/headers"]
            } else {
                more
            },
        ]
        .concat();
        let text = succeeded(self.mesh.exec("web", &line).unwrap()).unwrap();
        let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
        (status, text)
    }

    /// Something of the provider's front.
    fn front(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{PORT}/_/{path}");
        succeeded(self.mesh.exec("orders", &["curl", "-sS", &url]).unwrap()).unwrap()
    }

    fn asked(&self) -> u64 {
        self.front("count").parse().unwrap()
    }
}

#[test]
fn a_foreign_provider_says_what_opaque_tokens_mean() {
    let story = Story::start();
    let provider = provider(&story.mesh);
    story.configure("1h");

    for _ in 0..3 {
        let (status, text) = story.ask("opaque-alice", &[]);
        assert_eq!(status, "200", "{text}");
        assert!(
            text.contains(r#"{\"iss\":\"http://127.0.0.1:9099/\",\"sub\":\"alice\",\"roles\":[]}"#),
            "{text}"
        );
    }
    assert_eq!(story.asked(), 1, "one question, and the answer is kept");

    let before = story.mesh.counted("orders").unwrap();
    for (token, reason) in [
        ("made-up", "inactive"),
        ("opaque-old", "inactive"),
        // Canaille does not tell a client about tokens for another.
        ("opaque-other", "inactive"),
        // Active, and of the issuer that is asked for each of its tokens; but not one.
        (
            "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjkwOTkvIn0.",
            "malformed",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjkwOTkvIn0.AAAA",
            "inactive",
        ),
    ] {
        let (status, text) = story.ask(token, &[]);
        assert_eq!(status, "401", "{token}: {text}");
        assert!(
            text.contains("error=\"invalid_token\"") && text.contains(reason),
            "{token}: {text}"
        );
    }
    // The mesh's own provider is not this one: its JWTs go on as before, and are shown to nobody.
    let asked = story.asked();
    let jwt = story.mesh.token("alice", "none").unwrap();
    assert_eq!(story.ask(&jwt, &[]).0, "200");
    let forged = story.mesh.token("alice", "wrong_key").unwrap();
    assert_eq!(story.ask(&forged, &[]).0, "401");
    assert_eq!(story.asked(), asked);
    assert_eq!(story.mesh.counted("orders").unwrap(), before + 1);

    let (status, text) = story.ask(
        "opaque-storm",
        &[
            "-Z",
            "--parallel-immediate",
            "--parallel-max",
            "64",
            "http://orders:8080/headers?[1-64]",
        ],
    );
    assert_eq!(
        (status.as_str(), text.matches("HTTP/1.1 200").count()),
        ("200", 64),
        "{text}"
    );
    assert_eq!(story.asked(), asked + 1, "64 connections, one question");

    // Without the provider nothing new passes; what is known goes on.
    drop(provider);
    kill_provider(&story);
    let (status, text) = story.ask("opaque-alice-2", &[]);
    assert_eq!(status, "503", "{text}");
    assert!(text.to_ascii_lowercase().contains("retry-after: 1"), "{text}");
    assert_eq!(story.ask("opaque-alice", &[]).0, "200");
    let metrics = succeeded(
        story
            .mesh
            .exec("orders", &["curl", "-sS", "http://127.0.0.1:15020/metrics"])
            .unwrap(),
    )
    .unwrap();
    for line in [
        "hopguard_introspections_total{issuer=\"opaque\",result=\"ok\"} 2",
        "hopguard_introspections_total{issuer=\"opaque\",result=\"inactive\"} 4",
        "hopguard_token_checks_total{issuer=\"opaque\",result=\"inactive\",cache_hit=\"false\"} 4",
        "hopguard_token_checks_total{issuer=\"opaque\",result=\"unavailable\",cache_hit=\"false\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let words = story.mesh.log("orders");
    assert!(
        !words.contains("opaque-alice") && !words.contains("battery"),
        "{words}"
    );
}

/// `demo exec` passes no signal on: what it started is ended by name, in the pod alone.
fn kill_provider(story: &Story) {
    let script = "for p in /proc/[0-9]*; do if tr '\\0' ' ' < $p/cmdline | grep -q 'introspected.py 9099'; then kill -9 ${p#/proc/}; fi; done; true";
    let _ended = story.mesh.exec_root("orders", &["sh", "-c", script]).unwrap();
    eventually(Duration::from_secs(20), || {
        let url = format!("http://127.0.0.1:{PORT}/_/count");
        let output = story
            .mesh
            .exec("orders", &["curl", "-sS", "--max-time", "5", &url])?;
        if output.status.success() {
            Err("the provider still answers".to_owned())
        } else {
            Ok(())
        }
    })
    .unwrap();
}

#[test]
fn what_is_open_ends_when_its_token_is_revoked() {
    let story = Story::start();
    let _provider = provider(&story.mesh);
    story.configure("1s");
    let slow = story
        .mesh
        .command(
            "web",
            &[
                "curl",
                "-sS",
                "--max-time",
                "60",
                "-H",
                "authorization: Bearer opaque-slow",
                "http://orders:8080/slow/55000",
            ],
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut slow = Guard(slow);
    // It lives past the life of an answer, since each new one says that the token is still good.
    eventually(Duration::from_secs(40), || match story.asked() {
        0..3 => Err("not asked for again yet"),
        _ => Ok(()),
    })
    .unwrap();
    assert!(slow.0.try_wait().unwrap().is_none(), "it was ended too early");
    assert_eq!(story.front("revoke?opaque-slow"), "revoked");
    let ended = eventually(Duration::from_secs(30), || {
        slow.0.try_wait().unwrap().ok_or("still open")
    })
    .unwrap();
    assert!(!ended.success());
    eventually(Duration::from_secs(20), || {
        let told = story
            .mesh
            .records("orders")
            .iter()
            .any(|record| record.to_string().contains("token_revoked"));
        if told { Ok(()) } else { Err("no record tells") }
    })
    .unwrap();
    kill_provider(&story);
}
