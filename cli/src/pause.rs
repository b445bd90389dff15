//! `hopguard pause`: a process that holds a network namespace for the containers that join it. Nothing enters; it leaves
//! when it is told to.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::ui::{Exit, Failure};

/// Waits for SIGTERM or SIGINT. As the first process of a container it takes up every process that ends.
pub fn run() -> Result<Exit, Failure> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    let waiting = |errno: Errno| Failure::new(format!("waiting for signals: {errno}"));
    awaited.thread_block().map_err(waiting)?;
    loop {
        match awaited.wait().map_err(waiting)? {
            Signal::SIGCHLD => while collected() {},
            _ => return Ok(Exit::Done),
        }
    }
}

fn collected() -> bool {
    match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(_) => false,
        Ok(_) => true,
    }
}
