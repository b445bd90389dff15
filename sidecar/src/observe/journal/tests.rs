use std::os::unix::fs::PermissionsExt;
use std::sync::Condvar;

use super::super::record::{Direction, Kind, Source, decision_id};
use super::*;

fn record() -> Record {
    Record::new(
        Kind::Request,
        Direction::Inbound,
        decision_id(),
        Source::plain("10.0.0.1:1"),
    )
}

fn lines(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    for line in text.lines() {
        let _whole: serde_json::Value = serde_json::from_str(line).unwrap();
    }
    text.lines().count()
}

fn eventually(what: &str, probe: impl Fn() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < Duration::from_secs(10), "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn records_of_all_workers_are_whole_lines_in_a_private_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.json");
    let journal = Journal::start(&JournalOutput::File(path.clone()), Counter::default()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| journal.write(record())));
        }
    });
    assert!(journal.shutdown(PATIENCE));
    assert_eq!(lines(&path), 2000);
    assert_eq!(journal.dropped(), 0);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );

    journal.write(record());
    assert_eq!(journal.dropped(), 1, "what comes after the end is counted");
    assert!(!journal.shutdown(Duration::ZERO), "it ends once");
}

#[test]
fn a_record_is_written_without_waiting_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.json");
    let journal = Journal::start(&JournalOutput::File(path.clone()), Counter::default()).unwrap();
    journal.write(record());
    eventually("one line", || lines(&path) == 1);
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.json");
    let mut sink = FileSink::open(&path).unwrap();
    let now = Instant::now();
    sink.write(b"{}\n", now).unwrap();
    std::fs::rename(&path, dir.path().join("access.json.1")).unwrap();
    sink.write(b"{}\n", now + LOOK).unwrap();
    assert_eq!(lines(&path), 1);
    assert_eq!(lines(&dir.path().join("access.json.1")), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.json");
    let mut sink = FileSink::open(&path).unwrap();
    // A descriptor without the right to write fails as a full or broken file system does.
    sink.file = Some(File::open(&path).unwrap());
    sink.write(b"{}\n", Instant::now()).unwrap();
    assert_eq!(lines(&path), 1);

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let later = Instant::now() + LOOK;
    assert!(sink.write(b"{}\n", later).is_err());
    std::fs::remove_dir(&path).unwrap();
    sink.write(b"{}\n", later + LOOK).unwrap();
    assert_eq!(lines(&path), 1);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let output = JournalOutput::File(dir.path().join("missing/access.json"));
    assert!(Journal::start(&output, Counter::default()).is_err());
}

/// An output that takes nothing until its gate opens.
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, changed) = &*self.0;
        let mut open = open.lock().unwrap();
        while !*open {
            open = changed.wait(open).unwrap();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_hangs_never_holds_a_worker_up_and_every_loss_is_counted() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let sink = Sink::Stream(Box::new(Stuck(Arc::clone(&gate))));
    let journal = Journal::with_sink(sink, Counter::default(), 16).unwrap();
    let sent: u64 = 10_000;
    for _ in 0..sent {
        journal.write(record());
    }
    let held = sent - journal.dropped();
    assert!(journal.dropped() > 0);
    // The queue, and one batch that the thread has taken out of it.
    assert!(held <= 16 + (BATCH as u64 / 100), "{held}");
    assert!(!journal.shutdown(Duration::from_millis(50)), "it cannot end yet");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

/// An output that is broken.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn records_that_a_broken_output_loses_are_counted() {
    let journal = Journal::with_sink(Sink::Stream(Box::new(Broken)), Counter::default(), 100).unwrap();
    for _ in 0..10 {
        journal.write(record());
    }
    assert!(journal.shutdown(PATIENCE));
    assert_eq!(journal.dropped(), 10);
}

/// An output that takes a few bytes at a time, and sometimes none for now.
struct Slow {
    out: Arc<Mutex<Vec<u8>>>,
    turn: usize,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(2) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let part = &bytes[..bytes.len().min(100)];
        self.out.lock().unwrap().extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_takes_parts_gets_every_byte() {
    let out = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::Stream(Box::new(Slow {
        out: Arc::clone(&out),
        turn: 0,
    }));
    let journal = Journal::with_sink(sink, Counter::default(), 100).unwrap();
    for _ in 0..5 {
        journal.write(record());
    }
    let count = || {
        let out = out.lock().unwrap();
        out.iter().filter(|c| **c == b'\n').count()
    };
    eventually("five lines", || count() == 5);
}
