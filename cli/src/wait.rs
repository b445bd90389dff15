//! `hopguard wait`: returns when the sidecar is ready, and fails with its reasons when it is not in time. For whatever must
//! not start before its traffic can pass.

use std::path::PathBuf;
use std::time::Duration;

use crate::health::{self, Which};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = "\
Examples: hopguard wait --timeout 30 && exec ./my-service
          hopguard wait --config /etc/hopguard/sidecar.toml")]
pub struct Args {
    /// The sidecar's configuration, for the address of its health port
    #[arg(long, value_name = "FILE", conflicts_with = "health")]
    config: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// Runs it.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let config = args.config.as_deref().map(health::load).transpose()?;
    let addresses = health::addresses(&args.which, config.as_ref());
    let waited = health::wait(&addresses, Duration::from_secs(args.which.timeout), ui, || None)?;
    if ui.is_json() {
        ui.json(&serde_json::json!({"ready": true, "waited_seconds": waited.as_secs_f64()}));
    } else {
        ui.line("ready");
    }
    Ok(Exit::Done)
}
