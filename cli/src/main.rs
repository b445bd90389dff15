//! hopguard: the sidecar, the certificate authority, the redirect and their command line, in one binary.

mod admin;
mod authority;
mod bundle;
mod ca;
mod can;
mod config;
mod demo;
mod doctor;
mod entry;
mod explain;
mod health;
mod inject;
mod iptables;
mod pause;
mod policy;
mod process;
mod run;
mod shell;
mod sidecar;
mod svid;
mod token;
mod ui;
mod usage;
mod wait;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use ui::{Exit, Failure, Output, Ui};

/// Memory that a burst took is given back (the system allocator gives back nothing).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A zero-trust sidecar with workload identity: on every hop, the calling workload and the user it acts for are both
/// proven, and both must be allowed.
#[derive(Parser)]
#[command(name = "hopguard", version, propagate_version = true, after_help = Exit::help())]
struct Cli {
    /// How results are printed, and errors on stderr: text or json
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the certificate authority
    Ca(ca::Args),
    /// List, plan, apply or show the entries of a running authority: who gets which identity
    Entry(entry::Args),
    /// Explain what identity a process gets from a running authority, and why not another
    Why(why::Args),
    /// Run the sidecar
    Sidecar(sidecar::Args),
    /// Plan, apply, undo or check the transparent redirect
    Iptables(iptables::Args),
    /// Put a sidecar and a redirect beside the services of a Compose file or of Kubernetes manifests
    Inject(inject::Args),
    /// Take out what `inject` put in
    Uninject(inject::OutArgs),
    /// SVIDs: fetch, keep in files, inspect, verify, have one issued
    Svid(svid::Args),
    /// Trust bundles: show, fetch from a bundle endpoint, verify
    Bundle(bundle::Args),
    /// Inspect tokens
    Token(token::Args),
    /// Check policies
    Policy(policy::Args),
    /// Decide without traffic: may this caller, for this user, do this?
    Can(can::Args),
    /// Explain a refusal by its id: which policies were considered, and what the nearest one needs
    Explain(explain::Args),
    /// Check configuration files, or write first ones
    Config(config::Args),
    /// Run a mesh of three services on this machine and watch requests cross it
    Demo(demo::Args),
    /// Wait until the sidecar is ready
    Wait(wait::Args),
    /// Run a command when the sidecar is ready, pass signals on, and end with its exit code
    Run(run::Args),
    /// Do nothing until told to end: holds the network of a pod for the containers that join it
    Pause(pause::Args),
    /// Look for what keeps hopguard from working here
    Doctor(doctor::Args),
    /// Print the completions of this command line for a shell
    Completions(shell::Completions),
    /// Print the manual page, or write one for each verb
    Man(shell::Man),
}

fn main() -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => {
            let ui = Ui::new(cli.output);
            run(cli.verb, &ui).unwrap_or_else(|failure| {
                ui.failure(&failure);
                ui.ended(failure.exit) as u8
            })
        }
        Err(error) => usage::tell(&error, std::env::args_os()) as u8,
    };
    ExitCode::from(code)
}

/// Runs a verb; answers the exit code of the process.
fn run(verb: Verb, ui: &Ui) -> Result<u8, Failure> {
    let exit = match verb {
        // The one verb whose exit code is another program's.
        Verb::Run(args) => return run::run(&args, ui),
        Verb::Ca(args) => ca::run(args, ui),
        Verb::Entry(args) => entry::run(args, ui),
        Verb::Why(args) => why::run(&args, ui),
        Verb::Sidecar(args) => sidecar::run(args, ui),
        Verb::Iptables(args) => iptables::run(args, ui),
        Verb::Inject(args) => inject::run(&args, ui),
        Verb::Uninject(args) => inject::run_out(&args, ui),
        Verb::Svid(args) => svid::run(args, ui),
        Verb::Bundle(args) => bundle::run(args, ui),
        Verb::Token(args) => token::run(args, ui),
        Verb::Policy(args) => policy::run(args, ui),
        Verb::Can(args) => can::run(args, ui),
        Verb::Explain(args) => explain::run(args, ui),
        Verb::Config(args) => config::run(args, ui),
        Verb::Pause(args) => pause::run(&args),
        Verb::Wait(args) => wait::run(&args, ui),
        Verb::Demo(args) => demo::run(args, ui),
        Verb::Doctor(args) => doctor::run(args, ui),
        Verb::Completions(args) => shell::completions(&args, Cli::command(), ui),
        Verb::Man(args) => shell::man(&args, Cli::command(), ui),
    }?;
    Ok(ui.ended(exit) as u8)
}
