//! What binds a token, and whom it then counts for.

use std::sync::LazyLock;

use super::*;

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://mesh.local/ns/shop/sa/orders";
const CERTIFICATE: [u8; 32] = [7; 32];
const KEY: Thumbprint = Thumbprint([9; 32]);

fn object(text: &str) -> JsonObject {
    match Json::parse(text.as_bytes()) {
        Ok(Json::Object(object)) => object,
        other => panic!("{other:?}"),
    }
}

fn binding(claims: &str) -> Result<Binding, TokenError> {
    Binding::read(
        &object(claims),
        &["https://idp.example/caller".into(), "x.y".into()],
    )
}

fn caller(claim: Option<&str>) -> Demand {
    Demand {
        caller: true,
        caller_claim: claim.map(ClaimPath::from),
        ..Demand::default()
    }
}

/// `ok`, or the reason.
fn checked(claims: &str, demands: [&Demand; 2], sender: Sender<'_>) -> &'static str {
    let demands = Demands {
        port: demands[0],
        routes: &demands[1..],
    };
    match binding(claims).unwrap().check(demands, sender) {
        Ok(()) => "ok",
        Err(refusal) => refusal.label(),
    }
}

static IDS: LazyLock<[SpiffeId; 2]> = LazyLock::new(|| [WEB, ORDERS].map(|id| SpiffeId::new(id).unwrap()));

fn web() -> Sender<'static> {
    Sender {
        id: Some(&IDS[0]),
        certificate: Some(&CERTIFICATE),
        key: None,
    }
}

const PLAINTEXT: Sender<'static> = Sender {
    id: None,
    certificate: None,
    key: None,
};

const NO: &str = "not_bound_to_caller";

/// Claims, the claim that is configured, and what comes of it for web and for orders.
fn each(cases: &[(String, Option<&str>, &str, &str)]) {
    let nothing = Demand::default();
    let orders = Sender {
        id: Some(&IDS[1]),
        ..web()
    };
    for (claims, claim, for_web, for_orders) in cases {
        let demand = caller(*claim);
        assert_eq!(checked(claims, [&demand, &nothing], web()), *for_web, "{claims}");
        assert_eq!(
            checked(claims, [&nothing, &demand], orders),
            *for_orders,
            "{claims}"
        );
        assert_eq!(checked(claims, [&demand, &nothing], PLAINTEXT), NO, "{claims}");
        assert_eq!(checked(claims, [&nothing, &nothing], PLAINTEXT), "ok", "{claims}");
    }
}

