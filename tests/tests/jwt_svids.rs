//! A workload that proves itself with a JWT-SVID, as a job behind a gateway does: the authority signs it, the sidecar believes
//! it by the bundle that the Workload API pushes, and nothing else about tokens changes.

#![cfg(test)]

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_tests::{Guard, Mesh, Options, eventually, folder, hopguard_bin, succeeded};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

/// At first the issuer is not in the mesh, so no policy can name its users.
const ANY_USER: &str = r#"
@id("users-look")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders")
when { context has user };
"#;

/// Then web may look for its own job, and for alice.
const POLICIES: &str = r#"
@id("users-look")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders")
when { context has user && (context.user == User::"workload|spiffe://mesh.local/ns/shop/sa/web" || context.user == User::"corp|alice") };
"#;

const ISSUERS: &str = r#"
[[issuer]]
alias = "workload"
kind = "jwt-svid"
audiences = ["shop"]

[[issuer]]
alias = "partner"
kind = "jwt-svid"
trust_domain = "partner.example"
audiences = ["shop"]
"#;

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

/// A mesh whose authority has these further settings.
fn start(authority: &str) -> Mesh {
    let files = folder(&[("policies/jobs.cedar", ANY_USER)]);
    let mesh = Mesh::start(&Options {
        dir: Some(files.path().to_path_buf()),
        // A job's token names its own workload and no caller.
        set: std::iter::once("mesh:service.1.port.0.bind=\"none\"")
            .chain(authority.lines())
            .map(str::to_owned)
            .collect(),
        ..Options::default()
    })
    .unwrap();
    let text = fs::read_to_string(mesh.file("mesh/mesh.toml")).unwrap();
    mesh.put("mesh/mesh.toml", &format!("{text}{ISSUERS}")).unwrap();
    eventually(DEADLINE, || {
        let issuers = mesh.admin("orders", "issuers")?;
        let ready = issuers.as_array().is_some_and(|all| {
            all.iter()
                .any(|issuer| issuer["alias"] == "workload" && issuer["keys"] == 1)
        });
        if ready { Ok(()) } else { Err(issuers.to_string()) }
    })
    .unwrap();
    let policies = || mesh.admin("orders", "policy").map(|said| said.to_string());
    let before = policies().unwrap();
    mesh.put("mesh/policies/jobs.cedar", POLICIES).unwrap();
    eventually(DEADLINE, || {
        let now = policies()?;
        if now == before { Err(now) } else { Ok(()) }
    })
    .unwrap();
    mesh
}

/// Asks the authority as the process behind a pod's socket, with a client that is not ours.
fn ask(mesh: &Mesh, pod: &str, question: &Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/conformance.py");
    let socket = format!("unix:///run/hopguard/workload/{pod}/workload.sock");
    let mut child = mesh
        .root_command("fabric", &[PYTHON.to_str().unwrap(), script, "raw", &socket])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{question}").unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said:?}"))
}

fn token(mesh: &Mesh, pod: &str, audience: &str) -> String {
    let said = ask(mesh, pod, &json!({"do": "jwt_svids", "audience": [audience]}));
    said["tokens"][0]
        .as_str()
        .unwrap_or_else(|| panic!("{said}"))
        .to_owned()
}

/// Status and answer of a request of web to orders.
fn call(mesh: &Mesh, token: &str) -> (String, String) {
    let bearer = format!("authorization: Bearer {token}");
    let line = [
        "curl",
        "-sSi",
        "--max-time",
        "30",
        "-H",
        &bearer,
        "http://orders:8080/headers",
    ];
    let text = succeeded(mesh.exec("web", &line).unwrap()).unwrap();
    (text.split(' ').nth(1).unwrap_or_default().to_owned(), text)
}

