//! Tokens, and the cache of verified ones.

use super::*;

#[tokio::test]
async fn a_token_becomes_a_user() {
    let key = Signer::new("k1");
    // By name, and there the IPv6 address, where nobody listens, comes first on most machines.
    let idp = Idp::start_as(&[&key], Some("localhost")).await;
    let claim = |name: &str, path: &str, kind| ClaimOptions {
        name: name.to_owned(),
        path: path.into(),
        kind,
    };
    let options = IssuerOptions {
        roles: ["realm_access.roles", "groups", "scope"]
            .map(ClaimPath::from)
            .to_vec(),
        claims: vec![
            claim("tenant", "org.tenant", ClaimKind::String),
            claim("level", "level", ClaimKind::Long),
            claim("wrong", "level", ClaimKind::Bool),
            claim("none", "x.y", ClaimKind::Strings),
        ],
        bind_claims: vec!["org.tenant".into()],
        ..idp.options()
    };
    let authn = authenticator(&[options]);
    refresh(&authn).await;
    let (now, exp) = (SystemTime::now(), unix(SystemTime::now()) + 60);
    let claims = json!({"iss": idp.url, "sub": "alice", "aud": ["other", "shop"], "exp": exp, "scope": "read write",
        "realm_access": {"roles": ["clerk"]}, "groups": "staff", "org": {"tenant": "acme"}, "level": 3,
        "client_id": "app", "act": {"sub": "bot", "act": {"sub": "web"}}, "cnf": {"jkt": "A".repeat(43)}, "acr": "2", "amr": ["pwd", "otp"], "auth_time": 1_700_000_000});
    let user = authn.verify(&key.sign(&claims), now).await.expect("a user");
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let expected = VerifiedUser {
        alias: "corp".into(),
        issuer: idp.url.as_str().into(),
        subject: "alice".to_owned(),
        audience: strings(&["other", "shop"]),
        scope: strings(&["read", "write"]),
        roles: strings(&["clerk", "read", "staff", "write"]),
        azp: Some("app".to_owned()),
        acr: Some("2".to_owned()),
        amr: strings(&["pwd", "otp"]),
        auth_time: Some(1_700_000_000),
        exp,
        actors: strings(&["bot", "web"]),
        binding: Binding {
            callers: strings(&["app"]),
            named: vec![("org.tenant".into(), strings(&["acme"]))],
            certificate: None,
            key: Some(Thumbprint([0; 32])),
        },
        claims: vec![
            ("tenant".to_owned(), ClaimValue::String("acme".to_owned())),
            ("level".to_owned(), ClaimValue::Long(3)),
        ],
        kid: Some("k1".to_owned()),
        key: user.key,
        due: None,
        generation: user.generation,
    };
    assert_eq!(*user, expected);
    assert!(user.generation > 0 && user.generation <= authn.generation());
}

/// Tokens, with the outcome and the alias that it is counted under.
fn judged(idp: &Idp, key: &Signer, now: i64) -> Vec<(String, &'static str, &'static str)> {
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = idp.claims();
        claims[name] = value;
        key.sign(&claims)
    };
    let good = key.sign(&idp.claims());
    let unsigned = format!(
        "eyJhbGciOiJub25lIn0.{}.AAAA",
        good.split('.').nth(1).expect("payload")
    );
    vec![
        (good, "ok", "corp"),
        (Signer::new(key.kid).sign(&idp.claims()), "bad_sig", "corp"),
        (unsigned, "bad_alg", "corp"),
        (with("exp", json!(now - 6)), "expired", "corp"),
        (with("nbf", json!(now + 60)), "not_yet_valid", "corp"),
        (with("aud", json!("other")), "wrong_aud", "corp"),
        (with("sub", json!(7)), "bad_claim", "corp"),
        (
            with("iss", json!("https://topsecret.example")),
            "unknown_issuer",
            "",
        ),
        (with("iss", json!(format!("{}/", idp.url))), "unknown_issuer", ""),
        (with("iss", json!(["x"])), "bad_claim", ""),
        ("not.a.token".to_owned(), "malformed", ""),
        (String::new(), "malformed", ""),
        ("a".repeat(9 * 1024), "oversized", ""),
        (with("iss", json!("http://127.0.0.1:1")), "unavailable", "idle"),
    ]
}

#[tokio::test]
async fn what_is_not_accepted_says_why_and_tells_nothing() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let idle = IssuerOptions {
        alias: "idle".into(),
        issuer: "http://127.0.0.1:1".into(),
        ..options()
    };
    let authn = authenticator(&[idp.options(), idle]);
    refresh(&authn).await;
    let now = SystemTime::now();
    for (token, expected, alias) in judged(&idp, &key, unix(now)) {
        let before = counted(&authn, alias, expected, false);
        let result = authn.verify(&token, now).await;
        assert_eq!(reason(&result), expected);
        assert_eq!(
            counted(&authn, alias, expected, false),
            before + 1,
            "{expected} of {alias}"
        );
        if let Err(rejection) = result {
            let shown = format!("{rejection} {rejection:?}");
            assert!(!shown.contains("topsecret"), "{shown}");
            assert!(token.is_empty() || !shown.contains(token.as_str()));
            let unavailable = matches!(rejection, Rejection::Unavailable { .. });
            assert_eq!(unavailable, expected == "unavailable");
        }
    }
}

