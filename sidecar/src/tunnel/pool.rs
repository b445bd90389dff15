//! The tunnels that are open, by own identity, address and expected IDs. A [`Target`] enters, an open stream leaves,
//! through a tunnel that is there or through a new one. For each key at most one connect is on its way, whoever waits for
//! it has his own deadline, and keys never wait for each other. It never hands out a tunnel of another identity.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::TunnelError;
use super::connect::{Miss, Tunnel, connect};
use super::life::{End, Life, Place, winding_down};
use super::stream::TunnelStream;
use crate::dial::DialOptions;
use crate::tls::{MeshTls, Peer, Session};

/// More tunnels than this for one key are no load but a fault.
const MAX_TUNNELS: usize = 256;
/// With this many writers waiting for the peer's window, a tunnel carries bulk, and new streams get another one, as long
/// as there are fewer than [`SPREAD`].
const BULKY: usize = 4;
const SPREAD: usize = 4;

/// How tunnels are made and kept.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Mark and time limit of a connect; the limit is also that of a whole [`Pool::open`].
    pub dial: DialOptions,
    /// A tunnel takes new streams for this long.
    pub max_age: Duration,
    /// Streams at once in one tunnel; the peer may allow fewer.
    pub streams_per_tunnel: usize,
    /// A tunnel without streams is closed after this long.
    pub idle: Duration,
}

