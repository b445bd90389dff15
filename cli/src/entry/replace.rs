//! A file replaced whole: whoever reads it sees the old text or the new one, with the owner and the mode that it had. What
//! somebody else wrote meanwhile is never lost.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use hopguard_ca::registration::digest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::MOST;
use crate::ui::{Exit, Failure};

/// A file as it was found.
pub struct Target {
    /// Where it really is: behind every symbolic link.
    path: PathBuf,
    digest: String,
    found: fs::Metadata,
}

impl Target {
    /// Looks at a file.
    pub fn look(file: &Path) -> Result<Self, Failure> {
        let bad = |error: io::Error| {
            Failure::new(format!("{}: {error}", file.display()))
                .hint("the authority names this file: run this beside it, as a user who may write the file")
                .exit(Exit::NotHere)
        };
        let path = file.canonicalize().map_err(bad)?;
        let (text, found) = text_of(&path).map_err(bad)?;
        Ok(Self {
            path,
            digest: digest(&text),
            found,
        })
    }

    /// What tells its text from another.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Puts another text in its place, unless it was changed since it was looked at.
    pub fn replace(&self, text: &str) -> Result<(), Failure> {
        let place = self.path.display();
        let failed = |error: io::Error| {
            Failure::new(format!(
                "{place}: it cannot be replaced: {error}; nothing was changed"
            ))
            .hint("its folder must be writable for this user, and the file must not be a mount of its own")
            .exit(Exit::NotHere)
        };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // Readable for nobody else until it has its owner.
        let mut new = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .tempfile_in(dir)
            .map_err(failed)?;
        new.write_all(text.as_bytes()).map_err(failed)?;
        self.as_it_was(new.as_file()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        match renameat_with(CWD, new.path(), CWD, &self.path, RenameFlags::EXCHANGE) {
            // What was there lies in the place of the new file now, and goes with it.
            Ok(()) if self.is_text_of(new.path()) => {}
            Ok(()) => {
                renameat_with(CWD, new.path(), CWD, &self.path, RenameFlags::EXCHANGE)
                    .map_err(|errno| self.left_over(new, errno))?;
                return Err(self.changed());
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if !self.is_text_of(&self.path) {
                    return Err(self.changed());
                }
                new.persist(&self.path).map_err(|error| failed(error.error))?;
            }
            Err(Errno::NOENT) => return Err(self.changed()),
            Err(errno) => return Err(failed(errno.into())),
        }
        // So that it is there after a crash of the machine as well.
        let _best_effort = fs::File::open(dir).and_then(|dir| dir.sync_all());
        Ok(())
    }

    fn as_it_was(&self, new: &fs::File) -> io::Result<()> {
        let made = new.metadata()?;
        if (made.uid(), made.gid()) != (self.found.uid(), self.found.gid()) {
            fchown(new, Some(self.found.uid()), Some(self.found.gid()))?;
        }
        new.set_permissions(fs::Permissions::from_mode(self.found.mode() & 0o7777))
    }

    fn is_text_of(&self, path: &Path) -> bool {
        text_of(path).is_ok_and(|(text, _)| digest(&text) == self.digest)
    }

    fn changed(&self) -> Failure {
        Failure::new(format!(
            "{}: somebody else changed it meanwhile; nothing was changed here",
            self.path.display()
        ))
        .hint("look at what it holds now, and plan anew")
    }

    /// Both texts are kept where a person can find them.
    fn left_over(&self, new: tempfile::NamedTempFile, errno: Errno) -> Failure {
        let place = self.path.display();
        let kept = new
            .keep()
            .map_or_else(|error| error.to_string(), |(_, path)| path.display().to_string());
        Failure::new(format!(
            "{place}: somebody else changed it meanwhile, and his text cannot be put back ({errno}): it is in {kept}"
        ))
    }
}

fn text_of(path: &Path) -> io::Result<(String, fs::Metadata)> {
    let file = fs::File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    Ok((text, found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_link_stays_one_and_the_file_behind_it_keeps_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        let real = dir.path().join("real/e.toml");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(&real).unwrap();
        let link = dir.path().join("e.toml");
        symlink("real/e.toml", &link).unwrap();
        Target::look(&link).unwrap().replace("new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        let after = fs::metadata(&real).unwrap();
        assert_eq!(after.mode(), before.mode());
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_eq!(
            files(&dir.path().join("real")),
            ["e.toml"],
            "nothing is left behind"
        );
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("e.toml");
        fs::write(&file, "old").unwrap();
        let target = Target::look(&file).unwrap();
        fs::write(&file, "theirs").unwrap();
        let refused = target.replace("ours").unwrap_err();
        assert!(refused.message.contains("somebody else"), "{}", refused.message);
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        fs::remove_file(&file).unwrap();
        assert!(target.replace("ours").is_err());
        assert_eq!(
            files(dir.path()),
            [""; 0],
            "a file that was removed is not made again"
        );
    }
}
