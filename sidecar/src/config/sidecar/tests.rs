use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const FULL: &str = r#"
service = "shop/orders"
mesh = "../mesh.toml"
policies = "/etc/hopguard/policies"
addresses = ["10.77.0.12"]

[identity]
workload_api = "unix:///run/hopguard/workload.sock"
spiffe_id = "spiffe://mesh.local/ns/shop/sa/orders"

[outbound]
port = 25001
egress = "plain"
[inbound]
port = 25006
hbone_port = 25008
detect_timeout = "2s"
[traffic]
mark = 1337
probe = false
[health]
listen = "127.0.0.1:25021"
[metrics]
listen = "[::1]:25020"
[admin]
socket = "admin.sock"
[log]
output = "access.json"
user = "plain"
[limits]
connections = 10
head_bytes = 2048
headers = 5
head_timeout = "1s"
idle_timeout = "1m"
opaque_idle_timeout = "2h"
connect_timeout = "1s"
tunnel_max_age = "5m"
streams_per_tunnel = 7
[drain]
timeout = "0s"
"#;

fn sidecar(text: &str) -> Result<Sidecar, Vec<ConfigProblem>> {
    parse_sidecar(Path::new("/etc/hopguard/orders/sidecar.toml"), text)
}

fn problems(text: &str) -> Vec<String> {
    let problems = sidecar(text).expect_err("the file is taken for good");
    problems
        .iter()
        .map(|p| {
            format!(
                "{}:{} {} | {}",
                p.line,
                p.column,
                p.message,
                p.hint.as_deref().unwrap_or_default()
            )
        })
        .collect()
}

fn has(problems: &[String], at: &str, part: &str) {
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with(&format!("{at} ")) && p.contains(part)),
        "no {at} {part} in {problems:#?}"
    );
}

