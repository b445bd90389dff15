//! The keys of one identity provider over time. Good keys enter by a fetch and leave as an immutable [`Held`] that any
//! number of workers read without a lock; a bad answer enters as an error beside them and changes nothing.
//!
//! Fetches happen on the control runtime alone, one at a time, when due or when a token with an unknown `kid` asks; who
//! asks on the data runtime waits for the attempt that is under way and never starts a second one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use hopguard_jose::KeySet;
use tokio::sync::{Notify, watch};

use super::counts::FetchCounts;
use super::endpoint::Endpoint;
use super::error::FetchError;
use super::generations::Generations;
use super::provider::Provider;
use super::unix;

/// The shortest and the longest that keys count as fresh.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(5 * 60)..=Duration::from_secs(24 * 3600);
/// How long keys are used after their last good fetch, in seconds.
pub(super) const MAX_STALE: i64 = 24 * 3600;
/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The least time between two fetches that tokens ask for.
const ASK_FLOOR: Duration = Duration::from_secs(10);
/// How long a `kid` that a fetch did not bring is known to be unknown.
const MISSING_FOR: Duration = Duration::from_secs(30);
/// The most such `kid`s; the oldest is forgotten first.
const MAX_MISSING: usize = 256;
/// The longest sleep, so that a jump of the clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Good keys.
pub(super) struct Held {
    pub(super) keys: KeySet,
    /// Changes when the keys change, and only then.
    pub(super) generation: u64,
    /// Unix seconds of the last good fetch.
    pub(super) fetched_at: i64,
}

/// A provider and its keys.
pub(super) struct KeySource {
    provider: Provider,
    held: ArcSwapOption<Held>,
    generations: Arc<Generations>,
    book: Mutex<Book>,
    /// Somebody asked.
    wake: Notify,
    /// How the latest attempt ended.
    ended: watch::Sender<Ended>,
    pub(super) counts: FetchCounts,
}

/// What the attempts left behind.
#[derive(Default)]
struct Book {
    /// An attempt is under way, or asked for and about to begin.
    busy: bool,
    failures: u32,
    last_error: Option<String>,
    next: Option<SystemTime>,
    /// Where the keys were last found.
    at: Option<Endpoint>,
    asked: Option<SystemTime>,
    missing: VecDeque<(String, SystemTime)>,
}

/// How many attempts have ended, and whether the latest brought keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) attempts: u64,
    pub(super) good: bool,
}

/// Why a fetch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Its time has come: the provider's configuration and its roots are read anew too.
    Due,
    /// A token asks: only the keys are fetched, from where they were.
    Asked,
}

/// A source as its status shows it.
pub(super) struct Report {
    pub(super) last_error: Option<String>,
    pub(super) next: Option<SystemTime>,
}

impl KeySource {
    pub(super) fn new(provider: Provider, generations: Arc<Generations>) -> Self {
        Self {
            provider,
            held: ArcSwapOption::empty(),
            generations,
            book: Mutex::default(),
            wake: Notify::new(),
            ended: watch::Sender::new(Ended::default()),
            counts: FetchCounts::default(),
        }
    }

