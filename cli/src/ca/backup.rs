//! `hopguard ca backup`: state and keys of the authority in one file, whether it runs or not. The file is as secret as the
//! data directory: mode 0600, and never written over another.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use hopguard_ca::admin::{AdminError, Request, ask};
use hopguard_ca::config::Config;
use hopguard_ca::datadir::DataDirError;
use hopguard_ca::server::{BackupError, CaError, offline};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
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
        copy(&made, &mut std::io::stdout().lock(), Path::new("standard output"))
    } else {
        to_file(&made, &backup.file)
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

/// A backup beside the state, open; it is removed at the end.
struct Made {
    folder: OwnedFd,
    name: String,
    file: File,
}

impl Made {
    /// Only ever a file of `data_dir` itself, with such a name as backups have, that belongs to whom `data_dir` belongs
    /// to: the name comes from the authority, and we may be root, who can read and remove everything.
    fn open(data_dir: &Path, name: &OsStr) -> Result<Self, Failure> {
        let path = data_dir.join(name);
        let cannot = |reason: String| {
            Failure::new(format!("the backup `{}` is not taken: {reason}", path.display()))
                .hint("`data_dir` in ca.toml must be the one that the authority uses")
                .exit(Exit::NotHere)
        };
        let name = name
            .to_str()
            .filter(|name| name.starts_with("backup-") && name.ends_with(".tmp") && !name.contains('/'))
            .ok_or_else(|| cannot("no backup has such a name".to_owned()))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(data_dir, flags | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| cannot(error.to_string()))?;
        let file = rustix::fs::openat(&folder, name, flags | OFlags::NONBLOCK, Mode::empty())
            .map_err(|error| cannot(error.to_string()))?;
        let (of, found) = (stat(&folder).map_err(cannot)?, stat(&file).map_err(cannot)?);
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_nlink != 1 {
            return Err(cannot("it is not a plain file with one name".to_owned()));
        }
        // The authority refuses a `data_dir` that is not its own.
        if found.st_uid != of.st_uid {
            return Err(cannot(format!(
                "it belongs to uid {}, not to the authority's, {}",
                found.st_uid, of.st_uid
            )));
        }
        Ok(Self {
            folder,
            name: name.to_owned(),
            file: file.into(),
        })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _gone_already = rustix::fs::unlinkat(&self.folder, self.name.as_str(), AtFlags::empty());
    }
}

fn stat(of: &OwnedFd) -> Result<Stat, String> {
    rustix::fs::fstat(of).map_err(|error| error.to_string())
}

/// Beside the state, which is for the authority's user alone: by the authority itself where one runs, else by us.
async fn make(config: &Config) -> Result<(Made, Value), Failure> {
    let name = format!("backup-{}.tmp", std::process::id());
    let own = config.data_dir.join(&name);
    match offline(config, &own).await {
        Ok(summary) => Ok((Made::open(&config.data_dir, OsStr::new(&name))?, json!(summary))),
        // It runs, or is another user's, who may be asked when we are root.
        Err(BackupError::DataDir(DataDirError::Locked(_) | DataDirError::Foreign { .. })) => {
            running(config).await
        }
        Err(error) => Err(refused(&error)),
    }
}

async fn running(config: &Config) -> Result<(Made, Value), Failure> {
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
    // Its last part is all that is believed of it: where it lies we know, by whatever way the authority sees it.
    let name = answer
        .get("file")
        .and_then(Value::as_str)
        .and_then(|file| Path::new(file).file_name())
        .ok_or_else(|| Failure::new("the authority made no file"))?;
    Ok((
        Made::open(&config.data_dir, name)?,
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
fn to_file(from: &Made, to: &Path) -> Result<(u64, String), Failure> {
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
    let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(cannot)?;
    folder.sync_all().map_err(cannot)?;
    Ok(copied)
}

fn copy(from: &Made, to: &mut impl Write, name: &Path) -> Result<(u64, String), Failure> {
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::new(format!("`{}`: {error}", path.display())).exit(Exit::NotHere)
    };
    let (from, mut file) = (Path::new(&from.name), &from.file);
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
