//! Explanations say what was decided, clause by clause, and inputs suffice to decide again.

use proptest::prelude::*;

use super::differential::{asks, sets};
use super::*;

/// A permit for everyone with these clauses.
fn permit(clauses: &str) -> String {
    format!(
        "@id(\"x\") permit(principal, action in Action::\"http\", resource == Service::\"shop/orders\") {clauses};"
    )
}

fn explained(text: &str, ask: &Ask) -> Explanation {
    let set = loaded(text);
    let inputs = ask.with(|facts| set.inputs(facts)).unwrap();
    let explained = set.explain(&inputs, None).unwrap();
    assert_eq!(
        explained.verdict == "allow",
        ask.of(&set).verdict == Verdict::Allow
    );
    explained
}

/// What the nearest permit needs.
fn needs(clauses: &str, ask: &Ask) -> Vec<String> {
    explained(&permit(clauses), ask)
        .nearest
        .expect("a near miss")
        .needs
}

fn get() -> Ask {
    Ask::new(WEB, "GET", "/tenants/t2/orders/7").user(user("alice", &["reader"]))
}

#[test]
fn each_kind_of_clause_says_what_it_needs_and_what_was_there() {
    let claims = "context has user && context.user.claims has";
    let table: &[(&str, &str)] = &[
        (
            "context.user in Role::\"corp|clerk\"",
            "needs role clerk of corp; has reader",
        ),
        (
            "context.user in [Role::\"corp|clerk\", Role::\"corp|admin\"]",
            "needs one of the roles clerk of corp, admin of corp; has reader",
        ),
        (
            "context.user in Role::\"other|clerk\"",
            "needs role clerk of other; has reader of corp",
        ),
        (
            "context.user.scope.contains(\"orders:delete\")",
            "needs scope orders:delete; has orders:read, orders:write",
        ),
        (
            "context.user.scope.containsAny([\"a\", \"b\"])",
            "needs one of scope a, b; has orders:read, orders:write",
        ),
        (
            "context.user.scope.containsAll([\"a\", \"orders:read\"])",
            "needs all of scope a, orders:read; has orders:read, orders:write",
        ),
        (
            "context.user.aud.contains(\"ledger\")",
            "needs audience ledger; has shop",
        ),
        (
            "context.user.amr.contains(\"otp\")",
            "needs authentication method otp; has none",
        ),
        (
            "context.user.sub == \"bob\"",
            "needs sub == \"bob\"; has \"alice\"",
        ),
        ("context.user has acr", "needs acr; the token has none"),
        (
            "context.user.claims has level",
            "needs claim level; the token has none of that type",
        ),
        (
            "context.path == \"/healthz\"",
            "needs path == \"/healthz\"; has \"/tenants/t2/orders/7\"",
        ),
        ("context.path like \"/items/*\"", "has \"/tenants/t2/orders/7\""),
        (
            "context.host != \"orders.shop\"",
            "needs host != \"orders.shop\"; has \"orders.shop\"",
        ),
        (
            "context.headers has x_region",
            "needs header x_region; it was not sent",
        ),
        ("context.port > 9000", "needs port > 9000; has 8080"),
        (
            "context.src_ip.isInRange(ip(\"192.0.2.0/24\"))",
            "source address is ip(\"10.1.2.3\")",
        ),
        ("context.now < datetime(\"2026-01-01\")", "needs time < "),
        ("!context.tls", "tls is true"),
        ("principal is Plaintext", "needs principal is Plaintext"),
        (
            "principal in Group::\"partners\"",
            "principal in Group::\"partners\"",
        ),
    ];
    for (condition, wanted) in table {
        let user = condition.contains("context.user");
        let guard = if user { "context has user && " } else { "" };
        let needs = needs(&format!("when {{ {guard}{condition} }}"), &get());
        assert_eq!(needs.len(), 1, "{condition}: {needs:?}");
        assert!(needs[0].contains(wanted), "{condition}: {needs:?}");
    }
    // A claim against a path parameter: the route is what gives it.
    let own_tenant = r#"@id("x") permit(principal, action == Action::"shop/orders#getOrder", resource)
        when { context has user && context.user.claims has tenant && context.user.claims.tenant == context.params.tenant };"#;
    let told = explained(own_tenant, &get());
    assert_eq!(
        told.nearest.unwrap().needs,
        ["needs claim tenant == \"t2\" (path parameter tenant); has \"t1\""]
    );
    assert_eq!(
        needs(
            &format!("when {{ {claims} vip && context.user.claims.vip }}"),
            &get()
        )
        .len(),
        1
    );
}

