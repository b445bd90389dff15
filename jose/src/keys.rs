//! A JWK Set (RFC 7517 section 5): a document enters, the keys that may verify leave, each bound to its algorithms, and
//! beside them what was ignored and why. It never guesses: where two keys answer to one name, neither is used.

use std::fmt;

use crate::algorithm::Algorithm;
use crate::error::{KeySetError, TokenError};
use crate::json::Json;
use crate::jwk::{self, Key, KeyPolicy, Thumbprint};

/// The largest document, in bytes.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;
/// The most keys in a document, usable or not.
pub const MAX_KEYS: usize = 100;

/// A key of the document that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredKey {
    /// Its key id, where it has one that can be read.
    pub kid: Option<String>,
    /// Why.
    pub reason: &'static str,
}

/// The usable keys of a document. Two sets are equal when they hold the same keys under the same names for the same use.
pub struct KeySet {
    keys: Vec<Key>,
    ignored: Vec<IgnoredKey>,
    unnamed: usize,
}

impl KeySet {
    /// Reads a JWK Set. A key that cannot be used is ignored, not an error, so the set may come out empty: what that
    /// means is the caller's to say.
    ///
    /// # Errors
    /// [`KeySetError`] when the document is past its bounds or is no JWK Set.
    pub fn parse(document: &[u8], policy: &KeyPolicy<'_>) -> Result<Self, KeySetError> {
        if document.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let value = Json::parse(document).map_err(|fault| KeySetError::Malformed(fault.0))?;
        let object = value.as_object().ok_or(KeySetError::Malformed("not an object"))?;
        let Some(Json::Array(entries)) = object.get("keys") else {
            return Err(KeySetError::Malformed("no array `keys`"));
        };
        if entries.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self {
            keys: Vec::new(),
            ignored: Vec::new(),
            unnamed: policy.unnamed,
        };
        for entry in entries {
            match Key::parse(entry, policy) {
                Ok(key) => set.keys.push(key),
                Err(reason) => {
                    let kid = entry.as_object().and_then(|jwk| jwk::kid(jwk).ok().flatten());
                    set.ignored.push(IgnoredKey { kid, reason });
                }
            }
        }
        set.drop_ambiguous();
        Ok(set)
    }

    /// Repetitions of one key are one key; different keys that one token could mean are both dropped.
    fn drop_ambiguous(&mut self) {
        let mut keys: Vec<Key> = Vec::with_capacity(self.keys.len());
        for key in std::mem::take(&mut self.keys) {
            if !keys.iter().any(|other| other.same(&key)) {
                keys.push(key);
            }
        }
        let clashes = |a: &Key, b: &Key| {
            a.kid.is_some() && a.kid == b.kid && a.algorithms().iter().any(|alg| b.verifier(alg).is_some())
        };
        let ambiguous: Vec<bool> = keys
            .iter()
            .map(|key| keys.iter().filter(|other| clashes(key, other)).count() > 1)
            .collect();
        for (key, ambiguous) in keys.into_iter().zip(ambiguous) {
            if ambiguous {
                self.ignored.push(IgnoredKey {
                    kid: key.kid,
                    reason: "its kid names two keys",
                });
            } else {
                self.keys.push(key);
            }
        }
    }

    /// The number of usable keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable: such a set verifies nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key ids of the usable keys that have one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.kid.as_deref())
    }

    /// The thumbprints of the usable keys.
    pub fn thumbprints(&self) -> impl Iterator<Item = Thumbprint> {
        self.keys.iter().map(|key| key.thumbprint)
    }

    /// The keys that are not used, and why.
    #[must_use]
    pub fn ignored(&self) -> &[IgnoredKey] {
        &self.ignored
    }

    /// The keys that a token with this `kid` and `alg` may mean, never none: the one that it names, or those that may be
    /// tried when it names none.
    ///
    /// # Errors
    /// [`TokenError::UnknownKid`] when no key has this `kid`; [`TokenError::NoKey`] when the key is not for this
    /// algorithm, or when the token names none and more keys fit than may be tried.
    pub(crate) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, TokenError> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| kid.is_none() || key.kid.as_deref() == kid)
            .peekable();
        if kid.is_some() && named.peek().is_none() {
            return Err(TokenError::UnknownKid);
        }
        let mut fitting: Vec<&Key> = Vec::new();
        for key in named.filter(|key| key.verifier(algorithm).is_some()) {
            if fitting.iter().any(|other| other.thumbprint == key.thumbprint) {
                continue;
            }
            if fitting.len() >= self.unnamed {
                return Err(TokenError::NoKey("several keys fit, so it must name one by kid"));
            }
            fitting.push(key);
        }
        if fitting.is_empty() {
            return Err(TokenError::NoKey("no key fits its algorithm"));
        }
        Ok(fitting)
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len()
            && self
                .keys
                .iter()
                .all(|key| other.keys.iter().any(|theirs| theirs.same(key)))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("kids", &self.kids().collect::<Vec<_>>())
            .field("keys", &self.len())
            .field("ignored", &self.ignored)
            .finish()
    }
}

#[cfg(test)]
mod tests;
