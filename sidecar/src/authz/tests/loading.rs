//! Every reason to refuse a set, with its place.

use super::super::parse::MAX_DEPTH;
use super::*;

#[test]
fn syntax_errors_say_where() {
    let found = problem(
        "@id(\"a\")\npermit(principal, action, resource)\nwhen { context.tls = true };\n",
        3,
        &["'=' is not"],
    );
    assert_eq!(found.file, PathBuf::from("policies/a.cedar"));
    assert!(found.len > 0 && found.column > 1);
    problem("@id(\"a\")\npermit(principal, action);\n", 2, &["resource"]);
    problem("\n\nnonsense", 3, &[]);
    problem(
        "@id(\"a\") permit(principal == ?principal, action, resource);",
        1,
        &["template"],
    );
}

#[test]
fn every_policy_has_an_id_of_its_own() {
    problem("\npermit(principal, action, resource);", 2, &["no `@id`"]);
    problem(
        "\n@id(\"\") permit(principal, action, resource);",
        2,
        &["not a name"],
    );
    problem(
        "\n@id(\"a b\") permit(principal, action, resource);",
        2,
        &["not a name"],
    );
    let twice = "@id(\"a\") permit(principal, action, resource);\n";
    problem(
        &twice.repeat(2),
        2,
        &["`@id(\"a\")` is there twice", "policies/a.cedar:1"],
    );
    let files = ["b", "c"].map(|name| (PathBuf::from(format!("{name}.cedar")), twice.to_owned()));
    let problems = load(&mesh(), &files, "shop/orders").unwrap_err();
    assert_eq!(
        shown(&problems),
        "c.cedar:1:1: `@id(\"a\")` is there twice (the first is at b.cedar:1)\n"
    );
}

