use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_jose::Algorithm;
use serde_json::{Value as JsonValue, json};
use spiffe::TrustDomain;

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A key of one of the nine algorithms, which signs what it is told, sound or not.
enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Pair {
    fn new(algorithm: Algorithm) -> Self {
        let scheme = match algorithm {
            Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
            _ => return Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self::Ec(EcdsaKeyPair::generate(scheme).unwrap())
    }

    fn jwk(&self, kid: &str) -> JsonValue {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ec(pair) => {
                let (x, y) =
                    pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
                let crv = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y), "kid": kid, "use": "jwt-svid"})
            }
            Self::Rsa(pair) => {
                let n = pair
                    .public_key()
                    .modulus()
                    .big_endian_without_leading_zero()
                    .to_vec();
                json!({"kty": "RSA", "n": text(&n), "e": "AQAB", "kid": kid, "use": "jwt-svid"})
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(pair) => pair
                .sign(&SystemRandom::new(), message)
                .unwrap()
                .as_ref()
                .to_vec(),
            Self::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut out)
                    .unwrap();
                out
            }
        }
    }

    fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let algorithm = serde_json::from_str::<JsonValue>(header)
            .ok()
            .and_then(|header| header["alg"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let signature = self.sign(&algorithm, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn trust() -> Trust {
    Trust {
        domain: TrustDomain::new("td").unwrap(),
        roots: Vec::new(),
        jwt_keys: Vec::new(),
        crls: Vec::new(),
        sequence: 1,
        refresh_hint: Duration::from_secs(300),
    }
}

fn keys(jwks: &[JsonValue]) -> KeySet {
    let document = json!({ "keys": jwks }).to_string();
    KeySet::parse(document.as_bytes(), &KeyPolicy::JWT_SVID).unwrap()
}

fn ask(keys: &KeySet, token: &str) -> Result<(SpiffeId, Struct), &'static str> {
    validate(&trust(), keys, "db".to_owned(), token, now())
        .map(|believed| (believed.id, believed.claims))
        .map_err(|refused| refused.label())
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1800000300}"#;

/// S-23: all nine algorithms.
#[test]
fn tokens_of_all_nine_algorithms_are_believed() {
    for algorithm in Algorithms::JWT_SVID.iter() {
        let pair = Pair::new(algorithm);
        let keys = keys(&[pair.jwk("k")]);
        let header = format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#);
        let (id, _) = ask(&keys, &pair.token(&header, CLAIMS)).unwrap();
        assert_eq!(id.to_string(), "spiffe://td/a", "{algorithm}");
        let other = Pair::new(algorithm).token(&header, CLAIMS);
        assert_eq!(ask(&keys, &other), Err("bad_sig"), "{algorithm}");
    }
}

/// S-24, S-28, S-29, S-30, S-33: what is allowed.
#[test]
fn what_the_specification_allows_is_believed() {
    let pair = Pair::new(Algorithm::ES256);
    let keys = keys(&[pair.jwk("k")]);
    for header in [
        HEADER,
        r#"{"alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k","typ":"JOSE"}"#,
        r#"{"alg":"ES256"}"#,
    ] {
        assert!(ask(&keys, &pair.token(header, CLAIMS)).is_ok(), "{header}");
    }
    for claims in [
        r#"{"sub":"spiffe://td/a","aud":"db","exp":1800000300}"#,
        r#"{"sub":"spiffe://td/a","aud":["x","db"],"exp":1800000300,"iss":"https://anybody","jti":"1"}"#,
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1799999999}"#,
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1800000300.5,"nbf":1800000004}"#,
    ] {
        let (_, said) =
            ask(&keys, &pair.token(HEADER, claims)).unwrap_or_else(|error| panic!("{claims}: {error}"));
        let aud = said.fields["aud"].kind.clone();
        assert!(
            matches!(aud, Some(Kind::ListValue(_))),
            "aud is always a list: {aud:?}"
        );
    }
}

