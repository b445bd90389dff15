//! `hopguard inject` and `uninject`: files enter, what the crate `inject` makes of them leaves, and what was done is told.
//! It reads and writes the files, and decides nothing about them.

mod compose;
mod kubernetes;

use std::io::Read;
use std::path::Path;

use hopguard_inject::{InjectError, Report, Settings, WorkloadApi};
use serde_json::{Value, json};

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb `inject`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples: hopguard inject compose                        # writes compose.hopguard.yaml beside compose.yaml
          hopguard inject compose --dry-run              # shows the difference, and writes nothing
          hopguard inject kubernetes app.yaml | kubectl apply -f -
          kustomize build . | hopguard inject kubernetes --workload-api hostPath:/run/hopguard/workload.sock

Twice is once. What cannot be protected is refused, and then nothing is written. Documentation: docs/inject.md")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Write a second Compose file beside the user's, with a redirect and a sidecar beside every service
    Compose(compose::Args),
    /// Put a redirect and a sidecar into every pod of manifests: from files or stdin to stdout
    #[command(visible_alias = "k8s")]
    Kubernetes(kubernetes::Args),
}

/// Arguments of the verb `uninject`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples: hopguard uninject compose                      # removes compose.hopguard.yaml
          hopguard uninject kubernetes injected.yaml > app.yaml")]
pub struct OutArgs {
    #[command(subcommand)]
    what: Out,
}

#[derive(clap::Subcommand)]
enum Out {
    /// Remove the Compose file that `inject` wrote; the user's was never changed
    Compose(compose::OutArgs),
    /// Take redirect and sidecar out of manifests, and put back what was there: from files or stdin to stdout
    #[command(visible_alias = "k8s")]
    Kubernetes(kubernetes::OutArgs),
}

/// What is put beside every workload.
#[derive(clap::Args)]
struct Common {
    /// The image that holds hopguard
    #[arg(long, value_name = "IMAGE", default_value = "hopguard:local")]
    image: String,
    /// The image that holds hopguard and iptables, for the redirect step
    #[arg(long, value_name = "IMAGE", default_value = "hopguard-redirect:local")]
    redirect_image: String,
    /// The user that sidecars run as, which no application may be
    #[arg(long, value_name = "UID", default_value_t = 10015, value_parser = clap::value_parser!(u32).range(1..4_294_967_295))]
    uid: u32,
    /// The namespace of services whose workload has none
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Show the difference and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Common {
    fn settings(&self, config: &str, workload_api: &WorkloadApi) -> Settings {
        Settings {
            image: self.image.clone(),
            redirect_image: self.redirect_image.clone(),
            uid: self.uid,
            namespace: self.namespace.clone(),
            config: config.to_owned(),
            workload_api: workload_api.clone(),
        }
    }
}

/// Runs `inject`.
///
/// # Errors
/// A file cannot be read or written, or cannot be injected.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    match &args.what {
        What::Compose(args) => compose::inject(args, ui),
        What::Kubernetes(args) => kubernetes::inject(args, ui),
    }
}

/// Runs `uninject`.
///
/// # Errors
/// A file cannot be read or removed, or was not injected as it should be.
pub fn run_out(args: &OutArgs, ui: &Ui) -> Result<Exit, Failure> {
    match &args.what {
        Out::Compose(args) => compose::uninject(args, ui),
        Out::Kubernetes(args) => kubernetes::uninject(args, ui),
    }
}

/// More is refused by the reader in any case.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::new(format!("`{}` cannot be read: {error}", path.display())).exit(Exit::BadFile)
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(MOST_BYTES).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
        file.take(MOST_BYTES).read_to_string(&mut text)
    };
    read.map_err(|error| wrong(&error))?;
    Ok(text)
}

fn failure(path: &Path, error: &InjectError) -> Failure {
    let place = if path == Path::new("-") {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    };
    match error {
        InjectError::Unreadable(wrong) => Failure::new(format!("{place}:{wrong}")).exit(Exit::BadFile),
        InjectError::NotThis(message) => Failure::new(format!("{place}: {message}")).exit(Exit::BadFile),
        InjectError::Refused(refusals) => {
            let lines: Vec<String> = refusals
                .iter()
                .map(|refusal| format!("{place}: {refusal}"))
                .collect();
            Failure::new(lines.join("\n")).hint(
                "nothing was written; what is to stay outside the mesh says hopguard.dev/inject: \"false\" (annotation or label)",
            )
        }
    }
}

/// What was done, on stderr.
fn tell(report: &Report, done: &str, ui: &Ui) {
    for workload in &report.changed {
        let service = if workload.service.is_empty() {
            String::new()
        } else {
            format!(" as {}", workload.service)
        };
        ui.note(format!("{done}: {}{service}", workload.name));
    }
    for (name, why) in &report.left {
        ui.note(format!("left as it is: {name}: {why}"));
    }
    for note in &report.notes {
        ui.note(format!("note: {note}"));
    }
}

/// The same in JSON, with what `more` holds.
fn as_json(report: &Report, more: Value) -> Value {
    let changed: Vec<Value> = report
        .changed
        .iter()
        .map(|one| {
            if one.service.is_empty() {
                json!({"workload": one.name})
            } else {
                json!({"workload": one.name, "service": one.service, "uid": one.uid})
            }
        })
        .collect();
    let left: Vec<Value> = report
        .left
        .iter()
        .map(|(name, why)| json!({"workload": name, "why": why}))
        .collect();
    let mut all = json!({"changed": changed, "left": left, "notes": report.notes});
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

/// Text as it is; its last line break is the line's own.
fn print(text: &str, ui: &Ui) {
    if !text.is_empty() {
        ui.line(text.strip_suffix('\n').unwrap_or(text));
    }
}