#[test]
fn a_policy_without_a_name_is_checked_all_the_same() {
    let text = "@id(\"a\") permit(principal, action, resource);\n@audit(\"deny\") @id(\"a\") @note(\"x\")\nforbid(principal in Group::\"g\", action, resource)\nwhen { context.tsl };";
    let problems = refused(text);
    let places: Vec<(usize, usize)> = problems.iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(
        places,
        [(2, 16), (2, 25), (3, 21), (4, 8)],
        "{}",
        shown(&problems)
    );
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

const GET: &str = r#"permit(principal, action == Action::"shop/orders#getOrder", resource)"#;
const HTTP: &str = r#"permit(principal, action in Action::"http", resource)"#;
const CONNECT: &str = r#"permit(principal, action == Action::"connect", resource)"#;

/// Scope, condition, and a word of the problem.
const INVALID: &[(&str, &str, &str)] = &[
    (GET, r#"context.params.tennant == "x""#, "tennant"),
    (GET, r#"context.user.sub == "x""#, "user"), // `has` is missing
    (
        HTTP,
        r#"context has user && context.user.claims.tenant == "x""#,
        "tenant",
    ),
    (HTTP, "context has user && context.user.claims has shoe", "shoe"),
    (HTTP, "context.headers has x_color", "x_color"),
    (HTTP, r#"context.params.id == "x""#, "params"),
    (HTTP, r#"context.port == "8080""#, "type"),
    (HTTP, "context has agent", "agent"),
    (
        "permit(principal, action, resource)",
        r#"context.path == "/""#,
        "path",
    ), // `connect` has no path
    (CONNECT, r#"context.path == "/""#, "path"),
    (HTTP, "1 == 2", ""), // a warning: it never matches
    (HTTP, "false", ""),
    (HTTP, "context.path == \"say\u{2067}\"", ""), // a character that turns the text around
    // Behind an `||` Cedar does not mind, and a forbid would silently do half of what it says.
    (HTTP, "context.tls || context has agent", "agent"),
    (
        HTTP,
        "context.tls || (context has user && context.user.claims has shoe)",
        "shoe",
    ),
    (HTTP, "context.tls || context has user.claims.shoe", "shoe"),
    (HTTP, "context.tls || context.headers has x_color", "x_color"),
    (
        HTTP,
        "context.tls || (context has user && context.user has shoe)",
        "shoe",
    ),
    (
        HTTP,
        "context.tls || (principal is Workload && principal has nss)",
        "nss",
    ),
    (HTTP, "context.tls || resource has owner", "owner"),
    (
        HTTP,
        "context.tls || (if context.tls then principal else principal) has nss",
        "nss",
    ),
];

#[test]
fn validation_is_strict_and_warnings_are_errors() {
    for (scope, condition, word) in INVALID {
        problem(&one(scope, &format!("when {{ {condition} }}")), 2, &[word]);
    }
}

/// Policies after `@id("x") ` and all that is said of them.
const SAID: &[(&str, &str)] = &[
    (
        r#"permit(principal, action == Action::"GETT", resource);"#,
        "1:38: unrecognized action `Action::\"GETT\"` (did you mean `Action::\"GET\"`?)",
    ),
    (
        r#"permit(principal, action == Action::"write", resource);"#,
        "1:28: `action == Action::\"write\"` never matches: it stands for several actions (write `action in Action::\"write\"`)",
    ),
    (
        r#"permit(principal in Role::"corp|clerk", action, resource);"#,
        "1:17: a user is never the principal (the principal is the calling workload; write `when { context has user && context.user in Role::\"ALIAS|ROLE\" }`)",
    ),
    (
        r#"permit(principal == Robot::"x", action, resource);"#,
        "1:30: unrecognized entity type `Robot` (did you mean `Role`?)",
    ),
    (
        r#"permit(principal == Plaintext::"x", action, resource);"#,
        "1:30: entity `Plaintext::\"x\"` is of an enumerated entity type, but `\"x\"` is not declared as a valid eid (valid entity eids: \"plaintext\")",
    ),
    (
        r#"permit(principal, action == Action::"shop/orders#getOrder", resource) when { 1 == 2 };"#,
        "1:1: policy is impossible: the policy expression evaluates to false for all valid requests",
    ),
    (
        r#"permit(principal, action, resource) when { 1 == 2 };"#,
        "1:1: policy is impossible: the policy expression evaluates to false for all valid requests",
    ),
    (
        r#"permit(principal, action, resource) when { context.port == "x" };"#,
        "1:53: the types Long and String are not compatible (both operands to a `==` expression must have compatible types. Types must be exactly equal to be compatible)",
    ),
];

#[test]
fn a_fault_is_said_once_and_in_our_terms() {
    for (policy, said) in SAID {
        let problems = refused(&format!("@id(\"x\") {policy}"));
        assert_eq!(shown(&problems), format!("policies/a.cedar:{said}\n"));
    }
}

#[test]
fn sizes_are_bounded() {
    let policy = |at: usize| format!("@id(\"p{at}\") permit(principal, action, resource);\n");
    let big = format!("{}//{}", policy(1), "x".repeat(1 << 20));
    assert!(shown(&refused(&big)).contains("1048576 bytes"));
    let many: Vec<(PathBuf, String)> = (0..17)
        .map(|at| {
            (
                PathBuf::from(format!("{at}.cedar")),
                format!("//{}", "x".repeat((1 << 20) - 2)),
            )
        })
        .collect();
    assert!(shown(&load(&mesh(), &many, "shop/orders").unwrap_err()).contains("together"));
    let bad: String = (0..1000)
        .map(|at| policy(at).replace("action", "action == Action::\"x\""))
        .collect();
    assert_eq!(refused(&bad).len(), 200, "the report is bounded");
}

#[test]
fn what_is_too_much_is_refused_before_it_is_parsed() {
    let policy = |at: usize| format!("@id(\"p{at}\") permit(principal, action, resource);\n");
    // A hundred thousand policies, in files of a legal size.
    let files: Vec<(PathBuf, String)> = (0..10)
        .map(|file| {
            let text = (0..10_000).map(|at| policy(file * 10_000 + at)).collect();
            (PathBuf::from(format!("{file}.cedar")), text)
        })
        .collect();
    let problems = load(&mesh(), &files, "shop/orders").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        shown(&problems).contains("more than 20000 policies"),
        "{}",
        shown(&problems)
    );
    // A policy of almost a megabyte; what stands before and after it is none of it.
    let paths: Vec<String> = (0..60_000).map(|n| format!("\"/{n:09}\"")).collect();
    let large = format!(
        "{}@id(\"large\") permit(principal, action in Action::\"http\", resource)\nwhen {{ [{}].contains(context.path) }};\n",
        policy(1),
        paths.join(", ")
    );
    let problems = refused(&large);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].line, 1, "the place begins behind the `;` before it");
    assert!(
        problems[0].message.contains("more than 65536 bytes"),
        "{}",
        shown(&problems)
    );
}

#[test]
fn what_another_version_may_know_refuses_the_set() {
    // Not taken for "no condition", nor left out: a newer control plane with an older sidecar must not match more.
    for unknown in [
        "@id(\"a\") permit(principal, action, resource) if { true };",
        "@id(\"a\") permit(principal, action, resource) when { context.path matches \"x\" };",
        "@id(\"a\") permit(principal, action, resource) when { context.now.toWeekday() == 1 };",
        "@id(\"a\") @expires(\"2027-01-01\") permit(principal, action, resource);",
        "@id(\"a\") permit(principal like \"spiffe://*\", action, resource);",
        "@id(\"a\") limit(principal, action, resource);",
        "@id(\"a\") permit(principal, action, resource, context);",
    ] {
        let good = "@id(\"good\") permit(principal, action, resource);\n";
        assert!(!refused(&format!("{good}{unknown}")).is_empty(), "{unknown}");
    }
}

#[test]
fn depth_is_bounded_before_parsing() {
    let when = |text: String| {
        one(
            "permit(principal, action in Action::\"http\", resource)",
            &format!("when {{ {text} }}"),
        )
    };
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
            vec!["context.tls }"; n]
                .join(" when { ")
                .trim_end_matches('}')
                .to_owned(),
        ]
    };
    for text in deep(10_000) {
        let shape: String = text.chars().take(24).collect();
        let found = shown(&refused(&when(text)));
        assert!(found.contains("nests deeper"), "{shape}: {found}");
    }
    // A million brackets take no time and no stack; an unclosed string hides nothing.
    for text in [
        "(".repeat(1 << 19),
        format!("\"{}", "(".repeat(1 << 19)),
        format!("// \" \n{}", "(".repeat(1 << 19)),
    ] {
        assert!(!refused(&text).is_empty());
    }
    // As wide as a policy may be.
    let wide: Vec<String> = (0..5000).map(|n| format!("\"/{n}\"")).collect();
    loaded(&when(format!("[{}].contains(context.path)", wide.join(", "))));
}

#[test]
fn the_deepest_that_loads_also_decides() {
    // On the stack of a data worker (2 MiB; frames of a debug build are some ten times larger): running out of it is an
    // error of the policy, and would deny.
    let stack = if cfg!(debug_assertions) { 8 << 20 } else { 2 << 20 };
    let depth = MAX_DEPTH - 8;
    let chain = |operator: &str| vec!["context.host == \"orders.shop\""; depth].join(operator);
    let brackets = format!(
        "{}context.tls{}",
        "(true && ".repeat(depth / 2),
        ")".repeat(depth / 2)
    );
    for text in [chain(" && "), chain(" || "), brackets] {
        let set = loaded(&one(
            "permit(principal, action in Action::\"http\", resource)",
            &format!("when {{ {text} }}"),
        ));
        let decided = std::thread::Builder::new()
            .stack_size(stack)
            .spawn(move || Ask::new(WEB, "GET", "/").of(&set));
        let decision = decided.unwrap().join().unwrap();
        assert_eq!(
            (decision.verdict, decision.errors),
            (Verdict::Allow, 0),
            "{}",
            text.get(..24).unwrap()
        );
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
    for pattern in [
        "web",
        "spiffe://mesh.local",
        "spiffe://mesh.local/**/x",
        "spiffe://mesh.local/ns/w*",
        "spiffe://Mesh/x",
        "spiffe://mesh.local/",
    ] {
        let mut model = mesh();
        model.groups[0].patterns.push(pattern.to_owned());
        assert!(schema(&model).is_err(), "{pattern}");
    }
    let routed = |name: &str, methods: &[&str], path: &str| {
        let mut model = mesh();
        model.services[1].routes.push(route(name, methods, path));
        schema(&model).map_err(|e| e.to_string())
    };
    assert!(
        routed("get", &["GET"], "/tenants/{t}/orders/{order}")
            .unwrap_err()
            .contains("ambiguous")
    );
    assert!(
        routed("get", &["GET"], "/tenants/a/{x}/{**}")
            .unwrap_err()
            .contains("ambiguous")
    );
    assert!(routed("getOrder", &["PUT"], "/x").unwrap_err().contains("twice"));
    assert!(routed("x", &[], "/x").is_err());
    assert!(routed("x", &["GET", "GET"], "/x").is_err());
    assert!(routed("x", &["get"], "/x").is_err());
    assert!(routed("x", &["CONNECT"], "/x").is_err());
    assert!(routed("x#y", &["GET"], "/x").is_err());
    assert!(
        routed("x", &["PUT"], "/tenants/{t}/orders/{order}").is_ok(),
        "another method is another table"
    );
    assert!(routed("x", &["GET"], "/tenants/{t}/orders/latest").is_ok());
    let unknown = load(&mesh(), &[], "shop/nothing").unwrap_err();
    assert!(shown(&unknown).contains("`shop/nothing` is not in the mesh file"));
}

#[test]
fn the_version_tells_sets_apart() {
    let policy = "@id(\"a\") permit(principal, action, resource);";
    let version = |text: &str| loaded(text).version().to_owned();
    assert_eq!(version(policy), version(policy));
    assert_ne!(version(policy), version(&format!("{policy} ")));
    let mut model = mesh();
    model.headers.clear();
    assert_ne!(
        load(&model, &file(policy), "shop/orders").unwrap().version(),
        version(policy)
    );
}

#[test]
fn a_check_is_for_the_whole_mesh() {
    let text = r#"@id("a") permit(principal, action, resource in Namespace::"shop");
        @id("b") forbid(principal, action, resource == Service::"data/db");
        @id("c") @mode("shadow") forbid(principal, action, resource);"#;
    let found = check(&mesh(), &file(text)).unwrap();
    assert_eq!((found.version.as_str(), found.count), (loaded(text).version(), 3));
    let expected = [
        ("data/db", 2),
        ("shop/orders", 2),
        ("shop/payments", 2),
        ("shop/web", 2),
    ];
    assert_eq!(
        found.services,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
    assert_eq!(loaded_for("data/db", text).enforced(), 2);
    let bad = file("@id(\"a\") permit(principal, action);");
    assert_eq!(
        check(&mesh(), &bad).unwrap_err(),
        load(&mesh(), &bad, "shop/web").unwrap_err()
    );
}
