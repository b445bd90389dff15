//! `hopguard ca restore`: a backup becomes the data directory of an authority that does not run, which must be empty.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use hopguard_ca::server::CaError;
use serde_json::json;

use super::backup::refused;
use super::{failure, runtime};
use crate::ui::{Exit, Failure, Ui};

#[derive(clap::Args)]
#[command(
    after_help = "What was issued after the backup is unknown to the restored authority: it stays valid until it ends, and cannot
be revoked by its identity. What was revoked after the backup (identities, certificates, authorities) is good again:
revoke it again; the audit log tells what that was. Numbers that others compare (the bundle's sequence, the lists')
jump ahead.

Examples:
  hopguard ca restore /var/backups/hopguard-ca.sqlite --config /etc/hopguard/ca.toml"
)]
pub struct Restore {
    /// What `hopguard ca backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration of the authority to be; its `data_dir` must be empty or missing
    #[arg(long, value_name = "FILE", default_value = "ca.toml")]
    config: PathBuf,
}

pub fn run(restore: &Restore, ui: &Ui) -> Result<Exit, Failure> {
    let config =
        hopguard_ca::config::load(&restore.config).map_err(|problems| failure(CaError::Files(problems)))?;
    let found = std::fs::metadata(&restore.file).map_err(|error| {
        Failure::new(format!("`{}`: {error}", restore.file.display())).exit(Exit::NotHere)
    })?;
    if found.mode() & 0o077 != 0 {
        ui.note(format!(
            "warning: others may have read `{}`, and the private keys in it",
            restore.file.display()
        ));
    }
    let restored = runtime()?.block_on(hopguard_ca::server::restore(&config, &restore.file));
    let summary = restored.map_err(|error| refused(&error))?;
    if ui.is_json() {
        ui.json(&json!({"data_dir": config.data_dir, "backup": summary}));
    } else {
        ui.line(format!(
            "{}: trust domain {}, {} authorities, {} private keys, as of {}",
            config.data_dir.display(),
            summary.trust_domain,
            summary.authorities,
            summary.keys,
            time::OffsetDateTime::from_unix_timestamp(summary.made)
                .ok()
                .and_then(|made| made.format(&time::format_description::well_known::Rfc3339).ok())
                .unwrap_or_default(),
        ));
        ui.note("  what was issued after that is unknown here: it stays valid until it ends");
    }
    ui.note(
        "warning: what was revoked after the backup is good again (identities, certificates, authorities): revoke it again by \
         `hopguard ca revoke`",
    );
    Ok(Exit::Done)
}
