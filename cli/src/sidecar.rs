//! `hopguard sidecar`: runs the sidecar until SIGTERM or SIGINT. The log goes to stderr, records where the settings say.

use std::io::IsTerminal;
use std::path::PathBuf;

use hopguard_sidecar::config::{Rendering, render};
use hopguard_sidecar::server::{self, ServerError};

use crate::process::{raise_descriptors, start_log};
use crate::ui::{Exit, Failure, Ui, may_color};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The sidecar's configuration
    #[arg(long, value_name = "FILE", default_value = "sidecar.toml")]
    config: PathBuf,
    /// What is logged to stderr (tracing's filter syntax)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HOPGUARD_LOG")]
    log: String,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    start_log(&args.log)?;
    // The sidecar says itself when they do not suffice for its settings.
    let _limit = raise_descriptors();
    match server::run(&args.config) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(failure(error, ui)),
    }
}

fn failure(error: ServerError, ui: &Ui) -> Failure {
    match error {
        ServerError::Config(problems) => {
            let fancy = std::io::stderr().is_terminal() && !ui.is_json();
            let color = may_color();
            let text = render(
                &problems,
                if fancy {
                    Rendering::Graphical { color, width: 100 }
                } else {
                    Rendering::Plain
                },
            );
            Failure::new(format!("the configuration is wrong\n{text}"))
                .hint("`hopguard config check FILE` checks it without running anything")
                .exit(Exit::BadFile)
        }
        ServerError::Setting { .. } => Failure::new(error.to_string()).exit(Exit::BadFile),
        ServerError::System { .. } => Failure::new(error.to_string())
            .hint("`hopguard doctor` tells which ports and permissions are missing")
            .exit(Exit::NotHere),
    }
}
