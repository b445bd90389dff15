//! What is revoked, in memory and in the store: identities that get no SVID, certificates that were taken back, and the lists
//! that say so. It signs nothing; the keyring does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use spiffe::SpiffeId;

use super::seconds;
use crate::authority::{LIST_LIFE, Listed, listed_serials};
use crate::store::{
    Issued, KeptList, LiftedIdentity, RevocationChange, Revocations, RevokedIdentity, RevokedSerial, Sqlite,
    Store, StoreError,
};

/// So many certificates fit on the lists: with them a message of the Workload API stays below half of the 4 MiB that gRPC
/// clients take.
const MOST_LISTED: usize = 40_000;
/// An expired certificate may stay on its list for so long, so that lists do not change whenever one expires.
const KEEP_EXPIRED: Duration = Duration::from_secs(3600);

/// Everything that is revoked.
pub struct Revocation {
    store: Arc<Sqlite>,
    held: ArcSwap<Held>,
}

#[derive(Clone, Default)]
struct Held {
    identities: BTreeMap<String, RevokedIdentity>,
    /// When the revocation of an identity was lifted, seconds since 1970.
    lifted: BTreeMap<String, i64>,
    serials: BTreeMap<String, RevokedSerial>,
    /// By authority.
    lists: BTreeMap<String, Arc<Newest>>,
}

/// The newest list of an authority, and the serial numbers on it.
struct Newest {
    kept: KeptList,
    serials: BTreeSet<String>,
}

/// What a list shall say next.
pub struct Draft {
    /// Id of the authority.
    pub authority: String,
    /// Its number.
    pub number: u64,
    /// What is on it.
    pub listed: Vec<Listed>,
}

/// What came of listing the certificates of revoked identities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// So many had no room.
    pub left_out: usize,
}

