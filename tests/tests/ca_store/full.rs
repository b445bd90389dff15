//! The disk is full, or cannot be written: no SVID leaves, and the authority recovers by itself.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use hopguard_tests::{eventually, hopguard, hopguard_bin};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::*;

/// An authority that is told of a file that may not grow instead of being ended by it.
fn limited() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(hopguard_bin());
    command
}

/// Files of the authority may not grow past this.
fn limit(authority: &Authority, bytes: Option<u64>) {
    limit_process(pid(authority), bytes);
}

fn limit_process(pid: i32, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Pid::from_raw(pid), Resource::Fsize, limit).unwrap();
}

fn refused_then_served(authority: &Authority, bytes: u64) {
    assert_eq!(first(authority, &[])["ids"][0], "spiffe://mesh.local/a");
    let state = authority.path("data/state.sqlite");
    limit(authority, Some(bytes));
    for _ in 0..3 {
        let said = first(authority, &[]);
        assert_eq!(said["status"], "UNAVAILABLE", "{said}");
    }
    limit(authority, None);
    let served = eventually(DEADLINE, || {
        let said = first(authority, &[]);
        if said["ids"][0] == "spiffe://mesh.local/a" {
            Ok(())
        } else {
            Err(said)
        }
    });
    served.unwrap();
    assert_eq!(sql(&state, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn with_a_full_disk_nobody_gets_an_svid_and_afterwards_everybody() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(limited());
    // Nothing can be written any more, the authority's own log included.
    refused_then_served(&authority, 0);
    let log = authority.path("audit.log");
    let verified = done(&["ca", "audit", "verify", log.to_str().unwrap()]);
    assert!(verified["records"].as_u64().unwrap() >= 3);
}

/// A log that is large already, so that it alone cannot grow.
fn large_log(authority: &Authority) {
    let mut log = vec![b'\n'; 20 << 20];
    log.extend_from_slice(format!("{{\"seq\":1,\"prev\":\"{}\"}}\n", "0".repeat(64)).as_bytes());
    std::fs::write(authority.path("audit.log"), log).unwrap();
}

#[test]
fn without_an_audit_log_nobody_gets_an_svid() {
    let mut authority = authority(&for_us("a"), "");
    large_log(&authority);
    authority.run(limited());
    refused_then_served(&authority, 10 << 20);
    authority.logged(&["the audit log cannot be written"]);
    authority.logged(&["no SVID could be issued", "audit log"]);
    authority.logged(&["the audit log is written again"]);
    let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
    assert!(log.contains("\"lost\""), "how many are missing is in it");
}

#[test]
fn where_the_audit_log_is_not_required_its_loss_is_told_and_counted() {
    let mut authority = authority(&for_us("a"), "audit_required = false\n");
    large_log(&authority);
    authority.run(limited());
    first(&authority, &[]);
    limit(&authority, Some(10 << 20));
    assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
    authority.logged(&["the audit log cannot be written"]);
    limit(&authority, None);
    assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
    let told = eventually(DEADLINE, || {
        let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
        let lost = log.lines().find(|line| line.contains("\"lost\""));
        lost.map(str::to_owned).ok_or("nothing is told")
    });
    let told: Value = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(told["untold"], 1);
}

#[test]
fn without_an_audit_log_trust_is_taken_away_and_not_given_back() {
    const US: &str = "spiffe://mesh.local/a";
    let mut authority = authority(&for_us("a"), "");
    large_log(&authority);
    authority.run(limited());
    assert_eq!(first(&authority, &[])["ids"][0], US);
    let config = authority.path("ca.toml");
    let at = ["--config", config.to_str().unwrap()];
    let verb = |words: &[&'static str]| [&["ca"][..], words, &at[..]].concat();
    let active = || {
        let status = done(&verb(&["status"]));
        let all = status["authorities"].as_array().unwrap().clone();
        let active = all
            .iter()
            .find(|one| one["kind"] == "x509" && one["state"] == "active");
        active.unwrap()["id"].as_str().unwrap().to_owned()
    };
    limit(&authority, Some(10 << 20));

    done(&verb(&["revoke", "--id", US]));
    authority.logged(&["A REVOCATION IS MISSING IN THE AUDIT LOG", US]);
    assert_eq!(first(&authority, &[])["status"], "PERMISSION_DENIED");
    let (_, error) = fails(&verb(&["revoke", "--id", US, "--lift"]));
    assert!(error.contains("audit log") && error.contains("hint"), "{error}");

    let (old, force) = (active(), ["--force"]);
    let revoke = [
        &["ca", "revoke", "--authority", old.as_str()][..],
        &force[..],
        &at[..],
    ]
    .concat();
    done(&revoke);
    assert_ne!(active(), old);
    let (_, error) = fails(&verb(&["rotate", "--step", "prepare"]));
    assert!(error.contains("audit log"), "nothing else is done: {error}");

    limit(&authority, None);
    done(&verb(&["revoke", "--id", US, "--lift"]));
    let served = eventually(DEADLINE, || {
        let said = first(&authority, &[]);
        if said["ids"][0] == US { Ok(()) } else { Err(said) }
    });
    served.unwrap();
}

#[test]
fn a_key_that_could_not_be_written_whole_leaves_nothing_behind() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    authority.terminate();
    let (config, secret) = (authority.path("ca.toml"), authority.path("passphrase"));
    std::fs::write(&secret, "correct horse battery").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let data = authority.path("data");
    let keys = || {
        let entries = std::fs::read_dir(&data).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.contains(".p8")).collect();
        names.sort();
        names
    };
    let before = keys();
    assert!(before.iter().all(|name| name.ends_with(".p8")), "{before:?}");

    // It is limited before it becomes the program.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; read -r go; exec \"$@\"", "sh"])
        .arg(hopguard_bin())
        .args(["ca", "keys", "encrypt", "--passphrase-file"])
        .arg(&secret)
        .arg(&config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    limit_process(i32::try_from(child.id()).unwrap(), Some(64));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(".p8"), "{error}");
    assert_eq!(keys(), before, "no part of a key");

    // What a crash left is gone after the next start.
    std::fs::write(authority.path("data/x509-0.p8.new"), "half of a key").unwrap();
    authority.run(hopguard());
    assert_eq!(keys(), before);
}
