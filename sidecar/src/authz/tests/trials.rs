//! Tests beside policies: what passes loads, what fails refuses the set, and a test that cannot mean what it says is told
//! where it stands.

use super::*;

const POLICIES: &str = r#"@id("reads") @reason("the frontend reads")
permit(principal in Group::"frontend", action in Action::"read", resource == Service::"shop/orders")
when { context has user && context.user.claims has tenant && context.user.claims.tenant == "t1" };
@id("closed") forbid(principal, action in Action::"http", resource) when { context.path == "/closed" };
@id("db") permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action == Action::"connect", resource == Service::"data/db");
@id("eu") @mode("shadow") forbid(principal, action in Action::"http", resource) unless { context.headers has x_region };
"#;

fn with(tests: &str) -> Vec<(PathBuf, String)> {
    let mut files = file(POLICIES);
    files.push((PathBuf::from("policies/a.test.toml"), tests.to_owned()));
    files
}

/// One test of this peer, with these lines after it.
fn one_test(peer: &str, rest: &str) -> String {
    format!("[[test]]\nname = \"n\"\npeer = \"{peer}\"\n{rest}\n")
}

const ALICE: &str = "user = { issuer = \"corp\", claims = { tenant = \"t1\" } }\n";

fn allowed() -> String {
    one_test(
        "shop/web",
        &format!(
            "{ALICE}request = {{ service = \"shop/orders\", path = \"/x\" }}\nexpect = \"allow\"\nrule = \"reads\"\nshadow = [\"eu\"]"
        ),
    )
}

#[test]
fn what_passes_loads_and_changes_no_version() {
    let tested = test(&mesh(), &with(&allowed())).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
    assert_eq!((tested.outcomes.len(), tested.failed()), (1, 0), "{tested:?}");
    let outcome = &tested.outcomes[0];
    assert_eq!((outcome.line, outcome.name.as_str()), (2, "n"));
    assert_eq!(outcome.decided_by, ["eu", "reads"]);
    let loaded = load(&mesh(), &with(&allowed()), "shop/payments").unwrap();
    assert_eq!(loaded.version(), tested.version);
    assert_eq!(
        loaded.version(),
        load(&mesh(), &file(POLICIES), "shop/web").unwrap().version()
    );
    let counts: Vec<(&str, usize)> = tested.policies.iter().map(|p| (p.id.as_str(), p.tests)).collect();
    assert_eq!(counts, [("closed", 0), ("db", 0), ("eu", 1), ("reads", 1)]);
    assert_eq!((tested.policies[3].line, tested.coverage()), (1, 50));
}

/// Peer, the lines after it, and what is expected; each differs from what is decided.
const FAILING: &[(&str, &str, &str)] = &[
    (
        "shop/web",
        "request = { service = \"shop/orders\", path = \"/x\" }\nexpect = \"allow\"",
        "it expects allow, and gets deny with 401 (user_required), nearest is `reads`: the frontend reads",
    ),
    (
        "shop/orders",
        "user = { issuer = \"corp\", claims = { tenant = \"t1\" } }\nrequest = { service = \"shop/orders\", path = \"/x\" }\nexpect = \"deny\"\nstatus = 401",
        "it expects deny with 401, and gets deny with 403 (no_rule)",
    ),
    (
        "shop/web",
        "request = { service = \"shop/orders\", path = \"/closed\" }\nexpect = \"deny\"\nreason = \"no_rule\"",
        "it expects deny (no_rule), and gets deny with 403 (forbidden) by `closed`",
    ),
    (
        "plaintext",
        "request = { service = \"shop/orders\", path = \"/x\" }\nexpect = \"deny\"\nrule = \"closed\"",
        "it expects deny by `closed`, and gets deny",
    ),
    (
        "shop/orders",
        "connect = { service = \"data/db\" }\nexpect = \"deny\"",
        "it expects deny, and gets allow (allowed) by `db`",
    ),
    (
        "shop/web",
        "user = { issuer = \"corp\", claims = { tenant = \"t1\" } }\nrequest = { service = \"shop/orders\", path = \"/x\" }\nexpect = \"allow\"\nshadow = []",
        "in shadow turned by `eu`",
    ),
];

