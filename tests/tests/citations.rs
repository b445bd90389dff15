//! Every item of the SPIFFE specifications that an issuer, a server, a client or a validator must meet is named by a test: a
//! comment `S-NN` above a test or in it, by the numbers of the project's list (docs/workload-api.md explains them). An
//! item that no test names fails this one, and so does a number that the list does not have.

#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The items, and in a few words what each demands.
const ITEMS: &[(u32, &str)] = &[
    (1, "an ID has the scheme spiffe, and neither query nor fragment"),
    (2, "an ID's host is not empty, without user and port"),
    (
        3,
        "a trust domain is lowercase, of few characters, without percent",
    ),
    (4, "a path has no empty, dot or percent-encoded segments"),
    (5, "IDs of up to 2048 bytes are taken"),
    (6, "the trust domain has an authority with an SVID of its own"),
    (7, "an X.509-SVID has exactly one URI name"),
    (8, "a leaf's ID has a path"),
    (9, "an empty subject makes the names critical"),
    (10, "a leaf says that it is no CA"),
    (11, "key usage is there, critical, and what it must be"),
    (12, "extended key usage has both roles"),
    (13, "a CA's ID has no path"),
    (14, "no name constraints"),
    (15, "a CA in a bundle is one certificate, self-signed"),
    (16, "paths are verified by RFC 5280"),
    (17, "a peer's leaf obeys the rules of leaves"),
    (18, "roots are those of the presented trust domain, never merged"),
    (19, "no TLS session is resumed"),
    (20, "hostnames do not count, IDs do"),
    (21, "a JWT-SVID is a compact JWS"),
    (22, "its header has alg, kid and typ alone"),
    (23, "alg is one of nine"),
    (24, "typ is absent, JWT or JOSE"),
    (25, "sub, aud and exp are set"),
    (26, "keys in a bundle have use and kid"),
    (
        27,
        "algorithms off the list, and tokens without aud or exp, are refused",
    ),
    (28, "aud may be a string or a list"),
    (29, "another typ is refused"),
    (30, "a token need not name its key"),
    (31, "crit, JSON forms, and keys of another kind are refused"),
    (32, "keys are those of the subject's trust domain"),
    (33, "little leeway"),
    (34, "keys of another use or an unknown kind are ignored"),
    (35, "gRPC on a unix socket"),
    (36, "the security header on every call"),
    (37, "neither TLS nor a credential is asked of clients"),
    (38, "Unavailable while ending, PermissionDenied for nobody"),
    (39, "no call beyond the specification"),
    (40, "reflection"),
    (41, "both mandatory profiles"),
    (42, "every message is the whole state"),
    (43, "the first message comes at once"),
    (44, "changes are pushed"),
    (45, "who loses its identity is told, and gets nothing more"),
    (46, "an empty mandatory field is InvalidArgument"),
    (47, "the first SVID is the default, in a stable order"),
    (48, "hints are unique"),
    (49, "each SVID has chain, key and bundle"),
    (
        50,
        "bundles are keyed by the trust domain's ID, the own one always there",
    ),
    (51, "JWT bundles hold keys of JWT-SVIDs alone"),
    (52, "FetchJWTSVID: audience, all identities, not entitled"),
    (53, "ValidateJWTSVID validates wholly and returns the claims"),
    (54, "the service has no package"),
    (55, "endpoints are unix:///ABSOLUTE or tcp://IP:PORT"),
    (56, "clients hold their streams and come back"),
    (
        57,
        "what a message leaves out is gone; PermissionDenied drops SVIDs",
    ),
    (58, "a message that lacks a mandatory field is discarded"),
    (
        59,
        "a bundle's sequence grows with each change and never goes back",
    ),
    (60, "a bundle says how often it shall be fetched"),
    (59, "a bundle's sequence number grows with its content"),
    (60, "a bundle says how often to come back for it"),
    (61, "a bundle without keys trusts nobody"),
    (
        63,
        "a key is published before it signs, and stays while it may be met",
    ),
    (
        64,
        "a bundle endpoint: https without a user, JSON, nobody is asked for a certificate",
    ),
    (65, "its client knows the server's ID and a first bundle"),
    (66, "redirects are temporary and obey the same rules"),
];

/// Why the rest up to 67 is not asked for here: 62 is about bundle maps, which nothing here reads, and 67 about polling an
/// endpoint, which nothing here does yet.
const ELSEWHERE: [u32; 2] = [62, 67];

#[test]
fn every_item_is_named_by_a_test() {
    let named = named();
    let missing: Vec<_> = ITEMS
        .iter()
        .filter(|(item, _)| !named.contains_key(item))
        .collect();
    assert!(missing.is_empty(), "no test names {missing:#?}");
    let known = |item: &u32| ITEMS.iter().any(|(known, _)| known == item) || ELSEWHERE.contains(item);
    let unknown: Vec<_> = named.iter().filter(|(item, _)| !known(item)).collect();
    assert!(unknown.is_empty(), "no item has the number of {unknown:#?}");
}

#[test]
fn a_comment_counts_at_a_test_alone() {
    let text = "\
/// S-1, S-3 to S-5: above.
#[test]
fn a() {
    // S-7
    let x = 1; // S-8
    let y = \"S-9\";
}
/// S-10: above what is no test.
fn b() {
    // S-11
}
/// S-12
#[tokio::test]
async fn c() {}
proptest! {
    /// S-13
    #[test]
    fn d() {
    }
    // S-14
}
";
    let mut found = Vec::new();
    cited(text, &mut |item| found.push(item));
    assert_eq!(found, [1, 3, 4, 5, 7, 8, 12, 13]);
}

/// Items, and the files whose tests name them.
fn named() -> BTreeMap<u32, Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut named: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    for folder in ["ca", "sidecar", "jose", "cli", "tests"] {
        for file in sources(&root.join(folder)) {
            // The list itself proves nothing.
            if file.ends_with("tests/citations.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            cited(&text, &mut |item| {
                named.entry(item).or_default().push(file.clone())
            });
        }
    }
    named
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Tells the items that comments name, of those above a test and those in one. Formatted code is assumed: a function ends
/// with the brace that stands as far right as it began.
fn cited(text: &str, tell: &mut impl FnMut(u32)) {
    let (mut above, mut test, mut within) = (Vec::new(), false, None);
    for line in text.lines() {
        let code = line.trim_start();
        let margin = line.len() - code.len();
        let comment = code.split_once("//").map(|(_, comment)| comment);
        if let Some(end) = within {
            comment.into_iter().flat_map(items).for_each(&mut *tell);
            if margin == end && code.starts_with('}') {
                within = None;
            }
        } else if code.starts_with("//") {
            above.extend(items(code));
        } else if code.starts_with("#[") {
            test |= code.starts_with("#[test]") || code.starts_with("#[tokio::test");
        } else {
            let above = std::mem::take(&mut above);
            if std::mem::take(&mut test) {
                above.into_iter().for_each(&mut *tell);
                within = (!line.ends_with('}')).then_some(margin);
            }
        }
    }
}

/// `S-1` is one item, `S-3 to S-5` are three.
fn items(comment: &str) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut range = false;
    for word in comment
        .split([' ', ',', ':', ';', '(', ')', '.'])
        .filter(|word| !word.is_empty())
    {
        let item = word.strip_prefix("S-").and_then(|number| number.parse().ok());
        if let Some(item) = item {
            let from = found
                .last()
                .copied()
                .filter(|_| range)
                .map_or(item, |last| last + 1);
            found.extend(from..=item);
        }
        range = word == "to" && !found.is_empty();
    }
    found
}