    /// The keys, unless there are none or they are past their hard limit at `now` (Unix seconds).
    pub(super) fn usable(&self, now: i64) -> Result<Arc<Held>, &'static str> {
        let held = self.held.load_full().ok_or("its keys are not there yet")?;
        if held.stale(now) {
            return Err("its keys are older than 24 h and could not be fetched anew");
        }
        Ok(held)
    }

    /// Whether keys of this generation are still the ones in use at `now`.
    pub(super) fn in_use(&self, generation: u64, now: i64) -> bool {
        self.held
            .load()
            .as_ref()
            .is_some_and(|held| held.generation == generation && !held.stale(now))
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    pub(super) fn report(&self) -> Report {
        let book = self.book();
        Report {
            last_error: book.last_error.clone(),
            next: book.next,
        }
    }

    /// The end of attempts, to be awaited.
    #[cfg(test)]
    pub(super) fn ended(&self) -> watch::Receiver<Ended> {
        self.ended.subscribe()
    }

    /// Asks for newer keys on behalf of a token, and waits, at most for `wait`, until the attempt has ended. Returns
    /// whether it brought keys; at once, and false, when none may be made for this token now.
    pub(super) async fn ask(&self, kid: Option<&str>, now: SystemTime, wait: Duration) -> bool {
        // Before asking, so that an end between the two is not missed.
        let mut ended = self.ended.subscribe();
        let admission = self.book().admit(kid, now);
        match admission {
            Admission::Start => self.wake.notify_one(),
            Admission::Join => {}
            Admission::Refused => return false,
        }
        let changed = tokio::time::timeout(wait, ended.changed()).await;
        matches!(changed, Ok(Ok(()))) && ended.borrow().good
    }

    /// Notes that the newest keys have no such `kid`.
    pub(super) fn missed(&self, kid: &str, now: SystemTime) {
        let mut book = self.book();
        if book.missing.iter().any(|(known, _)| known == kid) {
            return;
        }
        if book.missing.len() >= MAX_MISSING {
            book.missing.pop_front();
        }
        book.missing.push_back((kid.to_owned(), now));
    }

    /// Keeps the keys fresh, for ever.
    pub(super) async fn run(&self) {
        loop {
            let pause = self.book().pause(SystemTime::now());
            let trigger = tokio::select! {
                () = self.wake.notified() => Trigger::Asked,
                () = tokio::time::sleep(pause.min(LONGEST_SLEEP)) => Trigger::Due,
            };
            let now = SystemTime::now();
            if trigger == Trigger::Due && !self.book().pause(now).is_zero() {
                continue;
            }
            self.refresh(trigger, now).await;
        }
    }

    /// One attempt to get keys.
    pub(super) async fn refresh(&self, trigger: Trigger, now: SystemTime) {
        let mut attempt = Attempt::begin(self);
        if trigger == Trigger::Due {
            self.provider.reload_roots();
        }
        let known = self.book().at.clone();
        let fetched = match (trigger, known) {
            (Trigger::Asked, Some(at)) => self.fetch(at).await,
            _ => match self.provider.locate().await {
                Ok(at) => self.fetch(at).await,
                Err(error) => Err(error),
            },
        };
        match fetched {
            Ok((at, keys, lifetime)) => {
                self.take(at, keys, lifetime, now);
                attempt.good = true;
            }
            Err(error) => self.fail(&error, now),
        }
    }

    async fn fetch(&self, at: Endpoint) -> Result<(Endpoint, KeySet, Option<Duration>), FetchError> {
        let (keys, lifetime) = self.provider.keys(&at).await?;
        Ok((at, keys, lifetime))
    }

    /// Puts good keys in use.
    pub(super) fn take(&self, at: Endpoint, keys: KeySet, lifetime: Option<Duration>, now: SystemTime) {
        let same = self.held.load_full().filter(|held| held.keys == keys);
        let generation = match &same {
            Some(held) => held.generation,
            None => self.generations.next(),
        };
        if same.is_none() {
            let kids = keys.kids().collect::<Vec<_>>().join(" ");
            tracing::info!(
                issuer = self.provider.issuer(),
                keys = keys.len(),
                kids,
                generation,
                "issuer keys changed"
            );
        }
        self.held.store(Some(Arc::new(Held {
            keys,
            generation,
            fetched_at: unix(now),
        })));
        if same.is_none() {
            self.generations.announce();
        }
        self.counts.add("ok");
        let mut book = self.book();
        if same.is_none() {
            book.missing.clear();
        }
        if std::mem::take(&mut book.failures) > 0 {
            tracing::info!(issuer = self.provider.issuer(), "issuer keys are fetched again");
        }
        book.last_error = None;
        book.at = Some(at);
        book.next = now.checked_add(until_refresh(lifetime, jitter()));
    }

    /// Notes that an attempt brought nothing; the keys held stay as they are.
    fn fail(&self, error: &FetchError, now: SystemTime) {
        self.counts.add(error.fault.label());
        let (failures, pause) = self.book().fail(error.to_string(), now);
        let issuer = self.provider.issuer();
        let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if failures == 1 {
            let holding = self.held.load().is_some();
            tracing::warn!(issuer, holding, retry_ms, "issuer keys not fetched: {error}");
        } else {
            // The outage was told when it began; status and metrics show that it lasts.
            tracing::debug!(
                issuer,
                failures,
                retry_ms,
                "issuer keys still not fetched: {error}"
            );
        }
    }

    /// Held for a look or a note only, never across a fetch.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn stale(&self, now: i64) -> bool {
        now.saturating_sub(self.fetched_at) > MAX_STALE
    }
}

/// What becomes of a token that asks.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// It starts an attempt.
    Start,
    /// One is under way.
    Join,
    /// None may be made for it now.
    Refused,
}

impl Book {
    fn admit(&mut self, kid: Option<&str>, now: SystemTime) -> Admission {
        // A clock that went back must not hold the floor up.
        let within =
            |since: SystemTime, span: Duration| now.duration_since(since).is_ok_and(|age| age < span);
        self.missing.retain(|(_, since)| within(*since, MISSING_FOR));
        if kid.is_some_and(|kid| self.missing.iter().any(|(known, _)| known == kid)) {
            return Admission::Refused;
        }
        if self.busy {
            return Admission::Join;
        }
        if self.asked.is_some_and(|asked| within(asked, ASK_FLOOR)) {
            return Admission::Refused;
        }
        self.asked = Some(now);
        self.busy = true;
        Admission::Start
    }

    /// The number of failures in a row, and the pause after this one.
    fn fail(&mut self, error: String, now: SystemTime) -> (u32, Duration) {
        self.failures = self.failures.saturating_add(1);
        let pause = backoff(self.failures, jitter());
        self.last_error = Some(error);
        self.next = now.checked_add(pause);
        (self.failures, pause)
    }

