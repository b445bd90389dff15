//! The table of headers that people read is the one that the code follows.

use std::collections::BTreeSet;

use super::super::strip;

/// The rows of the table of requests: the names in the first column, and what the last one says of them.
fn rows() -> Vec<(Vec<String>, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/headers.md");
    let text = std::fs::read_to_string(path).unwrap();
    let requests = text
        .split("\n## ")
        .find(|part| part.starts_with("Requests"))
        .unwrap();
    requests
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let names = columns[0].split('`').skip(1).step_by(2).map(str::to_owned);
            (names.collect(), columns.last().copied().unwrap().to_owned())
        })
        .collect()
}

/// Every name that is removed from requests; prefixes end in `*`.
fn removed() -> BTreeSet<String> {
    let names = strip::HOP
        .iter()
        .chain(strip::CLAIMS)
        .map(|name| (*name).to_owned());
    let prefixes = strip::CLAIM_PREFIXES.iter().map(|prefix| format!("{prefix}*"));
    let ours = ["connection", "upgrade"].map(str::to_owned);
    names.chain(prefixes).chain(ours).collect()
}

#[test]
fn the_table_of_headers_says_what_the_code_removes() {
    let (taken, others): (Vec<_>, Vec<_>) = rows()
        .into_iter()
        .partition(|(_, action)| action.starts_with("removed"));
    let mut documented = BTreeSet::new();
    for (names, action) in &taken {
        for name in names {
            assert!(documented.insert(name.clone()), "`{name}` stands there twice");
        }
        if action.starts_with("removed, then written") {
            // Under these names only the sidecar speaks: whatever comes from outside is a claim.
            names.iter().for_each(|name| {
                assert!(strip::is_claim(name), "`{name}` from outside passes");
                documented.remove(name);
            });
        }
    }
    assert_eq!(documented, removed());
    for (names, action) in others {
        for name in names {
            let passes =
                strip::class(&name) != strip::Class::Claim && strip::class(&name) != strip::Class::Hop;
            assert!(passes, "`{name}` is removed, and the table says: {action}");
        }
    }
    assert!(rows().len() > 15);
}
