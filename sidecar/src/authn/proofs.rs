//! The memory that proofs of possession need (RFC 9449 sections 8 and 11.1): a proof enters, and a second time it is
//! refused; and the nonces that are ours. What it remembers is bounded in number and time; when it is full it refuses, for
//! a proof that was forgotten could be used again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_jose::{Algorithms, HttpUri, Proof, ProofRules, Thumbprint};
use zeroize::Zeroizing;

/// For how many seconds after its `iat` a proof is good.
const MAX_AGE: i64 = 60;
/// By how many seconds the clocks of client and sidecar may differ.
const LEEWAY: i64 = 5;
/// For how many seconds a proof is remembered: as long as its `iat`, at the latest a leeway from now, could pass.
const REMEMBERED: i64 = MAX_AGE + 2 * LEEWAY + 1;
/// The most proofs that are remembered: of one key, so that one client cannot use up what is for all, and in all.
const MOST_OF_A_KEY: usize = 32 * 1024;
const MOST: usize = 256 * 1024;
/// For how many seconds a nonce is handed out; it is taken for one such time longer.
const NONCE_SECONDS: i64 = 300;

/// Checks proofs and remembers them.
pub struct Proofs {
    algorithms: Algorithms,
    /// The same, as a challenge names them.
    names: Arc<str>,
    seen: Mutex<Seen>,
    limits: (usize, usize),
    /// Of this process alone. `None` without randomness: then no nonce is ever good.
    nonce_key: Option<hmac::Key>,
}

/// The request that a proof must be for.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its URI, as its client knows it.
    pub uri: &'a HttpUri,
    /// Its access token.
    pub token: &'a str,
    /// Whether the proof must carry a nonce of ours.
    pub nonce: bool,
}

/// Why a proof is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofRefusal {
    /// It is no proof for this request, or was used before; with a sentence for people.
    Invalid(String),
    /// It must carry a nonce of ours, and this one may be used.
    UseNonce(String),
    /// Too many are remembered: this one cannot be, and so is not taken.
    Full,
}

impl Proofs {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::bounded(MOST_OF_A_KEY, MOST)
    }

    fn bounded(of_a_key: usize, all: usize) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        let names: Vec<&str> = Algorithms::ALL.iter().map(|algorithm| algorithm.name()).collect();
        let filled = aws_lc_rs::rand::fill(&mut *secret);
        Self {
            algorithms: Algorithms::ALL,
            names: names.join(" ").into(),
            seen: Mutex::default(),
            limits: (of_a_key, all),
            nonce_key: filled.ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &*secret)),
        }
    }

    /// The algorithms that a proof may be signed with, as a challenge names them (RFC 9449 section 7.1).
    #[must_use]
    pub fn algorithms(&self) -> Arc<str> {
        Arc::clone(&self.names)
    }

    /// The key that `proof` proves the sender of this request to have, at `now` (Unix seconds). Nothing is remembered yet:
    /// that waits for [`Self::remember`], so that only who also has a good token fills the memory.
    ///
    /// # Errors
    /// [`ProofRefusal::Invalid`] or [`ProofRefusal::UseNonce`].
    pub fn check(&self, proof: &str, request: Proven<'_>, now: i64) -> Result<Proof, ProofRefusal> {
        let rules = ProofRules {
            algorithms: self.algorithms,
            method: request.method,
            uri: request.uri,
            token: request.token,
            max_age: MAX_AGE,
            leeway: LEEWAY,
        };
        let proof = Proof::verify(proof, &rules, now)
            .map_err(|refusal| ProofRefusal::Invalid(refusal.to_string()))?;
        let ours = |nonce: &String| self.is_ours(nonce, now);
        if request.nonce && !proof.nonce.as_ref().is_some_and(ours) {
            return Err(ProofRefusal::UseNonce(self.nonce(now)));
        }
        Ok(proof)
    }

    /// Takes a proof that was checked, once.
    ///
    /// # Errors
    /// [`ProofRefusal::Invalid`] when it was taken before, [`ProofRefusal::Full`] when it could not be remembered.
    pub fn remember(&self, proof: &Proof, now: i64) -> Result<(), ProofRefusal> {
        // A panic elsewhere leaves nothing half done that would let a proof pass twice: the set is written first.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        seen.add(proof, now, self.limits)
    }

    /// The nonce of this time.
    #[must_use]
    pub fn nonce(&self, now: i64) -> String {
        self.nonce_of(now.div_euclid(NONCE_SECONDS)).unwrap_or_default()
    }

    /// Whether a nonce that is still taken is to be replaced by [`Self::nonce`].
    #[must_use]
    pub fn is_old(&self, nonce: &str, now: i64) -> bool {
        self.nonce(now) != nonce
    }

    fn is_ours(&self, nonce: &str, now: i64) -> bool {
        let window = now.div_euclid(NONCE_SECONDS);
        [window, window.saturating_sub(1)].iter().any(|window| {
            self.nonce_of(*window)
                .is_some_and(|good| verify_slices_are_equal(good.as_bytes(), nonce.as_bytes()).is_ok())
        })
    }

    /// HMAC-SHA-256 over the number of a time window, its first half: nothing is kept for it.
    fn nonce_of(&self, window: i64) -> Option<String> {
        let tag = hmac::sign(self.nonce_key.as_ref()?, &window.to_be_bytes());
        tag.as_ref().get(..16).map(|half| URL_SAFE_NO_PAD.encode(half))
    }
}

