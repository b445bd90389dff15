//! Who has a stream open now, and what it may have: for operators who ask whom a change would reach. It decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use spiffe::SpiffeId;

use crate::attest::Peer;

/// One stream of one caller.
#[derive(Clone, Debug)]
pub struct OpenStream {
    /// Who it is.
    pub peer: Peer,
    /// Since when.
    pub since: SystemTime,
    /// What it may have, as it was decided last; the first is its default identity.
    pub ids: Vec<SpiffeId>,
}

/// All streams that are open.
#[derive(Debug, Default)]
pub struct Callers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, OpenStream>,
}

/// The place of one stream; it is given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    callers: Arc<Callers>,
    number: u64,
}

impl Callers {
    /// A stream of this caller begins.
    pub fn enter(self: &Arc<Self>, peer: Peer, now: SystemTime) -> Seat {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        let caller = OpenStream {
            peer,
            since: now,
            ids: Vec::new(),
        };
        state.open.insert(number, caller);
        Seat {
            callers: self.clone(),
            number,
        }
    }

    /// All of them, the eldest first.
    pub fn all(&self) -> Vec<OpenStream> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(u64, OpenStream)> = state
            .open
            .iter()
            .map(|(number, caller)| (*number, caller.clone()))
            .collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, caller)| caller).collect()
    }
}

impl Seat {
    /// What the caller may have now.
    pub fn may_have<'a>(&self, ids: impl Iterator<Item = &'a SpiffeId>) {
        let mut state = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = state.open.get_mut(&self.number) {
            caller.ids = ids.cloned().collect();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_caller_is_told_from_the_beginning_of_its_stream_to_the_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours, "default".into()).unwrap();
        let callers = Arc::new(Callers::default());
        let seats: Vec<Seat> = (0..3)
            .map(|_| callers.enter(peer.clone(), SystemTime::now()))
            .collect();
        let id = SpiffeId::new("spiffe://td/a").unwrap();
        seats[1].may_have([&id].into_iter());
        let had: Vec<usize> = callers.all().iter().map(|caller| caller.ids.len()).collect();
        assert_eq!(had, [0, 1, 0]);
        seats[1].may_have(std::iter::empty());
        assert!(callers.all().iter().all(|caller| caller.ids.is_empty()));
        drop(seats);
        assert!(callers.all().is_empty());
    }
}
