//! What the long-running verbs share: their log to stderr, and enough file descriptors.

use std::io::IsTerminal;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
        .with_ansi(color);
    let started = if terminal {
        log.with_target(false).try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
    started.map_err(|error| Failure::new(format!("the log cannot be started: {error}")))
}

/// Raises the soft limit of descriptors to `wanted`, as far as the hard limit allows. Many systems start a process with
/// 1024.
pub fn raise_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else {
        return;
    };
    let raised = limit
        .maximum
        .map_or(wanted, |maximum| maximum.min(wanted))
        .max(current);
    let new = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, new).is_err() || raised < wanted {
        tracing::warn!(
            wanted,
            limit = raised,
            "fewer file descriptors than the configured limits need: raise LimitNOFILE"
        );
    }
}
