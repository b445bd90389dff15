//! `hopguard ca backup`: state and keys of the authority in one file, whether it runs or not. The file is as secret as the
//! data directory: mode 0600, and never written over another.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use hopguard_ca::admin::{AdminError, Request, ask};
use hopguard_ca::config::Config;
use hopguard_ca::datadir::DataDirError;
use hopguard_ca::server::{BackupError, CaError, offline};
use serde_json::{Value, json};

use super::{failure, runtime};
use crate::ui::{Exit, Failure, Ui};

#[derive(clap::Args)]
#[command(
    after_help = "It holds private keys: whoever reads it can be anyone in the mesh. Keep it as you keep `data_dir`.

Examples:
  hopguard ca backup /var/backups/hopguard-ca.sqlite
  hopguard ca backup - --config /etc/hopguard/ca.toml | age -r RECIPIENT > ca.backup.age"
)]
pub struct Backup {
    /// The new file; `-` for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The authority's configuration
    #[arg(long, value_name = "FILE", default_value = "ca.toml")]
    config: PathBuf,
}

pub fn run(backup: &Backup, ui: &Ui) -> Result<Exit, Failure> {
    let config =
        hopguard_ca::config::load(&backup.config).map_err(|problems| failure(CaError::Files(problems)))?;
    let to_stdout = backup.file.as_os_str() == "-";
    if to_stdout && std::io::stdout().is_terminal() {
        let hint = "name a file, or send it into one: it is a database, and holds private keys";
        return Err(Failure::new("a backup is not written to a terminal")
            .hint(hint)
            .exit(Exit::Usage));
    }
    if !to_stdout && std::fs::symlink_metadata(&backup.file).is_ok() {
        return Err(Failure::new(format!(
            "`{}` exists, and is not overwritten",
            backup.file.display()
        ))
        .hint("name a new file")
        .exit(Exit::NotHere));
    }
    let (made, summary) = runtime()?.block_on(make(&config))?;
    let copied = if to_stdout {
        copy(
            &made.0,
            &mut std::io::stdout().lock(),
            Path::new("standard output"),
        )
    } else {
        to_file(&made.0, &backup.file)
    };
    let (bytes, sha256) = copied?;
    if to_stdout {
        ui.note(format!(
            "a backup of {bytes} bytes was written: it holds private keys"
        ));
    } else if ui.is_json() {
        ui.json(&json!({"file": backup.file, "bytes": bytes, "sha256": sha256, "backup": summary}));
    } else {
        let said = |key: &str| summary.get(key).cloned().unwrap_or_default();
        ui.line(format!(
            "{}: {bytes} bytes, trust domain {}, {} authorities, {} private keys",
            backup.file.display(),
            said("trust_domain").as_str().unwrap_or_default(),
            said("authorities"),
            said("keys"),
        ));
        ui.note("  it holds private keys: keep it as you keep `data_dir`");
    }
    Ok(Exit::Done)
}

/// A file that is removed at the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.0);
    }
}

/// Beside the state, which is for the authority's user alone: by the authority itself where one runs, else by us.
async fn make(config: &Config) -> Result<(Temporary, Value), Failure> {
    let own = config.data_dir.join(format!("backup-{}.tmp", std::process::id()));
    match offline(config, &own).await {
        Ok(summary) => Ok((Temporary(own), json!(summary))),
        // It runs, or is another user's, who may be asked when we are root.
        Err(BackupError::DataDir(DataDirError::Locked(_) | DataDirError::Foreign { .. })) => {
            running(config).await
        }
        Err(error) => Err(refused(&error)),
    }
}

async fn running(config: &Config) -> Result<(Temporary, Value), Failure> {
    let answer = ask(&config.admin_socket, &Request::Backup, None, |_| ())
        .await
        .map_err(|error| {
            let hint = match &error {
                AdminError::Refused(refused) => refused.hint.clone(),
                _ => "it answers the user that it runs as, and root; `admin_socket` in ca.toml says where"
                    .to_owned(),
            };
            Failure::new(error.to_string()).hint(hint).exit(Exit::NotHere)
        })?;
    let file = answer
        .get("file")
        .and_then(Value::as_str)
        .ok_or_else(|| Failure::new("the authority made no file"))?;
    Ok((
        Temporary(file.into()),
        answer.get("summary").cloned().unwrap_or_default(),
    ))
}

pub fn refused(error: &BackupError) -> Failure {
    let exit = if error.blames_file() {
        Exit::BadFile
    } else {
        Exit::NotHere
    };
    Failure::new(error.to_string()).hint(error.hint()).exit(exit)
}

/// Whole or not at all: a new name beside it, and the name it shall have at the end.
fn to_file(from: &Path, to: &Path) -> Result<(u64, String), Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(format!("`{}`: {error}", to.display()))
            .hint("name a new file in a folder that exists and has room")
            .exit(Exit::NotHere)
    };
    let mut name = to.as_os_str().to_owned();
    name.push(".new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&name)
        .map_err(cannot)?;
    let half = Temporary(name.into());
    let copied = copy(from, &mut file, to)?;
    file.sync_all().map_err(cannot)?;
    // Refuses to replace what came there meanwhile.
    std::fs::hard_link(&half.0, to).map_err(cannot)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = std::fs::File::open(folder.unwrap_or(Path::new("."))).map_err(cannot)?;
    folder.sync_all().map_err(cannot)?;
    Ok(copied)
}

fn copy(from: &Path, to: &mut impl Write, name: &Path) -> Result<(u64, String), Failure> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::new(format!("`{}`: {error}", path.display())).exit(Exit::NotHere)
    };
    let mut file = std::fs::File::open(from).map_err(|error| cannot(from, error))?;
    let (mut digest, mut bytes) = (Context::new(&SHA256), 0);
    let mut buffer = zeroize::Zeroizing::new(vec![0; 64 << 10]);
    loop {
        let count = file.read(&mut buffer).map_err(|error| cannot(from, error))?;
        let part = buffer.get(..count).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        digest.update(part);
        bytes += count as u64;
        to.write_all(part).map_err(|error| cannot(name, error))?;
    }
    to.flush().map_err(|error| cannot(name, error))?;
    Ok((bytes, hex::encode(digest.finish())))
}