/// S-27 to S-34, the headers. Each token is signed by the right key: only the rule under test can refuse it.
#[test]
fn every_bad_header_is_refused() {
    let pair = Pair::new(Algorithm::ES256);
    let keys = keys(&[
        pair.jwk("k"),
        Pair::new(Algorithm::ES384).jwk("other"),
        Pair::new(Algorithm::RS256).jwk("r"),
    ]);
    for (header, label) in [
        (r#"{"alg":"none","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"None","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"HS256","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"EdDSA","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"es256","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"ES256K","kid":"k"}"#, "bad_alg"),
        (r#"{"alg":"","kid":"k"}"#, "bad_alg"),
        (r#"{"kid":"k"}"#, "bad_header"),
        (r#"{"alg":null,"kid":"k"}"#, "bad_header"),
        // The algorithm is not the key's (S-31).
        (r#"{"alg":"ES384","kid":"k"}"#, "no_key"),
        (r#"{"alg":"RS256","kid":"k"}"#, "no_key"),
        (r#"{"alg":"ES256","kid":"r"}"#, "no_key"),
        (r#"{"alg":"ES512"}"#, "no_key"),
        (r#"{"alg":"ES256","kid":"unknown"}"#, "unknown_kid"),
        (r#"{"alg":"ES256","kid":""}"#, "unknown_kid"),
        (r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#, "bad_header"),
        (r#"{"alg":"ES256","kid":"k","typ":"wit+jwt"}"#, "bad_header"),
        (r#"{"alg":"ES256","kid":"k","typ":"dpop+jwt"}"#, "bad_header"),
        (r#"{"alg":"ES256","kid":"k","typ":""}"#, "bad_header"),
        (
            r#"{"alg":"ES256","kid":"k","crit":["exp"],"exp":1}"#,
            "bad_header",
        ),
        (r#"{"alg":"ES256","kid":"k","crit":[]}"#, "bad_header"),
        (r#"{"alg":"ES256","kid":"k","b64":false}"#, "bad_header"),
        (r#"{"alg":"ES256","kid":"k","kid":"k"}"#, "malformed"),
        (r#"{"alg":"ES256","kid":"k"} x"#, "malformed"),
        ("[]", "malformed"),
    ] {
        assert_eq!(ask(&keys, &pair.token(header, CLAIMS)), Err(label), "{header}");
    }
}

/// What each claim must not be, and the label of its refusal.
const BAD_CLAIMS: &[(&str, &str)] = &[
    (r#"{"sub":"spiffe://td/a","exp":1800000300}"#, "bad_claim"),
    (
        r#"{"sub":"spiffe://td/a","aud":[],"exp":1800000300}"#,
        "bad_claim",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":null,"exp":1800000300}"#,
        "bad_claim",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":[7],"exp":1800000300}"#,
        "bad_claim",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":["other"],"exp":1800000300}"#,
        "wrong_aud",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":"DB","exp":1800000300}"#,
        "wrong_aud",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":"db "  ,"exp":1800000300}"#,
        "wrong_aud",
    ),
    (r#"{"sub":"spiffe://td/a","aud":["db"]}"#, "bad_claim"),
    (
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":"1800000300"}"#,
        "bad_claim",
    ),
    (r#"{"sub":"spiffe://td/a","aud":["db"],"exp":null}"#, "bad_claim"),
    (r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1e300}"#, "bad_claim"),
    (
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1799999990}"#,
        "expired",
    ),
    (r#"{"sub":"spiffe://td/a","aud":["db"],"exp":-1}"#, "bad_claim"),
    (
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1800000300,"nbf":1800000010}"#,
        "not_yet_valid",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1800000300,"nbf":"x"}"#,
        "bad_claim",
    ),
    (
        r#"{"sub":"spiffe://td/a","aud":["db"],"exp":1800000300,"iat":1800000010}"#,
        "issued_in_future",
    ),
    (r#"{"aud":["db"],"exp":1800000300}"#, "bad_claim"),
    (r#"{"sub":"","aud":["db"],"exp":1800000300}"#, "bad_claim"),
    (
        r#"{"sub":["spiffe://td/a"],"aud":["db"],"exp":1800000300}"#,
        "bad_claim",
    ),
    (r#"{"sub":"alice","aud":["db"],"exp":1800000300}"#, "bad_sub"),
    (
        r#"{"sub":"https://td/a","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td/","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td/../a","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td/a%2fb","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td/a?b","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"SPIFFE://td/a","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://TD/a","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    (
        r#"{"sub":"spiffe://td:80/a","aud":["db"],"exp":1800000300}"#,
        "bad_sub",
    ),
    // A key of ours speaks for no other trust domain.
    (
        r#"{"sub":"spiffe://other/a","aud":["db"],"exp":1800000300}"#,
        "foreign_sub",
    ),
    (
        r#"{"sub":"spiffe://td.evil/a","aud":["db"],"exp":1800000300}"#,
        "foreign_sub",
    ),
    (
        r#"{"sub":"spiffe://td/a","sub":"spiffe://td/b","aud":["db"],"exp":1800000300}"#,
        "malformed",
    ),
    ("7", "malformed"),
    ("", "malformed"),
];

/// S-27, S-31, S-32, and S-1 to S-5 of the subject.
#[test]
fn every_bad_claim_is_refused() {
    let pair = Pair::new(Algorithm::ES256);
    let keys = keys(&[pair.jwk("k")]);
    for (claims, label) in BAD_CLAIMS {
        assert_eq!(ask(&keys, &pair.token(HEADER, claims)), Err(*label), "{claims}");
    }
    let path = "a/".repeat(4000);
    let long = format!(r#"{{"sub":"spiffe://td/{path}","aud":["db"],"exp":1800000300}}"#);
    assert_eq!(ask(&keys, &pair.token(HEADER, &long)), Err("oversized"));
}

/// S-21, S-31: what is not the compact serialization.
#[test]
fn every_other_form_is_refused() {
    let pair = Pair::new(Algorithm::ES256);
    let keys = keys(&[pair.jwk("k")]);
    let good = pair.token(HEADER, CLAIMS);
    assert!(ask(&keys, &good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    for (token, label) in [
        (
            json!({"payload": payload, "protected": header, "signature": signature}).to_string(),
            "malformed",
        ),
        (
            json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]})
                .to_string(),
            "malformed",
        ),
        (format!("{header}.{payload}"), "malformed"),
        (format!("{header}.{payload}."), "malformed"),
        (format!("{good}.{signature}"), "malformed"),
        (format!(" {good}"), "malformed"),
        (format!("{good}\n"), "malformed"),
        (format!("{good}="), "malformed"),
        (format!("Bearer {good}"), "malformed"),
        (
            format!("{header}.{payload}.{}", signature.get(..84).unwrap()),
            "bad_sig",
        ),
        (
            format!(
                "{header}.{}.{signature}",
                URL_SAFE_NO_PAD.encode(CLAIMS.replace("/a", "/b"))
            ),
            "bad_sig",
        ),
        ("x".repeat(60_000), "oversized"),
    ] {
        assert_eq!(ask(&keys, &token), Err(label), "{token}");
    }
}

/// S-34: a key for another use verifies nothing, and does not spoil the others; an empty bundle trusts nobody (S-61).
#[test]
fn a_key_for_another_use_verifies_nothing() {
    let (pair, good) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let token = pair.token(HEADER, CLAIMS);
    for usage in [json!("x509-svid"), json!("wit-svid"), json!("sig"), json!(null)] {
        let mut jwk = pair.jwk("k");
        jwk["use"] = usage;
        let keys = keys(&[
            jwk,
            json!({"kty": "new", "use": "jwt-svid", "kid": "n"}),
            good.jwk("good"),
        ]);
        assert_eq!(ask(&keys, &token), Err("unknown_kid"));
        assert!(ask(&keys, &good.token(r#"{"alg":"ES256","kid":"good"}"#, CLAIMS)).is_ok());
    }
    assert_eq!(ask(&keys(&[]), &token), Err("unknown_kid"));
    assert_eq!(
        ask(&keys(&[]), &pair.token(r#"{"alg":"ES256"}"#, CLAIMS)),
        Err("no_key")
    );
}

/// S-51: the published set is read back as keys of JWT-SVIDs, and holds nothing else.
#[test]
fn the_published_set_is_a_standard_one_with_keys_of_jwt_svids_alone() {
    let Pair::Ec(pair) = Pair::new(Algorithm::ES256) else {
        panic!("an EC key")
    };
    let key = JwtKey::new(pair.public_key().as_ref()).unwrap();
    let document: JsonValue = serde_json::from_slice(&jwks(std::slice::from_ref(&key))).unwrap();
    let members: Vec<_> = document.as_object().unwrap().keys().collect();
    assert_eq!(members, ["keys"]);
    assert_eq!(document["keys"][0]["use"], "jwt-svid");
    assert_eq!(document["keys"][0]["kid"], key.kid.as_str());
}

#[test]
fn keys_made_ready_follow_those_that_are_published() {
    let new = || match Pair::new(Algorithm::ES256) {
        Pair::Ec(pair) => pair,
        Pair::Rsa(_) => panic!("an EC key"),
    };
    let (first, second) = (new(), new());
    let key = |pair: &EcdsaKeyPair| JwtKey::new(pair.public_key().as_ref()).unwrap();
    let mut trust = trust();
    trust.jwt_keys = vec![key(&first)];
    let validator = Validator::default();
    let header = |pair: &EcdsaKeyPair| format!(r#"{{"alg":"ES256","kid":"{}"}}"#, key(pair).kid);
    let (old_header, new_header) = (header(&first), header(&second));
    let old = Pair::Ec(first).token(&old_header, CLAIMS);
    let (second_key, second) = (key(&second), Pair::Ec(second));
    let new = second.token(&new_header, CLAIMS);
    let ask = |trust: &Trust, token: &str| {
        validator
            .validate(trust, "db".to_owned(), token, now())
            .map(|_| ())
            .map_err(|refused| refused.label())
    };
    assert_eq!(
        (ask(&trust, &old), ask(&trust, &new)),
        (Ok(()), Err("unknown_kid"))
    );
    trust.jwt_keys.push(second_key);
    assert_eq!((ask(&trust, &old), ask(&trust, &new)), (Ok(()), Ok(())));
    trust.jwt_keys.remove(0);
    assert_eq!(
        (ask(&trust, &old), ask(&trust, &new)),
        (Err("unknown_kid"), Ok(())),
        "retired"
    );
}
