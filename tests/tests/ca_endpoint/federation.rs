//! The bundle endpoint against SPIFFE Trust Domain and Bundle, and SPIFFE Federation.

use hopguard_tests::eventually;
use serde_json::Value;

use crate::support::*;

fn split(answer: &str) -> (String, String) {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer}"));
    let body = body.rsplit_once(" (exit").map_or(body, |(body, _)| body);
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn the_bundle_document_is_what_the_specification_says() {
    let web = Web::new();
    let authority = Authority::start(&web.endpoint(0));
    let url = authority.places[0].replace("127.0.0.1", "localhost");
    // S-64: no client certificate, application/json in UTF-8, HTTPS.
    let (head, body) = split(&curl(&["--cacert", &web.root(), &url]));
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(head.contains("cache-control: public, max-age=1\r\n"), "{head}");
    let document: Value = serde_json::from_str(body.trim()).unwrap();
    // S-59, S-60, S-61.
    assert!(
        document["spiffe_sequence"]
            .as_u64()
            .is_some_and(|sequence| sequence > 0)
    );
    assert_eq!(document["spiffe_refresh_hint"], 1);
    let keys = document["keys"].as_array().unwrap();
    let of = |usage: &str| keys.iter().filter(|key| key["use"] == usage).collect::<Vec<_>>();
    assert_eq!(
        (of("x509-svid").len(), of("jwt-svid").len(), keys.len()),
        (1, 1, 2)
    );
    // S-15: no kid, one certificate, self-signed; S-13: with the ID of the trust domain, which `bundle verify` looks at.
    let root = of("x509-svid")[0];
    assert_eq!(root.get("kid"), None);
    assert_eq!(root["x5c"].as_array().unwrap().len(), 1);
    // S-26: use and kid.
    assert!(
        of("jwt-svid")[0]["kid"]
            .as_str()
            .is_some_and(|kid| !kid.is_empty())
    );

    // It is the very bundle that workloads get.
    let served = authority.path("served.json");
    std::fs::write(&served, body.trim()).unwrap();
    let fetched = run(&[
        "svid",
        "fetch",
        "--socket",
        &authority.socket(),
        "--write",
        authority.dir.path().to_str().unwrap(),
    ]);
    stdout(&fetched);
    let pem = stdout(&run(&[
        "bundle",
        "show",
        served.to_str().unwrap(),
        "--format",
        "pem",
    ]));
    assert_eq!(
        pem,
        std::fs::read_to_string(authority.path("bundle.0.pem")).unwrap()
    );
    let verified = run(&[
        "-o",
        "json",
        "bundle",
        "verify",
        served.to_str().unwrap(),
        "--trust-domain",
        "mesh.local",
    ]);
    assert_eq!(json(&verified)["trust_domain"], "mesh.local");

    // For a foreign library each JWK is a key, and that of a root the one in its certificate.
    let script = "import base64, json, sys, jwt\nfrom cryptography import x509\n\
        keys = json.load(open(sys.argv[1]))['keys']\n\
        for key in keys:\n    numbers = jwt.PyJWK(key, algorithm='ES256').key.public_numbers()\n    \
        for der in key.get('x5c', []):\n        certificate = x509.load_der_x509_certificate(base64.b64decode(der))\n        \
        assert certificate.public_key().public_numbers() == numbers\nprint(len(keys))";
    let read = python().args(["-c", script]).arg(&served).output().unwrap();
    assert_eq!(stdout(&read).trim(), "2");
}

