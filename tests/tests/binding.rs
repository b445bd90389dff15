//! Tokens that are their sender's: taken from where the port says, and refused to whoever else has them, by `bind`, by the
//! caller's certificate and by DPoP; asked on every request, also for a token that was just taken from its owner.

#![cfg(test)]

use std::fs;
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hopguard_tests::{Guard, Mesh, Options, eventually, folder, hopguard_bin};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// Whoever carries a user's token is allowed: what is refused is refused for the token alone.
const POLICY: &str = r#"@id("signed-in")
permit(principal, action in Action::"http", resource) when { context has user };
@id("nobody-deletes-for-others")
forbid(principal, action in Action::"DELETE", resource) when { context has actor };
"#;

/// Web takes tokens from cookie and query, and proofs; orders takes web's tokens (the demo's own setting), and proofs with a
/// nonce; payments gives its application no token, and has a route that names its caller otherwise.
const SETTINGS: [&str; 8] = [
    r#"mesh:service.0.port.0.token_from={ cookie = "session", query = "access_token" }"#,
    r#"mesh:service.0.port.0.dpop="accept""#,
    r#"mesh:service.0.port.0.public_url="http://web:8080""#,
    r#"mesh:service.1.port.0.dpop="accept""#,
    r#"mesh:service.1.port.0.public_url="http://orders:8080""#,
    "mesh:service.1.port.0.dpop_nonce=true",
    "mesh:service.2.port.0.forward_token=false",
    r#"mesh:service.2.route=[{ name = "charge", methods = ["POST"], path = "/charge", bind = "caller", bind_claim = ["https://idp.example/by", "work.load"] }]"#,
];

