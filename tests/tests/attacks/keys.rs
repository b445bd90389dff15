//! The keys of an issuer of the test's own, and whatever tokens can be made with them. Signed by aws-lc-rs straight, so that every
//! malformed token carries a good signature and only the rule under test can refuse it.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// One set for all tests.
pub static KEYS: LazyLock<Keys> = LazyLock::new(Keys::new);

/// An RSA, a P-256 and an Ed25519 key, and one that is published nowhere.
pub struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    foreign: EcdsaKeyPair,
}

/// The secret that the published set gives as an `oct` key.
pub const OCT: &[u8] = b"a secret that is none, since it is published";

/// base64url without padding.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Unix seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn new_ec() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn ec_jwk(pair: &EcdsaKeyPair, kid: &str) -> Value {
    let point = &pair.public_key().as_ref()[1..];
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(&point[..32]), "y": b64(&point[32..])})
}

impl Keys {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap(),
            ec: new_ec(),
            ed: Ed25519KeyPair::generate().unwrap(),
            foreign: new_ec(),
        }
    }

    /// The published set.
    pub fn document(&self) -> String {
        let n = self
            .rsa
            .public_key()
            .modulus()
            .big_endian_without_leading_zero()
            .to_vec();
        json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": b64(n), "e": "AQAB"},
            ec_jwk(&self.ec, "ec"),
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(self.ed.public_key().as_ref())},
            {"kty": "oct", "kid": "oct", "k": b64(OCT)},
        ]})
        .to_string()
    }

    /// The foreign key as a JWK.
    pub fn foreign_jwk(&self, kid: &str) -> Value {
        ec_jwk(&self.foreign, kid)
    }

    /// The public keys in forms that somebody might take for a shared secret.
    pub fn as_secrets(&self) -> Vec<Vec<u8>> {
        let der = self.rsa.public_key().as_ref().to_vec();
        let point = self.ec.public_key().as_ref().to_vec();
        let pem = |name: &str, der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {name}-----\n{text}\n-----END {name}-----\n").into_bytes()
        };
        vec![
            pem("RSA PUBLIC KEY", &der),
            pem("PUBLIC KEY", &point),
            der,
            point,
            ec_jwk(&self.ec, "ec").to_string().into_bytes(),
            OCT.to_vec(),
        ]
    }

    fn sign(&self, with: &str, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match with {
            "rsa" => {
                let mut out = vec![0; self.rsa.public_modulus_len()];
                self.rsa
                    .sign(&signature::RSA_PKCS1_SHA256, &rng, message, &mut out)
                    .unwrap();
                out
            }
            "ed" => self.ed.sign(message).as_ref().to_vec(),
            "foreign" => self.foreign.sign(&rng, message).unwrap().as_ref().to_vec(),
            _ => self.ec.sign(&rng, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token of exactly this header and payload, signed with `rsa`, `ec`, `ed` or `foreign`.
    pub fn token(&self, with: &str, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = self.sign(with, signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

/// A token with an HMAC.
pub fn hmac_token(kid: &str, secret: &[u8], payload: &str) -> String {
    let signed = format!(
        "{}.{}",
        b64(json!({"alg": "HS256", "kid": kid}).to_string()),
        b64(payload)
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", b64(tag))
}

/// The claims of a good token.
pub fn claims(user: &str, role: &str) -> Value {
    json!({"iss": "http://127.0.0.1:9999", "sub": user, "aud": "shop", "exp": now() + 600, "iat": now() - 1, "roles": [role]})
}

/// A good token of bob, who is a clerk and no admin.
pub fn user_token() -> String {
    KEYS.token(
        "ec",
        r#"{"alg":"ES256","kid":"ec"}"#,
        &claims("bob", "clerk").to_string(),
    )
}

/// A good token of root, who is an admin.
pub fn admin_token() -> String {
    KEYS.token(
        "rsa",
        r#"{"alg":"RS256","kid":"rsa"}"#,
        &claims("root", "admin").to_string(),
    )
}
