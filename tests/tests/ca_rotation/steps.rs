//! A rotation step by step: what each does, whom it waits for, and what it refuses.

use std::process::Command;
use std::time::Duration;

use hopguard_tests::{eventually, hopguard};

use crate::support::*;

const FAST: &str = "svid_ttl = \"6s\"\njwt_svid_ttl = \"10s\"\nrefresh_hint = \"1s\"";

#[test]
fn a_rotation_goes_the_whole_way_and_nobody_ever_fails_to_verify_anybody() {
    let authority = Authority::start(FAST);
    let streams = authority.streams(20, 2);
    let old = authority.ids("x509", "active");
    let keys = authority.key_files();
    let (done, progress) = authority.done(&["rotate"]);
    let new = authority.ids("x509", "active");
    assert!(new.len() == 1 && new != old, "{done}");
    assert_eq!(done["active"], new[0].as_str());
    assert_eq!(done["removed"], serde_json::json!(old));
    assert_eq!(done["broke"], serde_json::json!([]));
    let steps: Vec<&str> = progress
        .iter()
        .filter(|said| said["done"] == true)
        .map(|said| said["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["prepare", "activate", "retire"]);
    assert!(
        progress.iter().any(|said| said["step"] == "activate"
            && said["waits_for"]
                .as_array()
                .is_some_and(|why| why.iter().any(|why| why["why"] == "pollers"))),
        "{progress:?}"
    );
    // Everybody has the new root alone, and an SVID by it.
    let told = eventually(DEADLINE, || {
        let told = streams.told();
        let bundles = told["bundles"].as_object().unwrap();
        if bundles.len() == 1 && bundles.contains_key(&new[0]) {
            Ok(told)
        } else {
            Err(told.to_string())
        }
    })
    .unwrap();
    assert_eq!(
        told["signers"].as_object().unwrap().keys().collect::<Vec<_>>(),
        [&new[0]]
    );
    assert_eq!(told["breaks"], 0, "no stream was cut: {told}");
    streams.openssl_accepts(&authority.path("dump"), authority.path("dump").to_str().unwrap());
    let now = authority.key_files();
    assert_eq!(now.len(), keys.len(), "the old key is gone, and nothing else");
    assert_ne!(now, keys);
}

#[test]
fn activation_waits_for_an_svid_that_was_sent_without_the_new_root() {
    let authority = Authority::start("svid_ttl = \"20s\"\nrefresh_hint = \"1s\"");
    // One that fetches once and goes: nobody can tell it of a new root.
    let endpoint = format!("unix://{}", authority.path("w.sock").display());
    let fetched = hopguard()
        .args(["svid", "fetch", "--socket", &endpoint])
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{fetched:?}");
    let old = authority.ids("x509", "active");
    let (prepared, _) = authority.done(&["rotate", "--step", "prepare"]);
    assert_eq!(prepared["new"], true);
    let (again, _) = authority.done(&["rotate", "--step", "prepare"]);
    assert_eq!(
        (&again["prepared"], &again["new"]),
        (&prepared["prepared"], &false.into())
    );

    let refused = authority.refused(&["rotate", "--step", "activate"]);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("were not sent the new authority: 1;")
            && refused["hint"].as_str().unwrap().contains("--force"),
        "{refused}"
    );
    assert_eq!(
        authority.ids("x509", "active"),
        old,
        "nothing changed: {}",
        authority.status()
    );
    let status = authority.status();
    let waits = &status["rotation"][0];
    assert_eq!(
        (&waits["state"], &waits["step"]),
        (&"waits".into(), &"activate".into())
    );

    // What is forced is said first, and in the answer.
    let (forced, said) = authority.done(&["rotate", "--step", "activate", "--force"]);
    assert_eq!(forced["active"], prepared["prepared"]);
    assert_eq!(forced["broke"][0]["breaks"][0]["why"], "svids_sent_without_it");
    assert_eq!(said[0]["breaks"][0]["count"], 1);
    let refused = authority.refused(&["rotate", "--step", "retire"]);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("that the old authority signed: 1;"),
        "{refused}"
    );
    assert_eq!(authority.ids("x509", "retired"), old);
    let (gone, _) = authority.done(&["rotate", "--step", "retire", "--force"]);
    assert_eq!(gone["removed"], serde_json::json!(old));
}

