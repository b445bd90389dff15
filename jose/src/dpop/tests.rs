//! The examples of RFC 9449, and every rule of its section 4.3 broken one at a time, under a good signature.

use super::*;
use crate::Algorithm;
use crate::testing::{NOW, Pair};

const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const URI: &str = "https://resource.example.org/protectedresource";

fn check(proof: &str, method: &str, uri: &str, now: i64) -> Result<Proof, ProofError> {
    let uri = HttpUri::parse(uri).unwrap();
    let rules = ProofRules {
        algorithms: Algorithms::ALL,
        method,
        uri: &uri,
        token: TOKEN,
        max_age: 60,
        leeway: 5,
    };
    Proof::verify(proof, &rules, now)
}

/// RFC 9449 section 7.1, figure 12: the proof beside an access token.
const EXAMPLE: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik\
VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR\
nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE\
QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIj\
oiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0Z\
WRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNF\
c05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71E\
OptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";

/// RFC 9449 section 4.1, figure 2: the proof at a token endpoint, which has no access token yet.
const AT_TOKEN_ENDPOINT: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik\
VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR\
nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE\
QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIj\
oiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwia\
WF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg\
4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";

#[test]
fn the_example_of_the_standard_passes() {
    let proof = check(EXAMPLE, "GET", URI, 1_562_262_620).unwrap();
    // The thumbprint that section 6.1 gives for this key.
    assert_eq!(
        proof.key.to_string(),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
    assert_eq!((proof.jti.as_str(), proof.nonce), ("e1j3V_bKic8-LAEB", None));
    assert_eq!(proof.issued, 1_562_262_618);
}

#[test]
fn the_example_passes_for_nothing_else() {
    let now = 1_562_262_620;
    for (proof, method, uri, at) in [
        (EXAMPLE, "POST", URI, now),
        (EXAMPLE, "get", URI, now),
        (EXAMPLE, "GET", "https://resource.example.org/other", now),
        (
            EXAMPLE,
            "GET",
            "http://resource.example.org/protectedresource",
            now,
        ),
        (EXAMPLE, "GET", "https://other.example.org/protectedresource", now),
        (EXAMPLE, "GET", URI, now + 64),
        (EXAMPLE, "GET", URI, now - 8),
        // No `ath`: it was made for no access token.
        (AT_TOKEN_ENDPOINT, "POST", "https://server.example.com/token", now),
    ] {
        let refused = check(proof, method, uri, at).unwrap_err();
        assert!(
            matches!(refused, ProofError::Wrong(_)),
            "{method} {uri} {at}: {refused}"
        );
    }
    assert!(check(EXAMPLE, "GET", &format!("{URI}?x=1"), now + 63).is_ok());
    assert!(check(EXAMPLE, "GET", URI, now - 7).is_ok(), "the leeway");
}

fn ath() -> String {
    base64url::encode(digest(&SHA256, TOKEN.as_bytes()).as_ref())
}

/// A proof whose header and payload are as given, well signed.
fn made(algorithm: Algorithm, header: &str, payload: &str) -> Result<Proof, ProofError> {
    let text = Pair::shared(algorithm).compact(algorithm, header, payload);
    check(&text, "GET", URI, NOW)
}

fn header(algorithm: Algorithm) -> String {
    let jwk = Pair::shared(algorithm).jwk("");
    format!(r#"{{"typ":"dpop+jwt","alg":"{algorithm}","jwk":{jwk}}}"#)
}

fn payload(change: &[(&str, Option<&str>)]) -> String {
    let (iat, ath) = (NOW.to_string(), format!("\"{}\"", ath()));
    let uri = format!("\"{URI}\"");
    let mut members = vec![
        ("jti", "\"one\""),
        ("htm", "\"GET\""),
        ("htu", uri.as_str()),
        ("iat", iat.as_str()),
        ("ath", ath.as_str()),
    ];
    for (name, value) in change {
        members.retain(|(known, _)| known != name);
        members.extend(value.map(|value| (*name, value)));
    }
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn every_asymmetric_algorithm_may_prove() {
    for algorithm in Algorithm::ALL {
        let proof = made(
            algorithm,
            &header(algorithm),
            &payload(&[("nonce", Some("\"n\""))]),
        )
        .unwrap();
        assert_eq!(proof.nonce.as_deref(), Some("n"), "{algorithm}");
    }
    let text =
        Pair::shared(Algorithm::ES256).compact(Algorithm::ES256, &header(Algorithm::ES256), &payload(&[]));
    let uri = HttpUri::parse(URI).unwrap();
    let rules = ProofRules {
        algorithms: [Algorithm::EdDSA].into_iter().collect(),
        method: "GET",
        uri: &uri,
        token: TOKEN,
        max_age: 60,
        leeway: 5,
    };
    assert_eq!(
        Proof::verify(&text, &rules, NOW),
        Err(ProofError::Jws(TokenError::Algorithm)),
        "not on the list"
    );
}

#[test]
fn every_claim_is_needed_and_must_be_right() {
    let es = Algorithm::ES256;
    assert!(made(es, &header(es), &payload(&[])).is_ok(), "the control");
    let long = format!("\"{}\"", "x".repeat(257));
    let cases: &[(&str, &[Option<&str>])] = &[
        ("jti", &[None, Some("7"), Some("\"\""), Some("null"), Some(&long)]),
        ("htm", &[None, Some("\"get\""), Some("[\"GET\"]")]),
        ("htu", &[None, Some("\"/protectedresource\""), Some("7")]),
        (
            "iat",
            &[
                None,
                Some("\"1800000000\""),
                Some("1e400"),
                Some("-1"),
                Some("1799999934"),
                Some("1800000006"),
            ],
        ),
        (
            "ath",
            &[
                None,
                Some("\"\""),
                Some("\"fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEa\""),
            ],
        ),
        ("nonce", &[Some("7"), Some("\"\""), Some(&long)]),
        ("exp", &[Some("1799999995"), Some("\"x\"")]),
        ("nbf", &[Some("1800000006"), Some("true")]),
    ];
    for (name, values) in cases {
        for value in *values {
            assert!(
                made(es, &header(es), &payload(&[(name, *value)])).is_err(),
                "{name} {value:?}"
            );
        }
    }
    assert!(made(es, &header(es), r#"["jti"]"#).is_err());
    let twice = payload(&[]).replace("{\"jti\"", "{\"jti\":\"two\",\"jti\"");
    assert!(made(es, &header(es), &twice).is_err());
}

#[test]
fn the_key_is_public_fits_and_signed_it() {
    let (es, other) = (Algorithm::ES256, Pair::new(Algorithm::ES256));
    let head = |typ: &str, alg: &str, jwk: &str| format!(r#"{{"typ":"{typ}","alg":"{alg}","jwk":{jwk}}}"#);
    let own = Pair::shared(es).jwk("");
    assert!(
        made(es, &head("DPoP+JWT", "ES256", &own), &payload(&[])).is_ok(),
        "a media type has no case"
    );
    for header in [
        head("JWT", "ES256", &own),
        format!(r#"{{"alg":"ES256","jwk":{own}}}"#),
        r#"{"typ":"dpop+jwt","alg":"ES256","kid":"one"}"#.to_owned(),
        head("dpop+jwt", "ES256", &other.jwk("")),
        head("dpop+jwt", "ES256", &Pair::shared(es).jwk(r#""d":"AQ""#)),
        head("dpop+jwt", "ES256", &Pair::shared(es).jwk(r#""use":"enc""#)),
        head("dpop+jwt", "ES256", &Pair::shared(Algorithm::EdDSA).jwk("")),
        head("dpop+jwt", "HS256", r#"{"kty":"oct","k":"AQ"}"#),
        head("dpop+jwt", "none", &own),
        head("dpop+jwt", "ES256", "\"a key\""),
        format!(r#"{{"typ":"dpop+jwt","alg":"ES256","jwk":{own},"crit":["jwk"]}}"#),
    ] {
        assert!(made(es, &header, &payload(&[])).is_err(), "{header}");
    }
}
