//! Where the lines go: a file that is only appended to and that one process at a time writes, or standard error. A batch
//! is there whole or not at all. What a crash left half is removed, because nobody was told that it was written; a log
//! that ends before it should, or is another one, is told loudly and goes on behind the gap.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use super::chain::{Head, MAX_LINE, Trace};
use super::{AuditError, Event, Target, chain};

pub struct Sink {
    target: Target,
    file: Option<File>,
    /// Holds the number and the hash of the last line, rewritten in place after every batch.
    kept: File,
    pub head: Head,
}

/// What a head looks like in its file: fixed in length, so that rewriting it in place leaves nothing of the old one.
fn head_line(head: &Head) -> String {
    format!("{:020} {}\n", head.seq, hex::encode(head.hash))
}

/// The head that was kept in this file.
pub fn stored_head(path: &Path) -> Option<Head> {
    let text = std::fs::read_to_string(path).ok()?;
    let (seq, hash) = text.trim_end().split_once(' ')?;
    let mut head = Head {
        seq: seq.parse().ok()?,
        ..Head::default()
    };
    hex::decode_to_slice(hash, &mut head.hash).ok()?;
    Some(head)
}

/// Nothing was noted before the first record.
fn head_is_known(head: &Head) -> bool {
    *head != Head::default()
}

impl Sink {
    pub fn open(target: Target, head: &Path) -> Result<Self, AuditError> {
        let failed = |path: &Path, message: String| AuditError::File {
            path: path.to_owned(),
            message,
        };
        let stored = stored_head(head).unwrap_or_default();
        let kept = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(head)
            .map_err(|error| failed(head, error.to_string()))?;
        let mut sink = Self {
            target,
            file: None,
            kept,
            head: stored,
        };
        if let Target::File(path) = &sink.target {
            let (file, last) = open(path).map_err(|message| failed(path, message))?;
            // Through a second descriptor: ours is at its end.
            let trace = match last {
                Some(last) if head_is_known(&stored) && last != stored && last.seq >= stored.seq => {
                    let log = File::open(path).map_err(|error| failed(path, error.to_string()))?;
                    chain::trace(BufReader::new(log), &stored)
                        .map_err(|error| failed(path, error.to_string()))?
                }
                _ => Trace::Found,
            };
            sink.file = Some(file);
            sink.go_on(last, trace);
        }
        Ok(sink)
    }

    /// The file by its name again: after it was moved away, a new one; the chain goes on in it.
    pub fn reopen(&mut self) {
        let Target::File(path) = &self.target else { return };
        // The old one first: it may be the same, and is locked.
        self.file = None;
        match open(path) {
            Ok((file, _)) => self.file = Some(file),
            Err(message) => {
                tracing::error!(file = %path.display(), message, "the audit log cannot be opened again");
            }
        }
    }

    /// Goes on after the last line of the file, unless we know of later ones, or it is not the log that we wrote. What was
    /// done to it is its next record, in a chain that goes on from what we know: so it is found there for ever.
    fn go_on(&mut self, last: Option<Head>, trace: Trace) {
        // Empty: it was moved away while we did not run, or it is the first one.
        let Some(last) = last else { return };
        let known = self.head.seq;
        if last.seq < known {
            tracing::error!(
                last = last.seq,
                known,
                "the audit log ends before its last record: its end was cut off"
            );
            self.tell(
                "cut",
                &format!(
                    "the log ended at record {}, and record {known} had been written",
                    last.seq
                ),
            );
            return;
        }
        match trace {
            Trace::Found => self.head = last,
            Trace::Other => {
                tracing::error!(
                    known,
                    "the audit log has another record where its last one was: it was changed or exchanged"
                );
                self.tell(
                    "changed",
                    &format!("record {known} of the log was not the one that had been written"),
                );
            }
            // As after restoring an older state: nothing speaks against the log, and nothing for it.
            Trace::Missing => {
                tracing::error!(
                    last = last.seq,
                    known,
                    "the audit log does not hold the record that was noted last: it was exchanged, or the state is an older one"
                );
                self.head = last;
                self.tell("changed", &format!(
                    "the log ended at record {}, and did not hold record {known}, the last that had been noted",
                    last.seq
                ));
            }
        }
    }