#[test]
fn only_the_documents_are_there_and_only_to_be_read() {
    let web = Web::new();
    let authority = Authority::start(&web.endpoint(0));
    let url = authority.places[0].replace("127.0.0.1", "localhost");
    let root = web.root();
    let ask = |more: &[&str], path: &str| {
        let url = format!("{url}{path}");
        split(&curl(
            &[&["--cacert", &root, "--path-as-is"], more, &[&url]].concat(),
        ))
        .0
    };
    let head = ask(&["-I"], "");
    assert!(
        head.contains(" 200") && head.contains("content-length: ") && !head.contains("content-length: 0"),
        "{head}"
    );
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap()
        .to_owned();
    assert!(ask(&["-H", &format!("If-None-Match: {tag}")], "").contains(" 304"));
    for path in [
        "keys",
        ".well-known/openid-configuration",
        "../etc/passwd",
        "%2e%2e/",
        "admin",
    ] {
        assert!(ask(&[], path).contains(" 404"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let head = ask(&["-X", method], "");
        assert!(
            head.contains(" 405") && head.contains("allow: get, head"),
            "{method}: {head}"
        );
    }
    // S-64: Mozilla's intermediate profile is TLS 1.2 and 1.3.
    for version in ["1.2", "1.3"] {
        let least = format!("--tlsv{version}");
        let answer = curl(&["--cacert", &root, &least, "--tls-max", version, &url]);
        assert!(answer.contains("spiffe_sequence"), "{version}: {answer}");
    }
    let place = url.trim_start_matches("https://").trim_end_matches('/');
    let old = openssl(&[
        "s_client",
        "-connect",
        place,
        "-tls1_1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]);
    assert!(
        said(&old).contains("Cipher is (NONE)") || !old.status.success(),
        "{}",
        said(&old)
    );
    let hello = openssl(&["s_client", "-connect", place, "-servername", "localhost"]);
    assert!(
        said(&hello).contains("No client certificate CA names sent"),
        "{}",
        said(&hello)
    );
}

#[test]
fn a_changed_certificate_is_shown_and_a_bad_one_is_not() {
    let web = Web::new();
    let authority = Authority::start(&web.endpoint(0));
    let place = authority.places[0]
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .to_owned();
    let serial = || {
        let shown = said(&openssl(&[
            "s_client",
            "-connect",
            &place,
            "-servername",
            "localhost",
        ]));
        let (_, pem) = shown
            .split_once("-----BEGIN CERTIFICATE-----")
            .unwrap_or_else(|| panic!("{shown}"));
        pem.split("-----END").next().unwrap().to_owned()
    };
    let first = serial();
    web.renew();
    let second = eventually(DEADLINE, || match serial() {
        same if same == first => Err("the first one still"),
        other => Ok(other),
    });
    let second = second.unwrap();
    put(&web.path("key.pem"), 0o600, "rubbish");
    authority.logged("the one before stays");
    assert_eq!(serial(), second);
    // With a bad pair nothing starts, and the place is told.
    let mut other = Authority::files("1h", &web.endpoint(0));
    let config = other.path("ca.toml");
    fails(&run(&["config", "check", config.to_str().unwrap()]), 3, "key.pem");
    fails(
        &run(&["ca", "serve", config.to_str().unwrap()]),
        3,
        "no private key",
    );
    web.renew();
    other.run();
}

#[test]
fn the_endpoint_proves_itself_by_an_svid_of_our_own() {
    let more = "[bundle_endpoint]\nlisten = \"127.0.0.1:0\"\nprofile = \"https_spiffe\"\npath = \"/mesh/bundle.json\"\n";
    let authority = Authority::with("4s", more);
    let bootstrap = authority.bundle();
    let bootstrap = bootstrap.to_str().unwrap();
    let url = &authority.places[0];
    assert!(url.ends_with("/mesh/bundle.json"));
    let id = "spiffe://mesh.local/hopguard/bundle-endpoint";
    let fetch = |id: &str, bootstrap: &str, more: &[&str]| {
        let arguments = [
            "-o",
            "json",
            "bundle",
            "fetch",
            "--url",
            url,
            "--profile",
            "https_spiffe",
            "--server-id",
            id,
            "--bootstrap",
            bootstrap,
        ];
        run(&[&arguments, more].concat())
    };
    // S-65: the server's ID and a bootstrap bundle; then the latest is used.
    let latest = authority.path("latest.json");
    let latest = latest.to_str().unwrap();
    let got = json(&fetch(id, bootstrap, &["--write", latest]));
    assert_eq!(got["trust_domain"], "mesh.local");
    assert!(
        got["sequence"].as_u64().is_some_and(|sequence| sequence > 0),
        "{got}"
    );
    stdout(&fetch(id, latest, &[]));
    // S-66, S-18: another server, another bundle, or the roots of the Web, and nothing is got.
    fails(
        &fetch("spiffe://mesh.local/other", bootstrap, &[]),
        1,
        "not the one that was named",
    );
    fails(
        &fetch("spiffe://other.local/hopguard/bundle-endpoint", bootstrap, &[]),
        3,
        "another trust domain",
    );
    let stranger = Authority::start("");
    fails(
        &fetch(id, stranger.bundle().to_str().unwrap(), &[]),
        1,
        "not the one that was named",
    );
    let web = Web::new();
    let root = web.root();
    let of_web = [
        "bundle",
        "fetch",
        "--url",
        url,
        "--profile",
        "https_web",
        "--ca-file",
        &root,
    ];
    fails(&run(&of_web), 1, "handshake failed");
    // S-59: what is held never goes back.
    let mut document: Value = serde_json::from_str(&std::fs::read_to_string(latest).unwrap()).unwrap();
    document["spiffe_sequence"] = (1_u64 << 40).into();
    std::fs::write(latest, document.to_string()).unwrap();
    fails(
        &fetch(id, bootstrap, &["--write", latest]),
        1,
        "nothing was written",
    );
    // It is renewed long before its end: five lives later it is still accepted, each time by another certificate.
    let place = url.trim_start_matches("https://").split('/').next().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let renewed = eventually(DEADLINE, || {
        let shown = said(&openssl(&["s_client", "-connect", place]));
        seen.insert(shown.split("-----END").next().unwrap().to_owned());
        stdout(&fetch(id, bootstrap, &[]));
        if seen.len() > 4 {
            Ok(())
        } else {
            Err(format!("{} certificates", seen.len()))
        }
    });
    renewed.unwrap();
    let shown = said(&openssl(&["s_client", "-connect", place]));
    assert!(shown.contains("Cipher is TLS_"), "{shown}");
}

#[test]
fn an_endpoint_whose_identity_is_revoked_shows_nothing_and_the_authority_says_so() {
    let more = "[bundle_endpoint]\nlisten = \"127.0.0.1:0\"\nprofile = \"https_spiffe\"\n";
    let mut authority = Authority::start(more);
    let bootstrap = authority.bundle();
    let config = authority.path("ca.toml");
    let id = "spiffe://mesh.local/hopguard/bundle-endpoint";
    let fetch = |authority: &Authority| {
        let (url, bootstrap) = (&authority.places[0], bootstrap.to_str().unwrap());
        let arguments = ["bundle", "fetch", "--url", url, "--profile", "https_spiffe"];
        run(&[&arguments[..], &["--server-id", id, "--bootstrap", bootstrap]].concat())
    };
    let revoke = |more: &[&str]| {
        let arguments = ["ca", "revoke", "--id", id, "--config", config.to_str().unwrap()];
        run(&[&arguments, more].concat())
    };
    stdout(&fetch(&authority));
    let would = revoke(&["--dry-run"]);
    assert!(would.status.success(), "{}", said(&would));
    assert!(
        said(&would).contains("nobody can fetch the bundle"),
        "{}",
        said(&would)
    );
    stdout(&fetch(&authority));

    let revoked = revoke(&[]);
    assert!(revoked.status.success(), "{}", said(&revoked));
    assert!(
        said(&revoked).contains("nobody can fetch the bundle"),
        "{}",
        said(&revoked)
    );
    authority.logged("is not shown any more");
    assert!(!fetch(&authority).status.success());
    // It starts all the same, and only so can the revocation be lifted.
    authority.kill_9();
    authority.run();
    assert!(!fetch(&authority).status.success());
    assert!(
        !authority.log().contains("should not happen"),
        "{}",
        authority.log()
    );
    let lifted = revoke(&["--lift"]);
    assert!(lifted.status.success(), "{}", said(&lifted));
    let again = eventually(DEADLINE, || {
        let fetched = fetch(&authority);
        if fetched.status.success() {
            Ok(())
        } else {
            Err(said(&fetched))
        }
    });
    again.unwrap();
}
