use super::*;

const GOOD: &str = r#"
trust_domain = "mesh.local"
data_dir = "/var/lib/hopguard"
entries = "entries.toml"
svid_ttl = "1h"
ca_ttl = "87600h"
[[workload_api]]
socket = "/run/hopguard/workload.sock"
name = "default"
mode = "0660"
"#;

fn parse_text(text: &str) -> Result<Config, Vec<Problem>> {
    parse(Path::new("/etc/hopguard/ca.toml"), text)
}

#[test]
fn the_whole_file() {
    let config = parse_text(GOOD).unwrap();
    assert_eq!(
        config.entries,
        Path::new("/etc/hopguard/entries.toml"),
        "relative to ca.toml"
    );
    assert_eq!(config.data_dir, Path::new("/var/lib/hopguard"));
    assert_eq!(
        (config.svid_ttl, config.ca_ttl),
        (Duration::from_secs(3600), Duration::from_secs(315_360_000))
    );
    let path = PathBuf::from("/run/hopguard/workload.sock");
    assert_eq!(
        config.sockets,
        [Socket {
            name: "default".into(),
            path,
            mode: 0o660
        }]
    );
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn what_may_be_left_out_has_the_documented_default() {
    let short =
        "trust_domain = \"td\"\ndata_dir = \"d\"\nentries = \"e\"\n[[workload_api]]\nsocket = \"s\"\n";
    let config = parse_text(short).unwrap();
    assert_eq!(
        (config.svid_ttl, config.ca_ttl),
        (Duration::from_secs(3600), Duration::from_secs(315_360_000))
    );
    assert_eq!(
        (&*config.sockets[0].name, config.sockets[0].mode),
        ("default", 0o666)
    );
}

#[test]
fn every_problem_has_its_line_and_a_remedy() {
    for (from, to, line, word) in [
        ("\"mesh.local\"", "\"Mesh.local\"", 2, "one form"),
        ("\"mesh.local\"", "\"spiffe://mesh.local\"", 2, "one form"),
        ("\"mesh.local\"", "\"mesh local\"", 2, "not a trust domain"),
        ("svid_ttl = \"1h\"", "svid_ttl = \"1s\"", 5, "between 2s and 24h"),
        ("svid_ttl = \"1h\"", "svid_ttl = \"25h\"", 5, "between 2s and 24h"),
        ("svid_ttl = \"1h\"", "svid_ttl = \"1 h\"", 5, "not a duration"),
        ("svid_ttl = \"1h\"", "svid_ttl = 3600", 5, "string"),
        ("87600h", "1h", 6, "at least twice"),
        ("87600h", "876001h", 6, "at most 100 years"),
        ("\"default\"", "\"a b\"", 9, "not a name"),
        ("\"0660\"", "\"660x\"", 10, "not a mode"),
        ("\"0660\"", "\"0777\"", 10, "not a mode"),
        ("\"0660\"", "\"0066\"", 10, "not a mode"),
        ("name =", "naem =", 9, "unknown field"),
        ("entries = \"entries.toml\"", "entries = \"\"", 4, "empty"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        let problems = parse_text(&text).expect_err(to);
        assert_eq!(problems.len(), 1, "{to}: {problems:?}");
        assert_eq!(problems[0].line, line, "{to}: {problems:?}");
        assert!(problems[0].message.contains(word), "{to}: {problems:?}");
        assert!(
            problems[0].hint.as_ref().is_some_and(|hint| !hint.is_empty()),
            "{to}"
        );
    }
}

#[test]
fn sockets_are_told_apart_and_there_is_one_at_least() {
    let second = "[[workload_api]]\nsocket = \"/run/other.sock\"\nname = \"default\"\n";
    assert!(
        parse_text(&format!("{GOOD}{second}")).unwrap_err()[0]
            .message
            .contains("two sockets have the name")
    );
    let second = "[[workload_api]]\nsocket = \"/run/hopguard/workload.sock\"\nname = \"b\"\n";
    assert!(
        parse_text(&format!("{GOOD}{second}")).unwrap_err()[0]
            .message
            .contains("two sockets are at")
    );
    let none = GOOD.split("[[workload_api]]").next().unwrap();
    assert!(
        parse_text(none).unwrap_err()[0]
            .message
            .contains("no [[workload_api]]")
    );
}

#[test]
fn limits_are_set_and_never_zero() {
    let limits = |text: &str| parse_text(&format!("{GOOD}[limits]\n{text}\n"));
    assert_eq!(limits("connections = 2000").unwrap().limits.connections, 2000);
    assert!(limits("call_burst = 0").is_err());
    assert!(limits("connections = 10\nconnections_per_uid = 11").is_err());
    assert!(limits("streams = 1").is_err());
}

#[test]
fn durations_are_a_number_and_a_unit() {
    assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
    assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
    for wrong in [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1.5s",
        "1s ",
        " 1s",
        "1S",
        "1h30m",
        "99999999999999999999s",
        "18446744073709551615h",
    ] {
        assert_eq!(duration(wrong), None, "{wrong}");
    }
}

#[test]
fn either_file_is_recognized_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let entry = "[[entry]]\nspiffe_id = \"spiffe://mesh.local/a\"\nselectors = [\"unix:uid:1\"]\n";
    let entries = file("entries.toml", entry);
    let ca = file("ca.toml", GOOD);
    check_file(&entries).unwrap();
    check_file(&ca).unwrap();
    file("entries.toml", &entry.replace("mesh.local", "other"));
    check_file(&entries).unwrap();
    let problems = check_file(&ca).unwrap_err();
    assert_eq!(
        (problems[0].file.clone(), problems[0].line),
        (entries, 2),
        "known through ca.toml"
    );
    assert!(
        check_file(&file("x", "a = 1\n")).unwrap_err()[0]
            .message
            .contains("neither")
    );
    assert!(check_file(&file("y", "a = \n")).is_err());
    assert!(check_file(&dir.path().join("missing")).is_err());
    assert!(check_file(dir.path()).is_err());
}
