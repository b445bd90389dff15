//! The life of one tunnel, as its streams, its pool and its task see it: counters, why it ended, and until when both SVIDs
//! allow it. Nothing here reads the wall clock or a socket.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why a tunnel ended. Streams that were open in it fail with an [`std::io::Error`] of kind `ConnectionReset` that carries
/// this value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// One of the two SVIDs is about to end.
    #[error("an SVID that the tunnel rests on has ended")]
    Expired,
    /// The peer did not answer a PING.
    #[error("the peer has not answered for too long")]
    Silent,
    /// Under the roots of now the peer would not be accepted.
    #[error("the peer is no longer trusted: {0}")]
    Untrusted(String),
    /// The peer's certificate was revoked.
    #[error("the peer's certificate was revoked")]
    Revoked,
    /// The drain took longer than it may.
    #[error("the drain is over")]
    Drained,
    /// The connection ended, or the peer broke the protocol.
    #[error("{0}")]
    Connection(String),
}

labels!(End {
    Self::Expired => "svid_expired",
    Self::Silent => "peer_silent",
    Self::Untrusted(_) => "peer_untrusted",
    Self::Revoked => "revoked",
    Self::Drained => "drained",
    Self::Connection(_) => "connection_lost",
});

/// When everything in a tunnel of these two SVIDs ends: a little before the first of them does, so that no byte flows on a
/// dead one. The margin is 2 % of what is left, at most 1 s, and at least 250 ms (but not more than a quarter of what is
/// left), because that is what a busy machine may take to run the timer.
pub fn valid_until(own_not_after: SystemTime, peer_not_after: SystemTime, now: SystemTime) -> SystemTime {
    let first = own_not_after.min(peer_not_after);
    let left = first.duration_since(now).unwrap_or_default();
    let margin = left
        .mul_f64(0.02)
        .clamp(Duration::from_millis(250), Duration::from_secs(1))
        .min(left / 4);
    first.checked_sub(margin).unwrap_or(first)
}

/// From when on something that will be cut at `until` is wound down: no new stream begins, and HTTP clients are asked to
/// come again elsewhere. That is the last fifth of the time left, but where SVIDs live for seconds only it is 2 s (never
/// more than half of the time left): each client must have its next answer, which tells it, before the cut.
pub fn winding_down(until: SystemTime, now: SystemTime) -> SystemTime {
    let left = until.duration_since(now).unwrap_or_default();
    let notice = left.mul_f64(0.2).max(LEAST_NOTICE.min(left / 2));
    until.checked_sub(notice).unwrap_or(until)
}

const LEAST_NOTICE: Duration = Duration::from_secs(2);

/// What the parties of a tunnel share.
#[derive(Debug)]
pub struct Life {
    ended: OnceLock<End>,
    /// Reads that brought something.
    heard: Arc<AtomicU64>,
    /// Streams that hold a place in the tunnel.
    active: AtomicUsize,
    /// When the last stream gave its place back, in milliseconds of the tunnel's age.
    idle_since: AtomicU64,
    born: Instant,
    /// Streams whose writer waits for the peer's window.
    blocked: AtomicUsize,
    /// Whether someone doubts that the peer is there.
    doubted: AtomicBool,
    /// Wakes the task to look at `ended` and `doubted`.
    bell: mpsc::Sender<()>,
}

impl Life {
    /// A new tunnel, and the bell that its task listens to.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<()>) {
        // More strokes than one say nothing new: a full channel is a task that will look anyway.
        let (bell, ear) = mpsc::channel(1);
        let life = Self {
            ended: OnceLock::new(),
            heard: Arc::default(),
            active: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            born: Instant::now(),
            blocked: AtomicUsize::new(0),
            doubted: AtomicBool::new(false),
            bell,
        };
        (Arc::new(life), ear)
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Counts the reads that brought something.
    pub fn ear(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heard)
    }

    /// Ends the tunnel; the first reason stays.
    pub(super) fn end(&self, why: End) {
        let _ = self.ended.set(why);
        let _ = self.bell.try_send(());
    }

    /// Asks the task for a PING now.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
        let _ = self.bell.try_send(());
    }

    /// Whether a PING was asked for since the last time.
    pub(super) fn was_doubted(&self) -> bool {
        self.doubted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn ended(&self) -> Option<&End> {
        self.ended.get()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    pub(super) fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    fn age_millis(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long no stream has had a place; nothing while one has.
    pub(super) fn idle(&self) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::Acquire);
        (self.active() == 0).then(|| Duration::from_millis(self.age_millis().saturating_sub(since)))
    }

    /// A place for one stream, when fewer than `limit` are taken.
    pub(super) fn place(self: &Arc<Self>, limit: usize) -> Option<Place> {
        self.active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < limit).then_some(n + 1)
            })
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }
}

/// A stream's place in a tunnel, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Life>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle_since.store(self.0.age_millis(), Ordering::Release);
        }
    }
}

/// While it lives, a stream of the tunnel waits for the peer's window.
#[derive(Debug)]
pub(super) struct Blocked(Arc<Life>);

impl Blocked {
    pub(super) fn new(life: &Arc<Life>) -> Self {
        life.blocked.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(life))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_ends_a_little_before_the_first_svid() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        assert_eq!(valid_until(at(3600), at(7200), now), at(3599));
        assert_eq!(valid_until(at(7200), at(3600), now), at(3599));
        assert_eq!(
            valid_until(at(40), at(3600), now),
            now + Duration::from_millis(39_200)
        );
        assert_eq!(
            valid_until(at(10), at(3600), now),
            now + Duration::from_millis(9750)
        );
        let soon = now + Duration::from_millis(400);
        assert_eq!(valid_until(at(3600), soon, now), now + Duration::from_millis(300));
        assert_eq!(
            valid_until(now - Duration::from_secs(5), at(10), now),
            now - Duration::from_secs(5)
        );
    }

    #[test]
    fn every_client_has_time_to_be_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let notice = |millis: u64| {
            let until = now + Duration::from_millis(millis);
            until
                .duration_since(winding_down(until, now))
                .unwrap()
                .as_millis()
        };
        assert_eq!(notice(3_600_000), 720_000);
        assert_eq!((notice(5000), notice(1000), notice(0)), (2000, 500, 0));
        assert_eq!(
            winding_down(now, now + Duration::from_secs(9)),
            now,
            "what is over is not wound down later"
        );
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let (life, _bell) = Life::new();
        let first = life.place(2).unwrap();
        let second = life.place(2).unwrap();
        assert!(life.place(2).is_none() && life.active() == 2);
        drop(first);
        assert!(life.place(2).is_some());
        drop(second);
        assert_eq!(life.active(), 0);
        assert!(life.place(0).is_none());
    }

    #[test]
    fn the_first_reason_stays() {
        let (life, _bell) = Life::new();
        life.end(End::Expired);
        life.end(End::Silent);
        assert_eq!(life.ended(), Some(&End::Expired));
    }
}