/// S-21, S-27, S-32: from the authority's signature to the decision of a sidecar.
#[test]
fn a_jwt_svid_of_the_authority_is_a_user() {
    let mesh = start("");
    let good = token(&mesh, "web", "shop");
    let (status, text) = call(&mesh, &good);
    assert_eq!(status, "200", "{text}");
    assert!(
        text.contains(r#"\"sub\":\"spiffe://mesh.local/ns/shop/sa/web\""#),
        "{text}"
    );
    // A user is an identity, not a right: payments has a token as well, and no policy names it.
    assert_eq!(call(&mesh, &token(&mesh, "payments", "shop")).0, "403");
    // Users of a provider go on as before.
    assert_eq!(call(&mesh, &mesh.token("alice", "none").unwrap()).0, "200");

    let before = mesh.counted("orders").unwrap();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    for (what, token, word) in [
        (
            "for another audience",
            token(&mesh, "web", "other"),
            "another audience",
        ),
        (
            "with another signature",
            format!("{signed}.{flipped}{}", &signature[1..]),
            "signature",
        ),
    ] {
        let (status, text) = call(&mesh, &token);
        assert_eq!(status, "401", "{what}: {text}");
        assert!(
            text.contains("invalid_token") && text.contains(word),
            "{what}: {text}"
        );
    }
    assert_eq!(
        mesh.counted("orders").unwrap(),
        before,
        "the application saw none of them"
    );

    // What was signed stays good while the authority is away: the keys were pushed.
    mesh.ctl("stop", "ca").unwrap();
    assert_eq!(call(&mesh, &good).0, "200");
}

/// S-18, S-32: a trust domain whose bundle nobody gave has no keys, and ours are not taken for it.
#[test]
fn a_jwt_svid_of_a_trust_domain_without_a_bundle_is_nobody() {
    let mesh = start("");
    // {"alg":"ES256","kid":"a"} . {"sub":"spiffe://partner.example/job","aud":"shop","exp":4000000000}
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJzcGlmZmU6Ly9wYXJ0bmVyLmV4YW1wbGUvam9iIiwiYXVkIjoic2hvcCIsImV4cCI6NDAwMDAwMDAwMH0.AAAA";
    let before = mesh.counted("orders").unwrap();
    let (status, text) = call(&mesh, token);
    assert_eq!(status, "503", "{text}");
    // Why is for the record: whoever asks may be nobody to tell.
    assert!(
        text.contains("the token cannot be judged now") && !text.contains("partner"),
        "{text}"
    );
    eventually(Duration::from_secs(10), || {
        let why = "no JWT bundle of spiffe://partner.example";
        let records = mesh.records("orders");
        let told = records.iter().any(|record| record.to_string().contains(why));
        told.then_some(()).ok_or("no record says why")
    })
    .unwrap();
    assert_eq!(mesh.counted("orders").unwrap(), before);
}

/// A rotation of the authority's JWT key: the bundle is pushed before the new key signs, so no token is refused meanwhile.
#[test]
fn a_jwt_svid_is_a_user_after_a_rotation_of_the_key_too() {
    let mesh = start("ca:refresh_hint=\"1s\"");
    let kid = |token: &str| {
        let header = token.split('.').next().unwrap();
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        header["kid"].as_str().unwrap().to_owned()
    };
    let old = kid(&token(&mesh, "web", "shop"));
    let program = hopguard_bin();
    let rotate = |step: &[&str]| {
        let config = "/run/hopguard/ca/ca.toml";
        let line = [
            program.to_str().unwrap(),
            "ca",
            "rotate",
            "--kind",
            "jwt",
            "--config",
            config,
        ];
        mesh.root_command("fabric", &[&line[..], step].concat())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    // Told step by step until the test has seen enough of it.
    let rotating = Guard(rotate(&[]));
    let new = eventually(DEADLINE * 2, || {
        let token = token(&mesh, "web", "shop");
        let (status, text) = call(&mesh, &token);
        assert_eq!(status, "200", "in the middle of a rotation: {text}");
        if kid(&token) == old {
            Err("the old key signs")
        } else {
            Ok(kid(&token))
        }
    })
    .unwrap();
    drop(rotating);
    // Left alone the old key would stay as long as a token of it may live.
    assert!(rotate(&["--step", "retire", "--force"]).wait().unwrap().success());
    eventually(DEADLINE, || {
        let issuers = mesh.admin("orders", "issuers")?;
        let ours = issuers
            .as_array()
            .and_then(|all| all.iter().find(|one| one["alias"] == "workload"));
        match ours {
            Some(ours) if ours["kids"] == json!([new]) => Ok(()),
            _ => Err(issuers.to_string()),
        }
    })
    .unwrap();
    assert_eq!(call(&mesh, &token(&mesh, "web", "shop")).0, "200");
}
