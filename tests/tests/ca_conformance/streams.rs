//! What goes on: every client sees each change as a whole message, and is told how a stream ended.

use hopguard_tests::eventually;
use serde_json::{Value, json};

use crate::drivers::{ALL, Watch};
use crate::support::*;

/// S-42 to S-44, S-56: a stream goes on over rotations, and each message has all there is.
#[test]
fn every_client_sees_svids_rotate() {
    let authority = Authority::with(&(for_us("a") + &for_us("b")), "4s", "");
    let watches: Vec<_> = ALL
        .iter()
        .map(|client| (client, client.watch(&authority.endpoint(), "x509")))
        .collect();
    for (client, watch) in &watches {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let said = watch.next();
            let serials = said["serials"]
                .as_array()
                .unwrap_or_else(|| panic!("{client:?}: {said}"));
            assert_eq!(serials.len(), 2, "{client:?}: each message is the whole state");
            seen.insert(serials[0].as_str().unwrap().to_owned());
        }
        assert!(seen.len() >= 2, "{client:?}: {seen:?}");
    }
}

/// S-43, S-45: the first message comes at once, and who loses everything is told so at once, by both streams.
#[test]
fn every_client_is_told_that_it_lost_its_identity() {
    let authority = Authority::start(&for_us("a"));
    let watches = all_of(&authority);
    for (name, watch) in &watches {
        let said = watch.next();
        assert!(
            said["status"].is_null() && said["client"].is_null(),
            "{name}: {said}"
        );
    }
    authority.write_entries("");
    for (name, watch) in &watches {
        assert_eq!(last(watch)["status"], "PERMISSION_DENIED", "{name}");
    }
}

/// S-38: an authority that ends says Unavailable, so that clients come back.
#[test]
fn every_client_is_told_that_the_authority_ends() {
    let mut authority = Authority::start(&for_us("a"));
    let watches = all_of(&authority);
    for (_, watch) in &watches {
        watch.next();
    }
    authority.terminate();
    for (name, watch) in &watches {
        assert_eq!(last(watch)["status"], "UNAVAILABLE", "{name}");
    }
}

/// Both streams of every client.
fn all_of(authority: &Authority) -> Vec<(String, Watch)> {
    let both = ["x509", "jwt"];
    both.iter()
        .flat_map(|what| {
            ALL.iter().map(move |client| {
                (
                    format!("{client:?} {what}"),
                    client.watch(&authority.endpoint(), what),
                )
            })
        })
        .collect()
}

/// How a stream ended.
fn last(watch: &Watch) -> Value {
    loop {
        let said = watch.next();
        if said["status"].is_string() || said["client"].is_string() {
            return said;
        }
    }
}

/// S-44: what changes for one half of the API is no news in the other.
#[test]
fn new_entries_are_no_news_to_who_follows_keys() {
    let authority = Authority::start(&for_us("a"));
    let endpoint = authority.endpoint();
    let (keys, svids) = (ALL[2].watch(&endpoint, "jwt"), ALL[2].watch(&endpoint, "x509"));
    let first = keys.next();
    assert_eq!(svids.next()["serials"].as_array().unwrap().len(), 1);
    authority.write_entries(&(for_us("a") + &for_us("b")));
    let more = eventually(DEADLINE, || match svids.next()["serials"].as_array() {
        Some(serials) if serials.len() == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    more.unwrap();
    authority.write_entries("");
    // The next that is heard is the end, not the same keys again.
    assert_eq!(keys.next()["status"], "PERMISSION_DENIED");
    assert_eq!(first["domains"], json!(["spiffe://mesh.local"]));
}
