//! Processes that this one started or inherited: signals come in and are passed on, ends are taken up. No process that
//! ended is left behind, also none that was not ours to begin with (the first process of a container inherits them).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;

use super::PASSED_ON;
use crate::ui::{Failure, Ui};

/// Ends are looked for at least this often: a notice of an end may be missed, an end is not.
const LOOK: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exited(u8),
    /// By a signal, which may be one that has a number only.
    Killed(i32),
}

impl Ended {
    /// As shells say it.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128_u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
        }
    }
}

/// What happened.
enum Event {
    /// A process ended, whichever.
    Child,
    /// A signal came.
    Signal(Signal),
}

/// The processes, and the signals for them.
pub struct Children {
    runtime: Runtime,
    events: mpsc::UnboundedReceiver<Event>,
    /// Our own children and how they ended; nothing of those that were merely inherited is kept.
    ours: HashMap<i32, Option<Ended>>,
    told: Option<Signal>,
}

impl Children {
    /// Listens for signals from here on.
    ///
    /// # Errors
    /// When they cannot be handled.
    pub fn new() -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| Failure::new(format!("signals cannot be handled: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(cannot)?;
        let (sender, events) = mpsc::unbounded_channel();
        let entered = runtime.enter();
        let mut ends = signal(SignalKind::child()).map_err(cannot)?;
        let told = sender.clone();
        runtime.spawn(async move { while ends.recv().await.is_some() && told.send(Event::Child).is_ok() {} });
        let ignored = ignored();
        for one in PASSED_ON {
            // Whoever started us wants it ignored (`nohup`), by the command too.
            if ignored & (1 << (one as i32 - 1)) != 0 {
                continue;
            }
            let stream = signal(SignalKind::from_raw(one as i32)).map_err(cannot)?;
            runtime.spawn(pass(stream, one, sender.clone()));
        }
        drop(entered);
        Ok(Self {
            runtime,
            events,
            ours: HashMap::new(),
            told: None,
        })
    }

    /// A child of ours, from its start on.
    pub fn started(&mut self, pid: Pid) {
        self.ours.insert(pid.as_raw(), None);
    }

    /// The signal that told us to end, when one came before there was a command for it.
    pub fn told_to_end(&mut self) -> Option<Signal> {
        self.runtime.block_on(tokio::task::yield_now());
        while let Ok(event) = self.events.try_recv() {
            if let Event::Signal(
                signal @ (Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP),
            ) = event
            {
                self.told.get_or_insert(signal);
            }
        }
        self.told
    }

    /// How a process ended, once it has.
    pub fn ended(&mut self, pid: Pid) -> Option<Ended> {
        self.reap();
        self.ours.get(&pid.as_raw()).copied().flatten()
    }

    /// Waits for something to happen, and passes signals on to `command`; how it ended, when it has.
    pub fn next(&mut self, command: Pid) -> Option<Ended> {
        if let Some(ended) = self.ended(command) {
            return Some(ended);
        }
        let event = self
            .runtime
            .block_on(async { tokio::time::timeout(LOOK, self.events.recv()).await });
        if let Ok(Some(Event::Signal(signal))) = event {
            let heard = matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && the_terminal_tells_all();
            if !heard {
                let _ended_meanwhile = kill(command, signal);
            }
        }
        self.ended(command)
    }

    /// Ends a process: SIGTERM, and SIGKILL when it has not ended in time.
    pub fn stop(&mut self, pid: Pid, patience: Duration, ui: &Ui) {
        let start = Instant::now();
        if self.ended(pid).is_some() {
            return;
        }
        let _ended_meanwhile = kill(pid, Signal::SIGTERM);
        while start.elapsed() < patience {
            let left = patience.saturating_sub(start.elapsed()).min(LOOK);
            let _event = self
                .runtime
                .block_on(async { tokio::time::timeout(left, self.events.recv()).await });
            if self.ended(pid).is_some() {
                return;
            }
        }
        ui.note(format!(
            "the sidecar has not drained after {} s, and is killed",
            patience.as_secs()
        ));
        let _ended_meanwhile = kill(pid, Signal::SIGKILL);
        let pid = rustix::process::Pid::from_raw(pid.as_raw());
        let _taken_up = rustix::process::waitpid(pid, WaitOptions::empty());
    }

    fn reap(&mut self) {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Err(Errno::INTR) => continue,
                // Nobody ended, or nobody is there.
                Ok(None) | Err(_) => return,
            };
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                (None, Some(signal)) => Ended::Killed(signal),
                (None, None) => continue,
            };
            if let Some(ours) = self.ours.get_mut(&pid.as_raw_nonzero().get()) {
                *ours = Some(ended);
            }
        }
    }
}

/// Whether a key of the terminal reaches the command as well: we are in the group that it tells. A first process of a
/// container is told by its engine, also where it has a terminal.
fn the_terminal_tells_all() -> bool {
    getpid().as_raw() != 1 && tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// The signals that were ignored when we were started, a bit each; nothing where /proc does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

async fn pass(mut stream: Stream, signal: Signal, told: mpsc::UnboundedSender<Event>) {
    while stream.recv().await.is_some() && told.send(Event::Signal(signal)).is_ok() {}
}
