//! A backup of a running authority, and one of an authority that is gone, bring it back; nothing is overwritten.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use hopguard_tests::hopguard;

use crate::*;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn roots(authority: &Authority) -> Value {
    Client::start(&["fetch", &authority.endpoint()]).next()["roots"].clone()
}

fn back_up(authority: &Authority, name: &str) -> (PathBuf, Value) {
    let file = authority.path(name);
    let config = authority.path("ca.toml");
    let said = done(&["ca", "backup", text(&file), "--config", text(&config)]);
    (file, said)
}

#[test]
fn a_backup_taken_under_load_restores_the_same_authority() {
    let mut first = authority(&for_us("a"), "");
    first.run(hopguard());
    let log = first.path("serials");
    let load = clients(
        &first,
        &["--mode", "calls", "--seconds", "3600", "--log", text(&log)],
    );
    let loaded = hopguard_tests::eventually(DEADLINE, || {
        if lines(&log).len() > 100 {
            Ok(())
        } else {
            Err("no load")
        }
    });
    loaded.unwrap();
    let before = lines(&log);
    let (file, said) = back_up(&first, "backup");
    drop(load);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(said["backup"]["trust_domain"], "mesh.local");
    assert!(said["backup"]["keys"].as_u64().unwrap() >= 2);
    let left: Vec<_> = std::fs::read_dir(first.path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("backup"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let trusted = roots(&first);

    let mut second = authority(&for_us("a"), "");
    let config = second.path("ca.toml");
    let restored = done(&["ca", "restore", text(&file), "--config", text(&config)]);
    assert_eq!(restored["backup"]["trust_domain"], "mesh.local");
    let state = second.path("data/state.sqlite");
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        sql(
            &state,
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'backup%'"
        ),
        ["0"]
    );
    let stored = sql(&state, "SELECT serial FROM issued");
    let missing = before.iter().filter(|serial| !stored.contains(serial)).count();
    assert_eq!(
        missing,
        0,
        "of {} that were received before the backup",
        before.len()
    );
    second.run(hopguard());
    assert_eq!(roots(&second), trusted, "the same root");

    let (code, error) = fails(&["ca", "restore", text(&file), "--config", text(&config)]);
    assert_eq!(code, 4);
    assert!(
        error.contains("not empty") && error.contains("nothing is overwritten"),
        "{error}"
    );
    let (code, error) = fails(&[
        "ca",
        "backup",
        text(&file),
        "--config",
        text(&first.path("ca.toml")),
    ]);
    assert_eq!(code, 4);
    assert!(error.contains("is not overwritten"), "{error}");
}

#[test]
fn an_authority_that_is_gone_is_backed_up_too_and_to_standard_output() {
    let mut first = authority(&for_us("a"), "");
    first.run(hopguard());
    let trusted = roots(&first);
    first.kill_9();
    let output = run(&["ca", "backup", "-", "--config", text(&first.path("ca.toml"))]);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"SQLite format 3\0"));
    let file = first.path("piped");
    std::fs::write(&file, &output.stdout).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();

    let mut second = authority(&for_us("a"), "");
    let output = run(&[
        "ca",
        "restore",
        text(&file),
        "--config",
        text(&second.path("ca.toml")),
    ]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("others may have read"), "{said}");
    assert!(
        said.contains("revoked after the backup") && said.contains("hopguard ca revoke"),
        "{said}"
    );
    second.run(hopguard());
    assert_eq!(roots(&second), trusted);
}

