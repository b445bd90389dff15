//! What only the mesh file can tell: names that do not exist, rules that cannot meet their service, comparisons and
//! patterns that let something pass.

use super::*;

/// A policy without its `@id`, and words of the problem.
type Refused = (&'static str, &'static [&'static str]);

#[track_caller]
fn all_refused(table: &[Refused]) {
    for (policy, words) in table {
        problem(&one(policy, ""), 2, words);
    }
}

#[track_caller]
fn all_loaded(table: &[&str]) {
    for policy in table {
        loaded(&one(policy, ""));
    }
}

const UNKNOWN: &[Refused] = &[
    (
        r#"forbid(principal, action, resource == Service::"shop/order")"#,
        &["`shop/order`", "did you mean `shop/orders`"],
    ),
    (
        r#"forbid(principal, action, resource in Namespace::"shoop")"#,
        &["namespace `shoop`", "`shop`"],
    ),
    (
        r#"forbid(principal in Group::"front", action, resource)"#,
        &["group `front`", "frontend"],
    ),
    (
        r#"forbid(principal in TrustDomain::"mesh.locale", action, resource)"#,
        &["trust domain `mesh.locale`"],
    ),
    (
        r#"forbid(principal == Plaintext::"plain", action, resource)"#,
        &["plain"],
    ),
    (
        r#"forbid(principal, action == Action::"shop/orders#getOrders", resource)"#,
        &["getOrders"],
    ),
    (
        r#"forbid(principal, action == Action::"get", resource)"#,
        &["get"],
    ),
    (
        r#"forbid(principal == Robot::"r2", action, resource)"#,
        &["Robot"],
    ),
    (
        r#"forbid(principal == Workload::"spiffe://mesh.local/ns/shop/sa/wep", action, resource)"#,
        &["not in the mesh file", "spiffe_ids"],
    ),
    (
        r#"forbid(principal == Workload::"mesh.local/ns/shop/sa/web", action, resource)"#,
        &["is not a SPIFFE ID"],
    ),
    (
        r#"forbid(principal == Workload::"spiffe://mesh.local/ns/../sa/web", action, resource)"#,
        &["is not a SPIFFE ID"],
    ),
    (
        r#"forbid(principal == Workload::"spiffe://Mesh.Local/ns/shop/sa/web", action, resource)"#,
        &["write `spiffe://mesh.local/ns/shop/sa/web`"],
    ),
    (
        r#"forbid(principal == Workload::"spiffe://mesh.local", action, resource)"#,
        &["names no workload"],
    ),
];

const UNKNOWN_CONDITIONS: &[Refused] = &[
    (r#"context.user in Role::"corp|boss""#, &["role `boss`", "clerk"]),
    (
        r#"context.user in Role::"korp|admin""#,
        &["issuer `korp`", "did you mean `corp`"],
    ),
    (r#"context.user in Role::"admin""#, &["ALIAS|NAME"]),
    (r#"context.user == User::"corp|""#, &["ALIAS|NAME"]),
    (r#"principal in Group::"nobody""#, &["group `nobody`"]),
    (
        r#"principal in [Group::"frontend", Group::"nobody"]"#,
        &["group `nobody`"],
    ),
    (
        r#"context.tls || principal == Workload::"spiffe://mesh.local/x""#,
        &["workload"],
    ),
];

fn with_user(condition: &str) -> String {
    let scope = r#"forbid(principal, action in Action::"http", resource)"#;
    one(scope, &format!("when {{ context has user && ({condition}) }}"))
}

#[test]
fn everything_named_must_exist() {
    all_refused(UNKNOWN);
    all_loaded(&[
        r#"forbid(principal == Workload::"spiffe://elsewhere.example/any", action, resource)"#,
        r#"forbid(principal == Workload::"spiffe://mesh.local/ns/web/sa/any", action, resource)"#,
    ]);
    for (condition, words) in UNKNOWN_CONDITIONS {
        problem(&with_user(condition), 2, words);
    }
    loaded(&with_user(r#"context.user == User::"corp|a|b""#));
}

#[test]
fn the_place_is_the_name_itself() {
    let text = "@id(\"x\")\n// Group::\"front\" in a comment\nforbid(principal, action in Action::\"http\",\n  resource) when { principal in Group :: \"front\" };";
    let found = problem(text, 4, &["group `front`"]);
    assert_eq!(
        text.get(found.offset..found.offset + found.len),
        Some("Group :: \"front\"")
    );
    assert_eq!(found.column, 33);
}

const COMPARED: &[Refused] = &[
    (
        r#"forbid(principal, action == Action::"POST", resource == Service::"shop/orders")"#,
        &[
            "leaves out the declared routes",
            "shop/orders#createOrder",
            "action in Action::\"POST\"",
        ],
    ),
    (
        r#"permit(principal, action == Action::"POST", resource == Service::"shop/orders")"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action == Action::"POST", resource == Service::"shop/orders") when { context.path == "/x" }"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action == Action::"POST", resource)"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action == Action::"POST", resource in Namespace::"shop")"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action == Action::"OTHER", resource)"#,
        &["shop/orders#purge"],
    ),
    (
        r#"forbid(principal, action in Action::"http", resource) when { action == Action::"POST" }"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action in Action::"http", resource) when { Action::"POST" == action }"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action in Action::"http", resource) unless { action != Action::"POST" }"#,
        &["leaves out"],
    ),
    (
        r#"forbid(principal, action in Action::"http", resource) when { [Action::"POST"].contains(action) }"#,
        &["leaves out"],
    ),
    // Comparing with a group never matches.
    (r#"forbid(principal, action == Action::"write", resource)"#, &[]),
    (
        r#"forbid(principal, action == Action::"shop/orders#item", resource)"#,
        &[],
    ),
];

#[test]
fn a_method_that_has_routes_is_not_compared() {
    all_refused(COMPARED);
    all_loaded(&[
        // A permit that says its path speaks of an undeclared one.
        r#"permit(principal, action == Action::"POST", resource == Service::"shop/orders") when { context.path == "/hook" }"#,
        r#"forbid(principal, action in Action::"http", resource) when { action in [Action::"POST", Action::"PUT"] }"#,
        r#"forbid(principal, action == Action::"POST", resource == Service::"shop/payments")"#,
        r#"forbid(principal, action == Action::"PUT", resource)"#,
    ]);
}

const UNREACHABLE: &[Refused] = &[
    (
        r#"forbid(principal, action in Action::"write", resource == Service::"data/db")"#,
        &["http ports", "connect"],
    ),
    (
        r#"forbid(principal, action in [Action::"GET", Action::"connect"], resource == Service::"data/db")"#,
        &["`Action::\"GET\"` never"],
    ),
    (
        r#"forbid(principal, action == Action::"shop/orders#getOrder", resource == Service::"data/db")"#,
        &["own service"],
    ),
    (
        r#"forbid(principal, action == Action::"connect", resource == Service::"shop/orders")"#,
        &["opaque ports"],
    ),
    (
        r#"forbid(principal, action == Action::"connect", resource in Namespace::"shop")"#,
        &["opaque ports"],
    ),
    (
        r#"forbid(principal, action == Action::"shop/orders#getOrder", resource == Service::"shop/web")"#,
        &["none of the services"],
    ),
];

#[test]
fn rules_must_be_able_to_meet_their_service() {
    all_refused(UNREACHABLE);
    all_loaded(&[
        r#"forbid(principal, action == Action::"connect", resource == Service::"data/db")"#,
        r#"forbid(principal, action == Action::"connect", resource)"#,
        r#"forbid(principal, action, resource == Service::"data/db")"#,
        r#"forbid(principal, action == Action::"shop/orders#getOrder", resource in Namespace::"shop")"#,
    ]);
}

#[test]
fn patterns_do_not_cross_segments() {
    let like = |pattern: &str| {
        let scope = r#"permit(principal, action in Action::"http", resource)"#;
        one(scope, &format!("when {{ context.path like \"{pattern}\" }}"))
    };
    for pattern in ["/tenants/*/orders", "*/a/*/b*", "/a**b"] {
        problem(&like(pattern), 2, &["`like` with a `*` inside"]);
    }
    for pattern in ["/static/*", "*.png", "/a", "*", "/a/\\*/b"] {
        loaded(&like(pattern));
    }
    all_loaded(&[
        r#"permit(principal, action in Action::"http", resource) when { context.host like "a*b" }"#,
    ]);
}

#[test]
fn group_patterns_cover_what_they_say() {
    let covers = |pattern: &str, peer: &str| {
        let mut model = mesh();
        model.groups = vec![group("g", &[pattern])];
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
