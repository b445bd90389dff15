//! Tokens of the demo's provider: a form enters, a signed token, or one forged in the way that was asked for, leaves.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::ISSUER;
use crate::demo::failed;
use crate::ui::Failure;

/// The life of a token, in seconds.
pub const LIFE: i64 = 600;

/// The client to which tokens are issued, as its SPIFFE ID: they are web's to present.
const CLIENT: &str = "spiffe://mesh.local/ns/shop/sa/web";

/// Who can sign in, and with which roles.
const USERS: [(&str, &[&str]); 2] = [("alice", &["clerk"]), ("bob", &[])];

/// The names of those who can sign in.
pub fn names() -> [&'static str; USERS.len()] {
    USERS.map(|(name, _)| name)
}

/// The ways in which a token can be forged, all but the first.
pub const FLAWS: [&str; 8] = [
    "none",
    "alg_none",
    "wrong_key",
    "expired",
    "not_yet",
    "wrong_audience",
    "wrong_issuer",
    "unknown_kid",
];

/// The provider's keys.
pub struct Keys {
    /// Newest last; it signs.
    signing: Vec<Key>,
    /// A key that is published nowhere.
    foreign: Key,
    /// How the key set is answered.
    pub behaviour: String,
}

struct Key {
    kid: String,
    pair: KeyPair,
}

impl Key {
    fn sign(&self, header: &Header, claims: &Value) -> Result<String, String> {
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        encode(header, claims, &key).map_err(|error| error.to_string())
    }

    /// RFC 7517 and RFC 7518, 6.2.1.
    fn public(&self) -> Value {
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let (x, y) = self
            .pair
            .der_bytes()
            .get(1..)
            .unwrap_or_default()
            .split_at_checked(32)
            .unwrap_or_default();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        })
    }
}

impl Keys {
    /// The keys of a provider whose first signing key is `pem`.
    pub fn new(pem: &str) -> Result<Self, Failure> {
        let pair = KeyPair::from_pem(pem).map_err(failed("reading the provider's signing key"))?;
        Ok(Self {
            signing: vec![Key {
                kid: "demo-1".to_owned(),
                pair,
            }],
            foreign: Key {
                kid: String::new(),
                pair: new_pair()?,
            },
            behaviour: String::new(),
        })
    }

    /// A new key signs from now on; the old ones stay published.
    pub fn rotate(&mut self) -> Result<String, Failure> {
        let kid = format!("demo-{}", self.signing.len() + 1);
        self.signing.push(Key {
            kid: kid.clone(),
            pair: new_pair()?,
        });
        Ok(kid)
    }

    /// The published key set.
    pub fn public(&self) -> Value {
        json!({"keys": self.signing.iter().map(Key::public).collect::<Vec<_>>()})
    }

