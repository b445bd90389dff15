//! The passphrase of sealed keys: a file enters, bytes that are never printed leave. Nobody else may have been able to read
//! the file.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::KeyError;

const LEAST: usize = 8;
const MOST: usize = 1024;
/// Where systemd lays credentials (`LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where the passphrase is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseSource {
    /// A file, for this user alone.
    File(PathBuf),
    /// A credential of systemd, by its name.
    Credential(String),
}

/// A passphrase.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

impl Passphrase {
    /// Takes over a passphrase; one line break at its end is not part of it.
    ///
    /// # Errors
    /// When it is too short, too long, or of several lines.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new(bytes);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        let fits = (LEAST..=MOST).contains(&bytes.len()) && !bytes.contains(&b'\n') && !bytes.contains(&0);
        if fits {
            Ok(Self(bytes))
        } else {
            Err(KeyError::WeakPassphrase)
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the file cannot be read, others could have read it, or it holds no passphrase.
    pub fn read(source: &PassphraseSource) -> Result<Self, KeyError> {
        match source {
            PassphraseSource::File(path) => {
                let file = open(path)?;
                let found = file.metadata().map_err(|source| io(path, source))?;
                let (us, owner) = (rustix::process::geteuid().as_raw(), found.uid());
                if owner != us && owner != 0 {
                    return Err(KeyError::PassphraseFile {
                        path: path.clone(),
                        problem: format!("belongs to uid {owner}, not to this process (uid {us}) or root"),
                        hint: format!("give it to the authority's user: chown {us} {}", path.display()),
                    });
                }
                let mode = found.mode() & 0o7777;
                // Root's file may be for our group.
                let others = if owner == us { 0o077 } else { 0o027 };
                if mode & others != 0 {
                    return Err(KeyError::PassphraseFile {
                        path: path.clone(),
                        problem: format!("has mode {mode:04o}: others may have read it"),
                        hint: format!(
                            "chmod 600 {}; if others read it, take a new passphrase: `hopguard ca keys decrypt`, then `encrypt`",
                            path.display()
                        ),
                    });
                }
                take(file, path)
            }
            PassphraseSource::Credential(name) => {
                let dir =
                    std::env::var_os(CREDENTIALS).ok_or_else(|| KeyError::NoCredential(name.clone()))?;
                let path = Path::new(&dir).join(name);
                // systemd keeps its folder for the service alone; the mode bits may be those of an access list.
                take(open(&path)?, &path)
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn io(path: &Path, source: std::io::Error) -> KeyError {
    KeyError::PassphraseFile {
        path: path.to_owned(),
        problem: format!("cannot be read: {source}"),
        hint: "`key_passphrase_file` in ca.toml (or the credential) must be the file with the passphrase, readable for this user; \
               the keys are as they were"
            .to_owned(),
    }
}

fn open(path: &Path) -> Result<std::fs::File, KeyError> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|source| io(path, source))?;
    let plain = file.metadata().map_err(|source| io(path, source))?.is_file();
    if plain {
        Ok(file)
    } else {
        Err(io(path, std::io::Error::other("it is not a plain file")))
    }
}

fn take(file: std::fs::File, path: &Path) -> Result<Passphrase, KeyError> {
    let most = u64::try_from(MOST + 3).unwrap_or(u64::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST + 3));
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(|source| io(path, source))?;
    Passphrase::new(std::mem::take(&mut *bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_passphrase_is_one_line_of_a_file_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let source = PassphraseSource::File(path.clone());
        let refused = |source: &PassphraseSource, what: &str, remedy: &str| match Passphrase::read(source) {
            Err(error @ KeyError::PassphraseFile { .. }) => {
                let text = error.to_string();
                assert!(text.contains("passphrase") && text.contains(what), "{text}");
                let hint = crate::server::CaError::from(error).hint();
                assert!(hint.contains(remedy) && !hint.contains("trust"), "{hint}");
            }
            other => panic!("{other:?}"),
        };
        refused(&source, "No such file", "key_passphrase_file");
        std::fs::write(&path, "correct horse\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for open in [0o640, 0o604, 0o644] {
            mode(open);
            refused(&source, &format!("{open:04o}"), "chmod 600");
        }
        mode(0o600);
        let read = Passphrase::read(&source).unwrap();
        assert_eq!(read.bytes(), b"correct horse");
        assert!(!format!("{read:?}").contains("horse"));
        for bad in ["", "\n", "short", "two\nlines here"] {
            std::fs::write(&path, bad).unwrap();
            assert!(
                matches!(Passphrase::read(&source), Err(KeyError::WeakPassphrase)),
                "{bad:?}"
            );
        }
        std::fs::write(&path, "x".repeat(MOST + 1)).unwrap();
        assert!(matches!(Passphrase::read(&source), Err(KeyError::WeakPassphrase)));
        refused(
            &PassphraseSource::File(dir.path().to_owned()),
            "not a plain file",
            "key_passphrase_file",
        );
    }
}