#[test]
fn a_whole_file_is_read() {
    let sidecar = sidecar(FULL).unwrap();
    assert_eq!(sidecar.service, "shop/orders");
    assert_eq!(sidecar.mesh, Path::new("/etc/hopguard/orders/../mesh.toml"));
    assert_eq!(sidecar.policies, Path::new("/etc/hopguard/policies"));
    assert_eq!(sidecar.addresses, ["10.77.0.12".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        sidecar.identity.workload_api.as_deref(),
        Some("unix:///run/hopguard/workload.sock")
    );
    assert!(matches!(sidecar.identity.which, WhichSvid::Id(_)));
    assert_eq!(sidecar.ports(), [25001, 25006, 25008, 25020, 25021]);
    assert_eq!(sidecar.outbound.egress, Egress::Plain);
    assert_eq!(sidecar.inbound.detect_timeout, Duration::from_secs(2));
    assert_eq!(
        sidecar.traffic,
        Traffic {
            mark: Some(1337),
            probe: false
        }
    );
    assert_eq!(sidecar.admin, Path::new("/etc/hopguard/orders/admin.sock"));
    assert_eq!(
        sidecar.log.output,
        JournalOutput::File("/etc/hopguard/orders/access.json".into())
    );
    assert!(matches!(sidecar.log.user, UserMode::Plain));
    assert_eq!(sidecar.limits.streams_per_tunnel, 7);
    assert_eq!(sidecar.limits.opaque_idle_timeout, Duration::from_secs(7200));
    assert_eq!(sidecar.drain_timeout, Duration::ZERO);
}

#[test]
fn one_line_is_enough() {
    let sidecar = sidecar("service = \"shop/orders\"").unwrap();
    assert_eq!(sidecar.mesh, Path::new("/etc/hopguard/orders/mesh.toml"));
    assert_eq!(sidecar.ports(), [15001, 15006, 15008, 15020, 15021]);
    assert_eq!(sidecar.outbound.egress, Egress::Deny);
    assert_eq!(sidecar.identity.which, WhichSvid::OfTheService);
    assert_eq!(sidecar.identity.workload_api, None);
    assert_eq!(
        sidecar.traffic,
        Traffic {
            mark: None,
            probe: true
        }
    );
    assert_eq!(sidecar.health.to_string(), "[::]:15021");
    assert_eq!(sidecar.admin, Path::new("/run/hopguard/admin.sock"));
    assert!(matches!(sidecar.log.user, UserMode::Hash(None)));
    assert_eq!(sidecar.log.output, JournalOutput::Stdout);
    assert_eq!(
        sidecar.limits,
        Limits {
            connections: 20_000,
            head_bytes: 32_768,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            opaque_idle_timeout: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            tunnel_max_age: Duration::from_secs(600),
            streams_per_tunnel: 1000,
        }
    );
    assert_eq!(sidecar.drain_timeout, Duration::from_secs(30));
}

#[test]
fn a_port_that_is_a_default_elsewhere_is_told_where_it_stands() {
    has(
        &problems("service = \"a/b\"\n[outbound]\nport = 15006"),
        "3:8",
        "the port 15006 is both `outbound.port` (line 3) and `inbound.port` (its default)",
    );
    has(
        &problems("service = \"a/b\"\n[health]\nlisten = \"[::]:15020\""),
        "3:10",
        "the port 15020 is both `metrics.listen` (its default) and `health.listen` (line 3)",
    );
}

#[test]
fn the_redirect_is_watched_unless_told_otherwise() {
    let of = |text: &str| {
        sidecar(&format!("service = \"a/b\"\n[traffic]\n{text}"))
            .unwrap()
            .traffic
    };
    for watched in ["mark = 1", "probe = true", "mark = 1\nprobe = true", ""] {
        assert!(of(watched).probe, "{watched}");
    }
    assert!(!of("mark = 1\nprobe = false").probe && !of("probe = false").probe);
}

const LONG: &str = concat!(
    "\"/run/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789",
    "/0123456789/0123456789/0123456789/admin.sock\"",
);

const WRONG: &[(&str, &str, &str, &str)] = &[
    (
        "service = \"shop/orders\"",
        "service = \"orders\"",
        "2:11",
        "not a service name",
    ),
    (
        "\"10.77.0.12\"",
        "\"127.0.0.1\"",
        "5:14",
        "not the address of a workload",
    ),
    ("unix:///run", "unix://run", "8:16", "not a Workload API endpoint"),
    (
        "unix:///run/hopguard/workload.sock",
        "http://x",
        "8:16",
        "not a Workload API endpoint",
    ),
    (
        "unix:///run/hopguard/workload.sock",
        "tcp://localhost:1",
        "8:16",
        "not a Workload API endpoint",
    ),
    ("sa/orders\"", "sa/orders\"\nhint = \"x\"", "10:8", "both set"),
    (
        "egress = \"plain\"",
        "egress = \"allow\"",
        "13:10",
        "\"deny\" or \"plain\"",
    ),
    ("port = 25001", "port = 0", "12:8", "not a port"),
    (
        "port = 25006",
        "port = 25001",
        "15:8",
        "the port 25001 is both `outbound.port` (line 12) and `inbound.port` (line 15)",
    ),
    (
        "[::1]:25020",
        "[::1]:25021",
        "22:10",
        "the port 25021 is both `metrics.listen` (line 24) and `health.listen` (line 22)",
    ),
    ("\"2s\"", "\"99ms\"", "17:18", "from 100ms to 1m"),
    ("\"2s\"", "2", "17:18", "must be a text, but is a number"),
    ("mark = 1337", "mark = 0", "19:8", "not a mark"),
    ("mark = 1337", "mark = 4294967296", "19:8", "not a mark"),
    (
        "127.0.0.1:25021",
        "localhost:25021",
        "22:10",
        "not an address with a port",
    ),
    ("user = \"plain\"", "user = \"clear\"", "29:8", "\"hash\""),
    (
        "connections = 10",
        "connections = 0",
        "31:15",
        "from 1 to 1000000",
    ),
    ("head_bytes = 2048", "head_bytes = 100", "32:14", "from 1024"),
    ("headers = 5", "headers = -1", "33:11", "from 1 to 1000"),
    ("\"2h\"", "\"8d\"", "36:23", "to 7d"),
    (
        "streams_per_tunnel = 7",
        "streams_per_tunel = 7",
        "39:1",
        "did you mean `streams_per_tunnel`?",
    ),
    ("timeout = \"0s\"", "timeout = \"61m\"", "41:11", "to 1h"),
    ("\"admin.sock\"", LONG, "26:10", "longer than 107 bytes"),
];

#[test]
fn values_that_cannot_be_are_refused() {
    for (from, to, at, part) in WRONG {
        let text = FULL.replacen(from, to, 1);
        assert_ne!(text, FULL, "{from}");
        has(&problems(&text), at, part);
    }
}

#[test]
fn endpoints() {
    let of = |endpoint: &str| {
        sidecar(&format!(
            "service = \"a/b\"\n[identity]\nworkload_api = \"{endpoint}\""
        ))
        .unwrap()
        .identity
        .workload_api
        .unwrap()
    };
    assert_eq!(of("unix:///a/b"), "unix:///a/b");
    assert_eq!(of("unix:/a/b"), "unix:///a/b");
    assert_eq!(of("tcp://127.0.0.1:8000"), "tcp://127.0.0.1:8000");
    assert_eq!(of("workload.sock"), "unix:///etc/hopguard/orders/workload.sock");
    assert_eq!(of("/run/x.sock"), "unix:///run/x.sock");
}

#[test]
fn a_hash_key_is_long_enough_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let (file, key) = (dir.path().join("sidecar.toml"), dir.path().join("user-hash.key"));
    let text = "service = \"shop/orders\"\n[log]\nhash_key_file = \"user-hash.key\"\n";
    fs::write(&file, text).unwrap();
    let message = || {
        let problems = load_sidecar(&file).unwrap_err();
        assert_eq!((problems[0].line, problems[0].column), (3, 17));
        problems[0].message.clone()
    };
    assert!(message().contains("cannot be read"));
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(message().contains("other users have rights to it (mode 0644)"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let sidecar = load_sidecar(&file).unwrap();
    assert!(matches!(sidecar.log.user, UserMode::Hash(Some(_))));
    assert!(!format!("{sidecar:?}").contains("7, 7"));
    fs::write(&key, [7; 31]).unwrap();
    assert!(message().contains("31 bytes"));
    fs::write(&file, text.replace("[log]", "[log]\nuser = \"none\"")).unwrap();
    assert!(
        load_sidecar(&file).unwrap_err()[0]
            .message
            .contains("users are not hashed")
    );
}

#[test]
fn server_tls_needs_both_files_and_a_private_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.toml");
    let text =
        "service = \"shop/orders\"\n[inbound]\npublic_certificate = \"tls.pem\"\npublic_key = \"tls.key\"\n";
    let made = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    fs::write(dir.path().join("tls.pem"), made.cert.pem()).unwrap();
    let key = dir.path().join("tls.key");
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, text).unwrap();
    let sidecar = load_sidecar(&file).unwrap();
    assert_eq!(sidecar.inbound.public.unwrap().key, key);

    let fails = |part: &str| {
        let problems = load_sidecar(&file).unwrap_err();
        assert!(problems[0].message.contains(part), "{problems:?}");
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    fails("holds a secret");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, made.cert.pem()).unwrap();
    fails("holds no private key");
    fs::write(&file, text.replace("public_key", "# public_key")).unwrap();
    fails("belong together");
}

