//! `hopguard pause`: a process that holds a network namespace for the containers that join it. Nothing enters; it leaves
//! when it is told to.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use crate::process::collect_ended;
use crate::ui::{Exit, Failure};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = "\
A network namespace that is made anew has no redirect. With --once, a container that is started a second time ends at once, and
nothing can join it: make it anew, and the redirect step with it.

Example: hopguard pause --once /.hopguard-held")]
pub struct Args {
    /// Make this file, and end at once with exit code 1 when it is there already
    #[arg(long, value_name = "FILE")]
    once: Option<PathBuf>,
}

/// Waits for SIGTERM or SIGINT. As the first process of a container it takes up every process that ends.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    let waiting = |errno: Errno| Failure::new(format!("waiting for signals: {errno}"));
    // Blocked first: a signal that comes meanwhile waits.
    awaited.thread_block().map_err(waiting)?;
    if let Some(file) = &args.once {
        first(file)?;
    }
    loop {
        match awaited.wait().map_err(waiting)? {
            Signal::SIGCHLD => collect_ended(),
            _ => return Ok(Exit::Done),
        }
    }
}

fn first(file: &Path) -> Result<(), Failure> {
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new(format!(
            "`{}` is there: this container was started before, and its network has no redirect any more",
            file.display()
        ))
        .hint("make the containers anew: `docker-compose down`, then `up`")),
        Err(error) => Err(Failure::new(format!("`{}`: {error}", file.display())).exit(Exit::NotHere)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("held");
        first(&file).unwrap();
        assert_eq!(first(&file).unwrap_err().exit, Exit::No);
        assert_eq!(
            first(&dir.path().join("no/held")).unwrap_err().exit,
            Exit::NotHere
        );
    }
}
