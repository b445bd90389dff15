//! `hopguard ca audit verify`: whether an audit log hangs together, over the files that it was cut into.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use hopguard_ca::audit::{Broken, Head, Verified, stored_head, verify};
use hopguard_ca::server::{AUDIT_HEAD, CaError};
use serde_json::json;

use super::failure;
use crate::ui::{Exit, Failure, Ui};

#[derive(clap::Args)]
pub struct Audit {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Find lines that were changed, added, moved or taken out
    Verify(Verify),
}

#[derive(clap::Args)]
#[command(
    after_help = "Each record carries the SHA-256 of the one before. With `--config`, the last record that the
authority wrote must also be in it as it was written, so that a log whose end was cut and one that was exchanged are found.

Examples:
  hopguard ca audit verify /var/log/hopguard/audit.log
  hopguard ca audit verify audit.log.2 audit.log.1 audit.log --config /etc/hopguard/ca.toml"
)]
struct Verify {
    /// The log; after rotation its files, the oldest first
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The authority's configuration, to compare the end with what the authority noted in `data_dir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub fn run(audit: &Audit, ui: &Ui) -> Result<Exit, Failure> {
    let What::Verify(wanted) = &audit.what;
    // Noted before the log is read: the log may go on meanwhile, and then only grows.
    let noted = match &wanted.config {
        None => None,
        Some(file) => {
            let config =
                hopguard_ca::config::load(file).map_err(|problems| failure(CaError::Files(problems)))?;
            let path = config.data_dir.join(AUDIT_HEAD);
            Some(stored_head(&path).ok_or_else(|| {
                Failure::new(format!("`{}` does not say where the log ends", path.display()))
                    .hint("no authority with this `data_dir` wrote an audit log, or it is not for this user to read")
                    .exit(Exit::NotHere)
            })?)
        }
    };
    let mut so_far: Option<Verified> = None;
    for path in &wanted.files {
        let place = path.display();
        let file = File::open(path)
            .map_err(|error| Failure::new(format!("`{place}`: {error}")).exit(Exit::BadFile))?;
        let verified = verify(BufReader::new(file), so_far, noted).map_err(|broken| {
            let exit = if matches!(broken, Broken::Io(_)) {
                Exit::BadFile
            } else {
                Exit::No
            };
            let hint = "what stands before that place hangs together; keep the file as it is, and compare it with a copy";
            Failure::new(format!("{place}: {broken}")).hint(hint).exit(exit)
        })?;
        so_far = (verified.records > 0).then_some(verified);
    }
    let verified = so_far.unwrap_or_default();
    if let Some(message) = noted.and_then(|noted| lacks(&verified, noted)) {
        return Err(Failure::new(message).hint("were all files of the log named, the newest last?"));
    }
    if ui.is_json() {
        ui.json(&json!({
            "records": verified.records, "first": verified.first, "last": verified.head.seq,
            "hash": hex::encode(verified.head.hash), "end_checked": noted.is_some(),
        }));
    } else {
        ui.line(format!(
            "{} records hang together, numbers {} to {}",
            verified.records, verified.first, verified.head.seq
        ));
        if verified.first > 1 {
            ui.note("  what was before the first one lies in another file");
        }
        if noted.is_none() {
            ui.note("  whether records are missing at its end, `--config ca.toml` tells");
        }
    }
    Ok(Exit::Done)
}

/// What is wrong when the record that the authority noted last is not among these.
fn lacks(verified: &Verified, noted: Head) -> Option<String> {
    if verified.head.seq < noted.seq {
        return Some(format!(
            "the log ends at record {}, and the authority wrote up to record {}: its end was cut off",
            verified.head.seq, noted.seq
        ));
    }
    // The one after it would tell by its `prev`.
    (verified.first > noted.seq.saturating_add(1)).then(|| {
        format!(
            "the log begins at record {}, after record {} that the authority noted last: it is another log, or was exchanged",
            verified.first, noted.seq
        )
    })
}
