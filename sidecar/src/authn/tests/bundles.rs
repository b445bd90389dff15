//! JWT-SVIDs (SPIFFE JWT-SVID, Workload API section 4.6): whose keys count, and what a bundle that goes away means.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

const TTL: u64 = 300;

fn svid_options(alias: &str, domain: &str) -> IssuerOptions {
    IssuerOptions {
        kind: IssuerKind::JwtSvid,
        alias: alias.to_owned(),
        issuer: format!("spiffe://{domain}"),
        ..options()
    }
}

fn bundle(signers: &[&Signer]) -> Vec<u8> {
    let keys: Vec<Value> = signers
        .iter()
        .map(|signer| {
            let mut jwk = signer.jwk();
            jwk["use"] = json!("jwt-svid");
            jwk.as_object_mut().expect("an object").remove("alg");
            jwk
        })
        .collect();
    json!({"keys": keys, "spiffe_sequence": 1})
        .to_string()
        .into_bytes()
}

fn all(bundles: &[(&str, &[&Signer])]) -> JwtBundles {
    let named = bundles
        .iter()
        .map(|(domain, signers)| (format!("spiffe://{domain}"), bundle(signers)));
    JwtBundles::All(named.collect())
}

fn svid(sub: &str) -> Value {
    json!({"sub": sub, "aud": ["shop"], "exp": unix(SystemTime::now()) + 300})
}

#[tokio::test]
async fn a_jwt_svid_is_a_user_whose_subject_is_its_spiffe_id() {
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let authn = authenticator(&[
        svid_options("mesh", "mesh.test"),
        svid_options("partner", "other.test"),
    ]);
    let now = SystemTime::now();
    let token = ours.sign(&svid("spiffe://mesh.test/ns/shop/sa/job"));
    let waiting = authn.verify(&token, now).await.expect_err("no bundle yet");
    assert!(
        waiting.label() == "unavailable" && waiting.to_string().contains("no JWT bundle"),
        "{waiting}"
    );

    authn.set_bundles(all(&[("mesh.test", &[&ours]), ("other.test", &[&theirs])]), now);
    let user = authn.verify(&token, now).await.expect("the job");
    assert_eq!(
        (user.subject.as_str(), &*user.alias, &*user.issuer),
        ("spiffe://mesh.test/ns/shop/sa/job", "mesh", "spiffe://mesh.test")
    );
    assert_eq!(
        reason(
            &authn
                .verify(&ours.sign_as(None, &svid("spiffe://mesh.test/a")), now)
                .await
        ),
        "ok",
        "no kid"
    );
    let mut with_issuer = svid("spiffe://mesh.test/a");
    with_issuer["iss"] = json!("https://oidc.mesh.test");
    assert_eq!(
        reason(&authn.verify(&ours.sign(&with_issuer), now).await),
        "ok",
        "iss says nothing here"
    );
}

/// S-34: a SPIRE agent sends a standard JWK Set, without `use`.
#[tokio::test]
async fn a_bundle_may_leave_its_use_out_and_a_key_for_another_use_is_none() {
    let key = Signer::new("a");
    let authn = authenticator(&[svid_options("mesh", "mesh.test")]);
    let now = SystemTime::now();
    let token = key.sign(&svid("spiffe://mesh.test/a"));
    for (usage, expected) in [
        (None, "ok"),
        (Some("jwt-svid"), "ok"),
        (Some("x509-svid"), "unknown_kid"),
        (Some("sig"), "unknown_kid"),
    ] {
        let mut jwk = key.jwk();
        match usage {
            Some(usage) => jwk["use"] = json!(usage),
            None => drop(jwk.as_object_mut().expect("an object").remove("use")),
        }
        let set = json!({"keys": [jwk]}).to_string().into_bytes();
        authn.set_bundles(
            JwtBundles::All([("spiffe://mesh.test".to_owned(), set)].into()),
            now,
        );
        assert_eq!(reason(&authn.verify(&token, now).await), expected, "{usage:?}");
    }
}

/// S-30: also while the authority has several keys, and after one of them is gone.
#[tokio::test]
async fn a_token_without_kid_is_good_while_its_key_is() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let authn = authenticator(&[svid_options("mesh", "mesh.test")]);
    let now = SystemTime::now();
    let nameless = |key: &Signer| key.sign_as(None, &svid("spiffe://mesh.test/a"));
    authn.set_bundles(all(&[("mesh.test", &[&old, &new])]), now);
    for key in [&old, &new] {
        assert_eq!(reason(&authn.verify(&nameless(key), now).await), "ok");
    }
    authn.set_bundles(all(&[("mesh.test", &[&new])]), now);
    assert_eq!(reason(&authn.verify(&nameless(&old), now).await), "bad_sig");
    assert_eq!(reason(&authn.verify(&nameless(&new), now).await), "ok");
}

/// S-32.
#[tokio::test]
async fn the_trust_domain_of_the_subject_chooses_the_keys() {
    // The same kid in two trust domains.
    let (ours, theirs) = (Signer::new("a"), Signer::new("a"));
    let authn = authenticator(&[
        svid_options("mesh", "mesh.test"),
        svid_options("partner", "other.test"),
    ]);
    let now = SystemTime::now();
    authn.set_bundles(all(&[("mesh.test", &[&ours]), ("other.test", &[&theirs])]), now);
    assert_eq!(
        reason(
            &authn
                .verify(&theirs.sign(&svid("spiffe://other.test/a")), now)
                .await
        ),
        "ok"
    );
    assert_eq!(
        reason(
            &authn
                .verify(&theirs.sign(&svid("spiffe://mesh.test/a")), now)
                .await
        ),
        "bad_sig"
    );
    assert_eq!(
        reason(
            &authn
                .verify(&ours.sign(&svid("spiffe://other.test/a")), now)
                .await
        ),
        "bad_sig"
    );
    // Who names a trust domain as issuer does not choose its keys for a subject of another.
    let mut crossed = svid("spiffe://mesh.test/a");
    crossed["iss"] = json!("spiffe://other.test");
    assert_eq!(
        reason(&authn.verify(&theirs.sign(&crossed), now).await),
        "wrong_iss"
    );
}

