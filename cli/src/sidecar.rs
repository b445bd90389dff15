//! `hopguard sidecar`: runs the sidecar until SIGTERM or SIGINT. The log goes to stderr, records where the settings say.

use std::io::IsTerminal;
use std::path::PathBuf;

use hopguard_sidecar::admin::AppProbes;
use hopguard_sidecar::config::{ConfigProblem, Rendering, render};
use hopguard_sidecar::server::{self, ServerError};

use crate::process::{raise_descriptors, start_log};
use crate::ui::{Exit, Failure, Ui, may_color};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The sidecar's configuration
    #[arg(long, value_name = "FILE", default_value = "sidecar.toml")]
    config: PathBuf,
    /// The service that it stands beside, instead of the one in its file: one file then serves many
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// The application's probes, which are relayed at port 15022: what `hopguard inject` writes (docs/inject.md)
    #[arg(
        long,
        value_name = "JSON",
        env = "HOPGUARD_APP_PROBES",
        hide_env_values = true
    )]
    app_probes: Option<AppProbes>,
    /// What is logged to stderr (tracing's filter syntax)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HOPGUARD_LOG")]
    log: String,
    /// Ends when the process that started it ends, however that happens
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    if args.die_with_parent {
        // Where it is not possible, an orphan goes on: it lets nothing pass that it would not pass otherwise.
        let _orphan = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM);
    }
    start_log(&args.log)?;
    // The sidecar says itself when they do not suffice for its settings.
    let _limit = raise_descriptors();
    match server::run(&args.config, args.service, args.app_probes) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(failure(error, ui)),
    }
}

fn failure(error: ServerError, ui: &Ui) -> Failure {
    match error {
        ServerError::Config(problems) => wrong(&problems, ui.is_json()),
        ServerError::Setting { .. } => Failure::new(error.to_string()).exit(Exit::BadFile),
        ServerError::System { .. } => Failure::new(error.to_string())
            .hint("`hopguard doctor` tells which ports and permissions are missing")
            .exit(Exit::NotHere),
    }
}

/// The failure of a configuration that is wrong: shown with its places to people, in plain lines to programs.
pub fn wrong(problems: &[ConfigProblem], json: bool) -> Failure {
    let fancy = std::io::stderr().is_terminal() && !json;
    let color = may_color();
    let text = render(
        problems,
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
