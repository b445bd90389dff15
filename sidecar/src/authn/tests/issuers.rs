//! Several issuers, their configuration, and its change while tokens come.

use std::sync::Arc;

use super::*;

#[tokio::test]
async fn issuers_do_not_depend_on_each_other() {
    let (a, b) = (Signer::new("k"), Signer::new("k"));
    let (idp_a, idp_b) = (Idp::start(&[&a]).await, Idp::start(&[&b]).await);
    idp_b.answer("/jwks", Answer::Silence);
    let second = IssuerOptions {
        alias: "partner".to_owned(),
        ..idp_b.options()
    };
    let authn = authenticator(&[second, idp_a.options()]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    ended(&authn.source("corp"), |ended| ended.good).await;
    let now = SystemTime::now();
    assert_eq!(reason(&authn.verify(&a.sign(&idp_a.claims()), now).await), "ok");
    assert_eq!(
        reason(&authn.verify(&b.sign(&idp_b.claims()), now).await),
        "unavailable"
    );
    // The key of one is no key of the other, though it has the same name.
    assert_eq!(
        reason(&authn.verify(&b.sign(&idp_a.claims()), now).await),
        "bad_sig"
    );
    assert_eq!(
        authn
            .status(now)
            .iter()
            .map(|s| s.alias.as_str())
            .collect::<Vec<_>>(),
        ["partner", "corp"]
    );
    running.abort();
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_touch() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let authn = ready(&idp).await;
    let (token, now) = (key.sign(&idp.claims()), SystemTime::now());
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");

    let generation = authn.generation();
    authn.reconfigure(vec![idp.options()]).expect("good");
    assert_eq!(authn.generation(), generation);
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    assert_eq!(
        (
            counted(&authn, "corp", "ok", false),
            counted(&authn, "corp", "ok", true)
        ),
        (1, 1)
    );

    // Another role claim: the token is read anew, with the keys that are there.
    authn
        .reconfigure(vec![IssuerOptions {
            roles: vec!["sub".into()],
            ..idp.options()
        }])
        .expect("good");
    assert!(authn.generation() > generation);
    let user = authn.verify(&token, now).await.expect("a user");
    assert_eq!(user.roles, ["alice"]);
    assert_eq!(
        (
            counted(&authn, "corp", "ok", false),
            counted(&authn, "corp", "ok", true)
        ),
        (2, 1)
    );
    assert_eq!(idp.asked("/jwks"), 1);

    let other = IssuerOptions {
        audiences: vec!["other".to_owned()],
        ..idp.options()
    };
    authn.reconfigure(vec![other]).expect("good");
    assert_eq!(reason(&authn.verify(&token, now).await), "wrong_aud");

    let rsa = IssuerOptions {
        algorithms: vec![Algorithm::RS256],
        ..idp.options()
    };
    authn.reconfigure(vec![rsa]).expect("good");
    assert_eq!(reason(&authn.verify(&token, now).await), "bad_alg");

    // From elsewhere: other keys, so none yet.
    let moved = IssuerOptions {
        jwks_uri: Some(format!("{}/elsewhere", idp.url)),
        ..idp.options()
    };
    authn.reconfigure(vec![moved]).expect("good");
    assert_eq!(reason(&authn.verify(&token, now).await), "unavailable");

    authn.reconfigure(Vec::new()).expect("good");
    assert_eq!(reason(&authn.verify(&token, now).await), "unknown_issuer");
    authn.reconfigure(vec![idp.options()]).expect("good");
    assert_eq!(
        reason(&authn.verify(&token, now).await),
        "unavailable",
        "an issuer that comes back starts anew"
    );
}

#[tokio::test]
async fn an_alias_that_moves_to_another_issuer_takes_no_token_along() {
    let (a, b) = (Signer::new("k"), Signer::new("k"));
    let (idp_a, idp_b) = (Idp::start(&[&a]).await, Idp::start(&[&b]).await);
    let authn = ready(&idp_a).await;
    let (token, now) = (a.sign(&idp_a.claims()), SystemTime::now());
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    authn.reconfigure(vec![idp_b.options()]).expect("good");
    refresh(&authn).await;
    assert_eq!(reason(&authn.verify(&token, now).await), "unknown_issuer");
    assert_eq!(reason(&authn.verify(&b.sign(&idp_b.claims()), now).await), "ok");
}

#[tokio::test]
async fn the_tasks_follow_the_configuration() {
    let (a, b) = (Signer::new("a"), Signer::new("b"));
    let (idp_a, idp_b) = (Idp::start(&[&a]).await, Idp::start(&[&b]).await);
    let authn = authenticator(&[idp_a.options()]);
    let running = tokio::spawn(Arc::clone(&authn).run());
    ended(&authn.source("corp"), |ended| ended.good).await;
    authn.reconfigure(vec![idp_b.options()]).expect("good");
    ended(&authn.source("corp"), |ended| ended.good).await;
    assert_eq!(
        reason(&authn.verify(&b.sign(&idp_b.claims()), SystemTime::now()).await),
        "ok"
    );
    running.abort();
}

#[tokio::test]
async fn ca_file_is_the_only_root_and_its_change_is_noticed() {
    let key = Signer::new("k1");
    let (idp, other) = (Idp::start(&[&key]).await, Idp::start(&[]).await);
    let wrong = IssuerOptions {
        ca_file: other.options().ca_file,
        ..idp.options()
    };
    let authn = authenticator(std::slice::from_ref(&wrong));
    refresh(&authn).await;
    assert_eq!((fetched(&authn, "tls"), fetched(&authn, "ok")), (1, 0));
    assert_eq!(idp.asked(WELL_KNOWN), 0);
    let error = authn.status(SystemTime::now())[0]
        .last_error
        .clone()
        .expect("an error");
    assert!(error.contains("TLS") && error.contains("certificate"), "{error}");

    // The file, not its name, says who is trusted: at the next attempt, and at the next configuration.
    let running = authenticator(std::slice::from_ref(&wrong));
    let path = wrong.ca_file.clone().expect("a file");
    std::fs::copy(idp.options().ca_file.expect("a file"), &path).expect("copied");
    refresh(&running).await;
    assert_eq!(running.status(SystemTime::now())[0].state, IssuerState::Ready);
    authn.reconfigure(vec![wrong]).expect("good");
    assert_eq!(
        authn.status(SystemTime::now())[0].last_error,
        None,
        "it starts anew"
    );
    refresh(&authn).await;
    assert_eq!(
        reason(&authn.verify(&key.sign(&idp.claims()), SystemTime::now()).await),
        "ok"
    );
}

#[tokio::test]
async fn a_ca_file_that_is_spoilt_leaves_the_roots_as_they_are() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    let authn = ready(&idp).await;
    std::fs::write(idp.options().ca_file.expect("a file"), "spoilt").expect("written");
    refresh(&authn).await;
    assert_eq!(fetched(&authn, "ok"), 2);
}

