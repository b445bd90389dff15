//! Manifests: files or stdin to stdout.

use std::path::{Path, PathBuf};

use hopguard_inject::{InjectError, Report, WorkloadApi, kubernetes, unified};
use serde_json::json;

use super::{Common, as_json, failure, print, read, tell};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of `inject kubernetes`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Manifests; `-` or none: stdin
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The ConfigMap with sidecar.toml, mesh.toml and policies, in each namespace
    #[arg(long, value_name = "NAME", default_value = "hopguard")]
    config: String,
    /// Where the socket of the Workload API comes from: csi:DRIVER, csi:DRIVER:SOCKET or hostPath:/FOLDER/SOCKET
    #[arg(long, value_name = "SOURCE", default_value = "csi:csi.spiffe.io")]
    workload_api: WorkloadApi,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `uninject kubernetes`.
#[derive(clap::Args)]
pub(super) struct OutArgs {
    /// Manifests; `-` or none: stdin
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show the difference and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn inject(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let settings = args.common.settings(&args.config, &args.workload_api);
    let filtered = filter(&args.files, |text| kubernetes::inject(text, &settings))?;
    show(&filtered, "injected", args.common.dry_run, ui);
    Ok(Exit::Done)
}

pub(super) fn uninject(args: &OutArgs, ui: &Ui) -> Result<Exit, Failure> {
    let filtered = filter(&args.files, kubernetes::uninject)?;
    show(&filtered, "taken out", args.dry_run, ui);
    Ok(Exit::Done)
}

struct Filtered {
    before: String,
    after: String,
    report: Report,
}

/// All files, or none of them.
fn filter(
    files: &[PathBuf],
    each: impl Fn(&str) -> Result<(String, Report), InjectError>,
) -> Result<Filtered, Failure> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin[..] } else { files };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut report = Report::default();
    for path in files {
        let failed = |error: InjectError| failure(path, &error);
        let text = read(Path::new(path))?;
        before.push(kubernetes::rewritten(&text).map_err(failed)?);
        let (text, more) = each(&text).map_err(failed)?;
        after.push(text);
        report.changed.extend(more.changed);
        report.left.extend(more.left);
        for note in more.notes {
            if !report.notes.contains(&note) {
                report.notes.push(note);
            }
        }
    }
    let stream = |texts: Vec<String>| {
        let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts.join("---\n")
    };
    Ok(Filtered {
        before: stream(before),
        after: stream(after),
        report,
    })
}

fn show(filtered: &Filtered, done: &str, dry_run: bool, ui: &Ui) {
    let difference = || unified(&filtered.before, &filtered.after, ("before", "after"));
    if ui.is_json() {
        let more = if dry_run {
            json!({"difference": difference()})
        } else {
            json!({"manifests": filtered.after})
        };
        return ui.json(&as_json(&filtered.report, more));
    }
    print(
        &if dry_run {
            difference()
        } else {
            filtered.after.clone()
        },
        ui,
    );
    tell(&filtered.report, done, ui);
}
