//! `hopguard svid fetch` and `inspect`: our own client and our own eyes on what the authority hands out.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hopguard_tests::hopguard;
use serde_json::Value;

use crate::support::*;

fn svid(arguments: &[&str]) -> Output {
    hopguard().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn inspect(file: &Path) -> (Option<i32>, Value) {
    let output = svid(&["-o", "json", "svid", "inspect", file.to_str().unwrap()]);
    let said = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        said.unwrap_or_else(|_| panic!("{output:?}")),
    )
}

#[test]
fn what_is_fetched_is_written_inspected_and_accepted_by_openssl() {
    let authority =
        Authority::start(&(for_us("ns/shop/sa/orders") + "hint = \"internal\"\n" + &for_us("second")));
    let dir = authority.path("out");
    std::fs::create_dir(&dir).unwrap();
    let output = svid(&[
        "svid",
        "fetch",
        "--socket",
        &authority.endpoint(),
        "--write",
        dir.to_str().unwrap(),
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for word in [
        "spiffe://mesh.local/ns/shop/sa/orders\n",
        "internal",
        "EC P-256",
        " min left)",
        "spiffe://mesh.local/second\n",
    ] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    assert!(!text.contains("problem") && !text.contains("PRIVATE"), "{text}");
    let key = dir.join("svid.0.key");
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert!(dir.join("svid.1.pem").exists());

    let verify = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .args([dir.join("bundle.0.pem"), dir.join("svid.0.pem")])
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
    let public = |arguments: &[&str], file: &Path| {
        Command::new("openssl")
            .args(arguments)
            .arg(file)
            .output()
            .unwrap()
            .stdout
    };
    let of_certificate = public(&["x509", "-noout", "-pubkey", "-in"], &dir.join("svid.0.pem"));
    assert!(!of_certificate.is_empty());
    assert_eq!(of_certificate, public(&["pkey", "-pubout", "-in"], &key));

    let (code, said) = inspect(&dir.join("svid.0.pem"));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said["spiffe_id"], "spiffe://mesh.local/ns/shop/sa/orders");
    assert_eq!(said["problems"], serde_json::json!([]));
    // A root is no SVID of a workload.
    let (code, said) = inspect(&dir.join("bundle.0.pem"));
    assert_eq!(code, Some(1), "{said}");
    assert!(!said["problems"].as_array().unwrap().is_empty());
}

#[test]
fn inspect_reads_stdin_and_der_and_names_what_is_wrong() {
    let authority = Authority::with(&for_us("a"), "2s", "");
    let dir = authority.path("out");
    std::fs::create_dir(&dir).unwrap();
    let fetched = svid(&[
        "svid",
        "fetch",
        "--socket",
        &authority.endpoint(),
        "--write",
        dir.to_str().unwrap(),
    ]);
    assert!(fetched.status.success());
    let der = Command::new("openssl")
        .args(["x509", "-outform", "DER", "-in"])
        .arg(dir.join("svid.0.pem"))
        .output()
        .unwrap();
    // It lives for two seconds: after that the same file has a problem.
    let ended = hopguard_tests::eventually(DEADLINE, || {
        let mut child = hopguard()
            .args(["-o", "json", "svid", "inspect", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&der.stdout).unwrap();
        let output = child.wait_with_output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        if output.status.code() == Some(1) {
            Ok(said)
        } else {
            Err(said.to_string())
        }
    });
    let said = ended.unwrap();
    assert!(
        said["problems"][0].as_str().unwrap().contains("expired"),
        "{said}"
    );
    assert_eq!(said["spiffe_id"], "spiffe://mesh.local/a");

    std::fs::write(dir.join("garbage"), "garbage").unwrap();
    let output = svid(&["svid", "inspect", dir.join("garbage").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("neither PEM nor DER"),
        "{output:?}"
    );
}

#[test]
fn a_refusal_says_what_to_do() {
    let authority = Authority::start("");
    let output = svid(&["svid", "fetch", "--socket", &authority.endpoint()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("PermissionDenied") && text.contains("hint: no entry grants"),
        "{text}"
    );
    let output = svid(&[
        "svid",
        "fetch",
        "--timeout",
        "1",
        "--socket",
        "unix:///nowhere/at/all.sock",
    ]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("hopguard ca serve"), "{text}");
}