#[tokio::test]
async fn a_certificate_is_for_its_name() {
    let key = Signer::new("k1");
    let idp = Idp::start_as(&[&key], Some("localhost")).await;
    let address = idp.url.replace("localhost", "127.0.0.1");
    let authn = authenticator(&[IssuerOptions {
        issuer: address,
        ..idp.options()
    }]);
    refresh(&authn).await;
    assert_eq!((fetched(&authn, "tls"), fetched(&authn, "ok")), (1, 0));
    assert_eq!(idp.asked(WELL_KNOWN), 0);
}

#[tokio::test]
async fn plain_http_is_for_loopback_where_it_is_allowed() {
    let key = Signer::new("k1");
    let idp = Idp::plain(&[&key]).await;
    let authn = ready(&idp).await;
    assert_eq!(
        reason(&authn.verify(&key.sign(&idp.claims()), SystemTime::now()).await),
        "ok"
    );
    let refused = IssuerOptions {
        allow_http_loopback: false,
        ..idp.options()
    };
    let error = Authenticator::new(vec![refused], authn_options())
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("corp") && error.contains("allow_http_loopback"),
        "{error}"
    );
}

#[tokio::test]
async fn a_configured_jwks_uri_skips_discovery() {
    let key = Signer::new("k1");
    let idp = Idp::start(&[&key]).await;
    // Then the issuer need be no address at all.
    let options = IssuerOptions {
        issuer: "urn:corp".to_owned(),
        jwks_uri: Some(format!("{}/jwks", idp.url)),
        ..idp.options()
    };
    let authn = authenticator(&[options]);
    refresh(&authn).await;
    assert_eq!((idp.asked(WELL_KNOWN), idp.asked("/jwks")), (0, 1));
    assert_eq!(
        reason(
            &authn
                .verify(&key.sign(&claims("urn:corp")), SystemTime::now())
                .await
        ),
        "ok"
    );
}

