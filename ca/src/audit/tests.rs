use std::io::Cursor;
use std::path::Path;

use super::*;

fn issued(number: usize) -> Event {
    Event {
        uid: Some(7),
        spiffe_id: Some(format!("spiffe://td/{number}")),
        ..Event::new("x509_svid", "issued")
    }
}

fn open(dir: &Path) -> Audit {
    Audit::open(Target::File(dir.join("log")), dir.join("head"), true).unwrap()
}

async fn write(audit: &Audit, count: usize) {
    for number in 0..count {
        audit.record(&issued(number)).await.unwrap();
    }
}

fn text(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap()
}

fn check(text: &str) -> Result<Verified, Broken> {
    verify(Cursor::new(text), None, None)
}

/// The writer ends some time after its last handle, and the file is locked until then.
async fn reopened(dir: &Path) -> Audit {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Audit::open(Target::File(dir.join("log")), dir.join("head"), true) {
            Ok(audit) => return audit,
            Err(error) if std::time::Instant::now() > until => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn records_are_numbered_and_chained_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 3).await;
    drop(audit);
    let audit = reopened(dir.path()).await;
    write(&audit, 2).await;
    let verified = check(&text(dir.path())).unwrap();
    assert_eq!((verified.first, verified.records, verified.head.seq), (1, 5, 5));
    assert_eq!(stored_head(&dir.path().join("head")), Some(verified.head));
    let record: Value = serde_json::from_str(text(dir.path()).lines().next().unwrap()).unwrap();
    assert_eq!(record["event"], "x509_svid");
    assert_eq!(record["uid"], 7);
    assert!(record.get("serial").is_none(), "what is not known is not written");
}

#[tokio::test]
async fn what_was_changed_taken_out_put_in_or_moved_is_found_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 6).await;
    let whole = text(dir.path());
    let lines: Vec<&str> = whole.lines().collect();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
        change(&mut lines);
        check(&lines.concat()).unwrap_err()
    };
    let edited = with(&|lines| lines[2] = lines[2].replace("spiffe://td/2", "spiffe://td/9"));
    assert!(matches!(edited, Broken::Hash { line: 4, seq: 4 }), "{edited}");
    let cut = with(&|lines| drop(lines.remove(3)));
    assert!(
        matches!(
            cut,
            Broken::Number {
                line: 4,
                found: 5,
                wanted: 4
            }
        ),
        "{cut}"
    );
    let doubled = with(&|lines| lines.insert(3, lines[2].clone()));
    assert!(
        matches!(
            doubled,
            Broken::Number {
                line: 4,
                found: 3,
                wanted: 4
            }
        ),
        "{doubled}"
    );
    let moved = with(&|lines| lines.swap(1, 2));
    assert!(matches!(moved, Broken::Number { line: 2, .. }), "{moved}");
    let foreign = with(&|lines| lines[4] = "hello\n".to_owned());
    assert!(matches!(foreign, Broken::NoRecord { line: 5 }), "{foreign}");
    let other_start = with(&|lines| lines[0] = lines[0].replace(&"0".repeat(64), &"1".repeat(64)));
    assert!(
        matches!(other_start, Broken::Hash { line: 1, .. }),
        "{other_start}"
    );
    let half = check(whole.trim_end()).unwrap_err();
    assert!(matches!(half, Broken::NoRecord { line: 6 }), "{half}");
}

#[tokio::test]
async fn a_log_that_was_moved_away_goes_on_in_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 2).await;
    std::fs::rename(dir.path().join("log"), dir.path().join("log.1")).unwrap();
    write(&audit, 1).await;
    audit.reopen().await;
    write(&audit, 2).await;
    let old = std::fs::read_to_string(dir.path().join("log.1")).unwrap();
    let before = check(&old).unwrap();
    assert_eq!(before.records, 3);
    let both = verify(Cursor::new(text(dir.path())), Some(before), None).unwrap();
    assert_eq!((both.records, both.head.seq), (5, 5));
    let alone = check(&text(dir.path())).unwrap();
    assert_eq!((alone.first, alone.records), (4, 2));
}

#[tokio::test]
async fn a_log_that_was_truncated_in_place_goes_on_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 2).await;
    std::fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("log"))
        .unwrap()
        .set_len(0)
        .unwrap();
    write(&audit, 1).await;
    let rest = check(&text(dir.path())).unwrap();
    assert_eq!((rest.first, rest.records), (3, 1));
}

