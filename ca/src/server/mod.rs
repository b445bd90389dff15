//! The authority as a whole: builds every room from a configuration, serves until it is told to end, and ends within
//! seconds. The sockets exist only once everything behind them is ready.

mod backup;
mod keyring;
mod offline;
mod operations;
mod remains;
mod revocation;
mod told;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::admin::{self, AdminError, AdminSocket};
use crate::audit::{Audit, AuditError, Event};
use crate::authority::AuthorityError;
use crate::config::Config;
use crate::datadir::{DataDir, DataDirError};
use crate::endpoint::{Endpoint, EndpointError};
use crate::keys::KeyError;
use crate::problem::Problem;
use crate::registration::{self, Entries, Entry};
use crate::store::{Sqlite, Store, StoreError};
use crate::workload::{Bound, Shared, SocketError, serve as serve_workloads};
pub use backup::{BackupError, Summary, offline, restore};
use keyring::Keyring;
pub use offline::convert_keys;
use operations::{Operations, Registry, unknown_names};
pub use remains::LostState;
use told::ForEndpoint;

/// The most entries of one change that the audit log names.
const MOST_TOLD: usize = 100;
/// And of their names, in bytes, for each way in which they changed: a record is 64 KiB at the most.
const MOST_NAMES: usize = 16 << 10;
/// How often what has expired is forgotten.
const PURGE: Duration = Duration::from_secs(60);
/// The store, in the data directory.
const STATE: &str = "state.sqlite";
/// Where the audit log's last line is noted, in the data directory.
pub const AUDIT_HEAD: &str = "audit.head";
/// How long what has expired is kept: clocks differ a little.
const KEEP: Duration = Duration::from_secs(60);