const MESH: &str = r#"
trust_domain = "mesh.local"
[[service]]
name = "shop/orders"
addresses = ["10.0.0.1"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/orders"]
[[service.port]]
port = 8080
"#;

#[test]
fn the_two_files_must_fit_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.toml");
    fs::write(dir.path().join("mesh.toml"), MESH).unwrap();
    let loaded = |text: &str| {
        fs::write(&file, text).unwrap();
        load(&file).map_err(|problems| format!("{problems:?}"))
    };
    assert_eq!(
        loaded("service = \"shop/orders\"").unwrap().mesh.services.len(),
        1
    );
    let error = loaded("service = \"shop/order\"").unwrap_err();
    assert!(
        error.contains("is not in") && error.contains("did you mean `shop/orders`?"),
        "{error}"
    );
    let other = "service = \"shop/orders\"\n[identity]\nspiffe_id = \"spiffe://mesh.local/ns/shop/sa/web\"";
    assert!(loaded(other).unwrap_err().contains("not one of the `spiffe_ids`"));
    let port = "service = \"shop/orders\"\n[outbound]\nport = 8080";
    assert!(loaded(port).unwrap_err().contains("one of this sidecar's own"));

    fs::write(
        dir.path().join("mesh.toml"),
        MESH.replace("port = 8080", "port = 0"),
    )
    .unwrap();
    let error = loaded("service = \"shop/orders\"\n[drain]\ntimeout = \"x\"").unwrap_err();
    assert!(
        error.contains("is not a port") && error.contains("is not a duration"),
        "{error}"
    );
}

#[test]
fn the_example_is_good() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/local/sidecar.toml");
    let loaded = load(Path::new(example)).unwrap();
    assert_eq!(loaded.sidecar.service, "default/hello");
}

#[test]
fn the_command_line_may_say_which_service_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "mesh.toml",
        "trust_domain = \"mesh.local\"\n[[service]]\nname = \"shop/orders\"\nhosts = [\"orders\"]\nspiffe_ids = [\"spiffe://mesh.local/o\"]\n[[service.port]]\nport = 15022\n",
    );
    let file = dir.path().join("sidecar.toml");
    let given = |service: Option<&str>, probe_port| Given {
        service: service.map(str::to_owned),
        probe_port,
    };
    let told = |given: &Given| match load_given(&file, given) {
        Ok(loaded) => loaded.sidecar.service,
        Err(problems) => format!(
            "{} | {}",
            problems[0].message,
            problems[0].hint.clone().unwrap_or_default()
        ),
    };
    write("sidecar.toml", "[assertion]\n");
    assert_eq!(told(&given(Some("shop/orders"), None)), "shop/orders");
    let loaded = load_given(&file, &given(Some("shop/orders"), None)).unwrap();
    assert_eq!(loaded.sidecar.assertion.unwrap().audience, "shop/orders");
    assert!(told(&given(None, None)).contains("`service` is missing"));
    assert!(told(&given(None, None)).contains("--service"));
    assert!(told(&given(Some("Orders"), None)).contains("--service: `Orders` is not a service name"));
    assert!(told(&given(Some("shop/web"), None)).contains("the service `shop/web` is not in"));
    // The port of the relay is one of its own.
    assert!(told(&given(Some("shop/orders"), Some(15022))).contains("15022"));
    write("sidecar.toml", "service = \"shop/other\"\n");
    assert_eq!(told(&given(Some("shop/orders"), None)), "shop/orders");
    write("sidecar.toml", "service = \"Other\"\n");
    assert!(told(&given(Some("shop/orders"), None)).contains("not a service name"));
}
