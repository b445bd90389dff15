//! What every store must do, run on each of them.

use std::sync::Arc;

use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::*;

fn record(id: &str, state: AuthorityState) -> AuthorityRecord {
    AuthorityRecord {
        kind: AuthorityKind::X509,
        since: 7,
        published: 6,
        sequence: 3,
        held: true,
        until: 9,
        id: id.into(),
        certificate: vec![0x30, 0],
        key: format!("key-{id}"),
        state,
        not_after: 2_000_000_000,
    }
}

fn issued(serial: &str, not_after: i64) -> Issued {
    Issued {
        serial: serial.into(),
        spiffe_id: "spiffe://td/a".into(),
        authority: "1".into(),
        bundle: 5,
        not_after,
    }
}

async fn suite(store: &dyn Store) {
    assert_eq!(store.bind("td").await.unwrap(), "td");
    assert_eq!(store.bind("other").await.unwrap(), "td", "bound once and for all");

    authorities(store).await;
    sequence(store).await;
    issued_and_alive(store).await;
}

async fn authorities(store: &dyn Store) {
    assert!(store.authorities().await.unwrap().is_empty());
    // Ids chosen so that order of insertion and order of names differ.
    store
        .put_authority(&record("b", AuthorityState::Active))
        .await
        .unwrap();
    store
        .put_authority(&record("a", AuthorityState::Active))
        .await
        .unwrap();
    store
        .put_authority(&record("b", AuthorityState::Retired))
        .await
        .unwrap();
    let all = store.authorities().await.unwrap();
    assert_eq!(
        all,
        [
            record("b", AuthorityState::Retired),
            record("a", AuthorityState::Active)
        ],
        "the newest is last"
    );
    let changed = AuthorityRecord {
        since: 17,
        published: 16,
        sequence: 13,
        held: false,
        until: 19,
        ..record("b", AuthorityState::Discarded)
    };
    store.put_authority(&changed).await.unwrap();
    assert_eq!(store.authorities().await.unwrap()[0], changed);
    store.remove_authority("b").await.unwrap();
    assert_eq!(
        store.authorities().await.unwrap(),
        [record("a", AuthorityState::Active)]
    );
}

async fn sequence(store: &dyn Store) {
    for (content, sequence) in [("x", 1), ("x", 1), ("y", 2), ("x", 3), ("x", 3)] {
        assert_eq!(
            store.sequence(content.as_bytes()).await.unwrap(),
            sequence,
            "{content}"
        );
    }
}

async fn issued_and_alive(store: &dyn Store) {
    store.record(&[issued("1", 100), issued("2", 200)]).await.unwrap();
    store.record(&[]).await.unwrap();
    assert!(
        store.record(&[issued("3", 300), issued("1", 300)]).await.is_err(),
        "a serial is issued once"
    );
    let serials = |list: Vec<Issued>| list.into_iter().map(|one| one.serial).collect::<Vec<_>>();
    assert_eq!(
        serials(store.issued(&["spiffe://td/a"], 0).await.unwrap()),
        ["1", "2"],
        "all of a batch or nothing of it"
    );
    assert_eq!(
        serials(store.issued(&["spiffe://td/a"], 101).await.unwrap()),
        ["2"]
    );
    assert!(store.issued(&["spiffe://td/b"], 0).await.unwrap().is_empty());
    let other = Issued {
        spiffe_id: "spiffe://td/o'brien?\"x\"".into(),
        ..issued("7", 150)
    };
    store.record(std::slice::from_ref(&other)).await.unwrap();
    let both = ["spiffe://td/a", "spiffe://td/none", other.spiffe_id.as_str()];
    assert_eq!(
        serials(store.issued(&both, 101).await.unwrap()),
        ["7", "2"],
        "of all that are asked for, in the order of their ends"
    );
    assert!(store.issued(&[], 0).await.unwrap().is_empty());
    assert_eq!(store.purge(151).await.unwrap(), 2);
    store.record(&[issued("1", 100)]).await.unwrap();
    let group = |count, first| AliveGroup {
        authority: "1".into(),
        bundle: 5,
        count,
        first,
        last: 200,
    };
    assert_eq!(store.alive(100).await.unwrap(), [group(2, 100)]);
    assert_eq!(store.alive(101).await.unwrap(), [group(1, 200)]);
    assert!(store.alive(201).await.unwrap().is_empty());

    assert_eq!(store.purge(101).await.unwrap(), 1);
    assert_eq!(store.purge(101).await.unwrap(), 0);
    assert_eq!(serials(store.issued(&["spiffe://td/a"], 0).await.unwrap()), ["2"]);
}

#[tokio::test]
async fn sqlite_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("state.sqlite")).await.unwrap();
    suite(&store).await;
}

#[tokio::test]
async fn sqlite_keeps_it_over_a_restart_without_a_clean_end() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let first = Sqlite::open(&path).await.unwrap();
    first.bind("td").await.unwrap();
    first
        .put_authority(&record("a", AuthorityState::Active))
        .await
        .unwrap();
    first.record(&[issued("1", 100)]).await.unwrap();
    // Never closed: what is answered is on the disk. (The kill -9 of the real process is tested with the binary.)
    let second = Sqlite::open(&path).await.unwrap();
    assert_eq!(second.bind("x").await.unwrap(), "td");
    assert_eq!(second.authorities().await.unwrap().len(), 1);
    assert_eq!(second.issued(&["spiffe://td/a"], 0).await.unwrap().len(), 1);
    for name in ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{name} is readable for us alone");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    std::fs::write(&path, "x".repeat(8192)).unwrap();
    assert!(Sqlite::open(&path).await.is_err());
}

