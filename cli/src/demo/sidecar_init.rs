//! One sidecar's surroundings: the pod's network, the pod's folder and the Workload API socket that is the pod's alone. It
//! becomes `hopguard sidecar`, which keeps `CAP_NET_ADMIN` and nothing else.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::namespaces::Namespaces;
use super::pods::Pod;
use super::privileges::{self, Keep};
use super::{failed, files, mounts};
use crate::ui::{Exit, Failure};

/// Arguments of `demo sidecar-init`.
#[derive(clap::Args)]
pub struct Args {
    pod: String,
    /// The pod's first process
    #[arg(long)]
    pid: u32,
}

impl Args {
    /// The arguments as they are given on a command line.
    pub fn line(pod: &Pod, pid: u32) -> Vec<String> {
        ["demo", "sidecar-init", pod.name, "--pid", &pid.to_string()]
            .map(str::to_owned)
            .into()
    }
}

/// Goes where the sidecar lives and becomes it. Returns only on failure.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let pod = Pod::named(&args.pod).ok_or_else(|| Failure::new(format!("no pod `{}`", args.pod)))?;
    let namespaces = Namespaces::of(args.pid).map_err(failed("opening the pod's namespaces"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("making the sidecar's mounts"))?;
    sidecar_view(pod)?;
    namespaces.join_network()?;
    privileges::drop_to(Keep::NetAdmin)?;
    let error = Command::new("/proc/self/exe")
        .args(["sidecar", "--config", files::SIDECAR_CONFIG])
        .exec();
    Err(Failure::new(format!("the sidecar cannot be run: {error}")))
}

/// The pod's own folder takes the place of the demo's, so that no other pod's socket, key or log can be reached.
fn sidecar_view(pod: &Pod) -> Result<(), Failure> {
    let own = files::pod_folder(pod.name);
    mounts::bind_read_only(&files::socket_folder(pod.name), &own.join("workload"))?;
    mounts::bind_read_only(Path::new(files::SHARED), &own.join("mesh"))?;
    let seen = Path::new(files::ROOT);
    mounts::bind(&own, seen)
}
