//! The walls of the house, held by a test: which room may use which, no cycle, no file over 500 product lines, and no
//! `super::` that leaves its room. A new arrow is a visible change of the tables below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rooms of the sidecar and the rooms that each may use.
const SIDECAR: &[(&str, &[&str])] = &[
    ("intercept", &[]),
    ("detect", &[]),
    ("identity", &[]),
    ("request", &[]),
    // Tests beside policies are read as requests are: a second reading would prove something else.
    ("authz", &["request"]),
    ("runtime", &[]),
    // Every socket that we open carries the same options; who opens one must not need another room for it.
    ("dial", &[]),
    ("tls", &["identity"]),
    ("services", &["identity"]),
    ("authn", &["identity", "dial"]),
    // It says what others proved; names come as values, so it needs nobody.
    ("assertion", &[]),
    ("tunnel", &["tls", "identity", "dial"]),
    // HTTP is forwarded by the same reading that was decided on: `request` gives the framing of both directions.
    ("forward", &["tunnel", "dial", "request"]),
    ("observe", &["detect", "authz"]),
    (
        "config",
        &[
            "assertion",
            "authn",
            "authz",
            "dial",
            "identity",
            "observe",
            "request",
            "services",
            "tunnel",
            "intercept",
        ],
    ),
    // `request`: which headers policies may read changes together with the policies, so it is in the same snapshot.
    (
        "snapshot",
        &[
            "config", "identity", "services", "tls", "authn", "authz", "request",
        ],
    ),
    (
        "flow",
        &[
            "intercept",
            "detect",
            "identity",
            "tls",
            "tunnel",
            "request",
            "authn",
            "authz",
            // Part of what is forwarded, where it is asked for: made after the decision, before anything goes on.
            "assertion",
            "services",
            "dial",
            "forward",
            "snapshot",
            "observe",
            // How a port takes tokens is a value of the mesh file, and a request carries it from its reading to its end.
            "config",
            // Whether the sidecar drains decides whether a connection may go on.
            "runtime",
        ],
    ),
    // It asks the application how it is, for those who may not: the connection is opened as every other of ours.
    ("admin", &["snapshot", "observe", "runtime", "dial"]),
    // What the verbs of the command line ask: each answer is made by the rooms that make it in a running sidecar, the
    // user as the flow turns it into facts included.
    (
        "tools",
        &["config", "authn", "authz", "request", "services", "dial", "flow"],
    ),
    ("server", ALL),
];

/// Rooms of the certificate authority.
const CA: &[(&str, &[&str])] = &[
    ("problem", &[]),
    ("datadir", &[]),
    ("keys", &[]),
    ("store", &[]),
    // It tells what others did, in their words.
    ("audit", &[]),
    // Both files that users write report what is wrong in the same words.
    ("registration", &["problem"]),
    ("authority", &["keys"]),
    // Facts that cost something are read only for entries that ask for them.
    ("attest", &["registration"]),
    // An identity leaves after its record: who hands it out waits for that.
    ("workload", &["registration", "attest", "authority", "audit"]),
    // Its socket is made like the others.
    ("admin", &["workload"]),
    // It publishes what the issuer trusts, and under `https_spiffe` asks it for an SVID of its own.
    ("endpoint", &["workload", "authority"]),
    // Where the passphrase of the keys lies is a value of theirs.
    (
        "config",
        &["problem", "registration", "workload", "keys", "audit", "endpoint"],
    ),
    ("server", ALL),
];

const ALL: &[&str] = &["*"];

/// Product lines of a file at the most: what stands before `#[cfg(test)]`.
const MOST_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn product_text(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    if name == "tests.rs"
        || name.ends_with("_tests.rs")
        || path.components().any(|c| c.as_os_str() == "tests")
    {
        return String::new();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // A test module stands at the foot; what is before it is the product.
    let end = lines
        .iter()
        .position(|l| l.trim() == "#[cfg(test)]" || l.trim().starts_with("#[cfg(all(test"))
        .unwrap_or(lines.len());
    lines[..end].join("\n")
}

/// The room that a file below `src/` belongs to, or nothing for `lib.rs` and `main.rs`.
fn room_of(src: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(src).unwrap();
    let first = below
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    let room = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    (room != "lib" && room != "main").then_some(room)
}

/// The rooms that a text names as `crate::room`, also inside `use crate::{a::x, b}`.
fn used_rooms(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|l| l.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut names = vec![String::new()];
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => names.push(String::new()),
                    _ if depth == 1 => names.last_mut().unwrap().push(c),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            rooms.extend(names.iter().filter_map(|n| ident(n.trim())));
        } else {
            rooms.extend(ident(rest));
        }
    }
    rooms
}

