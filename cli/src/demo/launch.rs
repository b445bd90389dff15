//! From the host's namespaces into new ones: a process that has only its standard input enters, the first process of the
//! new process namespace leaves. It outlives neither its parent nor its child.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{failed, message, namespaces};
use crate::ui::{Exit, Failure, Ui};

/// Makes the namespaces, runs `demo init` in them, and ends as it ends.
pub fn run(ui: &Ui) -> Result<Exit, Failure> {
    let control = message::from_stdin().map_err(failed("taking the control socket"))?;
    namespaces::become_root()?;
    // After the change of credentials, which would have cleared it.
    die_with_parent(&control)?;
    let output = if ui.is_json() { "json" } else { "text" };
    let status = Command::new("/proc/self/exe")
        .args(["-o", output, "demo", "init"])
        .arg0("hopguard")
        .status()
        .map_err(failed("starting the first process of the demo"))?;
    Ok(Exit::of_code(status.code()))
}

/// Asks the kernel to kill this process when its parent ends, and makes sure that the parent has not ended before.
///
/// # Errors
/// The parent is gone.
pub fn die_with_parent(control: &UnixStream) -> Result<(), Failure> {
    set_pdeathsig(Signal::SIGKILL).map_err(failed("asking to die with the parent"))?;
    let mut ends = [PollFd::new(control, PollFlags::RDHUP)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut ends, Some(&now)).map_err(failed("looking at the control socket"))?;
    let gone = ends
        .iter()
        .any(|end| end.revents().intersects(PollFlags::RDHUP | PollFlags::HUP));
    if gone {
        Err(Failure::new("the demo ended while it was starting"))
    } else {
        Ok(())
    }
}
