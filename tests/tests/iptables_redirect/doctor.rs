//! What `hopguard doctor` says of a redirect that stands, one that does not, and ports that are taken.

use std::fs;
use std::net::TcpListener;

use hopguard_tests::hopguard_bin;
use serde_json::Value;

use crate::ns::{command, hopguard_ok, in_namespace, run, told};

/// The exit code and each finding as `group/name: state`, with the whole answer.
fn doctor(args: &[&str]) -> (i32, Vec<String>, String) {
    let bin = hopguard_bin();
    let (code, out, err) = told(
        command(bin.to_str().unwrap())
            .args(["doctor", "-o", "json"])
            .args(args),
    );
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(answer["healthy"], Value::Bool(code == 0), "{out}");
    let mut found = Vec::new();
    for group in answer["groups"].as_array().unwrap() {
        for check in group["checks"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            found.push(format!(
                "{}/{}: {}",
                text(&group["name"]),
                text(&check["name"]),
                text(&check["state"])
            ));
            assert!(
                check["state"] == "ok" || check["hint"].is_string(),
                "no hint: {check}"
            );
        }
    }
    (code, found, out)
}

fn has(found: &[String], line: &str) -> bool {
    found.iter().any(|other| other == line)
}

#[test]
fn a_redirect_that_stands_is_told_from_one_that_does_not() {
    in_namespace(
        "doctor::a_redirect_that_stands_is_told_from_one_that_does_not",
        || {
            let dir = tempfile::tempdir().unwrap();
            let (sidecar, redirect) = (dir.path().join("sidecar.toml"), dir.path().join("redirect.toml"));
            fs::write(
                &sidecar,
                "[identity]\nworkload_api = \"tcp://127.0.0.1:1\"\n[traffic]\nmark = 1337\n",
            )
            .unwrap();
            fs::write(&redirect, "[own]\nmark = 1337\n").unwrap();
            let (sidecar, redirect) = (sidecar.to_str().unwrap(), redirect.to_str().unwrap());

            let (_, found, out) = doctor(&[]);
            assert!(
                has(&found, "redirect/IPv4 rules: warn") && has(&found, "redirect/IPv6 rules: warn"),
                "{out}"
            );
            let (code, found, _) = doctor(&["--redirect", redirect]);
            assert!(code == 1 && has(&found, "redirect/rules: fail"), "{found:?}");

            hopguard_ok(&["apply", "--mark", "1337"]);
            let (_, found, out) = doctor(&["--config", sidecar]);
            assert!(
                has(&found, "redirect/IPv4 rules: ok") && has(&found, "redirect/IPv6 rules: ok"),
                "{out}"
            );
            let (_, found, out) = doctor(&["--redirect", redirect]);
            assert!(has(&found, "redirect/rules: ok"), "{out}");

            // For another sidecar; half; behind a foreign rule.
            hopguard_ok(&["apply", "--mark", "7"]);
            let (code, found, out) = doctor(&["--config", sidecar]);
            assert!(
                code == 1 && has(&found, "redirect/IPv4 rules: fail") && out.contains("mark 1337"),
                "{out}"
            );
            hopguard_ok(&["apply", "--mark", "1337"]);
            run("ip6tables", &["-t", "nat", "-I", "OUTPUT", "-j", "ACCEPT"]);
            let (code, found, out) = doctor(&[]);
            assert!(
                code == 1 && has(&found, "redirect/IPv6 rules: fail") && out.contains("come before"),
                "{out}"
            );
            hopguard_ok(&["undo"]);
            hopguard_ok(&["apply", "--mark", "1337", "--family", "ipv4"]);
            let (code, found, out) = doctor(&[]);
            assert!(
                code == 1 && has(&found, "redirect/IPv6 rules: fail") && out.contains("passes by"),
                "{out}"
            );
        },
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_its_holder() {
    in_namespace("doctor::a_port_that_is_taken_is_told_with_its_holder", || {
        let (code, found, out) = doctor(&[]);
        assert!(code == 0 && has(&found, "ports/15008 (HBONE): ok"), "{out}");
        let _taken = TcpListener::bind("[::]:15008").unwrap();
        let (code, found, out) = doctor(&[]);
        assert!(code == 1 && has(&found, "ports/15008 (HBONE): fail"), "{found:?}");
        assert!(out.contains(&format!("pid {}", std::process::id())), "{out}");
    });
}

#[test]
fn without_privilege_it_says_what_it_cannot_see() {
    in_namespace("doctor::without_privilege_it_says_what_it_cannot_see", || {
        let (code, out, err) = told(
            command("setpriv")
                .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
                .arg(hopguard_bin())
                .arg("doctor"),
        );
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("\u{203c} privilege: no CAP_NET_ADMIN"), "{out}");
        assert!(out.contains("\u{203c} IPv4 rules: cannot be looked at"), "{out}");
    });
}

#[test]
fn a_socket_that_is_not_there_and_settings_that_are_no_settings_fail() {
    in_namespace(
        "doctor::a_socket_that_is_not_there_and_settings_that_are_no_settings_fail",
        || {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("sidecar.toml");
            fs::write(
                &file,
                "[identity]\nworkload_api = \"unix:///nonexistent/workload.sock\"\n",
            )
            .unwrap();
            let (code, found, out) = doctor(&["--config", file.to_str().unwrap()]);
            assert!(code == 1 && has(&found, "identity/Workload API: fail"), "{out}");
            fs::write(&file, "[identity\n").unwrap();
            let (code, found, out) = doctor(&["--config", file.to_str().unwrap()]);
            assert!(
                code == 1 && has(&found, "files/settings: fail") && out.contains("sidecar.toml:1"),
                "{out}"
            );
        },
    );
}
