//! Compose files: a second one is written beside the user's, whole or not at all, and removed again.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hopguard_inject::{Report, WorkloadApi, compose, unified};
use serde_json::json;

use super::{Common, as_json, failure, print, read, tell};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of `inject compose`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The Compose file [default: the one that Compose itself would take here]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The folder with sidecar.toml, mesh.toml and policies, as the Compose file would name it
    #[arg(long, value_name = "FOLDER", default_value = "./hopguard")]
    config: String,
    /// Where the socket of the Workload API is on the machine: hostPath:/FOLDER/SOCKET
    #[arg(
        long,
        value_name = "SOURCE",
        default_value = "hostPath:/run/hopguard/workload.sock"
    )]
    workload_api: WorkloadApi,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `uninject compose`.
#[derive(clap::Args)]
pub(super) struct OutArgs {
    /// The Compose file, the user's or ours [default: the one that Compose itself would take here]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// In the order that Compose looks for them.
const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

pub(super) fn inject(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let file = match &args.file {
        Some(file) => file.clone(),
        None => without_override(usual()?)?,
    };
    let text = read(&file)?;
    let failed = |error| failure(&file, &error);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let settings = args.common.settings(&args.config, &args.workload_api);
    let (made, report) = compose::inject(&text, &name, &settings).map_err(failed)?;
    if compose::is_injected(&text).map_err(failed)? {
        return Ok(finish(&report, None, ui));
    }
    let beside = beside(&file)?;
    if args.common.dry_run {
        let before = compose::rewritten(&text).map_err(failed)?;
        let difference = unified(&before, &made, (&name, &beside.display().to_string()));
        if ui.is_json() {
            ui.json(&as_json(&report, json!({"difference": difference})));
        } else {
            print(&difference, ui);
            tell(&report, "would be injected", ui);
        }
        return Ok(Exit::Done);
    }
    ours_or_none(&beside)?;
    write(&beside, &made)?;
    Ok(finish(&report, Some(&beside), ui))
}

pub(super) fn uninject(args: &OutArgs, ui: &Ui) -> Result<Exit, Failure> {
    let file = match &args.file {
        Some(file) => file.clone(),
        None => usual()?,
    };
    let is_ours = file.exists() && matches!(compose::is_injected(&read(&file)?), Ok(true));
    let target = if is_ours { file } else { beside(&file)? };
    let there = target.exists();
    ours_or_none(&target)?;
    if there && !args.dry_run {
        std::fs::remove_file(&target).map_err(|error| {
            Failure::new(format!("`{}` cannot be removed: {error}", target.display())).exit(Exit::NotHere)
        })?;
    }
    if ui.is_json() {
        ui.json(&json!({"file": target, "removed": there && !args.dry_run, "there": there}));
    } else {
        ui.line(match (there, args.dry_run) {
            (false, _) => format!("{}: not there", target.display()),
            (true, true) => format!("{}: would be removed", target.display()),
            (true, false) => format!("{}: removed", target.display()),
        });
    }
    Ok(Exit::Done)
}

fn finish(report: &Report, written: Option<&Path>, ui: &Ui) -> Exit {
    if ui.is_json() {
        ui.json(&as_json(report, json!({"file": written})));
        return Exit::Done;
    }
    if let Some(path) = written {
        ui.line(path.display().to_string());
    }
    tell(report, "injected", ui);
    if let Some(path) = written {
        ui.note(format!("start it: docker-compose -f {} up -d", path.display()));
    }
    Exit::Done
}

fn usual() -> Result<PathBuf, Failure> {
    let found = NAMES.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        Failure::new(format!("there is none of {} here", NAMES.join(", ")))
            .hint("name the file")
            .exit(Exit::Usage)
    })
}

/// Compose itself would take an override into account; to leave it out in silence would be another application.
fn without_override(file: PathBuf) -> Result<PathBuf, Failure> {
    let (stem, ending) = parts(&file)?;
    for ending in [&*ending, "yml", "yaml"] {
        let second = file.with_file_name(format!("{stem}.override.{ending}"));
        if second.exists() {
            let message = format!(
                "`{}` would be merged into `{}` by Compose",
                second.display(),
                file.display()
            );
            return Err(Failure::new(message)
                .hint("`docker-compose config > merged.yaml`, and inject that; or name the file, to leave the other out")
                .exit(Exit::Usage));
        }
    }
    Ok(file)
}

fn parts(file: &Path) -> Result<(String, String), Failure> {
    let text = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
    match (text(file.file_stem()), text(file.extension())) {
        (Some(stem), Some(ending)) => Ok((stem, ending)),
        _ => Err(Failure::new(format!(
            "`{}`: a Compose file ends in .yaml or .yml",
            file.display()
        ))
        .exit(Exit::Usage)),
    }
}

/// `compose.yaml` -> `compose.hopguard.yaml`, in the same folder, so that relative paths mean the same.
fn beside(file: &Path) -> Result<PathBuf, Failure> {
    let (stem, ending) = parts(file)?;
    Ok(file.with_file_name(format!("{stem}.hopguard.{ending}")))
}

/// A file that is not ours is neither overwritten nor removed.
fn ours_or_none(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    match compose::is_injected(&read(path)?) {
        Ok(true) => Ok(()),
        _ => Err(
            Failure::new(format!("`{}` was not made by `hopguard inject`", path.display()))
                .hint("it is left as it is: move it away"),
        ),
    }
}

/// The whole file appears, or nothing.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("`{}` cannot be written: {error}", path.display())).exit(Exit::NotHere)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let rights = std::fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(rights).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
