//! The entries file is followed: a good change reaches open streams within a second, a bad one changes nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

#[test]
fn an_entry_that_is_added_is_an_identity_within_a_second() {
    let authority = Authority::start(&for_us("a"));
    let client = call(&authority, &["--timeout", "120"]);
    assert_eq!(client.next()["ids"], json!(["spiffe://mesh.local/a"]));
    // The best of three: the machine may be busy with something else.
    let mut took = Vec::new();
    for name in ["b", "c", "d"] {
        let start = Instant::now();
        authority.write_entries(&(for_us("a") + &for_us(name)));
        assert_eq!(
            client.next()["ids"],
            json!(["spiffe://mesh.local/a", format!("spiffe://mesh.local/{name}")])
        );
        took.push(start.elapsed());
    }
    assert!(took.iter().min().unwrap() < &Duration::from_secs(1), "{took:?}");
}

#[test]
fn what_is_unchanged_is_not_issued_anew() {
    let authority = Authority::start(&for_us("a"));
    let client = call(&authority, &[]);
    let before = client.next();
    authority.write_entries(&(for_us("a") + &for_us("b")));
    let after = client.next();
    assert_eq!(before["serials"][0], after["serials"][0], "the same SVID of a");
    authority.write_entries(&(for_us("a") + &for_us("b") + &entry("c", &["unix:uid:4242".to_owned()])));
    authority.logged(&["entries are in force", "\"entries\":3"]);
    assert!(
        client.silent_for(Duration::from_millis(500)),
        "not this caller's business"
    );
}

/// S-45.
#[test]
fn an_entry_that_is_taken_away_ends_the_stream() {
    let authority = Authority::start(&(for_us("a") + &for_us("b")));
    let client = call(&authority, &[]);
    let bundles = call(&authority, &["--method", "FetchX509Bundles"]);
    assert_eq!(
        client.next()["ids"],
        json!(["spiffe://mesh.local/a", "spiffe://mesh.local/b"])
    );
    bundles.next();
    authority.write_entries(&for_us("b"));
    assert_eq!(client.next()["ids"], json!(["spiffe://mesh.local/b"]));
    authority.write_entries("");
    authority.logged(&["the entries file is refused", "has no entries"]);
    authority.write_entries("entries = \"none\"\n");
    assert_eq!(client.next()["status"], "PERMISSION_DENIED");
    assert_eq!(bundles.next()["status"], "PERMISSION_DENIED");
}

#[test]
fn a_bad_file_is_named_with_its_line_and_the_old_entries_stay() {
    let authority = Authority::start(&for_us("a"));
    let client = call(&authority, &[]);
    client.next();
    authority.write_entries(
        &(for_us("b") + "[[entry]]\nspiffe_id = \"spiffe://other/x\"\nselectors = [\"unix:uid:1\"]\n"),
    );
    let line = authority.logged(&["the entries file is refused", "not in the trust domain"]);
    assert_eq!(line["line"], 5, "{line}");
    assert!(
        line["hint"].as_str().unwrap().contains("spiffe://mesh.local/"),
        "{line}"
    );
    assert!(line["file"].as_str().unwrap().ends_with("entries.toml"), "{line}");
    assert_eq!(
        first(&authority, &[])["ids"],
        json!(["spiffe://mesh.local/a"]),
        "the old one decides"
    );
    std::fs::remove_file(authority.path("entries.toml")).unwrap();
    authority.logged(&["the entries file is refused", "No such file"]);
    assert_eq!(
        first(&authority, &[])["ids"],
        json!(["spiffe://mesh.local/a"]),
        "a missing file changes nothing"
    );
    authority.write_entries(&for_us("c"));
    assert_eq!(
        client.next()["ids"],
        json!(["spiffe://mesh.local/c"]),
        "the next good one is in force"
    );
}

#[test]
fn a_file_that_is_put_right_again_is_told() {
    let good = for_us("a");
    let authority = Authority::start(&good);
    authority.logged(&["entries are in force"]);
    authority.write_entries("[[entry]]\n");
    authority.logged(&["the entries file is refused"]);
    // Exactly what was in force before: nothing changes, and whoever reads the log must know that all is well.
    authority.write_entries(&good);
    authority.logged(&["the entries file is good again", "\"entries\":1"]);
    assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
}

/// As many entries and templates as take minutes where each is compared with each.
fn a_long_file() -> String {
    let fixed = |at: usize| entry(&format!("ns/{at}/sa/web"), &[format!("unix:uid:{at}")]);
    let open =
        |at: usize| format!("[[entry]]\nspiffe_id = \"spiffe://mesh.local/ns/{at}/user/{{unix.user}}\"\n");
    (0..20_000).map(fixed).chain((0..1000).map(open)).collect()
}

#[test]
fn whoever_asks_is_answered_while_a_long_file_is_checked() {
    let mut authority = Authority::start(&for_us("a"));
    let long = authority.path("long.toml");
    std::fs::write(&long, a_long_file()).unwrap();
    let plan = || {
        let mut command = hopguard_tests::hopguard();
        command.args(["-o", "json", "entry", "plan", "--file"]).arg(&long);
        command.arg("--config").arg(authority.path("ca.toml"));
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        hopguard_tests::Guard(child)
    };
    let fetch = || {
        let start = Instant::now();
        let mut command = hopguard_tests::hopguard();
        command.args(["svid", "fetch", "--socket", &authority.endpoint()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        start.elapsed()
    };
    let mut planning = plan();
    let start = Instant::now();
    let mut took = Vec::new();
    let planned = loop {
        took.push(fetch());
        if let Some(status) = planning.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < 2 * DEADLINE, "the check takes too long");
    };
    assert!(planned.success(), "{planned}");
    assert!(took.iter().max().unwrap() < &Duration::from_secs(5), "{took:?}");
    let _planning = plan();
    fetch();
    let (status, after) = authority.terminate();
    assert!(status.success(), "{status}");
    assert!(after < Duration::from_secs(5), "{after:?}");
}
