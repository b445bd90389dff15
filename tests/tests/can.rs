//! `hopguard can` says what a sidecar would answer: also about what binds a token, about claims that have ended, and about what
//! plays no part in the answer.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Output;

use hopguard_tests::hopguard;
use serde_json::{Value, json};
use tempfile::TempDir;

const AT: &str = "2026-11-24T12:00:00Z";
/// The same in Unix seconds.
const NOW: i64 = 1_795_521_600;
const ISSUER: &str = "https://idp.example.org";
/// 32 bytes in base64url.
const PRINT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const POLICIES: &str = r#"
@id("users")
permit(principal, action in Action::"http", resource) when { context has user };
@id("options")
permit(principal, action in Action::"OPTIONS", resource);
@id("tunnel")
permit(principal, action == Action::"connect", resource);
"#;

const MESH: &str = r#"
trust_domain = "mesh.local"

[[service]]
name = "shop/web"
hosts = ["web.shop", "www.example.org"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/web"]
  [[service.port]]
  port = 8080
  mode = "public"
  [[service.port]]
  port = 8081
  mode = "permissive"

[[service]]
name = "shop/orders"
hosts = ["orders.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/orders"]
  [[service.port]]
  port = 8080
  bind = "caller"
  [[service.port]]
  port = 8082
  dpop = "accept"
  public_url = "https://orders.example.org"
  [[service.port]]
  port = 8083
  dpop = "require"
  public_url = "https://orders.example.org"
  [[service.port]]
  port = 8084
  require_cnf = true

[[service]]
name = "shop/ledger"
hosts = ["ledger.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/ledger"]
  [[service.port]]
  port = 5432
  protocol = "opaque"

[[issuer]]
alias = "corp"
issuer = "https://idp.example.org"
audiences = ["shop"]
roles = ["roles"]
role_names = ["clerk"]

[headers]
x_region = { name = "x-region", list = false }
"#;

/// A mesh file, policies, and claims.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.put("mesh.toml", MESH);
        fs::create_dir(files.0.path().join("policies")).unwrap();
        files.put("policies/all.cedar", POLICIES);
        files
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A file with claims of alice, and these beside.
    fn claims(&self, more: &Value) -> String {
        let mut claims = json!({"iss": ISSUER, "sub": "alice"});
        let members = claims.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        self.put("claims.json", &claims.to_string())
    }

    fn can(&self, line: &[&str]) -> Output {
        let mut command = hopguard();
        command.args(["can", "--at", AT]).args(line);
        command.current_dir(Path::new(self.0.path())).output().unwrap()
    }

    /// What it says, which must end with this code.
    fn says(&self, code: i32, line: &[&str]) -> String {
        let output = self.can(line);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
        said
    }

    fn json(&self, line: &[&str]) -> Value {
        let output = self.can(&[&["-o", "json"], line].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_token_that_is_not_its_callers_is_refused_as_at_run_time() {
    let files = Files::new();
    let web = "spiffe://mesh.local/ns/shop/sa/web";
    let ask = |code: i32, claims: Value, target: &str, more: &[&str]| {
        let claims = files.claims(&claims);
        let line = [&["--from", "web", "--user-claims", &claims, "GET", target], more].concat();
        files.says(code, &line)
    };
    // bind = "caller".
    let said = ask(1, json!({}), "orders:8080/x", &[]);
    assert!(said.starts_with("denied: 401 not_bound_to_caller"), "{said}");
    let said = ask(
        1,
        json!({"azp": "spiffe://mesh.local/other"}),
        "orders:8080/x",
        &[],
    );
    assert!(said.starts_with("denied: 401 not_bound_to_caller"), "{said}");
    assert!(ask(0, json!({"azp": web}), "orders:8080/x", &[]).starts_with("allowed"));
    assert!(ask(0, json!({"act": {"sub": web}}), "orders:8080/x", &[]).starts_with("allowed"));
    // DPoP: nothing that a bearer could do, and what a proof would do is told.
    let bound = json!({"azp": web, "cnf": {"jkt": PRINT}});
    let said = ask(1, bound.clone(), "orders:8082/x", &[]);
    for words in [
        "denied: 401 dpop_required",
        "a DPoP proof by the key",
        PRINT,
        "--proven",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let said = ask(0, bound.clone(), "orders:8082/x", &["--proven"]);
    assert!(
        said.starts_with("allowed") && said.contains("a DPoP proof"),
        "{said}"
    );
    let said = ask(1, json!({"azp": web}), "orders:8083/x", &["--proven"]);
    assert!(
        said.starts_with("denied: 401 dpop_required"),
        "no key to prove: {said}"
    );
    // Where no proofs are taken, such a token is nobody's.
    let said = ask(1, bound, "orders:8080/x", &["--proven"]);
    assert!(said.starts_with("denied: 401 dpop_required"), "{said}");
    // A certificate.
    let bound = json!({"azp": web, "cnf": {"x5t#S256": PRINT}});
    let said = ask(1, bound.clone(), "orders:8084/x", &[]);
    assert!(said.starts_with("denied: 401 not_bound_to_certificate"), "{said}");
    assert!(ask(0, bound.clone(), "orders:8084/x", &["--proven"]).starts_with("allowed"));
    let said = ask(1, json!({"azp": web}), "orders:8084/x", &["--proven"]);
    assert!(said.starts_with("denied: 401 not_bound_to_certificate"), "{said}");
    let claims = files.claims(&bound);
    let line = [
        "--from",
        "plaintext",
        "--user-claims",
        &claims,
        "--proven",
        "GET",
        "web:8080/x",
    ];
    let said = files.says(1, &line);
    assert!(said.starts_with("denied: 401 not_bound_to_certificate"), "{said}");
    // For programs the same.
    let told = files.json(&["--from", "web", "--user-claims", &claims, "GET", "orders:8084/x"]);
    assert_eq!(
        (&told["allowed"], &told["status"], &told["refused"]["code"]),
        (&json!(false), &json!(401), &json!("not_bound_to_certificate")),
        "{told}"
    );
    assert_eq!(told["needs"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["decision"]["verdict"], "allow", "{told}");
}

#[test]
fn claims_that_are_there_count_as_those_of_a_token() {
    let files = Files::new();
    let refused = |claims: Value, label: &str| {
        let claims = files.claims(&claims);
        let line = ["--from", "web", "--user-claims", &claims, "GET", "web:8080/x"];
        match label {
            "" => assert!(files.says(0, &line).starts_with("allowed")),
            label => {
                let said = files.says(1, &line);
                assert!(
                    said.starts_with(&format!("denied: 401 {label}")),
                    "{label}: {said}"
                );
            }
        }
    };
    refused(json!({}), "");
    refused(
        json!({"exp": NOW + 60, "nbf": NOW, "iat": NOW, "aud": ["shop", "x"]}),
        "",
    );
    refused(json!({"exp": 1_795_521_660.5}), "");
    refused(json!({"exp": NOW - 60}), "expired");
    refused(json!({"nbf": NOW + 600}), "not_yet_valid");
    refused(json!({"iat": NOW + 600}), "issued_in_future");
    refused(json!({"aud": "other"}), "wrong_aud");
    refused(json!({"aud": 5}), "bad_claim");
    refused(json!({"exp": "soon"}), "bad_claim");
    refused(json!({"iss": "https://evil.example"}), "unknown_issuer");
    refused(json!({"cnf": {"new": "x"}}), "bad_claim");
    let other = files.claims(&json!({"iss": "https://evil.example"}));
    let line = [
        "--from",
        "web",
        "--user-claims",
        &other,
        "--issuer",
        "corp",
        "GET",
        "web:8080/x",
    ];
    let said = files.says(1, &line);
    assert!(said.starts_with("denied: 401 wrong_iss"), "{said}");
    // What tells of nobody is a wrong file.
    for (text, words) in [
        ("[]", "no claims"),
        ("{\"iss\": \"https://idp.example.org\"}", "tell of nobody"),
    ] {
        let file = files.put("claims.json", text);
        let line = [
            "--from",
            "web",
            "--user-claims",
            &file,
            "--issuer",
            "corp",
            "GET",
            "web:8080/x",
        ];
        assert!(files.says(3, &line).contains(words), "{words}");
    }
}

#[test]
fn an_opaque_token_is_told_as_one() {
    let files = Files::new();
    let token = files.put("token", "ory_at_abcdef");
    let line = ["--from", "web", "--token", &token, "GET", "web:8080/x"];
    let said = files.says(1, &line);
    assert!(said.starts_with("denied: 401 malformed"), "{said}");
    assert!(
        said.contains("[issuer.introspection]") && !said.contains("can --token"),
        "{said}"
    );
    let asked = "\n  [issuer.introspection]\n  client_id = \"hopguard\"\n  client_secret_file = \"secret\"\n\n[headers]";
    files.put("mesh.toml", &MESH.replace("\n[headers]", asked));
    files.put("secret", "x");
    let said = files.says(4, &line);
    assert!(
        said.contains("opaque") && said.contains("`corp`") && said.contains("--user-claims FILE"),
        "{said}"
    );
}

#[test]
fn what_plays_no_part_is_told() {
    let files = Files::new();
    let claims = files.claims(&json!({}));
    let user = ["--from", "web", "--user-claims", &claims];
    let said = files.says(
        0,
        &[&user[..], &["--header", "x-regoin=eu", "GET", "web:8080/"]].concat(),
    );
    assert!(
        said.contains("note: no policy can read the header `x-regoin`") && said.contains("x-region"),
        "{said}"
    );
    let said = files.says(
        0,
        &[&user[..], &["--header", "X-Region=eu", "GET", "web:8080/"]].concat(),
    );
    assert!(!said.contains("note:"), "{said}");
    let said = files.says(0, &[&user[..], &["connect", "ledger"]].concat());
    assert!(said.contains("note: an opaque port has no requests"), "{said}");
    let told = files.json(&[&user[..], &["--header", "x-regoin=eu", "GET", "web:8080/"]].concat());
    assert_eq!(told["notes"].as_array().map(Vec::len), Some(1), "{told}");
}

#[test]
fn the_target_the_host_and_the_port_are_looked_at_as_by_the_sidecar() {
    let files = Files::new();
    let claims = files.claims(&json!({}));
    let user = |more: &[&'static str]| -> Vec<String> {
        let line = [&["--from", "web", "--user-claims", &claims], more].concat();
        line.into_iter().map(str::to_owned).collect()
    };
    let says = |code: i32, line: Vec<String>| {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        files.says(code, &line)
    };
    // RFC 9112 3.2.4.
    let said = files.says(0, &["--from", "orders", "OPTIONS", "web:8080*"]);
    assert!(said.contains("options"), "{said}");
    assert!(
        files
            .says(2, &["--from", "orders", "OPTIONS", "*"])
            .contains("OPTIONS SERVICE*")
    );
    assert!(
        files
            .says(1, &["--from", "orders", "GET", "web:8080*"])
            .contains("only OPTIONS")
    );
    // The host.
    assert!(says(0, user(&["GET", "www.example.org:8080/x"])).starts_with("allowed"));
    assert!(says(0, user(&["--host", "WWW.example.org:443", "GET", "web:8080/x"])).starts_with("allowed"));
    let said = says(1, user(&["--host", "orders.shop", "GET", "web:8080/x"]));
    assert!(
        said.starts_with("denied: 404 unknown_host") && said.contains("www.example.org"),
        "{said}"
    );
    assert!(says(1, user(&["--host", "a b", "GET", "web:8080/x"])).starts_with("denied: 400"));
    // A caller without a certificate, by TLS.
    let plain = ["--from", "plaintext", "--tls", "--user-claims", &claims, "GET"];
    assert!(
        files
            .says(0, &[&plain[..], &["web:8080/x"]].concat())
            .starts_with("allowed")
    );
    for target in ["web:8081/x", "orders:8080/x"] {
        let said = files.says(1, &[&plain[..], &[target]].concat());
        assert!(
            said.starts_with("denied: handshake_failed") && said.contains("public"),
            "{said}"
        );
    }
}

#[test]
fn the_help_has_examples_that_are_command_lines() {
    let output = hopguard().args(["can", "--help"]).output().unwrap();
    let help = text(&output);
    let (_, examples) = help.split_once("Examples: ").unwrap_or_else(|| panic!("{help}"));
    let lines: Vec<&str> = examples
        .lines()
        .map_while(|line| line.trim().strip_prefix("hopguard "))
        .collect();
    assert!(lines.len() >= 5, "{help}");
    let files = Files::new();
    for line in lines {
        let words: Vec<String> = line.split(' ').map(|word| word.replace('\'', "")).collect();
        let mut command = hopguard();
        command.args(&words).current_dir(files.0.path());
        let output = command.output().unwrap();
        // Files and services are not there; each word is one that there is.
        assert!(!text(&output).contains("Usage:"), "{line}: {}", text(&output));
    }
}
