//! Every reason to refuse a set, with its place.

use super::super::load::MAX_DEPTH;
use super::*;

/// The set is refused, with a problem on that line whose text holds all the words.
#[track_caller]
fn problem(text: &str, line: usize, words: &[&str]) -> PolicyProblem {
    let problems = refused(text);
    let found = problems
        .iter()
        .find(|p| p.line == line && words.iter().all(|w| p.to_string().contains(w)));
    found.unwrap_or_else(|| panic!("wanted line {line} with {words:?}, got:\n{}", shown(&problems))).clone()
}

/// A set of one policy on line 2.
fn one(scope: &str, rest: &str) -> String {
    format!("// first line\n@id(\"x\") {scope} {rest};\n")
}

#[test]
fn syntax_errors_say_where() {
    let found = problem("@id(\"a\")\npermit(principal, action, resource)\nwhen { context.tls = true };\n", 3, &["'=' is not"]);
    assert_eq!(found.file, PathBuf::from("policies/a.cedar"));
    assert!(found.len > 0 && found.column > 1);
    problem("@id(\"a\")\npermit(principal, action);\n", 2, &["resource"]);
    problem("\n\nnonsense", 3, &[]);
    problem("@id(\"a\") permit(principal == ?principal, action, resource);", 1, &["template"]);
}

#[test]
fn every_policy_has_an_id_of_its_own() {
    problem("\npermit(principal, action, resource);", 2, &["no `@id`"]);
    problem("\n@id(\"\") permit(principal, action, resource);", 2, &["not a name"]);
    problem("\n@id(\"a b\") permit(principal, action, resource);", 2, &["not a name"]);
    let twice = "@id(\"a\") permit(principal, action, resource);\n";
    problem(&twice.repeat(2), 2, &["`@id(\"a\")` is there twice", "policies/a.cedar:1"]);
    let files = ["b", "c"].map(|name| (PathBuf::from(format!("{name}.cedar")), twice.to_owned()));
    let problems = load(&mesh(), &files, "shop/orders").unwrap_err();
    assert_eq!(shown(&problems), "c.cedar:1:1: `@id(\"a\")` is there twice (the first is at b.cedar:1)\n");
}

#[test]
fn unknown_annotations_are_errors() {
    let with = |annotation: &str| format!("@id(\"a\")\n{annotation}\npermit(principal, action, resource);");
    problem(&with("@note(\"x\")"), 2, &["`@note` is not known"]);
    problem(&with("@mode(\"audit\")"), 2, &["`@mode(\"audit\")`", "shadow"]);
    problem(&with("@mode"), 2, &["@mode"]);
    problem(&with("@audit(\"allow\")"), 2, &["always"]);
    problem(&with("@reason(\"\")"), 2, &["empty"]);
    problem(&with(&format!("@reason(\"{}\")", "x".repeat(301))), 2, &["300"]);
    loaded(&with("@mode(\"shadow\") @audit(\"deny\") @reason(\"why not\")"));
}

#[test]
fn validation_is_strict_and_warnings_are_errors() {
    let get = "permit(principal, action == Action::\"shop/orders#getOrder\", resource)";
    let any = "permit(principal, action in Action::\"http\", resource)";
    for (scope, condition, words) in [
        (get, "context.params.tennant == \"x\"", "tennant"),
        (get, "context.user.sub == \"x\"", "user"), // `has` is missing
        (any, "context has user && context.user.claims.tenant == \"x\"", "tenant"),
        (any, "context has user && context.user.claims has shoe", "shoe"),
        (any, "context.headers has x_color", "x_color"),
        (any, "context.params.id == \"x\"", "params"),
        (any, "context.port == \"8080\"", "type"),
        (any, "context has actor", "actor"),
        // Behind an `||` Cedar does not mind, and a forbid would silently do half of what it says.
        (any, "context.tls || context has actor", "actor"),
        (any, "context.tls || (context has user && context.user.claims has shoe)", "shoe"),
        (any, "context.tls || context has user.claims.shoe", "shoe"),
        (any, "context.tls || context.headers has x_color", "x_color"),
        (any, "context.tls || (context has user && context.user has shoe)", "shoe"),
        (any, "context.tls || (principal is Workload && principal has nss)", "nss"),
        (any, "context.tls || resource has owner", "owner"),
        (any, "context.tls || (if context.tls then principal else principal) has nss", "nss"),
        ("permit(principal, action, resource)", "context.path == \"/\"", "path"), // `connect` has no path
        ("permit(principal, action == Action::\"connect\", resource)", "context.path == \"/\"", "path"),
        (any, "1 == 2", ""), // a warning: it never matches
        (any, "false", ""),
        (any, "context.path == \"say\u{2067}\"", ""), // a character that turns the text around
    ] {
        problem(&one(scope, &format!("when {{ {condition} }}")), 2, &[words]);
    }
}

