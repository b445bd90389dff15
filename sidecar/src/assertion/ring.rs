//! The keys of statements: one signs, the next is published already, the one before stays published while what it signed may
//! still be believed.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use std::sync::Arc;

use super::statement::{MAX_BYTES, Statement};
use super::{AssertionError, TYPE};

/// How long a key signs, in seconds; for as long before that it is published.
const LIFE: u64 = 3600;
/// How much longer than a statement its key is published, in seconds: for requests that are under way, and other clocks.
const AFTERLIFE: u64 = 300;

/// The keys of now.
pub(super) struct Ring {
    current: Arc<Key>,
    next: Arc<Key>,
    /// The one before, and until when it is published (Unix seconds).
    last: Option<(Arc<Key>, u64)>,
    /// When `current` began to sign (Unix seconds).
    since: u64,
}

impl Ring {
    pub(super) fn new(now: u64) -> Result<Self, AssertionError> {
        Ok(Self {
            current: Arc::new(Key::new()?),
            next: Arc::new(Key::new()?),
            last: None,
            since: now,
        })
    }

    /// The keys of `now`, if they are others.
    pub(super) fn rotated(&self, now: u64, ttl: Duration) -> Option<Result<Self, AssertionError>> {
        // A clock that went back starts the hour anew instead of stopping it.
        if now >= self.since && now - self.since < LIFE {
            let over = self.last.as_ref().is_some_and(|(_, until)| now >= *until);
            return over.then(|| {
                Ok(Self {
                    current: Arc::clone(&self.current),
                    next: Arc::clone(&self.next),
                    last: None,
                    since: self.since,
                })
            });
        }
        let next = match Key::new() {
            Ok(key) => Arc::new(key),
            Err(error) => return Some(Err(error)),
        };
        let until = now.saturating_add(ttl.as_secs()).saturating_add(AFTERLIFE);
        Some(Ok(Self {
            current: Arc::clone(&self.next),
            next,
            last: Some((Arc::clone(&self.current), until)),
            since: now,
        }))
    }

    /// The id of the key that signs.
    pub(super) fn kid(&self) -> &str {
        &self.current.kid
    }

    /// The statement in compact serialization (RFC 7515 section 3.1).
    pub(super) fn sign(&self, statement: &Statement<'_>) -> Result<String, AssertionError> {
        let payload = serde_json::to_vec(statement).map_err(|_| AssertionError::TooLarge)?;
        if payload.len() > MAX_BYTES {
            return Err(AssertionError::TooLarge);
        }
        let key = &self.current;
        // `header.payload.signature`, the signature 64 bytes.
        let mut token = String::with_capacity(key.header.len() + payload.len() / 3 * 4 + 96);
        token.push_str(&key.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&payload, &mut token);
        let signature = key
            .pair
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| AssertionError::Key)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// The public keys.
    pub(super) fn jwks(&self) -> Value {
        let keys = [
            Some(&self.current),
            Some(&self.next),
            self.last.as_ref().map(|(key, _)| key),
        ];
        json!({"keys": keys.into_iter().flatten().map(|key| &key.jwk).collect::<Vec<_>>()})
    }
}

/// One key.
struct Key {
    pair: EcdsaKeyPair,
    kid: String,
    jwk: Value,
    /// The JWS header, encoded.
    header: String,
}

impl Key {
    fn new() -> Result<Self, AssertionError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| AssertionError::Key)?;
        // An uncompressed point: 4, then x and y of 32 bytes each (RFC 7518 section 6.2.1).
        let point = pair.public_key().as_ref();
        let halves = point.get(1..).and_then(|point| point.split_at_checked(32));
        let (x, y) = halves.ok_or(AssertionError::Key)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638: the same key has the same name, whoever computes it.
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()).as_ref());
        let header = json!({"alg": "ES256", "typ": TYPE, "kid": kid}).to_string();
        Ok(Self {
            pair,
            jwk: json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y}),
            kid,
            header: URL_SAFE_NO_PAD.encode(header),
        })
    }
}
