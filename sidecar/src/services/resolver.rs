//! Names become addresses, on the control side: declared services and the system's resolver enter, a new table is
//! published whenever the answers change. Workers only read; a name whose look-up fails keeps its last answers, and an
//! answer that would make the table ambiguous leaves the old table in force.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Resolved, Service, ServicesError, Table};

/// Addresses kept of one name; what lies beyond is dropped and reported.
const MAX_ADDRESSES: usize = 256;
/// Look-ups that wait for an answer at once.
const MAX_PARALLEL: usize = 16;

/// What a look-up returns.
pub type LookupFuture = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;
/// How a name is looked up.
pub type Lookup = Arc<dyn Fn(String) -> LookupFuture + Send + Sync>;

/// When names are looked up.
#[derive(Clone, Copy, Debug)]
pub struct ResolverOptions {
    /// Time between two rounds.
    pub interval: Duration,
    /// Shortest time between two rounds that misses cause.
    pub floor: Duration,
    /// Longest that a round waits for one name; a later answer is taken when it comes.
    pub timeout: Duration,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            floor: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        }
    }
}

/// What is wrong with name resolution now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveProblem {
    /// The name, or `None` when the table as a whole could not be built.
    pub host: Option<String>,
    /// What went wrong.
    pub message: String,
}

/// Keeps the table of services up to date.
pub struct Resolver {
    table: ArcSwap<Table>,
    state: Mutex<State>,
    wanted: Notify,
    rounds: watch::Sender<Rounds>,
    published: watch::Sender<u64>,
    permits: Arc<Semaphore>,
    options: ResolverOptions,
    lookup: Lookup,
}

#[derive(Default)]
struct State {
    services: Vec<Service>,
    resolved: Resolved,
    failures: BTreeMap<String, String>,
    conflict: Option<String>,
    /// Names whose look-up has not ended, so that a resolver that hangs costs one thread a name and not one a round.
    busy: BTreeSet<String>,
    round_open: bool,
    forced: bool,
}

#[derive(Clone, Copy, Default)]
struct Rounds {
    count: u64,
    ended: Option<Instant>,
}

impl Resolver {
    /// A resolver over the system's `getaddrinfo` (which reads `/etc/hosts`). The table knows the fixed addresses at
    /// once, names after the first round of [`Resolver::run`].
    ///
    /// # Errors
    /// [`ServicesError`]: the fixed addresses alone are ambiguous.
    pub fn new(services: Vec<Service>, options: ResolverOptions) -> Result<Arc<Self>, ServicesError> {
        Self::with_lookup(services, options, system_lookup())
    }

    /// The same over another look-up.
    ///
    /// # Errors
    /// [`ServicesError`]: the fixed addresses alone are ambiguous.
    pub fn with_lookup(
        services: Vec<Service>,
        options: ResolverOptions,
        lookup: Lookup,
    ) -> Result<Arc<Self>, ServicesError> {
        let table = Table::new(services.clone(), &Resolved::default())?;
        let state = State {
            services,
            ..State::default()
        };
        Ok(Arc::new(Self {
            table: ArcSwap::from_pointee(table),
            state: Mutex::new(state),
            wanted: Notify::new(),
            rounds: watch::Sender::new(Rounds::default()),
            published: watch::Sender::new(0),
            permits: Arc::new(Semaphore::new(MAX_PARALLEL)),
            options,
            lookup,
        }))
    }

