//! Policies that change every 200 ms under load: every answer is the one that the set named in its record gives. A minute
//! long with `HOPGUARD_TEST_LONG`, else a few seconds. And a set that is only watched: it shows in records and metrics, and
//! never in an answer.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use hopguard_tests::{Load, Mesh, Options, Probe, eventually, folder, hopguard, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two sets.
const EVERY: Duration = Duration::from_millis(200);
const FILE: &str = "mesh/policies/set.cedar";

/// Web reads at orders for anyone who signed in.
const SIGNED_IN: &str = r#"@id("web-reads-orders")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };
"#;

const ANYONE: &str = r#"@id("anyone-reads")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context.path == "/headers" };
"#;

const NOBODY: &str = r#"@id("closed") @reason("orders is closed") @audit("deny")
forbid(principal, action in Action::"http", resource == Service::"shop/orders");
"#;

fn mesh(policies: &str) -> Mesh {
    let dir = folder(&[("policies/set.cedar", policies)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap()
}

/// The version of a set, as the command line tells it.
fn version(mesh: &Mesh, text: &str) -> String {
    let dir = folder(&[("set.cedar", text)]);
    let mut command = hopguard();
    command.args(["-o", "json", "policy", "test", "--mesh"]);
    command.arg(mesh.file("mesh/mesh.toml")).arg(dir.path());
    let said = succeeded(command.output().unwrap()).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    said["version"].as_str().unwrap().to_owned()
}

#[test]
fn each_answer_is_that_of_the_set_in_its_record() {
    let mesh = mesh(SIGNED_IN);
    // Sets of three answers to the same request, and several of each, so that every reload is another version.
    let kinds = [
        (format!("{SIGNED_IN}{ANYONE}"), 200),
        (SIGNED_IN.to_owned(), 401),
        (format!("{SIGNED_IN}{ANYONE}{NOBODY}"), 403),
    ];
    let sets: Vec<(String, u16)> = (0..12)
        .map(|at| {
            let (text, status) = &kinds[at % kinds.len()];
            (format!("// set {at}\n{text}"), *status)
        })
        .collect();
    let mut expected: BTreeMap<String, u16> = sets
        .iter()
        .map(|(text, status)| (version(&mesh, text), *status))
        .collect();
    expected.insert(version(&mesh, SIGNED_IN), 401);
    assert_eq!(expected.len(), sets.len() + 1);

    let seconds = if std::env::var_os("HOPGUARD_TEST_LONG").is_some() {
        60
    } else {
        7
    };
    let arguments = [
        "--url",
        "http://orders:8080/headers",
        "--connections",
        "8",
        "--pause-ms",
        "4",
        "--traced",
        "--seconds",
        &seconds.to_string(),
    ];
    let load = Load::start(&mesh, "web", &arguments).unwrap();
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        mesh.put(FILE, &sets[written % sets.len()].0).unwrap();
        written += 1;
        std::thread::park_timeout((EVERY * u32::try_from(written).unwrap()).saturating_sub(began.elapsed()));
    }
    let counted = load.finish(PATIENCE).unwrap();
    let answers: BTreeMap<&str, u64> = counted.0["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| (answer[0].as_str().unwrap(), answer[1].as_u64().unwrap()))
        .collect();
    assert!(answers.len() > 100, "{} answers", answers.len());

    let told = records_of(&mesh, &answers);
    let (mut versions, mut by_status) = (BTreeSet::new(), BTreeMap::<u64, u64>::new());
    for (trace, status) in &answers {
        let (version, recorded) = &told[*trace];
        assert_eq!(recorded, status, "{trace}");
        assert_eq!(
            u64::from(expected[version]),
            *status,
            "{trace}: version {version}"
        );
        versions.insert(version.as_str());
        *by_status.entry(*status).or_default() += 1;
    }
    println!(
        "{} answers ({by_status:?}) under {} versions; {written} sets written, {} requests cut",
        answers.len(),
        versions.len(),
        counted.number("failed")
    );
    assert!(
        versions.len() >= 4 && by_status.len() == 3,
        "hardly anything was reloaded"
    );
}

/// Version and status of the record of each answer, once all are written.
fn records_of(mesh: &Mesh, answers: &BTreeMap<&str, u64>) -> BTreeMap<String, (String, u64)> {
    eventually(PATIENCE, || {
        let mut told = BTreeMap::new();
        mesh.each_record("orders", |record| {
            let trace = record["trace_id"].as_str().unwrap_or_default();
            if answers.contains_key(trace) {
                let version = record["decision"]["policy_version"].as_str().unwrap_or_default();
                let status = record["http"]["status"].as_u64().unwrap_or_default();
                told.insert(trace.to_owned(), (version.to_owned(), status));
            }
        })?;
        match answers.len() - told.len() {
            0 => Ok(told),
            missing => Err(format!("{missing} records are missing")),
        }
    })
    .unwrap()
}

#[test]
fn a_failing_test_keeps_the_set_and_says_which() {
    let mesh = mesh(SIGNED_IN);
    let probe = Probe::start(&mesh, "web", &["--url", "http://orders:8080/headers"]).unwrap();
    probe.until("401", PATIENCE).unwrap();
    let before = mesh.admin("orders", "policy").unwrap()["version"].clone();
    let tests = "[[test]]\nname = \"nobody reads without a token\"\npeer = \"shop/web\"\n\
                 request = { service = \"shop/orders\", path = \"/headers\" }\nexpect = \"deny\"\nstatus = 401\n";
    mesh.put("mesh/policies/set.test.toml", tests).unwrap();
    mesh.put(FILE, &format!("{SIGNED_IN}{ANYONE}")).unwrap();
    let refused = eventually(PATIENCE, || {
        let policy = mesh.admin("orders", "policy")?;
        let words = policy["refused"].as_str().unwrap_or_default().to_owned();
        if words.contains("set.test.toml:5:") && words.contains("nobody reads without a token") {
            Ok(words)
        } else {
            Err(policy.to_string())
        }
    })
    .unwrap();
    assert!(
        refused.contains("expects deny with 401, and gets allow (allowed) by `anyone-reads`"),
        "{refused}"
    );
    assert!(mesh.log("orders").contains("nobody reads without a token"));
    assert_eq!(mesh.admin("orders", "policy").unwrap()["version"], before);
    let readiness = mesh.admin("orders", "status").unwrap()["readiness"].clone();
    assert!(
        readiness["ready"] == true && readiness["reasons"].to_string().contains("refused"),
        "{readiness}"
    );
    // The test corrected, the set is taken.
    mesh.put(
        "mesh/policies/set.test.toml",
        &tests.replace("\"deny\"\nstatus = 401", "\"allow\""),
    )
    .unwrap();
    probe.until("200", PATIENCE).unwrap();
    assert_eq!(probe.seen().len(), 2, "{:?}", probe.seen());
}

#[test]
fn a_shadow_set_shows_in_records_and_metrics_only() {
    let dir = folder(&[("policies/set.cedar", ANYONE), ("next/next.cedar", NOBODY)]);
    let mesh = Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        set: vec!["sidecar.orders:shadow_policies=\"mesh/next\"".to_owned()],
        ..Options::default()
    })
    .unwrap();
    let probe = Probe::start(&mesh, "web", &["--url", "http://orders:8080/headers"]).unwrap();
    probe.until("200", PATIENCE).unwrap();
    let shadow = mesh.admin("orders", "policy").unwrap()["shadow"].clone();
    assert_eq!(
        (&shadow["policies"], &shadow["refused"]),
        (&1.into(), &Value::Null),
        "{shadow}"
    );
    let record = eventually(PATIENCE, || {
        let found = mesh
            .records("orders")
            .into_iter()
            .find(|r| r["http"]["path"] == "/headers");
        found.ok_or("no record")
    })
    .unwrap();
    assert_eq!(record["decision"]["verdict"], "allow", "{record}");
    let would = &record["decision"]["would"];
    assert_eq!(
        (
            &would["verdict"],
            &would["reason"],
            &would["rule"],
            &would["policy_version"]
        ),
        (
            &"deny".into(),
            &"forbidden".into(),
            &"closed".into(),
            &shadow["version"]
        ),
        "{record}"
    );
    let scrape = || {
        let line = [
            "curl",
            "-sS",
            "--max-time",
            "10",
            "http://localhost:15020/metrics",
        ];
        succeeded(mesh.exec("orders", &line).unwrap()).unwrap()
    };
    let counted = scrape();
    let line = counted.lines().find(|line| {
        line.starts_with("hopguard_decisions_total{") && line.contains("verdict=\"would_deny\"")
    });
    let line = line.unwrap_or_else(|| panic!("{counted}"));
    assert!(
        line.contains("rule_id=\"closed\"") && line.contains("reason=\"forbidden\""),
        "{line}"
    );
    assert!(
        mesh.log("orders")
            .contains("policies in shadow would have answered otherwise")
    );

    // One that is broken is refused, and what decides does not notice; the one before is still watched.
    mesh.put("mesh/next/next.cedar", "permit(").unwrap();
    eventually(PATIENCE, || {
        let policy = mesh.admin("orders", "policy")?;
        let refused = policy["shadow"]["refused"].as_str().unwrap_or_default();
        if refused.contains("next.cedar:1:") && policy["refused"].is_null() {
            Ok(())
        } else {
            Err(policy.to_string())
        }
    })
    .unwrap();
    assert_eq!(
        mesh.admin("orders", "policy").unwrap()["shadow"]["version"],
        shadow["version"]
    );
    // Corrected, it is taken without a restart, and says nothing where it agrees.
    mesh.put("mesh/next/next.cedar", ANYONE).unwrap();
    eventually(PATIENCE, || {
        let records = mesh.records("orders");
        let last = records
            .iter()
            .rfind(|r| r["http"]["path"] == "/headers")
            .ok_or("no record")?;
        if last["decision"]["would"].is_null() {
            Ok(())
        } else {
            Err("still differs")
        }
    })
    .unwrap();
    assert_eq!(probe.seen().len(), 1, "the answer changed: {:?}", probe.seen());
    let _still_there = fs::metadata(mesh.file("mesh/next/next.cedar")).unwrap();
}
