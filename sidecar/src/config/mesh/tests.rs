use std::fs;

use super::*;

const FULL: &str = r#"
trust_domain = "mesh.local"

[[service]]
name = "shop/orders"
hosts = ["Orders", "orders.shop."]
addresses = ["10.77.0.12", "fd77::12"]
spiffe_ids = ["spiffe://mesh.local/ns/shop/sa/orders"]
  [[service.port]]
  port = 8080
  [[service.port]]
  port = 5432
  protocol = "opaque"
  mode = "permissive"
  [[service.route]]
  name = "getOrder"
  methods = ["GET", "HEAD"]
  path = "/tenants/{tenant}/orders/{id}"

[[service]]
name = "shop/job"
spiffe_ids = ["spiffe://partner.org/job"]

[groups]
frontend = ["spiffe://mesh.local/ns/shop/sa/web", "spiffe://partner.org/**"]

[[issuer]]
alias = "corp"
issuer = "https://idp.demo:8443"
audiences = ["shop"]
algorithms = ["ES256", "RS256"]
leeway = "10s"
roles = ["roles", "realm_access.roles"]
role_names = ["clerk"]
  [issuer.claims]
  tenant = { path = "tenant", type = "string" }

[headers]
x_region = { name = "X-Region", list = true }
"#;

fn mesh(text: &str) -> Result<Mesh, Vec<ConfigProblem>> {
    parse_mesh(Path::new("mesh.toml"), text)
}

