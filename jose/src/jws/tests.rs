//! The examples of the RFCs, and jsonwebtoken as the second opinion.

use base64::Engine as _;
use serde_json::json;

use super::*;
use crate::testing::{ISSUER, NOW, Pair, payload, rules, set};
use crate::{KeyPolicy, Token};

fn check(jwk: &str, compact: &str) -> Result<Vec<u8>, TokenError> {
    let document = format!(r#"{{"keys":[{jwk}]}}"#);
    let keys = KeySet::parse(document.as_bytes(), &KeyPolicy::SIGNATURES).expect("a JWK Set");
    assert_eq!(keys.ignored(), []);
    let jws = Jws::parse(compact)?;
    jws.verify(&keys, Algorithms::ALL)?;
    Ok(jws.unverified_payload().to_vec())
}

/// The payload of RFC 7515 appendices A.2 and A.3.
const JOE: &[u8] = b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
const JOE_TEXT: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn rfc_7515_a2_rs256() {
    let jwk = r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    assert_eq!(
        check(jwk, &format!("eyJhbGciOiJSUzI1NiJ9.{JOE_TEXT}.{signature}")).as_deref(),
        Ok(JOE)
    );
    let other = Jws::parse(&format!("eyJhbGciOiJSUzM4NCJ9.{JOE_TEXT}.{signature}")).map(|j| j.algorithm);
    assert_eq!(other, Ok(Some(Algorithm::RS384)));
    assert_eq!(
        check(jwk, &format!("eyJhbGciOiJSUzM4NCJ9.{JOE_TEXT}.{signature}")),
        Err(TokenError::Signature)
    );
}

#[test]
fn rfc_7515_a3_es256() {
    let jwk = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert_eq!(
        check(jwk, &format!("eyJhbGciOiJFUzI1NiJ9.{JOE_TEXT}.{signature}")).as_deref(),
        Ok(JOE)
    );
    let (r, s) = signature.split_at(43);
    let swapped = format!("{s}{r}");
    assert!(check(jwk, &format!("eyJhbGciOiJFUzI1NiJ9.{JOE_TEXT}.{swapped}")).is_err());
}

#[test]
fn rfc_7515_a4_es512() {
    let jwk = r#"{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}"#;
    let signature = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let token = format!("eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.{signature}");
    assert_eq!(check(jwk, &token).as_deref(), Ok(b"Payload".as_slice()));
    assert_eq!(
        check(jwk, &token.replace("UGF5bG9hZA", "UGF5bG9hZQ")),
        Err(TokenError::Signature)
    );
    assert!(
        matches!(Token::parse(&token), Err(TokenError::Malformed(_))),
        "a JWS, but no JWT"
    );
}

#[test]
fn rfc_8037_a4_eddsa() {
    let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(
        check(jwk, token).as_deref(),
        Ok(b"Example of Ed25519 signing".as_slice())
    );
    assert_eq!(
        check(jwk, &token.replace("RXhh", "RXhi")),
        Err(TokenError::Signature)
    );
}

/// The refusal of a signature over what `algorithm`'s shared key signs.
fn refusal(algorithm: Algorithm, change: impl Fn(&[u8]) -> Vec<u8>) -> Option<TokenError> {
    let pair = Pair::shared(algorithm);
    let keys = set(&[pair.jwk(r#""kid":"k""#)]);
    let token = pair.compact(
        algorithm,
        &format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#),
        &payload(""),
    );
    let (signed, signature) = token.rsplit_once('.').expect("parts");
    let changed = change(&base64url::decode(signature).expect("base64url"));
    let token = format!("{signed}.{}", base64url::encode(&changed));
    Jws::parse(&token)
        .expect("sound")
        .verify(&keys, Algorithms::ALL)
        .err()
}

#[test]
fn a_signature_has_one_length_and_its_numbers_are_in_range() {
    for algorithm in Algorithm::ALL {
        let bad = Some(TokenError::Signature);
        assert_eq!(refusal(algorithm, <[u8]>::to_vec), None);
        assert_eq!(
            refusal(algorithm, |s| [&[0], s].concat()),
            bad,
            "{algorithm}: a byte before"
        );
        assert_eq!(
            refusal(algorithm, |s| [s, &[0]].concat()),
            bad,
            "{algorithm}: a byte after"
        );
        assert_eq!(
            refusal(algorithm, |s| s.split_at(s.len() - 1).0.to_vec()),
            bad,
            "{algorithm}: cut"
        );
        assert_eq!(
            refusal(algorithm, |s| s.split_at(s.len() / 2).0.to_vec()),
            bad,
            "{algorithm}: half"
        );
        assert_eq!(
            refusal(algorithm, |s| vec![0; s.len()]),
            bad,
            "{algorithm}: zeros"
        );
        assert_eq!(
            refusal(algorithm, |s| vec![0xFF; s.len()]),
            bad,
            "{algorithm}: ones"
        );
    }
}

#[test]
fn an_ecdsa_signature_is_no_der_and_has_no_zero_or_order() {
    let bad = Some(TokenError::Signature);
    let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let number = |value: u8| [vec![0; 31], vec![value]].concat();
    for r in [number(0), number(1), order.clone(), vec![0xFF; 32]] {
        for s in [number(0), number(1), order.clone(), vec![0xFF; 32]] {
            assert_eq!(
                refusal(Algorithm::ES256, |_| [r.clone(), s.clone()].concat()),
                bad
            );
        }
    }
    let der = |signature: &[u8]| {
        let (r, s) = signature.split_at(32);
        [&[0x30, 70, 2, 33, 0], r, &[2, 33, 0], s].concat()
    };
    assert_eq!(refusal(Algorithm::ES256, der), bad);
}

#[test]
fn an_eddsa_signature_has_no_twin() {
    // Adding the order of the group to S gives another spelling of the same number (RFC 8032 section 5.1.7).
    let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let twin = |signature: &[u8]| {
        let (r, s) = signature.split_at(32);
        let mut carry = 0;
        let sum = s.iter().zip(&order).map(|(a, b)| {
            let total = u16::from(*a) + u16::from(*b) + carry;
            carry = total >> 8;
            total.to_le_bytes()[0]
        });
        [r.to_vec(), sum.collect()].concat()
    };
    assert_eq!(refusal(Algorithm::EdDSA, twin), Some(TokenError::Signature));
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<&[u8]> = text.as_bytes().chunks(2).collect();
    let byte = |pair: &&[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.iter().map(byte).collect()
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ascii"))
        .collect();
    format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        lines.join("\n")
    )
}

/// The nine algorithms that jsonwebtoken has too.
fn theirs(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    algorithm.name().parse().ok()
}

#[test]
fn what_jsonwebtoken_signs_we_accept_and_the_other_way_round() {
    let mut compared = 0;
    for algorithm in Algorithm::ALL {
        let Some(their_algorithm) = theirs(algorithm) else {
            assert_eq!(algorithm, Algorithm::ES512);
            continue;
        };
        let pair = Pair::shared(algorithm);
        let key_pem = pem(&pair.pkcs8());
        let signer = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => jsonwebtoken::EncodingKey::from_ec_pem(key_pem.as_bytes()),
            Algorithm::EdDSA => jsonwebtoken::EncodingKey::from_ed_pem(key_pem.as_bytes()),
            _ => jsonwebtoken::EncodingKey::from_rsa_pem(key_pem.as_bytes()),
        };
        let mut header = jsonwebtoken::Header::new(their_algorithm);
        header.kid = Some("k".to_owned());
        let claims = json!({"iss": ISSUER, "sub": "alice", "aud": ["x", "shop"], "exp": NOW + 60, "nbf": NOW, "r": {"a": [1]}});
        let token = jsonwebtoken::encode(&header, &claims, &signer.expect("their key")).expect("their token");
        let keys = set(&[pair.jwk(r#""kid":"k""#)]);
        let verified = Token::parse(&token)
            .expect("sound")
            .verify(&keys, &rules(), NOW)
            .expect("ours accepts");
        assert_eq!(verified.claims.audience, ["x", "shop"]);

        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(&pair.jwk(r#""kid":"k""#)).expect("their JWK");
        let verifier = jsonwebtoken::DecodingKey::from_jwk(&jwk).expect("their key");
        let mut validation = jsonwebtoken::Validation::new(their_algorithm);
        validation.set_audience(&["shop"]);
        validation.set_issuer(&[ISSUER]);
        validation.validate_exp = false;
        let ours = pair.compact(
            algorithm,
            &format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#),
            &payload(""),
        );
        let decoded =
            jsonwebtoken::decode::<serde_json::Value>(&ours, &verifier, &validation).expect("theirs accepts");
        assert_eq!(decoded.claims["sub"], "alice");

        // And both refuse the same forgery.
        let forged = Pair::new(algorithm).compact(
            algorithm,
            &format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#),
            &payload(""),
        );
        assert!(jsonwebtoken::decode::<serde_json::Value>(&forged, &verifier, &validation).is_err());
        let refusal = Token::parse(&forged).expect("sound").verify(&keys, &rules(), NOW);
        assert_eq!(refusal, Err(TokenError::Signature));
        compared += 1;
    }
    assert_eq!(compared, 9);
}