#[test]
fn what_is_damaged_foreign_or_no_backup_restores_nothing() {
    let mut first = authority(&for_us("a"), "");
    first.run(hopguard());
    let (file, _) = back_up(&first, "backup");
    let second = authority(&for_us("a"), "");
    let config = second.path("ca.toml");
    let refused = |file: &Path, why: &str| {
        let (code, error) = fails(&["ca", "restore", text(file), "--config", text(&config)]);
        assert_eq!(code, 3, "{error}");
        assert!(error.contains(why), "{error}");
        let left = std::fs::read_dir(second.path("data")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{why}");
    };
    let whole = std::fs::read(&file).unwrap();
    let damaged = first.path("damaged");
    let mut bytes = whole.clone();
    for at in (4096..bytes.len()).step_by(97) {
        bytes[at] ^= 0x55;
    }
    std::fs::write(&damaged, bytes).unwrap();
    refused(&damaged, "");
    std::fs::write(&damaged, &whole[..whole.len() / 2]).unwrap();
    refused(&damaged, "");
    std::fs::write(&damaged, "Dear all").unwrap();
    refused(&damaged, "not a database");
    first.terminate();
    refused(&first.path("data/state.sqlite"), "no backup");

    let other = std::fs::read_to_string(&config)
        .unwrap()
        .replace("mesh.local", "other.local");
    std::fs::write(second.path("other.toml"), other).unwrap();
    std::fs::write(second.path("entries.toml"), "").unwrap();
    let (code, error) = fails(&[
        "ca",
        "restore",
        text(&file),
        "--config",
        text(&second.path("other.toml")),
    ]);
    assert_eq!(code, 3, "{error}");
    assert!(
        error.contains("mesh.local") && error.contains("other.local"),
        "{error}"
    );
}

/// What says that it is the authority, on its socket, and what it wants copied and removed.
fn liar(authority: &Authority, file: &Path) -> std::thread::JoinHandle<()> {
    let socket = std::os::unix::net::UnixListener::bind(authority.path("data/admin.sock")).unwrap();
    let answer = serde_json::json!({"done": {"file": file, "summary": {}}});
    std::thread::spawn(move || {
        let (stream, _) = socket.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        assert!(request.contains("backup"), "{request}");
        (&stream).write_all(format!("{answer}\n").as_bytes()).unwrap();
    })
}

#[test]
fn a_file_that_is_no_backup_of_the_authority_is_neither_copied_nor_removed() {
    let mut authority = authority(&for_us("a"), "");
    authority.run(hopguard());
    authority.terminate();
    let data = authority.path("data");
    // Whoever holds the lock runs, as far as others know.
    let lock = std::fs::File::open(data.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let secret = authority.path("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::write(authority.path("backup-1.tmp"), "secret").unwrap();
    std::os::unix::fs::symlink(&secret, data.join("backup-2.tmp")).unwrap();
    std::fs::hard_link(&secret, data.join("backup-3.tmp")).unwrap();
    std::fs::create_dir(data.join("backup-4.tmp")).unwrap();
    let mut named = vec![
        (secret, "no backup has such a name"),
        (data.join("state.sqlite"), "no backup has such a name"),
        (authority.path("backup-1.tmp"), "No such file"),
        (data.join("backup-2.tmp"), "Too many"),
        (data.join("backup-3.tmp"), "one name"),
        (data.join("backup-4.tmp"), "not a plain file"),
    ];
    let foreign = data.join("backup-5.tmp");
    if is_root() {
        std::fs::write(&foreign, "secret").unwrap();
        std::os::unix::fs::chown(&foreign, Some(4242), None).unwrap();
        named.push((foreign, "belongs to uid 4242"));
    }
    let (out, config) = (authority.path("out"), authority.path("ca.toml"));
    for (file, why) in named {
        let told = liar(&authority, &file);
        let (code, error) = fails(&["ca", "backup", text(&out), "--config", text(&config)]);
        told.join().unwrap();
        std::fs::remove_file(data.join("admin.sock")).unwrap();
        assert_eq!(code, 4, "{error}");
        assert!(error.contains(why), "{}: {error}", file.display());
        assert!(
            file.symlink_metadata().is_ok(),
            "{} is still there",
            file.display()
        );
        assert!(!out.exists(), "{}", file.display());
    }
}

/// The exit code and the log of an authority that must not start.
fn does_not_start(authority: &Authority) -> (i32, String) {
    fails(&["ca", "serve", "--config", text(&authority.path("ca.toml"))])
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn lost_state_is_told_and_does_not_become_a_new_trust_root() {
    let mut first = authority(&for_us("a"), "");
    first.run(hopguard());
    let (file, _) = back_up(&first, "backup");
    let trusted = roots(&first);
    first.terminate();
    let data = first.path("data");
    // Nothing but an empty state, as a file system may leave it.
    std::fs::remove_file(data.join("state.sqlite")).unwrap();
    std::fs::write(data.join("state.sqlite"), "").unwrap();
    let (code, error) = does_not_start(&first);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("its state is lost"), "{error}");
    for name in names(&data)
        .iter()
        .filter(|name| name.starts_with("state.sqlite"))
    {
        std::fs::remove_file(data.join(name)).unwrap();
    }
    let before = names(&data);
    let (code, error) = does_not_start(&first);
    assert_eq!(code, 4, "{error}");
    assert!(
        error.contains("its state is lost")
            && error.contains("ca restore")
            && error.contains("empty the directory"),
        "{error}"
    );
    assert_eq!(names(&data), before, "nothing was made or removed");
    std::fs::rename(&data, first.path("aside")).unwrap();
    done(&[
        "ca",
        "restore",
        text(&file),
        "--config",
        text(&first.path("ca.toml")),
    ]);
    first.run(hopguard());
    assert_eq!(roots(&first), trusted);
}

#[test]
fn a_restore_that_was_killed_is_not_served_from_and_is_begun_again() {
    let mut first = authority(&for_us("a"), "");
    first.run(hopguard());
    let (file, _) = back_up(&first, "backup");
    let trusted = roots(&first);
    let mut second = authority(&for_us("a"), "");
    let config = second.path("ca.toml");
    // The kernel kills it where it writes a file that is longer than a key: the state, which comes last.
    let killed = std::process::Command::new("sh")
        .args(["-c", "ulimit -c 0; ulimit -f 4; exec \"$@\"", "sh"])
        .arg(hopguard_tests::hopguard_bin())
        .args(["ca", "restore", text(&file), "--config", text(&config)])
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "a signal ended it: {killed:?}");
    let data = second.path("data");
    let left = names(&data);
    let has = |end: &str| left.iter().any(|name| name.ends_with(end));
    assert!(
        has(".p8") && has("state.sqlite.new") && !has("state.sqlite"),
        "{left:?}"
    );
    let (code, error) = does_not_start(&second);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("interrupted `hopguard ca restore`"), "{error}");
    assert_eq!(names(&data), left);

    done(&["ca", "restore", text(&file), "--config", text(&config)]);
    second.run(hopguard());
    assert_eq!(roots(&second), trusted, "the same root");
    let (code, error) = fails(&["ca", "restore", text(&file), "--config", text(&config)]);
    assert_eq!(code, 4);
    assert!(error.contains("not empty"), "{error}");
}