#[test]
fn everything_named_must_exist() {
    let scope = |principal: &str, action: &str, resource: &str| one(&format!("forbid({principal}, {action}, {resource})"), "");
    problem(&scope("principal", "action", "resource == Service::\"shop/order\""), 2, &["`shop/order`", "did you mean `shop/orders`"]);
    problem(&scope("principal", "action", "resource in Namespace::\"shoop\""), 2, &["namespace `shoop`", "`shop`"]);
    problem(&scope("principal in Group::\"front\"", "action", "resource"), 2, &["group `front`", "frontend"]);
    problem(&scope("principal in TrustDomain::\"mesh.locale\"", "action", "resource"), 2, &["trust domain `mesh.locale`"]);
    problem(&scope("principal == Plaintext::\"plain\"", "action", "resource"), 2, &["plain"]);
    problem(&scope("principal", "action == Action::\"shop/orders#getOrders\"", "resource"), 2, &["getOrders"]);
    problem(&scope("principal", "action == Action::\"get\"", "resource"), 2, &["get"]);
    problem(&scope("principal == Robot::\"r2\"", "action", "resource"), 2, &["Robot"]);
    let workload = |text: &str| scope(&format!("principal == Workload::\"{text}\""), "action", "resource");
    problem(&workload("spiffe://mesh.local/ns/shop/sa/wep"), 2, &["not in the mesh file", "spiffe_ids"]);
    problem(&workload("mesh.local/ns/shop/sa/web"), 2, &["is not a SPIFFE ID"]);
    problem(&workload("spiffe://mesh.local/ns/../sa/web"), 2, &["is not a SPIFFE ID"]);
    problem(&workload("spiffe://Mesh.Local/ns/shop/sa/web"), 2, &["write `spiffe://mesh.local/ns/shop/sa/web`"]);
    problem(&workload("spiffe://mesh.local"), 2, &["names no workload"]);
    loaded(&workload("spiffe://elsewhere.example/any"));
    loaded(&workload("spiffe://mesh.local/ns/web/sa/any"));

    let condition = |text: &str| {
        one("forbid(principal, action in Action::\"http\", resource)", &format!("when {{ context has user && {text} }}"))
    };
    problem(&condition("context.user in Role::\"corp|boss\""), 2, &["role `boss`", "clerk"]);
    problem(&condition("context.user in Role::\"korp|admin\""), 2, &["issuer `korp`", "did you mean `corp`"]);
    problem(&condition("context.user in Role::\"admin\""), 2, &["ALIAS|NAME"]);
    problem(&condition("context.user == User::\"corp|\""), 2, &["ALIAS|NAME"]);
    problem(&condition("principal in Group::\"nobody\""), 2, &["group `nobody`"]);
    loaded(&condition("context.user == User::\"corp|a|b\""));
}

#[test]
fn the_place_is_the_name_itself() {
    let text = "@id(\"x\")\n// Group::\"front\" in a comment\nforbid(principal, action in Action::\"http\",\n  resource) when { principal in Group :: \"front\" };";
    let found = problem(text, 4, &["group `front`"]);
    assert_eq!(&text[found.offset..found.offset + found.len], "Group :: \"front\"");
    assert_eq!(found.column, 33);
}