#[test]
fn what_stands_behind_a_failure_is_not_reached() {
    let mut nobody = get();
    nobody.user = None;
    let told = explained(
        &permit("when { context.tls && context has user && context.user in Role::\"corp|clerk\" }"),
        &nobody,
    );
    let judged = &told.considered[0];
    let states: Vec<State> = judged.clauses[0].parts.iter().map(|part| part.state).collect();
    assert_eq!(states, [State::True, State::False, State::NotReached]);
    assert_eq!(told.nearest.unwrap().needs, ["needs a user; there is none"]);
    assert_eq!(told.reason, "user_required");
    assert!(told.hint.contains("send a user's token"), "{}", told.hint);
}

#[test]
fn clauses_are_cut_as_cedar_reads_them() {
    let parts = |clauses: &str| {
        let told = explained(&permit(clauses), &get());
        let clauses = told.considered[0].clauses.iter();
        let all = clauses.flat_map(|clause| clause.parts.iter().map(|part| part.text.clone()));
        all.collect::<Vec<_>>()
    };
    assert_eq!(
        parts("when { context.port == 1 && context.tls }\n unless { context.port == 3 }"),
        ["context.port == 1", "context.tls", "context.port == 3"]
    );
    // Brackets around a chain are opened; an alternative stays whole; comments and strings cut nothing.
    assert_eq!(
        parts(
            "when { (context.port == 1 && (context.tls || context.port == 2)) // && context.host\n && context.path == \"a && b\" }"
        ),
        [
            "context.port == 1",
            "context.tls || context.port == 2",
            "context.path == \"a && b\""
        ]
    );
    assert_eq!(
        parts("when { context.port == 1 || context.tls && context.port == 2 }"),
        ["context.port == 1 || context.tls && context.port == 2"]
    );
    assert_eq!(
        parts("when { if context.tls then context.port == 1 && context.port == 2 else true }"),
        ["if context.tls then context.port == 1 && context.port == 2 else true"]
    );
    assert_eq!(
        parts("when { (context.port == 1) && !(context.tls && context.port == 2) }"),
        ["context.port == 1", "!(context.tls && context.port == 2)"]
    );
}

#[test]
fn an_unless_that_holds_is_in_the_way() {
    let needs = needs(
        "when { context.tls } unless { context.path == \"/tenants/t2/orders/7\" }",
        &get(),
    );
    assert_eq!(
        needs,
        ["needs that this does not hold: context.path == \"/tenants/t2/orders/7\""]
    );
}

#[test]
fn a_forbid_is_told_with_what_would_lift_it() {
    let text = permit("")
        + r#"
@id("eu-only") forbid(principal, action in Action::"http", resource)
unless { context.headers has x_region && context.headers.x_region == ["eu"] };
@id("closed") @reason("closed today") forbid(principal, action in Action::"write", resource);"#;
    let told = explained(&text, &get());
    assert_eq!(
        (told.reason.as_str(), told.rules.as_slice()),
        ("forbidden", &["eu-only".to_owned()][..])
    );
    assert_eq!(
        (told.considered[0].id.as_str(), told.considered[0].line),
        ("eu-only", 2)
    );
    assert!(told.nearest.is_none());
    for words in [
        "`eu-only` forbids it (a.cedar:2)",
        "needs header x_region; it was not sent",
    ] {
        assert!(told.hint.contains(words), "{}", told.hint);
    }
    let closed = Ask::new(WEB, "POST", "/x").header("x_region", &["eu"]);
    let hint = explained(&text, &closed).hint;
    assert!(
        hint.contains("closed today") && hint.contains("no permit helps"),
        "{hint}"
    );
}

#[test]
fn a_forbid_that_cannot_be_evaluated_says_so() {
    let text = permit("")
        + "\n@id(\"f\") forbid(principal, action, resource) when { context.port * 9223372036854775807 > 1 };";
    let told = explained(&text, &get());
    assert_eq!(told.reason, "policy_error");
    let part = &told.considered[0].clauses[0].parts[0];
    assert_eq!(part.state, State::Error);
    assert!(part.note.as_ref().unwrap().contains("overflow"), "{part:?}");
    assert!(
        told.hint.contains("`f` is a forbid that cannot be evaluated"),
        "{}",
        told.hint
    );
}

