//! Why was this refused? In a running mesh, by the id in the answer; from the log, without the sidecar; and before any
//! traffic, with `hopguard can`.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_tests::{Mesh, Options, eventually, folder, hopguard, hopguard_bin, output_within};
use serde_json::{Value, json};

const MESH_FILE: &str = r#"
trust_domain = "mesh.local"
[[service]]
name = "shop/web"
hosts = ["web", "web.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/web"]
[[service.port]]
port = 8080
mode = "public"
[[service]]
name = "shop/orders"
hosts = ["orders", "orders.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/orders"]
[[service.port]]
port = 8080
[[service.route]]
name = "getOrder"
methods = ["GET"]
path = "/tenants/{tenant}/orders/{id}"
[[service]]
name = "shop/payments"
hosts = ["payments", "payments.shop"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/payments"]
[[service.port]]
port = 8080
[[service.port]]
port = 9090
protocol = "opaque"
[[issuer]]
alias = "corp"
issuer = "https://idp:8443"
audiences = ["shop"]
algorithms = ["ES256"]
ca_file = "idp-ca.pem"
roles = ["roles"]
role_names = ["clerk"]
claims.tenant = { path = "aud", type = "string" }
claims.department = { path = "department", type = "string" }
[headers]
x_region = { name = "x-region" }
"#;

const POLICIES: &str = r#"
@id("own-orders")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action == Action::"shop/orders#getOrder", resource == Service::"shop/orders")
when { context has user && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant };

@id("clerks-write") @reason("clerks may write")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"POST", resource == Service::"shop/orders")
when { context has user && context.user in Role::"corp|clerk" };

@id("departments-delete")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"DELETE", resource == Service::"shop/orders")
when { context has user && context.user.claims has department };

@id("nobody-patches") @reason("orders are never patched")
forbid(principal, action in Action::"PATCH", resource == Service::"shop/orders")
unless { context.headers has x_region && context.headers.x_region == ["eu"] };

@id("orders-writes-the-ledger")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action == Action::"connect", resource == Service::"shop/payments");
"#;

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let files = folder(&[("mesh.toml", MESH_FILE), ("policies/shop.cedar", POLICIES)]);
    Mesh::start(&Options {
        dir: Some(files.path().to_path_buf()),
        set: vec!["sidecar.orders:log.user=\"hash\"".to_owned()],
        ..Options::default()
    })
    .unwrap()
});

fn text(output: &Output) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    part(&output.stdout) + &part(&output.stderr)
}

/// What curl in pod web is answered: the status, and the id, which body and header must say alike.
fn refused(line: &[&str]) -> (String, String) {
    let curl = ["curl", "-sSi", "--path-as-is", "--max-time", "20"];
    let line: Vec<&str> = curl.iter().chain(line).copied().collect();
    let answer = text(&MESH.exec("web", &line).unwrap());
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    let header = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-hopguard-id: "));
    let body: Value =
        serde_json::from_str(answer.lines().last().unwrap()).unwrap_or_else(|_| panic!("{answer}"));
    let id = header.unwrap_or_else(|| panic!("{answer}")).trim().to_owned();
    assert_eq!(body["id"], id, "{answer}");
    (status, id)
}

fn bearer(user: &str, flaw: &str) -> String {
    format!("Authorization: Bearer {}", MESH.token(user, flaw).unwrap())
}

fn run(line: &[&str]) -> Output {
    let mut command = hopguard();
    command.args(line).stdin(Stdio::null());
    output_within(Duration::from_secs(60), command).unwrap()
}

fn socket(pod: &str) -> String {
    MESH.file(format!("pods/{pod}/admin.sock"))
        .to_str()
        .unwrap()
        .to_owned()
}

/// The explanation of the sidecar of `pod`, once its record is there.
fn explained(pod: &str, id: &str) -> Value {
    eventually(Duration::from_secs(20), || {
        let output = run(&["-o", "json", "explain", "--socket", &socket(pod), id]);
        if output.status.success() {
            serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
        } else {
            Err(text(&output))
        }
    })
    .unwrap()
}