    /// A token as the form wants it: `user`, `flaw`, `ttl` in seconds, `audience`, and `claims`: a JSON object in base64url
    /// whose members replace those of the token; `null` takes one out.
    pub fn mint(&self, form: &[(String, String)], now: i64) -> Result<String, String> {
        let field = |name: &str| {
            form.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let user = field("user").ok_or("which user?")?;
        let (_, roles) = USERS
            .iter()
            .find(|(name, _)| *name == user)
            .ok_or("no such user")?;
        let flaw = field("flaw").unwrap_or("none");
        if !FLAWS.contains(&flaw) {
            return Err(format!("no such flaw; there are {}", FLAWS.join(", ")));
        }
        let life = field("ttl").and_then(|text| text.parse().ok()).unwrap_or(LIFE);
        let (issued, expires) = if flaw == "expired" {
            (now - 2 * LIFE, now - LIFE)
        } else {
            (now, now + life)
        };
        let mut claims = json!({
            "iss": if flaw == "wrong_issuer" { "https://elsewhere.example" } else { ISSUER },
            "sub": user,
            "aud": if flaw == "wrong_audience" { "another-shop" } else { field("audience").unwrap_or("shop") },
            "iat": issued,
            "nbf": if flaw == "not_yet" { now + LIFE } else { issued },
            "exp": expires,
            "roles": roles,
            "azp": CLIENT,
        });
        if let (Some(text), Some(claims)) = (field("claims"), claims.as_object_mut()) {
            for (name, value) in further(text)? {
                if value.is_null() {
                    claims.remove(&name);
                } else {
                    claims.insert(name, value);
                }
            }
        }
        self.sign(flaw, &claims)
    }

    fn sign(&self, flaw: &str, claims: &Value) -> Result<String, String> {
        let newest = self.signing.last().ok_or("no key")?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(if flaw == "unknown_kid" {
            "nobody-knows".to_owned()
        } else {
            newest.kid.clone()
        });
        match flaw {
            "alg_none" => {
                let head = json!({"typ": "JWT", "alg": "none"});
                Ok(format!(
                    "{}.{}.",
                    BASE64.encode(head.to_string()),
                    BASE64.encode(claims.to_string())
                ))
            }
            "wrong_key" => self.foreign.sign(&header, claims),
            _ => newest.sign(&header, claims),
        }
    }
}

fn further(text: &str) -> Result<serde_json::Map<String, Value>, String> {
    let bytes = BASE64.decode(text).map_err(|error| format!("claims: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("claims: {error}"))
}

fn new_pair() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed("making a signing key"))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

    use super::*;

    const NOW: i64 = 4_000_000_000;

    fn keys() -> Keys {
        Keys::new(&new_pair().unwrap().serialize_pem()).unwrap()
    }

    fn form(user: &str, flaw: &str) -> Vec<(String, String)> {
        vec![("user".into(), user.into()), ("flaw".into(), flaw.into())]
    }

    fn check(keys: &Keys, token: &str) -> Result<Value, String> {
        let set: JwkSet = serde_json::from_value(keys.public()).unwrap();
        let kid = decode_header(token).map_err(|e| e.to_string())?.kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&kid).ok_or("unknown kid")?).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["shop"]);
        validation.set_issuer(&[ISSUER]);
        // The oracle's clock is the machine's: NOW lies in its future, so `exp` and `nbf` are compared here.
        validation.validate_exp = false;
        let claims = decode::<Value>(token, &key, &validation)
            .map_err(|e| e.to_string())?
            .claims;
        let at = |name: &str| claims[name].as_i64().unwrap();
        if at("exp") <= NOW || at("nbf") > NOW {
            Err("not valid now".into())
        } else {
            Ok(claims)
        }
    }

    #[test]
    fn a_published_key_verifies_what_was_signed() {
        let mut keys = keys();
        let before = keys.mint(&form("alice", "none"), NOW).unwrap();
        assert_eq!(keys.rotate().unwrap(), "demo-2");
        let after = keys.mint(&form("bob", "none"), NOW).unwrap();
        assert_eq!(check(&keys, &before).unwrap()["roles"], json!(["clerk"]));
        assert_eq!(check(&keys, &after).unwrap()["roles"], json!([]));
        assert_ne!(
            decode_header(&before).unwrap().kid,
            decode_header(&after).unwrap().kid
        );
    }

    #[test]
    fn a_token_is_web_s_unless_other_claims_are_asked_for() {
        let keys = keys();
        let minted = |claims: &str| {
            let mut form = form("alice", "none");
            form.push(("claims".into(), BASE64.encode(claims)));
            keys.mint(&form, NOW)
        };
        let plain = check(&keys, &keys.mint(&form("alice", "none"), NOW).unwrap()).unwrap();
        assert_eq!(plain["azp"], CLIENT);
        let other = check(&keys, &minted(r#"{"azp":null,"act":{"sub":"bot"}}"#).unwrap()).unwrap();
        assert_eq!(
            (&other["azp"], &other["act"]["sub"], &other["sub"]),
            (&Value::Null, &"bot".into(), &"alice".into())
        );
        assert!(minted("[]").is_err() && minted("x").is_err());
    }

    #[test]
    fn every_flaw_is_one() {
        let keys = keys();
        for flaw in FLAWS.iter().filter(|flaw| **flaw != "none") {
            let token = keys.mint(&form("alice", flaw), NOW).unwrap();
            assert!(check(&keys, &token).is_err(), "{flaw} was accepted");
        }
        assert!(keys.mint(&form("mallory", "none"), NOW).is_err());
        assert!(keys.mint(&form("alice", "other"), NOW).is_err());
    }
}
