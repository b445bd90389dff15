//! kill -9 of the authority: at random moments of a rotation, at states that an operator sees, and while it issues. After each
//! nothing of the slots is lost, nobody holds what another one cannot verify, and the rotation goes on by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hopguard_tests::eventually;
use serde_json::Value;

use crate::support::*;

const FAST: &str = "svid_ttl = \"6s\"\njwt_svid_ttl = \"10s\"\nrefresh_hint = \"1s\"";
const CLIENTS: usize = 30;
const BUNDLES: usize = 3;

fn rounds(short: usize) -> usize {
    let long = std::env::var_os("HOPGUARD_TEST_LONG").is_some_and(|value| value == "1");
    if long { short * 5 } else { short }
}

/// What must hold at each start, whatever was interrupted.
struct Watch {
    sequence: u64,
    known: BTreeSet<String>,
}

impl Watch {
    fn look(&mut self, authority: &Authority) -> Value {
        let status = authority.status();
        let sequence = status["sequence"].as_u64().unwrap();
        assert!(
            sequence >= self.sequence,
            "the sequence went back from {}: {status}",
            self.sequence
        );
        self.sequence = sequence;
        for kind in ["x509", "jwt"] {
            assert_eq!(ids(&status, kind, "active").len(), 1, "{status}");
            assert!(ids(&status, kind, "prepared").len() <= 1, "{status}");
        }
        for one in status["authorities"].as_array().unwrap() {
            self.known.insert(one["id"].as_str().unwrap().to_owned());
        }
        status
    }
}

/// A rotation that nobody drives any more ends by itself.
fn it_goes_on(authority: &Authority, watch: &mut Watch) {
    eventually(DEADLINE, || {
        let status = watch.look(authority);
        let under_way = ["prepared", "retired"]
            .iter()
            .any(|state| !ids(&status, "x509", state).is_empty() || !ids(&status, "jwt", state).is_empty());
        if under_way {
            Err(status.to_string())
        } else {
            Ok(())
        }
    })
    .unwrap();
    // A key for each authority, and no other.
    eventually(DEADLINE, || match authority.key_files() {
        keys if keys.len() == 2 => Ok(()),
        keys => Err(format!("{keys:?}")),
    })
    .unwrap();
}

#[test]
fn killed_at_random_moments_of_a_rotation() {
    let mut authority = Authority::start(FAST);
    let streams = authority.streams(CLIENTS, BUNDLES);
    let mut watch = Watch {
        sequence: 0,
        known: BTreeSet::new(),
    };
    let mut kills = 0;
    for round in 0..rounds(10) {
        let kind = if round % 4 == 3 { "jwt" } else { "x509" };
        watch.look(&authority);
        let mut operator = authority.command(&["rotate", "--kind", kind]).spawn().unwrap();
        // From the first milliseconds, in which keys and records are made, to the end of the rotation.
        let moment = match round % 3 {
            0 => rand(40),
            1 => rand(400),
            _ => rand(9000),
        };
        let until = Instant::now() + moment;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        authority.kill();
        kills += 1;
        operator.kill().unwrap();
        operator.wait().unwrap();
        // Sometimes once more while it starts.
        if round % 2 == 1 {
            let mut again = hopguard_tests::Guard(
                hopguard_tests::hopguard()
                    .args(["ca", "serve"])
                    .arg(authority.path("ca.toml"))
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap(),
            );
            let until = Instant::now() + rand(150);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            again.0.kill().unwrap();
            kills += 1;
        }
        authority.run();
        watch.look(&authority);
        streams.all_hold(CLIENTS + BUNDLES);
        it_goes_on(&authority, &mut watch);
    }
    streams.openssl_accepts(&authority.path("dump"), authority.path("dump").to_str().unwrap());
    let told = streams.told();
    println!(
        "{kills} kills, {} authorities, sequence {}, {} SVIDs, {} checks of a chain against a bundle, {} streams broke and came back",
        watch.known.len(),
        watch.sequence,
        told["serials"],
        told["checks"],
        told["breaks"]
    );
}

/// Each state that an operator can see, for both kinds.
#[test]
fn killed_in_each_state_of_a_rotation() {
    let mut authority = Authority::start(FAST);
    let streams = authority.streams(CLIENTS, BUNDLES);
    let mut watch = Watch {
        sequence: 0,
        known: BTreeSet::new(),
    };
    for kind in ["x509", "jwt"] {
        for state in ["prepared", "retired"] {
            let old = ids(&watch.look(&authority), kind, "active");
            let mut operator = authority.command(&["rotate", "--kind", kind]).spawn().unwrap();
            let seen = eventually(DEADLINE, || {
                let status = authority.status();
                let there = ids(&status, kind, state);
                // A JWT key that signed nothing is removed as soon as it is retired.
                let over = kind == "jwt" && ids(&status, kind, "active") != old;
                if there.len() == 1 || over {
                    Ok(status)
                } else {
                    Err(status.to_string())
                }
            })
            .unwrap();
            authority.kill();
            operator.kill().unwrap();
            operator.wait().unwrap();
            authority.run();
            let status = watch.look(&authority);
            // What was there is there, or has moved on.
            for id in ids(&seen, kind, "prepared") {
                let places = ["prepared", "active"].map(|state| ids(&status, kind, state));
                assert!(places.concat().contains(&id), "{id} is lost: {status}");
            }
            if state == "retired" {
                assert_eq!(ids(&seen, kind, "active"), ids(&status, kind, "active"));
            }
            streams.all_hold(CLIENTS + BUNDLES);
            it_goes_on(&authority, &mut watch);
            assert_ne!(ids(&watch.look(&authority), kind, "active"), old, "it went on");
        }
    }
    println!("{}", streams.told());
}

/// Between zero and so many milliseconds; where it falls does not matter, only that it falls everywhere.
fn rand(most: u64) -> Duration {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    Duration::from_millis(u64::from_le_bytes(bytes) % most)
}
