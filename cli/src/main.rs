//! hopguard: the sidecar, the certificate authority, the redirect and their command line, in one binary.

mod admin;
mod ca;
mod can;
mod config;
mod demo;
mod doctor;
mod explain;
mod iptables;
mod policy;
mod process;
mod sidecar;
mod svid;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ui::{Exit, Failure, Output, Ui};

/// Memory that a burst took is given back (the system allocator gives back nothing).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A zero-trust sidecar with workload identity: on every hop, the calling workload and the user it acts for are both
/// proven, and both must be allowed.
#[derive(Parser)]
#[command(name = "hopguard", version, propagate_version = true, after_help = AFTER_HELP)]
struct Cli {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "Exit codes: 0 done or healthy, 1 the answer is no or the operation failed, 2 usage, 3 a file is wrong, \
4 not permitted or not possible here.";

#[derive(Subcommand)]
enum Verb {
    /// Run the certificate authority
    Ca(ca::Args),
    /// Run the sidecar
    Sidecar(sidecar::Args),
    /// Plan, apply, undo or check the transparent redirect
    Iptables(iptables::Args),
    /// Fetch or inspect SVIDs
    Svid(svid::Args),
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
    /// Look for what keeps hopguard from working here
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.output);
    match run(cli.verb, &ui) {
        Ok(exit) => code(exit),
        Err(failure) => {
            ui.failure(&failure);
            code(failure.exit)
        }
    }
}

fn run(verb: Verb, ui: &Ui) -> Result<Exit, Failure> {
    match verb {
        Verb::Ca(args) => ca::run(args, ui),
        Verb::Sidecar(args) => sidecar::run(args, ui),
        Verb::Iptables(args) => iptables::run(args, ui),
        Verb::Svid(args) => svid::run(args, ui),
        Verb::Policy(args) => policy::run(args, ui),
        Verb::Can(args) => can::run(args, ui),
        Verb::Explain(args) => explain::run(args, ui),
        Verb::Config(args) => config::run(args, ui),
        Verb::Demo(args) => demo::run(args, ui),
        Verb::Doctor(args) => doctor::run(args, ui),
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