#[test]
fn an_open_stream_is_not_waited_for_and_gets_a_new_svid_when_its_authority_is_thrown_out() {
    // With a life of an hour nothing is renewed by itself here.
    let authority = Authority::start("svid_ttl = \"1h\"\nrefresh_hint = \"1s\"");
    let streams = authority.streams(5, 1);
    let serials = streams.told()["serials"].clone();
    authority.done(&["rotate", "--step", "prepare"]);
    let activated = eventually(DEADLINE, || {
        let output = authority.ask(&["rotate", "--step", "activate"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Pollers alone; the streams were sent the new root, so their SVIDs need not end.
        assert!(!said.contains("SVIDs are alive"), "{said}");
        if output.status.success() {
            Ok(())
        } else {
            Err(said)
        }
    });
    activated.unwrap();
    let new = authority.ids("x509", "active");
    assert_eq!(
        streams.told()["serials"],
        serials,
        "an SVID by the old one is as good as before"
    );
    let (_, said) = authority.done(&["rotate", "--step", "retire", "--force"]);
    assert_eq!(said[0]["breaks"][0]["count"], 5);
    eventually(DEADLINE, || {
        let told = streams.asked_without_judging();
        let signers: Vec<_> = told["signers"].as_object().unwrap().keys().collect();
        if signers == [&new[0]] {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .unwrap();
}

#[test]
fn a_rotation_whose_operator_goes_away_is_finished_by_the_authority() {
    let authority = Authority::start(FAST);
    let old = authority.ids("x509", "active");
    let mut operator = authority.command(&["rotate"]).spawn().unwrap();
    eventually(DEADLINE, || match authority.ids("x509", "prepared").len() {
        1 => Ok(()),
        _ => Err(authority.status()),
    })
    .unwrap();
    operator.kill().unwrap();
    operator.wait().unwrap();
    eventually(DEADLINE, || {
        let status = authority.status();
        let active = ids(&status, "x509", "active");
        let done = active != old && ids(&status, "x509", "retired").is_empty();
        if done { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    // And an operator who comes back meanwhile joins it: no second one is begun.
    let mut first = authority.command(&["rotate"]).spawn().unwrap();
    let prepared = eventually(DEADLINE, || {
        let prepared = authority.ids("x509", "prepared");
        prepared.into_iter().next().ok_or_else(|| authority.log())
    })
    .unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let (done, _) = authority.done(&["rotate"]);
    assert_eq!(
        (&done["active"], &done["resumed"]),
        (&prepared.into(), &true.into())
    );
}

#[test]
fn what_is_prepared_alone_is_held_back_and_can_be_taken_back() {
    let authority = Authority::start("svid_ttl = \"2s\"\nrefresh_hint = \"1s\"");
    let refused = authority.refused(&["rotate", "--abort"]);
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("no authority is prepared"),
        "{refused}"
    );
    let keys = authority.key_files();
    let before = authority.status()["sequence"].as_u64();
    let (prepared, _) = authority.done(&["rotate", "--step", "prepare"]);
    // Long after nobody would be hurt it still waits for its operator.
    let held = eventually(DEADLINE, || {
        let rotation = authority.status()["rotation"][0].clone();
        let why = rotation["waits_for"].as_array().unwrap();
        if why.len() == 1 && why[0]["why"] == "held" {
            Ok(())
        } else {
            Err(rotation.to_string())
        }
    });
    held.unwrap();
    let (aborted, _) = authority.done(&["rotate", "--abort"]);
    assert_eq!(aborted["aborted"], prepared["prepared"]);
    assert_eq!(authority.key_files(), keys);
    assert_eq!(
        authority.status()["sequence"].as_u64(),
        before.map(|before| before + 2)
    );
}

#[test]
fn jwt_keys_rotate_as_well_and_an_old_one_stays_until_its_tokens_end() {
    let authority = Authority::start(FAST);
    let old = authority.ids("jwt", "active");
    let (done, _) = authority.done(&["rotate", "--kind", "jwt"]);
    assert_eq!(done["kind"], "jwt");
    assert_ne!(authority.ids("jwt", "active"), old);
    assert_eq!(done["removed"], serde_json::json!(old));
}

#[test]
fn authorities_rotate_before_need_by_themselves() {
    let authority = Authority::start(
        "svid_ttl = \"2s\"\nrefresh_hint = \"1s\"\nca_ttl = \"16s\"\njwt_key_ttl = \"16s\"\njwt_svid_ttl = \"10s\"",
    );
    let streams = authority.streams(10, 1);
    let (first, key) = (authority.ids("x509", "active"), authority.ids("jwt", "active"));
    // Twice over, with everybody verifying everybody all the time.
    let mut seen = vec![first[0].clone()];
    eventually(DEADLINE, || {
        let status = authority.status();
        let active = ids(&status, "x509", "active").remove(0);
        if !seen.contains(&active) {
            seen.push(active);
        }
        streams.told();
        if seen.len() >= 3 && ids(&status, "jwt", "active") != key {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .unwrap();
    assert_eq!(streams.told()["breaks"], 0);
}

#[test]
fn an_authority_that_was_off_until_its_root_ended_starts_with_a_new_one() {
    let mut authority =
        Authority::start("svid_ttl = \"2s\"\nrefresh_hint = \"1s\"\nca_ttl = \"8s\"\njwt_svid_ttl = \"10s\"");
    let status = authority.status();
    let old = ids(&status, "x509", "active");
    let end = status["authorities"][0]["not_after"].as_u64().unwrap();
    let sequence = status["sequence"].as_u64();
    authority.kill();
    eventually(DEADLINE, || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        if now.unwrap().as_secs() > end {
            Ok(())
        } else {
            Err("the root has not ended")
        }
    })
    .unwrap();
    authority.run();
    let status = authority.status();
    let new = ids(&status, "x509", "active");
    assert!(new.len() == 1 && new != old, "{status}");
    assert!(status["sequence"].as_u64() > sequence, "{status}");
    let streams = authority.streams(3, 0);
    assert_eq!(streams.told()["signers"].as_object().unwrap().len(), 1);
}

#[test]
fn the_status_says_how_long_the_mesh_lives_without_the_authority() {
    let authority = Authority::start("svid_ttl = \"100s\"");
    let _streams = authority.streams(3, 1);
    let survival = authority.status()["survival"].clone();
    let first = survival["first_out_seconds"].as_i64().unwrap();
    let last = survival["last_out_seconds"].as_i64().unwrap();
    assert!(
        (1..=100).contains(&first) && first <= last && last <= 101,
        "{survival}"
    );
    assert_eq!(survival["first_out_id"], "spiffe://mesh.local/a");
    assert_eq!(
        (&survival["streams_counted"], &survival["svids_without_stream"]),
        (&3.into(), &0.into())
    );
    let mut text = Command::new(hopguard_tests::hopguard_bin());
    text.args(["ca", "status", "--socket"])
        .arg(authority.path("data/admin.sock"));
    let said = String::from_utf8(text.output().unwrap().stdout).unwrap();
    assert!(
        said.contains("if the authority dies now: the first workload is out in ")
            && said.contains("(spiffe://mesh.local/a)")
            && said.contains("streams: 3 of SVIDs, 1 of bundles"),
        "{said}"
    );
}

#[test]
fn without_a_running_authority_the_verbs_say_what_to_do() {
    let mut authority = Authority::start("");
    authority.kill();
    for verb in ["status", "rotate"] {
        let output = authority.ask(&[verb]);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert!(said["hint"].as_str().unwrap().contains("start it"), "{said}");
    }
    let output = hopguard()
        .args(["ca", "status", "--config", "/nonexistent/ca.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn pollers_have_three_refresh_hints_however_short_svids_live() {
    let authority = Authority::start("svid_ttl = \"2s\"\nrefresh_hint = \"2s\"");
    let begun = std::time::Instant::now();
    authority.done(&["rotate"]);
    assert!(begun.elapsed() >= Duration::from_secs(6), "{:?}", begun.elapsed());
}