fn ident(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// Every arrow between rooms of a crate, and the findings against its table.
fn arrows(krate: &str, table: &[(&str, &[&str])]) -> (BTreeMap<String, BTreeSet<String>>, Vec<String>) {
    let src = root().join(krate).join("src");
    let allowed: BTreeMap<&str, &[&str]> = table.iter().copied().collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    for file in rust_files(&src) {
        let Some(room) = room_of(&src, &file) else {
            continue;
        };
        let Some(may) = allowed.get(room.as_str()) else {
            findings.push(format!(
                "{}: the room `{room}` is not in the table",
                file.display()
            ));
            continue;
        };
        let text = product_text(&file);
        for used in used_rooms(&text) {
            if used == room || !allowed.contains_key(used.as_str()) {
                continue;
            }
            graph.entry(room.clone()).or_default().insert(used.clone());
            if *may != ALL && !may.contains(&used.as_str()) {
                findings.push(format!("{}: `{room}` may not use `{used}`", file.display()));
            }
        }
        findings.extend(leaving_super(&src, &file, &text));
    }
    (graph, findings)
}

/// `super::` climbs one module; from a room's own root it would leave the room.
fn leaving_super(src: &Path, file: &Path, text: &str) -> Vec<String> {
    let depth = file.strip_prefix(src).unwrap().components().count();
    let is_mod = file.file_name().is_some_and(|n| n == "mod.rs");
    // Levels inside the room: room/mod.rs and room.rs stand at 0, room/x.rs at 1, room/x/y.rs at 2.
    let level = if is_mod { depth - 2 } else { depth - 1 };
    let mut findings = Vec::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or("");
        let mut rest = code;
        while let Some(at) = rest.find("super::") {
            let mut climb = 1;
            let mut tail = &rest[at + 7..];
            while let Some(next) = tail.strip_prefix("super::") {
                climb += 1;
                tail = next;
            }
            // A nested inline module may add a level; files of this project have none in product code.
            if climb > level && !rest[..at].ends_with("pub(in ") {
                findings.push(format!(
                    "{}: `super::` leaves the room: {}",
                    file.display(),
                    line.trim()
                ));
            }
            rest = tail;
        }
    }
    findings
}

fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        at: &'a str,
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> bool {
        if path.contains(&at) {
            path.push(at);
            return true;
        }
        if !done.insert(at) {
            return false;
        }
        path.push(at);
        for next in graph.get(at).into_iter().flatten() {
            if visit(next, graph, path, done) {
                return true;
            }
        }
        path.pop();
        false
    }
    let mut done = BTreeSet::new();
    for start in graph.keys() {
        let mut path = Vec::new();
        if visit(start, graph, &mut path, &mut done) {
            return Some(path.into_iter().map(str::to_owned).collect());
        }
    }
    None
}

#[test]
fn rooms_use_only_what_their_table_allows() {
    for (krate, table) in [("sidecar", SIDECAR), ("ca", CA)] {
        let (graph, findings) = arrows(krate, table);
        assert!(findings.is_empty(), "{krate}:\n{}", findings.join("\n"));
        assert_eq!(cycle(&graph), None, "{krate} has a cycle of rooms");
    }
}

#[test]
fn sidecar_and_ca_never_import_each_other() {
    for (krate, other) in [
        ("sidecar", "hopguard_ca"),
        ("ca", "hopguard_sidecar"),
        ("iptables", "use hopguard_"),
        ("inject", "use hopguard_"),
    ] {
        for file in rust_files(&root().join(krate).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains(other), "{} names {other}", file.display());
        }
        let manifest = std::fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
        assert!(
            !manifest.contains("hopguard-ca.workspace") && !manifest.contains("hopguard-sidecar.workspace")
        );
    }
}

#[test]
fn the_two_copies_of_the_workload_api_are_one() {
    let read =
        |krate: &str| std::fs::read_to_string(root().join(krate).join("proto/workload.proto")).unwrap();
    assert_eq!(read("sidecar"), read("ca"));
}

#[test]
fn no_file_is_longer_than_500_product_lines() {
    let mut long = Vec::new();
    for krate in ["sidecar", "ca", "cli", "iptables", "inject", "jose"] {
        for file in rust_files(&root().join(krate).join("src")) {
            let lines = product_text(&file).lines().count();
            if lines > MOST_LINES {
                long.push(format!("{} has {lines}", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_readers_of_this_test_read() {
    assert_eq!(
        used_rooms("use crate::{tls::{A, B}, identity};\nlet x = crate::authz::decide(); // crate::flow"),
        ["authz", "identity", "tls"].map(str::to_owned).into()
    );
    let graph = BTreeMap::from([
        ("a".to_owned(), BTreeSet::from(["b".to_owned()])),
        ("b".to_owned(), BTreeSet::from(["a".to_owned()])),
    ]);
    assert!(cycle(&graph).is_some());
    let src = Path::new("/s");
    assert_eq!(
        leaving_super(src, Path::new("/s/tls/mod.rs"), "use super::x;").len(),
        1
    );
    assert_eq!(
        leaving_super(src, Path::new("/s/tls/verify.rs"), "use super::x;").len(),
        0
    );
}