#[tokio::test]
async fn a_known_token_is_not_verified_again_until_it_expires() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let authn = ready(&idp).await;
    let now = SystemTime::now();
    let token = key.sign(&idp.claims());
    let first = authn.verify(&token, now).await.expect("a user");
    let second = authn
        .verify(&token, now + Duration::from_secs(299))
        .await
        .expect("a user");
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!(
        (
            counted(&authn, "corp", "ok", false),
            counted(&authn, "corp", "ok", true)
        ),
        (1, 1)
    );
    // J20: 300 s, and 5 s of leeway.
    let late = authn.verify(&token, now + Duration::from_secs(306)).await;
    assert_eq!(reason(&late), "expired");
    assert_eq!(counted(&authn, "corp", "expired", true), 1, "told by the cache");
    let early = authn.verify(&token, now - Duration::from_secs(3600)).await;
    assert_eq!(reason(&early), "issued_in_future", "the clock went back");
    assert_eq!(authn.counters().cache_entries, 1);
    // A token that was refused leaves nothing.
    assert_eq!(reason(&authn.verify("a.b.c", now).await), "malformed");
    assert_eq!(authn.counters().cache_entries, 1);
}

#[tokio::test]
async fn a_token_that_differs_in_one_byte_is_another_token() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    // Some of them name another key, and nobody fetches here.
    let options = AuthnOptions {
        refetch_wait: Duration::ZERO,
        ..authn_options()
    };
    let authn = Authenticator::new(vec![idp.options()], options).expect("good");
    refresh(&authn).await;
    let now = SystemTime::now();
    let token = key.sign(&idp.claims());
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    for at in 0..token.len() {
        let mut other = token.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).expect("ASCII");
        assert_ne!(reason(&authn.verify(&other, now).await), "ok", "byte {at}");
    }
    assert_eq!(authn.counters().cache_entries, 1);
}

#[tokio::test]
async fn the_verification_may_move_between_workers() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let authn = authenticator(&[options()]);
    let rejection = is_send(authn.verify("x", SystemTime::now())).await;
    assert_eq!(reason(&rejection), "malformed");
    drop(is_send(std::sync::Arc::clone(&authn).run()));
}

#[tokio::test]
async fn what_stays_open_is_checked_again() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let idp = Idp::start(&[&old]).await;
    let authn = ready(&idp).await;
    let now = SystemTime::now();
    let user = authn.verify(&old.sign(&idp.claims()), now).await.expect("a user");
    let label = |user: &VerifiedUser, now| authn.recheck(user, now).map_or_else(|r| r.label(), |()| "ok");
    assert_eq!(label(&user, now), "ok");
    assert_eq!(label(&user, now + Duration::from_secs(306)), "expired");
    assert_eq!(label(&user, now + Duration::from_secs(25 * 3600)), "unavailable");

    let mut changes = authn.changes();
    let unchanged = |changes: &tokio::sync::watch::Receiver<u64>| !changes.has_changed().expect("alive");
    authn.reconfigure(vec![idp.options()]).expect("good");
    refresh(&authn).await;
    assert!(unchanged(&changes), "nothing changed");

    // A second key leaves the first in force.
    idp.answer("/jwks", Answer::json(jwks(&[&old, &new])));
    refresh(&authn).await;
    assert!(!unchanged(&changes));
    assert_eq!(*changes.borrow_and_update(), authn.generation());
    assert_eq!(label(&user, now), "ok");
    idp.answer("/jwks", Answer::json(jwks(&[&new])));
    refresh(&authn).await;
    assert!(!unchanged(&changes));
    assert_eq!(label(&user, now), "no_key");

    let user = authn.verify(&new.sign(&idp.claims()), now).await.expect("a user");
    let changed = IssuerOptions {
        audiences: vec!["shop".to_owned(), "more".to_owned()],
        ..idp.options()
    };
    changes.mark_unchanged();
    authn.reconfigure(vec![changed]).expect("good");
    assert!(!unchanged(&changes));
    assert_eq!(label(&user, now), "issuer_changed");
    let user = authn.verify(&new.sign(&idp.claims()), now).await.expect("a user");
    assert_eq!(label(&user, now), "ok", "presented anew");
    changes.mark_unchanged();
    authn.reconfigure(Vec::new()).expect("good");
    assert!(!unchanged(&changes));
    assert_eq!(label(&user, now), "unknown_issuer");
}
