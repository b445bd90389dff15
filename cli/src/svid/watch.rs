//! `hopguard svid watch`: the SVID of this process in files, for programs that read files. The set is changed whole, and a
//! program is told after it. Without an authority the set stays, and the log says until when it is good.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hopguard_sidecar::identity::{
    self, Fetched, Identity, IdentityError, IdentityState, Pick, WorkloadApiOptions, describe, readable,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::change::{Change, Signal};
use super::fetch::{refused, runtime};
use super::id;
use super::set::{Folder, Set};
use crate::process::start_log;
use crate::ui::{Exit, Failure, Ui};

pub const AFTER_HELP: &str = "\
Examples: hopguard svid watch --write /run/web/svid --signal hup --pid-file /run/nginx.pid
          hopguard svid watch --write /run/web/svid -- systemctl reload postgresql
The folder gets svid.pem, svid.key (mode 0600) and bundle.pem. They change together; nothing is removed when the
authority is away or takes the identity back: the log says until when the set is good.";

/// Before what failed (writing, telling) is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one question of `--once` may take, and when the next one comes.
const ANSWER: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(500);
/// The longest wait between two looks at the clock, which can be set.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Watch {
    /// The Workload API
    #[arg(
        long,
        value_name = "unix:///PATH|tcp://IP:PORT",
        env = "SPIFFE_ENDPOINT_SOCKET"
    )]
    socket: String,
    /// The folder of the files; made if it is not there
    #[arg(long, value_name = "DIR")]
    write: PathBuf,
    /// This identity [default: the first that is offered]
    #[arg(long, value_name = "SPIFFE-ID", conflicts_with = "hint")]
    id: Option<String>,
    /// The first identity with this hint
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
    /// Send this signal after each change to the process of --pid-file
    #[arg(long, value_enum, ignore_case = true, requires = "pid_file")]
    signal: Option<Signal>,
    /// Holds the number of the process that is told; only root or this user may be able to write it
    #[arg(long, value_name = "FILE", requires = "signal")]
    pid_file: Option<PathBuf>,
    /// Write one set, tell of it, and end; an authority that is not there yet is waited for, any other failure is the end
    #[arg(long)]
    once: bool,
    /// What is logged to stderr (tracing's filter syntax)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HOPGUARD_LOG")]
    log: String,
    /// Run this after each change, the first included; no shell is between
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["signal", "pid_file"])]
    on_change: Vec<String>,
}

/// Runs it.
pub fn run(watch: &Watch, ui: &Ui) -> Result<Exit, Failure> {
    let pick = match (&watch.id, &watch.hint) {
        (Some(text), _) => Pick::Id(id(text)?),
        (None, Some(hint)) => Pick::Hint(hint.clone()),
        (None, None) => Pick::First,
    };
    let options = WorkloadApiOptions {
        endpoint: watch.socket.clone(),
        pick,
    };
    let change = match (watch.signal, &watch.pid_file) {
        (Some(signal), Some(file)) => Change::Signal(signal, file.clone()),
        _ if watch.on_change.is_empty() => Change::Nobody,
        _ => Change::Command(watch.on_change.clone()),
    };
    start_log(&watch.log)?;
    let folder = Folder::open(&watch.write).map_err(|problem| {
        Failure::new(problem)
            .hint("name a folder of its own, which only this user can write; `svid watch` makes it")
            .exit(Exit::NotHere)
    })?;
    let keeper = Keeper {
        watch,
        ui,
        folder,
        change,
        held: None,
        unwritten: None,
        untold: None,
        failed: None,
        stage: Stage::Fresh,
    };
    if watch.once {
        runtime()?.block_on(once(options, keeper))
    } else {
        runtime()?.block_on(follow(options, keeper))
    }
}

/// One set: an authority that is not there yet is waited for, and everything else that fails is the end.
async fn once(options: WorkloadApiOptions, mut keeper: Keeper<'_>) -> Result<Exit, Failure> {
    let cannot = |error| Failure::new(format!("signals cannot be handled: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let work = async {
        let identity = first(&options).await?;
        keeper.state(IdentityState::Ready(identity)).await;
        match keeper.failed.take() {
            None => Ok(Exit::Done),
            Some(why) => Err(Failure::new(why)
                .hint("nothing is tried again with --once")
                .exit(Exit::NotHere)),
        }
    };
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => Err(Failure::new("ended before there was a set")),
        _ = interrupt.recv() => Err(Failure::new("ended before there was a set")),
    }
}

/// The identity that is asked for, as soon as somebody answers.
async fn first(options: &WorkloadApiOptions) -> Result<Arc<Identity>, Failure> {
    let offered = loop {
        match identity::fetch(&options.endpoint, ANSWER).await {
            Ok(offered) => break offered,
            Err(error @ (IdentityError::Unreachable { .. } | IdentityError::Silent { .. })) => {
                tracing::warn!(reason = %error, "no SVID yet");
            }
            Err(error) if format!("{error}").contains("answered Unavailable") => {
                tracing::warn!(reason = %error, "no SVID yet");
            }
            Err(error) => return Err(refused(&error)),
        }
        tokio::time::sleep(SOON).await;
    };
    let names: Vec<String> = offered.iter().map(|one| one.identity.id.to_string()).collect();
    let meant = |one: &Fetched| match &options.pick {
        Pick::First => true,
        Pick::Id(id) => one.identity.id == *id,
        Pick::OneOf(ids) => ids.contains(&one.identity.id),
        Pick::Hint(hint) => one.hint == *hint,
    };
    let found = offered.into_iter().find(meant).map(|one| Arc::new(one.identity));
    found.ok_or_else(|| {
        Failure::new("the identity that is asked for is not offered to this process")
            .hint(format!("offered: {}", names.join(", ")))
            .exit(Exit::No)
    })
}

