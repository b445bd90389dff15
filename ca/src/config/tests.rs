use super::reader::duration;
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
fn the_machine_has_the_name_that_is_written_else_its_own() {
    let own = nix::unistd::gethostname().unwrap().to_str().unwrap().to_owned();
    assert_eq!(parse_text(GOOD).unwrap().host, Host::Name(own.as_str().into()));
    let named =
        |name: &str| parse_text(&GOOD.replacen("svid_ttl", &format!("host = \"{name}\"\nsvid_ttl"), 1));
    assert_eq!(named("node-1").unwrap().scope().host, Host::Name("node-1".into()));
    for wrong in ["", ".", "..", "a/b", "a b", "n\u{f6}de"] {
        let problem = named(wrong).unwrap_err().remove(0);
        assert!(problem.line == 5 && problem.hint.is_some(), "{wrong}: {problem}");
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

const SPIFFE: &str = "[bundle_endpoint]\nlisten = \"0.0.0.0:8443\"\nprofile = \"https_spiffe\"";
const WEB: &str = "[bundle_endpoint]\nlisten = \"[::]:8443\"\nprofile = \"https_web\"\ncertificate = \"c.pem\"\nkey = \"k.pem\"";
const ISSUER: &str = "[openid]\nissuer = \"https://id.example.org/mesh\"";
const ENDPOINT: &str = "spiffe://mesh.local/hopguard/bundle-endpoint";

fn with(more: &str) -> Result<Config, Vec<Problem>> {
    parse_text(&format!("{GOOD}{more}\n"))
}

#[test]
fn what_others_fetch_is_configured() {
    use crate::endpoint::{Plain, Profile};
    let none = with("").unwrap();
    assert_eq!((none.endpoint.bundle.as_ref(), none.issuer()), (None, None));
    let bundle = with(SPIFFE).unwrap().endpoint.bundle.unwrap();
    assert!(matches!(bundle.profile, Profile::Spiffe(own) if own.to_string() == ENDPOINT));
    assert_eq!(bundle.path, "/");
    let both = with(&format!("{WEB}\n{ISSUER}")).unwrap();
    assert_eq!(both.issuer().as_deref(), Some("https://id.example.org/mesh"));
    let plain = |line: &str| {
        with(&format!("{ISSUER}\n{line}"))
            .unwrap()
            .endpoint
            .openid
            .unwrap()
            .plain
    };
    assert!(matches!(plain("listen = \"[::1]:80\""), Some(Plain::Loopback(_))));
    assert!(
        matches!(plain("socket = \"o.sock\""), Some(Plain::Unix(path)) if path == Path::new("/etc/hopguard/o.sock"))
    );
}

#[test]
fn what_others_fetch_is_configured_whole_or_not_at_all() {
    for (more, word) in [
        (SPIFFE.replace("0.0.0.0", "localhost"), "not an address"),
        (SPIFFE.replace("https_spiffe", "https"), "no profile"),
        (
            SPIFFE.replace("https_spiffe", "https_web"),
            "needs `certificate` and `key`",
        ),
        (format!("{SPIFFE}\ncertificate = \"c\""), "are for profile"),
        (format!("{WEB}\nspiffe_id = \"{ENDPOINT}\""), "is for profile"),
        (
            format!("{SPIFFE}\nspiffe_id = \"spiffe://other/a\""),
            "not a SPIFFE ID of a workload in mesh.local",
        ),
        (
            format!("{SPIFFE}\nspiffe_id = \"spiffe://mesh.local\""),
            "not a SPIFFE ID",
        ),
        (format!("{SPIFFE}\npath = \"bundle\""), "not a path"),
        (format!("{SPIFFE}\npath = \"/a/../b\""), "not a path"),
        (format!("{WEB}\npath = \"/mesh/keys\"\n{ISSUER}"), "the same path"),
        (ISSUER.to_owned(), "nobody would serve"),
        (format!("{SPIFFE}\n{ISSUER}"), "nobody would serve"),
        (format!("{ISSUER}\nlisten = \"0.0.0.0:80\""), "has no TLS"),
        (
            format!("{ISSUER}\nlisten = \"127.0.0.1:80\"\nsocket = \"s\""),
            "choose one",
        ),
        (ISSUER.replace("https:", "http:"), "not an issuer URL"),
        (ISSUER.replace("/mesh", "/"), "not an issuer URL"),
    ] {
        let problems = with(&more).expect_err(word);
        assert!(
            problems.iter().any(|problem| problem.message.contains(word)
                || problem.hint.iter().any(|hint| hint.contains(word))),
            "{word}: {problems:?}"
        );
        assert!(
            problems
                .iter()
                .all(|problem| problem.line > 10 && problem.hint.is_some()),
            "{problems:?}"
        );
    }
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
    let here = GOOD
        .replace("/run/hopguard/", "")
        .replace("/var/lib/hopguard", "data");
    let ca = file("ca.toml", &here);
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

/// The keys that a table takes, as its reader names them when it meets one that it does not know.
fn keys_of(text: &str) -> Vec<String> {
    let problem = parse_text(text).unwrap_err().remove(0).message;
    assert!(problem.starts_with("unknown field `zzz`"), "{problem}");
    let keys = problem.split('`').skip(3).step_by(2);
    keys.map(str::to_owned).collect()
}

/// The keys of the table below a heading of docs/ca.md, with what holds without them.
fn documented(heading: &str) -> Vec<(String, String)> {
    let docs = include_str!("../../../docs/ca.md");
    let (_, below) = docs.split_once(&format!("\n{heading}\n")).unwrap();
    let section = below.split("\n#").next().unwrap();
    let row = |line: &str| {
        let mut cells = line.split(" | ");
        let key = cells.next()?.strip_prefix("| `")?.strip_suffix('`')?;
        Some((key.to_owned(), cells.next()?.trim_matches('`').to_owned()))
    };
    section.lines().filter_map(row).collect()
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let unknown = "zzz = 1\n";
    let of_socket = GOOD.replace("name =", "zzz =");
    let of_limits = format!("{GOOD}[limits]\n{unknown}");
    let of_bundle = format!("{GOOD}[bundle_endpoint]\n{unknown}");
    let of_openid = format!("{GOOD}[openid]\n{unknown}");
    for (heading, text) in [
        ("## ca.toml", format!("{unknown}{GOOD}")),
        ("### `[[workload_api]]`", of_socket),
        ("### `[limits]`", of_limits),
        ("### `[bundle_endpoint]`", of_bundle),
        ("### `[openid]`", of_openid),
    ] {
        let mut read = keys_of(&text);
        let mut told: Vec<String> = documented(heading).into_iter().map(|(key, _)| key).collect();
        read.sort();
        told.sort();
        assert_eq!(told, read, "docs/ca.md, {heading}");
    }
}

#[test]
fn the_defaults_of_the_reference_and_of_the_example_are_the_real_ones() {
    let with = |keys: &[(String, String)]| -> String {
        let given = keys
            .iter()
            .filter(|(_, value)| !value.contains(' ') && !value.contains('*'));
        given.map(|(key, value)| format!("{key} = {value}\n")).collect()
    };
    let [top, socket, limits] =
        ["## ca.toml", "### `[[workload_api]]`", "### `[limits]`"].map(|heading| with(&documented(heading)));
    let short = "trust_domain = \"td\"\ndata_dir = \"d\"\nentries = \"e\"\n";
    let bare = parse_text(&format!("{short}[[workload_api]]\nsocket = \"s\"\n")).unwrap();
    let spelt = format!("{short}{top}[[workload_api]]\nsocket = \"s\"\n{socket}[limits]\n{limits}");
    assert_eq!(parse_text(&spelt).unwrap(), bare, "{spelt}");
    let example = parse_text(include_str!("../../../examples/local/ca.toml")).unwrap();
    assert_eq!(
        (example.svid_ttl, example.ca_ttl, &example.limits),
        (bare.svid_ttl, bare.ca_ttl, &bare.limits)
    );
    // Somebody who changes a limit finds all of them there.
    let example = include_str!("../../../examples/local/ca.toml");
    for (key, _) in documented("### `[limits]`") {
        assert!(example.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn a_socket_is_a_path_and_its_place_is_checked_where_it_will_be() {
    let url = GOOD.replace("\"/run/hopguard/workload.sock\"", "\"unix:///run/w.sock\"");
    let problem = parse_text(&url).unwrap_err().remove(0);
    assert!(
        problem.line == 8 && problem.message.contains("is a URL"),
        "{problem}"
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entries.toml"), "").unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let checked = |socket: &str, data: &str| {
        let path = dir.path().join("ca.toml");
        let text = format!(
            "trust_domain = \"td\"\ndata_dir = {data:?}\nentries = \"entries.toml\"\n[[workload_api]]\nsocket = {socket:?}\n"
        );
        std::fs::write(&path, text).unwrap();
        check_file(&path).map_err(|mut problems| problems.remove(0))
    };
    checked("w.sock", "data").unwrap();
    checked("/tmp/w.sock", dir.path().to_str().unwrap()).unwrap();
    let long = "x".repeat(120);
    for (socket, data, line, word) in [
        ("no/w.sock", "data", 5, "no directory that exists"),
        ("file/w.sock", "data", 5, "no directory that exists"),
        (".", "data", 5, "is not a socket"),
        (long.as_str(), "data", 5, "longer than 107 bytes"),
        ("w.sock", "no/data", 2, "no directory that exists"),
        ("w.sock", "file", 2, "not a directory"),
    ] {
        let problem = checked(socket, data).unwrap_err();
        assert!(
            problem.line == line && problem.message.contains(word) && problem.hint.is_some(),
            "{socket} {data}: {problem}"
        );
    }
}

#[test]
fn all_connections_fit_into_what_the_process_may_open() {
    let plain = "[openid]\nissuer = \"https://id.test\"\nlisten = \"127.0.0.1:8080\"\n";
    let config = parse_text(&format!("{GOOD}{SPIFFE}\n{plain}")).unwrap();
    let without = parse_text(GOOD).unwrap();
    assert_eq!(config.descriptors(), without.descriptors() + 2 * 512);
    let all = config.descriptors();
    assert_eq!(config.clone().within(all), config);
    for few in [1024, 2048, all - 1] {
        let fits = config.clone().within(few);
        assert!(fits.descriptors() <= few, "{few}: {}", fits.descriptors());
        assert!(fits.endpoint.descriptors() <= few / 4);
        assert!(fits.limits.connections >= 256, "{few}");
    }
    let none = config.within(0);
    assert_eq!((none.limits.connections, none.endpoint.connections.0), (1, 1));
}
