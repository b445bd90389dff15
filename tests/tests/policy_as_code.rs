//! Policies as code, as one types it: check, test, format and print them.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use hopguard_tests::hopguard;
use serde_json::Value;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies")
}

/// The examples in a folder of their own.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn run(args: &[&str], dir: &Path) -> Output {
    let mesh = examples().join("mesh.toml");
    let mut command = hopguard();
    command.args(args);
    if args.iter().all(|arg| *arg != "fmt") {
        command.arg("--mesh").arg(mesh);
    }
    command.arg(dir).output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

#[test]
fn the_examples_pass_their_tests_and_every_policy_decides_one() {
    let dir = copied();
    let report = dir.path().join("report.xml");
    let args = [
        "policy",
        "test",
        "--coverage",
        "--coverage-min",
        "100",
        "--junit",
        report.to_str().unwrap(),
    ];
    let output = run(&args, dir.path());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("13 passed, 0 failed; 9 of 9 policies decided a test (100 %)"),
        "{said}"
    );
    let report = fs::read_to_string(report).unwrap();
    assert!(
        report.contains("<testsuites name=\"hopguard policy test\" tests=\"13\" failures=\"0\""),
        "{report}"
    );
    assert_eq!(report.matches("<testcase ").count(), 13);

    let told = json(&run(&["-o", "json", "policy", "test"], dir.path()));
    assert_eq!(
        (&told["tests"], &told["failed"], &told["coverage"]),
        (&13.into(), &0.into(), &100.into())
    );
    let checked = text(&run(&["policy", "check"], dir.path()));
    assert!(checked.contains(told["version"].as_str().unwrap()), "{checked}");
}

#[test]
fn a_failing_test_and_too_little_coverage_are_a_no() {
    let dir = copied();
    let users = dir.path().join("20-users.cedar");
    let policies = fs::read_to_string(&users).unwrap();
    fs::write(
        &users,
        policies.replace("Role::\"corp|clerk\"", "Role::\"corp|auditor\""),
    )
    .unwrap();
    let report = dir.path().join("report.xml");
    let output = run(
        &["policy", "test", "--junit", report.to_str().unwrap()],
        dir.path(),
    );
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "FAIL orders charge for a clerk: expected allow by `clerks-charge`, got deny with 403 (no_rule)"
        ) && said.contains("shop.test.toml:")
            && said.contains("12 passed, 1 failed"),
        "{said}"
    );
    let report = fs::read_to_string(report).unwrap();
    assert!(
        report.contains("failures=\"1\"")
            && report.contains("<failure message=\"expected allow by `clerks-charge`"),
        "{report}"
    );
    // The same stands in the way of loading it, at its line.
    let output = run(&["-o", "json", "policy", "check"], dir.path());
    assert_eq!(output.status.code(), Some(3));
    let problem = &json(&output)[0];
    assert!(
        problem["message"]
            .as_str()
            .unwrap()
            .contains("`orders charge for a clerk` fails"),
        "{problem}"
    );
    let file = fs::read_to_string(dir.path().join("shop.test.toml")).unwrap();
    let line = file
        .lines()
        .nth(usize::try_from(problem["line"].as_u64().unwrap()).unwrap() - 1);
    assert_eq!(line, Some("expect = \"allow\""));

    fs::write(&users, policies).unwrap();
    fs::remove_file(dir.path().join("shop.test.toml")).unwrap();
    let output = run(&["policy", "test", "--coverage-min", "1"], dir.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("0 % of the policies decided a test, and 1 are asked for"));
    fs::write(dir.path().join("bad.test.toml"), "[[test]]\nname = 7\n").unwrap();
    let output = run(&["policy", "test"], dir.path());
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("bad.test.toml:2:8"), "{}", text(&output));
}

