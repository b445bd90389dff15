//! Numbers for what changes, and the word that it did. A number is taken before the change, the word is given after it:
//! who hears of a change finds it in force.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Counts the changes of keys and issuers.
#[derive(Default)]
pub(super) struct Generations {
    last: AtomicU64,
    told: watch::Sender<u64>,
}

impl Generations {
    /// A number larger than any before it.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Says that a change is in force.
    pub(super) fn announce(&self) {
        let now = self.next();
        self.told.send_modify(|told| *told = now.max(*told));
    }

    pub(super) fn latest(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}