/// A change of options that cannot be meant, and what the error must say.
type BadChange = (fn(&mut IssuerOptions), &'static str);

const BAD_CHANGES: [BadChange; 15] = [
    (|o| o.alias = "a|b".into(), "without `|`"),
    (|o| o.alias = String::new(), "alias"),
    (|o| o.issuer = String::new(), "issuer is empty"),
    (|o| o.issuer = "idp.example".into(), "not an https URL"),
    (|o| o.issuer = "http://idp.example".into(), "plain http"),
    (|o| o.issuer = "https://idp.example?x=1".into(), "query"),
    (|o| o.jwks_uri = Some("ftp://x/".into()), "jwks_uri"),
    (|o| o.audiences = Vec::new(), "audiences"),
    (|o| o.audiences = vec![String::new()], "audiences"),
    (|o| o.algorithms = Vec::new(), "algorithms"),
    (|o| o.leeway = Duration::from_secs(61), "leeway"),
    (|o| o.roles = vec!["".into()], "path"),
    (|o| o.claims.extend(o.claims.clone()), "two of one name"),
    (
        |o| o.claims.iter_mut().for_each(|claim| claim.name.clear()),
        "without a name",
    ),
    (
        |o| o.ca_file = Some("/nonexistent/ca.pem".into()),
        "/nonexistent/ca.pem",
    ),
];

#[test]
fn what_cannot_be_meant_is_refused_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let authn = authenticator(&[options()]);
    let refusal = |issuers: Vec<IssuerOptions>| {
        let error = authn.reconfigure(issuers).expect_err("refused");
        assert_eq!(error.blame(), Blame::Config);
        let status = authn.status(SystemTime::now());
        let aliases: Vec<&str> = status.iter().map(|status| status.alias.as_str()).collect();
        assert_eq!(aliases, ["corp"], "the old ones stay, whole");
        error.to_string()
    };
    let other = || IssuerOptions {
        alias: "other".into(),
        issuer: "http://127.0.0.1:8".into(),
        ..options()
    };
    for (change, expected) in BAD_CHANGES {
        let mut bad = options();
        change(&mut bad);
        let error = refusal(vec![other(), bad]);
        assert!(error.contains(expected), "{error} / {expected}");
    }
    let no_roots = IssuerOptions {
        ca_file: Some(empty),
        ..options()
    };
    assert!(refusal(vec![no_roots]).contains("no certificate"));
    assert!(
        refusal(vec![
            options(),
            IssuerOptions {
                alias: "x".into(),
                ..options()
            }
        ])
        .contains("same issuer")
    );
    assert!(
        refusal(vec![
            options(),
            IssuerOptions {
                alias: "corp".into(),
                ..other()
            }
        ])
        .contains("same alias")
    );
}

#[tokio::test]
async fn a_probe_tells_what_the_sidecar_would_meet() {
    let key = Signer::new("k1");
    let mut idp = Idp::start(&[&key]).await;
    let status = probe(&idp.options(), dial()).await.expect("a status");
    assert_eq!(
        (status.state, status.kids.as_slice()),
        (IssuerState::Ready, &["k1".to_owned()][..])
    );
    let shown = serde_json::to_value(&status).expect("JSON");
    assert_eq!((&shown["state"], &shown["keys"]), (&json!("ready"), &json!(1)));
    idp.answer(
        WELL_KNOWN,
        Answer::json(idp.configuration("https://other.example")),
    );
    let error = probe(&idp.options(), dial()).await.expect_err("a mismatch");
    assert_eq!(error.blame(), Blame::Peer);
    assert!(
        error.to_string().contains(WELL_KNOWN) && error.to_string().contains("another issuer"),
        "{error}"
    );
    idp.stop().await;
    assert!(
        probe(&idp.options(), dial())
            .await
            .expect_err("gone")
            .to_string()
            .contains("no connection")
    );
}