fn start(settings: &[&str]) -> Mesh {
    let dir = folder(&[("policies/all.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        set: settings.iter().map(|one| (*one).to_owned()).collect(),
        ..Options::default()
    })
    .unwrap()
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| start(&SETTINGS));

fn id(pod: &str) -> String {
    format!("spiffe://mesh.local/ns/shop/sa/{pod}")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// curl in a pod: status line, headers and body.
fn curl(pod: &str, more: &[&str]) -> String {
    let line: Vec<&str> = ["curl", "-sSi", "--max-time", "20"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    text(&MESH.exec(pod, &line).unwrap())
}

/// The same with a token in `Authorization`, and further arguments before the URL.
fn call(pod: &str, scheme: &str, token: &str, more: &[&str]) -> String {
    let header = format!("Authorization: {scheme} {token}");
    curl(pod, &[&["-H", header.as_str()], more].concat())
}

#[track_caller]
fn answered(answer: &str, status: u16, words: &[&str]) {
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")) && words.iter().all(|word| answer.contains(word)),
        "wanted {status} with {words:?}: {answer}"
    );
}

/// What the application received, of an answer to `/headers`.
fn received(answer: &str) -> Value {
    serde_json::from_str(answer.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{answer}"))
}

/// A record of `pod` that `found` wants.
fn record(mesh: &Mesh, pod: &str, found: impl Fn(&Value) -> bool) -> Value {
    eventually(Duration::from_secs(20), || {
        mesh.records(pod)
            .into_iter()
            .rev()
            .find(&found)
            .ok_or("no such record")
    })
    .unwrap()
}

#[test]
fn a_token_counts_for_the_workload_that_it_names_and_for_no_other() {
    let url = "http://orders:8080/headers";
    let token = MESH.token("alice", "none").unwrap();
    for _ in 0..2 {
        answered(&call("web", "Bearer", &token, &[url]), 200, &[]);
        // Known from web by now, and still not for payments.
        let replayed = call("payments", "Bearer", &token, &[url]);
        answered(
            &replayed,
            401,
            &[
                "not_bound_to_caller",
                "Bearer realm=\"hopguard\", error=\"invalid_token\", error_description=",
            ],
        );
    }
    let told = record(&MESH, "orders", |record| {
        record["decision"]["reason"] == "not_bound_to_caller" && record["src"]["spiffe_id"] == id("payments")
    });
    // Both identities are told: who sent it, and whom and what the token names. The user counts as none.
    assert!(told["user"].to_string().contains("alice"), "{told}");
    assert_eq!(told["user"]["client_id"], id("web"), "{told}");
    assert_eq!(
        (&told["identity_state"], &told["flags"]),
        (&"mtls".into(), &json!(["user_not_bound"])),
        "{told}"
    );
    // Exchanged by payments: its own now, and web's no more.
    let exchanged = MESH
        .token_with("alice", &json!({"act": {"sub": id("payments")}}))
        .unwrap();
    answered(&call("payments", "Bearer", &exchanged, &[url]), 200, &[]);
    answered(
        &call("web", "Bearer", &exchanged, &[url]),
        401,
        &["not_bound_to_caller"],
    );
    for claims in [
        json!({"azp": null}),
        json!({"azp": "web"}),
        json!({"azp": [id("web")]}),
    ] {
        let token = MESH.token_with("alice", &claims).unwrap();
        answered(
            &call("web", "Bearer", &token, &[url]),
            401,
            &["not_bound_to_caller"],
        );
    }
    let client = MESH
        .token_with("alice", &json!({"azp": null, "client_id": id("web")}))
        .unwrap();
    answered(&call("web", "Bearer", &client, &[url]), 200, &[]);
    // Without a token there is nothing to bind: the policy decides.
    answered(
        &curl("web", &[url]),
        401,
        &["user_required", "DPoP realm=\"hopguard\", algs=\"RS256 "],
    );
}

#[test]
fn a_route_binds_whatever_its_path_is_spelled_like() {
    let by = |pod: &str| json!({"azp": null, "https://idp.example/by": {"work.load": id(pod)}});
    let (own, other) = (
        MESH.token_with("alice", &by("orders")).unwrap(),
        MESH.token_with("alice", &by("web")).unwrap(),
    );
    let post = |token: &str, path: &str| {
        let url = format!("http://payments:8080{path}");
        call("orders", "Bearer", token, &["--path-as-is", "-X", "POST", &url])
    };
    // Allowed, the second spelling reaches an application that does not decode it.
    for (path, status) in [("/charge", 200), ("/%63harge", 404), ("/charge?x=1", 200)] {
        answered(&post(&own, path), status, &["payments"]);
        answered(&post(&other, path), 401, &["not_bound_to_caller"]);
    }
    // What an application may take for the route has its binding too, whatever the policy makes of it.
    for (method, path) in [
        ("POST", "/charge/"),
        ("PUT", "/charge"),
        ("post", "/charge"),
        ("post", "/charge/"),
    ] {
        let url = format!("http://payments:8080{path}");
        let near = call("orders", "Bearer", &other, &["-X", method, &url]);
        answered(&near, 401, &["not_bound_to_caller"]);
    }
    // What is neither is decided as what it is.
    answered(
        &call("orders", "Bearer", &other, &["http://payments:8080/headers"]),
        200,
        &[],
    );
}

/// The thumbprint of the SVID of `of`, which is laid into pod stranger.
fn thumbprint(of: &str) -> (String, String) {
    let there = MESH.svid(of, "stranger").unwrap();
    let pem = fs::read(MESH.file(format!("stolen-{of}")).join("svid.0.pem")).unwrap();
    let leaf = CertificateDer::from_pem_slice(&pem).unwrap();
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let hash = suite.common.hash_provider.hash(&leaf);
    (there, BASE64.encode(hash.as_ref()))
}

#[test]
fn a_token_of_a_certificate_is_taken_on_its_connection_alone() {
    let (own, x5t) = thumbprint("orders");
    let (other, _) = thumbprint("web");
    let token = MESH
        .token_with("alice", &json!({"cnf": {"x5t#S256": x5t}}))
        .unwrap();
    let program = hopguard_bin().with_file_name("hopguard-hbone");
    let program = program.to_str().unwrap();
    let say = format!(
        "GET /headers HTTP/1.1\\r\\nHost: payments\\r\\nAuthorization: Bearer {token}\\r\\nConnection: close\\r\\n\\r\\n"
    );
    let by = |svid: &str| {
        let to = ["--to", "10.77.0.13:15008", "--authority", "10.77.0.13:8080"];
        let line = [&[program, "--svid", svid][..], &to, &["--say", &say]].concat();
        text(&MESH.exec("stranger", &line).unwrap())
    };
    let taken = by(&own);
    assert!(taken.starts_with("200\nHTTP/1.1 200 "), "{taken}");
    let refused = by(&other);
    assert!(
        refused.starts_with("200\nHTTP/1.1 401 ") && refused.contains("not_bound_to_certificate"),
        "{refused}"
    );
    // Nobody has to ask for it: what is bound is never taken from another, nor from nobody.
    answered(
        &call("laptop", "Bearer", &token, &["http://web:8080/headers"]),
        401,
        &["not_bound_to_certificate"],
    );
    for cnf in [
        json!({}),
        json!({"kid": "one"}),
        json!({"x5t#S256": x5t, "x5u": "https://x"}),
    ] {
        let token = MESH.token_with("alice", &json!({"cnf": cnf})).unwrap();
        let refused = call("laptop", "Bearer", &token, &["http://web:8080/headers"]);
        answered(&refused, 401, &["bad_claim", "cnf is not understood"]);
    }
}

/// A client's key for proofs.
struct Key {
    pair: KeyPair,
    jwk: Value,
}

impl Key {
    fn new() -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let (x, y) = pair.der_bytes()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)});
        Self { pair, jwk }
    }

    /// RFC 7638.
    fn thumbprint(&self) -> String {
        let text = |name: &str| self.jwk[name].as_str().unwrap().to_owned();
        hash(&format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            text("x"),
            text("y")
        ))
    }

    /// A proof of its own name for a request with `token`; `more` replaces its claims.
    fn proof(&self, request: (&str, &str), token: &str, more: Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("dpop+jwt".to_owned());
        header.jwk = Some(serde_json::from_value(self.jwk.clone()).unwrap());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut claims = json!({
            "jti": format!("{:?}", now), "htm": request.0, "htu": request.1, "iat": now.as_secs(), "ath": hash(token),
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        format!("DPoP: {}", jsonwebtoken::encode(&header, &claims, &key).unwrap())
    }
}

fn hash(text: &str) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    BASE64.encode(suite.common.hash_provider.hash(text.as_bytes()).as_ref())
}

