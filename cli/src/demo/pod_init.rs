//! One pod: network, host name and mount namespaces, the redirect, and the first process of the process namespace in
//! which its application runs. Lines on standard input and output tell its parent how far it is. No application runs before the redirect is in place.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::sethostname;

use super::mounts::NetworkSettings;
use super::pods::{Families, MARK, Pod};
use super::privileges::{self, Keep};
use super::{fabric, failed, mounts};
use crate::process::collect_ended;
use crate::ui::{Exit, Failure, Ui};

/// Arguments of `demo pod-init`.
#[derive(clap::Args)]
pub struct Args {
    pod: String,
    #[arg(long)]
    v4: bool,
    #[arg(long)]
    v6: bool,
}

impl Args {
    /// The arguments as they are given on a command line.
    pub fn line(pod: &Pod, families: Families) -> Vec<String> {
        let mut line = vec!["demo".to_owned(), "pod-init".to_owned(), pod.name.to_owned()];
        line.extend(families.v4.then(|| "--v4".to_owned()));
        line.extend(families.v6.then(|| "--v6".to_owned()));
        line
    }
}

/// Makes the pod and stays as long as its first process.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let pod = Pod::named(&args.pod).ok_or_else(|| Failure::new(format!("no pod `{}`", args.pod)))?;
    let families = Families {
        v4: args.v4,
        v6: args.v6,
    };
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(failed("making the pod's namespaces"))?;
    sethostname(pod.name).map_err(failed("naming the pod"))?;
    ui.line("unshared");
    let mut go = String::new();
    io::stdin()
        .read_line(&mut go)
        .map_err(failed("waiting for the pod's cable"))?;
    if go.trim() != "go" {
        return Ok(Exit::No);
    }
    fabric::addresses(pod, families)?;
    if pod.meshed() {
        redirect()?;
    }
    application_view()?;
    first_process(ui)
}

/// What an application sees of the file system: nothing of the demo's configuration, keys and sockets.
fn application_view() -> Result<(), Failure> {
    for (path, megabytes) in [("/run", 4), ("/tmp", 64)] {
        mounts::forget(path)?;
        mounts::memory_around_program(path, megabytes)?;
    }
    Ok(())
}

fn redirect() -> Result<(), Failure> {
    let output = Command::new("/proc/self/exe")
        .args(["iptables", "apply", "--mark", &MARK.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(failed("running hopguard iptables"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(format!("the redirect could not be applied: {said}")))
}

fn first_process(ui: &Ui) -> Result<Exit, Failure> {
    // From here on every child is in the new process namespace, and the first one must stay.
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed("making the process namespace"))?;
    let mut first = Command::new("/proc/self/exe")
        .args(["demo", "pod-pause"])
        .arg0("hopguard")
        // The application shares its process namespace and can open what it holds: neither the environment nor the
        // terminal of whoever started the demo may be found there.
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("starting the pod's first process"))?;
    let mut up = String::new();
    if let Some(stdout) = first.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut up)
            .map_err(failed("waiting for the pod's first process"))?;
    }
    if up.trim() != "up" {
        return Err(Failure::new("the pod's first process did not start"));
    }
    ui.line(format!("ready {}", first.id()));
    first
        .wait()
        .map_err(failed("waiting for the pod's first process"))?;
    Ok(Exit::No)
}

/// The first process of a pod's process namespace: collects what its application leaves behind, and nothing else.
pub fn pause(ui: &Ui) -> Result<Exit, Failure> {
    mounts::proc(NetworkSettings::ReadOnly)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(failed("waiting for signals"))?;
    privileges::drop_to(Keep::Nothing)?;
    ui.line("up");
    loop {
        children.wait().map_err(failed("waiting for signals"))?;
        collect_ended();
    }
}
