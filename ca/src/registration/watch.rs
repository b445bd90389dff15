//! The entries file, followed as it changes. What leaves is the last good state of the file; a bad one changes nothing.
//! It polls: that sees symlinks that Kubernetes swaps, and file systems that send no events. A file that is moved to its
//! place is read at once, where the kernel tells of that.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest as digest_of};
use tokio::sync::watch;

use super::entries::{Entries, Scope};
use super::guard;
use super::moved::Moves;
use crate::problem::Problem;

/// How often the file's metadata are looked at.
const POLL: Duration = Duration::from_millis(50);
/// For this many polls it must stay as it is before it is read: whoever writes it has finished then.
const STILL: u32 = 3;
/// Every this many polls the contents are read although the metadata stayed: a change within one tick of the file
/// system's clock, or with its time set back, shows in nothing else.
const READ_ANYWAY: u32 = 40;
const MAX_FILE: u64 = 16 << 20;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What became of the file: for those who wait until a change is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The digest of the text that was read last; none when it could not be read.
    pub read: Option<String>,
    /// Why that text is refused; empty when it is in force.
    pub problems: Vec<Problem>,
    /// The digest of the text that is in force.
    pub in_force: Option<String>,
}

/// What tells one text from another: SHA-256 in hexadecimal.
pub fn digest(text: &str) -> String {
    hex::encode(digest_of(&SHA256, text.as_bytes()))
}

/// Reads and checks the entries file, and who may change it.
///
/// # Errors
/// When it cannot be read, when others may change it, and all that is wrong in it.
pub fn load(file: &Path, scope: &Scope) -> Result<Entries, Vec<Problem>> {
    check(file, scope, Some(guard::us()))
}

/// The same for the authority of another uid; none: it is not known.
///
/// # Errors
/// As [`load`].
pub fn check(file: &Path, scope: &Scope, us: Option<u32>) -> Result<Entries, Vec<Problem>> {
    let (text, found) = read(file)?;
    let mut wrong = guard::problems(file, &found, us.unwrap_or(found.uid()));
    match Entries::parse(file, &text, scope) {
        Ok(entries) if wrong.is_empty() => Ok(entries),
        Ok(_) => Err(wrong),
        Err(more) => {
            wrong.extend(more);
            Err(wrong)
        }
    }
}

/// What is wrong with a file that has no entries any more, and does not say that this is meant: a file that was emptied by
/// mistake would take every identity away.
pub fn takes_all(file: &Path, old: &Entries, new: &Entries) -> Option<Problem> {
    let all = new.is_empty() && !new.none_is_meant() && !old.is_empty();
    all.then(|| {
        let message = format!("it has no entries, which would take all {} away", old.len());
        Problem::whole(file, message).hint("where that is meant, write `entries = \"none\"` into it")
    })
}

/// Follows the file for ever and sends each good state that differs from the one before. Problems are logged, once for
/// each state of the file.
pub async fn watch(
    file: PathBuf,
    scope: Scope,
    entries: watch::Sender<Arc<Entries>>,
    seen: watch::Sender<Seen>,
) {
    let mut follower = Follower {
        file,
        scope,
        stamp: None,
        still: 0,
        seen: None,
        polls: 0,
        unreadable: false,
    };
    // Whether the last state of the file was refused: the next good one is told, also when it changes nothing.
    let mut refused = false;
    let moves = Moves::to(&follower.file);
    let mut timer = tokio::time::interval(POLL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let moved = tokio::select! {
            () = moves.next() => true,
            _ = timer.tick() => false,
        };
        // Reading may hang (a network file system): never on a worker.
        let polled = tokio::task::spawn_blocking(move || {
            let news = follower.poll(moved);
            (follower, news)
        })
        .await;
        let Ok((back, news)) = polled else {
            tracing::error!("the entries file is no longer followed: its reader panicked");
            // The sender must live: the entries in force go on deciding.
            return std::future::pending().await;
        };
        follower = back;
        match unless_all_goes(news, &follower.file, &entries) {
            News::None => {}
            News::Entries(new, digest) => {
                publish(&entries, new, &follower.file, refused);
                refused = false;
                // After the entries: who waits for this finds them in force.
                seen.send_replace(Seen {
                    read: Some(digest.clone()),
                    problems: Vec::new(),
                    in_force: Some(digest),
                });
            }
            News::Problems(problems, read) => {
                complain(&problems);
                refused = true;
                seen.send_modify(|seen| (seen.read, seen.problems) = (read, problems));
            }
        }
    }
}