    fn tell(&mut self, outcome: &'static str, reason: &str) {
        let event = Event::new("audit", outcome).because(&reason);
        let members = chain::members(&event, std::time::SystemTime::now());
        if let Err(error) = self.write(&[&members]) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }

    /// Appends these records, all or none of them.
    pub fn write(&mut self, records: &[&[u8]]) -> std::io::Result<()> {
        let mut lines = Vec::with_capacity(records.len() * 512);
        let mut head = self.head;
        for members in records {
            head.append(members, &mut lines);
        }
        match (&self.target, &mut self.file) {
            (Target::Stderr, _) => std::io::stderr().lock().write_all(&lines)?,
            (Target::File(_), Some(file)) => append(file, &lines)?,
            (Target::File(path), None) => {
                let (mut file, _) = open(path).map_err(std::io::Error::other)?;
                append(&mut file, &lines)?;
                self.file = Some(file);
            }
        }
        // Where this one fails, the lines themselves say what the last one is.
        if let Err(error) = self.kept.write_all_at(head_line(&head).as_bytes(), 0) {
            tracing::warn!(%error, "where the audit log ends cannot be noted");
        }
        self.head = head;
        Ok(())
    }

    /// Down to the disk itself.
    pub fn sync(&self) {
        let synced = self
            .file
            .as_ref()
            .map_or(Ok(()), File::sync_data)
            .and_then(|()| self.kept.sync_data());
        if let Err(error) = synced {
            tracing::error!(%error, "the audit log could not be synchronised");
        }
    }
}

fn append(file: &mut File, lines: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(lines).inspect_err(|_| {
        // Half a batch: nobody is told that any of it was written.
        if let Err(error) = file.set_len(before) {
            tracing::error!(%error, "half a batch stays in the audit log");
        }
    })
}

/// Opens the file, for this process alone, without what a crash left half; and its last record.
fn open(path: &PathBuf) -> Result<(File, Option<Head>), String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is not a plain file".to_owned());
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err("another process writes it".to_owned()),
        Err(errno) => return Err(errno.to_string()),
    }
    let last = last(&mut file, found.len()).map_err(|error| error.to_string())?;
    Ok((file, last))
}

/// What comes of a file that is none of ours: it stays as it is.
fn no_log() -> std::io::Error {
    std::io::Error::other("what is in it is no audit log, and stays as it is")
}

fn last(file: &mut File, length: u64) -> std::io::Result<Option<Head>> {
    let start = length.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(2 * MAX_LINE).read_to_end(&mut tail)?;
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let lines = tail.get(..whole.saturating_sub(1)).unwrap_or_default();
    let last = lines.rsplit(|byte| *byte == b'\n').next().and_then(Head::after);
    let half = tail.get(whole..).unwrap_or_default();
    // Nothing is taken off before it is known whose it is.
    if (whole > 0 || start > 0) && last.is_none() {
        return Err(no_log());
    }
    if !half.is_empty() {
        if !is_half(half, last.as_ref()) {
            return Err(no_log());
        }
        tracing::warn!("half a record at the end of the audit log, as a crash leaves it, is removed");
        file.set_len(start + whole as u64)?;
    }
    Ok(last)
}

/// Whether this is the beginning of the record after `last`. A crash of the machine may leave zeros behind it.
fn is_half(half: &[u8], last: Option<&Head>) -> bool {
    let begins = match last {
        Some(last) => format!("{{\"seq\":{},\"prev\":\"", last.seq.saturating_add(1)),
        None => "{\"seq\":".to_owned(),
    };
    let begins = begins.as_bytes();
    let zeros = half.iter().rev().take_while(|byte| **byte == 0).count();
    let half = half.get(..half.len() - zeros).unwrap_or_default();
    half.starts_with(begins) || begins.starts_with(half)
}