/// Why the authority cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file that the user wrote is wrong.
    #[error("{}", list(.0))]
    Files(Vec<Problem>),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The data directory has lost its state.
    #[error(transparent)]
    LostState(#[from] LostState),
    /// A key cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The state cannot be read or written.
    #[error("the state in `{path}`: {source}")]
    Store {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// The data directory belongs to another trust domain.
    #[error("`{path}` holds the trust domain `{held}`, and ca.toml says `{wanted}`")]
    OtherTrustDomain {
        /// The data directory.
        path: PathBuf,
        /// Its trust domain.
        held: String,
        /// The configured one.
        wanted: String,
    },
    /// The authority's certificate cannot be made or used.
    #[error("the authority: {0}")]
    Authority(#[from] AuthorityError),
    /// A socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The administration socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The bundle endpoint cannot be made.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The audit log cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The server broke.
    #[error("the Workload API: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A file is wrong.
    Config,
    /// The machine is not as it must be (permissions, directories, another process).
    User,
    /// We are.
    Us,
}

impl CaError {
    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Files(_) | Self::OtherTrustDomain { .. } => Blame::Config,
            Self::Endpoint(EndpointError::File { .. }) => Blame::Config,
            Self::Endpoint(EndpointError::Listen { .. } | EndpointError::Socket(_)) => Blame::User,
            Self::DataDir(_)
            | Self::LostState(_)
            | Self::Keys(_)
            | Self::Socket(_)
            | Self::Admin(_)
            | Self::Audit(_)
            | Self::Store { .. } => Blame::User,
            Self::Authority(_) | Self::Endpoint(_) | Self::Serve(_) => Blame::Us,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Files(problems) => problems
                .iter()
                .find_map(|problem| problem.hint.clone())
                .unwrap_or_default(),
            Self::DataDir(error) => error.hint(),
            Self::LostState(error) => error.hint().to_owned(),
            Self::Socket(error) => error.hint(),
            Self::Admin(AdminError::Socket(error)) => format!("{}, by `admin_socket`", error.hint()),
            Self::Admin(_) => String::new(),
            Self::Endpoint(error) => error.hint(),
            Self::Audit(error) => error.hint().to_owned(),
            Self::Keys(KeyError::Open { path, .. }) => {
                format!(
                    "if nobody read it: chmod 600 {}; else start a new trust domain",
                    path.display()
                )
            }
            Self::Keys(KeyError::Sealed(_)) => {
                "name the passphrase by `key_passphrase_file` in ca.toml; `hopguard ca keys decrypt` makes it plain".to_owned()
            }
            Self::Keys(KeyError::Plain(_)) => {
                "`hopguard ca keys encrypt` puts every key under the passphrase".to_owned()
            }
            Self::Keys(KeyError::WrongPassphrase(_)) => {
                "give the passphrase that the keys were encrypted with; without it they are lost".to_owned()
            }
            Self::Keys(KeyError::PassphraseFile { hint, .. }) => hint.clone(),
            Self::Keys(KeyError::WeakPassphrase) => {
                "a good one: head -c 32 /dev/urandom | base64".to_owned()
            }
            Self::Keys(KeyError::NoCredential(name)) => {
                format!("in the unit: LoadCredentialEncrypted={name}:/etc/credstore.encrypted/{name}")
            }
            Self::Keys(_) | Self::Store { .. } => {
                "restore `data_dir` from a backup, or give the authority a new one \
                (a new trust root, which every peer must learn)"
                    .to_owned()
            }
            Self::OtherTrustDomain { .. } => "one `data_dir` serves one trust domain for ever".to_owned(),
            Self::Authority(AuthorityError::NotValidNow { .. }) => {
                "check the clock: it is before the authority was made, or was when it was made".to_owned()
            }
            Self::Authority(_) | Self::Serve(_) => "this should not happen: please report it".to_owned(),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An authority whose sockets listen.
pub struct Running {
    shared: Arc<Shared>,
    sockets: Vec<Bound>,
    paths: Vec<PathBuf>,
    endpoint: Vec<String>,
    closing: watch::Sender<bool>,
    store: Arc<Sqlite>,
    audit: Audit,
    _data_dir: DataDir,
}

/// Serves until `shutdown` completes: [`start`] and [`Running::run`] in one.
///
/// # Errors
/// As those.
pub async fn serve(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), CaError> {
    start(config).await?.run(shutdown).await
}

/// Builds everything; when it answers, the sockets listen.
///
/// # Errors
/// When a file is wrong, the data directory or a socket cannot be used, or the root has ended.
pub async fn start(config: Config) -> Result<Running, CaError> {
    let scope = config.scope();
    let entries = entries_of(&config).await?;
    let data_dir = DataDir::open(&config.data_dir)?;
    remains::refuse(data_dir.path())?;
    let store = open_store(&config, data_dir.path()).await?;
    let audit = open_audit(&config, data_dir.path()).await?;
    let keyring = Arc::new(Keyring::open(&config, data_dir.path(), store.clone(), audit.clone()).await?);

    let (closing, closed) = watch::channel(false);
    tracing::info!(entries = entries.len(), file = %config.entries.display(), "entries are in force");
    let (sender, receiver) = watch::channel(Arc::new(entries));
    let (seen, told) = watch::channel(registration::Seen::default());
    let until_closed = |work: Work| tokio::spawn(ending(closed.clone(), work));
    let file = &config.entries;
    until_closed(Box::pin(registration::watch(
        file.clone(),
        scope.clone(),
        sender,
        seen,
    )));
    until_closed(Box::pin(warn_of_unknown_names(file.clone(), receiver.clone())));
    until_closed(Box::pin(tell_of_changes(receiver.clone(), audit.clone())));
    until_closed(Box::pin(purge(store.clone())));
    until_closed(Box::pin(keyring::run(keyring.clone())));
    until_closed(Box::pin(refresh_lists(keyring.clone())));

    let (signer, limits) = (keyring.clone(), config.limits.clone());
    let shared = Shared::new(signer, receiver.clone(), closed.clone(), limits, audit.clone());
    keyring.watch(shared.streams());
    let sockets: Result<Vec<_>, _> = config.sockets.iter().map(Bound::new).collect();
    let sockets = sockets?;
    let endpoint = Endpoint::bind(&config.endpoint, Arc::new(ForEndpoint(keyring.clone()))).await?;
    let admin = AdminSocket::bind(&config.admin_socket)?;
    let registry = Registry {
        file: config.entries.clone(),
        scope,
        entries: receiver,
        seen: told,
        shared: shared.clone(),
        store: store.clone(),
    };
    let operations = Operations::new(keyring, registry, &config, audit.clone());
    tokio::spawn(admin::serve(admin, Arc::new(operations), closed.clone()));
    let places = endpoint.places().to_vec();
    tokio::spawn(endpoint.serve(closed));
    let paths: Vec<PathBuf> = config.sockets.into_iter().map(|socket| socket.path).collect();
    tracing::info!(sockets = ?paths, endpoint = ?places, "the authority is ready: its sockets listen");
    Ok(Running {
        shared,
        sockets,
        paths,
        endpoint: places,
        closing,
        store,
        audit,
        _data_dir: data_dir,
    })
}

impl Running {
    /// The sockets that listen.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Where others fetch the trust bundle and the OpenID documents.
    pub fn endpoint(&self) -> &[String] {
        &self.endpoint
    }

    /// The audit log, to be opened again when its file was moved away.
    pub fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// Serves until `shutdown` completes, ends all streams with Unavailable, and returns within 5 seconds.
    ///
    /// # Errors
    /// When the server breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), CaError> {
        let Self {
            shared,
            sockets,
            closing,
            store,
            audit,
            _data_dir,
            ..
        } = self;
        let mut serving = std::pin::pin!(serve_workloads(shared, sockets));
        let served = tokio::select! {
            served = &mut serving => served,
            () = shutdown => {
                tracing::info!("ending: streams are told to come back later");
                closing.send_replace(true);
                serving.await
            }
        };
        let _ending_all_the_same = audit.record(&Event::new("authority", "ended")).await;
        // Nobody waits for a record any more; a clean end spares the next start the log.
        let _in_time = tokio::time::timeout(Duration::from_secs(1), store.close()).await;
        Ok(served?)
    }
}

/// A long file takes a while, and whoever ends the authority meanwhile is heard.
async fn entries_of(config: &Config) -> Result<Entries, CaError> {
    let (file, scope) = (config.entries.clone(), config.scope());
    let loaded = tokio::task::spawn_blocking(move || registration::load(&file, &scope)).await;
    let failed = |_| vec![Problem::whole(&config.entries, "its reader failed")];
    let entries = loaded.map_err(failed).flatten().map_err(CaError::Files)?;
    registration::warn_of_group(&config.entries);
    if entries.is_empty() && !entries.none_is_meant() {
        let file = config.entries.display();
        tracing::warn!(%file, "the entries file has no entries: nobody gets an identity");
    }
    Ok(entries)
}

/// A user who was deleted must not keep the authority from starting: his entry names nobody, and the log says so.
async fn warn_of_unknown_names(file: PathBuf, mut entries: watch::Receiver<Arc<Entries>>) {
    loop {
        let now = entries.borrow_and_update().clone();
        let named = file.clone();
        // Names may come from the network.
        let looked = tokio::task::spawn_blocking(move || unknown_names(&named, &now)).await;
        for problem in looked.unwrap_or_default() {
            let file = problem.file.display();
            tracing::warn!(%file, line = problem.line, hint = problem.hint.as_deref(), "{}", problem.message);
        }
        if entries.changed().await.is_err() {
            return;
        }
    }
}

/// What goes on beside the sockets, until they are closed.
type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Writes each change of the entries to the audit log: how many came and went, and which.
async fn tell_of_changes(mut entries: watch::Receiver<Arc<Entries>>, audit: Audit) {
    let mut before = entries.borrow_and_update().clone();
    while entries.changed().await.is_ok() {
        let now = entries.borrow_and_update().clone();
        if audit.is_on() {
            let (old, new) = (before, now.clone());
            // Long lists take a while.
            let compared = tokio::task::spawn_blocking(move || change(&old, &new)).await;
            let event = compared.unwrap_or_else(|_| Event::new("entries", "changed"));
            if let Err(error) = audit.record(&event).await {
                tracing::error!(%error, "a change of the entries is missing in the audit log");
            }
        }
        before = now;
    }
}

/// A change of the entries as the audit log has it: all numbers, and as many names as a record has room for.
fn change(before: &Entries, now: &Entries) -> Event {
    let difference = before.difference(now);
    let named = |entries: &mut dyn Iterator<Item = &Entry>| -> Vec<String> {
        let mut room = MOST_NAMES;
        let fits = |name: &String| {
            let left = room.checked_sub(name.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let names = entries.take(MOST_TOLD).map(|entry| entry.id.to_string());
        names.take_while(fits).collect()
    };
    let count = (
        difference.added.len(),
        difference.removed.len(),
        difference.changed.len(),
    );
    Event {
        detail: Some(serde_json::json!({
            "entries": now.len(),
            "count": {"added": count.0, "removed": count.1, "changed": count.2},
            "added": named(&mut difference.added.iter().copied()),
            "removed": named(&mut difference.removed.iter().copied()),
            "changed": named(&mut difference.changed.iter().map(|(_, after)| *after)),
            "reordered": difference.reordered,
        })),
        ..Event::new("entries", "changed")
    }
}

async fn ending(mut closed: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = work => {}
    }
}

async fn open_store(config: &Config, data_dir: &Path) -> Result<Arc<Sqlite>, CaError> {
    let path = data_dir.join(STATE);
    let failed = |source| CaError::Store {
        path: path.clone(),
        source,
    };
    let store = Sqlite::open(&path).await.map_err(failed)?;
    let wanted = config.trust_domain.as_str();
    let held = store.bind(wanted).await.map_err(failed)?;
    if held != wanted {
        let (path, wanted) = (data_dir.to_owned(), wanted.to_owned());
        return Err(CaError::OtherTrustDomain { path, held, wanted });
    }
    Ok(Arc::new(store))
}

/// The log is open, and has taken its first record, before anything is issued.
async fn open_audit(config: &Config, data_dir: &Path) -> Result<Audit, CaError> {
    let Some(target) = config.audit.clone() else {
        tracing::info!("there is no audit log: ca.toml names none by `audit`");
        return Ok(Audit::none());
    };
    let audit = Audit::open(target, data_dir.join(AUDIT_HEAD), config.audit_required)?;
    let started = Event {
        detail: Some(serde_json::json!({
            "trust_domain": config.trust_domain.as_str(),
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
        })),
        ..Event::new("authority", "started")
    };
    audit.record(&started).await?;
    Ok(audit)
}

async fn purge(store: Arc<Sqlite>) {
    let mut timer = tokio::time::interval(PURGE);
    loop {
        timer.tick().await;
        match store.purge(seconds(SystemTime::now() - KEEP)).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "expired records were removed"),
            Err(error) => tracing::error!(%error, "expired records could not be removed"),
        }
    }
}

/// Lists are signed anew before they end, and get rid of what has expired.
async fn refresh_lists(keyring: Arc<Keyring>) {
    let mut timer = tokio::time::interval(PURGE);
    loop {
        timer.tick().await;
        if let Err(error) = keyring.refresh_lists(SystemTime::now()).await {
            tracing::error!(%error, "revocation lists are not up to date");
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, from: usize) -> Entries {
        let one = |at: usize| {
            let path = format!("{at}/{}", "x".repeat(1000));
            format!("[[entry]]\nspiffe_id = \"spiffe://td/{path}\"\nselectors = [\"unix:uid:1\"]\n")
        };
        let text: String = (from..from + count).map(one).collect();
        Entries::parse(Path::new("e"), &text, &registration::Scope::default()).unwrap()
    }

    #[test]
    fn a_change_of_many_long_entries_is_told_by_all_numbers_and_some_names() {
        let event = change(&entries(150, 0), &entries(120, 1000));
        let detail = event.detail.unwrap();
        assert_eq!(
            detail["count"],
            serde_json::json!({"added": 120, "removed": 150, "changed": 0})
        );
        for names in ["added", "removed"] {
            assert_eq!(detail[names].as_array().unwrap().len(), 16, "{names}");
        }
        assert!(detail.to_string().len() < 60 << 10);
    }
}