#[test]
fn a_token_of_a_key_is_taken_with_a_fresh_proof_for_this_request_alone() {
    let url = "http://web:8080/headers";
    let (key, other) = (Key::new(), Key::new());
    let token = MESH
        .token_with("alice", &json!({"cnf": {"jkt": key.thumbprint()}}))
        .unwrap();
    let get = ("GET", url);
    let send = |proof: &str| call("laptop", "DPoP", &token, &["-H", proof, url]);
    let proof = key.proof(get, &token, json!({}));
    answered(&send(&proof), 200, &[]);
    let challenge = "DPoP realm=\"hopguard\", algs=\"RS256 ";
    let error = "error=\"invalid_dpop_proof\"";
    answered(
        &send(&proof),
        401,
        &["invalid_dpop_proof", challenge, error, "used before"],
    );
    let query = format!("{url}?access=1");
    let with_query = key.proof(get, &token, json!({}));
    answered(
        &call("laptop", "dpop", &token, &["-H", &with_query, &query]),
        200,
        &[],
    );
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    for (what, proof) in [
        ("another method", key.proof(("POST", url), &token, json!({}))),
        (
            "another path",
            key.proof(("GET", "http://web:8080/order"), &token, json!({})),
        ),
        (
            "another host",
            key.proof(("GET", "http://orders:8080/headers"), &token, json!({})),
        ),
        ("another token", key.proof(get, "x.y.z", json!({}))),
        ("too old", key.proof(get, &token, json!({"iat": now - 120}))),
        ("to come", key.proof(get, &token, json!({"iat": now + 120}))),
        ("nothing", "x: y".to_owned()),
        ("garbage", "DPoP: a.b.c".to_owned()),
    ] {
        let answer = send(&proof);
        assert!(
            answer.starts_with("HTTP/1.1 401 ") && answer.contains(error),
            "{what}: {answer}"
        );
    }
    let (one, two) = (
        key.proof(get, &token, json!({})),
        key.proof(get, &token, json!({})),
    );
    answered(
        &call("laptop", "DPoP", &token, &["-H", &one, "-H", &two, url]),
        401,
        &[error],
    );
    let stolen = other.proof(get, &token, json!({}));
    answered(&send(&stolen), 401, &["wrong_key", "error=\"invalid_token\""]);
    let good = key.proof(get, &token, json!({}));
    answered(
        &call("laptop", "Bearer", &token, &["-H", &good, url]),
        401,
        &[
            "dpop_required",
            challenge,
            "Bearer realm=\"hopguard\", error=\"invalid_token\"",
        ],
    );
    let free = MESH.token("alice", "none").unwrap();
    let proof = key.proof(get, &free, json!({}));
    answered(
        &call("laptop", "DPoP", &free, &["-H", &proof, url]),
        401,
        &["not_bound_to_key"],
    );
    answered(&call("laptop", "Bearer", &free, &[url]), 200, &[]);
    // Payments takes none.
    let proof = key.proof(("GET", "http://payments:8080/headers"), &token, json!({}));
    let refused = call(
        "orders",
        "DPoP",
        &token,
        &["-H", &proof, "http://payments:8080/headers"],
    );
    answered(&refused, 401, &["dpop_not_accepted"]);
}