#[test]
fn a_token_counts_for_the_workload_that_it_names() {
    each(&[
        (format!(r#"{{"azp":"{WEB}"}}"#), None, "ok", NO),
        (format!(r#"{{"client_id":"{WEB}"}}"#), None, "ok", NO),
        (format!(r#"{{"azp":"app","client_id":"{WEB}"}}"#), None, "ok", NO),
        (format!(r#"{{"act":{{"sub":"{WEB}"}}}}"#), None, "ok", NO),
        // Exchanged by orders: web, for which it was issued first, cannot use it any more.
        (
            format!(r#"{{"azp":"{WEB}","act":{{"sub":"{ORDERS}"}}}}"#),
            None,
            NO,
            "ok",
        ),
        // A person acts, by way of web.
        (
            format!(r#"{{"azp":"{WEB}","act":{{"sub":"helpdesk"}}}}"#),
            None,
            "ok",
            NO,
        ),
        // Who acted before does not present it.
        (
            format!(r#"{{"act":{{"sub":"{ORDERS}","act":{{"sub":"{WEB}"}}}}}}"#),
            None,
            NO,
            "ok",
        ),
        ("{}".to_owned(), None, NO, NO),
        (format!(r#"{{"azp":"{WEB}/"}}"#), None, NO, NO),
        (format!(r#"{{"azp":["{WEB}"]}}"#), None, NO, NO),
        (
            r#"{"azp":"spiffe://mesh.local/ns/shop/sa/WEB"}"#.to_owned(),
            None,
            NO,
            NO,
        ),
        (r#"{"azp":""}"#.to_owned(), None, NO, NO),
        (format!(r#"{{"sub":"{WEB}"}}"#), None, NO, NO),
    ]);
}

#[test]
fn where_a_claim_is_configured_it_alone_names_the_caller() {
    let url = "https://idp.example/caller";
    each(&[
        (format!(r#"{{"{url}":"{WEB}"}}"#), Some(url), "ok", NO),
        (
            format!(r#"{{"x":{{"y":["{ORDERS}","{WEB}"]}}}}"#),
            Some("x.y"),
            "ok",
            "ok",
        ),
        (format!(r#"{{"azp":"{WEB}"}}"#), Some("x.y"), NO, NO),
        (format!(r#"{{"z":"{WEB}"}}"#), Some("z"), NO, NO),
    ]);
}

#[test]
fn what_port_and_route_demand_must_both_hold() {
    let claims = format!(r#"{{"azp":"{WEB}","x":{{"y":"{ORDERS}"}}}}"#);
    let (port, route) = (caller(None), caller(Some("x.y")));
    assert_eq!(checked(&claims, [&port, &port], web()), "ok");
    assert_eq!(checked(&claims, [&port, &route], web()), "not_bound_to_caller");
    let strict = Demand {
        dpop: Dpop::Require,
        ..Demand::default()
    };
    let lax = Demand {
        dpop: Dpop::Accept,
        ..Demand::default()
    };
    for (a, b) in [(&strict, &lax), (&lax, &strict)] {
        assert_eq!(checked("{}", [a, b], web()), "dpop_required");
    }
}

fn base64(bytes: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_certificate_that_is_named_is_always_demanded() {
    let (nothing, demand) = (
        Demand::default(),
        Demand {
            certificate: true,
            ..Demand::default()
        },
    );
    let no = "not_bound_to_certificate";
    let (own, other) = (base64(CERTIFICATE), base64([8; 32]));
    for (claims, for_web, where_demanded) in [
        (format!(r#"{{"cnf":{{"x5t#S256":"{own}"}}}}"#), "ok", "ok"),
        (format!(r#"{{"cnf":{{"x5t#S256":"{other}"}}}}"#), no, no),
        ("{}".to_owned(), "ok", no),
    ] {
        assert_eq!(checked(&claims, [&nothing, &nothing], web()), for_web, "{claims}");
        assert_eq!(
            checked(&claims, [&demand, &nothing], web()),
            where_demanded,
            "{claims}"
        );
        assert_eq!(checked(&claims, [&nothing, &demand], PLAINTEXT), no, "{claims}");
    }
    let claims = format!(r#"{{"cnf":{{"x5t#S256":"{own}"}}}}"#);
    assert_eq!(checked(&claims, [&nothing, &nothing], PLAINTEXT), no);
}

#[test]
fn a_key_that_is_named_is_always_demanded() {
    let demand = |dpop| Demand {
        dpop,
        ..Demand::default()
    };
    let bound = format!(r#"{{"cnf":{{"jkt":"{}"}}}}"#, base64(KEY.0));
    let shown = |key| Sender { key, ..web() };
    let other = Thumbprint([1; 32]);
    for (dpop, claims, key, expected) in [
        (Dpop::Off, bound.as_str(), None, "dpop_required"),
        (Dpop::Off, bound.as_str(), Some(KEY), "dpop_not_accepted"),
        (Dpop::Off, "{}", Some(KEY), "dpop_not_accepted"),
        (Dpop::Off, "{}", None, "ok"),
        (Dpop::Accept, bound.as_str(), None, "dpop_required"),
        (Dpop::Accept, bound.as_str(), Some(KEY), "ok"),
        (Dpop::Accept, bound.as_str(), Some(other), "wrong_key"),
        (Dpop::Accept, "{}", Some(KEY), "not_bound_to_key"),
        (Dpop::Accept, "{}", None, "ok"),
        (Dpop::Require, "{}", None, "dpop_required"),
        (Dpop::Require, bound.as_str(), Some(KEY), "ok"),
        (Dpop::Require, bound.as_str(), Some(other), "wrong_key"),
    ] {
        let place = demand(dpop);
        let nothing = Demand::default();
        assert_eq!(
            checked(claims, [&place, &nothing], shown(key)),
            expected,
            "{dpop:?} {claims}"
        );
    }
}

#[test]
fn a_lock_that_is_not_understood_stays_shut() {
    let good = base64(KEY.0);
    for cnf in [
        "null".to_owned(),
        "{}".to_owned(),
        "\"x\"".to_owned(),
        r#"{"kid":"one"}"#.to_owned(),
        r#"{"jwk":{"kty":"EC"}}"#.to_owned(),
        r#"{"x5t#S512":"AAAA"}"#.to_owned(),
        format!(r#"{{"jkt":"{good}","kid":"one"}}"#),
        format!(r#"{{"jkt":"{good}="}}"#),
        format!(r#"{{"jkt":"{}"}}"#, URL_SAFE_NO_PAD.encode([9; 31])),
        r#"{"jkt":7}"#.to_owned(),
        r#"{"x5t#S256":""}"#.to_owned(),
        format!(r#"{{"x5t#S256":"{}"}}"#, hex::encode(CERTIFICATE)),
    ] {
        let refused = binding(&format!(r#"{{"cnf":{cnf}}}"#)).unwrap_err();
        assert_eq!(refused.label(), "bad_claim", "{cnf}");
    }
    let both = format!(
        r#"{{"cnf":{{"jkt":"{good}","x5t#S256":"{}"}}}}"#,
        base64(CERTIFICATE)
    );
    let both = binding(&both).unwrap();
    assert_eq!((both.key, both.certificate), (Some(KEY), Some(CERTIFICATE)));
}

#[test]
fn actors_are_a_chain_of_plain_names() {
    let read = |claims: &str| actors(&object(claims), "https://idp");
    assert_eq!(read("{}"), Ok(Vec::new()));
    let two = r#"{"act":{"sub":"a","iss":"https://idp","email":"x","act":{"sub":"b"}}}"#;
    assert_eq!(read(two).unwrap(), ["a", "b"]);
    let nested = |depth: usize| {
        let chain = (0..depth).fold(String::new(), |inner, at| {
            let comma = if inner.is_empty() { "" } else { "," };
            format!(r#""act":{{"sub":"s{at}"{comma}{inner}}}"#)
        });
        format!("{{{chain}}}")
    };
    assert_eq!(read(&nested(8)).unwrap().len(), 8);
    for bad in [
        nested(9),
        r#"{"act":"web"}"#.to_owned(),
        r#"{"act":null}"#.to_owned(),
        r#"{"act":{}}"#.to_owned(),
        r#"{"act":{"sub":""}}"#.to_owned(),
        r#"{"act":{"sub":7}}"#.to_owned(),
        r#"{"act":{"sub":"a\nb"}}"#.to_owned(),
        r#"{"act":{"sub":"a","iss":"https://other"}}"#.to_owned(),
        r#"{"act":{"sub":"a","act":{"sub":""}}}"#.to_owned(),
        r#"{"act":[{"sub":"a"}]}"#.to_owned(),
    ] {
        assert_eq!(read(&bad).unwrap_err().label(), "bad_claim", "{bad}");
    }
}