#[tokio::test]
async fn an_end_that_was_cut_is_told_and_half_a_record_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 4).await;
    drop(audit);
    drop(reopened(dir.path()).await);
    let whole = text(dir.path());
    let two: String = whole.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("log"), format!("{two}{{\"seq\":3,\"pr")).unwrap();
    let audit = reopened(dir.path()).await;
    write(&audit, 1).await;
    let text = text(dir.path());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[2].contains("\"cut\"") && lines[2].contains("record 4"),
        "{text}"
    );
    let broken = check(&text).unwrap_err();
    assert!(
        matches!(
            broken,
            Broken::Number {
                line: 3,
                found: 5,
                wanted: 3
            }
        ),
        "{broken}"
    );
}

#[tokio::test]
async fn half_a_record_of_ours_is_removed_wherever_a_crash_cut_it() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 2).await;
    let whole = text(dir.path());
    // Elsewhere: the writer goes on holding its own.
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = whole.split_at(whole.find('\n').unwrap() + 1);
    for before in ["", first] {
        let next = if before.is_empty() { first } else { second };
        for (cut, zeros) in [(1, 0), (9, 0), (60, 0), (next.len() - 1, 0), (20, 100), (0, 100)] {
            let half = [before, next.get(..cut).unwrap(), &"\0".repeat(zeros)].concat();
            std::fs::write(dir.path().join("log"), half).unwrap();
            let sink = file::Sink::open(Target::File(dir.path().join("log")), &dir.path().join("none"));
            drop(sink.unwrap());
            std::fs::remove_file(dir.path().join("none")).unwrap();
            assert_eq!(text(dir.path()), before, "{cut} {zeros}");
        }
    }
}

/// A log of another authority, as long and as whole.
async fn another(count: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, count).await;
    text(dir.path())
}

#[tokio::test]
async fn a_log_that_was_exchanged_does_not_lead_through_the_record_that_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 4).await;
    let (own, noted) = (text(dir.path()), stored_head(&dir.path().join("head")));
    write(&audit, 3).await;
    let longer = text(dir.path());
    let check = |text: &str| verify(Cursor::new(text.to_owned()), None, noted);
    check(&own).unwrap();
    check(&longer).unwrap();
    let lines: Vec<String> = longer.lines().map(|line| format!("{line}\n")).collect();
    check(&lines[4..].concat()).unwrap();
    for count in [4, 7] {
        let other = another(count).await;
        verify(Cursor::new(&other), None, None).unwrap();
        let broken = check(&other).unwrap_err();
        assert!(
            matches!(broken, Broken::Exchanged { line: 4, seq: 4 }),
            "{broken}"
        );
        let rest: String = other.lines().skip(4).map(|line| format!("{line}\n")).collect();
        let Err(broken) = check(&rest) else {
            assert!(rest.is_empty());
            continue;
        };
        assert!(
            matches!(broken, Broken::Exchanged { line: 1, seq: 4 }),
            "{broken}"
        );
    }
}

#[tokio::test]
async fn a_log_that_was_exchanged_while_nobody_wrote_is_told_in_it() {
    // As long as ours, longer, and longer without the record that was noted.
    for (count, skipped, reason) in [
        (4, 0, "record 4 of the log was not the one"),
        (7, 0, "record 4 of the log was not the one"),
        (9, 6, "did not hold record 4"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let audit = open(dir.path());
        write(&audit, 4).await;
        drop(audit);
        drop(reopened(dir.path()).await);
        let other = another(count).await;
        let other: String = other
            .lines()
            .skip(skipped)
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(dir.path().join("log"), &other).unwrap();
        let audit = reopened(dir.path()).await;
        write(&audit, 1).await;
        let text = text(dir.path());
        let added: Vec<Value> = text
            .strip_prefix(&other)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(added.len(), 2, "{text}");
        assert_eq!(
            (&added[0]["event"], &added[0]["outcome"]),
            (&"audit".into(), &"changed".into())
        );
        assert!(added[0]["reason"].as_str().unwrap().contains(reason), "{text}");
        assert_eq!(
            check(&text).is_err(),
            skipped == 0,
            "what is known to be another stays broken"
        );
    }
}

#[tokio::test]
async fn a_log_that_is_ahead_of_what_was_noted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 2).await;
    let noted = std::fs::read(dir.path().join("head")).unwrap();
    write(&audit, 3).await;
    drop(audit);
    drop(reopened(dir.path()).await);
    // As a crash between a record and its note leaves it, or a state that was restored.
    std::fs::write(dir.path().join("head"), noted).unwrap();
    let audit = reopened(dir.path()).await;
    write(&audit, 1).await;
    let verified = check(&text(dir.path())).unwrap();
    assert_eq!((verified.records, verified.head.seq), (6, 6));
}

