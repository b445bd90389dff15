//! The signed statement for the application: what was proven arrives so that a stock JWT library can check it, what came under
//! its name from outside does not, and without it nothing is forwarded.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{Mesh, Options, eventually, folder, succeeded};
use serde_json::{Value, json};

const POLICIES: &str = r#"
@id("web-does-anything")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders");
@id("the-front-door-is-open")
permit(principal is Plaintext, action in Action::"http", resource == Service::"shop/web");
"#;

const ORDERS: &str = "spiffe://mesh.local/ns/shop/sa/orders";
const KEYS: &str = "http://127.0.0.1:15024/.well-known/jwks.json";

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let files = folder(&[("policies/assertion.cedar", POLICIES)]);
    let set = [
        "sidecar.orders:assertion.request=true",
        "sidecar.web:assertion.audience=\"the-shop\"",
    ];
    Mesh::start(&Options {
        dir: Some(files.path().to_path_buf()),
        set: set.iter().map(|one| (*one).to_owned()).collect(),
        ..Options::default()
    })
    .unwrap()
});

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

/// What the application got, asked for from `pod`.
fn received(pod: &str, url: &str, more: &[&str]) -> Vec<(String, String)> {
    // Made before a statement is: that is short-lived.
    LazyLock::force(&PYTHON);
    let line: Vec<&str> = ["curl", "-sS", "--max-time", "20", url]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let text = succeeded(MESH.exec(pod, &line).unwrap()).unwrap();
    let said: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let headers = said["headers"].as_array().unwrap_or_else(|| panic!("{text}"));
    headers
        .iter()
        .map(|pair| {
            (
                pair[0].as_str().unwrap().to_owned(),
                pair[1].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

/// The one statement among the headers.
fn statement(headers: &[(String, String)]) -> String {
    let mut found = headers
        .iter()
        .filter(|(name, _)| name.replace('_', "-").contains("assertion"));
    let (name, value) = found.next().expect("a statement");
    assert_eq!((name.as_str(), found.next()), ("x-hopguard-assertion", None));
    value.clone()
}

/// What PyJWT makes of a statement, in `pod`.
fn checked(
    pod: &str,
    (keys, audience, issuer): (&str, &str, &str),
    statement: &str,
) -> Result<Value, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/assertion.py");
    let python = PYTHON.to_str().unwrap();
    let output = MESH
        .exec(pod, &[python, script, keys, audience, issuer, statement])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        assert!(
            said.starts_with("refused:"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return Err(said);
    }
    Ok(serde_json::from_str(&said).unwrap())
}

#[test]
fn a_stock_library_in_the_application_verifies_caller_and_user() {
    let token = MESH.token("alice", "none").unwrap();
    let bearer = format!("authorization: Bearer {token}");
    let forged = [
        "-H",
        "x-hopguard-assertion: forged",
        "-H",
        "X_Hopguard_Assertion: forged",
        "-H",
        "x.hopguard.assertion: forged",
    ];
    let more = [&["-H", bearer.as_str()][..], &forged[..]].concat();
    let headers = received("web", "http://orders:8080/headers?x=1", &more);
    let statement = statement(&headers);
    assert!(!statement.contains("forged"));

    for keys in [KEYS, "http://[::1]:15024/.well-known/jwks.json"] {
        let mut said = checked("orders", (keys, "shop/orders", ORDERS), &statement).unwrap();
        let (iat, exp) = (said["iat"].as_i64().unwrap(), said["exp"].as_i64().unwrap());
        assert_eq!(exp - iat, 30);
        // The decision is the one in the record.
        let id = said["jti"].as_str().unwrap().to_owned();
        eventually(Duration::from_secs(20), || {
            let records = MESH.records("orders");
            let found = records.iter().any(|record| record["request_id"] == id.as_str());
            if found {
                Ok(())
            } else {
                Err(format!("no record of {id}: {:?}", records.last()))
            }
        })
        .unwrap();
        for name in ["iat", "exp", "jti"] {
            said.as_object_mut().unwrap().remove(name);
        }
        assert_eq!(
            said,
            json!({"iss": ORDERS, "aud": "shop/orders", "caller": "spiffe://mesh.local/ns/shop/sa/web",
                "user": {"iss": "https://idp:8443", "sub": "alice", "roles": ["clerk"]},
                "request": {"method": "GET", "path": "/headers", "host": "orders"}})
        );
    }
    let refused = |audience, issuer, statement: &str| {
        checked("orders", (KEYS, audience, issuer), statement).unwrap_err()
    };
    assert!(refused("shop/payments", ORDERS, &statement).contains("InvalidAudienceError"));
    assert!(refused("shop/orders", "spiffe://mesh.local/other", &statement).contains("InvalidIssuerError"));
    let (head, signature) = statement.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let turned = format!("{other}{}", &signature[1..]);
    assert!(refused("shop/orders", ORDERS, &format!("{head}.{turned}")).contains("InvalidSignatureError"));
    // It is no user token: neither here nor at another hop.
    let replayed = format!("authorization: Bearer {statement}");
    let line = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://orders:8080/",
        "-H",
        &replayed,
    ];
    assert_eq!(succeeded(MESH.exec("web", &line).unwrap()).unwrap(), "401");
}

#[test]
fn it_says_who_was_not_proven_and_what_it_was_not_asked_it_does_not_say() {
    let headers = received("laptop", "http://web:8080/headers", &[]);
    let said = checked(
        "web",
        (KEYS, "the-shop", "spiffe://mesh.local/ns/shop/sa/web"),
        &statement(&headers),
    )
    .unwrap();
    let names: BTreeSet<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "caller", "exp", "iat", "iss", "jti"].into());
    assert_eq!(said["caller"], Value::Null);
    let headers = received("web", "http://orders:8080/headers", &[]);
    let said = checked("orders", (KEYS, "shop/orders", ORDERS), &statement(&headers)).unwrap();
    assert_eq!(
        (said["caller"].as_str(), said.get("user")),
        (Some("spiffe://mesh.local/ns/shop/sa/web"), None)
    );
}

#[test]
fn the_application_gets_what_the_table_of_headers_says() {
    let token = MESH.token("alice", "none").unwrap();
    let bearer = format!("authorization: Bearer {token}");
    let headers = received(
        "web",
        "http://orders:8080/headers",
        &["-H", &bearer, "-H", "x-own: 1"],
    );
    let sent = ["host", "user-agent", "accept", "authorization", "x-own"];
    let got: BTreeSet<String> = headers.into_iter().map(|(name, _)| name).collect();
    let written: BTreeSet<String> = got
        .into_iter()
        .filter(|name| !sent.contains(&name.as_str()))
        .collect();
    let table = include_str!("../../docs/headers.md");
    let documented: BTreeSet<String> = table
        .lines()
        .filter(|line| line.contains("removed, then written") || line.ends_with("; written |"))
        .map(|line| line.split('`').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(written, documented);
}

#[test]
fn what_cannot_be_signed_is_not_forwarded() {
    let before = MESH.counted("orders").unwrap();
    let long = format!("http://orders:8080/{}", "a".repeat(6_000));
    let line = ["curl", "-sS", "-w", "\n%{http_code}", long.as_str()];
    let said = succeeded(MESH.exec("web", &line).unwrap()).unwrap();
    assert!(
        said.ends_with("\n503") && said.contains("assertion_failed"),
        "{said}"
    );
    assert_eq!(
        MESH.counted("orders").unwrap(),
        before,
        "the application saw nothing of it"
    );
    eventually(Duration::from_secs(20), || {
        let records = MESH.records("orders");
        let told = records
            .iter()
            .any(|record| record.to_string().contains("assertion_failed"));
        if told { Ok(()) } else { Err("no record tells") }
    })
    .unwrap();
}

#[test]
fn the_keys_are_for_the_application_alone() {
    for (pod, url) in [
        ("stranger", "http://10.77.0.12:15024/.well-known/jwks.json"),
        ("web", "http://10.77.0.12:15024/.well-known/jwks.json"),
        ("web", "http://orders:15024/.well-known/jwks.json"),
        ("orders", "http://127.0.0.1:15024/"),
    ] {
        let line = ["curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}", url];
        let output = MESH.exec(pod, &line).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            !said.contains("\"kty\"") && !said.ends_with("\n200"),
            "{pod} {url}: {said}"
        );
    }
    let keys = succeeded(MESH.exec("orders", &["curl", "-sS", KEYS]).unwrap()).unwrap();
    assert!(keys.contains("\"kty\"") && !keys.contains("\"d\""), "{keys}");
}
