//! How many connections to applications the streams of all clients may have together: a stream costs its client nothing,
//! and us a file descriptor when the application speaks HTTP/1.1.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One address may hold this part of all slots.
const SHARE: usize = 4;

/// The slots of a process.
#[derive(Clone, Debug)]
pub struct Slots {
    most: usize,
    held: Arc<Mutex<Held>>,
}

/// Who has how many.
#[derive(Debug, Default)]
struct Held {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    of: IpAddr,
    held: Arc<Mutex<Held>>,
}

impl Slots {
    /// At most `most` connections together, and a quarter of them for one address.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            held: Arc::default(),
        }
    }

    /// A slot for a client at `of`; `None`: it, or all together, have as many as they may.
    #[must_use]
    pub fn take(&self, of: IpAddr) -> Option<Slot> {
        let mut held = lock(&self.held);
        let own = held.by.get(&of).copied().unwrap_or_default();
        if held.all >= self.most || own >= (self.most / SHARE).max(1) {
            return None;
        }
        held.all = held.all.saturating_add(1);
        held.by.insert(of, own.saturating_add(1));
        drop(held);
        Some(Slot {
            of,
            held: Arc::clone(&self.held),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.all = held.all.saturating_sub(1);
        if let Some(own) = held.by.get_mut(&self.of) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by.remove(&self.of);
            }
        }
    }
}

/// Held for a few operations, never across a wait.
fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_the_others() {
        let slots = Slots::new(8);
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = std::iter::from_fn(|| slots.take(greedy)).collect();
        assert_eq!(held.len(), 2);
        assert!(slots.take(other).is_some());
        held.pop();
        assert!(slots.take(greedy).is_some(), "what is dropped is free again");
        held.clear();
        let left = lock(&slots.held);
        assert!(
            left.by.is_empty() && left.all == 0,
            "nothing is remembered of who has gone"
        );
    }

    #[test]
    fn all_together_have_no_more_than_there_are() {
        let slots = Slots::new(8);
        let many = (0..=255).map(|host| IpAddr::from([10, 0, 0, host]));
        let held: Vec<_> = many.filter_map(|of| slots.take(of)).collect();
        assert_eq!(held.len(), 8);
    }
}