    /// Looks names up for ever, on the runtime that polls it: the control side's.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.round().await;
            self.pause().await;
        }
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Counts the tables published; wakes whoever keeps a snapshot of them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Waits until every name has been looked up once, or has had its time.
    pub async fn first_round(&self) {
        let mut rounds = self.rounds.subscribe();
        let _alive = rounds.wait_for(|rounds| rounds.count > 0).await;
    }

    /// Called for an address that the table does not know: looks the names up once more, unless that was done less than
    /// the floor ago, and says whether the address is known then. Any number of callers share one round; the wait is
    /// bounded.
    pub async fn resolve_miss(&self, addr: SocketAddr) -> bool {
        let mut rounds = self.rounds.subscribe();
        let seen = *rounds.borrow_and_update();
        let known = || self.table.load().find(addr).is_some();
        let fresh = seen
            .ended
            .is_some_and(|ended| ended.elapsed() < self.options.floor);
        if known()
            || fresh
            || self
                .lock()
                .services
                .iter()
                .all(|service| service.hosts.is_empty())
        {
            return known();
        }
        self.wanted.notify_one();
        let patience = self.options.timeout.saturating_add(Duration::from_secs(1));
        let _in_time = timeout(patience, rounds.changed()).await;
        known()
    }

    /// Takes another set of services into force; answers for names that stay are kept, and a round starts at once.
    ///
    /// # Errors
    /// [`ServicesError`]: nothing was changed.
    pub fn reconfigure(&self, services: Vec<Service>) -> Result<(), ServicesError> {
        let mut state = self.lock();
        let mut resolved = state.resolved.clone();
        let hosts: BTreeSet<&str> = hosts_of(&services).collect();
        resolved.retain(|host| hosts.contains(host));
        let table = Table::new(services.clone(), &resolved)?;
        state.failures.retain(|host, _| hosts.contains(host.as_str()));
        state.resolved = resolved;
        state.services = services;
        state.conflict = None;
        state.forced = true;
        self.publish(table);
        drop(state);
        self.wanted.notify_one();
        Ok(())
    }

    /// What is wrong now: names that do not resolve, and an answer that would make the table ambiguous.
    pub fn problems(&self) -> Vec<ResolveProblem> {
        let state = self.lock();
        let hosts = state.failures.iter().map(|(host, message)| ResolveProblem {
            host: Some(host.clone()),
            message: message.clone(),
        });
        let conflict = state.conflict.iter().map(|message| ResolveProblem {
            host: None,
            message: message.clone(),
        });
        hosts.chain(conflict).collect()
    }

    /// What the names resolve to now.
    pub fn resolved(&self) -> Resolved {
        self.lock().resolved.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self) {
        let ended = Instant::now();
        let next = ended + self.options.interval;
        loop {
            tokio::select! {
                () = sleep_until(next) => return,
                () = self.wanted.notified() => {
                    // A wish from before the last round's end is fulfilled by that round.
                    let forced = std::mem::take(&mut self.lock().forced);
                    if forced || ended.elapsed() >= self.options.floor {
                        return;
                    }
                }
            }
        }
    }

    async fn round(self: &Arc<Self>) {
        let hosts = self.open_round();
        let tasks: Vec<_> = hosts
            .into_iter()
            .map(|host| tokio::spawn(Arc::clone(self).look_up(host)))
            .collect();
        let deadline = Instant::now() + self.options.timeout;
        for task in tasks {
            let _late = timeout_at(deadline, task).await;
        }
        self.close_round();
        self.rounds.send_modify(|rounds| {
            rounds.count += 1;
            rounds.ended = Some(Instant::now());
        });
    }

    fn open_round(&self) -> Vec<String> {
        let mut state = self.lock();
        state.round_open = true;
        state.forced = false;
        let hosts: BTreeSet<String> = hosts_of(&state.services)
            .filter(|host| !state.busy.contains(*host))
            .map(str::to_owned)
            .collect();
        state.busy.extend(hosts.iter().cloned());
        hosts.into_iter().collect()
    }

    async fn look_up(self: Arc<Self>, host: String) {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let mut looking = tokio::spawn((self.lookup)(host.clone()));
        let first = timeout(self.options.timeout, &mut looking).await;
        let answer = match first {
            Ok(answer) => answer,
            Err(_) => {
                self.store(
                    &host,
                    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer yet")),
                );
                // The thread that the system holds may hang on; the place among the parallel ones is given back.
                drop(permit);
                looking.await
            }
        };
        self.lock().busy.remove(&host);
        self.store(
            &host,
            answer.unwrap_or_else(|_| Err(io::Error::other("the look-up was given up"))),
        );
    }

    fn store(&self, host: &str, answer: io::Result<Vec<IpAddr>>) {
        let mut state = self.lock();
        if !hosts_of(&state.services).any(|known| known == host) {
            return;
        }
        match answer.and_then(usable) {
            Ok((addresses, remark)) => {
                state.resolved.set(host, addresses);
                match remark {
                    None => state.failures.remove(host),
                    Some(remark) => state.failures.insert(host.to_owned(), remark),
                };
            }
            Err(error) => {
                state.failures.insert(
                    host.to_owned(),
                    format!("`{host}` cannot be resolved, its last answers stay: {error}"),
                );
            }
        }
        if !state.round_open {
            self.rebuild(&mut state);
        }
    }

    fn close_round(&self) {
        let mut state = self.lock();
        state.round_open = false;
        self.rebuild(&mut state);
    }

    fn rebuild(&self, state: &mut State) {
        match Table::new(state.services.clone(), &state.resolved) {
            Ok(table) => {
                state.conflict = None;
                self.publish(table);
            }
            Err(error) => {
                let message = format!(
                    "{error}; the table from before stays in force (hint: {})",
                    error.hint()
                );
                if state.conflict.as_deref() != Some(&message) {
                    tracing::warn!(
                        hint = error.hint(),
                        "the answers of DNS make the table of services ambiguous; the old one stays: {error}"
                    );
                }
                state.conflict = Some(message);
            }
        }
    }

    fn publish(&self, table: Table) {
        if !self.table.load().same_as(&table) {
            self.table.store(Arc::new(table));
            self.published.send_modify(|count| *count += 1);
        }
    }
}

fn hosts_of(services: &[Service]) -> impl Iterator<Item = &str> {
    services
        .iter()
        .flat_map(|service| service.hosts.iter().map(String::as_str))
}

/// Keeps the addresses at which a service of the mesh can be. Loopback is not one of them: it is never redirected, and
/// distributions resolve the machine's own name to it.
fn usable(addresses: Vec<IpAddr>) -> io::Result<(Vec<IpAddr>, Option<String>)> {
    let found = addresses.len();
    let mut kept: Vec<IpAddr> = addresses
        .into_iter()
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast())
        .collect();
    if kept.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            if found == 0 {
                "the answer holds no address"
            } else {
                "the answer holds only loopback, unspecified or multicast addresses"
            },
        ));
    }
    kept.sort_unstable();
    kept.dedup();
    let remark = (kept.len() > MAX_ADDRESSES).then(|| {
        format!(
            "the answer holds {} addresses, of which {MAX_ADDRESSES} are used",
            kept.len()
        )
    });
    kept.truncate(MAX_ADDRESSES);
    Ok((kept, remark))
}

fn system_lookup() -> Lookup {
    Arc::new(|host| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|addr| addr.ip()).collect())
        })
    })
}

#[cfg(test)]
mod tests;
