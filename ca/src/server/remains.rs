//! What lies in a data directory without the state that belongs to it. A new trust root must never come of lost state: every
//! peer would have to learn it, and nothing that was issued or revoked before is known to it. It decides; it changes nothing but
//! the mark of a restore.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{AUDIT_HEAD, STATE};

/// Lies there from before the first file of a restore until after its last one.
const UNFINISHED: &str = "restore.unfinished";
/// Where the state of a restore is made.
pub const NEW_STATE: &str = "state.sqlite.new";

/// Why a directory is not served from.
#[derive(Debug, thiserror::Error)]
pub enum LostState {
    /// A restore did not come to its end.
    #[error("`{0}` holds what an interrupted `hopguard ca restore` left")]
    Unfinished(PathBuf),
    /// An authority has lived there.
    #[error(
        "`{path}` holds `{found}` of an authority, and its state is lost (`{STATE}` is missing or empty)"
    )]
    Lost {
        /// The directory.
        path: PathBuf,
        /// A file that tells.
        found: String,
    },
    /// It cannot be looked at.
    #[error("`{path}`: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LostState {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unfinished(_) => {
                "run `hopguard ca restore` again, which begins anew; or empty the directory for a new trust domain (a new trust \
                 root, which every peer must learn)"
            }
            Self::Lost { .. } => {
                "move what is there away and restore a backup (`hopguard ca restore`); or empty the directory for a new trust \
                 domain (a new trust root, which every peer must learn)"
            }
            Self::Io { .. } => "it must be readable for this user",
        }
    }
}

/// Refuses a directory in which an authority has lived whose state is not there.
pub fn refuse(data_dir: &Path) -> Result<(), LostState> {
    let names = names(data_dir).map_err(|source| LostState::Io {
        path: data_dir.to_owned(),
        source,
    })?;
    let path = data_dir.to_owned();
    if names.iter().any(|name| name == UNFINISHED) {
        return Err(LostState::Unfinished(path));
    }
    if names.iter().any(|name| name == STATE) {
        return Ok(());
    }
    match names.into_iter().find(|name| name != "lock" && is_ours(name)) {
        Some(found) => Err(LostState::Lost { path, found }),
        None => Ok(()),
    }
}

/// Whether nothing is there, or only what an interrupted restore left.
pub fn is_free(data_dir: &Path) -> bool {
    let Ok(names) = names(data_dir) else {
        // One that is missing is made; what cannot be read is refused when it is opened.
        return true;
    };
    let unfinished = names.iter().any(|name| name == UNFINISHED);
    names
        .iter()
        .all(|name| name == "lock" || (unfinished && is_ours(name)))
}

/// Removes what an interrupted restore left, and marks that one is going on. Answers where the mark is.
pub fn begin(data_dir: &Path) -> io::Result<PathBuf> {
    let mark = data_dir.join(UNFINISHED);
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    options.open(&mark)?.sync_all()?;
    sync(data_dir)?;
    for name in names(data_dir)? {
        if name != "lock" && name != UNFINISHED && is_ours(&name) {
            std::fs::remove_file(data_dir.join(name))?;
        }
    }
    Ok(mark)
}

/// The restore has come to its end.
pub fn end(data_dir: &Path) -> io::Result<()> {
    std::fs::remove_file(data_dir.join(UNFINISHED))?;
    sync(data_dir)
}

fn is_ours(name: &str) -> bool {
    ["lock", UNFINISHED, AUDIT_HEAD].contains(&name)
        || [".p8", ".p8.new"].iter().any(|end| name.ends_with(end))
        || [STATE, NEW_STATE].iter().any(|state| {
            ["", "-wal", "-shm", "-journal"]
                .iter()
                .any(|end| name.strip_suffix(end) == Some(state))
        })
}

fn sync(data_dir: &Path) -> io::Result<()> {
    File::open(data_dir)?.sync_all()
}

/// Of what lies there, sorted; what has no name in UTF-8 is none of ours, and stands for something of somebody else's.
fn names(data_dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        dir
    }

    #[test]
    fn an_authority_whose_state_is_gone_is_no_new_trust_domain() {
        for file in [
            "x509-1.p8",
            "jwt-1.p8.new",
            AUDIT_HEAD,
            NEW_STATE,
            "state.sqlite-wal",
        ] {
            let dir = with(&["lock", file]);
            let refused = refuse(dir.path()).unwrap_err();
            assert!(
                matches!(&refused, LostState::Lost { found, .. } if found == file),
                "{refused}"
            );
            assert!(!is_free(dir.path()), "{file}: nor is it restored over");
        }
        for files in [
            &[][..],
            &["lock"],
            &["lock", "admin.sock", "audit.log"],
            &["x509-1.p8", STATE],
        ] {
            refuse(with(files).path()).unwrap();
        }
    }

    #[test]
    fn what_an_interrupted_restore_left_is_not_served_and_is_restored_over() {
        let dir = with(&["lock", UNFINISHED, "x509-1.p8", AUDIT_HEAD, STATE, NEW_STATE]);
        assert!(matches!(refuse(dir.path()), Err(LostState::Unfinished(_))));
        assert!(is_free(dir.path()));
        let mark = begin(dir.path()).unwrap();
        assert_eq!(names(dir.path()).unwrap(), ["lock", UNFINISHED]);
        assert!(matches!(refuse(dir.path()), Err(LostState::Unfinished(_))));
        end(dir.path()).unwrap();
        assert!(!mark.exists());
        refuse(dir.path()).unwrap();

        let others = with(&[UNFINISHED, "x509-1.p8", "thesis.txt"]);
        assert!(!is_free(others.path()));
    }
}
