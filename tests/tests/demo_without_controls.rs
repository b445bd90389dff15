//! A test of the tests: with one control taken out, the scenario that stands for it must fail. What configuration can take
//! out is taken out there; what it cannot (no setting turns off a verification) is taken out of the source, in a copy.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hopguard_tests::{hopguard_bin, output_within, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const BUILDING: Duration = Duration::from_secs(1800);

/// The story as this binary tells it, which must not find all as it must be.
fn told_wrong(binary: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(binary);
    command.args(["-o", "json", "demo", "--once"]).args(arguments);
    let output = output_within(PATIENCE, command).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said["ok"], false, "{said}");
    said
}

/// Which scenarios did not go as they must.
fn failed(said: &Value) -> Vec<u64> {
    let scenarios = said["scenarios"].as_array().unwrap();
    scenarios
        .iter()
        .filter(|scenario| scenario["ok"] == false)
        .map(|scenario| scenario["id"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_permissive_port_fails_the_plaintext_scenario() {
    let said = told_wrong(
        &hopguard_bin(),
        &["--set", "mesh:service.2.port.0.mode=\"permissive\""],
    );
    assert_eq!(failed(&said), [5], "{said}");
    assert!(
        said["scenarios"][4]["observed"]["status"].is_u64(),
        "it was not answered: {said}"
    );
}

#[test]
fn a_policy_that_allows_all_fails_the_scenarios_of_users_and_peers() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::write(
        policies.join("all.cedar"),
        "@id(\"all\")\npermit(principal, action, resource);\n",
    )
    .unwrap();
    let said = told_wrong(&hopguard_bin(), &["--dir", folder.path().to_str().unwrap()]);
    let failed = failed(&said);
    assert!(failed.contains(&2) && failed.contains(&3), "{said}");
    for scenario in [1, 2] {
        assert_eq!(said["scenarios"][scenario]["observed"]["status"], 200, "{said}");
        assert_eq!(
            said["scenarios"][scenario]["observed"]["application_requests"], 1,
            "{said}"
        );
    }
    // Whoever is nobody is stopped before any policy.
    assert!(
        !failed.contains(&4) && !failed.contains(&5) && !failed.contains(&6),
        "{said}"
    );
}

#[test]
#[ignore = "builds the binary again, from a changed copy of the source"]
fn peers_of_any_chain_fail_the_scenario_of_the_self_made_certificate() {
    let binary = without(
        "any-chain",
        "sidecar/src/tls/verify.rs",
        ".map_err(|e| TlsError::Untrusted(why(&e, domain)))?;",
        ".map_err(|e| TlsError::Untrusted(why(&e, domain))).ok();",
    );
    let said = told_wrong(&binary, &[]);
    assert!(failed(&said).contains(&4), "{said}");
    assert!(
        said["scenarios"][3]["observed"]["application_requests"].as_u64() > Some(0),
        "{said}"
    );
}

#[test]
#[ignore = "builds the binary again, from a changed copy of the source"]
fn tokens_of_any_signature_fail_the_scenario_of_forged_tokens() {
    let binary = without(
        "any-signature",
        "jose/src/jws.rs",
        ".map_err(|_| TokenError::Signature)?;",
        ".map_err(|_| TokenError::Signature).ok();",
    );
    let said = told_wrong(&binary, &[]);
    assert_eq!(failed(&said), [6], "{said}");
    assert_eq!(
        said["scenarios"][5]["observed"]["attempts"][1]["status"], 200,
        "{said}"
    );
}

/// Builds the binary from a copy of the source in which `control` of `file` is replaced. It never stands where the real one
/// does.
fn without(name: &str, file: &str, control: &str, replacement: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let copy = scratch.join(format!("without-control-{name}"));
    let listed = output_within(PATIENCE, {
        let mut git = Command::new("git");
        git.arg("-C").arg(source).args(["ls-files", "-z"]);
        git
    });
    for path in succeeded(listed.unwrap()).unwrap().split_terminator('\0') {
        let to = copy.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(source.join(path), to).unwrap();
    }
    let text = fs::read_to_string(copy.join(file)).unwrap();
    assert_eq!(
        text.matches(control).count(),
        1,
        "{file} has changed: say anew what takes its control out"
    );
    fs::write(copy.join(file), text.replace(control, replacement)).unwrap();
    // One folder for all of these, so that only what differs is built again.
    let target = scratch.join("without-controls");
    let mut build = Command::new(env!("CARGO"));
    build
        .current_dir(&copy)
        .args(["build", "--offline", "-p", "hopguard", "--target-dir"])
        .arg(&target);
    succeeded(output_within(BUILDING, build).unwrap()).unwrap();
    let binary = copy.join("hopguard");
    fs::copy(target.join("debug/hopguard"), &binary).unwrap();
    binary
}