#[test]
fn the_nearest_is_the_one_that_lacks_least() {
    let text = r#"
@id("a-two") permit(principal, action in Action::"http", resource) when { context.port == 1 && context.host == "x" };
@id("b-one") permit(principal, action in Action::"http", resource) when { context.tls && context.host == "x" };
@id("c-one") permit(principal, action in Action::"http", resource) when { context.port == 1 };
@id("0-elsewhere") permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action in Action::"http", resource);
"#;
    let nearest = explained(text, &get()).nearest.unwrap();
    assert_eq!((nearest.rule.as_str(), nearest.scope_matched), ("b-one", true));
    assert_eq!(nearest.line, 3);
}

/// The record, the answer and the explanation name one permit: what a client could mend comes first, another caller after that,
/// another path last.
#[test]
fn one_ranking_for_all_who_ask() {
    const PATH: &str = "@id(\"a-path\") permit(principal, action in Action::\"http\", resource) when { context.path == \"/metrics\" };";
    const CLAUSE: &str = "@id(\"b-clause\") permit(principal, action in Action::\"http\", resource) when { principal in Group::\"partners\" };";
    const SCOPE: &str =
        "@id(\"c-caller\") permit(principal in Group::\"partners\", action in Action::\"http\", resource);";
    const FAR: &str =
        "@id(\"0-far\") permit(principal in Group::\"partners\", action in Action::\"http\", resource)
        when { context.path == \"/metrics\" };";
    const HEADERS: &str = "@id(\"d-two\") permit(principal, action in Action::\"http\", resource)
        when { context.headers has x_region && context.port == 1 };";
    const HEADER: &str = "@id(\"e-one\") permit(principal, action in Action::\"http\", resource)
        when { context.headers has x_region && context.headers.x_region.contains(\"eu\") };";
    const CLAIMS: &str = "@id(\"f-claims\") permit(principal, action in Action::\"http\", resource)
        when { context has user && context.user in Role::\"corp|clerk\" && context.user has acr };";
    const ROLE: &str = "@id(\"g-role\") permit(principal, action in Action::\"http\", resource)
        when { context has user && context.user in Role::\"corp|clerk\" };";
    const TOKEN_SCOPE: &str = "@id(\"h-scope\") permit(principal, action in Action::\"http\", resource)
        when { context has user && context.user.scope.containsAll([\"a\", \"b\", \"c\"]) };";
    // Each is nearer than all before it.
    let all = [
        FAR,
        PATH,
        SCOPE,
        CLAUSE,
        HEADERS,
        HEADER,
        CLAIMS,
        ROLE,
        TOKEN_SCOPE,
    ];
    let nearest = [
        "a-path", "a-path", "c-caller", "b-clause", "d-two", "e-one", "f-claims", "g-role", "h-scope",
    ];
    let ask = Ask::new(WEB, "GET", "/x").user(user("bob", &[]));
    for (count, nearest) in (1..).zip(nearest).skip(1) {
        let text: String = all.iter().take(count).copied().collect();
        let decision = ask.of(&loaded(&text));
        assert_eq!(&*decision.needs.unwrap().rule, nearest, "{text}");
        assert_eq!(decision.scopes.is_empty(), nearest != "h-scope");
        let told = explained(&text, &ask);
        assert_eq!(told.nearest.unwrap().rule, nearest, "{text}");
        assert!(told.hint.contains(nearest), "{}", told.hint);
    }
    // For the very path a permit of another caller is as near as a clause about the caller.
    let near = FAR.replace("/metrics", "/x");
    let told = explained(&format!("{near}{PATH}"), &ask).nearest.unwrap();
    assert_eq!((told.rule.as_str(), told.scope_matched), ("0-far", false));
    // Without a user what only a user lacks is nearest, and asks for one.
    let nobody = Ask::new(WEB, "GET", "/x");
    let decision = nobody.of(&loaded(&all.concat()));
    assert_eq!(
        (decision.reason, &*decision.needs.unwrap().rule),
        (Reason::UserRequired, "f-claims")
    );
    assert_eq!(
        explained(&all.concat(), &nobody).nearest.unwrap().rule,
        "f-claims"
    );
}

#[test]
fn a_scope_that_misses_says_which_part() {
    let text = r#"
@id("peer") permit(principal in Group::"partners", action in Action::"read", resource);
@id("service") permit(principal, action in Action::"read", resource == Service::"shop/payments");
@id("action") permit(principal, action in Action::"write", resource);
@id("two") permit(principal is Plaintext, action in Action::"write", resource);
"#;
    let told = explained(text, &get());
    let missed: Vec<(&str, Vec<&str>)> = told
        .missed
        .iter()
        .map(|miss| {
            (
                miss.id.as_str(),
                miss.parts.iter().map(|part| part.text.as_str()).collect(),
            )
        })
        .collect();
    assert_eq!(
        missed,
        [
            ("peer", vec!["principal in Group::\"partners\""]),
            ("service", vec!["resource == Service::\"shop/payments\""]),
            ("action", vec!["action in Action::\"write\""]),
            (
                "two",
                vec!["principal is Plaintext", "action in Action::\"write\""]
            ),
        ]
    );
    let nearest = told.nearest.unwrap();
    assert_eq!((nearest.rule.as_str(), nearest.scope_matched), ("peer", false));
    assert!(
        nearest.needs[0].contains("the peer is spiffe://mesh.local/ns/shop/sa/web, in frontend"),
        "{nearest:?}"
    );
    assert!(told.considered.is_empty());
}

#[test]
fn a_hidden_subject_is_in_no_word() {
    let set = loaded(&permit(
        "when { context has user && context.user.sub == \"bob\" && context.user == User::\"corp|bob\" }",
    ));
    let ask = get();
    let inputs = ask.with(|facts| set.inputs(facts)).unwrap();
    let told = serde_json::to_string(&set.explain(&inputs, Some("h1:00")).unwrap()).unwrap();
    assert!(!told.contains("alice") && told.contains("h1:00"), "{told}");
    let plain = serde_json::to_string(&set.explain(&inputs, None).unwrap()).unwrap();
    assert!(plain.contains("alice"), "{plain}");
    let logged = inputs.logged(Subject::Hash("h1:00"));
    let line = serde_json::to_string(&logged).unwrap();
    assert!(
        !line.contains("alice") && line.contains("\"hash\":\"h1:00\""),
        "{line}"
    );
    assert_eq!(logged.withheld, ["user.sub"]);
    let by_claim = loaded(&permit(
        "when { context has user && context.user.claims has tenant && context.user.claims.tenant == \"t9\" }",
    ));
    let mut named = get();
    named.user.as_mut().unwrap().claims = vec![("tenant".to_owned(), ClaimValue::String("alice".to_owned()))];
    let logged = named.of(&by_claim).inputs.unwrap().logged(Subject::Hash("h1:00"));
    assert_eq!(logged.withheld, ["claims.tenant"]);
    assert!(!serde_json::to_string(&logged).unwrap().contains("alice"));
    let hidden = serde_json::to_string(&inputs.logged(Subject::Hidden)).unwrap();
    assert!(
        !hidden.contains("alice") && hidden.contains("\"withheld\":[\"user\"]"),
        "{hidden}"
    );
}

#[test]
fn inputs_hold_what_is_read_and_nothing_else() {
    let set = loaded(
        r#"@id("x") permit(principal, action == Action::"shop/orders#getOrder", resource)
        when { context has user && context.user in Role::"corp|clerk" && context.params.tenant == "t1"
            && context.headers has x_region && context.user.claims has tenant };
        @id("y") permit(principal, action == Action::"GET", resource) when { context.path == "/metrics" };"#,
    );
    let mut ask = get().header("x_region", &["eu"]).header("x-tag", &["secret"]);
    let user = ask.user.as_mut().unwrap();
    user.claims.push(("level".to_owned(), ClaimValue::Long(7)));
    let inputs = ask
        .of(&set)
        .inputs
        .expect("a denial has them")
        .logged(Subject::Plain);
    let json = serde_json::to_value(&inputs).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "service": "shop/orders", "peer": WEB, "port": 8080, "tls": true, "src_ip": "10.1.2.3",
            "at": "2026-11-18T11:06:40Z", "method": "GET", "route": "shop/orders#getOrder",
            "params": {"tenant": "t2"}, "headers": {"x_region": ["eu"]},
            "user": {"iss": "corp", "sub": "alice", "roles": ["reader"], "claims": {"tenant": "t1"}},
        })
    );
    // Without a declared route the path is what was decided on.
    let other = Ask::new(WEB, "GET", "/other").of(&set).inputs.unwrap();
    let json = serde_json::to_value(other.logged(Subject::Plain)).unwrap();
    assert_eq!((&json["path"], json.get("user")), (&"/other".into(), None));
    let back: Inputs = serde_json::from_value(json).unwrap();
    assert_eq!(set.replay(&back).unwrap().reason, Reason::NoRule);
}

#[test]
fn allowed_decisions_leave_inputs_only_where_a_policy_asks() {
    let ask = Ask::new(WEB, "GET", "/");
    assert!(ask.of(&loaded(&permit(""))).inputs.is_none());
    let audited = permit("").replace("@id(\"x\")", "@id(\"x\") @audit(\"always\")");
    assert!(ask.of(&loaded(&audited)).inputs.is_some());
}

#[test]
fn values_that_are_too_long_are_withheld() {
    let set = loaded(&permit(
        "when { context.headers has x_region && context has user && context.user.scope.contains(\"x\") }",
    ));
    let long = "x".repeat(600);
    let mut ask = get().header("x_region", &[&long]);
    ask.user.as_mut().unwrap().scope = (0..100).map(|n| n.to_string()).collect();
    let logged = ask.of(&set).inputs.unwrap().logged(Subject::Plain);
    assert_eq!(logged.withheld, ["headers.x_region", "user.scope"]);
    assert!(serde_json::to_string(&logged).unwrap().len() < 600);
}

#[test]
fn inputs_of_others_are_not_decided_on() {
    let set = loaded(&permit(""));
    let mut inputs = get().with(|facts| set.inputs(facts)).unwrap();
    inputs.service = "shop/payments".into();
    assert!(matches!(set.replay(&inputs), Err(ReplayError::Service { .. })));
    inputs.service = "shop/orders".into();
    let request = inputs.request.as_mut().unwrap();
    (request.path, request.route) = (None, Some("shop/orders#gone".into()));
    assert_eq!(
        set.explain(&inputs, None),
        Err(ReplayError::Route("shop/orders#gone".to_owned()))
    );
    assert_eq!(Policies::deny_all().replay(&inputs), Err(ReplayError::NoPolicies));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn explanations_agree_with_decisions(text in sets(3..12), ask in asks()) {
        let set = loaded(&text);
        let decision = ask.of(&set);
        let inputs = ask.with(|facts| set.inputs(facts)).unwrap();
        let told = set.explain(&inputs, None).unwrap();
        prop_assert_eq!(told.verdict == "allow", decision.verdict == Verdict::Allow);
        prop_assert_eq!(told.reason.as_str(), decision.reason.label());
        prop_assert_eq!(told.rules.iter().map(String::as_str).collect::<Vec<_>>(), ids(&decision.rules));
        for judged in told.considered.iter().filter(|judged| !judged.shadow) {
            let made_it = told.rules.contains(&judged.id);
            match decision.reason {
                Reason::Allowed if judged.effect == Effect::Permit => prop_assert_eq!(judged.state == State::True, made_it),
                Reason::Forbidden if judged.effect == Effect::Forbid => prop_assert_eq!(judged.state == State::True, made_it),
                Reason::PolicyError if judged.effect == Effect::Forbid => prop_assert_eq!(judged.state == State::Error, made_it),
                Reason::NoRule | Reason::UserRequired => prop_assert!(judged.state != State::True),
                _ => {}
            }
        }
        if let Some(needs) = &decision.needs {
            let nearest = told.nearest.as_ref().map(|nearest| nearest.rule.as_str());
            prop_assert_eq!(nearest, Some(&*needs.rule), "one ranking for the record and for people");
        }
        if let Some(nearest) = &told.nearest {
            prop_assert!(!nearest.needs.is_empty(), "{:?}", told);
            if decision.reason == Reason::UserRequired {
                prop_assert!(nearest.scope_matched && nearest.needs.iter().any(|need| need.contains("user")), "{:?}", told);
            }
        }
    }

    #[test]
    fn what_is_recorded_suffices_to_decide_again(text in sets(3..12), ask in asks(), mode in 0..3_u8) {
        let set = loaded(&text);
        let decision = ask.of(&set);
        let inputs = ask.with(|facts| set.inputs(facts)).unwrap();
        let subject = match mode {
            0 => Subject::Plain,
            1 => Subject::Hash("h1:0011223344556677"),
            _ => Subject::Hidden,
        };
        let line = serde_json::to_string(&inputs.logged(subject)).unwrap();
        let back: Inputs = serde_json::from_str(&line).unwrap();
        let again = set.replay(&back).unwrap();
        if back.withheld.is_empty() {
            let of = |decision: &Decision| (
                decision.verdict, decision.reason, decision.rules.clone(), decision.errors, decision.shadow.clone(),
                decision.needs.clone(), decision.route.clone(), decision.user_would_help,
            );
            prop_assert_eq!(of(&again), of(&decision), "{}", line);
        } else {
            prop_assert!(subject != Subject::Plain, "{}", line);
        }
    }
}