fn record(pod: &str, id: &str) -> Value {
    eventually(Duration::from_secs(20), || {
        let records = MESH.records(pod);
        records
            .iter()
            .find(|record| record["request_id"] == id)
            .cloned()
            .ok_or("no record of it")
    })
    .unwrap()
}

fn needs(explained: &Value) -> (&str, Vec<&str>) {
    let nearest = &explained["decision"]["nearest"];
    let needs = nearest["needs"]
        .as_array()
        .unwrap_or_else(|| panic!("{explained}"));
    (
        nearest["rule"].as_str().unwrap(),
        needs.iter().filter_map(Value::as_str).collect(),
    )
}

const ORDERS: &str = "http://orders:8080";

#[test]
fn a_missing_role_is_named_and_the_user_stays_hidden() {
    let token = bearer("bob", "none");
    let (status, id) = refused(&["-X", "POST", "-H", &token, &format!("{ORDERS}/order?secret=1")]);
    assert_eq!(status, "403");
    let told = explained("orders", &id);
    assert_eq!(
        needs(&told),
        ("clerks-write", vec!["needs role clerk of corp; has none"])
    );
    assert_eq!(told["peer"], "spiffe://mesh.local/ns/shop/sa/web");
    assert_eq!(
        (&told["verdict"], &told["reason"]),
        (&json!("deny"), &json!("no_rule"))
    );
    assert!(
        told["user"]["hash"].as_str().unwrap().starts_with("h1:"),
        "{told}"
    );
    let whole = told.to_string() + &record("orders", &id).to_string();
    let secret = token.rsplit('.').next().unwrap();
    for hidden in ["bob", "secret", secret] {
        assert!(!whole.contains(hidden), "{hidden}: {whole}");
    }
    // For people, and by the demo's own way to it.
    let shown = text(&run(&["explain", "--socket", &socket("orders"), &id]));
    for words in [
        "refused: 403 no_rule",
        "spiffe://mesh.local/ns/shop/sa/web",
        "+ context has user",
        "- context.user in Role::\"corp|clerk\"  <- needs role clerk of corp; has none",
        "hint: nearest is `clerks-write` (shop.cedar:6): needs role clerk of corp; has none",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let by_demo = text(&run(&["demo", "explain", "--name", &MESH.name, &id]));
    assert_eq!(by_demo, shown);
}

#[test]
fn a_wrong_tenant_is_named_by_the_sidecar_and_from_the_log() {
    let (status, id) = refused(&[
        "-H",
        &bearer("alice", "none"),
        &format!("{ORDERS}/tenants/acme/orders/7"),
    ]);
    assert_eq!(status, "403");
    let wanted = (
        "own-orders",
        vec!["needs claim tenant == \"acme\" (path parameter tenant); has \"shop\""],
    );
    let told = explained("orders", &id);
    assert_eq!(needs(&told), wanted);
    let record = record("orders", &id);
    let inputs = &record["inputs"];
    assert_eq!(
        (&inputs["route"], &inputs["params"], &inputs["user"]["claims"]),
        (
            &json!("shop/orders#getOrder"),
            &json!({"tenant": "acme"}),
            &json!({"tenant": "shop"})
        ),
        "{record}"
    );
    assert!(
        inputs.get("path").is_none() && inputs["user"].get("roles").is_none(),
        "{record}"
    );
    let line = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        line.path(),
        format!("{}\n{record}\n", json!({"request_id": "other"})),
    )
    .unwrap();
    let (mesh, policies) = (MESH.file("mesh/mesh.toml"), MESH.file("mesh/policies"));
    let offline = run(&[
        "-o",
        "json",
        "explain",
        &id,
        "--record",
        line.path().to_str().unwrap(),
        "--mesh",
        mesh.to_str().unwrap(),
        "--policies",
        policies.to_str().unwrap(),
    ]);
    assert!(offline.status.success(), "{}", text(&offline));
    let offline: Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert_eq!(needs(&offline), wanted);
    assert_eq!(
        offline["decision"]["policy_version"],
        record["decision"]["policy_version"]
    );
    assert!(offline.get("notes").is_none(), "{offline}");
}

