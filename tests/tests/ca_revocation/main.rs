//! What is revoked is worth nothing within seconds: an identity, a certificate, an authority. And where the keys come from
//! that say so: under a passphrase, under the organisation's root.

#![cfg(test)]

mod keys;
mod lists;
mod mesh;
mod organisation;
#[expect(dead_code, reason = "other tests of the authority need more of it")]
#[path = "../ca_workload_api/support.rs"]
mod support;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use hopguard_tests::{hopguard, output_within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// `hopguard -o json ca ...`, told where the authority is by `--config`.
fn ca(config: &Path, arguments: &[&str]) -> Output {
    let mut command = hopguard();
    command.args(["-o", "json", "ca"]).args(arguments);
    command.arg("--config").arg(config);
    output_within(PATIENCE, command).unwrap()
}

/// The answer of a verb that succeeds.
fn done(output: Output) -> Value {
    let text = hopguard_tests::succeeded(output).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What a verb that fails says.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a program that must succeed; what it wrote to both.
fn run(program: &str, arguments: &[&str]) -> String {
    let (good, said) = ran(program, arguments);
    assert!(good, "{program} {arguments:?}: {said}");
    said
}

fn ran(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