/// Where a stream should lead.
#[derive(Clone, Debug)]
pub struct Target {
    /// The peer's HBONE port.
    pub tunnel_addr: SocketAddr,
    /// What the peer shall connect it to: `:authority`.
    pub authority: SocketAddr,
    /// The IDs of which the peer must prove one.
    pub expected: Arc<[SpiffeId]>,
    /// Further headers of the CONNECT, such as `traceparent`.
    pub headers: Vec<(&'static str, String)>,
}

/// A stream that the peer accepted.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub stream: TunnelStream,
    /// Who accepted it.
    pub peer: Arc<Peer>,
    /// The TLS facts of the tunnel.
    pub session: Arc<Session>,
    /// Whether the tunnel was there before.
    pub reused: bool,
    /// When the tunnel and everything in it is cut.
    pub valid_until: SystemTime,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// An empty pool.
    pub fn new(options: PoolOptions) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared::new(options)),
        })
    }

    /// Opens a stream to `target` in the name of `tls`, within `dial.timeout`. A stream that the peer cannot have processed
    /// is tried once more, in a newer tunnel.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn open(
        &self,
        tls: &Arc<MeshTls>,
        target: &Target,
        now: SystemTime,
    ) -> Result<Opened, TunnelError> {
        if tls.identity().not_after <= now {
            return Err(TunnelError::OwnExpired);
        }
        self.adopt(tls, now);
        let limit = self.shared.options.dial.timeout;
        timeout(limit, self.shared.open(tls, target, now))
            .await
            .unwrap_or(Err(TunnelError::TimedOut {
                addr: target.tunnel_addr,
            }))
    }

    /// Takes note of a new own identity or of new bundles: tunnels of earlier ones get no new streams, and those whose peer
    /// is not trusted any more are cut. [`Self::open`] does this too, but only once somebody opens something.
    pub fn adopt(&self, tls: &Arc<MeshTls>, now: SystemTime) {
        self.shared.adopt(tls, now);
    }

    /// No tunnel takes a new stream any more; each closes when its last stream has ended.
    pub fn retire_all(&self) {
        let retired = std::mem::take(&mut *self.shared.lock());
        drop(retired);
    }

    /// Tunnels that take new streams, and streams open in them.
    pub fn usage(&self) -> (usize, usize) {
        let entries = self.shared.lock();
        let tunnels = entries.values().flat_map(|entry| &entry.tunnels);
        tunnels.fold((0, 0), |(tunnels, streams), kept| {
            (tunnels + 1, streams + kept.tunnel.life.active())
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Of the [`MeshTls`]: SVID, key and bundles.
    generation: u64,
    addr: SocketAddr,
    expected: Arc<[SpiffeId]>,
}

#[derive(Debug, Default)]
struct Entry {
    tunnels: Vec<Kept>,
    connecting: Option<watch::Receiver<Option<Outcome>>>,
}

type Outcome = Result<(), TunnelError>;

#[derive(Clone, Debug)]
struct Kept {
    /// Larger than that of any tunnel made before.
    id: u64,
    tunnel: Arc<Tunnel>,
    no_new_after: SystemTime,
}

/// A tunnel with a place in it for one stream.
struct Lease {
    kept: Kept,
    place: Place,
    reused: bool,
}

/// What the pool can do for someone who wants a stream.
enum Step {
    Lease(Kept, Place),
    Wait {
        outcome: watch::Receiver<Option<Outcome>>,
        started: bool,
        spreading: bool,
    },
    Full,
}

/// One connect that is on its way.
struct Attempt {
    id: u64,
    key: Key,
    tls: Arc<MeshTls>,
    now: SystemTime,
}

#[derive(Debug)]
struct Shared {
    options: PoolOptions,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Every tunnel that lives, also those that take no new streams.
    living: Mutex<Vec<Living>>,
    newest: Mutex<Option<Arc<MeshTls>>>,
    newest_generation: AtomicU64,
    ids: AtomicU64,
}

#[derive(Debug)]
struct Living {
    life: Weak<Life>,
    chain: Vec<CertificateDer<'static>>,
}

impl Shared {
    fn new(options: PoolOptions) -> Self {
        Self {
            options,
            entries: Mutex::default(),
            living: Mutex::default(),
            newest: Mutex::default(),
            newest_generation: AtomicU64::new(0),
            ids: AtomicU64::new(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(
        self: &Arc<Self>,
        tls: &Arc<MeshTls>,
        target: &Target,
        now: SystemTime,
    ) -> Result<Opened, TunnelError> {
        let generation = tls.generation();
        let key = Key {
            generation,
            addr: target.tunnel_addr,
            expected: Arc::clone(&target.expected),
        };
        let first = self.lease(&key, tls, now, 0).await?;
        let first_id = first.kept.id;
        match self.open_in(first, target).await {
            Ok(opened) => return Ok(opened),
            Err(Miss::Final(error)) => return Err(error),
            Err(Miss::Dead(error)) => {
                tracing::debug!(%error, "tunnel given up, trying a new one");
                self.discard(&key, first_id);
            }
            Err(Miss::Full(_)) => {}
        }
        let second = self.lease(&key, tls, now, first_id).await?;
        self.open_in(second, target).await.map_err(Miss::into_error)
    }

    async fn open_in(&self, lease: Lease, target: &Target) -> Result<Opened, Miss> {
        let Lease { kept, place, reused } = lease;
        let patience = reused.then(|| self.options.dial.timeout / 10);
        let stream = kept.tunnel.open(target, place, patience).await?;
        let (peer, session) = (Arc::clone(&kept.tunnel.peer), Arc::clone(&kept.tunnel.session));
        Ok(Opened {
            stream,
            peer,
            session,
            reused,
            valid_until: kept.tunnel.valid_until,
        })
    }

    /// A place in a tunnel made after the tunnel `newer_than`.
    async fn lease(
        self: &Arc<Self>,
        key: &Key,
        tls: &Arc<MeshTls>,
        now: SystemTime,
        newer_than: u64,
    ) -> Result<Lease, TunnelError> {
        let (mut reused, mut may_spread, mut second_chance) = (true, true, true);
        loop {
            let (mut outcome, started, spreading) = match self.step(key, tls, now, (newer_than, may_spread)) {
                Step::Lease(kept, place) => return Ok(Lease { kept, place, reused }),
                Step::Full => return Err(TunnelError::Full { addr: key.addr }),
                Step::Wait {
                    outcome,
                    started,
                    spreading,
                } => (outcome, started, spreading),
            };
            reused = false;
            let ended = outcome
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|outcome| outcome.clone());
            match ended.unwrap_or_else(|| self.forget_attempt(key)) {
                Ok(()) => {}
                // There are tunnels, only busy ones: better those than none.
                Err(_) if spreading && may_spread => may_spread = false,
                // The attempt was older than the question: its failure may be, too.
                Err(_) if !started && second_chance => second_chance = false,
                Err(error) => return Err(error),
            }
        }
    }

    /// One look at the pool, without waiting.
    fn step(
        self: &Arc<Self>,
        key: &Key,
        tls: &Arc<MeshTls>,
        now: SystemTime,
        (newer_than, may_spread): (u64, bool),
    ) -> Step {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        entry
            .tunnels
            .retain(|kept| now < kept.no_new_after && kept.tunnel.life.ended().is_none());
        let own_limit = self.options.streams_per_tunnel;
        let usable = || entry.tunnels.iter().filter(|kept| kept.id > newer_than);
        let place = |kept: &Kept| {
            Some((
                kept.clone(),
                kept.tunnel.life.place(kept.tunnel.limit(own_limit))?,
            ))
        };
        let calm = usable()
            .filter(|kept| kept.tunnel.life.blocked() < BULKY)
            .find_map(place);
        if let Some((kept, place)) = calm {
            return Step::Lease(kept, place);
        }
        let spreading = usable().next().is_some();
        if (!may_spread || entry.tunnels.len() >= SPREAD)
            && let Some((kept, place)) = usable().find_map(place)
        {
            return Step::Lease(kept, place);
        }
        if let Some(outcome) = &entry.connecting {
            return Step::Wait {
                outcome: outcome.clone(),
                started: false,
                spreading,
            };
        }
        // A peer that allows no streams would be connected to for ever.
        if entry.tunnels.len() >= MAX_TUNNELS || usable().any(|kept| kept.tunnel.limit(own_limit) == 0) {
            return Step::Full;
        }
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let outcome = self.start(Attempt {
            id,
            key: key.clone(),
            tls: Arc::clone(tls),
            now,
        });
        entry.connecting = Some(outcome.clone());
        Step::Wait {
            outcome,
            started: true,
            spreading,
        }
    }

    /// Starts a connect whose end nobody's impatience can change.
    fn start(self: &Arc<Self>, attempt: Attempt) -> watch::Receiver<Option<Outcome>> {
        let (report, outcome) = watch::channel(None);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let Attempt { key, tls, now, .. } = &attempt;
            let dial = &shared.options.dial;
            let made = timeout(dial.timeout, connect(tls, key.addr, &key.expected, dial, *now))
                .await
                .unwrap_or(Err(TunnelError::TimedOut { addr: key.addr }));
            let outcome = shared.made(&attempt, made);
            let _ = report.send(Some(outcome));
        });
        outcome
    }

    /// Puts a new tunnel in, or clears the way for the next attempt.
    fn made(self: &Arc<Self>, attempt: &Attempt, made: Result<Tunnel, TunnelError>) -> Outcome {
        let Attempt { id, key, tls, now } = attempt;
        let tunnel = match made {
            Ok(tunnel) => Arc::new(tunnel),
            Err(error) => {
                drop(self.forget_attempt(key));
                return Err(error);
            }
        };
        self.watch_over(&tunnel, tls, *now);
        let no_new_after = no_new_after(tunnel.valid_until, self.options.max_age, *now);
        tokio::spawn(keep(
            Arc::downgrade(self),
            key.clone(),
            *id,
            Arc::downgrade(&tunnel.life),
        ));
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_default();
        entry.connecting = None;
        entry.tunnels.push(Kept {
            id: *id,
            tunnel,
            no_new_after,
        });
        Ok(())
    }

    fn forget_attempt(&self, key: &Key) -> Outcome {
        if let Slot::Occupied(mut slot) = self.lock().entry(key.clone()) {
            slot.get_mut().connecting = None;
            if slot.get().tunnels.is_empty() {
                slot.remove();
            }
        }
        Err(TunnelError::Lost {
            addr: key.addr,
            detail: "the attempt was abandoned".into(),
        })
    }

    /// No new streams in this tunnel; those in it go on.
    fn discard(&self, key: &Key, id: u64) {
        if let Slot::Occupied(mut slot) = self.lock().entry(key.clone()) {
            slot.get_mut().tunnels.retain(|kept| kept.id != id);
            if slot.get().tunnels.is_empty() && slot.get().connecting.is_none() {
                slot.remove();
            }
        }
    }

    /// Registers a tunnel for later rechecks, and does one now if the identity changed while it was made.
    fn watch_over(&self, tunnel: &Arc<Tunnel>, tls: &Arc<MeshTls>, now: SystemTime) {
        let living = Living {
            life: Arc::downgrade(&tunnel.life),
            chain: tunnel.chain.clone(),
        };
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = newest
            .as_ref()
            .filter(|newest| newest.generation() > tls.generation())
        {
            living.recheck(newest, now);
        }
        let mut all = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|living| living.life.strong_count() > 0);
        all.push(living);
    }

    fn adopt(&self, tls: &Arc<MeshTls>, now: SystemTime) {
        let generation = tls.generation();
        if self.newest_generation.fetch_max(generation, Ordering::AcqRel) >= generation {
            return;
        }
        // Held until the end, so that a tunnel that is just being made is rechecked by one of the two.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest
            .as_ref()
            .is_some_and(|newest| newest.generation() >= generation)
        {
            return;
        }
        *newest = Some(Arc::clone(tls));
        let mut retired = Vec::new();
        self.lock().retain(|key, entry| {
            let stays = key.generation >= generation;
            if !stays {
                retired.append(&mut entry.tunnels);
            }
            stays
        });
        let mut all = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|living| living.recheck(tls, now));
    }
}

