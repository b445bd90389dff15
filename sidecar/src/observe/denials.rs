//! The latest refusals, for `hopguard explain`: records as they were written enter, with what their decision was made on;
//! one leaves by its id. Bounded in number, bytes and age, in memory only, and never read by a worker. No token and no
//! header that no policy reads ever comes here, because neither is in a record or in a decision's inputs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::authz::{Inputs, Policies};

use super::record::Record;

/// What all together may take, in bytes, about.
const BYTES: usize = 4 << 20;
/// How long one is kept at the most.
const AGE: Duration = Duration::from_secs(3600);
/// How many policy sets that are not in force any more are kept alive, for decisions that they made.
const SETS: usize = 3;

/// What a decision was made on and with.
#[derive(Clone, Debug)]
pub struct Made {
    /// The facts that its policies read.
    pub inputs: Arc<Inputs>,
    /// The policies; a set that was replaced is gone with its last user.
    pub policies: Weak<Policies>,
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Denial {
    /// When it was recorded.
    pub at: SystemTime,
    /// The record, as one line of JSON.
    pub record: Arc<str>,
    /// What the decision was made on; none when no policy was asked.
    pub inputs: Option<Arc<Inputs>>,
    /// The policies that made it, if they are still there.
    pub policies: Option<Arc<Policies>>,
}

/// The latest refusals.
pub struct Denials {
    most: usize,
    bytes: usize,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The sets that made the latest decisions; the newest is last.
    sets: VecDeque<Arc<Policies>>,
}

struct Kept {
    id: Arc<str>,
    at: SystemTime,
    record: Arc<str>,
    made: Option<Made>,
    weight: usize,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// How many there are now.
    pub now: usize,
    /// How many there may be.
    pub most: usize,
    /// How long one is kept at the most.
    pub age: Duration,
}

impl Denials {
    /// Keeps at most so many; none when 0.
    pub fn new(most: usize) -> Self {
        Self::bounded(most, BYTES)
    }

    fn bounded(most: usize, bytes: usize) -> Self {
        Self {
            most,
            bytes,
            ring: Mutex::default(),
        }
    }

    /// Takes one. The lock is held for a few moves only; what costs is done before.
    pub fn keep(&self, record: &Record, made: Option<Made>) {
        if self.most == 0 {
            return;
        }
        let Ok(line) = serde_json::to_string(record) else {
            return;
        };
        let weight = line.len() + made.as_ref().map_or(0, |made| made.inputs.weight()) + 256;
        let kept = Kept {
            id: Arc::from(record.request_id.as_str()),
            at: record.ts,
            record: Arc::from(line),
            weight,
            made,
        };
        let set = kept.made.as_ref().and_then(|made| made.policies.upgrade());
        let mut ring = self.ring();
        if let Some(set) = set {
            ring.hold(set);
        }
        ring.bytes += weight;
        ring.kept.push_back(kept);
        while ring.kept.len() > self.most || ring.bytes > self.bytes || ring.first_is_old(record.ts) {
            ring.forget_first();
        }
    }

    /// The one of this id, unless it is too old at `now`.
    pub fn find(&self, id: &str, now: SystemTime) -> Option<Denial> {
        let mut ring = self.ring();
        while ring.first_is_old(now) {
            ring.forget_first();
        }
        let kept = ring.kept.iter().rev().find(|kept| &*kept.id == id)?;
        Some(Denial {
            at: kept.at,
            record: Arc::clone(&kept.record),
            inputs: kept.made.as_ref().map(|made| Arc::clone(&made.inputs)),
            policies: kept.made.as_ref().and_then(|made| made.policies.upgrade()),
        })
    }

    /// What is kept.
    pub fn keeping(&self) -> Keeping {
        Keeping {
            now: self.ring().kept.len(),
            most: self.most,
            age: AGE,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn hold(&mut self, set: Arc<Policies>) {
        if self.sets.iter().any(|held| Arc::ptr_eq(held, &set)) {
            return;
        }
        self.sets.push_back(set);
        if self.sets.len() > SETS {
            self.sets.pop_front();
        }
    }

    fn first_is_old(&self, now: SystemTime) -> bool {
        let age = |kept: &Kept| now.duration_since(kept.at).unwrap_or_default();
        self.kept.front().is_some_and(|kept| age(kept) > AGE)
    }

    fn forget_first(&mut self) {
        if let Some(gone) = self.kept.pop_front() {
            self.bytes = self.bytes.saturating_sub(gone.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::record::{Direction, Kind, Source};
    use super::*;

    fn record(id: &str, at: u64) -> Record {
        let id = id.to_owned();
        let mut record = Record::new(Kind::Request, Direction::Inbound, id, Source::plain("10.0.0.1:1"));
        record.ts = UNIX_EPOCH + Duration::from_secs(at);
        record
    }

    #[test]
    fn the_latest_are_found_by_their_id() {
        let denials = Denials::new(3);
        let now = UNIX_EPOCH + Duration::from_secs(10);
        for id in ["a", "b", "c", "d"] {
            denials.keep(&record(id, 5), None);
        }
        assert!(denials.find("a", now).is_none(), "one more than may be kept");
        let found = denials.find("d", now).unwrap();
        assert!(found.record.contains("\"request_id\":\"d\""), "{}", found.record);
        assert_eq!(denials.keeping().now, 3);
        assert!(denials.find("", now).is_none());
    }

    #[test]
    fn bytes_and_age_are_bounded_too() {
        let denials = Denials::bounded(1000, 4000);
        (0..100).for_each(|n| denials.keep(&record(&format!("id-{n}"), 5), None));
        let kept = denials.keeping().now;
        assert!((1..20).contains(&kept), "{kept}");
        let late = UNIX_EPOCH + AGE + Duration::from_secs(6);
        assert!(denials.find("id-99", UNIX_EPOCH + AGE).is_some());
        assert!(denials.find("id-99", late).is_none());
        assert_eq!(denials.keeping().now, 0, "what is too old does not stay");
        denials.keep(&record("old", 5), None);
        denials.keep(&record("new", 5 + AGE.as_secs() + 1), None);
        assert_eq!(denials.keeping().now, 1);
        // One that is larger than all may be is not kept at all.
        let tiny = Denials::bounded(10, 10);
        tiny.keep(&record("a", 5), None);
        assert_eq!(tiny.keeping().now, 0);
    }

    #[test]
    fn none_are_kept_where_none_may_be() {
        let denials = Denials::new(0);
        denials.keep(&record("a", 5), None);
        assert!(denials.find("a", UNIX_EPOCH + Duration::from_secs(6)).is_none());
    }

    #[test]
    fn few_sets_are_kept_alive() {
        let denials = Denials::new(100);
        let sets: Vec<Weak<Policies>> = (0..8)
            .map(|_| {
                let set = Arc::new(Policies::deny_all());
                denials.ring().hold(Arc::clone(&set));
                Arc::downgrade(&set)
            })
            .collect();
        let alive = sets.iter().filter(|set| set.upgrade().is_some()).count();
        assert_eq!(alive, SETS);
    }
}
