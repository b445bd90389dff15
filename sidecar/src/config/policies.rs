//! The policy folder and the state of files: paths enter, the text of every policy file or a fingerprint that changes
//! with the files leaves. It never decides whether a policy is good.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::document::read_text;
use super::problem::{ConfigProblem, SHORTAGE, is_shortage};

const MAX_DEPTH: usize = 8;
const MAX_FOLDERS: usize = 1_000;
const MAX_FILES: usize = 10_000;
const MAX_TOTAL: usize = 64 * 1024 * 1024;

/// Reads every `*.cedar` file of a folder and its sub-folders, and the `*.test.toml` files that say what the policies must
/// decide, in the order of their paths. Names that begin with a dot
/// are left out: mounts keep their versions there, and editors their swap files.
///
/// # Errors
/// The folder cannot be read whole. A policy that is left out could be the one that forbids, so there is no part of it.
pub fn read_policies(dir: &Path) -> Result<Vec<(PathBuf, String)>, ConfigProblem> {
    let mut files = Vec::new();
    let mut total = 0;
    for path in policy_files(dir)? {
        let text = read_text(&path)?;
        total += text.len();
        if total > MAX_TOTAL {
            return Err(ConfigProblem::whole(
                dir,
                "holds more than 64 MiB of policies",
                "check that it is the right folder",
            ));
        }
        files.push((path, text));
    }
    Ok(files)
}

fn policy_files(dir: &Path) -> Result<Vec<PathBuf>, ConfigProblem> {
    let too_much = || {
        ConfigProblem::whole(
            dir,
            format!(
                "has more than {MAX_FILES} policy files, {MAX_FOLDERS} folders or {MAX_DEPTH} levels of folders"
            ),
            "check that it is the right folder, and that no link leads back into it",
        )
    };
    let mut found = Vec::new();
    let mut waiting = vec![(dir.to_owned(), 0)];
    let mut folders = 0;
    while let Some((folder, depth)) = waiting.pop() {
        folders += 1;
        if depth > MAX_DEPTH || folders > MAX_FOLDERS {
            return Err(too_much());
        }
        for path in entries(&folder)? {
            let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
            if metadata.is_dir() {
                waiting.push((path, depth + 1));
            } else if is_policy(&path)? {
                found.push(path);
            }
        }
        if found.len() > MAX_FILES {
            return Err(too_much());
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ConfigProblem> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden {
            paths.push(entry.path());
        }
        if paths.len() > 2 * MAX_FILES {
            return Err(ConfigProblem::whole(
                folder,
                "holds too many files",
                "check that it is the right folder",
            ));
        }
    }
    Ok(paths)
}

fn is_policy(path: &Path) -> Result<bool, ConfigProblem> {
    if path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(b".test.toml"))
    {
        return Ok(true);
    }
    let Some(extension) = path.extension() else {
        return Ok(false);
    };
    if extension != "cedar" && extension.eq_ignore_ascii_case("cedar") {
        return Err(ConfigProblem::whole(
            path,
            "would be left out, because its ending is not `.cedar`",
            "rename it",
        ));
    }
    Ok(extension == "cedar")
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigProblem {
    let hint = if is_shortage(error) {
        SHORTAGE
    } else {
        "check that it is there and that hopguard's user may read it"
    };
    ConfigProblem::whole(path, format!("cannot be read: {error}"), hint).short(error)
}

/// The state of files and policy folders without their content: equal as long as none of them changed. A reload is due
/// when it differs from the one in force, two looks in a row agree, and nothing changed a moment ago, so that a file that is
/// still being written is not taken for a whole one.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    states: BTreeMap<PathBuf, Option<State>>,
    /// The last change of a file, or of a folder (something came or went). It tells how old a change is, not whether there
    /// was one.
    changed: Option<SystemTime>,
    /// Why a folder could not be looked at, when that tells of the machine and not of the folder.
    shortage: Option<String>,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.states == other.states
    }
}