impl Living {
    /// Whether the tunnel lives on.
    fn recheck(&self, tls: &MeshTls, now: SystemTime) -> bool {
        // One that has ended by itself may still be held by the pool.
        let Some(life) = self.life.upgrade().filter(|life| life.ended().is_none()) else {
            return false;
        };
        match tls.recheck_server(&self.chain, now) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "tunnel cut: its peer is no longer trusted");
                life.end(End::Untrusted(error.to_string()));
                false
            }
        }
    }
}

/// Until when a tunnel takes new streams: its age, and the time at which it is wound down, so that a stream is not cut soon
/// after it was opened.
fn no_new_after(valid_until: SystemTime, max_age: Duration, now: SystemTime) -> SystemTime {
    let winding_down = winding_down(valid_until, now);
    now.checked_add(max_age)
        .map_or(winding_down, |old| old.min(winding_down))
}

/// Takes a tunnel out of the pool when it has been without streams for long, or is too old: with the last handle it closes.
async fn keep(pool: Weak<Shared>, key: Key, id: u64, life: Weak<Life>) {
    loop {
        let Some((idle, max_age)) = pool
            .upgrade()
            .map(|pool| (pool.options.idle, pool.options.max_age))
        else {
            return;
        };
        let tick = (idle.min(max_age) / 2).clamp(Duration::from_millis(10), Duration::from_secs(10));
        sleep(tick).await;
        let (Some(pool), Some(life)) = (pool.upgrade(), life.upgrade()) else {
            return;
        };
        let over = life.ended().is_some() || life.idle().is_some_and(|since| since >= idle);
        let now = SystemTime::now();
        let old = || {
            let entries = pool.lock();
            let kept = entries
                .get(&key)
                .and_then(|entry| entry.tunnels.iter().find(|kept| kept.id == id));
            kept.is_none_or(|kept| kept.no_new_after <= now)
        };
        if over || old() {
            return pool.discard(&key, id);
        }
    }
}
