use hopguard_jose::{Algorithms, KeyPolicy, KeySet, Rules, Token, TokenError, TokenTypes};
use serde_json::json;

use super::*;

fn options() -> AssertionOptions {
    AssertionOptions {
        port: 1,
        audience: "shop/payments".to_owned(),
        ttl: Duration::from_secs(30),
        request: true,
    }
}

fn id(name: &str) -> spiffe::SpiffeId {
    spiffe::SpiffeId::new(format!("spiffe://mesh.local/{name}")).unwrap()
}

fn said<'a>(
    issuer: &'a spiffe::SpiffeId,
    caller: Option<&'a spiffe::SpiffeId>,
    user: Option<User<'a>>,
) -> Said<'a> {
    Said {
        issuer,
        caller,
        user,
        decision: "d1",
        request: ("GET", "/a", "payments"),
    }
}

fn rules() -> Rules {
    Rules {
        algorithms: [hopguard_jose::Algorithm::ES256].into_iter().collect(),
        types: TokenTypes {
            absent: false,
            names: vec![TYPE.to_owned()],
        },
        issuer: Some("spiffe://mesh.local/payments".to_owned()),
        audiences: vec!["shop/payments".to_owned()],
        leeway: 0,
    }
}

fn keys(signer: &Signer) -> KeySet {
    KeySet::parse(signer.jwks().to_string().as_bytes(), &KeyPolicy::SIGNATURES).unwrap()
}

fn payload(token: &str) -> Value {
    let jws = hopguard_jose::Jws::parse(token).unwrap();
    serde_json::from_slice(jws.unverified_payload()).unwrap()
}

#[test]
fn a_statement_says_what_was_proven_and_verifies_by_the_published_key() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let signer = Signer::new(options(), now).unwrap();
    let (own, peer) = (id("payments"), id("orders"));
    let (roles, actors) = (["clerk".to_owned()], ["a".to_owned(), "b".to_owned()]);
    let user = User {
        issuer: "https://idp",
        subject: "älice",
        roles: &roles,
        actors: &actors,
    };
    let token = signer.sign(&said(&own, Some(&peer), Some(user)), now).unwrap();
    assert!(token.bytes().all(|b| b.is_ascii_graphic()));
    assert_eq!(
        payload(&token),
        json!({"iss": "spiffe://mesh.local/payments", "aud": "shop/payments", "iat": 1_000_000, "exp": 1_000_030,
            "jti": "d1", "caller": "spiffe://mesh.local/orders",
            "user": {"iss": "https://idp", "sub": "älice", "roles": ["clerk"], "act": {"sub": "a", "act": {"sub": "b"}}},
            "request": {"method": "GET", "path": "/a", "host": "payments"}})
    );
    // It has no `sub`: a verifier of user tokens refuses it for that, and for its type.
    let verified = Token::parse(&token)
        .unwrap()
        .verify(&keys(&signer), &rules(), 1_000_000);
    assert!(matches!(verified, Err(TokenError::Claim(_))), "{verified:?}");
    let jws = hopguard_jose::Jws::parse(&token).unwrap();
    assert!(jws.verify(&keys(&signer), Algorithms::ALL).is_ok());
    let mut user_rules = rules();
    user_rules.types = TokenTypes::user();
    let as_user = Token::parse(&token)
        .unwrap()
        .verify(&keys(&signer), &user_rules, 1_000_000);
    assert_eq!(as_user.unwrap_err(), TokenError::Header("typ"));

    let quiet = AssertionOptions {
        request: false,
        ..options()
    };
    let signer = Signer::new(quiet, now).unwrap();
    let token = signer.sign(&said(&own, None, None), now).unwrap();
    assert_eq!(
        payload(&token),
        json!({"iss": "spiffe://mesh.local/payments", "aud": "shop/payments", "iat": 1_000_000, "exp": 1_000_030,
            "jti": "d1", "caller": null})
    );
}

#[test]
fn what_would_be_too_large_is_not_signed() {
    let now = SystemTime::now();
    let signer = Signer::new(options(), now).unwrap();
    let own = id("payments");
    let roles: Vec<String> = (0..1_000).map(|n| format!("role-{n}")).collect();
    let user = User {
        issuer: "https://idp",
        subject: "alice",
        roles: &roles,
        actors: &[],
    };
    let refused = signer.sign(&said(&own, None, Some(user)), now);
    assert_eq!(refused, Err(AssertionError::TooLarge));
    let few = User {
        roles: &roles[..100],
        ..user
    };
    assert!(signer.sign(&said(&own, None, Some(few)), now).unwrap().len() < 8_000);
}

#[test]
fn a_key_is_published_before_it_signs_and_after() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let signer = Signer::new(options(), start).unwrap();
    let own = id("payments");
    let verifies = |token: &str| {
        let jws = hopguard_jose::Jws::parse(token).unwrap();
        jws.verify(&keys(&signer), Algorithms::ALL).is_ok()
    };
    let published = || {
        let keys = signer.jwks()["keys"].as_array().unwrap().clone();
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = published();
    assert_eq!(first.len(), 2);
    let old = signer.sign(&said(&own, None, None), start).unwrap();
    signer.rotate(start + Duration::from_secs(3599));
    assert_eq!(published(), first);
    let hour = start + Duration::from_secs(3600);
    signer.rotate(hour);
    let second = published();
    assert_eq!(
        (second.len(), &second[0], &second[2]),
        (3, &first[1], &first[0]),
        "it was known before"
    );
    let new = signer.sign(&said(&own, None, None), hour).unwrap();
    assert!(verifies(&old) && verifies(&new));
    signer.rotate(hour + Duration::from_secs(329));
    assert!(verifies(&old));
    signer.rotate(hour + Duration::from_secs(330));
    assert!(
        !verifies(&old) && verifies(&new),
        "nothing that it signed is valid any more"
    );
    assert_eq!(published(), second[..2]);
    // A clock that was set back does not keep a key for ever.
    signer.rotate(start - Duration::from_secs(10));
    assert_eq!(published()[0], second[1]);
    assert!(verifies(&new));
}