#[tokio::test]
async fn a_log_belongs_to_one_process_and_is_an_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    write(&audit, 1).await;
    let again = Audit::open(
        Target::File(dir.path().join("log")),
        dir.path().join("head2"),
        true,
    );
    assert!(again.unwrap_err().to_string().contains("another process"));
    let other = dir.path().join("letter");
    let record = text(dir.path());
    for letter in [
        "Dear all\n".to_owned(),
        "Dear all".to_owned(),
        "{\"key\": 1".to_owned(),
        "Dear all\n".repeat(40_000),
        "a".repeat(300_000),
        "Dear all\n{\"seq\":1,\"pr".to_owned(),
        // Somebody wrote into our own.
        record.clone() + "Dear all",
        record.clone() + "{\"seq\":7,\"prev\":\"00",
    ] {
        std::fs::write(&other, &letter).unwrap();
        let opened = Audit::open(Target::File(other.clone()), dir.path().join("head2"), true);
        assert!(opened.unwrap_err().to_string().contains("no audit log"));
        assert_eq!(std::fs::read(&other).unwrap(), letter.as_bytes(), "as it was");
    }
    let missing = Audit::open(
        Target::File(dir.path().join("no/log")),
        dir.path().join("head2"),
        true,
    );
    assert!(missing.is_err());
    let folder = Audit::open(
        Target::File(dir.path().to_owned()),
        dir.path().join("head2"),
        true,
    );
    assert!(folder.is_err());
}

#[tokio::test]
async fn what_cannot_be_written_is_not_done_unless_that_is_wanted() {
    let (queue, mut waiting) = mpsc::channel::<Waiting>(8);
    let refusing = tokio::spawn(async move {
        while let Some(one) = waiting.recv().await {
            if let Some(done) = one.done {
                let _gone = done.send(false);
            }
        }
    });
    let required = Audit {
        queue: Some(queue),
        required: true,
    };
    assert!(matches!(
        required.record(&issued(1)).await,
        Err(AuditError::Unwritten)
    ));
    let wanted = Audit {
        required: false,
        ..required.clone()
    };
    wanted.record(&issued(1)).await.unwrap();
    drop((required, wanted));
    refusing.await.unwrap();

    let (queue, waiting) = mpsc::channel::<Waiting>(8);
    drop(waiting);
    let ended = Audit {
        queue: Some(queue),
        required: true,
    };
    assert!(ended.record(&issued(1)).await.is_err(), "the writer is gone");
    assert!(Audit::none().record(&issued(1)).await.is_ok());
}

#[test]
fn what_others_write_is_cut() {
    let reason = "ä".repeat(5000);
    let event = Event::new("call", "refused").because(&reason);
    assert!(event.reason.unwrap().len() <= MAX_TEXT + 3);
}

#[tokio::test]
async fn a_record_is_never_longer_than_those_who_read_it_take() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let long = "\u{1}".repeat(100_000);
    let texts = |count: usize| vec!["x".repeat(100); count];
    let records = [
        Event {
            detail: Some(serde_json::json!(texts(5000))),
            ..issued(1)
        },
        Event {
            selectors: texts(700).into(),
            audience: texts(700),
            ..issued(2)
        },
        Event {
            socket: Some(long.as_str().into()),
            spiffe_id: Some(long.clone()),
            serial: Some(long.clone()),
            authority: Some(long.clone()),
            reason: Some(long),
            ..issued(3)
        },
    ];
    for record in &records {
        audit.record(record).await.unwrap();
    }
    assert_eq!(check(&text(dir.path())).unwrap().records, 3);
    let first: Value = serde_json::from_str(text(dir.path()).lines().next().unwrap()).unwrap();
    assert_eq!(first["spiffe_id"], "spiffe://td/1");
    assert!(first["detail"]["left_out"].as_str().unwrap().ends_with(" bytes"));
    drop(audit);
    // It finds its last record again.
    let audit = reopened(dir.path()).await;
    write(&audit, 1).await;
    assert_eq!(check(&text(dir.path())).unwrap().records, 4);
}
