//! What is kept between decisions, because it is the same for many: slices by peer and action, and users as entities. Both
//! are bounded, read without a lock, and belong to one loaded set. What is kept never differs from what is made anew.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use cedar_policy::Entities;
use cedar_policy_core::ast::EntityUIDEntry;
use spiffe::SpiffeId;

use super::entities::{Misfit, Uids};
use super::expr::Uses;
use super::facts::{Principal, User};
use super::index::Slice;
use super::names::Names;

/// The most (peer, action) pairs whose slice is kept, and the most rules in kept slices together. Past them slices are
/// found anew for each decision.
const PAIRS: usize = 4096;
const RULES: usize = 1 << 20;
/// How many users are kept; two that fall on one place replace each other.
const USERS: usize = 256;

/// What is the same for every decision about one peer and action.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) slice: Slice,
    /// What the rules of the slice name, once somebody asks.
    pub(super) names: OnceLock<Names>,
    pub(super) principal: EntityUIDEntry,
    /// Peer, action and service.
    pub(super) entities: Entities,
}

/// Slices found before.
#[derive(Debug, Default)]
pub(super) struct KeptSlices(ArcSwap<Slices>);

#[derive(Clone, Debug, Default)]
struct Slices {
    plaintext: HashMap<usize, Arc<Prepared>>,
    workloads: HashMap<Arc<SpiffeId>, Arc<HashMap<usize, Arc<Prepared>>>>,
    pairs: usize,
    rules: usize,
}

impl KeptSlices {
    /// What is kept for a peer and the action at a place, else what `make` gives.
    pub(super) fn get(
        &self,
        principal: Principal<'_>,
        place: usize,
        make: impl FnOnce() -> Result<Prepared, Misfit>,
    ) -> Result<Arc<Prepared>, Misfit> {
        let kept = self.0.load();
        let of_peer = match principal {
            Principal::Plaintext => Some(&kept.plaintext),
            Principal::Workload(id) => kept.workloads.get(id).map(|of_peer| &**of_peer),
        };
        if let Some(found) = of_peer.and_then(|of_peer| of_peer.get(&place)) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(make()?);
        if kept.pairs < PAIRS && kept.rules + made.slice.len() <= RULES {
            self.0.rcu(|kept| {
                let mut kept = Slices::clone(kept);
                kept.add(principal, place, &made);
                kept
            });
        }
        Ok(made)
    }
}

impl Slices {
    fn add(&mut self, principal: Principal<'_>, place: usize, made: &Arc<Prepared>) {
        let of_peer = match principal {
            Principal::Plaintext => &mut self.plaintext,
            Principal::Workload(id) => Arc::make_mut(self.workloads.entry(Arc::new(id.clone())).or_default()),
        };
        if of_peer.insert(place, Arc::clone(made)).is_none() {
            self.pairs += 1;
            self.rules += made.slice.len();
        }
    }
}

/// A user among the other entities of a decision.
#[derive(Debug)]
pub(super) struct KnownUser {
    prepared: Arc<Prepared>,
    user: User,
    uses: Uses,
    /// As the context names them.
    pub(super) names: Uids,
    pub(super) entities: Entities,
}

/// Users seen lately.
#[derive(Debug)]
pub(super) struct KeptUsers {
    hasher: RandomState,
    slots: Box<[ArcSwapOption<KnownUser>]>,
}

impl Default for KeptUsers {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            slots: (0..USERS).map(|_| ArcSwapOption::empty()).collect(),
        }
    }
}

impl KeptUsers {
    /// The entities of a decision for a user, kept or made. What is kept is used only for a user who is the same in every
    /// field: a hash of what mostly tells users apart finds the place, and decides nothing.
    pub(super) fn get(
        &self,
        prepared: &Arc<Prepared>,
        user: &User,
        uses: Uses,
        make: impl FnOnce() -> Result<(Uids, Entities), Misfit>,
    ) -> Result<Arc<KnownUser>, Misfit> {
        let few = (&user.subject, user.exp, &user.azp);
        let hash = self.hasher.hash_one((Arc::as_ptr(prepared).addr(), few, uses));
        let slot = usize::try_from(hash).unwrap_or_default() % USERS;
        let slot = self.slots.get(slot);
        if let Some(known) = slot.and_then(|slot| slot.load_full())
            && Arc::ptr_eq(&known.prepared, prepared)
            && known.uses == uses
            && known.user == *user
        {
            return Ok(known);
        }
        let (names, entities) = make()?;
        let made = Arc::new(KnownUser {
            prepared: Arc::clone(prepared),
            user: user.clone(),
            uses,
            names,
            entities,
        });
        if let Some(slot) = slot {
            slot.store(Some(Arc::clone(&made)));
        }
        Ok(made)
    }
}
