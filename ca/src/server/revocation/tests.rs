use super::*;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

const BORN: u64 = 1_800_000_000;
const MOST: u64 = MOST_LISTED as u64;

fn certificates(of: &str, authority: &str, numbers: std::ops::Range<u64>, not_after: i64) -> Vec<Issued> {
    let one = |number| Issued {
        serial: format!("{number:016x}"),
        spiffe_id: format!("spiffe://td/{of}"),
        authority: authority.to_owned(),
        bundle: 1,
        not_after,
    };
    numbers.map(one).collect()
}

/// A revocation in a directory of its own.
async fn revocation(dir: &tempfile::TempDir) -> (Arc<Sqlite>, Revocation) {
    let store = Arc::new(Sqlite::open(&dir.path().join("state.sqlite")).await.unwrap());
    let revocation = Revocation::open(store.clone()).await.unwrap();
    (store, revocation)
}

async fn bar(revocation: &Revocation, of: &str) {
    let id = SpiffeId::new(format!("spiffe://td/{of}")).unwrap();
    revocation.bar(&id, "", at(BORN)).await.unwrap();
}

#[tokio::test]
async fn what_has_expired_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, revocation) = revocation(&dir).await;
    let authorities = BTreeSet::from(["a"]);
    let end = i64::try_from(BORN + 60).unwrap();
    store
        .record(&certificates("one", "a", 0..MOST, end))
        .await
        .unwrap();
    bar(&revocation, "one").await;
    let gathered = revocation.gather(&authorities, at(BORN)).await.unwrap();
    assert_eq!(gathered.left_out, 0);
    let draft = revocation.due("a", at(BORN)).unwrap();
    assert_eq!(draft.listed.len(), MOST_LISTED);
    revocation.keep(&draft, Vec::new(), at(BORN)).await.unwrap();

    // Full, as long as they live.
    let more = certificates("two", "a", MOST..MOST + 5, end + 3600);
    store.record(&more).await.unwrap();
    bar(&revocation, "two").await;
    let gathered = revocation.gather(&authorities, at(BORN + 60)).await.unwrap();
    assert_eq!(gathered.left_out, 5);
    let gathered = revocation.gather(&authorities, at(BORN + 61)).await.unwrap();
    assert_eq!(gathered.left_out, 0);
    let draft = revocation.due("a", at(BORN + 61)).unwrap();
    assert_eq!(draft.listed.len(), 5, "what has expired is off the list at once");
}

#[tokio::test]
async fn what_a_discarded_authority_signed_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, revocation) = revocation(&dir).await;
    let end = i64::try_from(BORN + 3600).unwrap();
    let old = certificates("one", "old", 0..MOST, end);
    let new = certificates("one", "new", MOST..MOST + 5, end);
    store.record(&old).await.unwrap();
    store.record(&new).await.unwrap();
    bar(&revocation, "one").await;
    let both = BTreeSet::from(["old", "new"]);
    let gathered = revocation.gather(&both, at(BORN)).await.unwrap();
    assert_eq!(gathered.left_out, 5);

    let remain = BTreeSet::from(["new"]);
    revocation.forget("old").await.unwrap();
    let gathered = revocation.gather(&remain, at(BORN)).await.unwrap();
    assert_eq!(gathered.left_out, 0);
    let kept = store.revocations().await.unwrap();
    assert!(kept.serials.iter().all(|one| one.authority == "new"));
    assert!(revocation.due("old", at(BORN)).is_none());
}

#[tokio::test]
async fn the_numbers_of_lists_go_on_also_where_a_restored_backup_knows_of_none() {
    let number = async |now: u64, lists: u64| {
        let dir = tempfile::tempdir().unwrap();
        let (_store, revocation) = revocation(&dir).await;
        let mut numbers = Vec::new();
        for list in 0..lists {
            let more = certificates("one", "a", list..list + 1, i64::MAX);
            revocation.take_back(&more[0], "", at(now)).await.unwrap();
            let draft = revocation.due("a", at(now)).unwrap();
            numbers.push(draft.number);
            revocation.keep(&draft, Vec::new(), at(now)).await.unwrap();
        }
        numbers
    };
    let before = number(BORN, 5).await;
    assert!(before.windows(2).all(|two| two[0] < two[1]), "{before:?}");
    // From an empty state, a minute later.
    let after = number(BORN + 60, 1).await;
    assert!(before[4] < after[0], "{before:?} {after:?}");
}
