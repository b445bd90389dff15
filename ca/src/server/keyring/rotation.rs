//! Rotation: steps of the slots, done. By a timer before need, and by operators; both do the same under one lock.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::import::WAITING;
use super::revoke::refuse_vouched;
use super::{Book, Keyring};
use crate::authority::slot::{self, Next, Place, Reason, Slot, Step};
use crate::server::{CaError, LostState, seconds};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityState, StoreError};

/// More steps than any state needs.
const STEPS: usize = 16;
/// The timer looks at least this often, because clocks jump.
const LOOK: Duration = Duration::from_secs(60);
/// After a failure, and for what may end at any time.
const AGAIN: Duration = Duration::from_secs(1);
const WARN_BEFORE: i64 = 30 * 24 * 3600;

/// Why an operator's step was not done.
#[derive(Debug)]
pub enum Refusal {
    /// It would break somebody.
    Breaks {
        /// The authority that it is about.
        id: String,
        /// Whom.
        reasons: Vec<Reason>,
    },
    /// It is the active one of its kind, and no other was published that could sign instead.
    Unsucceeded(AuthorityKind),
    /// There is nothing to do it with.
    Nothing(&'static str),
    /// The root that this intermediate was signed by stays in the bundle for another authority, and vouches for it.
    Vouched(String),
    /// We failed.
    Failed(CaError),
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        Self::Failed(error)
    }
}

/// Rotates before need, for ever.
pub async fn run(keyring: Arc<Keyring>) {
    loop {
        let mut pause = LOOK;
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            let now = SystemTime::now();
            let wait = match keyring.advance(kind, now).await {
                Ok(next) => pause_of(&next, seconds(now)),
                Err(error) => {
                    tracing::error!(%error, ?kind, "the rotation of an authority failed; it is tried again");
                    AGAIN
                }
            };
            pause = pause.min(wait);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = keyring.news.notified() => {}
        }
    }
}

/// When to look again. What waits for others may be over before its time; what waits long is looked at seldom, because
/// counting costs something.
fn pause_of(next: &Next, now: i64) -> Duration {
    let seconds = match next {
        Next::Do(_) => return AGAIN,
        Next::Rest { prepare_at } => prepare_at.map_or(i64::MAX, |at| at - now),
        Next::Wait { reasons, .. } => {
            let surely = reasons.iter().filter_map(|reason| match reason {
                Reason::Polls { until } => Some(until - now),
                _ => None,
            });
            let at_most = reasons.iter().filter_map(|reason| Some(reason.until()? - now));
            let at_most = at_most.max().unwrap_or_default();
            surely.max().unwrap_or_default().max(at_most / 60).min(5)
        }
    };
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).clamp(AGAIN, LOOK)
}

