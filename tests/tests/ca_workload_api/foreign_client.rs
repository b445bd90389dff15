//! The stock client fetches, streams and sees rotations; what the specification demands of a server holds.

use std::process::Command;

use serde_json::json;

use crate::support::*;

/// S-35, S-37: a stock client over the socket, without TLS and without a secret.
#[test]
fn the_stock_client_fetches_and_openssl_accepts_the_chain() {
    let authority = Authority::start(&for_us("ns/shop/sa/orders"));
    let dir = authority.path("fetched");
    std::fs::create_dir(&dir).unwrap();
    let said = Client::start(&["fetch", &authority.endpoint(), "--write", dir.to_str().unwrap()]).next();
    assert_eq!(
        said["svids"][0]["id"], "spiffe://mesh.local/ns/shop/sa/orders",
        "{said}"
    );
    let life =
        said["svids"][0]["not_after"].as_f64().unwrap() - said["svids"][0]["not_before"].as_f64().unwrap();
    assert!(
        (life - 3610.0).abs() < 0.1,
        "an hour, backdated by ten seconds: {life}"
    );

    for purpose in ["sslserver", "sslclient"] {
        let verify = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .args([dir.join("bundle.pem"), dir.join("svid.pem")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&verify.stdout) + String::from_utf8_lossy(&verify.stderr);
        assert!(
            verify.status.success() && text.contains("OK"),
            "{purpose}: {text}"
        );
    }
    let text = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(dir.join("svid.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for expected in [
        "URI:spiffe://mesh.local/ns/shop/sa/orders",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Authority Key Identifier",
        "NIST CURVE: P-256",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    // The key belongs to the certificate.
    let public = |arguments: &[&str], file: &str| {
        Command::new("openssl")
            .args(arguments)
            .arg(dir.join(file))
            .output()
            .unwrap()
            .stdout
    };
    let of_certificate = public(&["x509", "-noout", "-pubkey", "-in"], "svid.pem");
    assert!(!of_certificate.is_empty());
    assert_eq!(of_certificate, public(&["pkey", "-pubout", "-in"], "key.pem"));
}

#[test]
fn the_stock_source_sees_a_rotation() {
    let authority = Authority::with(&for_us("a"), "4s", "");
    let source = Client::start(&["source", &authority.endpoint()]);
    let (first, second) = (source.next(), source.next());
    assert_ne!(
        first["svid"]["serial"], second["svid"]["serial"],
        "{first} {second}"
    );
    let at = |value: &serde_json::Value| value["svid"]["not_after"].as_f64().unwrap();
    let later = at(&second) - at(&first);
    assert!(
        (1.0..=3.0).contains(&later),
        "at half of 4 s, whole seconds: {later}"
    );
}

#[test]
fn the_stock_stream_goes_on_over_many_rotations() {
    let authority = Authority::with(&for_us("a"), "2s", "");
    let stream = Client::start(&["stream", &authority.endpoint()]);
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let said = stream.next();
        assert!(
            serials.insert(said["svids"][0]["serial"].as_str().unwrap().to_owned()),
            "{said}"
        );
    }
}

/// S-42, S-47 to S-50.
#[test]
fn a_message_is_the_whole_state_in_the_order_of_the_file() {
    let uid = format!("unix:uid:{}", nix_uid());
    let one = |path, hint| entry(path, std::slice::from_ref(&uid)) + &format!("hint = \"{hint}\"\n");
    let authority = Authority::start(&(one("z", "x") + &one("a", "x") + &one("m", "y")));
    let said = first(&authority, &[]);
    let ids = [
        "spiffe://mesh.local/z",
        "spiffe://mesh.local/a",
        "spiffe://mesh.local/m",
    ];
    assert_eq!(said["ids"], json!(ids));
    assert_eq!(
        said["hints"],
        json!(["x", "", "y"]),
        "a hint is unique in an answer"
    );
    assert_eq!(said["bundled"], true, "each SVID has its bundle");
    let bundles = first(&authority, &["--method", "FetchX509Bundles"]);
    assert_eq!(
        bundles["bundles"],
        json!(["spiffe://mesh.local"]),
        "keyed by the trust domain's ID"
    );
}

#[test]
fn the_security_header_must_be_there_exactly_once() {
    let authority = Authority::start(&for_us("a"));
    let endpoint = authority.endpoint();
    let with = |headers: &[&str], method: &str| {
        let mut arguments = vec!["raw", &endpoint, "--method", method];
        headers
            .iter()
            .for_each(|header| arguments.extend(["--header", header]));
        Client::start(&arguments).next()["status"].clone()
    };
    let good = "workload.spiffe.io=true";
    for headers in [
        &[][..],
        &["workload.spiffe.io=false"],
        &["workload.spiffe.io=True"],
        &["workload.spiffe.io="],
        &["workload.spiffe.io=true,true"],
        &[good, good],
        &[good, "workload.spiffe.io=false"],
    ] {
        assert_eq!(with(headers, "FetchX509SVID"), "INVALID_ARGUMENT", "{headers:?}");
    }
    for method in [
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
    ] {
        assert_eq!(with(&[], method), "INVALID_ARGUMENT", "{method}");
    }
}
