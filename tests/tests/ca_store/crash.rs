//! kill -9 at any moment: what a client received is in the store and in the audit log.

use std::collections::HashSet;

use hopguard_tests::{eventually, hopguard};

use crate::*;

#[test]
fn whatever_a_client_received_is_recorded_after_kill_9_under_load() {
    let rounds = if std::env::var_os("HOPGUARD_TEST_LONG").is_some() {
        100
    } else {
        10
    };
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    let log = authority.path("serials");
    let clients = clients(
        &authority,
        &[
            "--mode",
            "connections",
            "--parallel",
            "16",
            "--seconds",
            "3600",
            "--log",
            log.to_str().unwrap(),
        ],
    );
    let mut wanted = 0;
    for round in 0..rounds {
        // Not at the same place each time.
        wanted = lines(&log).len().max(wanted) + 20 + 37 * (round % 7);
        let enough = eventually(DEADLINE, || match lines(&log).len() {
            count if count >= wanted => Ok(()),
            count => Err(format!(
                "{count} of {wanted} in round {round}: {}",
                authority.log()
            )),
        });
        enough.unwrap();
        authority.kill_9();
        authority.run(hopguard());
    }
    authority.kill_9();
    drop(clients);
    let received = lines(&log);
    assert!(received.len() >= wanted);

    let state = authority.path("data/state.sqlite");
    assert_eq!(sql(&state, "PRAGMA integrity_check"), ["ok"]);
    let stored: HashSet<_> = sql(&state, "SELECT serial FROM issued").into_iter().collect();
    let audit: HashSet<String> = lines(&authority.path("audit.log"))
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|record| record["serial"].as_str().map(str::to_owned))
        .collect();
    let missing = |known: &HashSet<String>| received.iter().filter(|serial| !known.contains(*serial)).count();
    assert_eq!(missing(&stored), 0, "of {} in the store", received.len());
    assert_eq!(missing(&audit), 0, "of {} in the audit log", received.len());
    let distinct: HashSet<_> = received.iter().collect();
    assert_eq!(
        distinct.len(),
        received.len(),
        "no serial number comes twice, over restarts too"
    );
    let (log, config) = (authority.path("audit.log"), authority.path("ca.toml"));
    let verified = done(&[
        "ca",
        "audit",
        "verify",
        log.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ]);
    assert_eq!(verified["end_checked"], true);
    println!(
        "{rounds} times kill -9, {} SVIDs received, {} records",
        received.len(),
        verified["records"]
    );
}