#[test]
fn a_nonce_is_handed_out_and_then_demanded() {
    let url = "http://orders:8080/headers";
    let key = Key::new();
    let token = MESH
        .token_with("alice", &json!({"cnf": {"jkt": key.thumbprint()}}))
        .unwrap();
    let send = |more: Value| {
        let proof = key.proof(("GET", url), &token, more);
        call("web", "DPoP", &token, &["-H", &proof, url])
    };
    let nonce_of = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("dpop-nonce: "));
        line.unwrap_or_else(|| panic!("{answer}")).trim().to_owned()
    };
    let first = send(json!({}));
    answered(
        &first,
        401,
        &[
            "use_dpop_nonce",
            "DPoP realm=\"hopguard\"",
            "error=\"use_dpop_nonce\"",
        ],
    );
    answered(&send(json!({"nonce": "made-up"})), 401, &["use_dpop_nonce"]);
    let good = eventually(Duration::from_secs(30), || {
        // A nonce may end between two requests, and then there is another.
        let answer = send(json!({"nonce": nonce_of(&send(json!({})))}));
        if answer.starts_with("HTTP/1.1 200 ") {
            Ok(answer)
        } else {
            Err(answer)
        }
    });
    good.unwrap();
    // Both bindings hold: the key is right, and payments is not web.
    let proof = key.proof(("GET", url), &token, json!({"nonce": nonce_of(&first)}));
    let replayed = call("payments", "DPoP", &token, &["-H", &proof, url]);
    answered(&replayed, 401, &["not_bound_to_caller"]);
}

#[test]
fn a_token_stands_in_one_place_that_is_configured() {
    let token = MESH.token("alice", "none").unwrap();
    let (bearer, cookie) = (
        format!("Authorization: Bearer {token}"),
        format!("Cookie: a=b; session={token}"),
    );
    let (url, query) = (
        "http://web:8080/headers".to_owned(),
        format!("http://web:8080/headers?x=1&access_token={token}"),
    );
    for line in [&["-H", &cookie, &url][..], &[&query], &["-H", &bearer, &url]] {
        let answer = curl("laptop", line);
        answered(&answer, 200, &["alice"]);
        assert!(
            received(&answer).to_string().contains(&token),
            "kept for the application: {answer}"
        );
    }
    let twice = format!("Cookie: session={token}; session={token}");
    for line in [
        &["-H", &bearer, "-H", &cookie, &url][..],
        &["-H", &bearer, &query],
        &["-H", &cookie, &query],
        &["-H", &twice, &url],
    ] {
        answered(
            &curl("laptop", line),
            401,
            &["two_tokens", "error=\"invalid_token\""],
        );
    }
    answered(
        &curl("laptop", &["-H", "Cookie: session=x.y.z", &url]),
        401,
        &["malformed"],
    );
    // Orders looks at neither.
    let elsewhere = format!("http://orders:8080/headers?access_token={token}");
    answered(
        &curl("web", &["-H", &cookie, &elsewhere]),
        401,
        &["user_required"],
    );
    record(&MESH, "web", |record| {
        record["decision"]["reason"] == "two_tokens"
    });
    for pod in ["web", "orders"] {
        let file = fs::read_to_string(MESH.file(format!("pods/{pod}/records.jsonl"))).unwrap();
        assert!(
            !file.contains(&token) && !MESH.log(pod).contains(&token),
            "{pod} wrote a token down"
        );
        assert!(!file.contains("access_token"), "{pod} wrote a query down");
    }
}

