//! How a user appears in records: issuer and subject enter, a keyed hash, the plain names or nothing leaves. The key never
//! shows, and a plain hash, which a dictionary of e-mail addresses reverses, is never used.

use std::fmt;

use aws_lc_rs::hmac;
use serde::Serialize;
use zeroize::Zeroizing;

use super::record::random;
use super::text::Text;

/// How users appear.
#[derive(Clone, Debug)]
pub enum UserMode {
    /// As a keyed hash; without a key, one of the process's own that ends with it.
    Hash(Option<UserKey>),
    /// With issuer and subject.
    Plain,
    /// Not at all.
    None,
}

/// The key of the hash, the same for a whole mesh so that hashes compare. Redacted in `Debug`, zeroized on drop.
#[derive(Clone)]
pub struct UserKey(Zeroizing<Vec<u8>>);

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserKeyError {
    /// Fewer than 32 bytes can be guessed too easily.
    #[error("holds {0} bytes, but the key needs at least 32")]
    Short(usize),
    /// More than 4096 bytes are hardly a key.
    #[error("holds {0} bytes, more than the 4096 that a key may have")]
    Long(usize),
}

impl UserKey {
    /// A key of 32 to 4096 bytes.
    ///
    /// # Errors
    /// [`UserKeyError`]: too short or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, UserKeyError> {
        match bytes.len() {
            short @ ..32 => Err(UserKeyError::Short(short)),
            long @ 4097.. => Err(UserKeyError::Long(long)),
            _ => Ok(Self(Zeroizing::new(bytes.to_vec()))),
        }
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserKey(..)")
    }
}

/// How a user appears in one record: flattened into its `user` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserName {
    /// The issuer's alias.
    pub iss: Text,
    /// `h1:` and 16 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Text>,
    /// The subject in plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<Text>,
}

/// Turns users into what records may show of them.
pub struct UserLog(Inner);

enum Inner {
    Hash(Box<hmac::Key>),
    Plain,
    None,
}

impl UserLog {
    /// A log in this mode.
    pub fn new(mode: &UserMode) -> Self {
        Self(match mode {
            UserMode::Plain => Inner::Plain,
            UserMode::None => Inner::None,
            UserMode::Hash(Some(key)) => Inner::Hash(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &key.0))),
            // Without randomness there is no key, and then no hash that could be guessed.
            UserMode::Hash(None) => random::<32>().map_or(Inner::None, |key| {
                Inner::Hash(Box::new(hmac::Key::new(hmac::HMAC_SHA256, &*Zeroizing::new(key))))
            }),
        })
    }

    /// What a record shows of the user `subject` of the issuer with this URL and alias; `None`: nothing at all.
    pub fn name(&self, alias: &str, issuer: &str, subject: &str) -> Option<UserName> {
        let iss = Text::from(alias.to_owned());
        match &self.0 {
            Inner::None => None,
            Inner::Plain => Some(UserName {
                iss,
                hash: None,
                sub: Some(Text::from(subject.to_owned())),
            }),
            Inner::Hash(key) => Some(UserName {
                iss,
                hash: Some(Text::from(hash(key, issuer, subject))),
                sub: None,
            }),
        }
    }
}

impl fmt::Debug for UserLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Hash(_) => "UserLog(hash)",
            Inner::Plain => "UserLog(plain)",
            Inner::None => "UserLog(none)",
        })
    }
}

/// HMAC-SHA-256 over the issuer, a zero byte and the subject; the first 16 hex digits, with the scheme in front.
fn hash(key: &hmac::Key, issuer: &str, subject: &str) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(issuer.as_bytes());
    context.update(&[0]);
    context.update(subject.as_bytes());
    let tag = context.sign();
    format!("h1:{}", hex::encode(tag.as_ref().get(..8).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(byte: u8) -> UserLog {
        UserLog::new(&UserMode::Hash(Some(UserKey::new(&[byte; 32]).unwrap())))
    }

    fn hash_of(log: &UserLog, issuer: &str, subject: &str) -> String {
        let name = log.name("corp", issuer, subject).unwrap();
        assert_eq!(name.sub, None);
        name.hash.unwrap().as_str().to_owned()
    }

    #[test]
    fn the_hash_is_hmac_sha_256_over_issuer_zero_subject() {
        // Computed with Python: hmac.new(b"k"*32, b"https://idp\0alice", "sha256").hexdigest()[:16]
        assert_eq!(
            hash_of(&keyed(b'k'), "https://idp", "alice"),
            "h1:95f878b315fe5d87"
        );
    }

    #[test]
    fn another_user_issuer_or_key_is_another_hash() {
        let log = keyed(1);
        let all = [
            hash_of(&log, "https://idp", "alice"),
            hash_of(&log, "https://idp", "bob"),
            hash_of(&log, "https://other", "alice"),
            hash_of(&log, "https://id", "palice"),
            hash_of(&keyed(2), "https://idp", "alice"),
            hash_of(&UserLog::new(&UserMode::Hash(None)), "https://idp", "alice"),
            hash_of(&UserLog::new(&UserMode::Hash(None)), "https://idp", "alice"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| other != one), "{all:?}");
        }
    }

    #[test]
    fn plain_and_none() {
        let name = UserLog::new(&UserMode::Plain)
            .name("corp", "https://idp", "alice")
            .unwrap();
        assert_eq!(
            serde_json::to_string(&name).unwrap(),
            r#"{"iss":"corp","sub":"alice"}"#
        );
        assert_eq!(
            UserLog::new(&UserMode::None).name("corp", "https://idp", "alice"),
            None
        );
    }

    #[test]
    fn keys_are_bounded_and_never_shown() {
        assert_eq!(UserKey::new(&[0; 31]).unwrap_err(), UserKeyError::Short(31));
        assert_eq!(UserKey::new(&[0; 4097]).unwrap_err(), UserKeyError::Long(4097));
        let key = UserKey::new(&[b's'; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "UserKey(..)");
        assert_eq!(
            format!("{:?}", UserMode::Hash(Some(key))),
            "Hash(Some(UserKey(..)))"
        );
    }
}
