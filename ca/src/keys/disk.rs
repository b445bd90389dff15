//! Keys as files: PKCS#8 (DER) or that under a passphrase, mode 0600, each written whole or not at all. It never overwrites
//! a key by another one.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustix::fs::{CWD, OFlags, RenameFlags};
use zeroize::Zeroizing;

use super::passphrase::Passphrase;
use super::sealed::{Sealer, Unsealed, is_sealed};
use super::{KeyError, Signer};

/// A key file longer than this is not one of ours.
const MAX_KEY_FILE: u64 = 4096;
const SUFFIX: &str = ".p8";
/// Of a key that is being written.
const HALF: &str = ".new";

/// Key files by their names, as they lie on the disk.
pub type KeyFiles = Vec<(String, Zeroizing<Vec<u8>>)>;

/// The keeper of key files in one directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// With it every key is encrypted, and one that is not is refused.
    sealer: Option<Sealer>,
}

/// How a key lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// PKCS#8.
    Plain,
    /// Under a passphrase.
    Sealed,
}

impl Disk {
    /// A keeper in `dir`, which must be reachable for this user alone (the caller checked it).
    pub fn new(dir: &Path) -> Self {
        Self::with(dir, None)
    }

    /// The same, with every key under a passphrase, where there is one.
    pub fn with(dir: &Path, passphrase: Option<Passphrase>) -> Self {
        Self {
            dir: dir.to_owned(),
            sealer: passphrase.map(Sealer::new),
        }
    }

    /// Makes a key that survives a crash from here on, and answers its signer.
    ///
    /// # Errors
    /// When a key of that name exists, or it cannot be written.
    pub fn create(&self, name: &str) -> Result<Arc<dyn Signer>, KeyError> {
        let path = self.path(name)?;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Crypto)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Crypto)?;
        let sealed;
        let bytes = match &self.sealer {
            None => document.as_ref(),
            Some(sealer) => {
                sealed = sealer
                    .seal(name, document.as_ref())
                    .map_err(|problem| unsealed(&path, problem))?;
                &sealed
            }
        };
        self.write(&path, bytes, RenameFlags::NOREPLACE)
            .map_err(|source| KeyError::Io { path, source })?;
        Ok(Arc::new(Key(pair)))
    }

    /// Loads a key that was made before.
    ///
    /// # Errors
    /// When it is missing, when others own it or could have read it, and when it is no P-256 key.
    pub fn load(&self, name: &str) -> Result<Arc<dyn Signer>, KeyError> {
        let path = self.path(name)?;
        let file = read(&path)?;
        let bytes = match (&self.sealer, is_sealed(&file)) {
            (None, false) => file,
            (Some(sealer), true) => sealer
                .open(name, &file)
                .map_err(|problem| unsealed(&path, problem))?,
            (None, true) => return Err(KeyError::Sealed(path)),
            (Some(_), false) => return Err(KeyError::Plain(path)),
        };
        Ok(Arc::new(Key(pair(&bytes, path)?)))
    }

    /// How a key lies there.
    ///
    /// # Errors
    /// As [`Disk::load`].
    pub fn form(&self, name: &str) -> Result<Form, KeyError> {
        let sealed = is_sealed(&read(&self.path(name)?)?);
        Ok(if sealed { Form::Sealed } else { Form::Plain })
    }

    /// Brings a key into another form, with the passphrase of this keeper; `false`: it had it already. A crash leaves it in one
    /// form or the other.
    ///
    /// # Errors
    /// As [`Disk::load`]; and when this keeper has no passphrase, or what was written does not read back as the same key.
    pub fn convert(&self, name: &str, form: Form) -> Result<bool, KeyError> {
        let path = self.path(name)?;
        let file = read(&path)?;
        let Some(sealer) = &self.sealer else {
            return Err(KeyError::Sealed(path));
        };
        let plain = |file: &[u8]| {
            sealer
                .open(name, file)
                .map_err(|problem| unsealed(&path, problem))
        };
        let (key, new) = match (form, is_sealed(&file)) {
            (Form::Plain, false) | (Form::Sealed, true) => return Ok(false),
            (Form::Plain, true) => {
                let key = plain(&file)?;
                (key.clone(), key)
            }
            (Form::Sealed, false) => {
                let sealed = sealer.seal(name, &file);
                let sealed = sealed.map_err(|problem| unsealed(&path, problem))?;
                let back = plain(&sealed)?;
                (back, Zeroizing::new(sealed))
            }
        };
        // What is not a key is not made a sealed one.
        let public = pair(&key, path.clone())?.public_key().as_ref().to_vec();
        if form == Form::Sealed && pair(&file, path.clone())?.public_key().as_ref() != public.as_slice() {
            return Err(KeyError::Malformed(path));
        }
        self.write(&path, &new, RenameFlags::empty())
            .map_err(|source| KeyError::Io { path, source })?;
        Ok(true)
    }

    /// Removes a key for good, also where only half of it was written; one that is not there is removed already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), KeyError> {
        let path = self.path(name)?;
        let (half, whole) = (gone(&half(&path))?, gone(&path)?);
        if half || whole {
            let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
            synced.map_err(|source| KeyError::Io { path, source })?;
        }
        Ok(())
    }

    /// Removes what a crash left of keys that were being written: a private key must not lie there unheeded, and unencrypted at
    /// that. Nobody else may be writing here. Answers how many there were.
    ///
    /// # Errors
    /// When the directory cannot be read, or one cannot be removed.
    pub fn tidy(&self) -> Result<usize, KeyError> {
        let mut count = 0;
        for name in self.ending(&format!("{SUFFIX}{HALF}"))? {
            // A name that could not be ours is somebody else's file.
            if let Ok(path) = self.path(&name) {
                count += usize::from(gone(&half(&path))?);
            }
        }
        Ok(count)
    }

    /// The names of all keys here, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, KeyError> {
        self.ending(SUFFIX)
    }

    /// The names before this ending, sorted.
    fn ending(&self, ending: &str) -> Result<Vec<String>, KeyError> {
        let io = |source| KeyError::Io {
            path: self.dir.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ending)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// All keys as they lie on the disk, for a backup, which must be kept as well as they are.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn files(&self) -> Result<KeyFiles, KeyError> {
        let names = self.names()?.into_iter();
        names
            .map(|name| {
                let bytes = read(&self.path(&name)?)?;
                Ok((format!("{name}{SUFFIX}"), bytes))
            })
            .collect()
    }

    /// Whether a file of [`Self::files`] is the key of this name.
    pub fn is_file_of(file: &str, name: &str) -> bool {
        file.strip_suffix(SUFFIX) == Some(name)
    }

    /// Puts back what [`Self::files`] gave. It never overwrites a key.
    ///
    /// # Errors
    /// When it is none of ours, is there already, or cannot be written.
    pub fn put(&self, file: &str, bytes: &[u8]) -> Result<PathBuf, KeyError> {
        let name = file
            .strip_suffix(SUFFIX)
            .ok_or_else(|| KeyError::BadName(file.to_owned()))?;
        let path = self.path(name)?;
        self.write(&path, bytes, RenameFlags::NOREPLACE)
            .map_err(|source| KeyError::Io {
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }

    fn path(&self, name: &str) -> Result<PathBuf, KeyError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(KeyError::BadName(name.to_owned()));
        }
        Ok(self.dir.join(format!("{name}{SUFFIX}")))
    }

    /// Temporary file, fsync, rename (which refuses to replace, unless the same key takes another form), fsync of the directory.
    fn write(&self, path: &Path, bytes: &[u8], how: RenameFlags) -> std::io::Result<()> {
        let temporary = half(path);
        let _left_by_a_crash = std::fs::remove_file(&temporary);
        let written = put(&temporary, bytes).and_then(|()| {
            Ok(rustix::fs::renameat_with(
                CWD,
                temporary.as_path(),
                CWD,
                path,
                how,
            )?)
        });
        if let Err(error) = written {
            let _with_a_key_in_it = std::fs::remove_file(&temporary);
            return Err(error);
        }
        File::open(&self.dir)?.sync_all()
    }
}