fn unless_all_goes(news: News, file: &Path, entries: &watch::Sender<Arc<Entries>>) -> News {
    match news {
        News::Entries(new, digest) => match takes_all(file, &entries.borrow(), &new) {
            Some(problem) => News::Problems(vec![problem], Some(digest)),
            None => News::Entries(new, digest),
        },
        news => news,
    }
}

enum News {
    None,
    Entries(Entries, String),
    Problems(Vec<Problem>, Option<String>),
}

struct Follower {
    file: PathBuf,
    scope: Scope,
    stamp: Option<Stamp>,
    /// The stamp was the same in so many polls, up to [`STILL`].
    still: u32,
    seen: Option<String>,
    polls: u32,
    unreadable: bool,
}

impl Follower {
    /// Looks at the file; `moved`: it was moved to its place just now, so it is whole.
    fn poll(&mut self, moved: bool) -> News {
        let stamp = match stamp(&self.file) {
            Ok(stamp) => stamp,
            Err(error) => return self.cannot(Problem::whole(&self.file, error.to_string())),
        };
        self.polls = self.polls.wrapping_add(1);
        if self.stamp != Some(stamp) {
            // A file that is being written is not read: half a file may be valid, and would take identities away.
            self.stamp = Some(stamp);
            self.still = 0;
            if !moved {
                return News::None;
            }
        }
        if moved {
            self.still = STILL - 1;
        }
        if self.still == STILL && !self.polls.is_multiple_of(READ_ANYWAY) {
            return News::None;
        }
        self.still = (self.still + 1).min(STILL);
        if self.still < STILL {
            return News::None;
        }
        let (text, found) = match read(&self.file) {
            Ok(read) => read,
            Err(problems) => {
                return problems
                    .into_iter()
                    .next()
                    .map_or(News::None, |problem| self.cannot(problem));
            }
        };
        self.unreadable = false;
        let digest = digest(&text);
        let insecure = guard::problems(&self.file, &found, guard::us());
        let state = insecure
            .iter()
            .fold(digest.clone(), |state, one| state + &one.message);
        if self.seen.as_ref() == Some(&state) {
            return News::None;
        }
        self.seen = Some(state);
        if !insecure.is_empty() {
            return News::Problems(insecure, Some(digest));
        }
        match Entries::parse(&self.file, &text, &self.scope) {
            Ok(entries) => News::Entries(entries, digest),
            Err(problems) => News::Problems(problems, Some(digest)),
        }
    }

    /// A file that is gone or unreadable is told once, and read again when it is back.
    fn cannot(&mut self, problem: Problem) -> News {
        self.stamp = None;
        self.still = 0;
        self.seen = None;
        if std::mem::replace(&mut self.unreadable, true) {
            return News::None;
        }
        let problem = problem.hint("the entries read before stay in force until the file can be read again");
        News::Problems(vec![problem], None)
    }
}

fn publish(entries: &watch::Sender<Arc<Entries>>, new: Entries, file: &Path, refused_before: bool) {
    let count = new.len();
    // Nobody else sends: what is compared before it is sent is what it replaces, and nobody waits for the comparison.
    let held = entries.borrow().clone();
    let changed = *held != new;
    let found = held.difference(&new);
    let (added, removed, differ) = (found.added.len(), found.removed.len(), found.changed.len());
    entries.send_if_modified(|held| {
        // Also when only places have moved: then nobody has to look again.
        *held = Arc::new(new);
        changed
    });
    let file = file.display();
    if changed {
        tracing::info!(%file, entries = count, added, removed, changed = differ, "entries are in force");
    } else if refused_before {
        tracing::info!(%file, entries = count, "the entries file is good again, and its entries are those in force");
    }
}

fn complain(problems: &[Problem]) {
    for problem in problems {
        tracing::error!(
            file = %problem.file.display(),
            line = problem.line,
            column = problem.column,
            hint = problem.hint.as_deref(),
            "the entries file is refused and the old entries stay: {}", problem.message
        );
    }
}

