//! State and keys together: to one file while the authority runs or when none does, and back from it into an empty data
//! directory. The file holds private keys; nothing that is there is ever overwritten.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::remains::{self, NEW_STATE};
use super::{AUDIT_HEAD, STATE, seconds};
use crate::config::Config;
use crate::datadir::{DataDir, DataDirError};
use crate::keys::{Disk, KeyError};
use crate::store::backup::{self, About, Files};
use crate::store::{Store, StoreError};

/// Larger than what notes the end of the audit log.
const MAX_NOTE: u64 = 4096;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is nothing to copy.
    #[error("`{0}` holds no state of an authority")]
    NoState(PathBuf),
    /// Somebody's state is there.
    #[error("`{0}` is not empty")]
    NotEmpty(PathBuf),
    /// The file or the state cannot be used.
    #[error("`{path}`: {source}")]
    Store {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// A key cannot be read or written.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// An authority has no key.
    #[error("the key `{0}` of an authority is missing")]
    KeyMissing(String),
    /// It belongs to another trust domain.
    #[error("the backup is of the trust domain `{held}`, and ca.toml says `{wanted}`")]
    OtherTrustDomain {
        /// The backup's.
        held: String,
        /// The configuration's.
        wanted: String,
    },
    /// A file cannot be read or written.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BackupError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DataDir(error) => error.hint(),
            Self::NoState(_) => "`data_dir` in ca.toml must be the one that the authority used".to_owned(),
            Self::NotEmpty(_) => {
                "nothing is overwritten: move what is there away, or restore with another `data_dir`"
                    .to_owned()
            }
            Self::OtherTrustDomain { .. } => "use the ca.toml of that trust domain".to_owned(),
            Self::KeyMissing(_) => "the backup would be of no use; another backup may have it".to_owned(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as the user that the authority runs as, or as root".to_owned()
            }
            Self::Store { .. } if self.blames_file() => {
                "give a file as `hopguard ca backup` wrote it; where that is damaged, another backup"
                    .to_owned()
            }
            Self::Store { .. } | Self::Keys(_) | Self::Io { .. } => String::new(),
        }
    }

    /// Whether the file that was given is at fault.
    pub fn blames_file(&self) -> bool {
        let of_file = |source: &StoreError| !matches!(source, StoreError::File { .. });
        matches!(self, Self::OtherTrustDomain { .. } | Self::KeyMissing(_))
            || matches!(self, Self::Store { source, .. } if of_file(source))
    }
}

/// What is in a backup.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The trust domain.
    pub trust_domain: String,
    /// When it was made, seconds since 1970.
    pub made: i64,
    /// By which version.
    pub version: String,
    /// How many authorities it knows.
    pub authorities: usize,
    /// How many private keys it holds.
    pub keys: usize,
}

/// Writes state and keys of an authority that does not run to the new file `to`.
///
/// # Errors
/// [`BackupError`]; [`DataDirError::Locked`] when it runs.
pub async fn offline(config: &Config, to: &Path) -> Result<Summary, BackupError> {
    let state = config.data_dir.join(STATE);
    // Who may not look into the directory must not be told that nothing is there.
    match state.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(BackupError::NoState(config.data_dir.clone())),
        Err(source) => return Err(BackupError::Io { path: state, source }),
    }
    let data_dir = DataDir::open(&config.data_dir)?;
    write(data_dir.path(), config.trust_domain.as_str(), to).await
}

