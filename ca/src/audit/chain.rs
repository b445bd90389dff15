//! The chain of records (pure): number, hash of the line before, and whether the lines of a log hang together.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Event, cut};

/// A longer line is none of ours.
pub const MAX_LINE: u64 = LINE as u64;
const LINE: usize = 64 << 10;
/// What stands before them in the line, and the line feed, have room beside.
const MAX_MEMBERS: usize = LINE - 256;

/// Number and hash of a log's last line; the next line goes on from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number; zero before the first one.
    pub seq: u64,
    /// SHA-256 of its bytes without the line feed; zeros before the first one.
    pub hash: [u8; 32],
}

impl Head {
    /// Appends a record with these members to `lines`, and is the head after it.
    pub fn append(&mut self, members: &[u8], lines: &mut Vec<u8>) {
        let start = lines.len();
        self.seq = self.seq.saturating_add(1);
        lines.extend_from_slice(format!("{{\"seq\":{},\"prev\":\"", self.seq).as_bytes());
        lines.extend_from_slice(hex::encode(self.hash).as_bytes());
        lines.extend_from_slice(b"\",");
        lines.extend_from_slice(members);
        self.hash = sha256(lines.get(start..).unwrap_or_default());
        lines.push(b'\n');
    }

    /// The head after this line, when it is a record.
    pub fn after(line: &[u8]) -> Option<Self> {
        let link: Link = serde_json::from_slice(line).ok()?;
        Some(Self {
            seq: link.seq,
            hash: sha256(line),
        })
    }
}

/// The members of a record after the chain's own, with the closing brace. A record is never longer than those who read
/// it take: of one that would be, what is long is told by its length.
pub fn members(event: &Event, now: SystemTime) -> Vec<u8> {
    let whole = written(event, now);
    if whole.len() <= MAX_MEMBERS {
        return whole;
    }
    let shorter = Event {
        selectors: Arc::default(),
        audience: Vec::new(),
        detail: Some(json!({ "left_out": format!("{} bytes", whole.len()) })),
        socket: event.socket.as_deref().map(|text| cut(text).into()),
        spiffe_id: event.spiffe_id.as_deref().map(cut),
        serial: event.serial.as_deref().map(cut),
        authority: event.authority.as_deref().map(cut),
        reason: event.reason.as_deref().map(cut),
        ..event.clone()
    };
    written(&shorter, now)
}

fn written(event: &Event, now: SystemTime) -> Vec<u8> {
    let mut members = Vec::with_capacity(384);
    members.extend_from_slice(b"\"time\":\"");
    members.extend_from_slice(
        OffsetDateTime::from(now)
            .format(&Rfc3339)
            .unwrap_or_default()
            .as_bytes(),
    );
    members.extend_from_slice(b"\",");
    // An object of texts and numbers: its writing cannot fail.
    let object = serde_json::to_vec(event).unwrap_or_default();
    members.extend_from_slice(object.get(1..).unwrap_or(b"}"));
    members
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[derive(Deserialize)]
struct Link {
    seq: u64,
    prev: String,
}

/// What a log that hangs together holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of the first record; what was before it lies elsewhere.
    pub first: u64,
    /// The last one.
    pub head: Head,
    /// Records in all.
    pub records: u64,
}

/// Where and how a log does not hang together.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// This line is no record.
    #[error("line {line} is no record of an audit log")]
    NoRecord {
        /// Counted from 1 in its file.
        line: u64,
    },
    /// Records are missing, or are there twice.
    #[error("line {line} has the number {found}, and {wanted} was next: records are missing or were moved")]
    Number {
        /// Counted from 1 in its file.
        line: u64,
        /// What it says.
        found: u64,
        /// What follows the record before it.
        wanted: u64,
    },
    /// The record before was changed.
    #[error(
        "line {line} (record {seq}) does not fit the record before it: that one, or this one, was changed after it was written"
    )]
    Hash {
        /// Counted from 1 in its file.
        line: u64,
        /// Its number.
        seq: u64,
    },
    /// It hangs together, and is not the log that was written.
    #[error(
        "line {line} does not fit what the authority noted of its record {seq}: the log was exchanged for another"
    )]
    Exchanged {
        /// Counted from 1 in its file.
        line: u64,
        /// The number that was noted.
        seq: u64,
    },
}

/// What a line says about a record that was noted: whether it is that one, or the one after it.
fn fits(noted: &Head, line: &Head, prev: &str) -> bool {
    if line.seq == noted.seq {
        line.hash == noted.hash
    } else {
        noted.seq.checked_add(1) != Some(line.seq) || prev == hex::encode(noted.hash)
    }
}

/// Reads a log, which goes on where `before` ended. The record that was `noted` stands in it, if any with its number
/// does: whoever exchanges the whole log makes a chain that hangs together, but not one that leads through that record.
///
/// # Errors
/// The first place at which it does not hang together.
pub fn verify(
    mut log: impl BufRead,
    before: Option<Verified>,
    noted: Option<Head>,
) -> Result<Verified, Broken> {
    let mut so_far = before;
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        if (&mut log).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(so_far.unwrap_or_default());
        }
        let no_record = || Broken::NoRecord { line: number };
        let text = line.strip_suffix(b"\n").ok_or_else(no_record)?;
        let link: Link = serde_json::from_slice(text).map_err(|_| no_record())?;
        let head = Head {
            seq: link.seq,
            hash: sha256(text),
        };
        if let Some(noted) = noted.filter(|noted| !fits(noted, &head, &link.prev)) {
            return Err(Broken::Exchanged {
                line: number,
                seq: noted.seq,
            });
        }
        so_far = Some(match so_far {
            // What was before the first record is not there to be held against it, but for the very first.
            None if link.seq == 1 && link.prev != hex::encode([0; 32]) => {
                return Err(Broken::Hash { line: number, seq: 1 });
            }
            None => Verified {
                first: link.seq,
                head,
                records: 1,
            },
            Some(so_far) => {
                let wanted = so_far.head.seq.saturating_add(1);
                if link.seq != wanted {
                    return Err(Broken::Number {
                        line: number,
                        found: link.seq,
                        wanted,
                    });
                }
                if link.prev != hex::encode(so_far.head.hash) {
                    return Err(Broken::Hash {
                        line: number,
                        seq: link.seq,
                    });
                }
                Verified {
                    head,
                    records: so_far.records + 1,
                    ..so_far
                }
            }
        });
    }
}

/// Whether the record that was noted stands in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It does, or the log begins behind it and leads on from it.
    Found,
    /// Another stands in its place.
    Other,
    /// Neither: the log begins later, or has lines that are no records where it should be.
    Missing,
}

/// Looks for the record that was noted, line by line, however long the log is.
///
/// # Errors
/// When the log cannot be read.
pub fn trace(mut log: impl BufRead, noted: &Head) -> io::Result<Trace> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut log).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(Trace::Missing);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let Ok(link) = serde_json::from_slice::<Link>(text) else {
            continue;
        };
        if link.seq != noted.seq && Some(link.seq) != noted.seq.checked_add(1) {
            continue;
        }
        let head = Head {
            seq: link.seq,
            hash: sha256(text),
        };
        return Ok(if fits(noted, &head, &link.prev) {
            Trace::Found
        } else {
            Trace::Other
        });
    }
}
