//! What the authority keeps: nothing that a client received is ever missing, whatever ends it; a backup brings it back; the
//! audit log has everything and shows what was done to it; and hostile callers cost it little.

mod audit;
mod backup;
mod crash;
mod full;
mod hostile;
#[expect(
    dead_code,
    reason = "shared with the tests of the Workload API, which need more of it"
)]
#[path = "../ca_workload_api/support.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use hopguard_tests::{Guard, hopguard, hopguard_bin};
use serde_json::Value;
use support::*;

/// For tests whose one uid plays all workloads.
const OPEN: &str = "[limits]\nconnections = 4000\nconnections_per_uid = 4000\nstreams_per_connection = 1000\n\
                    calls_per_second = 1000000\ncall_burst = 1000000\n";

/// With an audit log, and room for many callers of one uid.
fn authority(entries: &str, more: &str) -> Authority {
    let authority = Authority::files(entries, "1h", OPEN);
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    std::fs::write(
        authority.path("ca.toml"),
        format!("audit = \"audit.log\"\n{more}{config}"),
    )
    .unwrap();
    authority
}

/// Many clients at once.
fn clients(authority: &Authority, arguments: &[&str]) -> Guard {
    let program = hopguard_bin().with_file_name("hopguard-svids");
    let child = Command::new(program)
        .args(["--socket", authority.path("w.sock").to_str().unwrap()])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Guard(child)
}

/// The running authority's, as it told the audit log.
fn pid(authority: &Authority) -> i32 {
    let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
    let mut records = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let pid = records.find_map(|record| record["detail"]["pid"].as_i64());
    i32::try_from(pid.unwrap()).unwrap()
}

/// The first column of a query on a database, by a program that is not ours.
fn sql(database: &Path, query: &str) -> Vec<String> {
    let script =
        "import sqlite3,sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(row[0])";
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .arg(query)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn run(arguments: &[&str]) -> Output {
    hopguard().args(arguments).output().unwrap()
}

/// The JSON that a verb answers.
fn done(arguments: &[&str]) -> Value {
    let output = run(&[&["-o", "json"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The exit code and the error of a verb that must fail.
fn fails(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A line that is being written does not count.
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].lines().map(str::to_owned).collect()
}