#[test]
fn a_missing_claim_a_missing_user_and_a_forbid_are_told_apart() {
    let token = bearer("alice", "none");
    let url = format!("{ORDERS}/order");
    let (_, claim) = refused(&["-X", "DELETE", "-H", &token, &url]);
    assert_eq!(
        needs(&explained("orders", &claim)),
        (
            "departments-delete",
            vec!["needs claim department; the token has none of that type"]
        )
    );
    let (status, nobody) = refused(&["-X", "POST", &url]);
    let told = explained("orders", &nobody);
    assert_eq!(
        (status.as_str(), &told["reason"]),
        ("401", &json!("user_required"))
    );
    assert_eq!(
        needs(&told),
        ("clerks-write", vec!["needs a user; there is none"])
    );
    assert!(told.get("user").is_none(), "{told}");
    let (status, patched) = refused(&["-X", "PATCH", "-H", &token, "-H", "x-region: us", &url]);
    let told = explained("orders", &patched);
    assert_eq!((status.as_str(), &told["reason"]), ("403", &json!("forbidden")));
    let hint = told["hint"].as_str().unwrap();
    for words in [
        "`nobody-patches` forbids it (shop.cedar:14)",
        "orders are never patched",
        "has [\"us\"]",
    ] {
        assert!(hint.contains(words), "{hint}");
    }
}

#[test]
fn what_no_policy_refused_is_explained_too() {
    let url = format!("{ORDERS}/order");
    let cases: [(&str, &str, &[&str], &str); 5] = [
        (
            "401",
            "expired",
            &["-H", &bearer("alice", "expired"), &url],
            "get a new token",
        ),
        (
            "401",
            "wrong_aud",
            &["-H", &bearer("alice", "wrong_audience"), &url],
            "audiences",
        ),
        (
            "401",
            "not_bearer",
            &["-u", "alice:x", &url],
            "authorization: Bearer",
        ),
        (
            "400",
            "empty_segment",
            &["http://orders:8080//order"],
            "docs/request-attacks.md",
        ),
        (
            "404",
            "unknown_host",
            &["-H", "Host: evil.example", &url],
            "hosts",
        ),
    ];
    for (status, reason, line, advice) in cases {
        let (came, id) = refused(line);
        assert_eq!(came, status, "{reason}");
        let told = explained("orders", &id);
        assert_eq!(told["reason"], reason, "{told}");
        assert!(told["hint"].as_str().unwrap().contains(advice), "{told}");
        assert!(told.get("decision").is_none(), "{told}");
        assert_eq!(told["peer"], "spiffe://mesh.local/ns/shop/sa/web", "{told}");
    }
    let (status, id) = refused(&["http://10.77.0.99:8080/"]);
    let told = explained("web", &id);
    assert_eq!(
        (status.as_str(), &told["reason"], &told["direction"]),
        ("502", &json!("egress_denied"), &json!("outbound"))
    );
    assert!(told["hint"].as_str().unwrap().contains("egress"), "{told}");
}

#[test]
fn a_denied_connection_is_explained() {
    let _reset = MESH
        .exec(
            "web",
            &["curl", "-sS", "--max-time", "10", "http://payments:9090/"],
        )
        .unwrap();
    let record = eventually(Duration::from_secs(20), || {
        let records = MESH.records("payments");
        let found = records
            .iter()
            .find(|record| record["decision"]["reason"] == "no_rule");
        found.cloned().ok_or("no record says so")
    })
    .unwrap();
    let told = explained("payments", record["request_id"].as_str().unwrap());
    assert_eq!(
        (&told["kind"], &told["called"]),
        (&json!("connection"), &json!("shop/payments:9090"))
    );
    let (rule, needs) = needs(&told);
    assert_eq!(rule, "orders-writes-the-ledger");
    assert!(
        needs[0].contains("the peer is spiffe://mesh.local/ns/shop/sa/web"),
        "{needs:?}"
    );
    assert_eq!(record["inputs"]["peer"], "spiffe://mesh.local/ns/shop/sa/web");
}