#[test]
fn a_method_that_has_routes_is_not_compared() {
    let post = |effect: &str, scope: &str, rest: &str| one(&format!("{effect}(principal, {scope})"), rest);
    let on = "action == Action::\"POST\", resource == Service::\"shop/orders\"";
    problem(&post("forbid", on, ""), 2, &["leaves out the declared routes", "shop/orders#createOrder", "action in Action::\"POST\""]);
    problem(&post("permit", on, ""), 2, &["leaves out"]);
    problem(&post("forbid", on, "when { context.path == \"/x\" }"), 2, &["leaves out"]);
    problem(&post("forbid", "action == Action::\"POST\", resource", ""), 2, &["leaves out"]);
    problem(&post("forbid", "action == Action::\"OTHER\", resource", ""), 2, &["shop/orders#purge"]);
    let http = "action in Action::\"http\", resource";
    for condition in ["action == Action::\"POST\"", "Action::\"POST\" == action", "action != Action::\"POST\"", "[Action::\"POST\"].contains(action)"] {
        problem(&post("forbid", http, &format!("when {{ {condition} }}")), 2, &["leaves out"]);
    }
    // A permit that says its path speaks of an undeclared one.
    loaded(&post("permit", on, "when { context.path == \"/hook\" }"));
    loaded(&post("forbid", http, "when { action in [Action::\"POST\", Action::\"PUT\"] }"));
    loaded(&post("forbid", "action == Action::\"POST\", resource == Service::\"shop/payments\"", ""));
    loaded(&post("forbid", "action == Action::\"PUT\", resource", ""));
    // Comparing with a group never matches; Cedar says so.
    problem(&post("forbid", "action == Action::\"write\", resource", ""), 2, &[]);
    problem(&post("forbid", "action == Action::\"shop/orders#item\", resource", ""), 2, &[]);
}

#[test]
fn rules_must_be_able_to_meet_their_service() {
    let scope = |action: &str, resource: &str| one(&format!("forbid(principal, {action}, {resource})"), "");
    let connect = "action == Action::\"connect\"";
    problem(&scope("action in Action::\"write\"", "resource == Service::\"data/db\""), 2, &["http ports", "connect"]);
    problem(&scope("action in [Action::\"GET\", Action::\"connect\"]", "resource == Service::\"data/db\""), 2, &["`Action::\"GET\"` never"]);
    problem(&scope("action == Action::\"shop/orders#getOrder\"", "resource == Service::\"data/db\""), 2, &["its", "own service"].map(|_| "own service").as_slice());
    problem(&scope(connect, "resource == Service::\"shop/orders\""), 2, &["opaque ports"]);
    problem(&scope(connect, "resource in Namespace::\"shop\""), 2, &["opaque ports"]);
    problem(&scope("action == Action::\"shop/orders#getOrder\"", "resource == Service::\"shop/web\""), 2, &["none of the services"]);
    loaded(&scope(connect, "resource == Service::\"data/db\""));
    loaded(&scope(connect, "resource"));
    loaded(&scope("action", "resource == Service::\"data/db\""));
    loaded(&scope("action == Action::\"shop/orders#getOrder\"", "resource in Namespace::\"shop\""));
}

#[test]
fn patterns_do_not_cross_segments() {
    let like = |pattern: &str| {
        one("permit(principal, action in Action::\"http\", resource)", &format!("when {{ context.path like \"{pattern}\" }}"))
    };
    problem(&like("/tenants/*/orders"), 2, &["`like` with a `*` inside"]);
    problem(&like("*/a/*/b*"), 2, &["`like`"]);
    for pattern in ["/static/*", "*.png", "/a", "*", "/a/\\*/b"] {
        loaded(&like(pattern));
    }
    loaded(&one("permit(principal, action in Action::\"http\", resource)", "when { context.host like \"a*b\" }"));
}

