//! What goes on: every client sees each change as a whole message, and is told how a stream ended.

use hopguard_tests::{eventually, hopguard};
use serde_json::{Value, json};

use crate::drivers::{ALL, Client, Watch};
use crate::support::*;
use crate::tokens::part;

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
    authority.write_entries("entries = \"none\"\n");
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
    authority.write_entries("entries = \"none\"\n");
    // The next that is heard is the end, not the same keys again.
    assert_eq!(keys.next()["status"], "PERMISSION_DENIED");
    assert_eq!(first["domains"], json!(["spiffe://mesh.local"]));
}

/// S-30, S-32, S-44, S-63: a key is published before it signs, stays while a token of it lives, and is then of no use. All
/// clients see all of it.
#[test]
fn every_client_follows_a_rotation_of_the_jwt_key() {
    let mut authority = Authority::files(&for_us("a"), "1h", "");
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    let short = format!("refresh_hint = \"1s\"\n{config}");
    std::fs::write(authority.path("ca.toml"), short).unwrap();
    authority.run(hopguard());
    let endpoint = authority.endpoint();

    let watches: Vec<_> = ALL
        .iter()
        .map(|client| (client, client.watch(&endpoint, "jwt")))
        .collect();
    let mut asking = Client::Raw.connect(&endpoint);
    let mut token = || {
        let said = asking.ask(&json!({"do": "jwt_svids", "audience": ["db"]}));
        said["tokens"][0]
            .as_str()
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned()
    };
    let kid = |token: &str| part(token, 0)["kid"].as_str().unwrap().to_owned();
    let old = token();
    for (client, watch) in &watches {
        assert_eq!(watch.next()["kids"], json!([kid(&old)]), "{client:?}");
    }
    let rotate = |arguments: &[&str]| {
        let output = hopguard()
            .args(["ca", "rotate", "--kind", "jwt", "--config"])
            .arg(authority.path("ca.toml"))
            .args(arguments)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{arguments:?}: {output:?}")),
        }
    };
    rotate(&["--step", "prepare"]).unwrap();
    let mut both = Vec::new();
    for (client, watch) in &watches {
        let said = watch.next();
        both = serde_json::from_value::<Vec<String>>(said["kids"].clone()).unwrap();
        assert_eq!(
            both.len(),
            2,
            "{client:?}: the new one beside the old one: {said}"
        );
        assert!(both.contains(&kid(&old)), "{client:?}: {said}");
    }
    assert_eq!(kid(&token()), kid(&old), "published, and signs nothing yet");

    // It is refused as long as somebody who polls could lack the key.
    eventually(DEADLINE, || rotate(&["--step", "activate"])).unwrap();
    let new = token();
    assert_ne!(kid(&new), kid(&old));
    assert!(both.contains(&kid(&new)), "every client had its key before");
    let judged = |token: &str| {
        let question = json!({"do": "validate", "audience": "db", "token": token});
        ALL.map(|client| client.connect(&endpoint).ask(&question))
    };
    for said in judged(&new) {
        assert_eq!(said["id"], "spiffe://mesh.local/a", "{said}");
    }

    // Left alone it would stay as long as a token of it may live.
    rotate(&["--step", "retire", "--force"]).unwrap();
    for (client, watch) in &watches {
        assert_eq!(
            watch.next()["kids"],
            json!([kid(&new)]),
            "{client:?}: the old key is gone"
        );
    }
    for said in judged(&old) {
        assert_eq!(said["status"], "INVALID_ARGUMENT", "{said}");
    }
    for said in judged(&token()) {
        assert_eq!(said["id"], "spiffe://mesh.local/a", "{said}");
    }
}
