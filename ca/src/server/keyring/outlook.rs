//! What is known about whom a rotation could hurt: the store and the open streams enter, facts for the slots leave.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::{Book, Keyring};
use crate::authority::self_signed;
use crate::authority::slot::{self, Alive, Facts, Next, Place, Slot};
use crate::server::{CaError, seconds};
use crate::store::{AliveGroup, AuthorityKind, AuthorityRecord, AuthorityState, Store};
use crate::workload::Carries;

/// How it stands with one kind.
pub struct Outlook {
    /// Its slots, the newest last.
    pub slots: Vec<Slot>,
    /// What is known.
    pub facts: Facts,
    /// What comes next.
    pub next: Next,
}

impl Keyring {
    /// How it stands with a kind, changing nothing.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn outlook(&self, kind: AuthorityKind, now: SystemTime) -> Result<Outlook, CaError> {
        let book = self.book.lock().await;
        self.look(&book, kind, now).await
    }

    /// What of the issued is alive.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn alive(&self, now: SystemTime) -> Result<Vec<AliveGroup>, CaError> {
        let alive = self.store.alive(seconds(now)).await;
        alive.map_err(|source| self.failed(source))
    }

    pub(super) async fn look(
        &self,
        book: &Book,
        kind: AuthorityKind,
        now: SystemTime,
    ) -> Result<Outlook, CaError> {
        let slots: Vec<Slot> = book
            .records
            .iter()
            .filter(|record| record.kind == kind)
            .filter_map(as_slot)
            .collect();
        let facts = self.facts(book, kind, &slots, now).await?;
        let next = slot::next(&slots, &self.policy(kind), &facts);
        Ok(Outlook { slots, facts, next })
    }

    async fn facts(
        &self,
        book: &Book,
        kind: AuthorityKind,
        slots: &[Slot],
        now: SystemTime,
    ) -> Result<Facts, CaError> {
        let mut facts = Facts {
            now: seconds(now),
            signing: book
                .former
                .iter()
                .filter(|(_, former)| former.strong_count() > 0)
                .map(|(id, _)| id.clone())
                .collect(),
            ..Facts::default()
        };
        let prepared = slot::prepared(slots).filter(|slot| slot.published > 0);
        let since = prepared
            .and_then(|slot| book.records.iter().find(|record| record.id == slot.id))
            .map(|record| record.sequence);
        let resting = prepared.is_none() && !slots.iter().any(|slot| slot.place == Place::Retired);
        match kind {
            // Counting what is alive costs something; who rests needs no count.
            AuthorityKind::X509 if resting => {}
            AuthorityKind::X509 => {
                let alive = self.alive(now).await?;
                facts.signed = signed(&alive);
                if let Some(since) = since {
                    facts.unaware = self.unaware(&alive, since, facts.now);
                    facts.unread = self.unread(Carries::Bundles, since);
                }
            }
            AuthorityKind::Jwt => {
                facts.signed = promised(book, facts.now);
                if let Some(since) = since {
                    facts.unread = self.unread(Carries::JwtBundles, since);
                }
            }
        }
        Ok(facts)
    }

    /// SVIDs of before the bundle `since`, but for those whose stream was sent that bundle or a newer one: their holder has
    /// it. A stream that is gone speaks for nobody; what it was sent is waited for until it ends.
    fn unaware(&self, alive: &[AliveGroup], since: i64, now: i64) -> Alive {
        let mut covered: HashMap<(String, i64), u64> = HashMap::new();
        if let Some(streams) = self.streams.get() {
            streams.each(|open| {
                if open.carries != Some(Carries::Svids) || number(open.sent) < since {
                    return;
                }
                for one in &open.handed {
                    if number(one.bundle) < since && seconds(one.not_after) >= now {
                        *covered
                            .entry((one.authority.clone(), number(one.bundle)))
                            .or_default() += 1;
                    }
                }
            });
        }
        let mut unaware = Alive::default();
        for group in alive.iter().filter(|group| group.bundle < since) {
            let covered = covered.get(&(group.authority.clone(), group.bundle)).copied();
            let left = group.count.saturating_sub(covered.unwrap_or_default());
            if left > 0 {
                unaware.count += left;
                unaware.until = unaware.until.max(group.last);
            }
        }
        unaware
    }

    fn unread(&self, carries: Carries, since: i64) -> u64 {
        let mut count = 0;
        if let Some(streams) = self.streams.get() {
            streams.each(|open| {
                if open.carries == Some(carries) && number(open.sent) < since {
                    count += 1;
                }
            });
        }
        count
    }
}

fn as_slot(record: &AuthorityRecord) -> Option<Slot> {
    let place = match record.state {
        AuthorityState::Prepared => Place::Prepared,
        AuthorityState::Active => Place::Active,
        AuthorityState::Retired => Place::Retired,
        AuthorityState::Discarded => return None,
    };
    Some(Slot {
        id: record.id.clone(),
        place,
        published: record.published,
        not_after: record.not_after,
        held: record.held,
        own: record.kind == AuthorityKind::Jwt || self_signed(&record.certificate),
    })
}

fn signed(alive: &[AliveGroup]) -> BTreeMap<String, Alive> {
    let mut signed: BTreeMap<String, Alive> = BTreeMap::new();
    for group in alive {
        let one = signed.entry(group.authority.clone()).or_default();
        one.count += group.count;
        one.until = one.until.max(group.last);
    }
    signed
}

/// JWT-SVIDs are not counted; until when the last one lives is in the record of its key.
fn promised(book: &Book, now: i64) -> BTreeMap<String, Alive> {
    let alive = |record: &AuthorityRecord| Alive {
        count: 1,
        until: record.until,
    };
    book.records
        .iter()
        .filter(|record| record.kind == AuthorityKind::Jwt && record.until >= now)
        .map(|record| (record.id.clone(), alive(record)))
        .collect()
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
