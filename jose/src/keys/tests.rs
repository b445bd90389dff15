//! What a key set takes, what it ignores, and that it never guesses.

use super::*;
use crate::base64url;
use crate::testing::{Pair, document, set};
use proptest::prelude::*;

fn parse(document: &str) -> Result<KeySet, KeySetError> {
    KeySet::parse(document.as_bytes(), &KeyPolicy::SIGNATURES)
}

/// Why the one key with these members is ignored; "used" when it is not.
fn fate(jwk: &str) -> &'static str {
    let keys = set(&[jwk.to_owned()]);
    keys.ignored().first().map_or("used", |ignored| ignored.reason)
}

#[test]
fn every_kind_of_key_is_read_with_its_algorithms() {
    for algorithm in Algorithm::ALL {
        let keys = set(&[Pair::shared(algorithm).jwk(&format!(r#""kid":"k","alg":"{algorithm}""#))]);
        assert_eq!((keys.len(), keys.kids().collect::<Vec<_>>()), (1, vec!["k"]));
        for other in Algorithm::ALL {
            assert_eq!(
                keys.select(Some("k"), other).is_ok(),
                other == algorithm,
                "{algorithm} {other}"
            );
        }
    }
    let rsa = set(&[Pair::shared(Algorithm::RS256).jwk("")]);
    let fitting = Algorithm::ALL
        .into_iter()
        .filter(|a| rsa.select(None, *a).is_ok())
        .count();
    assert_eq!(fitting, 6, "an RSA key without alg serves RS and PS");
}

#[test]
fn a_key_not_meant_for_us_is_ignored() {
    let pair = Pair::shared(Algorithm::ES256);
    for (more, expected) in [
        (r#""use":"sig""#, "used"),
        (r#""key_ops":["verify"]"#, "used"),
        (r#""key_ops":["sign","verify"],"use":"sig""#, "used"),
        (r#""use":"enc""#, "for another use"),
        (r#""use":"jwt-svid""#, "for another use"),
        (r#""use":7"#, "for another use"),
        (r#""key_ops":["sign"]"#, "key_ops without verify"),
        (r#""key_ops":[]"#, "key_ops without verify"),
        (r#""key_ops":"verify""#, "key_ops without verify"),
        (r#""key_ops":["verify",1]"#, "key_ops without verify"),
        (r#""alg":"ES384""#, "alg is not allowed, or does not fit the key"),
        (r#""alg":"RS256""#, "alg is not allowed, or does not fit the key"),
        (r#""alg":"HS256""#, "alg is not allowed, or does not fit the key"),
        (r#""alg":"none""#, "alg is not allowed, or does not fit the key"),
        (
            r#""alg":"ECDH-ES""#,
            "alg is not allowed, or does not fit the key",
        ),
        (r#""alg":null"#, "alg is not a string"),
        (r#""kid":7"#, "kid is not a string of at most 256 bytes"),
        (r#""kid":null"#, "kid is not a string of at most 256 bytes"),
        (r#""d":"AAAA""#, "holds a private or symmetric key"),
        (r#""x5c":["anything"],"x5t":"x","foo":{"bar":1}"#, "used"),
    ] {
        assert_eq!(fate(&pair.jwk(more)), expected, "{more}");
    }
    let narrow = KeyPolicy {
        algorithms: [Algorithm::RS256].into_iter().collect(),
        ..KeyPolicy::SIGNATURES
    };
    let keys = KeySet::parse(document(&[pair.jwk("")]).as_bytes(), &narrow).expect("a set");
    assert_eq!(keys.ignored()[0].reason, "no allowed algorithm fits the key");
}

#[test]
fn a_spiffe_bundle_takes_its_own_use_only() {
    let pair = Pair::shared(Algorithm::ES256);
    let bundle =
        |jwks: &[String]| KeySet::parse(document(jwks).as_bytes(), &KeyPolicy::JWT_SVID).expect("a set");
    let keys = bundle(&[
        pair.jwk(r#""use":"jwt-svid","kid":"j""#),
        Pair::new(Algorithm::ES256).jwk(r#""use":"x509-svid""#),
        Pair::new(Algorithm::ES256).jwk(r#""kid":"n""#),
        Pair::new(Algorithm::ES256).jwk(r#""use":"sig","kid":"s""#),
        Pair::shared(Algorithm::EdDSA).jwk(r#""use":"jwt-svid","kid":"e""#),
    ]);
    assert_eq!(keys.kids().collect::<Vec<_>>(), ["j"]);
    assert_eq!(keys.ignored().len(), 4);
    assert!(
        bundle(&[]).is_empty(),
        "an empty bundle is a set that trusts nothing"
    );
}

/// S-34. The Workload API gives a standard JWK Set for JWT-SVIDs alone; SPIRE's agent leaves `use` out of it.
#[test]
fn a_set_of_the_workload_api_may_leave_its_use_out() {
    let key = |more: &str| Pair::new(Algorithm::ES256).jwk(more);
    let keys = [
        key(r#""kid":"spire""#),
        key(r#""use":"jwt-svid","kid":"hopguard""#),
        key(r#""use":"x509-svid","kid":"x""#),
        key(r#""use":"wit-svid","kid":"w""#),
        key(r#""use":"sig","kid":"s""#),
        Pair::shared(Algorithm::EdDSA).jwk(r#""kid":"e""#),
    ];
    let keys = KeySet::parse(document(&keys).as_bytes(), &KeyPolicy::WORKLOAD_API).expect("a set");
    assert_eq!(keys.kids().collect::<Vec<_>>(), ["spire", "hopguard"]);
}

#[test]
fn a_key_that_is_none_is_ignored() {
    let p256 = Pair::shared(Algorithm::ES256).members();
    let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    let ec = |crv: &str, x: &str, y: &str| format!(r#"{{"kty":"EC","crv":"{crv}","x":"{x}","y":"{y}"}}"#);
    assert_eq!(fate(&ec("P-256", x, y)), "used");
    assert_eq!(
        fate(&ec("P-256", y, x)),
        "not a valid public key",
        "not on the curve"
    );
    assert_eq!(
        fate(&ec("P-256", x.split_at(42).0, y)),
        "x is not a coordinate in base64url"
    );
    assert_eq!(
        fate(&ec("P-256", x, &format!("{y}="))),
        "y is not a coordinate in base64url"
    );
    assert_eq!(fate(&ec("P-384", x, y)), "x is not a coordinate in base64url");
    assert_eq!(fate(&ec("secp256k1", x, y)), "unknown crv");
    assert_eq!(
        fate(&ec("P-256", &"A".repeat(43), &"A".repeat(43))),
        "not a valid public key",
        "zero"
    );
    assert_eq!(
        fate(r#"{"kty":"oct","k":"c2VjcmV0"}"#),
        "holds a private or symmetric key"
    );
    assert_eq!(fate(r#"{"kty":"oct","alg":"RS256"}"#), "symmetric key");
    assert_eq!(
        fate(r#"{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}"#),
        "unknown kty"
    );
    assert_eq!(fate(r#"{"kty":7}"#), "unknown kty");
    assert_eq!(fate("{}"), "unknown kty");
    assert_eq!(fate("[]"), "not an object");
    assert_eq!(fate("null"), "not an object");
    assert_eq!(
        fate(r#"{"kty":"OKP","crv":"X25519","x":"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"}"#),
        "unknown crv"
    );
    assert_eq!(fate(r#"{"kty":"OKP","crv":"Ed448","x":"AA"}"#), "unknown crv");
    assert_eq!(
        fate(r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#),
        "x is not 32 bytes of base64url"
    );
    assert_eq!(
        fate(&format!("{{{}}}", p256.replace("\"EC\"", "\"RSA\""))),
        "n is not a number in base64url"
    );
}

#[test]
fn rsa_keys_are_of_sound_size() {
    let rsa = |n: &[u8], e: &str| {
        fate(&format!(
            r#"{{"kty":"RSA","n":"{}","e":"{e}"}}"#,
            base64url::encode(n)
        ))
    };
    let modulus = |bytes: usize, top: u8| {
        let mut n = vec![0xAB; bytes];
        n[0] = top;
        *n.last_mut().expect("bytes") = 1;
        n
    };
    let size = "modulus not of 2048 to 8192 bits";
    assert_eq!(rsa(&modulus(256, 0x80), "AQAB"), "used");
    assert_eq!(rsa(&modulus(1024, 0xFF), "AQAB"), "used");
    assert_eq!(rsa(&modulus(256, 0x7F), "AQAB"), size, "2047 bits");
    assert_eq!(rsa(&modulus(128, 0x80), "AQAB"), size);
    assert_eq!(rsa(&modulus(1025, 0x01), "AQAB"), size, "8193 bits");
    assert_eq!(rsa(&[0; 256], "AQAB"), "n is not a number in base64url");
    assert_eq!(
        rsa(&[&[0, 0], modulus(256, 0x80).as_slice()].concat(), "AQAB"),
        "used",
        "leading zeros"
    );
    for unsound in ["AQ", "Ag", "AQAA", "AQAAAAE"] {
        assert_eq!(
            rsa(&modulus(256, 0x80), unsound),
            "not a sound RSA key",
            "{unsound}"
        );
    }
    let mut even = modulus(256, 0x80);
    *even.last_mut().expect("bytes") = 2;
    assert_eq!(rsa(&even, "AQAB"), "not a sound RSA key");
    assert_eq!(rsa(&modulus(256, 0x80), ""), "e is not a number in base64url");
}

#[test]
fn one_kid_names_one_key() {
    let (a, b) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let keys = set(&[
        a.jwk(r#""kid":"k""#),
        b.jwk(r#""kid":"k""#),
        b.jwk(r#""kid":"other""#),
    ]);
    assert_eq!(
        keys.kids().collect::<Vec<_>>(),
        ["other"],
        "neither of the two, whichever came first"
    );
    assert_eq!(keys.ignored().len(), 2);
    assert_eq!(
        keys.select(Some("k"), Algorithm::ES256).err(),
        Some(TokenError::UnknownKid)
    );

    let keys = set(&[a.jwk(r#""kid":"k""#), a.jwk(r#""kid":"k","use":"sig""#)]);
    assert_eq!(
        (keys.len(), keys.ignored().len()),
        (1, 0),
        "the same key repeated is one key"
    );

    let keys = set(&[a.jwk(r#""kid":"k","use":"enc""#), b.jwk(r#""kid":"k""#)]);
    assert_eq!(keys.len(), 1, "a key that is not used takes no name");

    // Different families under one kid are told apart by the algorithm (RFC 7517 section 4.5).
    let keys = set(&[
        a.jwk(r#""kid":"k""#),
        Pair::shared(Algorithm::RS256).jwk(r#""kid":"k""#),
    ]);
    assert_eq!(keys.len(), 2);
    assert!(
        keys.select(Some("k"), Algorithm::ES256).is_ok() && keys.select(Some("k"), Algorithm::PS256).is_ok()
    );
}

#[test]
fn a_document_is_a_jwk_set_within_bounds() {
    let jwk = |n: usize| Pair::shared(Algorithm::ES256).jwk(&format!(r#""kid":"{n}""#));
    assert_eq!(set(&(0..MAX_KEYS).map(jwk).collect::<Vec<_>>()).len(), MAX_KEYS);
    let many = document(&(0..=MAX_KEYS).map(jwk).collect::<Vec<_>>());
    assert_eq!(parse(&many).err(), Some(KeySetError::TooMany));
    let padded = |n: usize| format!(r#"{{"keys":[],"x":"{}"}}"#, "a".repeat(n));
    assert!(parse(&padded(MAX_KEY_SET_BYTES - 100)).is_ok());
    assert_eq!(
        parse(&padded(MAX_KEY_SET_BYTES)).err(),
        Some(KeySetError::TooLarge)
    );
    for wrong in [
        "",
        "<!doctype html><html></html>",
        "{}",
        "[]",
        "null",
        r#"{"keys":{}}"#,
        r#"{"keys":null}"#,
        r#"{"Keys":[]}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"keys":[{"kty":"RSA","kty":"EC"}]}"#,
        r#"{"keys":[]} "#.repeat(2).as_str(),
        r#"{"keys":[]"#,
    ] {
        assert!(matches!(parse(wrong), Err(KeySetError::Malformed(_))), "{wrong}");
    }
    assert!(parse(r#"{"keys":[]}"#).expect("a set").is_empty());
    assert_eq!(
        parse(r#"{"keys":[1,"x",null,[],{}]}"#)
            .expect("a set")
            .ignored()
            .len(),
        5
    );
}

#[test]
fn sets_are_equal_by_their_keys() {
    let (a, b) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let (ka, kb) = (a.jwk(r#""kid":"a""#), b.jwk(r#""kid":"b""#));
    assert_eq!(
        set(&[ka.clone(), kb.clone()]),
        set(&[kb.clone(), ka.clone(), ka.clone()])
    );
    assert_ne!(set(std::slice::from_ref(&ka)), set(&[ka.clone(), kb]));
    assert_ne!(
        set(std::slice::from_ref(&ka)),
        set(&[b.jwk(r#""kid":"a""#)]),
        "the key under the name changed"
    );
    assert_ne!(set(&[ka]), set(&[a.jwk(r#""kid":"c""#)]));
    let rsa = Pair::shared(Algorithm::RS256);
    assert_ne!(
        set(&[rsa.jwk("")]),
        set(&[rsa.jwk(r#""alg":"RS256""#)]),
        "its use changed"
    );
}

#[test]
fn thumbprints_are_those_of_rfc_7638() {
    // RFC 8037 appendix A.3.
    let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"any"}"#;
    let keys = set(&[ed.to_owned()]);
    assert_eq!(
        keys.thumbprints().next().expect("a key").to_string(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_document_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200),
        jwk in r#"\{"kty":"(RSA|EC|OKP|oct)"(,"(n|e|x|y|crv|alg|use|kid|key_ops|d)":("[A-Za-z0-9_-]{0,50}"|\[\]|1|null)){0,6}\}"#) {
        let _ = KeySet::parse(&bytes, &KeyPolicy::SIGNATURES);
        let _ = parse(&format!(r#"{{"keys":[{jwk}]}}"#));
    }
}
