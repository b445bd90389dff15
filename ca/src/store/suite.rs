//! What every store must do, run on each of them.

use std::sync::Arc;

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

    for (content, sequence) in [("x", 1), ("x", 1), ("y", 2), ("x", 3), ("x", 3)] {
        assert_eq!(
            store.sequence(content.as_bytes()).await.unwrap(),
            sequence,
            "{content}"
        );
    }

    store.record(&[issued("1", 100), issued("2", 200)]).await.unwrap();
    store.record(&[]).await.unwrap();
    assert!(
        store.record(&[issued("3", 300), issued("1", 300)]).await.is_err(),
        "a serial is issued once"
    );
    let serials = |list: Vec<Issued>| list.into_iter().map(|one| one.serial).collect::<Vec<_>>();
    assert_eq!(
        serials(store.issued("spiffe://td/a", 0).await.unwrap()),
        ["1", "2"],
        "all of a batch or nothing of it"
    );
    assert_eq!(serials(store.issued("spiffe://td/a", 101).await.unwrap()), ["2"]);
    assert!(store.issued("spiffe://td/b", 0).await.unwrap().is_empty());
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
    assert_eq!(serials(store.issued("spiffe://td/a", 0).await.unwrap()), ["2"]);
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
    assert_eq!(second.issued("spiffe://td/a", 0).await.unwrap().len(), 1);
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
    assert_eq!(store.issued("spiffe://td/a", 0).await.unwrap().len(), 2000);
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
