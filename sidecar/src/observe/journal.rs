//! The journal: records enter from workers, lines leave on stdout or in a file, through a thread of its own. A worker never
//! waits for it; what does not fit or cannot be written is counted, never silently lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::record::Record;

/// Records that wait to be written.
const QUEUE: usize = 8192;
/// Bytes after which lines are written although more are waiting.
const BATCH: usize = 64 * 1024;
/// Time between two looks at whether the file is still the one at its path, and between two tries to open it.
const LOOK: Duration = Duration::from_secs(1);
/// Time within which the thread notices that it shall end.
const TICK: Duration = Duration::from_millis(100);

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalOutput {
    /// Standard output.
    Stdout,
    /// A file, created 0600 and appended to; opened anew when it was moved away.
    File(PathBuf),
}

/// Takes records from any number of workers.
pub struct Journal {
    queue: SyncSender<Box<Record>>,
    dropped: Counter,
    closing: Arc<AtomicBool>,
    ended: Mutex<Option<Receiver<()>>>,
}

impl Journal {
    /// Opens the output and starts the thread. `dropped` counts the records that were lost.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub fn start(output: &JournalOutput, dropped: Counter) -> io::Result<Arc<Self>> {
        let sink = match output {
            JournalOutput::Stdout => Sink::Stream(Box::new(io::stdout())),
            JournalOutput::File(path) => Sink::File(FileSink::open(path)?),
        };
        Self::with_sink(sink, dropped, QUEUE)
    }

    fn with_sink(sink: Sink, dropped: Counter, capacity: usize) -> io::Result<Arc<Self>> {
        let (queue, records) = sync_channel(capacity);
        let (end, ended) = sync_channel(1);
        let closing = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            records,
            sink,
            dropped: dropped.clone(),
            closing: Arc::clone(&closing),
            lines: Vec::with_capacity(BATCH),
            waiting: 0,
            failing: false,
        };
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                writer.run();
                let _nobody_waits = end.try_send(());
            })?;
        Ok(Arc::new(Self {
            queue,
            dropped,
            closing,
            ended: Mutex::new(Some(ended)),
        }))
    }

    /// Takes a record. Never waits: when the queue is full, the record is counted as dropped.
    pub fn write(&self, record: Record) {
        if self.closing.load(Ordering::Acquire) {
            self.dropped.inc();
            return;
        }
        match self.queue.try_send(Box::new(record)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.inc();
            }
        }
    }

    /// Records lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Writes what waits and ends the thread; blocks for at most `patience`. Returns whether everything was handed to the
    /// output in that time.
    pub fn shutdown(&self, patience: Duration) -> bool {
        self.closing.store(true, Ordering::Release);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.is_some_and(|ended| ended.recv_timeout(patience).is_ok())
    }
}

struct Writer {
    records: Receiver<Box<Record>>,
    sink: Sink,
    dropped: Counter,
    closing: Arc<AtomicBool>,
    lines: Vec<u8>,
    waiting: u64,
    /// Whether the last write failed: that is told once, not for every line.
    failing: bool,
}

impl Writer {
    fn run(&mut self) {
        loop {
            match self.records.recv_timeout(TICK) {
                Ok(record) => {
                    self.add(&record);
                    while self.lines.len() < BATCH {
                        match self.records.try_recv() {
                            Ok(record) => self.add(&record),
                            Err(_) => break,
                        }
                    }
                    self.flush();
                }
                Err(RecvTimeoutError::Timeout) if self.closing.load(Ordering::Acquire) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn add(&mut self, record: &Record) {
        let start = self.lines.len();
        match serde_json::to_writer(&mut self.lines, record) {
            Ok(()) => {
                self.lines.push(b'\n');
                self.waiting += 1;
            }
            Err(_) => {
                self.lines.truncate(start);
                self.dropped.inc();
            }
        }
    }

    fn flush(&mut self) {
        match self.sink.write(&self.lines, &self.closing) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(lost = self.dropped.get(), "records are written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.dropped.inc_by(self.waiting);
                if !self.failing {
                    tracing::error!(%error, "records cannot be written and are lost until they can");
                }
                self.failing = true;
            }
        }
        self.lines.clear();
        self.waiting = 0;
    }
}

enum Sink {
    Stream(Box<dyn Write + Send>),
    File(FileSink),
}

impl Sink {
    fn write(&mut self, lines: &[u8], closing: &AtomicBool) -> io::Result<()> {
        match self {
            Self::Stream(stream) => write_all(stream, lines, closing),
            Self::File(file) => file.write(lines, Instant::now()),
        }
    }
}

/// Like `Write::write_all`, but a reader that is slow (a pipe that somebody set to non-blocking) is waited for, unless the
/// process is ending.
fn write_all(out: &mut impl Write, mut lines: &[u8], closing: &AtomicBool) -> io::Result<()> {
    while !lines.is_empty() {
        match out.write(lines) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => lines = lines.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !closing.load(Ordering::Acquire) => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

struct FileSink {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
}

impl FileSink {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Some(append(path)?),
            looked: Instant::now(),
        })
    }

    /// Writes to the file at the path: one that was moved away or could not be written to is opened anew, once.
    fn write(&mut self, lines: &[u8], now: Instant) -> io::Result<()> {
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            if !self.is_current() {
                self.file = Some(append(&self.path)?);
            }
        }
        let first = match &mut self.file {
            Some(file) => file.write_all(lines),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the file is not open")),
        };
        if first.is_ok() {
            return Ok(());
        }
        // The lines may be there in part; a second copy is better than a gap.
        self.file = append(&self.path).ok();
        match &mut self.file {
            Some(file) => file.write_all(lines),
            None => first,
        }
    }

    fn is_current(&self) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let there = std::fs::metadata(&self.path).ok();
        match (open, there) {
            (Some(open), Some(there)) => identity(open) == identity(there),
            _ => false,
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests;