/// Whoever removes a key meanwhile makes the copy incomplete, which is found: then it is an error, and asked for again.
pub async fn write(data_dir: &Path, trust_domain: &str, to: &Path) -> Result<Summary, BackupError> {
    let about = About {
        trust_domain: trust_domain.to_owned(),
        made: seconds(SystemTime::now()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut files = Disk::new(data_dir).files()?;
    let keys = files.len();
    let note = data_dir.join(AUDIT_HEAD);
    if std::fs::metadata(&note).is_ok_and(|found| found.len() <= MAX_NOTE) {
        let content = std::fs::read(&note).map_err(|source| BackupError::Io { path: note, source })?;
        files.push((AUDIT_HEAD.to_owned(), content.into()));
    }
    let state = data_dir.join(STATE);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Store { path, source }
    };
    let written = async {
        backup::write(&state, to, &about, &files)
            .await
            .map_err(failed(&state))?;
        let (_, files) = backup::read(to).await.map_err(failed(to))?;
        complete(to, &files).await
    };
    let authorities = written.await.inspect_err(|_| {
        let _nothing_there = std::fs::remove_file(to);
    })?;
    Ok(Summary {
        trust_domain: about.trust_domain,
        made: about.made,
        version: about.version,
        authorities,
        keys,
    })
}

/// How many authorities there are; each has its key.
async fn complete(backup: &Path, files: &Files) -> Result<usize, BackupError> {
    let keys = backup::keys(backup).await.map_err(|source| BackupError::Store {
        path: backup.to_owned(),
        source,
    })?;
    let has = |key: &str| files.iter().any(|(name, _)| Disk::is_file_of(name, key));
    match keys.iter().find(|key| !has(key)) {
        Some(missing) => Err(BackupError::KeyMissing(missing.clone())),
        None => Ok(keys.len()),
    }
}

/// Restores a backup into the data directory of `config`, which must be empty or missing; what an interrupted restore left
/// there is removed first.
///
/// # Errors
/// [`BackupError`]; then the directory is as it was.
pub async fn restore(config: &Config, from: &Path) -> Result<Summary, BackupError> {
    // The database only says that it cannot be opened, and not why.
    std::fs::File::open(from).map_err(|source| BackupError::Io {
        path: from.to_owned(),
        source,
    })?;
    let (about, files) = backup::read(from).await.map_err(|source| BackupError::Store {
        path: from.to_owned(),
        source,
    })?;
    let wanted = config.trust_domain.as_str();
    if about.trust_domain != wanted {
        return Err(BackupError::OtherTrustDomain {
            held: about.trust_domain,
            wanted: wanted.to_owned(),
        });
    }
    let authorities = complete(from, &files).await?;
    let path = &config.data_dir;
    let free = || match remains::is_free(path) {
        true => Ok(()),
        false => Err(BackupError::NotEmpty(path.clone())),
    };
    // Before the lock is made in it, and once more when nobody else works in it.
    free()?;
    let data_dir = DataDir::open(path)?;
    free()?;
    let io = |source| BackupError::Io {
        path: path.clone(),
        source,
    };
    let mut made = Made(vec![path.join("lock")]);
    // From here on a kill leaves a directory that nobody serves from, and that may be restored to again.
    made.0.push(remains::begin(path).map_err(io)?);
    let keys = put(data_dir.path(), &files, &mut made)?;
    state(data_dir.path(), from, wanted, &mut made).await?;
    remains::end(path).map_err(io)?;
    made.0.clear();
    Ok(Summary {
        trust_domain: about.trust_domain,
        made: about.made,
        version: about.version,
        authorities,
        keys,
    })
}

/// Files that are removed again unless all goes well, the last one first.
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _not_there = std::fs::remove_file(path);
        }
    }
}

fn put(data_dir: &Path, files: &Files, made: &mut Made) -> Result<usize, BackupError> {
    let disk = Disk::new(data_dir);
    let mut keys = 0;
    for (name, content) in files {
        if name == AUDIT_HEAD {
            let path = data_dir.join(AUDIT_HEAD);
            made.0.push(path.clone());
            private(&path, content).map_err(|source| BackupError::Io { path, source })?;
        } else {
            made.0.push(disk.put(name, content)?);
            keys += 1;
        }
    }
    Ok(keys)
}

fn private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The state gets its name last: without it the directory holds nothing that an authority would use.
async fn state(data_dir: &Path, from: &Path, wanted: &str, made: &mut Made) -> Result<(), BackupError> {
    let (new, path) = (data_dir.join(NEW_STATE), data_dir.join(STATE));
    made.0.push(path.clone());
    for end in ["", "-wal", "-shm"] {
        made.0.push(data_dir.join(format!("{NEW_STATE}{end}")));
    }
    let failed = |source| BackupError::Store {
        path: from.to_owned(),
        source,
    };
    let store = backup::restore(from, &new, seconds(SystemTime::now()))
        .await
        .map_err(failed)?;
    let held = store.bind(wanted).await.map_err(failed)?;
    store.close().await;
    if held != wanted {
        let wanted = wanted.to_owned();
        return Err(BackupError::OtherTrustDomain { held, wanted });
    }
    let io = |source| BackupError::Io {
        path: path.clone(),
        source,
    };
    std::fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    std::fs::rename(&new, &path).map_err(io)?;
    std::fs::File::open(data_dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io)
}
