//! Processes that this one started or inherited: signals come in and are passed on, ends are taken up. No process that
//! ended is left behind, also none that was not ours to begin with (the first process of a container inherits them).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
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
    /// By a signal.
    Killed(Signal),
}

impl Ended {
    /// As shells say it.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(u8::MAX)),
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
    ended: HashMap<i32, Ended>,
    told: Option<Signal>,
    /// Whether a terminal sends its signals to the command as well.
    terminal: bool,
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
        for one in PASSED_ON {
            let stream = signal(SignalKind::from_raw(one as i32)).map_err(cannot)?;
            runtime.spawn(pass(stream, one, sender.clone()));
        }
        drop(entered);
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
        Ok(Self {
            runtime,
            events,
            ended: HashMap::new(),
            told: None,
            terminal,
        })
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
        self.ended.get(&pid.as_raw()).copied()
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
            // The terminal has sent these to the whole group already.
            let heard = self.terminal && matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
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
        let _taken_up = waitpid(pid, None);
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    let code = u8::try_from(code & 0xff).unwrap_or(u8::MAX);
                    self.ended.insert(pid.as_raw(), Ended::Exited(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended.insert(pid.as_raw(), Ended::Killed(signal));
                }
                Err(Errno::EINTR) => {}
                // Nobody ended, or nobody is there.
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

async fn pass(mut stream: Stream, signal: Signal, told: mpsc::UnboundedSender<Event>) {
    while stream.recv().await.is_some() && told.send(Event::Signal(signal)).is_ok() {}
}
