//! SVIDs that live for seconds, under load by a client that never retries: nothing is lost when they rotate, nothing outlives
//! the SVID that it rests on, and a sidecar that is asked to end loses nothing either.

#![cfg(test)]

use std::collections::BTreeSet;
use std::time::Duration;

use hopguard_tests::{Load, Mesh, Options, Probe, eventually, folder};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Web may read at orders for anyone who signed in; orders may speak to the ledger.
const POLICY: &str = r#"
@id("web-reads-orders")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };

@id("orders-writes-the-ledger")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"connect",
  resource == Service::"shop/payments"
);
"#;

/// The whole minute when asked for, half of it otherwise.
fn seconds_of_load() -> u64 {
    let long = std::env::var_os("HOPGUARD_TEST_LONG").is_some_and(|value| value == "1");
    if long { 60 } else { 30 }
}

fn mesh(svid_ttl: &str) -> Mesh {
    let dir = folder(&[("policies/life.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        svid_ttl: Some(svid_ttl.to_owned()),
        ..Options::default()
    })
    .unwrap()
}

/// 64 connections from web to orders, for alice, through both sidecars.
fn load(mesh: &Mesh, seconds: u64, path: &str) -> Load {
    let header = format!("authorization: Bearer {}", mesh.token("alice", "none").unwrap());
    let (seconds, url) = (seconds.to_string(), format!("http://orders:8080{path}"));
    let arguments = [
        "--url",
        &url,
        "--connections",
        "64",
        "--seconds",
        &seconds,
        "--header",
        &header,
    ];
    Load::start(mesh, "web", &arguments).unwrap()
}

/// The other side of a record: who was proven to us.
fn peer(record: &Value) -> &Value {
    &record[if record["direction"] == "inbound" {
        "src"
    } else {
        "dst"
    }]
}

/// The records that rest on a peer's SVID: how many, and when those SVIDs end. None may end later. Times have one width and
/// one zone, so that text compares as time.
fn proven(mesh: &Mesh, pod: &str, kind: &str) -> (u64, BTreeSet<String>) {
    let (mut count, mut ends) = (0, BTreeSet::new());
    mesh.each_record(pod, |record| {
        let Some(not_after) = peer(record)["svid_not_after"].as_str() else {
            return;
        };
        let ended = record["ts"].as_str().unwrap();
        assert_eq!((ended.len(), not_after.len()), (24, 24), "{record}");
        assert!(ended > "2026" && ended < not_after, "{record}");
        if record["kind"] == kind {
            count += 1;
            ends.insert(not_after.to_owned());
        }
    })
    .unwrap();
    (count, ends)
}

#[test]
fn svids_rotate_under_load_and_no_request_is_lost() {
    let mesh = mesh("12s");
    let before = mesh.counted("orders").unwrap();
    let seconds = seconds_of_load();
    let counted = load(&mesh, seconds, "/")
        .finish(Duration::from_secs(seconds) + PATIENCE)
        .unwrap();
    let sent = counted.all_good().unwrap();
    assert_eq!(mesh.counted("orders").unwrap() - before, sent, "{counted:?}");

    // The journal writes behind the traffic; every request has its record.
    let (_, inbound) = eventually(PATIENCE, || {
        let (count, ends) = proven(&mesh, "orders", "request");
        if count == sent {
            Ok((count, ends))
        } else {
            Err(format!("{count} of {sent} records"))
        }
    })
    .unwrap();
    let opened = counted.number("connections_opened");
    let (_, outbound) = eventually(PATIENCE, || {
        let (count, ends) = proven(&mesh, "web", "connection");
        if count == opened {
            Ok((count, ends))
        } else {
            Err(format!("{count} of {opened} records"))
        }
    })
    .unwrap();

    // A renewal comes at half of 12 s, give or take; the last one may be too late to be used.
    let least = usize::try_from(seconds / 8).unwrap();
    assert!(
        inbound.len() >= least && outbound.len() >= least,
        "web's SVIDs ended at {inbound:?}, those of orders at {outbound:?}"
    );
    println!(
        "{sent} requests in {seconds} s, {} SVIDs of web and {} of orders: {}",
        inbound.len(),
        outbound.len(),
        counted.0
    );
}

#[test]
fn what_stays_open_is_cut_before_the_peers_svid_ends_and_told() {
    let mesh = mesh("6s");
    let held = Probe::start(&mesh, "orders", &["--hold", "payments:9090"]).unwrap();
    // An end in order would say that nothing is missing.
    held.until("reset", PATIENCE).unwrap();
    assert_eq!(held.seen()[0].answer, "open");

    for (pod, direction) in [("payments", "inbound"), ("orders", "outbound")] {
        let record = eventually(PATIENCE, || {
            let records = mesh.records(pod);
            records
                .into_iter()
                .find(|record| {
                    record["direction"] == direction && record["tcp"]["bytes_out"].as_u64() > Some(0)
                })
                .ok_or_else(|| mesh.log(pod))
        })
        .unwrap();
        // Both sides watch the same end; the one that is later sees that the other has cut.
        let close = record["tcp"]["close"].as_str().unwrap();
        let cut: &[&str] = if direction == "inbound" {
            &["svid_expired", "client_failed"]
        } else {
            &["svid_expired", "upstream_failed"]
        };
        assert!(cut.contains(&close), "{record}");
        assert_eq!(record["decision"]["verdict"], "allow", "{record}");
        assert_eq!(proven(&mesh, pod, "connection").1.len(), 1);
    }
}

#[test]
fn a_sidecar_that_restarts_loses_no_request() {
    let mesh = mesh("1h");
    let mut load = load(&mesh, 8, "/");
    let under_way = |at_least: u64| {
        let mesh = &mesh;
        move || match mesh.counted("orders") {
            Ok(count) if count >= at_least => Ok(count),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(PATIENCE, under_way(200)).unwrap();
    mesh.ctl("restart", "orders").unwrap();
    assert!(load.runs(), "the load ended before the restart did");
    let counted = load.finish(PATIENCE).unwrap();
    let (sent, good, away) = (
        counted.number("sent"),
        counted.with_status(200),
        counted.with_status(503),
    );
    // While nobody is there the caller's sidecar says so.
    assert!(
        counted.number("failed") == 0 && counted.number("answered") == sent && good + away == sent,
        "{counted:?}"
    );
    assert!(
        good > 400 && mesh.counted("orders").unwrap() == good,
        "{counted:?}: {:?}",
        mesh.counted("orders")
    );
}