impl Default for Proofs {
    fn default() -> Self {
        Self::new()
    }
}

/// Proofs that were taken lately.
#[derive(Default)]
struct Seen {
    /// SHA-256 of key and `jti`.
    taken: HashSet<[u8; 32]>,
    /// The same, oldest first, with the key and the second from which on it may be forgotten.
    order: VecDeque<(i64, [u8; 32], Thumbprint)>,
    of_key: HashMap<Thumbprint, usize>,
}

impl Seen {
    fn forget(&mut self, now: i64) {
        while let Some((_, name, key)) = self.order.pop_front_if(|(until, ..)| *until <= now) {
            self.taken.remove(&name);
            if let Some(count) = self.of_key.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of_key.remove(&key);
                }
            }
        }
    }

    fn add(&mut self, proof: &Proof, now: i64, (of_a_key, all): (usize, usize)) -> Result<(), ProofRefusal> {
        let name = name(proof);
        if self.taken.contains(&name) {
            return Err(ProofRefusal::Invalid("the DPoP proof was used before".to_owned()));
        }
        let count = self.of_key.get(&proof.key).copied().unwrap_or_default();
        if count >= of_a_key || self.taken.len() >= all {
            return Err(ProofRefusal::Full);
        }
        self.taken.insert(name);
        self.order
            .push_back((now.saturating_add(REMEMBERED), name, proof.key));
        self.of_key.insert(proof.key, count.saturating_add(1));
        Ok(())
    }
}

fn name(proof: &Proof) -> [u8; 32] {
    let whole = [proof.key.0.as_slice(), proof.jti.as_bytes()].concat();
    let mut out = [0; 32];
    let hash = digest(&SHA256, &whole);
    out.iter_mut()
        .zip(hash.as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(key: u8, jti: &str) -> Proof {
        Proof {
            key: Thumbprint([key; 32]),
            jti: jti.to_owned(),
            nonce: None,
            issued: 0,
        }
    }

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_proof_is_taken_once_as_long_as_it_could_pass() {
        let proofs = Proofs::new();
        assert_eq!(proofs.remember(&proof(1, "a"), NOW), Ok(()));
        assert_eq!(proofs.remember(&proof(1, "b"), NOW), Ok(()), "another name");
        assert_eq!(proofs.remember(&proof(2, "a"), NOW), Ok(()), "another key");
        for later in [0, MAX_AGE, MAX_AGE + 2 * LEEWAY] {
            let again = proofs.remember(&proof(1, "a"), NOW + later);
            assert!(matches!(again, Err(ProofRefusal::Invalid(_))), "{later}");
        }
        assert_eq!(proofs.remember(&proof(1, "a"), NOW + REMEMBERED), Ok(()));
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing() {
        let proofs = Proofs::bounded(2, 3);
        for (key, jti) in [(1, "a"), (1, "b")] {
            assert_eq!(proofs.remember(&proof(key, jti), NOW), Ok(()));
        }
        assert_eq!(
            proofs.remember(&proof(1, "c"), NOW),
            Err(ProofRefusal::Full),
            "of one key"
        );
        assert_eq!(proofs.remember(&proof(2, "a"), NOW + 1), Ok(()));
        assert_eq!(
            proofs.remember(&proof(3, "a"), NOW + 1),
            Err(ProofRefusal::Full),
            "in all"
        );
        assert!(matches!(
            proofs.remember(&proof(1, "a"), NOW + 1),
            Err(ProofRefusal::Invalid(_))
        ));
        // When the first two are forgotten there is room again, and the third is still known.
        assert_eq!(proofs.remember(&proof(3, "a"), NOW + REMEMBERED), Ok(()));
        assert!(matches!(
            proofs.remember(&proof(2, "a"), NOW + REMEMBERED),
            Err(ProofRefusal::Invalid(_))
        ));
        assert_eq!(proofs.seen.lock().unwrap().of_key.len(), 2);
    }

    #[test]
    fn a_nonce_is_ours_for_its_time_and_the_next() {
        let proofs = Proofs::new();
        let nonce = proofs.nonce(NOW);
        assert_eq!(nonce.len(), 22);
        assert!(proofs.is_ours(&nonce, NOW) && !proofs.is_old(&nonce, NOW));
        let next = NOW + NONCE_SECONDS;
        assert!(proofs.is_ours(&nonce, next) && proofs.is_old(&nonce, next));
        assert!(!proofs.is_ours(&nonce, next + NONCE_SECONDS));
        assert!(!proofs.is_ours(&nonce, NOW - NONCE_SECONDS), "of the future");
        assert!(!Proofs::new().is_ours(&nonce, NOW), "of another process");
        assert!(!proofs.is_ours("", NOW));
    }
}
