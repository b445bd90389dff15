//! A key under a passphrase: PKCS#8 enters, a file that says nothing without the passphrase leaves. AES-256-GCM; its key comes
//! from the passphrase by Argon2id (RFC 9106), which makes every guess cost memory.
//!
//! ```text
//!  "hopguard key" 0x00 | version 1 | memory KiB (u32 BE) | passes (u32 BE) | salt 16 | nonce 12 | ciphertext and tag
//! ```
//! Everything before the ciphertext, and the key's name, is authenticated: a file cannot take another one's place.

use std::sync::Mutex;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::passphrase::Passphrase;

const MAGIC: &[u8] = b"hopguard key\0";
const VERSION: u8 = 1;
const SALT: usize = 16;
const HEADER: usize = MAGIC.len() + 1 + 4 + 4 + SALT + NONCE_LEN;
/// RFC 9106, second recommended option: 64 MiB, three passes.
const MEMORY: u32 = 64 << 10;
const PASSES: u32 = 3;
/// A file may not make us spend more than this.
const MOST_MEMORY: u32 = 1 << 20;
const MOST_PASSES: u32 = 64;

/// Why a sealed key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// Another passphrase, or another file.
    Wrong,
    /// No version of this format that we know.
    Malformed,
    /// No random numbers, or no memory.
    Crypto,
}

/// Whether a file is one of these.
pub(super) fn is_sealed(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Seals and opens with one passphrase; remembers the key that it makes, for deriving it is slow on purpose.
pub(super) struct Sealer {
    passphrase: Passphrase,
    derived: Mutex<Option<Derived>>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(redacted)")
    }
}

#[derive(Clone)]
struct Derived {
    cost: (u32, u32),
    salt: [u8; SALT],
    key: Zeroizing<[u8; 32]>,
}

impl Sealer {
    pub(super) fn new(passphrase: Passphrase) -> Self {
        Self {
            passphrase,
            derived: Mutex::new(None),
        }
    }

    /// Seals a key under its name.
    pub(super) fn seal(&self, name: &str, pkcs8: &[u8]) -> Result<Vec<u8>, Unsealed> {
        let known = self.remembered();
        let derived = match known.filter(|derived| derived.cost == (MEMORY, PASSES)) {
            Some(derived) => derived,
            None => {
                let mut salt = [0; SALT];
                aws_lc_rs::rand::fill(&mut salt).map_err(|_| Unsealed::Crypto)?;
                self.derive((MEMORY, PASSES), salt)?
            }
        };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Unsealed::Crypto)?;
        let mut file = MAGIC.to_vec();
        file.push(VERSION);
        file.extend(derived.cost.0.to_be_bytes());
        file.extend(derived.cost.1.to_be_bytes());
        file.extend(derived.salt);
        file.extend(nonce);
        // Room for all of it, so that no piece of the key is left where the buffer was before it grew.
        let mut sealed = Vec::with_capacity(pkcs8.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(pkcs8);
        aead(&derived)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authenticated(&file, name)),
                &mut sealed,
            )
            .map_err(|_| Unsealed::Crypto)?;
        file.extend(sealed);
        Ok(file)
    }

    /// Opens a file that [`is_sealed`].
    pub(super) fn open(&self, name: &str, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealed> {
        let (header, sealed) = file.split_at_checked(HEADER).ok_or(Unsealed::Malformed)?;
        let (cost, salt, nonce) = read(header).ok_or(Unsealed::Malformed)?;
        let known = self.remembered();
        let derived = match known.filter(|derived| derived.cost == cost && derived.salt == salt) {
            Some(derived) => derived,
            None => self.derive(cost, salt)?,
        };
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let length = aead(&derived)?
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authenticated(header, name)),
                &mut bytes,
            )
            .map_err(|_| Unsealed::Wrong)?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }

    fn remembered(&self) -> Option<Derived> {
        self.derived.lock().ok()?.clone()
    }

    fn derive(&self, cost: (u32, u32), salt: [u8; SALT]) -> Result<Derived, Unsealed> {
        let params = Params::new(cost.0, cost.1, 1, Some(32)).map_err(|_| Unsealed::Malformed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.passphrase.bytes(), &salt, key.as_mut())
            .map_err(|_| Unsealed::Crypto)?;
        let derived = Derived { cost, salt, key };
        if let Ok(mut kept) = self.derived.lock() {
            *kept = Some(derived.clone());
        }
        Ok(derived)
    }
}

fn aead(derived: &Derived) -> Result<LessSafeKey, Unsealed> {
    let key = UnboundKey::new(&AES_256_GCM, derived.key.as_ref()).map_err(|_| Unsealed::Crypto)?;
    Ok(LessSafeKey::new(key))
}

fn authenticated(header: &[u8], name: &str) -> Vec<u8> {
    [header, name.as_bytes()].concat()
}

type Header = ((u32, u32), [u8; SALT], [u8; NONCE_LEN]);

fn read(header: &[u8]) -> Option<Header> {
    let rest = header.strip_prefix(MAGIC)?;
    let (&version, rest) = rest.split_first()?;
    let (memory, rest) = rest.split_first_chunk::<4>()?;
    let (passes, rest) = rest.split_first_chunk::<4>()?;
    let (salt, rest) = rest.split_first_chunk::<SALT>()?;
    let (nonce, _) = rest.split_first_chunk::<NONCE_LEN>()?;
    let cost = (u32::from_be_bytes(*memory), u32::from_be_bytes(*passes));
    let bounded = (8..=MOST_MEMORY).contains(&cost.0) && (1..=MOST_PASSES).contains(&cost.1);
    (version == VERSION && bounded).then_some((cost, *salt, *nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(text: &str) -> Sealer {
        Sealer::new(Passphrase::new(text.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn what_was_sealed_opens_with_the_passphrase_and_the_name_alone() {
        let sealer_a = sealer("correct horse");
        let file = sealer_a.seal("x509-1", b"secret key").unwrap();
        assert!(is_sealed(&file) && !file.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(
            sealer("correct horse").open("x509-1", &file).unwrap().as_slice(),
            b"secret key"
        );
        assert_eq!(
            sealer("correct horsf").open("x509-1", &file),
            Err(Unsealed::Wrong)
        );
        assert_eq!(
            sealer_a.open("x509-2", &file),
            Err(Unsealed::Wrong),
            "another key's file"
        );
        let again = sealer_a.seal("x509-1", b"secret key").unwrap();
        assert_ne!(file, again, "never the same nonce");
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let sealer = sealer("correct horse");
        let file = sealer.seal("k", b"secret key").unwrap();
        // Of the cost and the salt: deriving again is slow, and each is authenticated as all the others are.
        let slow = MAGIC.len() + 1..HEADER - NONCE_LEN;
        for at in (0..file.len()).filter(|at| !slow.contains(at)) {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(sealer.open("k", &bad).is_err(), "{at}");
        }
        for length in (0..file.len()).filter(|length| *length < HEADER || *length > HEADER + 3) {
            assert!(sealer.open("k", &file[..length]).is_err(), "{length}");
        }
        let mut salted = file.clone();
        salted[MAGIC.len() + 9] ^= 1;
        assert_eq!(sealer.open("k", &salted), Err(Unsealed::Wrong));
        let mut dear = file;
        dear[MAGIC.len() + 1] = 0xff;
        assert_eq!(
            sealer.open("k", &dear),
            Err(Unsealed::Malformed),
            "it must not cost all memory"
        );
    }
}
