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
