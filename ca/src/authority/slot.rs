//! When authorities change places: the slots of one kind of key, a policy and what is known about workloads enter, the
//! next step leaves, or what it waits for. Pure: no clock, no store, no key.
//!
//! ```text
//!  prepared   in the bundle, signs nothing   -> active as soon as everybody who may meet its signatures was sent it
//!  active     signs, one of a kind           -> retired when the next one is active
//!  retired    in the bundle, signs no more   -> removed as soon as nothing that it signed is alive
//! ```
//! So the bundle never lacks an authority whose signature somebody may show, and nobody shows a signature whose authority
//! somebody else was not sent. `docs/ca.md`, "Rotation", says the same to operators.

use std::collections::BTreeMap;

/// What an authority is used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Published, signs nothing.
    Prepared,
    /// Signs.
    Active,
    /// Published, signs no more.
    Retired,
}

/// One authority. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub id: String,
    /// What it is used for.
    pub place: Place,
    /// Since when it is in the bundle; 0 when it is not yet.
    pub published: i64,
    /// Last second of its validity.
    pub not_after: i64,
    /// An operator prepared it and wants to activate it himself; the end of the active one overrules him.
    pub held: bool,
    /// Its successor can be made here: it is no intermediate that somebody else signed.
    pub own: bool,
}

/// What holds for one kind. Lengths are seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Life of a new authority.
    pub life: i64,
    /// Life of what it signs.
    pub signed_life: i64,
    /// Life of an X.509-SVID: no stream is waited for longer than this.
    pub patience: i64,
    /// Three refresh hints: by then everybody who polls has come back (S-63).
    pub polls: i64,
    /// Nothing may be signed past its end (X.509); of a JWT key only we know the end.
    pub strict_end: bool,
}

/// So long before the end of an X.509 authority the next one takes over whatever it waits for: what the old one could still
/// sign would end before it was of use.
const LAST_MOMENT: i64 = 10;

impl Policy {
    /// How long before the end of the active one the next one is prepared: a sixth of a life, at least twice the time that
    /// activation may have to wait for, at most half of a life.
    pub fn lead(&self) -> i64 {
        let wait = self.signed_life.max(self.patience).max(self.polls);
        (self.life / 6).max(wait * 2).min(self.life / 2)
    }

    fn last_moment(&self) -> i64 {
        LAST_MOMENT.min(self.signed_life / 2)
    }
}

/// Something alive: how much of it, and when the last of it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// How many.
    pub count: u64,
    /// When the last one ends.
    pub until: i64,
}

/// What is known about those who could be hurt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Now.
    pub now: i64,
    /// SVIDs alive that were not sent together with the prepared authority, nor followed by it on the same stream.
    pub unaware: Alive,
    /// Streams of bundles alone that were not sent it yet.
    pub unread: u64,
    /// What each authority signed and is alive.
    pub signed: BTreeMap<String, Alive>,
    /// Authorities that some request is signing with at this moment.
    pub signing: Vec<String>,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a new authority.
    Prepare,
    /// Put it into the bundle.
    Publish(String),
    /// Let it sign, and retire the one before.
    Activate(String),
    /// Take it out of the bundle, and throw its key away.
    Remove(String),
}

/// Why a step waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not in the bundle yet.
    Unpublished,
    /// SVIDs are alive whose holders were not sent the new authority.
    Unaware(Alive),
    /// Streams of bundles were not sent it.
    Unread {
        /// How many.
        streams: u64,
        /// No longer than until then.
        until: i64,
    },
    /// Those who poll the bundle may not have come back yet.
    Polls {
        /// When they have.
        until: i64,
    },
    /// What it signed is alive.
    Signed(Alive),
    /// It is signing right now.
    Signing,
    /// An operator prepared it and holds it back.
    Held,
}

impl Reason {
    /// When it no longer holds at the latest, where that is known.
    pub fn until(&self) -> Option<i64> {
        match self {
            Self::Unaware(alive) | Self::Signed(alive) => Some(alive.until + 1),
            Self::Unread { until, .. } | Self::Polls { until } => Some(*until),
            Self::Unpublished | Self::Signing | Self::Held => None,
        }
    }
}

