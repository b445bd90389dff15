//! What goes on: every client sees each change as a whole message, and is told how a stream ended.

use std::process::Stdio;

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

/// S-30, S-32, S-44, S-63: a key is published before it signs, stays while a token of it lives, and is then of no use. All
/// clients see all of it.
#[test]
fn every_client_follows_a_rotation_of_the_jwt_key() {
    let mut authority = Authority::files(&for_us("a"), "1h", "");
    let config = std::fs::read_to_string(authority.path("ca.toml")).unwrap();
    let short = format!("jwt_svid_ttl = \"10s\"\nrefresh_hint = \"1s\"\n{config}");
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
    let rotating = hopguard()
        .args(["ca", "rotate", "--kind", "jwt", "--config"])
        .arg(authority.path("ca.toml"))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The token that is asked for again and again is always by a key that the last message has.
    let mut published = std::collections::BTreeSet::new();
    let mut both = Vec::new();
    for (client, watch) in &watches {
        let said = watch.next();
        let kids: Vec<String> = serde_json::from_value(said["kids"].clone()).unwrap();
        assert_eq!(
            kids.len(),
            2,
            "{client:?}: the new one beside the old one: {said}"
        );
        assert!(kids.contains(&kid(&old)), "{client:?}: {said}");
        published.extend(kids.clone());
        both = kids;
    }
    assert_eq!(published.len(), 2);
    let new = eventually(DEADLINE * 2, || {
        let token = token();
        assert!(
            both.contains(&kid(&token)),
            "signed by a key that was not published"
        );
        if kid(&token) == kid(&old) {
            Err("the old key signs")
        } else {
            Ok(token)
        }
    })
    .unwrap();
    for client in ALL {
        let said = client
            .connect(&endpoint)
            .ask(&json!({"do": "validate", "audience": "db", "token": new}));
        assert_eq!(said["id"], "spiffe://mesh.local/a", "{client:?}: {said}");
    }
    for (client, watch) in &watches {
        assert_eq!(
            watch.next()["kids"],
            json!([kid(&new)]),
            "{client:?}: the old key is gone"
        );
    }
    let rotated = rotating.wait_with_output().unwrap();
    assert!(rotated.status.success(), "{rotated:?}");
    for client in ALL {
        let said = client
            .connect(&endpoint)
            .ask(&json!({"do": "validate", "audience": "db", "token": old}));
        assert_eq!(said["status"], "INVALID_ARGUMENT", "{client:?}: {said}");
    }
}
