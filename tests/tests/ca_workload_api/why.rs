//! `hopguard why`: what the authority finds about a process, and what each entry misses.

use std::process::{Command, Stdio};

use hopguard_tests::Guard;
use serde_json::{Value, json};

use crate::support::*;

/// A process that does nothing.
fn bystander() -> Guard {
    let mut command = Command::new("sleep");
    Guard(command.arg("1000").stdin(Stdio::null()).spawn().unwrap())
}

fn why(authority: &Authority, pid: u32, more: &[&str]) -> (Option<i32>, Value) {
    authority.ask_json(&[&["why", &pid.to_string()], more].concat())
}

fn fact<'a>(told: &'a Value, name: &str) -> &'a Value {
    let facts = told["facts"].as_array().unwrap();
    facts.iter().find(|fact| fact["name"] == name).unwrap()
}

#[test]
fn a_process_that_never_connected_is_judged_as_if_it_had() {
    let sleep = std::fs::canonicalize("/proc/self/exe").unwrap();
    let entries = entry(
        "a",
        &[
            format!("unix:uid:{}", nix_uid()),
            format!("unix:path:{}", sleep.display()),
        ],
    ) + &entry("b", &[format!("unix:uid:{}", nix_uid() + 1)])
        + &entry(
            "c",
            &[format!("unix:uid:{}", nix_uid()), "socket:other".to_owned()],
        );
    let other = "[[workload_api]]\nsocket = \"o.sock\"\nname = \"other\"\n";
    let authority = Authority::with(&entries, "1h", other);
    let process = bystander();
    let (code, told) = why(&authority, process.0.id(), &[]);
    assert_eq!(code, Some(1), "{told}");
    assert_eq!((&told["grants"], &told["connected"]), (&json!([]), &json!([])));
    assert_eq!(fact(&told, "uid")["value"], json!(nix_uid().to_string()));
    let path = fact(&told, "path")["value"].as_str().unwrap();
    let misses: Vec<[&Value; 3]> = told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| [&entry["outcome"], &entry["condition"], &entry["found"]])
        .collect();
    let mismatch = json!("mismatch");
    let own = format!("unix:path:{}", sleep.display());
    assert_eq!(misses[0], [&mismatch, &json!(own), &json!(path)]);
    let uid = nix_uid();
    assert_eq!(
        misses[1],
        [
            &mismatch,
            &json!(format!("unix:uid:{}", uid + 1)),
            &json!(uid.to_string())
        ]
    );
    assert_eq!(misses[2], [&mismatch, &json!("socket:other"), &json!("default")]);

    let (code, told) = why(&authority, process.0.id(), &["--socket", "other"]);
    assert_eq!(
        (code, &told["grants"][0]["spiffe_id"]),
        (Some(0), &json!("spiffe://mesh.local/c")),
        "{told}"
    );
    let (code, told) = why(&authority, process.0.id(), &["--socket", "nowhere"]);
    assert!(
        code == Some(1) && told["hint"].as_str().unwrap().contains("default, other"),
        "{told}"
    );

    let text = authority.ask(&["why", &process.0.id().to_string()]);
    let text = String::from_utf8(text.stdout).unwrap();
    for words in [
        "refused: no entry grants process",
        "not connected",
        "- socket:other  <- found default",
        "hint: ",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

/// Where an executable lies says what its owner likes.
#[test]
fn a_process_forges_no_line_of_the_answer() {
    let entries = entry("a", &["unix:path:/usr/bin/other".to_owned()]);
    let authority = Authority::start(&entries);
    let program = authority.dir.path().join("sleep\ngranted: everything");
    // By another process: one of ours that is forked meanwhile would keep the new file open for writing.
    let copied = Command::new("sh")
        .args(["-c", "cp \"$(command -v sleep)\" \"$1\"", "sh"])
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(&program);
    let process = Guard(command.arg("1000").stdin(Stdio::null()).spawn().unwrap());
    let text = authority.ask(&["why", &process.0.id().to_string()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("sleep\\u{a}granted: everything"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("granted")), "{text}");
}

#[test]
fn a_connected_process_is_told_with_what_it_has() {
    let authority = Authority::start(&for_us("a"));
    let client = call(&authority, &["--timeout", "120"]);
    client.next();
    let (code, told) = why(&authority, client.pid(), &[]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told["connected"][0]["has"], json!(["spiffe://mesh.local/a"]));
    assert_eq!(told["entries"][0]["outcome"], "granted");
    let text = authority.ask(&["why", &client.pid().to_string()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with("granted: spiffe://mesh.local/a"), "{text}");
}

#[test]
fn the_log_says_how_to_ask_and_the_question_is_answered() {
    let authority = Authority::start(&entry("a", &["unix:uid:4242".to_owned()]));
    // It stays, so that it can be asked about: a second call of it waits for its first message for ever.
    let client = Client::start(&["stream", &authority.endpoint()]);
    let line = authority.logged(&["permission denied", "no entry matches", "hopguard why"]);
    let asked: Vec<&str> = line["hint"].as_str().unwrap().split(' ').skip(1).collect();
    assert_eq!(asked[1], client.pid().to_string(), "{line}");
    let (code, told) = authority.ask_json(&asked);
    assert_eq!(
        (code, &told["entries"][0]["condition"]),
        (Some(1), &json!("unix:uid:4242")),
        "{told}"
    );
}

#[test]
fn nobody_is_found_behind_a_number_that_nobody_has() {
    let authority = Authority::start(&for_us("a"));
    let mut process = bystander();
    let pid = process.0.id();
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    for nobody in [pid, 0, i32::MAX.unsigned_abs()] {
        let (code, told) = why(&authority, nobody, &[]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told["error"].as_str().unwrap().contains("no process"), "{told}");
    }
}

#[test]
fn what_the_authority_may_not_see_is_told_as_the_reason() {
    if !is_root() {
        eprintln!("only root can run an authority that sees less than it: skipped");
        return;
    }
    let nobody = "65534".to_owned();
    let entries = entry(
        "a",
        &[
            format!("unix:uid:{nobody}"),
            "unix:path:/usr/bin/sleep".to_owned(),
        ],
    );
    let mut authority = Authority::files(&entries, "1h", "");
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
        .arg(hopguard_tests::hopguard_bin());
    authority.run(command);
    let mut sleep = Command::new("setpriv");
    let sleep = sleep.args([
        "--reuid",
        &nobody,
        "--regid",
        &nobody,
        "--clear-groups",
        "sleep",
        "1000",
    ]);
    let process = Guard(sleep.spawn().unwrap());
    let settled = hopguard_tests::eventually(DEADLINE, || {
        let (_, told) = why(&authority, process.0.id(), &[]);
        if fact(&told, "uid")["value"] == json!(nobody) {
            Ok(told)
        } else {
            Err(told)
        }
    });
    let told = settled.unwrap();
    assert_eq!(told["entries"][0]["outcome"], "refused", "{told}");
    assert!(
        told["entries"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("CAP_SYS_PTRACE"),
        "{told}"
    );
    assert_eq!(fact(&told, "path")["state"], "unproven");
}

#[test]
fn a_process_whose_number_was_reused_gets_nothing() {
    let unshared = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let can = Command::new("unshare").args(unshared).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("this machine forbids namespaces to this user: skipped");
        return;
    }
    // A namespace where numbers can be chosen, for the authority and its callers.
    let script = "\"$1\" ca serve --config ca.toml > /dev/null 2> log & \
                  until [ -S w.sock ]; do sleep 0.05; done; \
                  python3 \"$2\" \"$PWD/w.sock\" \"$3\" & wait";
    let said = |mode: &str| {
        // Its own: the one before may not have let go of its files yet.
        let authority = Authority::files(&entry("a", &["unix:uid:0".to_owned()]), "1h", "");
        let mut command = Command::new("unshare");
        command.args(unshared).args(["sh", "-c", script, "sh"]);
        command
            .arg(hopguard_tests::hopguard_bin())
            .arg(source("python/inherit.py"))
            .arg(mode);
        command.current_dir(authority.dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let _guard = Guard(child);
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        (line.trim().to_owned(), authority.log())
    };
    let (reused, log) = said("reuse");
    if reused == "cannot" {
        eprintln!("numbers of processes cannot be chosen here: skipped");
        return;
    }
    assert_eq!(reused, "0 ended", "{log}");
    // The control: the same, but the process that connected lives.
    let (stayed, log) = said("stay");
    assert_eq!(stayed, "1 open", "{log}");
}
