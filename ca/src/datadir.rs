//! The directory that holds keys and state: made for us alone, refused when others could read it, locked so that one
//! process at a time writes to it. What leaves is a held lock. It never loosens or repairs what it finds.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, read or locked.
    #[error("`{path}`: {source}")]
    Io {
        /// The path at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could read keys in it.
    #[error("`{path}` has mode {mode:04o}: others could reach the keys in it")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else owns it, and could change what we trust.
    #[error("`{path}` belongs to uid {owner}, not to this process (uid {us})")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective uid.
        us: u32,
    },
    /// It is a file, or a link to somewhere.
    #[error("`{0}` is not a directory")]
    NotADirectory(PathBuf),
    /// Another process works in it.
    #[error("`{0}` is in use by another process")]
    Locked(PathBuf),
}

impl DataDirError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "its parent must exist and be writable for this user".to_owned(),
            // What is not the authority's own must not be taken from others: `chmod 700 /tmp` would break the machine.
            Self::Open { path, mode } if mode & STICKY != 0 || !is_own(path) => one_of_its_own(path),
            Self::Open { path, .. } => format!("if nobody read the keys in it: chmod 700 {}", path.display()),
            Self::Foreign { path, owner, us } if is_own(path) => format!(
                "run the authority as uid {owner}, or give it all to this one: chown -R {us} {}",
                path.display()
            ),
            Self::Foreign { path, .. } => one_of_its_own(path),
            Self::NotADirectory(_) => "set `data_dir` to a directory of the authority's own".to_owned(),
            Self::Locked(_) => {
                "stop the other `hopguard ca serve`, or give this one a `data_dir` of its own".to_owned()
            }
        }
    }
}

/// Only its owner may remove a file: a directory that many share, as `/tmp` is.
const STICKY: u32 = 0o1000;

/// Whether an authority has lived there, or nobody has.
fn is_own(path: &Path) -> bool {
    path.join("state.sqlite").exists()
        || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn one_of_its_own(path: &Path) -> String {
    format!(
        "leave that directory as it is, and set `data_dir` to one of the authority's own, which it makes with mode 0700: \
         {}",
        path.join("hopguard-ca").display()
    )
}

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory when it is missing (mode 0700), checks and locks it.
    ///
    /// # Errors
    /// When it cannot be made, when others own it or could reach into it, and when another process holds it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(error)),
            _made_or_there => {}
        }
        check(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&lock_path)
            .map_err(|source| DataDirError::Io {
                path: lock_path.clone(),
                source,
            })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked(path.to_owned())),
            Err(errno) => Err(DataDirError::Io {
                path: lock_path,
                source: errno.into(),
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check(path: &Path) -> Result<(), DataDirError> {
    let found = std::fs::metadata(path).map_err(|source| DataDirError::Io {
        path: path.to_owned(),
        source,
    })?;
    if !found.is_dir() {
        return Err(DataDirError::NotADirectory(path.to_owned()));
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Err(DataDirError::Foreign {
            path: path.to_owned(),
            owner: found.uid(),
            us,
        });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DataDirError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_for_us_alone_and_held_by_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked(_))));
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn it_is_refused_when_others_can_reach_into_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        std::fs::create_dir(&path).unwrap();
        for mode in [0o750, 0o705, 0o710, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(DataDir::open(&path), Err(DataDirError::Open { .. })),
                "{mode:o}"
            );
        }
        let hint = |path: &Path| DataDir::open(path).unwrap_err().hint();
        assert!(hint(&path).contains("chmod 700"), "empty: its own");
        std::fs::write(path.join("mail"), "").unwrap();
        let others = hint(&path);
        assert!(
            !others.contains("chmod") && others.contains("data/hopguard-ca"),
            "{others}"
        );
        std::fs::write(path.join("state.sqlite"), "").unwrap();
        assert!(hint(&path).contains("chmod 700"));
    }

    #[test]
    fn nobody_is_told_to_take_a_directory_from_others() {
        let shared = Path::new("/tmp");
        let open = DataDirError::Open {
            path: shared.to_owned(),
            mode: 0o1777,
        };
        let foreign = DataDirError::Foreign {
            path: Path::new("/usr").to_owned(),
            owner: 0,
            us: 1000,
        };
        for (error, own) in [(open, "/tmp/hopguard-ca"), (foreign, "/usr/hopguard-ca")] {
            let hint = error.hint();
            assert!(
                hint.contains(own) && !hint.contains("chmod") && !hint.contains("chown"),
                "{hint}"
            );
        }
    }

    #[test]
    fn a_file_in_its_place_or_a_missing_parent_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            DataDir::open(&file),
            Err(DataDirError::NotADirectory(_))
        ));
        assert!(matches!(
            DataDir::open(&parent.path().join("a/b")),
            Err(DataDirError::Io { .. })
        ));
    }
}
