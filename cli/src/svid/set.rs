//! A folder whose SVID, key and bundle change together. The set lies in a folder of its own; `..data` is a link to it, and the
//! three names are links through `..data`: one rename changes all three. (Kubernetes keeps its volumes in the same way, so
//! programs that watch files know it.) The set before stays until the next change, for readers who are in the middle of it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::CertificateDer;

use super::files::{certificates, guarded, key_pem, replace};

const DATA: &str = "..data";
/// The names, with the mode of each.
const NAMES: [(&str, u32); 3] = [("svid.pem", 0o644), ("svid.key", 0o600), ("bundle.pem", 0o644)];

/// What changes together.
pub struct Set<'a> {
    /// The chain, leaf first.
    pub chain: &'a [CertificateDer<'a>],
    /// The key, PKCS#8 DER.
    pub key: &'a [u8],
    /// The roots of its trust domain.
    pub roots: &'a [CertificateDer<'a>],
}

/// The folder, ours until it is dropped.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    // Locked: two watchers would take each other's sets away.
    lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and takes it.
    pub fn open(dir: &Path) -> Result<Self, String> {
        let place = dir.display();
        match DirBuilder::new().mode(0o755).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("`{place}`: {error}"));
            }
            _ => {}
        }
        let lock = File::open(dir).map_err(|error| format!("`{place}`: {error}"))?;
        let found = lock.metadata().map_err(|error| format!("`{place}`: {error}"))?;
        if !found.is_dir() {
            return Err(format!("`{place}` is not a folder"));
        }
        guarded(dir, &found)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("`{place}`: another `svid watch` keeps it"))?;
        for (name, _) in NAMES {
            let path = dir.join(name);
            let other = fs::symlink_metadata(&path).is_ok_and(|found| !found.is_symlink());
            if other {
                return Err(format!(
                    "`{}` is there already, and no link of `svid watch`",
                    path.display()
                ));
            }
        }
        let folder = Self {
            dir: dir.to_owned(),
            lock,
        };
        folder.sweep();
        Ok(folder)
    }

    /// Puts a set in the place of the one before, whole or not at all.
    pub fn replace(&self, set: &Set<'_>, now: SystemTime) -> io::Result<()> {
        let stamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let version = format!("..{stamp}");
        let place = self.dir.join(&version);
        DirBuilder::new().mode(0o755).create(&place)?;
        let done = self.fill(&place, set).and_then(|()| self.switch(&version));
        // The link is renamed before the folder is synced: what failed last may have left the new set in force.
        if done.is_err() && self.is_idle(&version) {
            let _gone_already = fs::remove_dir_all(&place);
        }
        done?;
        self.name()?;
        self.sweep();
        Ok(())
    }

    fn fill(&self, place: &Path, set: &Set<'_>) -> io::Result<()> {
        let key = key_pem(set.key);
        let (chain, roots) = (certificates(set.chain), certificates(set.roots));
        let texts = [chain.as_str(), key.as_str(), roots.as_str()];
        for ((name, mode), text) in NAMES.into_iter().zip(texts) {
            replace(&place.join(name), mode, text.as_bytes())?;
        }
        File::open(place)?.sync_all()
    }

    fn switch(&self, version: &str) -> io::Result<()> {
        let new = self.dir.join(format!("{DATA}.new"));
        let _left_by_a_crash = fs::remove_file(&new);
        symlink(version, &new)?;
        fs::rename(&new, self.dir.join(DATA))?;
        self.lock.sync_all()
    }

    /// The names, where they are not there yet.
    fn name(&self) -> io::Result<()> {
        for (name, _) in NAMES {
            let (path, target) = (self.dir.join(name), Path::new(DATA).join(name));
            if fs::read_link(&path).is_ok_and(|there| there == target) {
                continue;
            }
            let new = self.dir.join(format!("..{name}.new"));
            let _left_by_a_crash = fs::remove_file(&new);
            symlink(target, &new)?;
            fs::rename(new, path)?;
        }
        self.lock.sync_all()
    }

    /// The set that the link leads to; none before the first.
    fn current(&self) -> io::Result<Option<PathBuf>> {
        match fs::read_link(self.dir.join(DATA)) {
            Ok(current) => Ok(Some(current)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a set is certainly not in force: nobody may read it any more.
    fn is_idle(&self, version: &str) -> bool {
        self.current()
            .is_ok_and(|current| current.as_deref() != Some(Path::new(version)))
    }

    /// Removes sets that are neither in force nor the one before; none where nobody can say which that is.
    fn sweep(&self) {
        let Ok(current) = self.current() else {
            return;
        };
        let current = current.unwrap_or_default();
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let stamp = |name: &str| name.strip_prefix("..")?.parse::<u128>().ok();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut sets: Vec<String> = names.filter(|name| stamp(name).is_some()).collect();
        sets.sort_by_key(|name| stamp(name));
        let old = sets.iter().filter(|name| Path::new(name) != current).rev();
        // One that was not finished is younger than the one in force.
        let keep = old
            .clone()
            .find(|name| stamp(name) < current.to_str().and_then(stamp))
            .cloned();
        for name in old.filter(|name| Some(*name) != keep.as_ref()) {
            let _next_time = fs::remove_dir_all(self.dir.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn der(byte: u8) -> CertificateDer<'static> {
        CertificateDer::from(vec![byte; 70])
    }

    fn put(folder: &Folder, at: u64, byte: u8) {
        let (chain, roots) = ([der(byte)], [der(byte)]);
        let set = Set {
            chain: &chain,
            key: &[byte; 70],
            roots: &roots,
        };
        folder
            .replace(&set, UNIX_EPOCH + Duration::from_secs(at))
            .unwrap();
    }

    fn sets(dir: &Path) -> usize {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(dir)
            .unwrap()
            .map(name)
            .filter(|name| name.starts_with("..1"))
            .count()
    }

    #[test]
    fn the_three_change_together_and_the_set_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("svid");
        let folder = Folder::open(&dir).unwrap();
        put(&folder, 100, 1);
        let held = fs::canonicalize(dir.join("svid.pem")).unwrap();
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("svid.key"), mode("svid.pem"), mode("bundle.pem")),
            (0o600, 0o644, 0o644)
        );
        let first = fs::read(&held).unwrap();
        put(&folder, 101, 2);
        assert_eq!(
            fs::read(&held).unwrap(),
            first,
            "who is in the middle of reading reads on"
        );
        assert_ne!(fs::read(dir.join("svid.pem")).unwrap(), first);
        for at in 102..110_u8 {
            put(&folder, at.into(), at);
            let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
            assert_eq!(text("svid.pem"), text("bundle.pem"));
            assert_eq!(text("svid.pem").lines().nth(1), text("svid.key").lines().nth(1));
        }
        assert_eq!(sets(&dir), 2, "the one in force and the one before");
    }

    #[test]
    fn a_crash_at_any_step_leaves_a_whole_set_and_is_swept_up() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        put(&folder, 100, 1);
        drop(folder);
        // Half a set, and a link that was not renamed.
        fs::create_dir(dir.path().join("..101000000000")).unwrap();
        fs::write(dir.path().join("..101000000000/svid.pem"), "half").unwrap();
        symlink("..101000000000", dir.path().join("..data.new")).unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(sets(dir.path()), 1);
        assert!(
            fs::read_to_string(dir.path().join("svid.key"))
                .unwrap()
                .contains("PRIVATE KEY")
        );
        put(&folder, 102, 2);
        assert_eq!(sets(dir.path()), 2);
    }

    /// The last step of a change is to sync the folder, after the new set is in force already.
    #[test]
    fn a_failed_sync_takes_no_set_away_that_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        put(&Folder::open(dir.path()).unwrap(), 100, 1);
        let folder = Folder {
            dir: dir.path().to_owned(),
            // The kernel syncs no device of this kind.
            lock: File::open("/dev/null").unwrap(),
        };
        let (chain, roots) = ([der(2)], [der(2)]);
        let set = Set {
            chain: &chain,
            key: &[2; 70],
            roots: &roots,
        };
        folder
            .replace(&set, UNIX_EPOCH + Duration::from_secs(101))
            .unwrap_err();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text("svid.pem").lines().nth(1), text("svid.key").lines().nth(1));
        assert_eq!(text("svid.pem"), text("bundle.pem"));
    }

    #[test]
    fn nothing_is_swept_where_nobody_knows_what_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        put(&Folder::open(dir.path()).unwrap(), 100, 1);
        let link = dir.path().join(DATA);
        fs::remove_file(&link).unwrap();
        fs::write(&link, "no link").unwrap();
        let _folder = Folder::open(dir.path()).unwrap();
        assert_eq!(sets(dir.path()), 1);
    }

    #[test]
    fn a_folder_that_is_not_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(Folder::open(dir.path()).unwrap_err().contains("another"));
        drop(folder);
        fs::write(dir.path().join("svid.key"), "mine").unwrap();
        assert!(Folder::open(dir.path()).unwrap_err().contains("already"));
        fs::remove_file(dir.path().join("svid.key")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Folder::open(dir.path()).unwrap_err().contains("other users"));
        // Whoever may rename the folder puts another in its place.
        let inner = dir.path().join("inner");
        assert!(Folder::open(&inner).unwrap_err().contains("other users"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        drop(Folder::open(&inner).unwrap());
        assert!(Folder::open(&dir.path().join("no/such")).is_err());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Folder::open(&file).unwrap_err().contains("not a folder"));
    }
}