impl Revocation {
    /// Reads what is revoked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<Sqlite>) -> Result<Self, StoreError> {
        let held = Held::of(store.revocations().await?);
        Ok(Self {
            store,
            held: ArcSwap::from_pointee(held),
        })
    }

    /// Whether an identity gets nothing.
    pub fn bars(&self, id: &SpiffeId) -> bool {
        let held = self.held.load();
        !held.identities.is_empty() && held.identities.contains_key(&id.to_string())
    }

    /// The second in which a revocation of this identity was lifted: what it was given until then stays worthless.
    pub fn lifted(&self, id: &SpiffeId) -> Option<i64> {
        let held = self.held.load();
        if held.lifted.is_empty() {
            return None;
        }
        held.lifted.get(&id.to_string()).copied()
    }

    /// Whether a certificate was taken back.
    pub fn has(&self, serial: &str) -> bool {
        self.held.load().serials.contains_key(serial)
    }

    /// The revoked identities, and the certificates that were taken back and live at `now`.
    pub fn all(&self, now: SystemTime) -> (Vec<RevokedIdentity>, Vec<RevokedSerial>) {
        let held = self.held.load();
        let alive = held.serials.values().filter(|one| one.not_after >= seconds(now));
        (
            held.identities.values().cloned().collect(),
            alive.cloned().collect(),
        )
    }

    /// The newest lists of these authorities.
    pub fn lists<'a>(&self, authorities: impl Iterator<Item = &'a str>) -> Vec<Vec<u8>> {
        let held = self.held.load();
        authorities
            .filter_map(|id| held.lists.get(id).map(|newest| newest.kept.list.clone()))
            .collect()
    }

    /// Bars an identity: from here on it gets nothing, also what is being signed for it at this moment.
    ///
    /// # Errors
    /// When that cannot be written; it is barred all the same until this process ends.
    pub async fn bar(&self, id: &SpiffeId, reason: &str, now: SystemTime) -> Result<(), StoreError> {
        let one = RevokedIdentity {
            spiffe_id: id.to_string(),
            reason: reason.to_owned(),
            since: seconds(now),
        };
        self.change(|held| {
            held.identities.insert(one.spiffe_id.clone(), one.clone());
        });
        let change = RevocationChange {
            identity: Some(one),
            ..RevocationChange::default()
        };
        self.store.change_revocations(&change).await
    }

    /// Lets an identity have SVIDs again; `false`: it was not revoked. Its certificates that were taken back stay so, and so do
    /// its tokens. `now` is later than anything that it was given.
    ///
    /// # Errors
    /// When that cannot be written; then nothing changed.
    pub async fn lift(&self, id: &SpiffeId, now: SystemTime) -> Result<bool, StoreError> {
        let name = id.to_string();
        let Some(since) = self.held.load().identities.get(&name).map(|one| one.since) else {
            return Ok(false);
        };
        // A clock that was put back meanwhile brings no token back.
        let lifted = seconds(now).max(since);
        let change = RevocationChange {
            lifted: Some(LiftedIdentity {
                spiffe_id: name.clone(),
                lifted,
            }),
            ..RevocationChange::default()
        };
        self.store.change_revocations(&change).await?;
        self.change(|held| {
            held.identities.remove(&name);
            held.lifted.insert(name.clone(), lifted);
        });
        Ok(true)
    }

    /// Takes one certificate back.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn take_back(&self, one: &Issued, reason: &str, now: SystemTime) -> Result<(), StoreError> {
        self.add(vec![revoked(one, reason, now)]).await
    }

    /// Takes back what revoked identities still hold of these authorities; what others signed leads to no root any more. What
    /// lives longest goes first, should there be too much.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn gather(
        &self,
        authorities: &BTreeSet<&str>,
        now: SystemTime,
    ) -> Result<Gathered, StoreError> {
        let held = self.held.load_full();
        if held.identities.is_empty() {
            return Ok(Gathered::default());
        }
        // Looking for what lives costs a look at all of it: once for all identities.
        let ids: Vec<&str> = held.identities.keys().map(String::as_str).collect();
        let issued = self.store.issued(&ids, seconds(now)).await?;
        let new = issued
            .iter()
            .filter(|one| authorities.contains(one.authority.as_str()))
            .filter(|one| !held.serials.contains_key(&one.serial));
        let mut found: Vec<RevokedSerial> = new
            .filter_map(|one| {
                let identity = held.identities.get(&one.spiffe_id)?;
                Some(revoked(one, &identity.reason, now))
            })
            .collect();
        // What has expired makes room: it leaves its list when that is signed next.
        let alive = held
            .serials
            .values()
            .filter(|one| one.not_after >= seconds(now) && authorities.contains(one.authority.as_str()));
        let room = MOST_LISTED.saturating_sub(alive.count());
        found.sort_by_key(|one| std::cmp::Reverse(one.not_after));
        let left_out = found.len().saturating_sub(room);
        found.truncate(room);
        if !found.is_empty() {
            self.add(found).await?;
        }
        Ok(Gathered { left_out })
    }

    /// What the next list of an authority must say; `None` when the newest one is right.
    pub fn due(&self, authority: &str, now: SystemTime) -> Option<Draft> {
        let held = self.held.load();
        let now = seconds(now);
        let alive = || {
            held.serials
                .values()
                .filter(|one| one.authority == authority && one.not_after >= now)
        };
        let newest = held.lists.get(authority);
        let due = match newest {
            None => alive().next().is_some(),
            Some(newest) => {
                let age = now.saturating_sub(newest.kept.made);
                let of = |life: Duration| seconds(UNIX_EPOCH + life);
                let old = age >= of(LIST_LIFE / 2) || age < 0;
                let missing = alive().any(|one| !newest.serials.contains(&one.serial));
                // Where the lists are long, what has expired goes at once, so that all of them keep to their size together.
                let crowded = held.serials.len() > MOST_LISTED;
                let too_much = (crowded || age >= of(KEEP_EXPIRED)) && alive().count() < newest.serials.len();
                old || missing || too_much
            }
        };
        due.then(|| Draft {
            authority: authority.to_owned(),
            number: match newest {
                Some(newest) => newest.kept.number.saturating_add(1),
                // It may have had lists that a restored backup does not know: theirs began earlier.
                None => u64::try_from(now).unwrap_or_default().max(1),
            },
            listed: alive().map(listed).collect(),
        })
    }

    /// Keeps a list that was signed; the numbers of an authority never go back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn keep(&self, draft: &Draft, list: Vec<u8>, now: SystemTime) -> Result<(), StoreError> {
        let kept = KeptList {
            authority: draft.authority.clone(),
            number: draft.number,
            made: seconds(now),
            list,
        };
        let change = RevocationChange {
            lists: vec![kept.clone()],
            ..RevocationChange::default()
        };
        self.store.change_revocations(&change).await?;
        let serials: BTreeSet<String> = draft.listed.iter().map(|one| one.serial.clone()).collect();
        let newest = Arc::new(Newest { kept, serials });
        self.change(|held| {
            let authority = &newest.kept.authority;
            held.serials.retain(|serial, one| {
                one.authority != *authority
                    || one.not_after >= seconds(now)
                    || newest.serials.contains(serial)
            });
            held.lists.insert(authority.clone(), Arc::clone(&newest));
        });
        Ok(())
    }

    /// Forgets what was taken back of an authority that no bundle has any more, and its list.
    ///
    /// # Errors
    /// When that cannot be written; then it is asked for again.
    pub async fn forget(&self, authority: &str) -> Result<(), StoreError> {
        let held = self.held.load_full();
        let has_some = held.serials.values().any(|one| one.authority == authority);
        if !has_some && !held.lists.contains_key(authority) {
            return Ok(());
        }
        let change = RevocationChange {
            forgotten: Some(authority.to_owned()),
            ..RevocationChange::default()
        };
        self.store.change_revocations(&change).await?;
        self.change(|held| {
            held.serials.retain(|_, one| one.authority != authority);
            held.lists.remove(authority);
        });
        Ok(())
    }

    async fn add(&self, serials: Vec<RevokedSerial>) -> Result<(), StoreError> {
        let change = RevocationChange {
            serials,
            ..RevocationChange::default()
        };
        self.store.change_revocations(&change).await?;
        self.change(|held| {
            for one in &change.serials {
                held.serials.insert(one.serial.clone(), one.clone());
            }
        });
        Ok(())
    }

    fn change(&self, change: impl Fn(&mut Held)) {
        self.held.rcu(|held| {
            let mut next = Held::clone(held);
            change(&mut next);
            next
        });
    }
}

