//! Giving up privileges before another program runs: a choice of what to keep enters, a process that can never get more
//! leaves. It never runs with more than was chosen.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::ValueEnum;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::failed;
use crate::ui::{Exit, Failure};

/// What a process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// No capability: an application, the certificate authority, the provider.
    Nothing,
    /// `CAP_NET_ADMIN`, to mark its own connections: a sidecar.
    NetAdmin,
    /// `CAP_NET_ADMIN` and `CAP_NET_RAW`: the pod's root, who may change its network and see its packets. Nothing by which
    /// a mount, a device or a process of others could be reached: for the kernel he may be the root of the host.
    PodRoot,
}

/// Arguments of `demo run-as`.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, value_enum)]
    keep: Keep,
    /// Die with the thread that started it
    #[arg(long)]
    with_parent: bool,
    /// The program that follows, with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// Drops everything but `keep` and becomes the command. Returns only on failure, with the exit code of shells for it.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    drop_to(args.keep)?;
    if args.with_parent {
        set_pdeathsig(Signal::SIGKILL).map_err(failed("asking to die with the parent"))?;
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::new("no command given"));
    };
    // Our own binary goes by its name, not by the way in which it was found.
    let name = if program == "/proc/self/exe" {
        "hopguard"
    } else {
        program
    };
    let error = Command::new(program).arg0(name).args(arguments).exec();
    Err(not_run(program, &error))
}

fn not_run(program: &str, error: &io::Error) -> Failure {
    // A folder of the path that may not be searched is told as EACCES, also where the command is nowhere.
    let found = program.contains('/')
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(format!("`{program}`: there is no such command"))
            .hint("the pod has the files of this machine: is it installed here, and in the PATH?")
            .exit(Exit::NoCommand),
        _ if !found => Failure::new(format!("`{program}`: there is no such command in the PATH"))
            .hint("the pod has the files of this machine: is it installed here?")
            .exit(Exit::NoCommand),
        _ => Failure::new(format!("`{program}` cannot be executed: {error}"))
            .hint("it must be a program, or a script with a first line `#!`, that this user may execute")
            .exit(Exit::NotExecutable),
    }
}

/// Drops everything but `keep`, for this process and whatever it becomes: bounding set, ambient and inheritable sets,
/// and `no_new_privs`, so that neither being uid 0 nor a setuid program gives anything back.
pub fn drop_to(keep: Keep) -> Result<(), Failure> {
    let kept = match keep {
        Keep::Nothing => CapabilitySet::empty(),
        Keep::NetAdmin => CapabilitySet::NET_ADMIN,
        Keep::PodRoot => CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW,
    };
    // The kernel refuses the first number that it does not know.
    for capability in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if !kept.contains(capability) && remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    clear_ambient_capability_set().map_err(failed("clearing the ambient capabilities"))?;
    set_no_new_privs(true).map_err(failed("setting no_new_privs"))?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed("dropping capabilities"))
}