impl Keyring {
    /// What a start has to do before anybody is served.
    pub(super) async fn start(&self, now: SystemTime) -> Result<(), CaError> {
        {
            let mut book = self.book.lock().await;
            self.refuse_lost(&book)?;
            let half_written = self.keys.tidy()?;
            if half_written > 0 {
                tracing::warn!(
                    half_written,
                    "what was left of keys whose writing was interrupted is removed"
                );
            }
            self.warn_of_orphans(&book)?;
            self.sweep(&mut book).await?;
            self.align(&mut book, AuthorityKind::X509, now).await?;
            self.align(&mut book, AuthorityKind::Jwt, now).await?;
        }
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            self.advance(kind, now).await?;
        }
        let mut book = self.book.lock().await;
        self.publish(&mut book, now).await?;
        // What a crash left between the revoking and the list; one that cannot be signed keeps nobody from starting.
        if let Err(error) = self.list_revoked(&mut book, now).await {
            tracing::error!(%error, "revocation lists are not up to date");
        }
        let active = |record: &&AuthorityRecord| {
            record.kind == AuthorityKind::X509 && record.state == AuthorityState::Active
        };
        match (self.x509.load_full(), book.records.iter().find(active)) {
            (Some(authority), _) => self.tell(authority.id(), seconds(authority.not_after()) - seconds(now)),
            // No X.509-SVID is issued; revocations and the bundle go on, and only so can its successor be imported.
            (None, Some(ended)) if ended.not_after < seconds(now) => tracing::error!(
                authority = ended.id,
                ended_seconds_ago = seconds(now) - ended.not_after,
                hint = "`hopguard ca csr` and `hopguard ca import` renew it, `hopguard ca rotate` makes a root of our own",
                "the active authority has ended, and somebody else must sign its successor: NO X.509-SVID IS ISSUED"
            ),
            (None, _) => return Err(self.failed(StoreError::Corrupt("no active authority".to_owned()))),
        }
        Ok(())
    }

    /// A key is never on the disk before its record: keys beside a state without any record are those of another state.
    fn refuse_lost(&self, book: &Book) -> Result<(), CaError> {
        match self.keys.names()?.into_iter().next() {
            Some(name) if book.records.is_empty() => Err(LostState::Lost {
                path: self.path.parent().map(Path::to_owned).unwrap_or_default(),
                found: format!("{name}.p8"),
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn warn_of_orphans(&self, book: &Book) -> Result<(), CaError> {
        for name in self.keys.names()? {
            let used = book.records.iter().any(|record| record.key == name);
            if !used && !name.starts_with(WAITING) {
                tracing::warn!(
                    key = name,
                    "a key without an authority: it is not used, and not removed"
                );
            }
        }
        Ok(())
    }

    fn tell(&self, authority: &str, seconds_left: i64) {
        tracing::info!(
            authority,
            seconds_left,
            "the authority's key and certificate are usable"
        );
        let policy = self.policy(AuthorityKind::X509);
        let wait = policy.patience.max(policy.polls);
        if policy.life < wait * 4 {
            tracing::warn!(
                ca_ttl = policy.life,
                wanted = wait * 4,
                "`ca_ttl` is so short that a rotation may not wait for everyone: give it four times `svid_ttl`, \
                 and twelve times `refresh_hint`"
            );
        } else if seconds_left < policy.lead().min(WARN_BEFORE) {
            tracing::warn!(authority, seconds_left, "the authority's certificate ends soon");
        }
    }

    /// Does all that may be done now, and says what comes next.
    pub(super) async fn advance(&self, kind: AuthorityKind, now: SystemTime) -> Result<Next, CaError> {
        let mut book = self.book.lock().await;
        book.former.retain(|(_, former)| former.strong_count() > 0);
        // Before the key and the record of a discarded one go: without them nothing tells that it is published.
        self.settle(&mut book, now).await?;
        self.sweep(&mut book).await?;
        self.align(&mut book, kind, now).await?;
        let mut next = self.look(&book, kind, now).await?.next;
        for _ in 0..STEPS {
            let Next::Do(step) = &next else { break };
            self.perform(&mut book, kind, step, now).await?;
            next = self.look(&book, kind, now).await?.next;
        }
        Ok(next)
    }

    async fn perform(
        &self,
        book: &mut Book,
        kind: AuthorityKind,
        step: &Step,
        now: SystemTime,
    ) -> Result<(), CaError> {
        match step {
            Step::Prepare => self.make(book, kind, false, now).await.map(drop),
            Step::Publish(id) => {
                self.publish(book, now).await?;
                tracing::info!(authority = id, ?kind, "the authority is in the bundle");
                Ok(())
            }
            Step::Activate(id) => self.let_sign(book, kind, id, now).await,
            Step::Remove(id) => self.discard(book, std::slice::from_ref(id), now).await,
        }
    }

    pub(super) async fn let_sign(
        &self,
        book: &mut Book,
        kind: AuthorityKind,
        id: &str,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let Some(mut record) = find(book, id).cloned() else {
            return Ok(());
        };
        // Before anything is written: a key that cannot be used must not take over.
        match kind {
            AuthorityKind::X509 => drop(self.open_x509(&record, now)?),
            AuthorityKind::Jwt => drop(self.keys.load(&record.key)?),
        }
        record.state = AuthorityState::Active;
        record.since = seconds(now);
        record.held = false;
        self.put(book, record).await?;
        self.align(book, kind, now).await
    }

    /// Takes authorities out of the bundle, all at once: two that hang on one root leave together with it.
    pub(super) async fn discard(
        &self,
        book: &mut Book,
        ids: &[String],
        now: SystemTime,
    ) -> Result<(), CaError> {
        for id in ids {
            if let Some(mut record) = find(book, id).cloned() {
                record.state = AuthorityState::Discarded;
                record.since = seconds(now);
                self.put(book, record).await?;
            }
        }
        self.publish(book, now).await?;
        for id in ids {
            tracing::info!(authority = id, "the authority was taken out of the bundle");
        }
        self.sweep(book).await
    }

    /// An operator's: makes and publishes the next authority, unless there is one. Answers it, and whether it is new.
    pub async fn prepare(
        &self,
        kind: AuthorityKind,
        held: bool,
        now: SystemTime,
    ) -> Result<(String, bool), Refusal> {
        let mut book = self.book.lock().await;
        let outlook = self.look(&book, kind, now).await?;
        let (id, new) = match slot::prepared(&outlook.slots) {
            Some(prepared) => (prepared.id.clone(), false),
            None => (self.make(&mut book, kind, held, now).await?.id, true),
        };
        if let Some(mut record) = find(&book, &id).cloned()
            && record.held
            && !held
        {
            record.held = false;
            self.put(&mut book, record).await?;
        }
        self.publish(&mut book, now).await?;
        self.news.notify_one();
        Ok((id, new))
    }

    /// An operator's: lets the prepared one sign. Answers it.
    pub async fn activate(
        &self,
        kind: AuthorityKind,
        force: bool,
        now: SystemTime,
    ) -> Result<String, Refusal> {
        let mut book = self.book.lock().await;
        let outlook = self.look(&book, kind, now).await?;
        let prepared = slot::prepared(&outlook.slots).ok_or(Refusal::Nothing("no authority is prepared"))?;
        let id = prepared.id.clone();
        let reasons = slot::why_not_activate(&outlook.slots, &self.policy(kind), &outlook.facts);
        if reasons.contains(&Reason::Unpublished) || (!force && !reasons.is_empty()) {
            return Err(Refusal::Breaks { id, reasons });
        }
        self.let_sign(&mut book, kind, &id, now).await?;
        self.news.notify_one();
        Ok(id)
    }

    /// An operator's: takes the retired ones out of the bundle, all or none. Answers them.
    pub async fn retire(
        &self,
        kind: AuthorityKind,
        force: bool,
        now: SystemTime,
    ) -> Result<Vec<String>, Refusal> {
        let mut book = self.book.lock().await;
        self.settle(&mut book, now).await?;
        let outlook = self.look(&book, kind, now).await?;
        let retired: Vec<&Slot> = outlook
            .slots
            .iter()
            .filter(|slot| slot.place == Place::Retired)
            .collect();
        if retired.is_empty() {
            return Err(Refusal::Nothing("no authority is retired"));
        }
        let going: Vec<String> = retired.iter().map(|slot| slot.id.clone()).collect();
        for slot in &retired {
            let reasons = slot::why_not_remove(slot, &self.policy(kind), &outlook.facts);
            // What is being signed right now would be by a key that no bundle has: that is over in a moment.
            if reasons.contains(&Reason::Signing) || (!force && !reasons.is_empty()) {
                let id = slot.id.clone();
                return Err(Refusal::Breaks { id, reasons });
            }
            if !reasons.is_empty() {
                refuse_vouched(&book, &slot.id, &going)?;
            }
        }
        let done = self.discard(&mut book, &going, now).await;
        // Also of what failed: the timer goes on with it.
        self.news.notify_one();
        done?;
        Ok(going)
    }

    /// Whether [`Self::retire`] may be forced for one that it would hurt.
    ///
    /// # Errors
    /// [`Refusal::Vouched`].
    pub async fn may_force(&self, id: &str) -> Result<(), Refusal> {
        let book = self.book.lock().await;
        let retired = book
            .records
            .iter()
            .filter(|record| record.state == AuthorityState::Retired);
        let going: Vec<String> = retired.map(|record| record.id.clone()).collect();
        refuse_vouched(&book, id, &going)
    }

    /// An operator's: takes the prepared one out of the bundle again. It has signed nothing.
    pub async fn abort(&self, kind: AuthorityKind, now: SystemTime) -> Result<String, Refusal> {
        let mut book = self.book.lock().await;
        self.settle(&mut book, now).await?;
        let outlook = self.look(&book, kind, now).await?;
        let prepared = slot::prepared(&outlook.slots).ok_or(Refusal::Nothing("no authority is prepared"))?;
        let id = prepared.id.clone();
        if slot::active(&outlook.slots).is_none() {
            return Err(Refusal::Nothing("no other authority could sign"));
        }
        let done = self.discard(&mut book, std::slice::from_ref(&id), now).await;
        self.news.notify_one();
        done?;
        Ok(id)
    }
}

fn find<'a>(book: &'a Book, id: &str) -> Option<&'a AuthorityRecord> {
    book.records.iter().find(|record| record.id == id)
}
