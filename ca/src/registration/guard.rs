//! Who may change the entries file: whoever can write it can give himself any identity. It looks, and repairs nothing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::problem::Problem;

const BY_OTHERS: u32 = 0o002;
const BY_GROUP: u32 = 0o020;
/// Only its owner may rename a file of such a folder.
const STICKY: u32 = 0o1000;

/// The uid of this process.
pub fn us() -> u32 {
    geteuid().as_raw()
}

/// Why a file must not be believed by the authority of this uid: others may write it, or put another in its place.
pub fn problems(file: &Path, found: &Metadata, us: u32) -> Vec<Problem> {
    let mut all: Vec<Problem> = judge(file, "it", found, us)
        .map(|why| Problem::whole(file, why.0).hint(why.1))
        .into_iter()
        .collect();
    for folder in folders(file) {
        // A folder that cannot be looked at is one whose file could not be read either.
        let Ok(found) = std::fs::metadata(&folder) else {
            continue;
        };
        let name = format!("its folder `{}`", folder.display());
        if let Some((why, hint)) = judge(&folder, &name, &found, us) {
            all.push(Problem::whole(file, why).hint(hint));
        }
    }
    all
}

fn judge(path: &Path, name: &str, found: &Metadata, us: u32) -> Option<(String, String)> {
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    if owner != 0 && owner != us {
        let why = format!("{name} belongs to uid {owner}, who could give himself any identity");
        let hint = format!(
            "it must be the authority's (uid {us}) or root's: chown {us} {}",
            path.display()
        );
        return Some((why, hint));
    }
    if mode & BY_OTHERS != 0 && !(found.is_dir() && mode & STICKY != 0) {
        let why =
            format!("{name} has mode {mode:04o}: every user of this machine could give himself any identity");
        return Some((why, format!("chmod o-w {}", path.display())));
    }
    None
}

/// Where the name lies, and where the file behind its links does.
fn folders(file: &Path) -> Vec<PathBuf> {
    let real = file.canonicalize();
    let mut folders: Vec<PathBuf> = [Some(file), real.as_deref().ok()]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .map(|folder| match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder.to_owned(),
        })
        .collect();
    folders.dedup();
    folders
}

/// A group may be the owner's own (`umask 002`), so that nobody else is in it: it is told, and nothing is refused.
pub fn warn_of_group(file: &Path) {
    let mode = std::fs::metadata(file).map_or(0, |found| found.mode() & 0o7777);
    if mode & BY_GROUP != 0 {
        let file = file.display();
        tracing::warn!(
            %file,
            mode = format!("{mode:04o}"),
            "its group may write the entries file, and give itself any identity: chmod g-w it, unless nobody else is in the group"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_may_change_is_refused_and_so_is_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, "").unwrap();
        let look = |file_mode: u32, dir_mode: u32, us: u32| {
            set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
            set_permissions(dir.path(), Permissions::from_mode(dir_mode)).unwrap();
            problems(&file, &metadata(&file).unwrap(), us)
        };
        for (file_mode, dir_mode) in [(0o600, 0o700), (0o644, 0o755), (0o664, 0o775), (0o644, 0o1777)] {
            assert_eq!(look(file_mode, dir_mode, us()), [], "{file_mode:o} {dir_mode:o}");
        }
        for (file_mode, dir_mode, word) in [
            (0o666, 0o755, "it has mode 0666"),
            (0o602, 0o1777, "it has mode 0602"),
            (0o644, 0o777, "its folder"),
        ] {
            let found = look(file_mode, dir_mode, us());
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].message.contains(word), "{found:?}");
            assert!(
                found[0].hint.as_deref().unwrap().contains("chmod o-w"),
                "{found:?}"
            );
        }
        // What is root's is believed by all.
        if us() != 0 {
            assert!(look(0o644, 0o755, us() + 1)[0].message.contains("belongs to uid"));
        }
    }
}