/// Every problem as `line:column message | hint`.
fn problems(text: &str) -> Vec<String> {
    let problems = mesh(text).expect_err("the file is taken for good");
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

/// Whether a problem begins with this place: `3:1` is not `3:14`.
fn stands(problem: &str, at: &str) -> bool {
    let next = problem.strip_prefix(at).and_then(|rest| rest.chars().next());
    next.is_some_and(|c| !at.ends_with(|c: char| c.is_ascii_digit()) || !c.is_ascii_digit())
}

fn has(problems: &[String], at: &str, parts: &[&str]) {
    let found = problems
        .iter()
        .any(|problem| stands(problem, at) && parts.iter().all(|part| problem.contains(part)));
    assert!(found, "no {at} {parts:?} in {problems:#?}");
}

#[test]
fn a_whole_file_is_read() {
    let mesh = mesh(FULL).unwrap();
    assert_eq!(mesh.trust_domain.as_str(), "mesh.local");
    let orders = mesh.service("shop/orders").unwrap();
    assert_eq!(orders.hosts, ["orders", "orders.shop"]);
    assert_eq!(orders.addresses.len(), 2);
    assert_eq!(orders.ports[0].protocol, Protocol::Http);
    assert_eq!(orders.ports[0].mode, Mode::Strict);
    assert_eq!(orders.ports[1].protocol, Protocol::Opaque);
    assert_eq!(orders.ports[1].mode, Mode::Permissive);
    assert_eq!(orders.routes[0].methods, ["GET", "HEAD"]);
    assert_eq!(mesh.groups[0].patterns.len(), 2);
    let corp = &mesh.issuers[0];
    assert_eq!(corp.algorithms, ["ES256", "RS256"]);
    assert_eq!(corp.leeway.as_secs(), 10);
    assert_eq!(corp.claims[0].name, "tenant");
    assert_eq!(mesh.headers[0].name, "x-region");
    assert!(mesh.headers[0].list);
    assert_eq!(mesh.services()[0].ports, orders.ports);
    assert_eq!(mesh.known_workloads().count(), 4);
    assert_eq!(mesh.hash.len(), 16);
}

#[test]
fn defaults() {
    let text =
        "trust_domain = \"m.l\"\n[[issuer]]\nalias = \"a\"\nissuer = \"https://i\"\naudiences = [\"x\"]\n";
    let mesh = mesh(text).unwrap();
    assert_eq!(mesh.issuers[0].algorithms.len(), 10);
    assert_eq!(mesh.issuers[0].leeway.as_secs(), 5);
    assert!(!mesh.issuers[0].allow_http_loopback);
    assert!(mesh.services.is_empty() && mesh.groups.is_empty() && mesh.headers.is_empty());
}

#[test]
fn unknown_keys_are_told_with_what_was_probably_meant_at_every_level() {
    let text = FULL
        .replace("trust_domain =", "trust_domian =")
        .replace("hosts =", "host =")
        .replace("protocol =", "protokol =")
        .replace("methods =", "method =")
        .replace("leeway =", "skew_allowed =")
        .replace("type = \"string\"", "kind = \"string\"")
        .replace("list = true", "lists = true");
    let problems = problems(&text);
    has(
        &problems,
        "2:1 unknown key `trust_domian`",
        &["did you mean `trust_domain`?"],
    );
    has(&problems, "1:1 the key `trust_domain` is missing", &[]);
    has(&problems, "6:1 unknown key `host` in `service`", &["`hosts`"]);
    has(
        &problems,
        "13:3 unknown key `protokol` in `service.port`",
        &["`protocol`"],
    );
    has(&problems, "17:3 unknown key `method`", &["`methods`"]);
    has(
        &problems,
        "15:",
        &["the key `methods` is missing in `service.route`"],
    );
    has(
        &problems,
        "32:1 unknown key `skew_allowed`",
        &["the keys here are: alias, issuer"],
    );
    has(
        &problems,
        "36:",
        &["unknown key `kind` in `issuer.claims.tenant`"],
    );
    has(
        &problems,
        "36:",
        &["the key `type` is missing in `issuer.claims.tenant`"],
    );
    has(&problems, "39:", &["unknown key `lists` in `headers.x_region`"]);
}

#[test]
fn kinds_that_do_not_fit_are_told_where_they_stand() {
    let text = FULL
        .replace("port = 8080", "port = \"8080\"")
        .replace("[\"Orders\", \"orders.shop.\"]", "\"orders\"")
        .replace("audiences = [\"shop\"]", "audiences = [\"shop\", 5]")
        .replace("list = true", "list = \"yes\"");
    let wrong = problems(&text);
    has(
        &wrong,
        "10:10 `service.port.port` must be an integer, but is a text",
        &[],
    );
    has(
        &wrong,
        "6:9 `service.hosts` must be a list of texts, but is a text",
        &[],
    );
    has(
        &wrong,
        "30:22 `issuer.audiences` must be a list of texts, but is a number",
        &[],
    );
    has(
        &wrong,
        "39:40 `headers.x_region.list` must be true or false, but is a text",
        &[],
    );
    let single = problems("trust_domain = \"m.l\"\n[service]\nname = \"a/b\"\n");
    has(
        &single,
        "2:",
        &["`service` must be an array of tables", "[[...]]"],
    );
}

#[test]
fn syntax_errors_have_their_place() {
    let broken = problems("trust_domain = \"m.l\"\n[[service]\nname = \"x\n");
    has(&broken, "2:11 is not valid TOML", &["expected `]`"]);
    has(&problems("a = 1\na = 2\n"), "2:", &["duplicate key"]);
}

const WRONG: &[(&str, &str, &str, &str)] = &[
    ("mesh.local\"\n\n", "Mesh.local\"\n\n", "2:16", "canonical"),
    (
        "name = \"shop/orders\"",
        "name = \"orders\"",
        "5:8",
        "not a service name",
    ),
    ("\"10.77.0.12\"", "\"10.77.0.0/24\"", "7:14", "not an IP address"),
    ("\"Orders\"", "\"10.77.0.12\"", "6:10", "put it into `addresses`"),
    ("port = 8080", "port = 0", "10:10", "not a port"),
    ("port = 8080", "port = 65536", "10:10", "not a port"),
    ("port = 8080", "port = 15008", "10:10", "the sidecar's own"),
    ("\"opaque\"", "\"tcp\"", "13:14", "\"http\" or \"opaque\""),
    (
        "\"permissive\"",
        "\"permisive\"",
        "14:10",
        "did you mean \"permissive\"?",
    ),
    ("\"HEAD\"]", "\"get\"]", "17:21", "in capitals"),
    ("/orders/{id}", "/orders/*", "18:10", "`{**}` for the rest"),
    (
        "\"spiffe://partner.org/job\"",
        "\"spiffe://partner.org\"",
        "22:15",
        "not a workload",
    ),
    (
        "partner.org/**",
        "partner.org/**/x",
        "25:51",
        "not its last segment",
    ),
    ("\"corp\"", "\"corp|x\"", "28:9", "not a name for an issuer"),
    (
        "https://idp.demo:8443",
        "http://idp.demo:8443",
        "29:10",
        "plain http",
    ),
    ("[\"shop\"]", "[]", "30:13", "`audiences` is empty"),
    ("\"RS256\"", "\"HS256\"", "31:24", "shared secret"),
    ("\"RS256\"", "\"RS255\"", "31:24", "did you mean `RS256`?"),
    ("\"10s\"", "\"61s\"", "32:10", "at most 60s"),
    (
        "\"realm_access.roles\"",
        "\"realm_access.\"",
        "33:19",
        "not the path of a claim",
    ),
    (
        "path = \"tenant\"",
        "path = \"\"",
        "36:21",
        "not the path of a claim",
    ),
    ("  tenant =", "  ten-ant =", "36:3", "not a name for a claim"),
    ("type = \"string\"", "type = \"number\"", "36:38", "\"strings\""),
    ("x_region =", "if =", "39:1", "reserved word of Cedar"),
    ("X-Region", "X-Forwarded-For", "39:21", "never trusted"),
];

#[test]
fn values_that_cannot_be_are_refused() {
    for (from, to, at, part) in WRONG {
        let text = FULL.replacen(from, to, 1);
        assert_ne!(text, FULL, "{from}");
        has(&problems(&text), at, &[part]);
    }
}

const TWICE: &[(&str, &str, &str)] = &[
    (
        "name = \"shop/job\"",
        "name = \"shop/orders\"",
        "the service `shop/orders` appears twice (first in line 5)",
    ),
    (
        "port = 5432",
        "port = 8080",
        "the port `8080` appears twice (first in line 10)",
    ),
    (
        "\"orders.shop.\"",
        "\"ORDERS\"",
        "the value `orders` appears twice",
    ),
    (
        "\"fd77::12\"",
        "\"::ffff:10.77.0.12\"",
        "the value `10.77.0.12` appears twice",
    ),
    ("\"HEAD\"]", "\"GET\"]", "the value `GET` appears twice"),
    ("\"RS256\"]", "\"ES256\"]", "the value `ES256` appears twice"),
    (
        "\"realm_access.roles\"",
        "\"roles\"",
        "the value `roles` appears twice",
    ),
    (
        "[headers]\n",
        "[headers]\nx_other = { name = \"x-REGION\" }\n",
        "the header `x-region` appears twice",
    ),
    (
        "  [[service.route]]\n",
        "  [[service.route]]\n  name = \"x\"\n  methods = [\"GET\"]\n  path = \"/tenants/{a}/orders/{b}\"\n  [[service.route]]\n",
        "the method and path `GET /tenants/{}/orders/{}` appears twice",
    ),
    (
        "  [[service.route]]\n",
        "  [[service.route]]\n  name = \"getOrder\"\n  methods = [\"GET\"]\n  path = \"/x\"\n  [[service.route]]\n",
        "the route `getOrder` appears twice",
    ),
    (
        "[headers]\n",
        "[[issuer]]\nalias = \"corp\"\nissuer = \"https://other\"\naudiences = [\"x\"]\n[headers]\n",
        "the alias `corp` appears twice",
    ),
    (
        "[headers]\n",
        "[[issuer]]\nalias = \"other\"\nissuer = \"https://idp.demo:8443\"\naudiences = [\"x\"]\n[headers]\n",
        "the issuer `https://idp.demo:8443` appears twice",
    ),
    (
        "[headers]\n",
        "[[issuer]]\nalias = \"other\"\nissuer = \"https://other\"\naudiences = [\"x\"]\nclaims.tenant = { path = \"t\", type = \"long\" }\n[headers]\n",
        "the claim `tenant` has another type than in line 36",
    ),
];

#[test]
fn nothing_is_declared_twice() {
    for (from, to, part) in TWICE {
        let text = FULL.replacen(from, to, 1);
        assert_ne!(text, FULL, "{from}");
        has(&problems(&text), "", &[part]);
    }
}

#[test]
fn one_place_with_two_identities_is_refused_and_with_one_it_is_not() {
    let second = |ids: &str, port: u16| {
        let service = format!(
            "[[service]]\nname = \"shop/copy\"\naddresses = [\"10.77.0.12\"]\nspiffe_ids = [{ids}]\n[[service.port]]\nport = {port}\n\n[groups]"
        );
        FULL.replace("[groups]", &service)
    };
    let conflict = problems(&second("\"spiffe://mesh.local/ns/shop/sa/copy\"", 8080));
    has(
        &conflict,
        "25:8 `shop/copy` and `shop/orders` (line 5) are both at `10.77.0.12` port 8080",
        &[],
    );
    assert!(mesh(&second("\"spiffe://mesh.local/ns/shop/sa/orders\"", 8080)).is_ok());
    assert!(mesh(&second("\"spiffe://mesh.local/ns/shop/sa/copy\"", 8081)).is_ok());
}

#[test]
fn a_service_that_can_be_called_says_where_and_as_whom() {
    let nowhere = FULL.replace(
        "hosts = [\"Orders\", \"orders.shop.\"]\naddresses = [\"10.77.0.12\", \"fd77::12\"]\n",
        "",
    );
    has(
        &problems(&nowhere),
        "4:",
        &["has ports, but neither `hosts` nor `addresses`"],
    );
    let nobody = FULL.replace("[\"spiffe://partner.org/job\"]", "[]");
    has(&problems(&nobody), "20:", &["no identity that it could prove"]);
    let opaque = FULL.replace("port = 8080", "port = 8080\n  protocol = \"opaque\"");
    has(
        &problems(&opaque),
        "16:",
        &["declares routes, but none of its ports is `http`"],
    );
}

#[test]
fn the_roots_of_an_issuer_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.toml");
    let text = FULL.replace("leeway = \"10s\"", "ca_file = \"idp-ca.pem\"");
    let check = || {
        fs::write(&file, &text).unwrap();
        load_mesh(&file).map_err(|problems| format!("{problems:?}"))
    };
    assert!(check().unwrap_err().contains("cannot be read"));
    fs::write(dir.path().join("idp-ca.pem"), "").unwrap();
    assert!(check().unwrap_err().contains("holds no certificate"));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(dir.path().join("idp-ca.pem"), garbage).unwrap();
    assert!(check().unwrap_err().contains("cannot be read"));
    let good = rcgen::generate_simple_self_signed(["idp.demo".to_owned()]).unwrap();
    fs::write(dir.path().join("idp-ca.pem"), good.cert.pem()).unwrap();
    let mesh = check().unwrap();
    assert_eq!(
        mesh.issuers[0].ca_file.as_deref(),
        Some(&*dir.path().join("idp-ca.pem"))
    );
}

