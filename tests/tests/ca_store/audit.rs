//! The audit log of a real authority: what was issued and refused, without keys, over rotation of the file.

use hopguard_tests::{eventually, hopguard};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::*;

fn records(authority: &Authority, name: &str) -> Vec<Value> {
    lines(&authority.path(name))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn record(authority: &Authority, name: &str, event: &str, outcome: &str) -> Value {
    let found = eventually(DEADLINE, || {
        let all = records(authority, name);
        all.into_iter()
            .find(|one| one["event"] == event && one["outcome"] == outcome)
            .ok_or_else(|| format!("no {event} {outcome}"))
    });
    found.unwrap()
}

#[test]
fn what_was_issued_refused_and_asked_by_operators_is_in_it_with_who_and_why() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
    let issued = record(&authority, "audit.log", "x509_svid", "issued");
    assert_eq!(issued["uid"], nix_uid());
    assert_eq!(issued["spiffe_id"], "spiffe://mesh.local/a");
    assert_eq!(issued["socket"], "default");
    assert_eq!(
        issued["selectors"],
        serde_json::json!([format!("unix:uid:{}", nix_uid())])
    );
    assert!(issued["pid"].as_i64().unwrap() > 0 && issued["not_after"].as_i64().unwrap() > 0);
    let state = authority.path("data/state.sqlite");
    assert_eq!(
        sql(&state, "SELECT serial FROM issued"),
        [issued["serial"].as_str().unwrap()]
    );
    assert_eq!(
        sql(&state, "SELECT authority FROM issued"),
        [issued["authority"].as_str().unwrap()]
    );

    authority.write_entries(&entry("b", &["unix:uid:4294967294".to_owned()]));
    let said = eventually(DEADLINE, || {
        let said = first(&authority, &[]);
        if said["status"] == "PERMISSION_DENIED" {
            Ok(())
        } else {
            Err(said)
        }
    });
    said.unwrap();
    let refused = record(&authority, "audit.log", "svid", "refused");
    assert_eq!(refused["reason"], "no entry matches");
    assert_eq!(refused["uid"], nix_uid());

    let (file, config) = (authority.path("copy"), authority.path("ca.toml"));
    done(&[
        "ca",
        "backup",
        file.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ]);
    let asked = record(&authority, "audit.log", "operator", "asked");
    assert_eq!(asked["detail"]["verb"], "backup");
    assert_eq!(asked["uid"], nix_uid());
    record(&authority, "audit.log", "operator", "done");
    authority.terminate();
    record(&authority, "audit.log", "authority", "ended");
    let log = std::fs::read_to_string(authority.path("audit.log")).unwrap();
    assert!(
        !log.contains("PRIVATE") && !log.contains("eyJ"),
        "no key, no token"
    );
}

