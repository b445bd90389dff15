//! What the long-running verbs share: their log to stderr, enough file descriptors, and taking up who ended.

use std::io::IsTerminal;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitOptions, getrlimit, setrlimit, wait};
use tracing_subscriber::EnvFilter;

use crate::ui::{Exit, Failure, may_color};

/// Starts the log: people read lines, collectors read JSON.
pub fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(format!("--log `{filter}`: {error}"))
            .hint("try `info`, `debug` or `warn,hopguard_sidecar=debug`")
            .exit(Exit::Usage)
    })?;
    let terminal = std::io::stderr().is_terminal();
    let color = terminal && may_color();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be logged cannot be told: complaining on the same stream would end the task that logs.
        .log_internal_errors(false)
        .with_ansi(color);
    let started = if terminal {
        log.with_target(false).try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
    started.map_err(|error| Failure::new(format!("the log cannot be started: {error}")))
}

/// Raises the soft limit of descriptors to the hard one: many systems start a process with 1024. Returns the limit.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Up to the hard limit nobody needs a right; where it fails all the same, the old limit is told.
    let _old_limit_stays = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Takes up every child that ended, however it did, also what this process inherited as the first of its namespace.
pub fn collect_ended() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_)) | Err(Errno::INTR)) {}
}