#[test]
fn sizes_are_bounded() {
    let policy = |at: usize| format!("@id(\"p{at}\") permit(principal, action, resource);\n");
    let big = format!("{}//{}", policy(1), "x".repeat(1 << 20));
    assert!(shown(&refused(&big)).contains("1048576 bytes"));
    let many: Vec<(PathBuf, String)> = (0..17)
        .map(|at| (PathBuf::from(format!("{at}.cedar")), format!("//{}", "x".repeat((1 << 20) - 2))))
        .collect();
    assert!(shown(&load(&mesh(), &many, "shop/orders").unwrap_err()).contains("together"));
    let bad: String = (0..1000).map(|at| policy(at).replace("action", "action == Action::\"x\"")).collect();
    assert_eq!(refused(&bad).len(), 200, "the report is bounded");
}

#[test]
fn depth_is_bounded_before_parsing() {
    let when = |text: String| one("permit(principal, action in Action::\"http\", resource)", &format!("when {{ {text} }}"));
    let deep = |n: usize| {
        [
            format!("{}true{}", "(".repeat(n), ")".repeat(n)),
            format!("{}true", "!".repeat(n)),
            vec!["context.tls"; n].join(" && "),
            vec!["context.tls"; n].join(" || "),
            format!("{} == 1", vec!["1"; n].join(" + ")),
            format!("{}true", "if context.tls then false else ".repeat(n)),
            format!("{}context.tls{}", "[".repeat(n), "].isEmpty()".repeat(n)),
            format!("{}1{} == {{}}", "{a: ".repeat(n), "}".repeat(n)),
            format!("context{} == 1", ".a".repeat(n)),
            vec!["context.tls }"; n].join(" when { ").trim_end_matches('}').to_owned(),
        ]
    };
    for text in deep(10_000) {
        let shape = text[..24].to_owned();
        let found = shown(&refused(&when(text)));
        assert!(found.contains("nests deeper"), "{shape}: {found}");
    }
    // A million brackets take no time and no stack; an unclosed string hides nothing.
    for text in ["(".repeat(1 << 19), format!("\"{}", "(".repeat(1 << 19)), format!("// \" \n{}", "(".repeat(1 << 19))] {
        assert!(!refused(&text).is_empty());
    }
    // As wide as you like.
    let wide: Vec<String> = (0..5000).map(|n| format!("\"/{n}\"")).collect();
    loaded(&when(format!("[{}].contains(context.path)", wide.join(", "))));
}

#[test]
fn the_deepest_that_loads_also_decides() {
    // On the stack of a data worker (2 MiB), an error of depth would deny.
    let depth = MAX_DEPTH - 8;
    let chain = |operator: &str| vec!["context.host == \"orders.shop\""; depth].join(operator);
    let brackets = format!("{}context.tls{}", "(true && ".repeat(depth / 2), ")".repeat(depth / 2));
    let nots = format!("{}context.tls", "!".repeat(depth / 2 * 2));
    for text in [chain(" && "), chain(" || "), brackets, nots] {
        let set = loaded(&one("permit(principal, action in Action::\"http\", resource)", &format!("when {{ {text} }}")));
        let decided = std::thread::Builder::new().stack_size(2 << 20).spawn(move || Ask::new(WEB, "GET", "/").of(&set));
        let decision = decided.unwrap().join().unwrap();
        assert_eq!((decision.verdict, decision.errors), (Verdict::Allow, 0), "{}", &text[..24]);
    }
}