async fn follow(options: WorkloadApiOptions, mut keeper: Keeper<'_>) -> Result<Exit, Failure> {
    let cannot = |error| Failure::new(format!("signals cannot be handled: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let (sender, mut states) = mpsc::unbounded_channel();
    let mut watching = tokio::spawn(identity::watch(options, move |state| drop(sender.send(state))));
    loop {
        let wait = keeper.wait(SystemTime::now());
        tokio::select! {
            Some(state) = states.recv() => keeper.state(state).await,
            () = tokio::time::sleep(wait) => keeper.look(SystemTime::now()).await,
            ended = &mut watching => {
                let error = ended.map_err(|error| Failure::new(format!("watching failed: {error}")))?;
                return Err(refused(&error));
            }
            _ = terminate.recv() => return Ok(Exit::Done),
            _ = interrupt.recv() => return Ok(Exit::Done),
        }
    }
}

/// How much of the life of the set in force was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    /// Past three quarters of its life; half would have been the time for the next.
    Late,
    Ended,
}

struct Keeper<'a> {
    watch: &'a Watch,
    ui: &'a Ui,
    folder: Folder,
    change: Change,
    /// What is in the folder.
    held: Option<Arc<Identity>>,
    /// What should be, and could not be written.
    unwritten: Option<Arc<Identity>>,
    /// When to tell again of the change that could not be told.
    untold: Option<SystemTime>,
    /// Why the last attempt to write or to tell failed.
    failed: Option<String>,
    stage: Stage,
}

impl Keeper<'_> {
    async fn state(&mut self, state: IdentityState) {
        match state {
            IdentityState::Ready(identity) => {
                self.unwritten = Some(identity);
                self.write(SystemTime::now()).await;
            }
            IdentityState::Waiting { reason } => tracing::warn!(reason, "no SVID yet"),
            IdentityState::Lost { reason } => {
                // Its successor has no claim to be written any more.
                self.unwritten = None;
                let until = self
                    .held
                    .as_ref()
                    .map(|held| readable(held.not_after))
                    .unwrap_or_default();
                tracing::error!(
                    reason,
                    until,
                    "the identity is not ours any more; its files stay as they are"
                );
            }
        }
    }

    async fn write(&mut self, now: SystemTime) {
        let Some(identity) = self.unwritten.clone() else {
            return;
        };
        let roots = identity
            .bundles
            .of(identity.id.trust_domain())
            .unwrap_or_default();
        let key = identity.key.pkcs8();
        let set = Set {
            chain: &identity.chain,
            key: key.secret_pkcs8_der(),
            roots,
        };
        if let Err(error) = self.folder.replace(&set, now) {
            let dir = self.watch.write.display();
            self.failed = Some(format!("`{dir}`: the new SVID could not be written: {error}"));
            tracing::error!(%dir, %error, retry = ?AGAIN, "the new SVID could not be written for certain; a whole set stays in force");
            return;
        }
        self.unwritten = None;
        self.held = Some(identity.clone());
        self.stage = Stage::Fresh;
        let said = describe(&identity.chain, now);
        let (id, dir) = (said.spiffe_id.clone(), self.watch.write.display().to_string());
        tracing::info!(%id, serial = said.serial, until = said.not_after, dir, "the files are current");
        self.tell(now).await;
        if self.ui.is_json() {
            let told = self.untold.is_none();
            self.ui.json(&serde_json::json!({"spiffe_id": id, "serial": said.serial, "not_after": said.not_after, "dir": dir, "told": told}));
        } else {
            self.ui.line(format!("{id} until {} in {dir}", said.not_after));
        }
    }

    async fn tell(&mut self, now: SystemTime) {
        let absolute = std::path::absolute(&self.watch.write).unwrap_or_else(|_| self.watch.write.clone());
        self.untold = match self.change.tell(&absolute).await {
            Ok(done) => {
                tracing::info!("{done}");
                None
            }
            Err(error) => {
                self.failed = Some(format!("the change could not be told: {error}"));
                tracing::error!(error, retry = ?AGAIN, "the change could not be told");
                Some(now + AGAIN)
            }
        };
    }

    fn wait(&self, now: SystemTime) -> Duration {
        let again = self.unwritten.as_ref().map(|_| AGAIN);
        let telling = self.untold.map(|at| at.duration_since(now).unwrap_or_default());
        let stage = self
            .next_stage()
            .map(|at| at.duration_since(now).unwrap_or_default());
        [again, telling, stage]
            .into_iter()
            .flatten()
            .fold(CLOCK_CHECK, Duration::min)
    }

    fn next_stage(&self) -> Option<SystemTime> {
        let held = self.held.as_ref()?;
        let life = held.not_after.duration_since(held.not_before).unwrap_or_default();
        match self.stage {
            Stage::Fresh => Some(held.not_after - life / 4),
            Stage::Late => Some(held.not_after),
            Stage::Ended => None,
        }
    }

    /// What the clock brings.
    async fn look(&mut self, now: SystemTime) {
        if self.unwritten.is_some() {
            self.write(now).await;
        } else if self.untold.is_some_and(|at| at <= now) {
            self.tell(now).await;
        }
        if self.next_stage().is_none_or(|at| now < at) {
            return;
        }
        let until = self
            .held
            .as_ref()
            .map(|held| readable(held.not_after))
            .unwrap_or_default();
        let dir = self.watch.write.display();
        if self.stage == Stage::Fresh {
            self.stage = Stage::Late;
            tracing::warn!(until, %dir, "no new SVID came although it is time; the files are good until then");
        } else {
            self.stage = Stage::Ended;
            tracing::error!(until, %dir, "the SVID in the files has ended: peers refuse it");
        }
    }
}