fn stamp(file: &Path) -> std::io::Result<Stamp> {
    let found = std::fs::metadata(file)?;
    Ok(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn read(file: &Path) -> Result<(String, std::fs::Metadata), Vec<Problem>> {
    let problem =
        |message: String| vec![Problem::whole(file, message).hint("`entries` of ca.toml names this file")];
    let found = std::fs::metadata(file).map_err(|error| problem(error.to_string()))?;
    if !found.is_file() {
        return Err(problem("it is not a plain file".to_owned()));
    }
    let open = std::fs::File::open(file).map_err(|error| problem(error.to_string()))?;
    // Of what is read, whatever lies there by now.
    let found = open.metadata().map_err(|error| problem(error.to_string()))?;
    let mut text = String::new();
    open.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| problem(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(problem(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok((text, found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn text(paths: &[&str]) -> String {
        paths
            .iter()
            .map(|p| format!("[[entry]]\nspiffe_id = \"spiffe://td/{p}\"\nselectors = [\"unix:uid:1\"]\n"))
            .collect()
    }

    fn start(file: &Path) -> watch::Receiver<Arc<Entries>> {
        let scope = Scope::default();
        let (sender, receiver) = watch::channel(Arc::new(load(file, &scope).unwrap()));
        tokio::spawn(watch(file.to_owned(), scope, sender, watch::Sender::default()));
        receiver
    }

    async fn until(receiver: &mut watch::Receiver<Arc<Entries>>, paths: &[&str]) {
        let wanted: Vec<_> = paths.iter().map(|p| format!("/{p}")).collect();
        let same = |entries: &Arc<Entries>| {
            entries
                .iter()
                .map(|e| e.id.path().to_owned())
                .eq(wanted.iter().cloned())
        };
        tokio::time::timeout(DEADLINE, receiver.wait_for(same))
            .await
            .expect("in time")
            .unwrap();
    }

    #[tokio::test]
    async fn a_rewritten_a_renamed_and_a_removed_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, text(&["a"])).unwrap();
        let mut entries = start(&file);
        std::fs::write(&file, text(&["a", "b"])).unwrap();
        until(&mut entries, &["a", "b"]).await;
        std::fs::write(dir.path().join("new"), text(&["c"])).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        until(&mut entries, &["c"]).await;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, text(&["c", "d"])).unwrap();
        until(&mut entries, &["c", "d"]).await;
    }

    #[tokio::test]
    async fn a_symlink_that_is_swapped_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, paths) in [("v1", "a"), ("v2", "b")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("entries.toml"), text(&[paths])).unwrap();
        }
        symlink("v1", dir.path().join("..data")).unwrap();
        symlink("..data/entries.toml", dir.path().join("entries.toml")).unwrap();
        let mut entries = start(&dir.path().join("entries.toml"));
        symlink("v2", dir.path().join("..tmp")).unwrap();
        std::fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        until(&mut entries, &["b"]).await;
    }

    #[tokio::test]
    async fn what_became_of_each_text_is_told_to_those_who_wait() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, text(&["a"])).unwrap();
        let scope = Scope::default();
        let entries = watch::Sender::new(Arc::new(load(&file, &scope).unwrap()));
        let seen = watch::Sender::default();
        let mut told: watch::Receiver<Seen> = seen.subscribe();
        tokio::spawn(watch(file.clone(), scope, entries.clone(), seen));
        let mut until = async |wanted: &str| {
            let read = |seen: &Seen| seen.read.as_deref() == Some(digest(wanted).as_str());
            tokio::time::timeout(DEADLINE, told.wait_for(read))
                .await
                .unwrap()
                .unwrap()
                .clone()
        };
        let first = until(&text(&["a"])).await;
        assert_eq!((first.problems.len(), first.in_force), (0, first.read));
        std::fs::write(&file, "[[entry]]\n").unwrap();
        let bad = until("[[entry]]\n").await;
        assert_eq!(bad.problems[0].line, 1);
        assert_eq!(bad.in_force, Some(digest(&text(&["a"]))), "the old one stays");
        std::fs::write(&file, text(&["a", "b"])).unwrap();
        let good = until(&text(&["a", "b"])).await;
        assert_eq!((good.problems.len(), good.in_force), (0, good.read));
        assert_eq!(entries.borrow().len(), 2, "they are in force when it is told");
    }

    #[test]
    fn a_file_that_others_may_write_from_now_on_is_refused_until_they_may_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, text(&["a"])).unwrap();
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let mut follower = Follower {
            file: file.clone(),
            scope: Scope::default(),
            stamp: None,
            still: 0,
            seen: None,
            polls: 0,
            unreadable: false,
        };
        let mut polls = || -> Vec<News> {
            let news = (0..100).map(|_| follower.poll(false));
            news.filter(|news| !matches!(news, News::None)).collect()
        };
        assert!(matches!(polls().as_slice(), [News::Entries(..)]));
        mode(0o666);
        assert!(load(&file, &Scope::default()).is_err());
        assert!(
            matches!(polls().as_slice(), [News::Problems(_, Some(_))]),
            "told once"
        );
        mode(0o644);
        assert!(matches!(polls().as_slice(), [News::Entries(..)]));
    }

    #[tokio::test]
    async fn a_file_that_was_emptied_takes_nothing_away_unless_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, text(&["a"])).unwrap();
        let scope = Scope::default();
        let entries = watch::Sender::new(Arc::new(load(&file, &scope).unwrap()));
        let seen = watch::Sender::default();
        let mut told: watch::Receiver<Seen> = seen.subscribe();
        tokio::spawn(watch(file.clone(), scope, entries.clone(), seen));
        for (text, problems, left) in [("", 1, 1), ("entries = \"none\"\n", 0, 0), ("", 0, 0)] {
            std::fs::write(&file, text).unwrap();
            let read = |seen: &Seen| seen.read.as_deref() == Some(digest(text).as_str());
            let seen = tokio::time::timeout(DEADLINE, told.wait_for(read))
                .await
                .unwrap()
                .unwrap()
                .clone();
            assert_eq!(
                (seen.problems.len(), entries.borrow().len()),
                (problems, left),
                "{text}: {seen:?}"
            );
        }
    }

    #[test]
    fn a_bad_file_changes_nothing_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        std::fs::write(&file, text(&["a"])).unwrap();
        let mut follower = Follower {
            file: file.clone(),
            scope: Scope::default(),
            stamp: None,
            still: 0,
            seen: None,
            polls: 0,
            unreadable: false,
        };
        let mut polls = |count: usize| -> Vec<News> {
            (0..count)
                .map(|_| follower.poll(false))
                .filter(|news| !matches!(news, News::None))
                .collect()
        };
        assert!(matches!(polls(100).as_slice(), [News::Entries(..)]));
        std::fs::write(&file, "[[entry]]\n").unwrap();
        let news = polls(100);
        let [News::Problems(problems, Some(_))] = news.as_slice() else {
            panic!("told once")
        };
        assert_eq!(problems[0].line, 1);
        std::fs::remove_file(&file).unwrap();
        assert!(
            matches!(polls(100).as_slice(), [News::Problems(_, None)]),
            "gone is told once"
        );
        std::fs::write(&file, text(&["a", "b"])).unwrap();
        assert!(matches!(polls(100).as_slice(), [News::Entries(..)]));
    }

    #[test]
    fn a_file_that_still_grows_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        let whole = text(&["a", "b", "c"]);
        let mut follower = Follower {
            file: file.clone(),
            scope: Scope::default(),
            stamp: None,
            still: 0,
            seen: None,
            polls: 0,
            unreadable: false,
        };
        for cut in [text(&["a"]).len(), text(&["a", "b"]).len(), whole.len()] {
            std::fs::write(&file, whole.get(..cut).unwrap()).unwrap();
            assert!(matches!(follower.poll(false), News::None));
        }
        for _ in 1..STILL {
            assert!(matches!(follower.poll(false), News::None));
        }
        let News::Entries(entries, _) = follower.poll(false) else {
            panic!("still now")
        };
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn a_file_that_was_moved_to_its_place_is_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("entries.toml");
        let mut follower = Follower {
            file: file.clone(),
            scope: Scope::default(),
            stamp: None,
            still: 0,
            seen: None,
            polls: 0,
            unreadable: false,
        };
        for paths in [&["a"][..], &["a", "b"], &["c"]] {
            std::fs::write(dir.path().join("new"), text(paths)).unwrap();
            std::fs::rename(dir.path().join("new"), &file).unwrap();
            let News::Entries(entries, _) = follower.poll(true) else {
                panic!("at once")
            };
            assert_eq!(entries.len(), paths.len());
            assert!(matches!(follower.poll(true), News::None), "and once");
        }
        // What is written in its place afterwards is waited for as ever.
        std::fs::write(&file, text(&["d", "e"])).unwrap();
        assert!(matches!(follower.poll(false), News::None));
    }

    #[test]
    fn a_directory_and_a_file_that_is_too_large_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), &Scope::default()).is_err());
        let file = dir.path().join("large");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(MAX_FILE + 1)
            .unwrap();
        assert!(load(&file, &Scope::default()).is_err());
    }
}