#[test]
fn plain_http_is_for_loopback_that_was_asked_for() {
    let text = FULL.replace("https://idp.demo:8443", "http://127.0.0.1:8443");
    has(&problems(&text), "29:", &["allow_http_loopback"]);
    let text = text.replace("leeway =", "allow_http_loopback = true\nleeway =");
    assert!(mesh(&text).is_ok());
    let text = text.replace("leeway =", "jwks_uri = \"http://idp.demo/keys\"\nleeway =");
    has(&problems(&text), "33:", &["plain http"]);
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = FULL
        .replace("port = 8080", "port = 0")
        .replace("\"GET\", \"HEAD\"", "\"get\"")
        .replace("\"61s\"", "\"x\"")
        .replace("X-Region", "host");
    let problems = mesh(&text).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.is_sorted_by_key(|problem| problem.line));
}

#[test]
fn files_that_are_none_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.toml");
    let message = |file: &Path| load_mesh(file).unwrap_err()[0].message.clone();
    assert!(message(&file).contains("cannot be read"));
    assert!(message(dir.path()).contains("not a regular file"));
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(message(&file).contains("not UTF-8"));
    fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(message(&file).contains("larger than 1 MiB"));
}

#[test]
fn the_example_is_good() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/local/mesh.toml");
    let mesh = load_mesh(Path::new(example)).unwrap();
    assert!(mesh.service("default/hello").is_some());
}

#[test]
fn what_an_application_speaks_is_one_of_three_words_on_http_ports() {
    use crate::services::AppProtocol;

    let with = |line: &str| FULL.replace("  port = 8080\n", &format!("  port = 8080\n  {line}\n"));
    let app = |line: &str| mesh(&with(line)).unwrap().services[0].ports[0].app;
    assert_eq!(app(""), AppProtocol::Auto);
    assert_eq!(app("app_protocol = \"auto\""), AppProtocol::Auto);
    assert_eq!(app("app_protocol = \"http1\""), AppProtocol::Http1);
    assert_eq!(app("app_protocol = \"http2\""), AppProtocol::Http2);
    let wrong = problems(&with("app_protocol = \"grpc\"")).join("\n");
    assert!(wrong.contains("grpc") && wrong.contains("http2"), "{wrong}");
    let opaque = FULL.replace(
        "  protocol = \"opaque\"\n",
        "  protocol = \"opaque\"\n  app_protocol = \"http2\"\n",
    );
    let wrong = problems(&opaque).join("\n");
    assert!(wrong.contains("opaque port"), "{wrong}");
}