#[tokio::test]
async fn a_record_is_acknowledged_when_written_and_refused_when_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Sqlite::open(&dir.path().join("state.sqlite")).await.unwrap());
    let (recorder, work) = Recorder::new(store.clone());
    let work = tokio::spawn(work);
    let many: Vec<_> = (0..2000)
        .map(|n| {
            let recorder = recorder.clone();
            tokio::spawn(async move { recorder.record(issued(&n.to_string(), 100)).await })
        })
        .collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    assert_eq!(store.issued(&["spiffe://td/a"], 0).await.unwrap().len(), 2000);
    assert!(
        recorder.record(issued("7", 100)).await.is_err(),
        "a doubled serial is never acknowledged"
    );
    recorder.record(issued("after", 100)).await.unwrap();
    store.close().await;
    assert!(recorder.record(issued("closed", 100)).await.is_err());
    drop(recorder);
    work.await.unwrap();
}

/// As the first version wrote it.
async fn first_schema(path: &std::path::Path) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut database = options.connect().await.unwrap();
    let all = sqlx::migrate!("./migrations");
    let first = all.iter().take(1).cloned().collect();
    Migrator::with_migrations(first)
        .run_direct(None, &mut database, false)
        .await
        .unwrap();
    for statement in [
        "INSERT INTO trust_domain (only, name) VALUES (1, 'td')",
        "INSERT INTO authority (id, certificate, key, state, not_after) VALUES ('1', x'3000', 'key-1', 'active', 2000000000)",
        "INSERT INTO issued (serial, spiffe_id, authority, not_after) VALUES ('a', 'spiffe://td/a', '1', 2000000000)",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    first_schema(&path).await;
    let store = Sqlite::open(&path).await.unwrap();
    assert_eq!(store.bind("other").await.unwrap(), "td");
    let authorities = store.authorities().await.unwrap();
    assert_eq!(authorities.len(), 1);
    assert_eq!(authorities[0].kind, AuthorityKind::X509);
    assert_eq!(authorities[0].state, AuthorityState::Active);
    assert_eq!(authorities[0].key, "key-1");
    assert_eq!(store.issued(&["spiffe://td/a"], 0).await.unwrap()[0].serial, "a");
    store.close().await;
    Sqlite::open(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    Sqlite::open(&path).await.unwrap().close().await;
    let mut database = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, x'00', 0)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    database.close().await.unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = Sqlite::open(&path).await;
    assert!(matches!(refused, Err(StoreError::Schema(_))), "{refused:?}");
    drop(refused);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn more_than_one_statement_forgets_at_once_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&dir.path().join("state.sqlite")).await.unwrap();
    let many: Vec<_> = (0..5000).map(|n| issued(&n.to_string(), 100)).collect();
    store.record(&many).await.unwrap();
    store.record(&[issued("lives", 200)]).await.unwrap();
    assert_eq!(store.purge(101).await.unwrap(), 5000);
    assert_eq!(store.issued(&["spiffe://td/a"], 0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_backup_of_a_store_in_use_is_read_back_whole_and_goes_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let (state, to, new) = (
        dir.path().join("state"),
        dir.path().join("backup"),
        dir.path().join("new"),
    );
    let store = Sqlite::open(&state).await.unwrap();
    store.bind("td").await.unwrap();
    store
        .put_authority(&record("1", AuthorityState::Active))
        .await
        .unwrap();
    store
        .put_authority(&record("2", AuthorityState::Retired))
        .await
        .unwrap();
    store.record(&[issued("a", 300)]).await.unwrap();
    let about = backup::About {
        trust_domain: "td".to_owned(),
        made: 77,
        version: "0".to_owned(),
    };
    let files = vec![("k.p8".to_owned(), zeroize::Zeroizing::new(b"a key".to_vec()))];
    backup::write(&state, &to, &about, &files).await.unwrap();
    // Later than the backup.
    store.record(&[issued("b", 300)]).await.unwrap();
    assert!(
        backup::write(&state, &to, &about, &files).await.is_err(),
        "never over another"
    );

    let (read, held) = backup::read(&to).await.unwrap();
    assert_eq!((read, held), (about, files));
    assert_eq!(backup::keys(&to).await.unwrap(), ["key-1", "key-2"]);
    let restored = backup::restore(&to, &new, 1000).await.unwrap();
    let serials: Vec<_> = restored.issued(&["spiffe://td/a"], 0).await.unwrap();
    assert_eq!(serials.len(), 1);
    let all = restored.authorities().await.unwrap();
    assert_eq!((all[0].since, all[0].published), (7, 6), "who signs goes on");
    assert_eq!(
        (all[1].since, all[1].published),
        (1000, 1000),
        "who waits begins to wait anew"
    );
    restored.close().await;
    let bytes = std::fs::read(&new).unwrap();
    assert!(
        !bytes.windows(5).any(|five| five == b"a key"),
        "no key stays in the state"
    );
}
