//! Both halves count: a permit that asks for a peer and for a user passes with both, and with neither half missing or
//! changed in the one thing that it asks for (Consul's CVE-2023-3518 was a claim check that no longer checked).

use super::*;

/// How the peer is asked for: the scope, a condition, and peers that are not meant.
const PEERS: &[(&str, &str, &[&str])] = &[
    (
        "principal == Workload::\"spiffe://mesh.local/ns/shop/sa/web\"",
        "true",
        &[
            ORDERS,
            "",
            "spiffe://partner.example/ns/shop/sa/web",
            "spiffe://mesh.local/ns/shop/sa/web/x",
        ],
    ),
    (
        "principal in Group::\"frontend\"",
        "true",
        &[ORDERS, "", "spiffe://mesh.local/ns/shop/sa/webx"],
    ),
    (
        "principal in Namespace::\"shop\"",
        "true",
        &[BFF, "", "spiffe://partner.example/ns/shop/sa/web"],
    ),
    (
        "principal in TrustDomain::\"mesh.local\"",
        "true",
        &["spiffe://partner.example/ns/shop/sa/web", ""],
    ),
    (
        "principal is Workload in Group::\"frontend\"",
        "true",
        &[ORDERS, ""],
    ),
    ("principal", "principal in Group::\"frontend\"", &[ORDERS, ""]),
    (
        "principal is Workload",
        "principal has sa && principal.sa == \"web\" && principal.trust_domain == \"mesh.local\"",
        &[
            ORDERS,
            "",
            "spiffe://partner.example/ns/shop/sa/web",
            "spiffe://mesh.local/other/form",
        ],
    ),
];

type Change = fn(&mut User);

/// What is asked of the user, and the one change that breaks it.
const USERS: &[(&str, Change)] = &[
    (
        "context has user && context.user in Role::\"corp|clerk\"",
        |user| user.roles = owned(&["admin"]),
    ),
    (
        "context has user && context.user in Role::\"corp|clerk\"",
        |user| user.alias = "other".to_owned(),
    ),
    (
        "context has user && context.user == User::\"corp|alice\"",
        |user| user.subject = "alicia".to_owned(),
    ),
    ("context has user && context.user.sub == \"alice\"", |user| {
        user.subject.push(' ')
    }),
    (
        "context has user && context.user.issuer == \"https://idp.demo\"",
        |user| user.issuer.push('/'),
    ),
    (
        "context has user && context.user.aud.contains(\"shop\")",
        |user| user.audience = owned(&["shops"]),
    ),
    (
        "context has user && context.user.scope.contains(\"orders:read\")",
        |user| user.scope.retain(|s| s != "orders:read"),
    ),
    ("context has user.azp && context.user.azp == \"app\"", |user| {
        user.azp = None
    }),
    ("context has user.acr && context.user.acr == \"2\"", |user| {
        user.acr = Some("1".to_owned())
    }),
    ("context has user && context.user.amr.contains(\"otp\")", |user| {
        user.amr = owned(&["pwd"])
    }),
    ("context has user && context.user.exp > context.now", |user| {
        user.exp = 1
    }),
    (
        "context has user.auth_time && context.user.auth_time > context.now.offset(duration(\"-1h\"))",
        |user| user.auth_time = Some(1),
    ),
    (
        "context has user.claims.tenant && context.user.claims.tenant == context.params.tenant",
        |user| {
            user.claims = vec![("tenant".to_owned(), ClaimValue::String("t2".to_owned()))];
        },
    ),
    (
        "context has user.claims.tenant && context.user.claims.tenant == \"t1\"",
        |user| user.claims.clear(),
    ),
];

#[test]
fn each_half_is_needed_and_each_claim_turns_the_verdict() {
    let mut alice = user("alice", &["clerk"]);
    alice.azp = Some("app".to_owned());
    alice.acr = Some("2".to_owned());
    alice.amr = owned(&["otp", "pwd"]);
    alice.auth_time = Some(1_794_999_900);
    for (scope, peer, others) in PEERS {
        for (clause, change) in USERS {
            let text = format!(
                "@id(\"both\") permit({scope}, action == Action::\"shop/orders#getOrder\", resource == Service::\"shop/orders\")\n\
                 when {{ {peer} }} when {{ {clause} }};"
            );
            let set = loaded(&text.replace("when { true } ", ""));
            let whole = Ask::new(WEB, "GET", "/tenants/t1/orders/7").user(alice.clone());
            assert_eq!(whole.of(&set).verdict, Verdict::Allow, "{text}");
            let mut nobody = whole.clone();
            nobody.user = None;
            let decision = nobody.of(&set);
            assert_eq!(
                (decision.verdict, decision.user_would_help),
                (Verdict::Deny, true),
                "{text}"
            );
            let mut other = whole.clone();
            other.user.iter_mut().for_each(change);
            assert_eq!(other.of(&set).verdict, Verdict::Deny, "{text}");
            for peer in *others {
                let mut other = whole.clone();
                other.peer = (!peer.is_empty()).then(|| id(peer));
                let decision = other.of(&set);
                assert_eq!(
                    (decision.verdict, decision.user_would_help),
                    (Verdict::Deny, false),
                    "{peer}: {text}"
                );
            }
        }
    }
}
