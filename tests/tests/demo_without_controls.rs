//! A test of the tests: with one control taken out by configuration, the scenario that stands for it must fail. What no
//! setting can take out is taken out of the sources, in `mutants.rs`.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hopguard_tests::{hopguard_bin, output_within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

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
fn a_token_that_is_bound_to_nobody_fails_the_replay_scenario() {
    let said = told_wrong(&hopguard_bin(), &["--set", "mesh:service.1.port.0.bind=\"none\""]);
    assert_eq!(failed(&said), [7], "{said}");
    let seen = &said["scenarios"][6]["observed"];
    assert_eq!(
        (&seen["status"], &seen["application_requests"]),
        (&200.into(), &1.into()),
        "{said}"
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
        [4, 5, 6, 7].iter().all(|scenario| !failed.contains(scenario)),
        "{said}"
    );
}