/// S-27, S-29, S-31.
#[tokio::test]
async fn what_is_no_jwt_svid_is_refused() {
    let key = Signer::new("a");
    let authn = authenticator(&[svid_options("mesh", "mesh.test")]);
    let now = SystemTime::now();
    authn.set_bundles(all(&[("mesh.test", &[&key])]), now);
    let good = svid("spiffe://mesh.test/a");
    assert_eq!(reason(&authn.verify(&key.sign(&good), now).await), "ok");
    let but = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        key.sign(&claims)
    };
    let gone = |name: &'static str| {
        but(&move |claims| drop(claims.as_object_mut().expect("an object").remove(name)))
    };
    for (token, why) in [
        (gone("aud"), "bad_claim"),
        (gone("exp"), "bad_claim"),
        (gone("sub"), "bad_claim"),
        (but(&|c| c["aud"] = json!("another")), "wrong_aud"),
        (but(&|c| c["aud"] = json!([])), "bad_claim"),
        (but(&|c| c["exp"] = json!(1)), "expired"),
        (
            but(&|c| c["nbf"] = json!(unix(SystemTime::now()) + 100)),
            "not_yet_valid",
        ),
        (but(&|c| c["sub"] = json!("alice")), "bad_claim"),
        (but(&|c| c["sub"] = json!("spiffe://mesh.test")), "bad_claim"),
        (but(&|c| c["sub"] = json!("spiffe://MESH.test/a")), "bad_claim"),
        (but(&|c| c["sub"] = json!("spiffe://unknown.test/a")), "bad_claim"),
        (
            but(&|c| (c["iss"], c["sub"]) = (json!("spiffe://mesh.test"), json!("alice"))),
            "bad_claim",
        ),
    ] {
        assert_eq!(reason(&authn.verify(&token, now).await), why, "{token}");
    }
    // SPIFFE JWT-SVID section 2.3 and 2.1.
    let header = |typ: &str| {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.typ = Some(typ.to_owned());
        key.sign_with(&header, &good)
    };
    for (typ, why) in [
        ("JOSE", "ok"),
        ("JWT", "ok"),
        ("at+jwt", "bad_header"),
        ("wit+jwt", "bad_header"),
    ] {
        assert_eq!(reason(&authn.verify(&header(typ), now).await), why, "{typ}");
    }
}

/// S-57, S-61.
#[tokio::test]
async fn a_bundle_that_goes_takes_its_tokens_with_it() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let authn = authenticator(&[svid_options("mesh", "mesh.test")]);
    let now = SystemTime::now();
    let token = old.sign(&svid("spiffe://mesh.test/a"));
    authn.set_bundles(all(&[("mesh.test", &[&old])]), now);
    let user = authn.verify(&token, now).await.expect("good");
    let generation = authn.generation();
    authn.set_bundles(all(&[("mesh.test", &[&old])]), now);
    assert_eq!(authn.generation(), generation, "nothing changed");
    assert_eq!(
        (
            reason(&authn.verify(&token, now).await),
            counted(&authn, "mesh", "ok", true)
        ),
        ("ok", 1)
    );

    // Silence changes nothing for a day; a bad document nothing at all.
    authn.set_bundles(JwtBundles::Silent("the socket is gone".to_owned()), now);
    let nearly = now + Duration::from_secs(TTL - 1);
    assert_eq!(reason(&authn.verify(&token, nearly).await), "ok");
    assert_eq!(
        authn.status(now)[0].last_error.as_deref(),
        Some("the socket is gone")
    );
    let bad = BTreeMap::from([("spiffe://mesh.test".to_owned(), b"{".to_vec())]);
    authn.set_bundles(JwtBundles::All(bad), now);
    assert_eq!(reason(&authn.verify(&token, now).await), "ok");
    assert_eq!(authn.recheck(&user, now), Ok(()));

    authn.set_bundles(all(&[("mesh.test", &[&new])]), now);
    assert!(authn.generation() > generation, "what is open is decided again");
    assert_eq!(reason(&authn.verify(&token, now).await), "unknown_kid");
    assert!(
        authn
            .recheck(&user, now)
            .is_err_and(|why| why.label() == "no_key")
    );
    for gone in [
        all(&[]),
        JwtBundles::Denied("no identity".to_owned()),
        all(&[("mesh.test", &[])]),
    ] {
        authn.set_bundles(all(&[("mesh.test", &[&old])]), now);
        assert_eq!(reason(&authn.verify(&token, now).await), "ok");
        authn.set_bundles(gone, now);
        assert_ne!(reason(&authn.verify(&token, now).await), "ok");
    }
    authn.set_bundles(all(&[("mesh.test", &[&old])]), now);
    authn.set_bundles(JwtBundles::Silent("gone".to_owned()), now);
    let days = now + Duration::from_secs(24 * 3600 + 1);
    let mut long = svid("spiffe://mesh.test/a");
    long["exp"] = json!(unix(now) + 10 * 24 * 3600);
    assert_eq!(reason(&authn.verify(&old.sign(&long), days).await), "unavailable");
}
