//! The lists as verifiers see them that are not ours.

use std::path::Path;

use hopguard_tests::eventually;
use serde_json::Value;

use super::support::{Authority, DEADLINE, for_us, python, source};
use super::{ca, done, ran, refused, run};

const US: &str = "spiffe://mesh.local/us";

/// What the raw Workload API says, as files in `into`.
pub fn fetch(authority: &Authority, into: &Path, until: usize) -> Value {
    std::fs::create_dir_all(into).unwrap();
    let (socket, until) = (authority.endpoint(), until.to_string());
    let script = source("python/lists.py");
    let arguments = [
        script.to_str().unwrap(),
        "--socket",
        &socket,
        "--write",
        into.to_str().unwrap(),
        "--until",
        &until,
    ];
    let said = run(python().to_str().unwrap(), &arguments);
    serde_json::from_str(&said).unwrap()
}

/// How openssl judges the leaf of one folder by the lists of another.
pub fn openssl(leaf: &Path, lists: &Path) -> (bool, String) {
    let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let mut arguments = vec!["verify".to_owned(), "-crl_check".into()];
    arguments.extend(["-CAfile".into(), text(lists.join("roots.pem"))]);
    if std::fs::metadata(leaf.join("between.pem")).unwrap().len() > 0 {
        arguments.extend(["-untrusted".into(), text(leaf.join("between.pem"))]);
    }
    for at in 0.. {
        let der = lists.join(format!("list-{at}.der"));
        if !der.exists() {
            break;
        }
        let pem = text(lists.join(format!("list-{at}.pem")));
        run(
            "openssl",
            &["crl", "-inform", "DER", "-in", &text(der), "-out", &pem],
        );
        arguments.extend(["-CRLfile".into(), pem]);
    }
    arguments.push(text(leaf.join("leaf.pem")));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ran("openssl", &arguments)
}

#[test]
fn openssl_refuses_what_is_listed_and_its_holder_gets_another_one_at_once() {
    let authority = Authority::start(&for_us("us"));
    let config = authority.path("ca.toml");
    let (before, after) = (authority.path("before"), authority.path("after"));
    let first = fetch(&authority, &before, 0);
    assert_eq!(
        (first["lists"].as_u64(), &first["same"]),
        (Some(0), &Value::Bool(true)),
        "nothing is revoked"
    );

    let dry = done(ca(
        &config,
        &[
            "revoke",
            "--serial",
            first["serial"].as_str().unwrap(),
            "--dry-run",
        ],
    ));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(fetch(&authority, &after, 0)["lists"], 0, "nothing changed");

    // As openssl prints it: capitals, colons, leading zeros.
    let serial = first["serial"].as_str().unwrap();
    let even = if serial.len() % 2 == 1 {
        format!("0{serial}")
    } else {
        serial.to_owned()
    };
    let colons: Vec<String> = even
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|pair| String::from_utf8(pair.to_vec()).unwrap())
        .collect();
    let revoked = done(ca(
        &config,
        &[
            "revoke",
            "--serial",
            &format!("00:{}", colons.join(":")),
            "--reason",
            "lost",
        ],
    ));
    assert_eq!(revoked["spiffe_id"], US);
    let second = fetch(&authority, &after, 1);
    assert_eq!(
        (second["lists"].as_u64(), &second["same"]),
        (Some(1), &Value::Bool(true))
    );
    assert_ne!(second["serial"], first["serial"]);

    let (good, said) = openssl(&after, &after);
    assert!(good, "{said}");
    let (good, said) = openssl(&before, &after);
    assert!(!good && said.contains("certificate revoked"), "{said}");
    let list = after.join("list-0.der");
    let text = run(
        "openssl",
        &[
            "crl",
            "-inform",
            "DER",
            "-noout",
            "-text",
            "-in",
            list.to_str().unwrap(),
        ],
    );
    assert!(
        text.contains("X509v3 CRL Number") && text.contains("Authority Key Identifier"),
        "{text}"
    );
    assert!(text.to_lowercase().contains(serial), "{text}");
    let roots = after.join("roots.pem");
    run(
        "openssl",
        &[
            "crl",
            "-inform",
            "DER",
            "-noout",
            "-in",
            list.to_str().unwrap(),
            "-CAfile",
            roots.to_str().unwrap(),
        ],
    );

    let listed = done(ca(&config, &["revoke", "--list"]));
    assert_eq!(listed["identities"], Value::Array(vec![]));
    assert_eq!(listed["certificates"][0]["reason"], "lost");
}

#[test]
fn a_revoked_identity_gets_nothing_over_a_restart_until_it_is_lifted() {
    let mut authority = Authority::start(&for_us("us"));
    let config = authority.path("ca.toml");
    let (before, after) = (authority.path("before"), authority.path("after"));
    fetch(&authority, &before, 0);
    fetch(&authority, &before, 0);
    let revoked = done(ca(
        &config,
        &["revoke", "--id", US, "--reason", "the host was broken into"],
    ));
    assert!(revoked["svids"].as_u64() >= Some(2), "{revoked}");
    let denied = |authority: &Authority| {
        let socket = authority.endpoint();
        let (good, said) = ran(
            hopguard_tests::hopguard_bin().to_str().unwrap(),
            &["svid", "fetch", "--socket", &socket],
        );
        assert!(!good && said.contains("revoked"), "{said}");
    };
    denied(&authority);
    authority.kill_9();
    authority.run(hopguard_tests::hopguard());
    denied(&authority);
    let lifted = done(ca(&config, &["revoke", "--id", US, "--lift"]));
    assert_eq!(lifted["lifted"], US);
    let again = fetch(&authority, &after, 1);
    assert_eq!(again["lists"], 1);
    let (good, said) = openssl(&after, &after);
    assert!(good, "{said}");
    let (good, said) = openssl(&before, &after);
    assert!(
        !good && said.contains("certificate revoked"),
        "what was taken back stays so: {said}"
    );
    assert!(refused(&ca(&config, &["revoke", "--id", US, "--lift"])).contains("not revoked"));
}

