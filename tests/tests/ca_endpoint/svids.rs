//! `hopguard svid issue` and `verify`.

use std::os::unix::fs::MetadataExt;

use hopguard_tests::eventually;

use crate::support::*;

#[test]
fn an_operator_gets_an_svid_and_it_is_proven_by_the_bundle_alone() {
    let authority = Authority::start("");
    let config = authority.path("ca.toml");
    let config = config.to_str().unwrap();
    let id = "spiffe://mesh.local/ops/alice";
    let dir = authority.path("alice");
    std::fs::create_dir(&dir).unwrap();
    let issue = |id: &str, more: &[&str]| {
        let dir = dir.to_str().unwrap();
        run(&[&["svid", "issue", id, "--config", config, "--write", dir], more].concat())
    };
    stdout(&issue(id, &["--ttl", "15m"]));
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["svid.pem", "svid.key", "bundle.pem"] {
        assert_eq!(
            std::fs::metadata(file(name)).unwrap().mode() & 0o7777,
            0o600,
            "{name}"
        );
    }
    let (svid, roots) = (file("svid.pem"), file("bundle.pem"));
    let strict = openssl(&[
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        &roots,
        &svid,
    ]);
    assert!(said(&strict).contains("OK"), "{}", said(&strict));
    let public = |arguments: &[&str]| stdout(&openssl(arguments));
    assert_eq!(
        public(&["x509", "-noout", "-pubkey", "-in", &svid]),
        public(&["pkey", "-pubout", "-in", &file("svid.key")])
    );
    authority.logged("an SVID was issued to an operator");
    assert!(authority.log().contains(id));

    // Proven with either form of the bundle; not for another ID, nor with the bundle of others.
    let bundle = authority.bundle();
    for bundle in [roots.as_str(), bundle.to_str().unwrap()] {
        let verified = json(&run(&[
            "-o",
            "json",
            "svid",
            "verify",
            &svid,
            "--bundle",
            bundle,
            "--id",
            id,
            "--trust-domain",
            "mesh.local",
        ]));
        assert_eq!(
            (&verified["trusted"], &verified["svid"]["spiffe_id"]),
            (&true.into(), &id.into())
        );
    }
    fails(
        &run(&["svid", "verify", &svid, "--bundle", &roots, "--id", OURS]),
        1,
        "was expected",
    );
    fails(
        &run(&[
            "svid",
            "verify",
            &svid,
            "--bundle",
            &roots,
            "--trust-domain",
            "other.local",
        ]),
        1,
        "was expected",
    );
    let elsewhere = Authority::start("");
    let stranger = elsewhere.bundle();
    fails(
        &run(&["svid", "verify", &svid, "--bundle", stranger.to_str().unwrap()]),
        1,
        "no path to a root",
    );
    fails(
        &run(&["svid", "verify", &roots, "--bundle", &roots]),
        1,
        "problem",
    );
    fails(
        &run(&["svid", "verify", "/no/such", "--bundle", &roots]),
        3,
        "No such file",
    );
    fails(
        &run(&["svid", "verify", &svid, "--bundle", &file("svid.key")]),
        3,
        "a bundle is",
    );

    // What must not be had.
    for id in ["spiffe://other.local/a", "spiffe://mesh.local.evil/a"] {
        fails(
            &issue(id, &[]),
            1,
            "not the SPIFFE ID of a workload in mesh.local",
        );
    }
    fails(&issue("spiffe://mesh.local", &[]), 2, "no path");
    fails(&issue("spiffe://mesh.local/a/../b", &[]), 2, "SPIFFE ID");
    fails(&issue(id, &["--ttl", "2h"]), 1, "`svid_ttl`");
    fails(&issue(id, &["--ttl", "48h"]), 2, "24h");
    let gone = run(&[
        "svid",
        "issue",
        id,
        "--socket",
        "/no/such.sock",
        "--write",
        dir.to_str().unwrap(),
    ]);
    fails(&gone, 4, "is the authority running");
    // One that has ended is not to be trusted.
    stdout(&issue(id, &["--ttl", "2s"]));
    let ended = eventually(DEADLINE, || {
        let output = run(&["svid", "verify", &svid, "--bundle", &roots]);
        if output.status.code() == Some(1) && said(&output).contains("expired") {
            Ok(())
        } else {
            Err(said(&output))
        }
    });
    ended.unwrap();
}

/// The bundle as the endpoint serves it.
fn served(authority: &Authority, web: &Web) -> std::path::PathBuf {
    let file = authority.path("served.json");
    let (url, root) = (&authority.places[0], web.root());
    let fetch = [
        "bundle",
        "fetch",
        "--url",
        url,
        "--profile",
        "https_web",
        "--ca-file",
        &root,
        "--write",
    ];
    stdout(&run(&[&fetch[..], &[file.to_str().unwrap()]].concat()));
    file
}