#[test]
fn a_wrong_mesh_is_refused() {
    let broken = |change: fn(&mut Model)| {
        let mut model = mesh();
        change(&mut model);
        assert_eq!(schema(&model).is_err(), load(&model, &[], "shop/orders").is_err());
        schema(&model).unwrap_err().to_string()
    };
    assert!(broken(|m| m.trust_domain = "Mesh".to_owned()).contains("trust domain"));
    assert!(broken(|m| m.services[0].name = "web".to_owned()).contains("namespace/name"));
    assert!(broken(|m| m.services[0].name = "shop/a\"b".to_owned()).contains("namespace/name"));
    assert!(broken(|m| m.services.push(m.services[0].clone())).contains("twice"));
    assert!(broken(|m| m.groups.push(m.groups[0].clone())).contains("twice"));
    assert!(broken(|m| m.issuers.push(m.issuers[0].clone())).contains("twice"));
    assert!(broken(|m| m.issuers[0].alias = "a|b".to_owned()).contains("issuer"));
    assert!(broken(|m| m.issuers[1].claims[0].1 = ClaimKind::Long).contains("two types"));
    assert!(broken(|m| m.headers[0].name = "x y".to_owned()).contains("header"));
    for pattern in ["web", "spiffe://mesh.local", "spiffe://mesh.local/**/x", "spiffe://mesh.local/ns/w*", "spiffe://Mesh/x", "spiffe://mesh.local/"] {
        let mut model = mesh();
        model.groups[0].patterns.push(pattern.to_owned());
        assert!(schema(&model).is_err(), "{pattern}");
    }
    let routed = |name: &str, methods: &[&str], path: &str| {
        let mut model = mesh();
        model.services[1].routes.push(RouteModel {
            name: name.to_owned(),
            methods: methods.iter().map(|m| (*m).to_owned()).collect(),
            path: path.to_owned(),
        });
        schema(&model).map_err(|e| e.to_string())
    };
    assert!(routed("get", &["GET"], "/tenants/{t}/orders/{order}").unwrap_err().contains("ambiguous"));
    assert!(routed("get", &["GET"], "/tenants/a/{x}/{**}").unwrap_err().contains("ambiguous"));
    assert!(routed("getOrder", &["PUT"], "/x").unwrap_err().contains("twice"));
    assert!(routed("x", &[], "/x").is_err());
    assert!(routed("x", &["GET", "GET"], "/x").is_err());
    assert!(routed("x", &["get"], "/x").is_err());
    assert!(routed("x", &["CONNECT"], "/x").is_err());
    assert!(routed("x#y", &["GET"], "/x").is_err());
    assert!(routed("x", &["PUT"], "/tenants/{t}/orders/{order}").is_ok(), "another method is another table");
    assert!(routed("x", &["GET"], "/tenants/{t}/orders/latest").is_ok());
    let unknown = load(&mesh(), &[], "shop/nothing").unwrap_err();
    assert!(shown(&unknown).contains("`shop/nothing` is not in the mesh file"));
}

#[test]
fn group_patterns_cover_what_they_say() {
    let covers = |pattern: &str, peer: &str| {
        let mut model = mesh();
        model.groups = vec![GroupModel { name: "g".to_owned(), patterns: vec![pattern.to_owned()] }];
        let files = file("@id(\"g\") permit(principal in Group::\"g\", action, resource);");
        let set = load(&model, &files, "shop/orders").unwrap();
        Ask::new(peer, "GET", "/").of(&set).verdict == Verdict::Allow
    };
    assert!(covers("spiffe://a.b/x/*", "spiffe://a.b/x/y"));
    assert!(covers("spiffe://a.b/*/y", "spiffe://a.b/x/y"));
    assert!(covers("spiffe://a.b/x/**", "spiffe://a.b/x/y/z"));
    assert!(covers("spiffe://a.b/**", "spiffe://a.b/x"));
    for (pattern, peer) in [
        ("spiffe://a.b/x/*", "spiffe://a.b/x"),
        ("spiffe://a.b/x/*", "spiffe://a.b/x/y/z"),
        ("spiffe://a.b/x/**", "spiffe://a.b/x"),
        ("spiffe://a.b/x", "spiffe://a.b/xy"),
        ("spiffe://a.b/x", "spiffe://a.b/x/y"),
        ("spiffe://a.b/**", "spiffe://a.b.c/x"),
    ] {
        assert!(!covers(pattern, peer), "{pattern} {peer}");
    }
}

#[test]
fn the_version_tells_sets_apart() {
    let policy = "@id(\"a\") permit(principal, action, resource);";
    let version = |text: &str| loaded(text).version().to_owned();
    assert_eq!(version(policy), version(policy));
    assert_ne!(version(policy), version(&format!("{policy} ")));
    let mut model = mesh();
    model.headers.clear();
    assert_ne!(load(&model, &file(policy), "shop/orders").unwrap().version(), version(policy));
}
