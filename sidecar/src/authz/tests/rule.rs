//! The decision rule where it is stricter than Cedar, and what can never happen.

use proptest::prelude::*;

use super::*;

const ALL: &str = "@id(\"all\") permit(principal, action, resource);\n";

/// A condition on `now` that overflows far in the future, and is strictly valid.
const OVERFLOW: &str =
    "context has user && context.user.claims has level && context.user.claims.level * 1000 > 5";

fn level(level: i64) -> User {
    let mut user = user("alice", &[]);
    user.claims.push(("level".to_owned(), ClaimValue::Long(level)));
    user
}

#[test]
fn a_forbid_that_errors_denies() {
    let set = loaded(&format!(
        "{ALL}@id(\"f\") forbid(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    let ask = |user: User| Ask::new(WEB, "GET", "/").user(user);
    assert_eq!(ask(level(0)).of(&set).verdict, Verdict::Allow);
    assert_eq!(ask(level(1)).of(&set).reason, Reason::Forbidden);
    let overflow = ask(level(i64::MAX)).of(&set);
    assert_eq!(
        (overflow.verdict, overflow.reason, overflow.errors),
        (Verdict::Deny, Reason::PolicyError, 1)
    );
    assert_eq!(ids(&overflow.rules), ["f"]);
    assert_eq!(Ask::new(WEB, "GET", "/").of(&set).verdict, Verdict::Allow);
}

#[test]
fn a_permit_that_errors_does_not_permit() {
    let set = loaded(&format!(
        "@id(\"p\") permit(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    let ask = Ask::new(WEB, "GET", "/").user(level(i64::MAX));
    let decision = ask.of(&set);
    assert_eq!(
        (decision.verdict, decision.reason, decision.errors),
        (Verdict::Deny, Reason::NoRule, 1)
    );
    assert_eq!(decision.needs.unwrap().rule.as_ref(), "p");
    let set = loaded(&format!(
        "{ALL}@id(\"p\") permit(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    let decision = ask.of(&set);
    assert_eq!((decision.verdict, decision.errors), (Verdict::Allow, 1));
    assert_eq!(ids(&decision.rules), ["all"]);
}

#[test]
fn a_missing_attribute_is_an_error_and_not_false() {
    // What strict validation demands (`has`) is what makes this safe; the set without it does not load.
    let without_has = format!(
        "{ALL}@id(\"f\") forbid(principal, action in Action::\"http\", resource) when {{ context.user.claims.level > 5 }};"
    );
    assert!(!refused(&without_has).is_empty());
}

#[test]
fn facts_that_do_not_fit_deny() {
    let set = loaded(&format!(
        "{ALL}@id(\"f\") forbid(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    let denied = |user: User| {
        let decision = Ask::new(WEB, "GET", "/").user(user).of(&set);
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Deny, Reason::PolicyError)
        );
    };
    let mut text_level = user("alice", &[]);
    text_level
        .claims
        .push(("level".to_owned(), ClaimValue::String("9".to_owned())));
    denied(text_level);
    let mut twice = level(0);
    twice.claims.push(("level".to_owned(), ClaimValue::Long(9)));
    denied(twice);
    let mut nobody = level(0);
    nobody.alias = "nobody".to_owned();
    denied(nobody);

    let set = loaded(&format!(
        "{ALL}@id(\"f\") forbid(principal, action, resource) when {{ context.now < datetime(\"2020-01-01\") }};"
    ));
    for millis in [i64::MAX, i64::MIN, 253_402_300_800_000] {
        let mut ask = Ask::new(WEB, "GET", "/");
        ask.now_millis = millis;
        assert_eq!(ask.of(&set).reason, Reason::PolicyError, "{millis}");
    }
}

#[test]
fn nothing_loaded_denies_all() {
    for set in [Policies::deny_all(), load(&mesh(), &[], "shop/orders").unwrap()] {
        for ask in [
            Ask::new(WEB, "GET", "/"),
            Ask::new("", "POST", "/"),
            Ask::connect(WEB),
        ] {
            let decision = ask.of(&set);
            assert_eq!(
                (decision.verdict, decision.reason),
                (Verdict::Deny, Reason::NoPolicies)
            );
        }
    }
    assert_eq!(
        (Policies::deny_all().version(), Policies::deny_all().count()),
        ("none", 0)
    );
}

#[test]
fn shadow_rules_only_watch() {
    let with = |rules: &str| loaded(&rules.replace("@s", "@mode(\"shadow\")"));
    let ask = Ask::new(WEB, "GET", "/").user(level(i64::MAX));
    // A forbid in shadow that matches, one that errors, one that does not match.
    let set = with(&format!(
        "{ALL}@id(\"z\") @s forbid(principal, action, resource);
        @id(\"e\") @s forbid(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};
        @id(\"n\") @s forbid(principal is Plaintext, action, resource);"
    ));
    let decision = ask.of(&set);
    assert_eq!((decision.verdict, decision.errors), (Verdict::Allow, 0));
    assert_eq!(
        (ids(&decision.rules), ids(&decision.shadow)),
        (vec!["all"], vec!["z"])
    );
    let set = with(&format!(
        "{ALL}@id(\"e\") @s forbid(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    assert_eq!(ids(&ask.of(&set).shadow), ["e"]);
    // A permit in shadow permits nothing, and says that it would; not against a forbid.
    let set = with("@id(\"p\") @s permit(principal, action, resource);");
    let decision = ask.of(&set);
    assert_eq!(
        (decision.verdict, decision.reason, ids(&decision.shadow)),
        (Verdict::Deny, Reason::NoRule, vec!["p"])
    );
    assert_eq!(decision.needs, None, "a shadow rule is nothing to ask for");
    let set = with(
        "@id(\"p\") @s permit(principal, action, resource); @id(\"f\") forbid(principal, action, resource);",
    );
    assert!(ask.of(&set).shadow.is_empty());
    let set = with(
        "@id(\"p\") @s permit(principal, action, resource); @id(\"f\") @s forbid(principal, action, resource);",
    );
    assert!(ask.of(&set).shadow.is_empty());
    // Facts that only a shadow rule reads cannot deny.
    let mut odd = user("alice", &[]);
    odd.claims.push(("level".to_owned(), ClaimValue::Bool(true)));
    let set = with(&format!(
        "{ALL}@id(\"e\") @s forbid(principal, action in Action::\"http\", resource) when {{ {OVERFLOW} }};"
    ));
    assert_eq!(
        Ask::new(WEB, "GET", "/").user(odd).of(&set).verdict,
        Verdict::Allow
    );
}

#[test]
fn a_denial_tells_what_it_would_have_taken() {
    let set = loaded(
        r#"@id("a") @reason("only for clerks") permit(principal, action in Action::"read", resource)
           when { context has user && context.user in Role::"corp|clerk" };
           @id("b") permit(principal, action == Action::"shop/orders#getOrder", resource)
           when { context.tls } // a comment; with "quotes"
           unless { context.host == "a//b" };
           @id("c") permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
                           action == Action::"connect", resource);"#,
    );
    let needs = |ask: Ask| ask.of(&set).needs.map(|n| (n.rule.to_string(), n.text));
    let pair = |rule: &str, text: &str| Some((rule.to_owned(), text.to_owned()));
    assert_eq!(
        needs(Ask::new(WEB, "GET", "/x").user(user("bob", &[]))),
        pair("a", "only for clerks")
    );
    assert_eq!(needs(Ask::new(WEB, "PUT", "/x")), None);
    assert_eq!(
        needs(Ask::connect(WEB)),
        pair(
            "c",
            "permit(principal == Workload::\"spiffe://mesh.local/ns/shop/sa/orders\", action == Action::\"connect\", resource)"
        )
    );
    let plain = Ask::new("", "GET", "/tenants/t/orders/1");
    let decision = plain.of(&set);
    assert!(decision.user_would_help, "the clerks' rule fits all but the user");
    assert_eq!(decision.reason, Reason::UserRequired);
    assert_eq!(needs(plain.user(user("bob", &[]))), pair("a", "only for clerks"));
    let long = format!(
        "@id(\"l\") permit(principal, action in Action::\"http\", resource) when {{ [{}].contains(context.host) }};",
        "\"host\", ".repeat(99)
    );
    let decision = Ask::new(WEB, "GET", "/").of(&loaded(&long));
    assert_eq!(decision.needs.unwrap().text.chars().count(), 300);
}

#[test]
fn a_user_is_asked_for_only_where_one_would_help() {
    let set = loaded(
        r#"@id("a") permit(principal in Group::"frontend", action in Action::"read", resource) when { context has user };
           @id("f") forbid(principal, action in Action::"http", resource) when { context.path == "/closed" };"#,
    );
    let ask = |peer: &str, method: &str, path: &str| Ask::new(peer, method, path).of(&set);
    assert_eq!(ask(WEB, "GET", "/").reason, Reason::UserRequired);
    assert_eq!(
        ask(ORDERS, "GET", "/").reason,
        Reason::NoRule,
        "another peer: no user would help"
    );
    assert_eq!(ask(WEB, "PUT", "/").reason, Reason::NoRule);
    assert_eq!(ask(WEB, "GET", "/closed").reason, Reason::Forbidden);
    assert!(!ask(WEB, "GET", "/closed").user_would_help);
    assert_eq!(
        Ask::new(WEB, "GET", "/").user(user("x", &[])).of(&set).verdict,
        Verdict::Allow
    );
}

#[test]
fn a_scope_is_asked_for_where_nothing_else_is_missing() {
    let set = loaded(
        r#"@id("a") permit(principal, action in Action::"http", resource)
           when { context has user && context.path == "/any" && context.user.scope.containsAny(["x", "y"]) };
           @id("b") permit(principal in Group::"frontend", action in Action::"read", resource)
           when { context has user && context.user.scope.containsAll(["orders:read", "z"]) && context.path == "/all" };
           @id("c") permit(principal, action in Action::"http", resource)
           when { context has user } when { context.path == "/open" };
           @id("d") permit(principal, action in Action::"http", resource)
           when { context has user && context.path == "/one" && context.user.scope.contains("w")
                  && context.user in Role::"corp|clerk" };"#,
    );
    let asked = |peer: &str, path: &str, user: Option<User>| {
        let mut ask = Ask::new(peer, "GET", path);
        ask.user = user;
        let decision = ask.of(&set);
        assert!(decision.scopes.is_empty() || decision.reason == Reason::NoRule);
        let rule = decision.needs.map(|needs| needs.rule.to_string());
        (ids(&decision.scopes).join(" "), rule.unwrap_or_default())
    };
    let bob = || Some(user("bob", &[]));
    let clerk = || Some(user("clara", &["clerk"]));
    let pair = |scopes: &str, rule: &str| (scopes.to_owned(), rule.to_owned());
    assert_eq!(asked(WEB, "/any", bob()), pair("x", "a"));
    assert_eq!(asked(WEB, "/all", bob()), pair("orders:read z", "b"));
    assert_eq!(asked(ORDERS, "/all", bob()), pair("", "b"), "another peer");
    assert_eq!(asked(WEB, "/one", clerk()), pair("w", "d"));
    assert_eq!(asked(WEB, "/one", bob()).0, "", "the role is missing, too");
    assert_eq!(asked(WEB, "/one", None).0, "", "there is no token");
    assert_eq!(asked(WEB, "/open", bob()), pair("", ""), "allowed");
    let mut y = user("eve", &[]);
    y.scope = vec!["y".to_owned()];
    assert_eq!(asked(WEB, "/any", Some(y)), pair("", ""), "allowed");
    let odd = loaded(
        r#"@id("a") permit(principal, action in Action::"http", resource)
           when { context has user && context.user.scope.contains("two words") };"#,
    );
    let decision = Ask::new(WEB, "GET", "/").user(user("bob", &[])).of(&odd);
    assert!(decision.scopes.is_empty(), "no scope is called that");
}

#[test]
fn the_nearest_permit_lacks_nothing_but_the_user() {
    let set = loaded(
        r#"@id("a") permit(principal, action in Action::"http", resource)
           when { context.path == "/a" && context has user && context.user in Role::"corp|clerk" };
           @id("b") permit(principal, action in Action::"http", resource)
           when { context has user } when { context.user in Role::"corp|admin" && context.path == "/b" }
           unless { context.user.sub == "mallory" } unless { context.host == "closed" };
           @id("c") permit(principal, action in Action::"http", resource)
           when { context.path == "/c" && (context.tls || context has user) };
           @id("d") permit(principal, action in Action::"http", resource)
           when { context.path == "/d" && context.port * 9223372036854775807 > 1 && context has user };"#,
    );
    let asked = |path: &str, user: Option<User>| {
        let mut ask = Ask::new(WEB, "GET", path);
        ask.user = user;
        let decision = ask.of(&set);
        (
            decision.reason,
            decision.user_would_help,
            decision.needs.unwrap().rule.to_string(),
        )
    };
    let bob = || Some(user("bob", &[]));
    assert_eq!(asked("/a", None), (Reason::UserRequired, true, "a".to_owned()));
    assert_eq!(asked("/b", None), (Reason::UserRequired, true, "b".to_owned()));
    assert_eq!(asked("/b", bob()), (Reason::NoRule, false, "b".to_owned()));
    assert_eq!(
        asked("/other", None),
        (Reason::NoRule, false, "c".to_owned()),
        "no user opens this path, and `c` asks for nothing but another"
    );
    assert_eq!(asked("/other", bob()), (Reason::NoRule, false, "c".to_owned()));
    assert_eq!(
        asked("/d", None),
        (Reason::NoRule, false, "d".to_owned()),
        "a permit that errors helps nobody, and is still the one for this path"
    );
    let mut plain = Ask::new("", "GET", "/c");
    plain.peer = None;
    assert_eq!(plain.of(&set).reason, Reason::UserRequired);
}

#[test]
fn audit_follows_the_rules_that_decided() {
    let set = loaded(
        r#"@id("a") @audit("deny") permit(principal, action in Action::"read", resource);
           @id("b") @audit("always") permit(principal, action in Action::"write", resource);
           @id("c") @audit("deny") forbid(principal is Plaintext, action in Action::"write", resource);"#,
    );
    assert!(!Ask::new(WEB, "GET", "/").of(&set).audit);
    assert!(Ask::new(WEB, "PUT", "/").of(&set).audit);
    assert!(Ask::new("", "PUT", "/").of(&set).audit);
}

/// Every field of a user changed, one at a time.
fn changed(of: &User) -> Vec<User> {
    let with = |change: fn(&mut User)| {
        let mut user = of.clone();
        change(&mut user);
        user
    };
    vec![
        with(|u| u.alias = "other".to_owned()),
        with(|u| u.issuer.push('x')),
        with(|u| u.subject.push('x')),
        with(|u| u.audience.clear()),
        with(|u| u.scope.clear()),
        with(|u| u.roles.clear()),
        with(|u| u.azp = None),
        with(|u| u.acr = Some("1".to_owned())),
        with(|u| u.amr = vec!["pwd".to_owned()]),
        with(|u| u.auth_time = Some(0)),
        with(|u| u.exp = 1),
        with(|u| u.claims = vec![("tenant".to_owned(), ClaimValue::String("t2".to_owned()))]),
        with(|u| u.claims.clear()),
    ]
}

#[test]
fn each_field_of_the_user_counts_also_once_the_user_is_known() {
    let set = loaded(
        r#"@id("all") permit(principal, action in Action::"http", resource) when { context has user
           && context.user == User::"corp|alice" && context.user in Role::"corp|clerk"
           && context.user.issuer == "https://idp.demo" && context.user.sub == "alice"
           && context.user.aud.contains("shop") && context.user.scope.contains("orders:read")
           && context.user has azp && context.user.azp == "web" && context.user has acr && context.user.acr == "2"
           && context.user.amr.contains("otp") && context.user has auth_time
           && context.user.auth_time > datetime("2026-01-01") && context.user.exp > context.now
           && context.user.claims has tenant && context.user.claims.tenant == "t1" };"#,
    );
    let mut alice = user("alice", &["clerk"]);
    alice.azp = Some("web".to_owned());
    alice.acr = Some("2".to_owned());
    alice.amr = vec!["otp".to_owned()];
    alice.auth_time = Some(1_794_999_000);
    let verdict = |user: &User| Ask::new(WEB, "GET", "/").user(user.clone()).of(&set).verdict;
    for _ in 0..2 {
        assert_eq!(verdict(&alice), Verdict::Allow);
        for other in changed(&alice) {
            assert_eq!(verdict(&other), Verdict::Deny, "{other:?}");
            assert_eq!(verdict(&alice), Verdict::Allow);
        }
    }
}

#[test]
fn kept_slices_change_nothing() {
    let set = loaded(&format!(
        "{ALL}@id(\"f\") forbid(principal in Group::\"frontend\", action in Action::\"write\", resource);"
    ));
    let fresh = || {
        loaded(&format!(
            "{ALL}@id(\"f\") forbid(principal in Group::\"frontend\", action in Action::\"write\", resource);"
        ))
    };
    let asks = [
        Ask::new(WEB, "PUT", "/"),
        Ask::new(WEB, "GET", "/"),
        Ask::new(ORDERS, "PUT", "/"),
        Ask::new("", "PUT", "/"),
        Ask::connect(WEB),
    ];
    for _ in 0..3 {
        for ask in &asks {
            assert_eq!(ask.of(&set), ask.of(&fresh()));
        }
    }
    // More peers than are kept.
    for at in 0..4200 {
        let peer = format!("spiffe://mesh.local/ns/shop/sa/w{at}");
        assert_eq!(Ask::new(&peer, "PUT", "/").of(&set).verdict, Verdict::Allow);
    }
    assert_eq!(Ask::new(BFF, "PUT", "/").of(&set).verdict, Verdict::Deny);
}

/// A permit that asks for both identities, in several spellings.
const BOTH: [&str; 4] = [
    r#"permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource)
       when { context has user && context.user in Role::"corp|clerk" }"#,
    r#"permit(principal in Group::"frontend", action in Action::"read", resource == Service::"shop/orders")
       when { context has user && context.user == User::"corp|alice" }"#,
    r#"permit(principal in Group::"frontend", action == Action::"shop/orders#getOrder", resource)
       when { context has user && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant }"#,
    r#"permit(principal, action in Action::"http", resource in Namespace::"shop")
       when { principal in Group::"frontend" && context has user && context.user.scope.contains("orders:read") && context.user.issuer == "https://idp.demo" }"#,
];

#[test]
fn a_missing_half_never_passes() {
    for (at, text) in BOTH.iter().enumerate() {
        let set = loaded(&format!("@id(\"both\") {text};"));
        let whole = Ask::new(WEB, "GET", "/tenants/t1/orders/7").user(user("alice", &["clerk"]));
        assert_eq!(whole.of(&set).verdict, Verdict::Allow, "{at}");
        let mut no_user = whole.clone();
        no_user.user = None;
        let decision = no_user.of(&set);
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Deny, Reason::UserRequired),
            "{at}"
        );
        for peer in [
            "",
            ORDERS,
            "spiffe://partner.example/ns/shop/sa/web",
            "spiffe://mesh.local/ns/shop/sa/web/x",
        ] {
            let mut other = whole.clone();
            other.peer = (!peer.is_empty()).then(|| id(peer));
            assert_eq!(other.of(&set).verdict, Verdict::Deny, "{at} {peer}");
        }
        // Each part of the user changed must turn what the policy depends on (Consul's CVE-2023-3518).
        let mut stranger = user("mallory", &[]);
        stranger.claims.clear();
        stranger.scope.clear();
        assert_eq!(
            whole.clone().user(stranger).of(&set).verdict,
            Verdict::Deny,
            "{at}"
        );
        let mut other_issuer = user("alice", &["clerk"]);
        other_issuer.alias = "other".to_owned();
        other_issuer.issuer = "https://other".to_owned();
        other_issuer.claims = vec![("tenant".to_owned(), ClaimValue::String("t2".to_owned()))];
        assert_eq!(
            whole.clone().user(other_issuer).of(&set).verdict,
            Verdict::Deny,
            "{at}"
        );
    }
}

fn any_ask() -> impl Strategy<Value = Ask> {
    differential::asks()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn adding_a_forbid_never_allows(
        base in differential::sets(1..6),
        added in differential::forbids(),
        asks in prop::collection::vec(any_ask(), 1..12),
    ) {
        let set = |text: &str| load(&mesh(), &file(text), "shop/orders").map_err(|p| TestCaseError::fail(shown(&p)));
        let (before, after) = (set(&base)?, set(&format!("{base}\n{added}"))?);
        for ask in asks {
            if ask.of(&before).verdict == Verdict::Deny {
                prop_assert_eq!(ask.of(&after).verdict, Verdict::Deny);
            }
        }
    }

    #[test]
    fn an_error_never_allows(
        base in differential::sets(0..6),
        asks in prop::collection::vec(any_ask(), 1..12),
    ) {
        // Overflows whenever it is evaluated.
        let added = |effect: &str| format!("{base}\n@id(\"zz\") {effect}(principal, action, resource) when {{ context.port * 9223372036854775807 > 5 }};");
        let set = |text: &str| load(&mesh(), &file(text), "shop/orders").map_err(|p| TestCaseError::fail(shown(&p)));
        let (before, forbid, permit) = (set(&base)?, set(&added("forbid"))?, set(&added("permit"))?);
        for ask in asks {
            let was = ask.of(&before);
            let is = ask.of(&forbid);
            prop_assert_eq!(is.verdict, Verdict::Deny);
            prop_assert!(is.errors > was.errors);
            let is = ask.of(&permit);
            prop_assert_eq!((is.verdict, &is.rules), (was.verdict, &was.rules));
            prop_assert!(is.errors > was.errors || was.reason == Reason::PolicyError);
        }
    }
}

#[test]
fn who_acts_for_a_user_is_decided_on_beside_the_user() {
    let set = loaded(
        "@id(\"bot-acts\") permit(principal, action in Action::\"read\", resource)\n\
         when { context has user && context has actor && context.actor == User::\"corp|bot\" };\n\
         @id(\"clerks-write\") permit(principal, action in Action::\"write\", resource)\n\
         when { context has user && context.user in Role::\"corp|clerk\" };\n\
         @id(\"nobody-writes-for-others\") forbid(principal, action in Action::\"write\", resource)\n\
         when { context has actor && !(context.actor in Role::\"corp|clerk\") };",
    );
    let acted = |actor: Option<&str>| User {
        actor: actor.map(str::to_owned),
        ..user("alice", &["clerk"])
    };
    let decided = |method: &str, user: User| Ask::new(WEB, method, "/x").user(user).of(&set);
    assert_eq!(decided("GET", acted(Some("bot"))).verdict, Verdict::Allow);
    assert_eq!(decided("GET", acted(Some("other"))).verdict, Verdict::Deny);
    assert_eq!(decided("GET", acted(None)).verdict, Verdict::Deny);
    assert_eq!(decided("POST", acted(None)).verdict, Verdict::Allow);
    // The user's roles are not the actor's, and alice who acts for alice is alice.
    assert_eq!(decided("POST", acted(Some("bot"))).reason, Reason::Forbidden);
    assert_eq!(decided("POST", acted(Some("alice"))).verdict, Verdict::Allow);
    let nobody = Ask::new(WEB, "GET", "/x").of(&set);
    assert!(nobody.user_would_help && nobody.reason == Reason::UserRequired);
}

#[test]
fn the_route_that_is_asked_for_is_the_one_that_is_decided_on() {
    let set = loaded(ALL);
    for (method, path) in [
        ("GET", "/tenants/t/orders/7"),
        ("GET", "/tenants/t/orders/7/"),
        ("GET", "/tenants//orders/7"),
        ("POST", "/tenants/t/orders"),
        ("GET", "/tenants/t/orders"),
        ("DELETE", "/items/%c3%a9"),
        ("HEAD", "/items/7"),
        ("PURGE", "/cache"),
        ("GET", "*"),
    ] {
        let decision = Ask::new(WEB, method, path).of(&set);
        assert_eq!(set.route_of(method, path), decision.route, "{method} {path}");
    }
    assert!(set.route_of("GET", "/tenants/t/orders/7").is_some());
    assert_eq!(Policies::deny_all().route_of("GET", "/tenants/t/orders/7"), None);
}