fn listed(one: &RevokedSerial) -> Listed {
    let since = u64::try_from(one.since).unwrap_or_default();
    Listed {
        serial: one.serial.clone(),
        since: UNIX_EPOCH + Duration::from_secs(since),
    }
}

fn revoked(one: &Issued, reason: &str, now: SystemTime) -> RevokedSerial {
    RevokedSerial {
        serial: one.serial.clone(),
        spiffe_id: one.spiffe_id.clone(),
        authority: one.authority.clone(),
        reason: reason.to_owned(),
        since: seconds(now),
        not_after: one.not_after,
    }
}

impl Held {
    fn of(all: Revocations) -> Self {
        Self {
            identities: all
                .identities
                .into_iter()
                .map(|one| (one.spiffe_id.clone(), one))
                .collect(),
            lifted: all
                .lifted
                .into_iter()
                .map(|one| (one.spiffe_id, one.lifted))
                .collect(),
            serials: all
                .serials
                .into_iter()
                .map(|one| (one.serial.clone(), one))
                .collect(),
            lists: all
                .lists
                .into_iter()
                .map(|kept| (kept.authority.clone(), newest(kept)))
                .collect(),
        }
    }
}

fn newest(kept: KeptList) -> Arc<Newest> {
    let serials = listed_serials(&kept.list);
    Arc::new(Newest { kept, serials })
}

#[cfg(test)]
mod tests;