#[test]
fn one_failing_test_refuses_the_set_on_every_sidecar() {
    for (peer, rest, said) in FAILING {
        let files = with(&(allowed().replace("\"n\"", "\"first\"") + &one_test(peer, rest)));
        for service in ["shop/orders", "shop/web", "data/db"] {
            let problems = load(&mesh(), &files, service).unwrap_err();
            let text = shown(&problems);
            assert_eq!(problems.len(), 1, "{text}");
            assert!(
                text.contains("test `n` fails: ") && text.contains(said),
                "{said}: {text}"
            );
            assert_eq!(problems[0].file, PathBuf::from("policies/a.test.toml"));
            let line = files[1].1.lines().nth(problems[0].line - 1).unwrap();
            assert!(line.starts_with("expect = "), "{line}");
        }
        assert!(check(&mesh(), &files).is_err());
        assert_eq!(test(&mesh(), &files).unwrap().failed(), 1);
    }
}

/// A test file, the line of what is wrong, and words of it.
const WRONG: &[(&str, usize, &str)] = &[
    ("[[test]\n", 1, ""),
    ("x = 1\n", 1, "unknown field `x`"),
    ("[[test]]\nname = \"n\"\n", 1, "missing field `peer`"),
    (
        "[[test]]\nname = \"n\"\npeer = \"shop/wep\"\nconnect = { service = \"data/db\" }\nexpect = \"allow\"\n",
        3,
        "did you mean `shop/web`?",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"spiffe://mesh.local/a//b\"\nconnect = { service = \"data/db\" }\nexpect = \"allow\"\n",
        3,
        "not a SPIFFE ID",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nexpect = \"allow\"\n",
        2,
        "`request` or `connect`",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nconnect = { service = \"shop/web\" }\nexpect = \"allow\"\n",
        4,
        "has no opaque port",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"data/db\", path = \"/\" }\nexpect = \"allow\"\n",
        4,
        "has no http port",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"shop/web\", path = \"/a//b\" }\nexpect = \"allow\"\n",
        4,
        "empty segment",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"shop/web\", path = \"/a?b\" }\nexpect = \"allow\"\n",
        4,
        "query",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"shop/web\", path = \"/\", headers = { x_regoin = \"eu\" } }\nexpect = \"allow\"\n",
        4,
        "did you mean `x_region`?",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"shop/web\", path = \"/\", colour = 1 }\nexpect = \"allow\"\n",
        4,
        "unknown field `colour`",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nrequest = { service = \"shop/web\", path = \"/\", time = \"now\" }\nexpect = \"allow\"\n",
        4,
        "no time",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nuser = \"alice\"\nrequest = { service = \"shop/web\", path = \"/\" }\nexpect = \"allow\"\n",
        4,
        "no [user.alice]",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nuser = { issuer = \"corb\" }\nrequest = { service = \"shop/web\", path = \"/\" }\nexpect = \"allow\"\n",
        4,
        "did you mean `corp`?",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nuser = { issuer = \"corp\", claims = { level = \"9\" } }\nrequest = { service = \"shop/web\", path = \"/\" }\nexpect = \"allow\"\n",
        4,
        "a whole number",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nuser = { issuer = \"corp\", claims = { shoe = 9 } }\nrequest = { service = \"shop/web\", path = \"/\" }\nexpect = \"allow\"\n",
        4,
        "not mapped",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nuser = { issuer = \"corp\" }\nconnect = { service = \"data/db\" }\nexpect = \"allow\"\n",
        4,
        "has no user",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nconnect = { service = \"data/db\" }\nexpect = \"yes\"\n",
        5,
        "\"allow\" or \"deny\"",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nconnect = { service = \"data/db\" }\nexpect = \"deny\"\nrule = \"closd\"\n",
        6,
        "did you mean `closed`?",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nconnect = { service = \"data/db\" }\nexpect = \"deny\"\nreason = \"why\"\n",
        6,
        "there are: allowed",
    ),
    (
        "[[test]]\nname = \"n\"\npeer = \"plaintext\"\nconnect = { service = \"data/db\" }\nexpect = \"deny\"\nstatus = 403\n",
        6,
        "of a request",
    ),
];

#[test]
fn a_test_that_is_wrong_says_where() {
    for (tests, line, words) in WRONG {
        let problems = load(&mesh(), &with(tests), "shop/orders").expect_err(tests);
        let text = shown(&problems);
        assert!(text.contains(words), "{words}: {text}");
        assert_eq!(
            (problems[0].file.to_str().unwrap(), problems[0].line),
            ("policies/a.test.toml", *line),
            "{text}"
        );
    }
    let twice = allowed() + &allowed();
    let text = shown(&load(&mesh(), &with(&twice), "shop/orders").unwrap_err());
    assert!(
        text.contains("a.test.toml:") && text.contains("`n` is there twice"),
        "{text}"
    );
}

#[test]
fn tests_are_bounded_and_are_no_policies() {
    let many: String = (0..10_001)
        .map(|at| allowed().replace("\"n\"", &format!("\"n{at}\"")))
        .collect();
    let half = many.len() / 2;
    let cut = half + many.get(half..).unwrap().find("[[test]]").unwrap();
    let mut files = with(many.get(..cut).unwrap());
    files.push((PathBuf::from("b.test.toml"), many.get(cut..).unwrap().to_owned()));
    assert!(shown(&load(&mesh(), &files, "shop/orders").unwrap_err()).contains("more than"));
    // A folder of tests alone is a folder without policies: it denies.
    let alone = [(
        PathBuf::from("a.test.toml"),
        one_test(
            "plaintext",
            "connect = { service = \"data/db\" }\nexpect = \"deny\"\nreason = \"no_policies\"",
        ),
    )];
    assert_eq!(load(&mesh(), &alone, "shop/orders").unwrap().count(), 0);
}

#[test]
fn a_format_keeps_policies_and_comments() {
    let path = PathBuf::from("a.cedar");
    let text = "// first\n@id(\"a\")   permit(principal,action,resource) // why\nwhen{context.tls // inside\n};\n\n\n\n// last\n@id(\"b\") forbid(principal is Plaintext,action,resource);// end\n// after\n";
    let once = format(&path, text).unwrap();
    assert_ne!(once, text);
    for comment in ["// first", "// why", "// inside", "// last", "// end", "// after"] {
        assert_eq!(once.matches(comment).count(), 1, "{comment}: {once}");
    }
    assert_eq!(format(&path, &once).unwrap(), once);
    assert_eq!(loaded(&once).count(), 2);
    let wrong = format(&path, "@id(\"a\")\npermit(principal, action);\n").unwrap_err();
    assert_eq!(
        (wrong[0].line, wrong[0].file.as_path()),
        (2, path.as_path()),
        "{}",
        shown(&wrong)
    );
    let deep = format!(
        "@id(\"a\") permit(principal, action, resource) when {{ {}true }};",
        "!".repeat(10_000)
    );
    assert!(shown(&format(&path, &deep).unwrap_err()).contains("nests deeper"));
    let comments = "// nothing here yet\n";
    assert_eq!(format(&path, comments).unwrap(), comments);
}

#[test]
fn facts_say_what_decisions_take_from_the_mesh() {
    let facts = describe(&mesh(), &with(&allowed())).unwrap();
    assert_eq!(facts["services"]["shop/orders"]["namespace"], "shop");
    assert_eq!(
        facts["services"]["data/db"]["opaque_ports"],
        serde_json::json!([5432])
    );
    let item = &facts["services"]["shop/orders"]["routes"][2];
    assert_eq!(item["action"], "shop/orders#item");
    assert_eq!(
        item["methods"][1],
        serde_json::json!({"method": "DELETE", "action": "shop/orders#item:DELETE", "in": "DELETE"})
    );
    let web = &facts["workloads"][WEB];
    assert_eq!(
        (&web["namespace"], &web["trust_domain"]),
        (&"shop".into(), &"mesh.local".into())
    );
    assert_eq!(web["groups"], serde_json::json!(["frontend"]));
    assert_eq!(facts["policies"]["shadow"], serde_json::json!(["eu"]));
    assert_eq!(
        facts["policies"]["in_force"],
        serde_json::json!(["closed", "db", "reads"])
    );
    assert_eq!(facts["port"]["declared"], serde_json::json!([5432, 8080]));
    assert!(facts["roles"].as_array().unwrap().contains(&"corp|clerk".into()));
    assert_eq!(facts["policies"]["version"], loaded(POLICIES).version());
}

#[test]
fn a_shadow_set_watches_and_never_decides() {
    let of = |text: &str| load(&mesh(), &file(text), "shop/orders").unwrap();
    let all = "@id(\"all\") permit(principal, action, resource);";
    let none = "@id(\"none\") @reason(\"closed\") forbid(principal, action, resource);";
    let ask = Ask::new(WEB, "GET", "/");
    for (in_force, watched, verdict, rule) in [
        (all, none, Verdict::Deny, "none"),
        (none, all, Verdict::Allow, "all"),
    ] {
        let plain = ask.of(&of(in_force));
        let shadow = std::sync::Arc::new(of(watched));
        let mut watched = ask.of(&of(in_force).with_shadow(Some(std::sync::Arc::clone(&shadow))));
        let would = watched.would.take().unwrap();
        assert_eq!(plain, watched, "but for `would` nothing changes");
        assert_eq!((would.verdict, ids(&would.rules)), (verdict, vec![rule]));
        assert_eq!(&*would.version, shadow.version());
    }
    let same = of(all).with_shadow(Some(std::sync::Arc::new(
        of(&all.replace("\"all\"", "\"other\"")),
    )));
    assert_eq!(ask.of(&same).would, None, "the same answer is nothing to tell");
    let empty = of(all).with_shadow(Some(std::sync::Arc::new(
        load(&mesh(), &[], "shop/orders").unwrap(),
    )));
    assert_eq!(ask.of(&empty).would.unwrap().reason, Reason::NoPolicies);
    assert_eq!(
        ask.of(&of(none)).text.as_deref(),
        Some("closed"),
        "the reason of a forbid is told"
    );
}

#[test]
fn a_test_sees_the_parameter_that_the_application_gets() {
    let policies = "@id(\"all\") permit(principal, action, resource);\n\
        @id(\"no-cafe\") forbid(principal, action in Action::\"shop/orders#getOrder\", resource)\n\
        when { context.params.tenant == \"café\" };\n\
        @id(\"no-other\") forbid(principal, action, resource) when { context has user && context.user.issuer == \"https://corp\" };\n";
    let mut files = file(policies);
    for (at, path) in ["/tenants/café/orders/7", "/tenants/caf%c3%a9/orders/7"]
        .iter()
        .enumerate()
    {
        let text = format!(
            "request = {{ service = \"shop/orders\", path = \"{path}\" }}\nexpect = \"deny\"\nrule = \"no-cafe\""
        );
        files.push((
            PathBuf::from(format!("{at}.test.toml")),
            one_test("shop/web", &text),
        ));
    }
    let issuer = "user = { issuer = \"corp\" }\nrequest = { service = \"shop/orders\", path = \"/x\" }\nexpect = \"deny\"\nrule = \"no-other\"";
    files.push((PathBuf::from("c.test.toml"), one_test("shop/web", issuer)));
    let set = load(&mesh(), &files, "shop/orders").unwrap_or_else(|problems| panic!("{}", shown(&problems)));
    // The live form of the path, and a user whose claim is the text itself.
    let live = Ask::new(WEB, "GET", "/tenants/caf%C3%A9/orders/7").of(&set);
    assert_eq!(ids(&live.rules), ["no-cafe"]);
    let replayed = set.replay(live.inputs.as_deref().unwrap()).unwrap();
    assert_eq!(ids(&replayed.rules), ["no-cafe"]);
}

#[test]
fn what_a_sidecar_would_refuse_is_no_test() {
    let mut strict = mesh();
    strict.services[2].strict = vec![8080];
    let ask = |rest: &str| format!("request = {{ service = \"shop/orders\", {rest} }}\nexpect = \"deny\"");
    let user = |rest: &str| format!("user = {{ issuer = \"corp\", {rest} }}\n{}", ask("path = \"/\""));
    for (peer, rest, words) in [
        ("shop/web", ask("path = \"/a;b\""), "path_parameter"),
        ("shop/web", ask("path = \"/a b\""), "refuses"),
        (
            "shop/web",
            ask("path = \"/\", host = \"elsewhere\""),
            "never comes",
        ),
        ("shop/web", ask("path = \"/\", method = \"CONNECT\""), "refuses"),
        ("shop/web", ask("path = \"/\", tls = false"), "by TLS"),
        (
            "shop/web",
            ask("path = \"/\", headers = { x_region = [\"a\", \"b\"] }"),
            "header_repeated",
        ),
        (
            "plaintext",
            "request = { service = \"shop/payments\", path = \"/\" }\nexpect = \"deny\"".to_owned(),
            "is strict",
        ),
        ("shop/web", user("roles = [\"clerc\"]"), "did you mean `clerk`?"),
        ("shop/web", user("iss = \"https://evil\""), "no token of issuer"),
        ("shop/web", user("exp = \"2020-01-01T00:00:00Z\""), "expired"),
    ] {
        let problems = load(&strict, &with(&one_test(peer, &rest)), "shop/orders").expect_err(words);
        let text = shown(&problems);
        assert!(text.contains(words), "{words}: {text}");
        assert_eq!(problems[0].file, PathBuf::from("policies/a.test.toml"));
    }
}