#[test]
fn its_file_may_be_moved_away_and_what_was_done_to_it_is_found() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    let fetch = |times: usize| {
        for _ in 0..times {
            assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
        }
    };
    fetch(2);
    let running = pid(&authority);
    std::fs::rename(authority.path("audit.log"), authority.path("audit.log.1")).unwrap();
    kill(Pid::from_raw(running), Signal::SIGHUP).unwrap();
    let reopened = eventually(DEADLINE, || {
        if authority.path("audit.log").exists() {
            Ok(())
        } else {
            Err("it is not there")
        }
    });
    reopened.unwrap();
    fetch(2);
    let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
    let (old, new, config) = (path("audit.log.1"), path("audit.log"), path("ca.toml"));
    let verify = ["ca", "audit", "verify"];
    let whole = done(&[&verify[..], &[&old, &new, "--config", &config]].concat());
    let all = lines(&authority.path("audit.log.1")).len() + lines(&authority.path("audit.log")).len();
    assert_eq!((&whole["first"], &whole["records"]), (&1.into(), &all.into()));

    // The newest records are gone, and only the authority knows.
    let kept = lines(&authority.path("audit.log"));
    std::fs::write(authority.path("cut"), format!("{}\n", kept[0])).unwrap();
    done(&[&verify[..], &[&old, &path("cut")]].concat());
    let (code, error) = fails(&[&verify[..], &[&old, &path("cut"), "--config", &config]].concat());
    assert_eq!(code, 1);
    assert!(error.contains("its end was cut off"), "{error}");
    // The log of another authority hangs together, and is not the one that was written.
    let mut other = crate::authority(&for_us("a"), "");
    other.run(hopguard());
    while lines(&other.path("audit.log")).len() <= all {
        assert_eq!(first(&other, &[])["ids"][0], "spiffe://mesh.local/a");
    }
    let others = other.path("audit.log").to_str().unwrap().to_owned();
    done(&[&verify[..], &[&others]].concat());
    let (code, error) = fails(&[&verify[..], &[&others, "--config", &config]].concat());
    assert_eq!(code, 1);
    assert!(error.contains("exchanged for another"), "{error}");

    let text = std::fs::read_to_string(authority.path("audit.log.1")).unwrap();
    let edited = text
        .lines()
        .position(|line| line.contains("mesh.local/a"))
        .unwrap();
    // Counted from 1, and found by the line after it.
    let found = format!("edited: line {}", edited + 2);
    std::fs::write(
        authority.path("edited"),
        text.replacen("mesh.local/a", "mesh.local/b", 1),
    )
    .unwrap();
    let (code, error) = fails(&[&verify[..], &[&path("edited")]].concat());
    assert_eq!(code, 1);
    assert!(error.contains(&found) && error.contains("was changed"), "{error}");
}

#[test]
fn a_log_that_cannot_be_used_keeps_the_authority_from_starting() {
    let authority = authority(&for_us("a"), "");
    std::fs::create_dir(authority.path("audit.log")).unwrap();
    let (code, error) = fails(&["ca", "serve", authority.path("ca.toml").to_str().unwrap()]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("audit.log") && error.contains("hint:"), "{error}");
}

#[test]
fn a_log_that_was_chained_anew_from_a_changed_record_on_is_found() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    while lines(&authority.path("audit.log")).len() < 60 {
        assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/a");
    }
    authority.terminate();
    let (log, config) = (authority.path("audit.log"), authority.path("ca.toml"));
    let verify = ["ca", "audit", "verify", log.to_str().unwrap()];
    let with_config = [&verify[..], &["--config", config.to_str().unwrap()]].concat();
    done(&with_config);
    // Record 50 tells of another, and every hash after it fits.
    let script = "import sys,hashlib,re\n\
        lines=open(sys.argv[1],'rb').read().splitlines()\n\
        lines[49]=lines[49].replace(b'mesh.local/a',b'mesh.local/b')\n\
        for at in range(50,len(lines)):\n\
        \x20 prev=hashlib.sha256(lines[at-1]).hexdigest().encode()\n\
        \x20 lines[at]=re.sub(b'\"prev\":\"[0-9a-f]*\"',b'\"prev\":\"'+prev+b'\"',lines[at],count=1)\n\
        open(sys.argv[1],'wb').write(b'\\n'.join(lines)+b'\\n')\n";
    let changed = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&log)
        .status()
        .unwrap();
    assert!(changed.success());
    done(&verify);
    let (code, error) = fails(&with_config);
    assert_eq!(code, 1, "{error}");
    authority.run(hopguard());
    authority.terminate();
    assert!(
        authority.log().contains("it was changed or exchanged"),
        "{}",
        authority.log()
    );
    let told = lines(&log)
        .iter()
        .any(|line| line.contains("\"outcome\":\"changed\""));
    let (code, error) = fails(&with_config);
    assert!(told && code == 1, "{error}");
}

#[test]
fn the_first_start_tells_of_keys_that_are_made_and_of_none_that_was_removed() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    let outcomes: Vec<String> = lines(&authority.path("audit.log"))
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["event"] == "authority" && record["authority"].is_string())
        .map(|record| record["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        outcomes,
        ["making", "prepared", "active", "making", "prepared", "active"]
    );
}