#[test]
fn an_unknown_id_says_how_long_ids_are_kept() {
    let output = run(&[
        "explain",
        "--socket",
        &socket("orders"),
        "00112233445566778899aabbccddeeff",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    for words in ["latest 2048 refusals", "60 minutes", "in the log"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(
        run(&["explain", "--socket", &socket("orders"), "../status"])
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        run(&["explain", "--socket", "/nonexistent/admin.sock", "00"])
            .status
            .code(),
        Some(4)
    );
}

#[test]
fn the_version_in_force_is_told_everywhere() {
    let (_, id) = refused(&["-X", "POST", &format!("{ORDERS}/order")]);
    let version = MESH.admin("orders", "policy").unwrap()["version"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        record("orders", &id)["decision"]["policy_version"],
        version.as_str()
    );
    assert_eq!(
        explained("orders", &id)["decision"]["policy_version"],
        version.as_str()
    );
    assert_eq!(
        MESH.admin("orders", "status").unwrap()["policy"]["version"],
        version.as_str()
    );
    let metrics = text(
        &MESH
            .exec(
                "orders",
                &[
                    "curl",
                    "-sS",
                    "--max-time",
                    "10",
                    "http://127.0.0.1:15020/metrics",
                ],
            )
            .unwrap(),
    );
    assert!(metrics.contains(&version), "{version}: {metrics}");
}

/// `hopguard can` with the files of the running mesh, in pod laptop, which has no sidecar and reaches the provider.
#[test]
fn can_decides_as_the_mesh_does_with_tokens_of_the_real_provider() {
    let pid = MESH.ready["pods"]["laptop"]["pid"].as_u64().unwrap();
    let there = Path::new("/proc").join(pid.to_string()).join("root/tmp/can");
    fs::create_dir_all(there.join("policies")).unwrap();
    for file in ["mesh.toml", "idp-ca.pem", "policies/shop.cedar"] {
        fs::copy(MESH.file(Path::new("mesh").join(file)), there.join(file)).unwrap();
    }
    for (user, method, path) in [
        ("alice", "POST", "sink"),
        ("bob", "POST", "sink"),
        ("alice", "GET", "tenants/shop/orders/7"),
        ("alice", "GET", "tenants/bob/orders/7"),
        ("bob", "DELETE", "sink"),
        ("alice", "PATCH", "sink"),
    ] {
        let token = MESH.token(user, "none").unwrap();
        fs::write(there.join("token"), &token).unwrap();
        let program = hopguard_bin();
        let target = format!("orders/{path}");
        let line = [
            program.to_str().unwrap(),
            "-o",
            "json",
            "can",
            "--mesh",
            "/tmp/can/mesh.toml",
            "--policies",
            "/tmp/can/policies",
            "--from",
            "web",
            "--token",
            "/tmp/can/token",
            method,
            &target,
        ];
        let output = MESH.exec("laptop", &line).unwrap();
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        assert_eq!(said["user"]["sub"], user, "{said}");
        let url = format!("{ORDERS}/{path}");
        let header = format!("Authorization: Bearer {token}");
        let status = "%{http_code}";
        let curl = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            status,
            "--max-time",
            "20",
            "-X",
            method,
            "-H",
            &header,
            &url,
        ];
        let came = text(&MESH.exec("web", &curl).unwrap());
        let passed = !["401", "403"].contains(&came.as_str());
        assert_eq!(
            said["allowed"], passed,
            "{method} {path} of {user}: {came}, {said}"
        );
        assert_eq!(output.status.code(), Some(i32::from(!passed)));
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies")
}

/// `hopguard can` on examples/policies.
fn can(line: &[&str]) -> Output {
    let folder = examples();
    let mesh = folder.join("mesh.toml");
    let mut all = vec![
        "can",
        "--mesh",
        mesh.to_str().unwrap(),
        "--policies",
        folder.to_str().unwrap(),
    ];
    all.extend(line);
    run(&all)
}

const AT: [&str; 2] = ["--at", "2026-11-24T12:00:00Z"];

#[test]
fn can_answers_as_the_examples_say() {
    let dir = tempfile::tempdir().unwrap();
    let claims = |name: &str, claims: Value| {
        let path = dir.path().join(name);
        fs::write(&path, claims.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let iss = "https://idp.example.org";
    let clerk = claims(
        "clerk",
        json!({"iss": iss, "sub": "alice", "roles": ["clerk"], "tenant": "acme"}),
    );
    let reader = claims(
        "reader",
        json!({"iss": iss, "sub": "bob", "roles": ["reader"], "tenant": "other"}),
    );
    let charge = ["POST", "payments/charges"];
    let mesh = examples().join("mesh.toml");
    let mesh = mesh.to_str().unwrap();
    let with = |more: &[&str]| can(&[&AT, more].concat());
    let table: &[(&[&str], i32, &[&str])] = &[
        (
            &["--from", "orders", "--user-claims", &clerk, charge[0], charge[1]],
            0,
            &["allowed: allowed", "alice of corp"],
        ),
        (
            &["--from", "orders", "--user-claims", &reader, charge[0], charge[1]],
            1,
            &[
                "denied: 403 no_rule",
                "needs role clerk of corp; has reader",
                "20-users.cedar:19",
            ],
        ),
        (
            &["--from", "orders", charge[0], charge[1]],
            1,
            &["denied: 401 user_required", "needs a user; there is none"],
        ),
        (
            &["--from", "web", "--user-claims", &clerk, charge[0], charge[1]],
            1,
            &[
                "no permit fits caller, action and service; nearest is `clerks-charge`",
                "the peer is spiffe://mesh.local/ns/shop/sa/web",
            ],
        ),
        (
            &[
                "--from",
                "shop/web",
                "--user-claims",
                &reader,
                "GET",
                "shop/orders:8080/tenants/acme/orders/7?x=1",
            ],
            1,
            &[
                "needs claim tenant == \"acme\" (path parameter tenant); has \"other\"",
                "shop/orders#getOrder",
            ],
        ),
        (
            &[
                "--from",
                "web",
                "--user-claims",
                &clerk,
                "GET",
                "http://orders.shop/tenants/acme/orders/7",
            ],
            0,
            &["allowed"],
        ),
        (
            &[
                "--from",
                "spiffe://mesh.local/ns/monitoring/sa/prom",
                "GET",
                "payments/metrics",
            ],
            0,
            &["monitoring"],
        ),
        (&["--from", "plaintext", "GET", "web/"], 0, &["visitors"]),
        (
            &["--from", "plaintext", "POST", "web/x"],
            1,
            &["no-writes-without-identity", "needs a user; there is none"],
        ),
        (
            &["--from", "plaintext", charge[0], charge[1]],
            1,
            &["plaintext_on_strict_port"],
        ),
        (
            &["--from", "payments", "connect", "ledger"],
            0,
            &["payments-keeps-the-ledger"],
        ),
        (
            &["--from", "orders", "connect", "ledger:5432"],
            1,
            &["payments-keeps-the-ledger", "the peer is"],
        ),
        (
            &["--from", "web", "GET", "payments//charges"],
            1,
            &["denied: 400 empty_segment"],
        ),
        (
            &["--from", "nobody", "GET", "web/"],
            2,
            &["begins with no service", "shop/payments"],
        ),
        (
            &["--from", "web", "GET", "nowhere/x"],
            2,
            &["there are: shop/web"],
        ),
        (
            &["--from", "web", "connect", "payments"],
            2,
            &["no such opaque port"],
        ),
        (
            &["--from", "web", "--issuer", "x", "GET", "web/"],
            2,
            &["--user-claims"],
        ),
        (
            &["--from", "web", "--user-claims", "/nonexistent", "GET", "web/"],
            3,
            &["/nonexistent"],
        ),
    ];
    for (line, code, words) in table {
        let output = with(line);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(*code), "{line:?}: {said}");
        for word in *words {
            assert!(said.contains(word), "{line:?}: `{word}` is not in {said}");
        }
    }
    let closed = can(&[
        "--at",
        "2026-12-31T12:00:00Z",
        "--from",
        "orders",
        "--user-claims",
        &clerk,
        charge[0],
        charge[1],
    ]);
    assert_eq!(closed.status.code(), Some(1));
    assert!(
        text(&closed).contains("`inventory-days` forbids it"),
        "{}",
        text(&closed)
    );
    let nowhere = run(&[
        "can",
        "--policies",
        "/nonexistent",
        "--mesh",
        mesh,
        "--from",
        "web",
        "GET",
        "web/",
    ]);
    assert_eq!(nowhere.status.code(), Some(3), "{}", text(&nowhere));
    let region = with(&[
        "-o",
        "json",
        "--from",
        "web",
        "--user-claims",
        &clerk,
        "--header",
        "x-region=us",
        "GET",
        "orders/tenants/acme/orders/7",
    ]);
    let said: Value = serde_json::from_slice(&region.stdout).unwrap();
    assert_eq!(
        (&said["allowed"], &said["decision"]["shadow"]),
        (&json!(true), &json!(["eu-only"])),
        "{said}"
    );
}

#[test]
fn can_says_why_a_token_would_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": x, "y": y}]});
    let keys = dir.path().join("jwks.json");
    fs::write(&keys, jwks.to_string()).unwrap();
    let token = |claims: Value| {
        let key = jsonwebtoken::EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("k".to_owned());
        let path = dir.path().join("token");
        fs::write(
            &path,
            jsonwebtoken::encode(&header, &claims, &key).unwrap() + "\n",
        )
        .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let iss = "https://idp.example.org";
    // AT is 1795521600.
    for (claims, code, words) in [
        (
            json!({"iss": iss, "sub": "a", "aud": "shop", "exp": 1_795_525_000, "roles": ["clerk"]}),
            0,
            "allowed: allowed",
        ),
        (
            json!({"iss": iss, "sub": "a", "aud": "shop", "exp": 1_795_520_000}),
            1,
            "denied: 401 expired",
        ),
        (
            json!({"iss": iss, "sub": "a", "aud": "other", "exp": 1_795_525_000}),
            1,
            "denied: 401 wrong_aud",
        ),
        (
            json!({"iss": "https://evil", "sub": "a", "aud": "shop", "exp": 1_795_525_000}),
            1,
            "denied: 401 unknown_issuer",
        ),
        (
            json!({"iss": iss, "aud": "shop", "exp": 1_795_525_000}),
            1,
            "denied: 401 bad_claim",
        ),
    ] {
        let token = token(claims);
        let (keys, at) = (keys.to_str().unwrap(), AT);
        let output = can(&[
            at[0],
            at[1],
            "--from",
            "orders",
            "--token",
            &token,
            "--jwks",
            keys,
            "POST",
            "payments/charges",
        ]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(words), "{words}: {}", text(&output));
    }
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, "[]").unwrap();
    let good = token(json!({"iss": iss, "sub": "a", "aud": "shop", "exp": 1_795_525_000}));
    let output = can(&[
        "--from",
        "orders",
        "--token",
        &good,
        "--jwks",
        garbage.to_str().unwrap(),
        "POST",
        "payments/charges",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let mut piped = Command::new(hopguard_bin());
    piped
        .args([
            "can",
            "--mesh",
            examples().join("mesh.toml").to_str().unwrap(),
            "--policies",
            examples().to_str().unwrap(),
        ])
        .args(["--from", "orders", "--token", "-", "POST", "payments/charges"])
        .stdin(fs::File::open(dir.path().join("garbage")).unwrap());
    let output = output_within(Duration::from_secs(60), piped).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("401 malformed"), "{}", text(&output));
}