    /// How long until the next attempt is due.
    fn pause(&self, now: SystemTime) -> Duration {
        let left = self
            .next
            .and_then(|next| next.duration_since(now).ok())
            .unwrap_or_default();
        // Further off than any TTL: the clock went back.
        if left > *TTL.end() { Duration::ZERO } else { left }
    }
}

/// An attempt under way; however it ends, those who wait for it are told.
struct Attempt<'s> {
    source: &'s KeySource,
    good: bool,
}

impl<'s> Attempt<'s> {
    fn begin(source: &'s KeySource) -> Self {
        source.book().busy = true;
        Self { source, good: false }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.source.book().busy = false;
        self.source.ended.send_modify(|ended| {
            *ended = Ended {
                attempts: ended.attempts + 1,
                good: self.good,
            }
        });
    }
}

/// When keys that may be kept for `lifetime` are fetched anew: at 75 to 80 % of it (`jitter` from 0 to 1 says where), so
/// that the sidecars of a mesh do not all come at once.
fn until_refresh(lifetime: Option<Duration>, jitter: f64) -> Duration {
    let ttl = lifetime.unwrap_or(*TTL.start()).clamp(*TTL.start(), *TTL.end());
    ttl.mul_f64(0.75 + 0.05 * jitter)
}

/// The pause after so many failures in a row: 1 s, doubled each time up to 60 s, less up to a quarter of it.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF.1).mul_f64(1.0 - 0.25 * jitter)
}

/// A number from 0 to 1.
fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing else depends on it.
    let _dull = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_comes_before_the_keys_are_old() {
        let secs = Duration::from_secs;
        assert_eq!(until_refresh(Some(secs(1000)), 1.0), secs(800));
        assert_eq!(until_refresh(Some(secs(1000)), 0.0), secs(750));
        assert_eq!(
            until_refresh(None, 1.0),
            secs(240),
            "without a word, as short as allowed"
        );
        assert_eq!(until_refresh(Some(secs(0)), 1.0), secs(240), "never more often");
        assert_eq!(
            until_refresh(Some(Duration::MAX), 1.0),
            secs(24 * 3600 * 8 / 10),
            "never more rarely"
        );
    }

    #[test]
    fn failures_are_retried_ever_more_rarely() {
        let pauses: Vec<u64> = (1..=9).map(|failures| backoff(failures, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(1, 1.0), Duration::from_millis(750));
        assert_eq!(backoff(u32::MAX, 0.0), Duration::from_secs(60));
        assert!(
            (0..100)
                .map(|_| jitter())
                .all(|jitter| (0.0..=1.0).contains(&jitter))
        );
    }

    #[test]
    fn one_asks_and_the_others_join() {
        let now = SystemTime::now();
        let mut book = Book::default();
        assert_eq!(book.admit(Some("k"), now), Admission::Start);
        assert!(
            book.busy,
            "from the asking on, not from the beginning of the fetch"
        );
        assert_eq!(book.admit(Some("k"), now), Admission::Join);
        book.busy = false;
        assert_eq!(
            book.admit(Some("other"), now + ASK_FLOOR - Duration::from_millis(1)),
            Admission::Refused
        );
        assert!(!book.busy);
        assert_eq!(book.admit(Some("other"), now + ASK_FLOOR), Admission::Start);
        book.busy = false;
        assert_eq!(
            book.admit(None, now - Duration::from_secs(3600)),
            Admission::Start,
            "the clock went back"
        );
    }

    #[test]
    fn a_missing_kid_asks_again_after_a_while_only() {
        let now = SystemTime::now();
        let mut book = Book::default();
        book.missing.push_back(("k".to_owned(), now));
        let later = now + MISSING_FOR - Duration::from_secs(1);
        assert_eq!(book.admit(Some("k"), later), Admission::Refused);
        assert_eq!(book.admit(Some("other"), later), Admission::Start);
        assert_eq!(
            book.admit(Some("k"), later),
            Admission::Refused,
            "nor does it wait for others"
        );
        book.busy = false;
        assert_eq!(book.admit(Some("k"), later + ASK_FLOOR), Admission::Start);
        assert!(book.missing.is_empty(), "what has run out is forgotten");
    }

    #[test]
    fn a_jump_of_the_clock_does_not_stop_the_refresh() {
        let now = SystemTime::now();
        let mut book = Book::default();
        assert_eq!(book.pause(now), Duration::ZERO, "at first at once");
        book.next = Some(now + Duration::from_secs(240));
        assert_eq!(book.pause(now), Duration::from_secs(240));
        assert_eq!(book.pause(now + Duration::from_secs(241)), Duration::ZERO);
        assert_eq!(
            book.pause(now - Duration::from_secs(48 * 3600)),
            Duration::ZERO,
            "it went back two days"
        );
    }
}