#[test]
fn an_application_that_shall_not_have_the_token_does_not_get_it() {
    let token = MESH.token("alice", "none").unwrap();
    let answer = call(
        "orders",
        "Bearer",
        &token,
        &["-H", "Cookie: a=b", "http://payments:8080/headers?x=1"],
    );
    answered(&answer, 200, &[]);
    let got = received(&answer);
    let sent = got.to_string();
    assert!(
        !sent.contains("authorization") && !sent.contains(&token),
        "{sent}"
    );
    assert!(sent.contains("x-hopguard-user") && sent.contains("a=b"), "{sent}");
    assert_eq!(got["target"], "/headers?x=1");
}

#[test]
fn who_acts_for_a_user_is_decided_on_and_recorded() {
    let chain = json!({"act": {"sub": "bot", "name": "ignored", "act": {"sub": "desk"}}});
    let acted = MESH.token_with("alice", &chain).unwrap();
    let url = "http://web:8080/headers";
    let free = MESH.token("alice", "none").unwrap();
    answered(&call("laptop", "Bearer", &free, &["-X", "DELETE", url]), 200, &[]);
    answered(
        &call("laptop", "Bearer", &acted, &["-X", "DELETE", url]),
        403,
        &["forbidden"],
    );
    let read = call("laptop", "Bearer", &acted, &[url]);
    answered(&read, 200, &[]);
    let user = received(&read)["headers"].to_string();
    assert!(user.contains(r#"\"act\":[\"bot\",\"desk\"]"#), "{user}");
    let seen = record(&MESH, "web", |record| record["user"]["act"].is_array());
    assert_eq!(
        seen["user"]["act"],
        json!([{"iss": "corp", "sub": "bot"}, {"iss": "corp", "sub": "desk"}]),
        "{seen}"
    );
    for act in [
        json!("bot"),
        json!({"sub": 7}),
        json!({"sub": "bot", "iss": "https://elsewhere"}),
    ] {
        let token = MESH.token_with("alice", &json!({"act": act})).unwrap();
        answered(&call("laptop", "Bearer", &token, &[url]), 401, &["bad_claim"]);
    }
}

/// A request whose answer takes a minute.
fn slow(mesh: &Mesh, pod: &str, token: &str) -> Guard {
    let header = format!("Authorization: Bearer {token}");
    let line = [
        "curl",
        "-sS",
        "--max-time",
        "55",
        "-H",
        &header,
        "http://orders:8080/slow/60000",
    ];
    let mut command = mesh.command(pod, &line);
    Guard(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

#[test]
fn what_is_open_ends_when_its_token_must_be_bound() {
    let mesh = start(&["mesh:service.1.port.0.bind=\"none\""]);
    let token = mesh.token("alice", "none").unwrap();
    let before = mesh.counted("orders").unwrap();
    let (mut own, mut stolen) = (slow(&mesh, "web", &token), slow(&mesh, "payments", &token));
    eventually(Duration::from_secs(20), || {
        let seen = mesh.counted("orders").unwrap();
        if seen == before + 2 {
            Ok(())
        } else {
            Err(format!("{seen} requests"))
        }
    })
    .unwrap();
    let file = fs::read_to_string(mesh.file("mesh/mesh.toml")).unwrap();
    let bound = file.replace("bind = \"none\"", "bind = \"caller\"");
    assert_ne!(file, bound);
    mesh.put("mesh/mesh.toml", &bound).unwrap();
    let cut = record(&mesh, "orders", |record| record["error"] == "token_revoked");
    assert_eq!(cut["src"]["spiffe_id"], id("payments"), "{cut}");
    eventually(Duration::from_secs(20), || match stolen.0.try_wait() {
        Ok(Some(status)) if !status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(own.0.try_wait().unwrap().is_none(), "web's own goes on");
    let header = format!("Authorization: Bearer {token}");
    let replay = [
        "curl",
        "-sSi",
        "--max-time",
        "20",
        "-H",
        &header,
        "http://orders:8080/headers",
    ];
    answered(
        &text(&mesh.exec("payments", &replay).unwrap()),
        401,
        &["not_bound_to_caller"],
    );
    assert_eq!(
        mesh.counted("orders").unwrap(),
        before + 2,
        "the application saw the replay"
    );
    answered(&text(&mesh.exec("web", &replay).unwrap()), 200, &[]);
}