/// Where a key is written before it gets its name.
fn half(path: &Path) -> PathBuf {
    let mut half = path.as_os_str().to_owned();
    half.push(HALF);
    half.into()
}

fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes a file; whether it was there.
fn gone(path: &Path) -> Result<bool, KeyError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(KeyError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn pair(pkcs8: &[u8], path: PathBuf) -> Result<EcdsaKeyPair, KeyError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| KeyError::Malformed(path))
}

fn unsealed(path: &Path, problem: Unsealed) -> KeyError {
    match problem {
        Unsealed::Wrong => KeyError::WrongPassphrase(path.to_owned()),
        Unsealed::Malformed => KeyError::Malformed(path.to_owned()),
        Unsealed::Crypto => KeyError::Crypto,
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let io = |source| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() || found.len() > MAX_KEY_FILE {
        return Err(KeyError::Malformed(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Foreign {
            path: path.to_owned(),
            owner: found.uid(),
        });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    // Capacity for the whole file, so that no half-filled buffer is freed with the key in it.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_KEY_FILE).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The library clears the key's memory when it is freed.
struct Key(EcdsaKeyPair);

impl Signer for Key {
    fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self
            .0
            .sign(&SystemRandom::new(), message)
            .map_err(|_| KeyError::Crypto)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_comes_back_the_same_and_signs() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        let made = disk.create("x509-1").unwrap();
        let loaded = disk.load("x509-1").unwrap();
        assert_eq!(made.public_key(), loaded.public_key());
        let signature = loaded.sign(b"hello").unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, made.public_key());
        public.verify(b"hello", &signature).unwrap();
        assert_eq!(disk.names().unwrap(), ["x509-1"]);
    }

    #[test]
    fn a_key_takes_the_other_form_and_comes_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let words = |text: &str| Some(Passphrase::new(text.as_bytes().to_vec()).unwrap());
        let (plain, sealed) = (
            Disk::new(dir.path()),
            Disk::with(dir.path(), words("correct horse")),
        );
        let public = plain.create("k").unwrap().public_key().to_vec();
        assert!(
            matches!(sealed.load("k"), Err(KeyError::Plain(_))),
            "nothing unencrypted is taken silently"
        );
        assert!(
            matches!(plain.convert("k", Form::Sealed), Err(KeyError::Sealed(_))),
            "no passphrase"
        );

        assert!(sealed.convert("k", Form::Sealed).unwrap());
        assert!(
            !sealed.convert("k", Form::Sealed).unwrap(),
            "again changes nothing"
        );
        assert_eq!(sealed.form("k").unwrap(), Form::Sealed);
        assert_eq!(sealed.load("k").unwrap().public_key(), public);
        assert!(matches!(plain.load("k"), Err(KeyError::Sealed(_))));
        let other = Disk::with(dir.path(), words("another one"));
        assert!(matches!(other.load("k"), Err(KeyError::WrongPassphrase(_))));
        assert!(matches!(
            other.convert("k", Form::Plain),
            Err(KeyError::WrongPassphrase(_))
        ));
        let mode = std::fs::metadata(dir.path().join("k.p8")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let made = sealed.create("n").unwrap();
        assert_eq!(sealed.form("n").unwrap(), Form::Sealed);
        assert!(sealed.create("n").is_err(), "never overwritten");
        assert_eq!(sealed.load("n").unwrap().public_key(), made.public_key());

        assert!(sealed.convert("k", Form::Plain).unwrap());
        assert_eq!(plain.load("k").unwrap().public_key(), public);
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["k.p8", "n.p8"], "nothing is left behind");
    }

    #[test]
    fn the_file_is_for_us_alone_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        Disk::new(dir.path()).create("k").unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["k.p8"]);
        assert_eq!(
            std::fs::metadata(dir.path().join("k.p8")).unwrap().mode() & 0o7777,
            0o600
        );
    }

    #[test]
    fn a_key_that_others_could_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        disk.create("k").unwrap();
        for mode in [0o640, 0o604, 0o660] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path().join("k.p8"), permissions).unwrap();
            assert!(matches!(disk.load("k"), Err(KeyError::Open { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        let first = disk.create("k").unwrap();
        assert!(matches!(disk.create("k"), Err(KeyError::Io { .. })));
        assert_eq!(disk.load("k").unwrap().public_key(), first.public_key());
    }

    #[test]
    fn a_removed_key_is_gone_and_may_be_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        disk.create("k").unwrap();
        disk.create("other").unwrap();
        disk.remove("k").unwrap();
        disk.remove("k").unwrap();
        assert_eq!(disk.names().unwrap(), ["other"]);
        assert!(matches!(disk.remove("../k"), Err(KeyError::BadName(_))));
    }

    #[test]
    fn what_a_crash_left_does_not_stand_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("k.p8.new"), "half").unwrap();
        let disk = Disk::new(dir.path());
        assert!(disk.names().unwrap().is_empty(), "half a key is no key");
        disk.create("k").unwrap();
        disk.load("k").unwrap();
        assert!(!dir.path().join("k.p8.new").exists());
    }

    #[test]
    fn what_was_half_written_is_removed_with_its_key_and_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        disk.create("k").unwrap();
        let left = || {
            let entries = std::fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let half = |name: &str| std::fs::write(dir.path().join(name), "half of a key").unwrap();
        for name in ["k.p8.new", "m.p8.new", "n.p8.new", "a.b.p8.new", "other.new"] {
            half(name);
        }
        disk.remove("m").unwrap();
        assert_eq!(
            left(),
            ["a.b.p8.new", "k.p8", "k.p8.new", "n.p8.new", "other.new"]
        );
        assert_eq!(disk.tidy().unwrap(), 2);
        assert_eq!(
            left(),
            ["a.b.p8.new", "k.p8", "other.new"],
            "only what could be ours"
        );
        assert_eq!(disk.tidy().unwrap(), 0);
        disk.load("k").unwrap();
    }

    #[test]
    fn links_garbage_and_names_that_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path());
        disk.create("k").unwrap();
        std::os::unix::fs::symlink(dir.path().join("k.p8"), dir.path().join("link.p8")).unwrap();
        assert!(matches!(disk.load("link"), Err(KeyError::Io { .. })));
        std::fs::write(dir.path().join("g.p8"), "garbage").unwrap();
        std::fs::set_permissions(dir.path().join("g.p8"), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(disk.load("g"), Err(KeyError::Malformed(_))));
        for name in ["", "../k", "a/b", "a.b", "k\0"] {
            assert!(matches!(disk.load(name), Err(KeyError::BadName(_))), "{name:?}");
        }
    }
}
