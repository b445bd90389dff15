//! `hopguard run -- COMMAND`: the command starts when the sidecar is ready, gets the signals that come, and its end is the
//! end of all: with its own exit code, as a Job needs it. A sidecar that this verb started is told to drain then.
//!
//! It may be the first process of a container, so it takes up every child that ends.

mod children;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Group, Pid, Uid, User};

use crate::health::{self, Which};
use crate::ui::{Exit, Failure, Ui};
use children::{Children, Ended};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = "\
The exit code is the command's own; 128 and the number of the signal when a signal ended it.

Examples: hopguard run -- ./batch-job --once
          hopguard run --config sidecar.toml --sidecar-user hopguard --user app -- ./batch-job")]
pub struct Args {
    /// Also start a sidecar with this configuration, and stop it at the end; else one must be running
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who runs the sidecar (name or UID, `:GROUP` may follow); needs root
    #[arg(long, value_name = "USER[:GROUP]", requires = "config")]
    sidecar_user: Option<String>,
    /// Who runs the command (name or UID, `:GROUP` may follow); needs root
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// How long the sidecar may drain at the end, before it is killed (else 5 s more than its own `[drain]` allows)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    drain: Option<u64>,
    #[command(flatten)]
    which: Which,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// What a sidecar may take beyond its drain, to leave its last records.
const LEFT_TO_DRAIN: Duration = Duration::from_secs(5);

/// A user that something is run as.
#[derive(Clone, Copy, Debug)]
struct As {
    uid: Uid,
    gid: Gid,
}

/// Runs it; answers the exit code.
pub fn run(args: &Args, ui: &Ui) -> Result<u8, Failure> {
    let as_command = args.user.as_deref().map(user).transpose()?;
    let as_sidecar = args.sidecar_user.as_deref().map(user).transpose()?;
    let sidecar_file = args.config.as_deref().map(health::load).transpose()?;
    let addresses = health::addresses(&args.which, sidecar_file.as_ref());
    let mut children = Children::new()?;
    let sidecar = match &args.config {
        Some(file) => {
            // Its readiness would be taken for that of the one to be started.
            if let Some(address) = health::answering(&addresses) {
                let message = format!("a sidecar answers at {address} already");
                let hint = "leave out --config to use that one, or stop it";
                return Err(Failure::new(message).hint(hint).exit(Exit::NotHere));
            }
            let sidecar = start_sidecar(file, as_sidecar)?;
            children.started(sidecar);
            Some(sidecar)
        }
        None => None,
    };
    let patience = Duration::from_secs(args.which.timeout);
    let waited = health::wait(&addresses, patience, ui, || early_end(&mut children, sidecar));
    let outcome = match waited {
        Ok(_) => start(args, as_command).map(|command| {
            children.started(command);
            watch(&mut children, command, sidecar, ui)
        }),
        Err(failure) => Err(failure),
    };
    if let Some(sidecar) = sidecar {
        let own = sidecar_file.map_or(LEFT_TO_DRAIN, |file| file.drain_timeout + LEFT_TO_DRAIN);
        children.stop(sidecar, args.drain.map_or(own, Duration::from_secs), ui);
    }
    outcome
}

/// Why waiting for readiness has no use any more.
fn early_end(children: &mut Children, sidecar: Option<Pid>) -> Option<Failure> {
    if let Some(signal) = children.told_to_end() {
        return Some(Failure::new(format!(
            "told to end by {signal} before the sidecar was ready; the command was not started"
        )));
    }
    let ended = sidecar.and_then(|sidecar| children.ended(sidecar))?;
    Some(
        Failure::new(format!(
            "the sidecar {ended} before it was ready; the command was not started"
        ))
        .hint("its log is above; `hopguard config check` checks its file")
        .exit(Exit::NotHere),
    )
}

fn start_sidecar(file: &std::path::Path, user: Option<As>) -> Result<Pid, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hopguard")
        .args(["sidecar", "--die-with-parent", "--config"])
        .arg(file)
        // What the terminal says is for the command.
        .process_group(0)
        .stdin(std::process::Stdio::null());
    spawn(command, user)
        .map_err(|error| Failure::new(format!("the sidecar cannot be started: {error}")).exit(Exit::NotHere))
}

fn start(args: &Args, user: Option<As>) -> Result<Pid, Failure> {
    let (program, rest) = args
        .command
        .split_first()
        .ok_or_else(|| Failure::new("there is no command").exit(Exit::Usage))?;
    let mut command = Command::new(program);
    command.args(rest);
    spawn(command, user).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NoCommand,
            _ => Exit::NotExecutable,
        };
        Failure::new(format!("`{}`: {error}", program.display())).exit(exit)
    })
}

fn spawn(mut command: Command, user: Option<As>) -> std::io::Result<Pid> {
    if let Some(user) = user {
        // Supplementary groups go too.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let child = command.spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Until the command ends. A sidecar of ours that ends meanwhile leaves it without traffic, which is said.
fn watch(children: &mut Children, command: Pid, sidecar: Option<Pid>, ui: &Ui) -> u8 {
    let mut sidecar = sidecar;
    loop {
        if let Some(ended) = children.next(command) {
            return ended.code();
        }
        if let Some(ended) = sidecar.and_then(|sidecar| children.ended(sidecar)) {
            ui.note(format!(
                "the sidecar {ended}: nothing of the command passes any more"
            ));
            sidecar = None;
        }
    }
}

/// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`.
fn user(text: &str) -> Result<As, Failure> {
    let unknown = |what: &str, name: &str| {
        Failure::new(format!("there is no {what} `{name}` here"))
            .hint("`getent passwd` and `getent group` list them; numbers need not be known")
            .exit(Exit::Usage)
    };
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let failed = |error: nix::errno::Errno| {
        Failure::new(format!("users and groups cannot be looked up: {error}")).exit(Exit::NotHere)
    };
    let (uid, own) = match name.parse() {
        Ok(uid) => {
            let uid = Uid::from_raw(uid);
            (uid, User::from_uid(uid).map_err(failed)?)
        }
        Err(_) => {
            let user = User::from_name(name).map_err(failed)?;
            let user = user.ok_or_else(|| unknown("user", name))?;
            (user.uid, Some(user))
        }
    };
    let gid = match group.map(|group| (group, group.parse())) {
        Some((_, Ok(gid))) => Gid::from_raw(gid),
        Some((group, Err(_))) => {
            let found = Group::from_name(group).map_err(failed)?;
            found.ok_or_else(|| unknown("group", group))?.gid
        }
        None => own.map_or(Gid::from_raw(uid.as_raw()), |user| user.gid),
    };
    Ok(As { uid, gid })
}

/// Signals that are the command's to hear.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with exit code {code}"),
            Self::Killed(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers_with_or_without_a_group() {
        let root = user("root").unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        let number = user("4242424").unwrap();
        assert_eq!((number.uid.as_raw(), number.gid.as_raw()), (4_242_424, 4_242_424));
        let both = user("7:8").unwrap();
        assert_eq!((both.uid.as_raw(), both.gid.as_raw()), (7, 8));
        assert_eq!(user("root:root").unwrap().gid.as_raw(), 0);
        for wrong in ["", "no-such-user", "root:no-such-group", ":", "-1"] {
            assert!(user(wrong).is_err(), "{wrong}");
        }
    }
}