#[test]
fn a_jwt_svid_is_issued_to_an_operator_and_verified() {
    let web = Web::new();
    let authority = Authority::start(&web.endpoint(0));
    let id = "spiffe://mesh.local/ops/alice";
    let token = authority.token(id, "billing");
    let file = authority.path("token");
    std::fs::write(&file, &token).unwrap();
    let bundle = served(&authority, &web);
    let file = file.to_str().unwrap();
    let verify = |bundle: &str, audience: &str, more: &[&str]| {
        run(&[
            &[
                "svid",
                "verify",
                file,
                "--jwt",
                "--audience",
                audience,
                "--bundle",
                bundle,
            ],
            more,
        ]
        .concat())
    };
    let bundle = bundle.to_str().unwrap();
    assert!(stdout(&verify(bundle, "billing", &["--id", id])).contains(id));
    fails(&verify(bundle, "other", &[]), 1, "another audience");
    fails(&verify(bundle, "billing", &["--id", OURS]), 1, "was expected");
    let stranger = Authority::start(&web.endpoint(0));
    fails(
        &verify(served(&stranger, &web).to_str().unwrap(), "billing", &[]),
        1,
        "key id is unknown",
    );
    // The same keys in the name of another trust domain, or of none: the token is not theirs.
    let named = |name: &str, root: Option<&str>| {
        let text = std::fs::read_to_string(bundle).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys = document["keys"].as_array_mut().unwrap();
        keys.retain(|key| key["use"] == "jwt-svid");
        keys.extend(root.map(|root| root_jwk(&authority.path(name), Some(root))));
        let file = authority.path(name);
        std::fs::write(&file, document.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let other = named("other.json", Some("spiffe://other.local"));
    fails(&verify(&other, "billing", &[]), 1, "another trust domain");
    fails(
        &verify(&other, "billing", &["--trust-domain", "mesh.local"]),
        1,
        "the bundle is of the trust domain other.local",
    );
    let silent = named("silent.json", None);
    fails(&verify(&silent, "billing", &[]), 1, "name its trust domain by");
    stdout(&verify(&silent, "billing", &["--trust-domain", "mesh.local"]));
    stdout(&verify(&silent, "billing", &["--id", id]));
    // Roots alone verify no token.
    fails(
        &verify(authority.bundle().to_str().unwrap(), "other", &[]),
        1,
        "problem",
    );
    let config = authority.path("ca.toml");
    let config = config.to_str().unwrap();
    let issue = |more: &[&str]| run(&[&["svid", "issue", id, "--config", config, "--jwt"], more].concat());
    fails(&issue(&[]), 2, "--audience");
    fails(&issue(&["--audience", ""]), 1, "audience");
    // The bounds are those of workloads.
    let audiences = |count: usize, length: usize| -> Vec<String> {
        let one = |at: usize| ["--audience".to_owned(), format!("{at:0length$}")];
        (0..count).flat_map(one).collect()
    };
    let issue_for = |audiences: &[String]| issue(&audiences.iter().map(String::as_str).collect::<Vec<_>>());
    stdout(&issue_for(&audiences(32, 60)));
    stdout(&issue_for(&audiences(1, 3000)));
    fails(&issue_for(&audiences(33, 10)), 1, "1 to 32 texts");
    fails(&issue_for(&audiences(32, 100)), 1, "3072 bytes");
    fails(&issue(&["--audience", "a", "--ttl", "2m"]), 1, "`jwt_svid_ttl`");
    authority.logged("a JWT-SVID was issued to an operator");
    assert!(!authority.log().contains(&token), "tokens are never logged");
}

#[test]
fn a_workload_fetches_its_own_jwt_svid() {
    let authority = Authority::start("");
    let socket = authority.socket();
    let fetch = |more: &[&str]| run(&[&["svid", "fetch", "--socket", &socket, "--jwt"], more].concat());
    let token = stdout(&fetch(&["--audience", "db"]));
    let file = authority.path("token");
    std::fs::write(&file, token.trim()).unwrap();
    let bundle = authority.bundle();
    let verify = [
        "svid",
        "verify",
        file.to_str().unwrap(),
        "--jwt",
        "--audience",
        "db",
        "--bundle",
        bundle.to_str().unwrap(),
        "--id",
        OURS,
    ];
    stdout(&run(&verify));
    stdout(&fetch(&["--audience", "db", "--id", OURS]));
    fails(
        &fetch(&["--audience", "db", "--id", "spiffe://mesh.local/other"]),
        1,
        "PermissionDenied",
    );
    fails(&fetch(&[]), 2, "--audience");
}

#[test]
fn what_no_entry_grants_is_in_the_audit_log_too() {
    let more = "[bundle_endpoint]\nlisten = \"127.0.0.1:0\"\nprofile = \"https_spiffe\"\n";
    let mut authority = Authority::files("1h", more);
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    std::fs::write(
        authority.path("ca.toml"),
        format!("audit = \"audit.log\"\n{config}"),
    )
    .unwrap();
    authority.run();
    let id = "spiffe://mesh.local/ops/alice";
    let (dir, config) = (authority.path("alice"), authority.path("ca.toml"));
    std::fs::create_dir(&dir).unwrap();
    let (dir, config) = (dir.to_str().unwrap(), config.to_str().unwrap());
    stdout(&run(&["svid", "issue", id, "--config", config, "--write", dir]));
    let token = authority.token(id, "billing");
    let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
    let records: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let issued = |event: &str, whose: &str| {
        let is_it = |one: &&serde_json::Value| {
            one["event"] == event && one["outcome"] == "issued" && one["detail"]["for"] == whose
        };
        records
            .iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("{event} {whose}:\n{log}"))
    };
    let own = issued("x509_svid", "bundle endpoint");
    assert_eq!(own["spiffe_id"], "spiffe://mesh.local/hopguard/bundle-endpoint");
    let operators = issued("x509_svid", "operator");
    assert_eq!(operators["spiffe_id"], id);
    assert_eq!(operators["uid"], nix::unistd::geteuid().as_raw());
    for one in [own, operators] {
        assert!(
            one["serial"].as_str().unwrap().len() > 8 && one["authority"].is_string(),
            "{one}"
        );
    }
    let jwt = issued("jwt_svid", "operator");
    assert_eq!(jwt["audience"], serde_json::json!(["billing"]));
    assert!(
        !log.contains(&token) && !log.contains("PRIVATE"),
        "no token, no key"
    );
}