#[test]
fn a_folder_is_brought_into_form_once() {
    let dir = copied();
    let version = |dir: &Path| json(&run(&["-o", "json", "policy", "test"], dir))["version"].clone();
    let before = version(dir.path());
    let messy = dir.path().join("10-workloads.cedar");
    let policies = fs::read_to_string(&messy).unwrap().replace("permit (", "permit(");
    let output = run(&["policy", "fmt", "--check"], dir.path());
    assert_eq!(
        output.status.code(),
        Some(0),
        "the examples are in form: {}",
        text(&output)
    );
    fs::write(&messy, &policies).unwrap();
    assert_ne!(version(dir.path()), before, "the version is of the text");
    let output = run(&["policy", "fmt", "--check"], dir.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("10-workloads.cedar"));
    assert_eq!(
        fs::read_to_string(&messy).unwrap(),
        policies,
        "checking changes nothing"
    );
    // For programs, as `policy check` says what is wrong.
    let output = run(&["-o", "json", "policy", "fmt", "--check"], dir.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let told = json(&output);
    let line = policies.lines().position(|line| line.starts_with("permit("));
    assert_eq!(
        (
            &told[0]["severity"],
            &told[0]["message"],
            told[0]["line"].as_u64()
        ),
        (
            &"error".into(),
            &"not in form".into(),
            line.map(|at| at as u64 + 1)
        ),
        "{told}"
    );
    assert!(output.stderr.is_empty(), "{}", text(&output));
    assert_eq!(run(&["policy", "fmt"], dir.path()).status.code(), Some(0));
    let formatted = fs::read_to_string(&messy).unwrap();
    assert!(
        formatted != policies && formatted.contains("// Anyone may look at the shop's pages."),
        "{formatted}"
    );
    assert_eq!(
        run(&["policy", "fmt", "--check"], dir.path()).status.code(),
        Some(0)
    );
    let output = run(&["policy", "test", "--coverage-min", "100"], dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(version(dir.path()), before, "in the form that it had");
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), fs::read_dir(examples()).unwrap().count(), "{left:?}");

    fs::write(&messy, "@id(\"a\")\npermit(principal, action);\n").unwrap();
    let output = run(&["policy", "fmt"], dir.path());
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output).contains("10-workloads.cedar:2:"),
        "{}",
        text(&output)
    );
}

#[test]
fn errors_name_file_line_caret_and_hint() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "@id(\"a\")\npermit(principal in Group::\"monitorin\", action, resource);\n";
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    let output = run(&["policy", "check"], dir.path());
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output);
    assert!(
        said.contains(
            "a.cedar:2:21: group `monitorin` is not in the mesh file\n  hint: did you mean `monitoring`?"
        ),
        "{said}"
    );
}

#[test]
fn facts_name_what_proofs_need() {
    let facts = json(&run(&["-o", "json", "policy", "facts"], &examples()));
    assert_eq!(
        facts["services"]["shop/ledger"]["opaque_ports"],
        serde_json::json!([5432])
    );
    assert_eq!(facts["services"]["shop/orders"]["namespace"], "shop");
    assert_eq!(
        facts["workloads"]["spiffe://mesh.local/ns/shop/sa/web"]["trust_domain"],
        "mesh.local"
    );
    assert_eq!(facts["roles"], serde_json::json!(["corp|clerk", "corp|auditor"]));
    assert_eq!(facts["policies"]["shadow"], serde_json::json!(["eu-only"]));
    assert_eq!(facts["policies"]["in_force"].as_array().unwrap().len(), 8);
}

#[test]
fn a_trap_is_a_warning_and_an_error_where_one_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "@id(\"a\")\npermit(principal, action in Action::\"http\", resource);\n\
                  @id(\"b\")\nforbid(principal, action in Action::\"http\", resource == Service::\"shop/orders\")\n\
                  when { context.path == \"/admin\" };\n";
    fs::write(dir.path().join("a.cedar"), policy).unwrap();
    let output = run(&["policy", "check"], dir.path());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("a.cedar:5:16: warning: this forbid compares `context.path` as text")
            && said.contains(": ok ("),
        "{said}"
    );
    let told = |args: &[&str], code: i32, severity: &str| {
        let output = run(args, dir.path());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        let found = json(&output);
        assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
        assert_eq!(
            (&found[0]["severity"], &found[0]["line"]),
            (&severity.into(), &5.into()),
            "{found}"
        );
    };
    told(&["-o", "json", "policy", "check"], 0, "warning");
    told(&["-o", "json", "policy", "check", "--deny-warnings"], 3, "error");
    let denied = run(&["policy", "check", "--deny-warnings"], dir.path());
    assert_eq!(denied.status.code(), Some(3));
    assert!(text(&denied).contains("warnings are denied"), "{}", text(&denied));
    let good = run(&["-o", "json", "policy", "check", "--deny-warnings"], &examples());
    assert_eq!(
        (good.status.code(), json(&good)),
        (Some(0), serde_json::json!([]))
    );
}