#[test]
fn the_number_of_a_list_never_goes_back() {
    let mut authority = Authority::start(&for_us("us"));
    let config = authority.path("ca.toml");
    let number = |authority: &Authority, name: &str, lists: usize| {
        let into = authority.path(name);
        let said = fetch(authority, &into, lists);
        let list = into.join("list-0.der");
        let text = run(
            "openssl",
            &[
                "crl",
                "-inform",
                "DER",
                "-noout",
                "-crlnumber",
                "-in",
                list.to_str().unwrap(),
            ],
        );
        let hex = text
            .trim()
            .trim_start_matches("crlNumber=")
            .trim_start_matches("0x")
            .to_owned();
        (
            said["serial"].as_str().unwrap().to_owned(),
            u64::from_str_radix(&hex, 16).unwrap(),
        )
    };
    let first = fetch(&authority, &authority.path("first"), 0);
    let mut serial = first["serial"].as_str().unwrap().to_owned();
    let mut last = 0;
    for turn in 0..3 {
        done(ca(&config, &["revoke", "--serial", &serial]));
        let (next, found) = number(&authority, &format!("turn-{turn}"), 1);
        assert!(found > last, "{found} after {last}");
        (serial, last) = (next, found);
        authority.kill_9();
        authority.run(hopguard_tests::hopguard());
        assert_eq!(
            number(&authority, &format!("again-{turn}"), 1).1,
            found,
            "a restart alone signs nothing new"
        );
    }
}

#[test]
fn what_cannot_be_revoked_is_refused_with_a_hint() {
    let authority = Authority::start(&for_us("us"));
    let config = authority.path("ca.toml");
    let other = "spiffe://other.example/us";
    for (arguments, says) in [
        (&["revoke", "--id", "spiffe://Mesh.local/x"][..], "no SPIFFE ID"),
        (&["revoke", "--id", other], "not an identity of this trust domain"),
        (
            &["revoke", "--id", "spiffe://mesh.local"],
            "not an identity of this trust domain",
        ),
        (&["revoke", "--serial", "zz"], "no serial number"),
        (&["revoke", "--serial", "0102"], "is alive"),
        (&["revoke", "--authority", "0102"], "no authority of that name"),
        (&["revoke", "--serial", "00"], "`00` is no serial number"),
        (&["revoke", "--serial", "0x0A:0b"], "serial number 0a0b is alive"),
        (&["revoke", "--id", US, "--reason", "two\nlines"], "one line"),
    ] {
        let said = refused(&ca(&config, arguments));
        assert!(
            said.contains(says) && said.contains("hint"),
            "{arguments:?}: {said}"
        );
    }
    let nothing = ca(&config, &["revoke"]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn a_revoked_authority_takes_all_that_it_signed_with_it() {
    let authority = Authority::start(&for_us("us"));
    let config = authority.path("ca.toml");
    let (before, after) = (authority.path("before"), authority.path("after"));
    fetch(&authority, &before, 0);
    let status = done(ca(&config, &["status"]));
    let id = active(&status);
    let said = refused(&ca(&config, &["revoke", "--authority", &id]));
    assert!(
        said.contains("no other is prepared") && said.contains("--force"),
        "{said}"
    );
    assert!(
        said.contains("SVIDs of a root") && !said.contains("--kind"),
        "{said}"
    );
    let key = status["authorities"].as_array().unwrap().iter();
    let key = key
        .filter(|one| one["kind"] == "jwt")
        .map(|one| one["id"].as_str().unwrap());
    let said = refused(&ca(&config, &["revoke", "--authority", key.last().unwrap()]));
    assert!(
        said.contains("JWT-SVIDs of a key") && said.contains("--kind jwt"),
        "{said}"
    );
    let dry = done(ca(
        &config,
        &["revoke", "--authority", &id, "--force", "--dry-run"],
    ));
    assert!(dry["svids"].as_u64() >= Some(1), "{dry}");
    let revoked = done(ca(&config, &["revoke", "--authority", &id, "--force"]));
    let successor = revoked["successor"].as_str().unwrap().to_owned();
    assert_ne!(successor, id);
    eventually(DEADLINE, || {
        let new = fetch(&authority, &after, 0);
        if new["roots"] == 1 {
            Ok(())
        } else {
            Err(new.to_string())
        }
    })
    .unwrap();
    assert_eq!(active(&done(ca(&config, &["status"]))), successor);
    let verify = |leaf: &Path| {
        let (leaf, roots) = (leaf.join("leaf.pem"), after.join("roots.pem"));
        ran(
            "openssl",
            &[
                "verify",
                "-CAfile",
                roots.to_str().unwrap(),
                leaf.to_str().unwrap(),
            ],
        )
        .0
    };
    assert!(verify(&after) && !verify(&before));
}

/// The id of the active X.509 authority.
pub fn active(status: &Value) -> String {
    let authorities = status["authorities"].as_array().unwrap();
    let found = authorities
        .iter()
        .find(|one| one["kind"] == "x509" && (one["slot"] == "active" || one["state"] == "active"));
    found.unwrap_or_else(|| panic!("{status}"))["id"]
        .as_str()
        .unwrap()
        .to_owned()
}
