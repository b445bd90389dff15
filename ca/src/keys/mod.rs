//! The authority's private keys: a name enters, a signer leaves. A private key never leaves this room, is never logged,
//! and is refused when others could have read it. [`Signer`] is the seam for a key service (KMS, HSM).

mod disk;
mod passphrase;
mod sealed;

pub use disk::{Disk, Form};
pub use passphrase::{Passphrase, PassphraseSource};

use std::path::PathBuf;

/// A private key that can be used, but not seen. P-256, SHA-256.
///
/// Whoever implements it for a key service owes us: the same key for the life of the value; a signature that verifies under
/// [`Signer::public_key`], for each is checked before it leaves; an error, not a wait without end, when the service is
/// away (a call blocks a worker: keep a deadline of about a second); and that it may be called by many threads at once.
pub trait Signer: Send + Sync {
    /// The public key as an uncompressed point (SEC 1, 2.3.3), 65 bytes.
    fn public_key(&self) -> &[u8];

    /// An ASN.1 DER signature (`Ecdsa-Sig-Value`, RFC 3279) over the SHA-256 of `message`.
    ///
    /// # Errors
    /// When the key cannot be used now.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Why a key cannot be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be written or read.
    #[error("key file `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may have read it.
    #[error("key file `{path}` has mode {mode:04o}: others may have read it")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else put it there.
    #[error("key file `{path}` belongs to uid {owner}, not to this process")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It is not a P-256 private key in PKCS#8, or not a plain file.
    #[error("key file `{0}` does not hold a P-256 private key (PKCS#8)")]
    Malformed(PathBuf),
    /// It is encrypted, and there is no passphrase.
    #[error("key file `{0}` is encrypted, and no passphrase is configured")]
    Sealed(PathBuf),
    /// It is not encrypted, and a passphrase is configured.
    #[error("key file `{0}` is not encrypted, and a passphrase is configured")]
    Plain(PathBuf),
    /// It does not open.
    #[error(
        "key file `{0}` does not open with this passphrase: it is another one's, or the file was changed"
    )]
    WrongPassphrase(PathBuf),
    /// The file of the passphrase cannot be used; the keys are as they were.
    #[error("the file of the key passphrase, `{path}`, {problem}")]
    PassphraseFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        hint: String,
    },
    /// A passphrase that anyone would guess, or no passphrase at all.
    #[error("the passphrase must be one line of 8 to 1024 bytes")]
    WeakPassphrase,
    /// systemd gave us no credentials.
    #[error(
        "the credential `{0}` is wanted, and systemd gave this process none (CREDENTIALS_DIRECTORY is not set)"
    )]
    NoCredential(String),
    /// A name that could leave the directory.
    #[error("`{0}` is not a name for a key")]
    BadName(String),
    /// The cryptographic library refused.
    #[error("the key could not be generated or used")]
    Crypto,
}
