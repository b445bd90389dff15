//! `hopguard bundle show` and `verify`: every form is what others read.

use crate::support::*;

#[test]
fn a_bundle_is_shown_in_every_form_and_others_read_it() {
    let authority = Authority::start("");
    let socket = authority.socket();
    let show = |more: &[&str]| run(&[&["bundle", "show", "--socket", &socket], more].concat());
    let pem = authority.path("roots.pem");
    let pem = pem.to_str().unwrap();
    std::fs::write(pem, stdout(&show(&["--format", "pem"]))).unwrap();
    let print = said(&openssl(&[
        "x509",
        "-in",
        pem,
        "-noout",
        "-fingerprint",
        "-sha256",
    ]));
    let print = print
        .split('=')
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    let summary = json(&run(&["-o", "json", "bundle", "show", "--socket", &socket]));
    assert_eq!(
        (&summary["trust_domain"], &summary["x509_roots"][0]["sha256"]),
        (&"mesh.local".into(), &print.clone().into())
    );
    assert_eq!(summary["problems"], serde_json::json!([]));
    let text = stdout(&show(&[]));
    assert!(text.contains("mesh.local") && text.contains(&print), "{text}");

    let der = authority.path("roots.der");
    std::fs::write(&der, show(&["--format", "der"]).stdout).unwrap();
    let again = said(&openssl(&[
        "x509",
        "-inform",
        "DER",
        "-in",
        der.to_str().unwrap(),
        "-noout",
        "-fingerprint",
        "-sha256",
    ]));
    assert!(again.contains(&print), "{again}");
    // From any form the same roots are read again.
    let spiffe = authority.bundle();
    for form in [pem, der.to_str().unwrap(), spiffe.to_str().unwrap()] {
        assert_eq!(
            stdout(&run(&["bundle", "show", form, "--format", "pem"])),
            std::fs::read_to_string(pem).unwrap()
        );
        stdout(&run(&[
            "bundle",
            "verify",
            form,
            "--trust-domain",
            "mesh.local",
            "--fingerprint",
            &print,
        ]));
        let bare = print.replace(':', "").to_lowercase();
        stdout(&run(&["bundle", "verify", form, "--fingerprint", &bare]));
        fails(
            &run(&[
                "bundle",
                "verify",
                form,
                "--fingerprint",
                &print.replace(&print[..2], "00"),
            ]),
            1,
            "not those of the fingerprints",
        );
        fails(
            &run(&["bundle", "verify", form, "--trust-domain", "other.local"]),
            1,
            "another trust domain",
        );
    }
    fails(
        &run(&["bundle", "verify", pem, "--fingerprint", "abc"]),
        2,
        "not a SHA-256 fingerprint",
    );
    fails(&run(&["bundle", "show", "/no/such"]), 3, "No such file");
    let keys = authority.path("log");
    fails(
        &run(&["bundle", "show", keys.to_str().unwrap()]),
        3,
        "a bundle is",
    );
    fails(
        &show(&["--trust-domain", "other.local"]),
        1,
        "no bundle of other.local",
    );
}

/// S-59, S-18: what is kept for the next time is neither an older bundle nor that of another trust domain, and stays as it is.
#[test]
fn a_fetched_bundle_takes_the_place_of_its_own_predecessor_alone() {
    let web = Web::new();
    let authority = Authority::start(&web.endpoint(0));
    let (url, root) = (&authority.places[0], web.root());
    let file = authority.path("kept.json");
    let fetch = || {
        run(&[
            "bundle",
            "fetch",
            "--url",
            url,
            "--profile",
            "https_web",
            "--ca-file",
            &root,
            "--write",
            file.to_str().unwrap(),
        ])
    };
    let other = root_jwk(&authority.path("other"), Some("spiffe://other.local"));
    let there = serde_json::json!({"keys": [other], "spiffe_sequence": 1}).to_string();
    std::fs::write(&file, &there).unwrap();
    fails(&fetch(), 1, "it holds a bundle of other.local");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), there);
    std::fs::remove_file(&file).unwrap();
    stdout(&fetch());
    stdout(&fetch());
    let served: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut newer = served.clone();
    newer["spiffe_sequence"] = u64::MAX.into();
    std::fs::write(&file, newer.to_string()).unwrap();
    fails(&fetch(), 1, "nothing was written");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer.to_string());
}

#[test]
fn a_root_that_names_no_trust_domain_is_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("silent");
    root_jwk(&place, None);
    let pem = place.with_extension("pem");
    let pem = pem.to_str().unwrap();
    let verify = |more: &[&str]| run(&[&["bundle", "verify", pem], more].concat());
    stdout(&verify(&[]));
    fails(
        &verify(&["--trust-domain", "mesh.local"]),
        1,
        "names no trust domain",
    );
    let shown = json(&run(&["-o", "json", "bundle", "show", pem]));
    let print = shown["x509_roots"][0]["sha256"].as_str().unwrap();
    stdout(&verify(&["--trust-domain", "mesh.local", "--fingerprint", print]));
}