/// The next step of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Do it now.
    Do(Step),
    /// It would break somebody now.
    Wait {
        /// What is waited with.
        step: Step,
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
    /// Nothing, before the next one is prepared then; `None` when that must come from somebody else.
    Rest {
        /// When to prepare.
        prepare_at: Option<i64>,
    },
}

/// The next step by itself.
pub fn next(slots: &[Slot], policy: &Policy, facts: &Facts) -> Next {
    if let Some(new) = slots.iter().find(|slot| slot.published == 0) {
        return Next::Do(Step::Publish(new.id.clone()));
    }
    let retired = || slots.iter().filter(|slot| slot.place == Place::Retired);
    if let Some(done) = retired().find(|slot| why_not_remove(slot, policy, facts).is_empty()) {
        return Next::Do(Step::Remove(done.id.clone()));
    }
    let active = active(slots);
    let due = active.is_none_or(|active| active.not_after - facts.now < policy.lead());
    if let Some(prepared) = prepared(slots) {
        let step = Step::Activate(prepared.id.clone());
        let mut reasons = why_not_activate(slots, policy, facts);
        if prepared.held && !due {
            reasons.push(Reason::Held);
        }
        return if reasons.is_empty() {
            Next::Do(step)
        } else {
            Next::Wait { step, reasons }
        };
    }
    if due && active.is_none_or(|active| active.own) {
        return Next::Do(Step::Prepare);
    }
    if let Some(old) = retired().next() {
        return Next::Wait {
            step: Step::Remove(old.id.clone()),
            reasons: why_not_remove(old, policy, facts),
        };
    }
    Next::Rest {
        prepare_at: active
            .filter(|active| active.own)
            .map(|active| active.not_after - policy.lead() + 1),
    }
}

/// The one that signs.
pub fn active(slots: &[Slot]) -> Option<&Slot> {
    slots.iter().rfind(|slot| slot.place == Place::Active)
}

/// The one that is to sign next.
pub fn prepared(slots: &[Slot]) -> Option<&Slot> {
    slots.iter().rfind(|slot| slot.place == Place::Prepared)
}

/// Whom it would hurt to let the prepared one sign now; empty when nobody.
pub fn why_not_activate(slots: &[Slot], policy: &Policy, facts: &Facts) -> Vec<Reason> {
    let Some(prepared) = prepared(slots) else {
        return Vec::new();
    };
    if prepared.published == 0 {
        return vec![Reason::Unpublished];
    }
    // Without one that signs, or with one at its very end, waiting helps nobody: what is alive ends with it.
    let left = active(slots).map(|active| active.not_after - facts.now);
    if left.is_none_or(|left| policy.strict_end && left <= policy.last_moment()) {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if facts.unaware.count > 0 {
        reasons.push(Reason::Unaware(facts.unaware));
    }
    // A client that reads nothing for a whole life of an SVID has none left, and is not waited for.
    let until = prepared.published + policy.patience + 1;
    if facts.unread > 0 && facts.now < until {
        let streams = facts.unread;
        reasons.push(Reason::Unread { streams, until });
    }
    // One more than the whole second in which it was published.
    let until = prepared.published + policy.polls + 1;
    if facts.now < until {
        reasons.push(Reason::Polls { until });
    }
    reasons
}

/// Whom it would hurt to take a retired one out of the bundle now; empty when nobody.
pub fn why_not_remove(slot: &Slot, policy: &Policy, facts: &Facts) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if facts.signing.contains(&slot.id) {
        reasons.push(Reason::Signing);
    }
    let ended = policy.strict_end && slot.not_after < facts.now;
    if let Some(alive) = facts.signed.get(&slot.id)
        && alive.count > 0
        && !ended
    {
        reasons.push(Reason::Signed(*alive));
    }
    reasons
}

#[cfg(test)]
mod tests;
