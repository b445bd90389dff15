//! JWT-SVIDs that the authority would never make, signed with its own key: only the rule under test can refuse them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::Authority;

/// The authority's JWT key, as only somebody who can read its disk has it.
pub struct Forge {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Forge {
    /// The key of an authority, by whose token `good` the key's name is known.
    pub fn of(authority: &Authority, good: &str) -> Self {
        let keys = std::fs::read_dir(authority.path("data")).unwrap();
        let key = keys
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with("jwt-") && name.ends_with(".p8")
            })
            .expect("a JWT key on the disk");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &std::fs::read(key).unwrap());
        let kid = part(good, 0)["kid"].as_str().unwrap().to_owned();
        Self {
            pair: pair.unwrap(),
            kid,
        }
    }

    /// An ordinary header and ordinary claims, changed: a member that is set to null is left out.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let now = unix_now();
        let ordinary_header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let ordinary_claims = json!({
            "sub": "spiffe://mesh.local/ns/shop/sa/orders", "aud": ["db"], "exp": now + 300, "iat": now
        });
        self.sign(
            &merged(ordinary_header, header).to_string(),
            &merged(ordinary_claims, claims).to_string(),
        )
    }

    /// These very texts, signed.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Somebody else's key under the name of the authority's.
pub fn stranger(good: &str) -> Forge {
    Forge {
        pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        kid: part(good, 0)["kid"].as_str().unwrap().to_owned(),
    }
}

pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A part of a token as JSON.
pub fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn merged(mut ordinary: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => ordinary.as_object_mut().unwrap().remove(name),
            value => ordinary
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    ordinary
}