impl Eq for Fingerprint {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Looks at `files`, and at every policy file below `folders`. What cannot be read is part of the state too.
    pub fn of<'p>(
        files: impl IntoIterator<Item = &'p Path>,
        folders: impl IntoIterator<Item = &'p Path>,
    ) -> Self {
        let mut states: BTreeMap<PathBuf, Option<State>> = BTreeMap::new();
        let (mut of_folders, mut shortage) = (Vec::new(), None);
        for file in files {
            states.insert(file.to_owned(), state(file));
        }
        for folder in folders {
            states.insert(folder.to_owned(), None);
            of_folders.extend(state(folder));
            let files = policy_files(folder).unwrap_or_else(|problem| {
                shortage = problem.shortage.then(|| problem.to_string());
                Vec::new()
            });
            for path in files {
                let state = state(&path);
                states.insert(path, state);
            }
        }
        let all = states.values().flatten().chain(&of_folders);
        let changed = all.filter_map(State::changed).max();
        Self {
            states,
            changed,
            shortage,
        }
    }

    /// Why this is no look at all: the machine could not, for the moment.
    pub fn shortage(&self) -> Option<&str> {
        self.shortage.as_deref()
    }

    /// Whether the last change is at least so old. A change in the future (another machine's clock) is not.
    pub fn rests(&self, now: SystemTime, least: Duration) -> bool {
        let age = |changed| now.duration_since(changed).unwrap_or_default();
        self.changed.is_none_or(|changed| age(changed) >= least)
    }
}

impl State {
    /// When content, name or rights last changed.
    fn changed(&self) -> Option<SystemTime> {
        let (seconds, nanos) = self.changed;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

fn state(path: &Path) -> Option<State> {
    let metadata = fs::metadata(path).ok()?;
    Some(State {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn reads_all_cedar_files_in_order_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for (name, text) in [
            ("b.cedar", "b"),
            ("a.cedar", "a"),
            ("sub/c.cedar", "c"),
            ("readme.md", "no"),
            ("z.test.toml", "z"),
            ("mesh.toml", "no"),
            (".d.cedar.swp", "no"),
            (".hidden.cedar", "no"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let texts: Vec<String> = read_policies(dir.path())
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["a", "b", "c", "z"]);
    }

    #[test]
    fn a_mounted_config_map_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026")).unwrap();
        fs::write(dir.path().join("..2026/a.cedar"), "a").unwrap();
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/a.cedar", dir.path().join("a.cedar")).unwrap();
        assert_eq!(read_policies(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_part_of_the_folder_is_never_taken_for_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_policies(&dir.path().join("missing")).is_err());

        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join("forbid.CEDAR"), "x").unwrap();
        assert!(
            read_policies(&upper)
                .unwrap_err()
                .message
                .contains("would be left out")
        );

        let dangling = dir.path().join("dangling");
        fs::create_dir(&dangling).unwrap();
        symlink("nowhere", dangling.join("forbid.cedar")).unwrap();
        assert!(read_policies(&dangling).is_err());

        let cycle = dir.path().join("cycle");
        fs::create_dir(&cycle).unwrap();
        symlink(".", cycle.join("again")).unwrap();
        assert!(
            read_policies(&cycle)
                .unwrap_err()
                .message
                .contains("levels of folders")
        );

        let big = dir.path().join("big");
        fs::create_dir(&big).unwrap();
        fs::write(big.join("a.cedar"), vec![b' '; 1024 * 1024 + 1]).unwrap();
        assert!(read_policies(&big).unwrap_err().message.contains("1 MiB"));

        let binary = dir.path().join("binary");
        fs::create_dir(&binary).unwrap();
        fs::write(binary.join("a.cedar"), [0xff]).unwrap();
        assert!(read_policies(&binary).unwrap_err().message.contains("UTF-8"));
    }

    #[test]
    fn an_empty_folder_is_no_policies() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_policies(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_fingerprint_changes_with_content_names_and_presence() {
        let dir = tempfile::tempdir().unwrap();
        let (file, folder) = (dir.path().join("mesh.toml"), dir.path().join("policies"));
        fs::create_dir(&folder).unwrap();
        let look = || Fingerprint::of([file.as_path()], [folder.as_path()]);
        let mut seen = vec![look()];
        assert_eq!(look(), seen[0]);
        fs::write(&file, "a").unwrap();
        seen.push(look());
        fs::write(folder.join("a.cedar"), "a").unwrap();
        seen.push(look());
        fs::write(folder.join("a.cedar"), "b!").unwrap();
        seen.push(look());
        fs::rename(folder.join("a.cedar"), folder.join("b.cedar")).unwrap();
        seen.push(look());
        fs::remove_file(folder.join("b.cedar")).unwrap();
        seen.push(look());
        fs::write(dir.path().join("new"), "a").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        seen.push(look());
        for pair in seen.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        let (last, now) = (look(), SystemTime::now());
        let hour = Duration::from_secs(3600);
        assert!(last.rests(now + hour, hour / 2) && !last.rests(now, hour) && !last.rests(now - hour, hour));
    }
}
