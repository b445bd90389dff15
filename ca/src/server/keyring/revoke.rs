//! Revoking: identities, certificates and authorities, with the lists that say so. An identity is barred before anything
//! else, so that nothing that is being signed for it at this moment can be forgotten.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spiffe::SpiffeId;

use super::rotation::Refusal;
use super::{Book, Keyring};
use crate::authority::{Svid, shares_anchor};
use crate::server::revocation::{Draft, Gathered};
use crate::server::{CaError, seconds};
use crate::store::{
    AuthorityKind, AuthorityRecord, AuthorityState, Issued, RevokedIdentity, RevokedSerial, Store,
};
use crate::workload::IssueError;

/// For the next second to begin; more is a clock that was put back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What is about to end, or has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// So many SVIDs that are alive.
    pub svids: u64,
    /// When the last of them would have ended by itself, seconds since 1970.
    pub until: i64,
    /// So many had no room on the lists.
    pub left_out: usize,
    /// The authority that signs instead.
    pub successor: Option<String>,
}

impl Keyring {
    /// What revoking an identity ends.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn would_revoke(&self, id: &SpiffeId, now: SystemTime) -> Result<Ended, CaError> {
        let name = id.to_string();
        let issued = self.store.issued(&[&name], seconds(now)).await;
        Ok(ended(&issued.map_err(|source| self.failed(source))?))
    }

    /// Revokes an identity: it gets nothing any more, and what it holds is listed.
    ///
    /// # Errors
    /// When that cannot be written or signed. The identity gets nothing all the same.
    pub async fn revoke_identity(
        &self,
        id: &SpiffeId,
        reason: &str,
        now: SystemTime,
    ) -> Result<Ended, CaError> {
        let mut book = self.book.lock().await;
        let barred = self.revocation.bar(id, reason, now).await;
        // Its streams end when the bundle is published, whatever comes of the rest.
        self.wake();
        barred.map_err(|source| self.failed(source))?;
        let ended = self.would_revoke(id, now).await?;
        let Gathered { left_out } = self.list_now(&mut book, now).await?;
        Ok(Ended { left_out, ..ended })
    }

    /// Lets an identity have SVIDs again; `false`: it was not revoked.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn lift(&self, id: &SpiffeId) -> Result<bool, CaError> {
        // What is kept and what is in memory must not be changed by two at once.
        let _book = self.book.lock().await;
        // Only now: until somebody who held the book had barred it, it was given tokens.
        let lifted = self.revocation.lift(id, SystemTime::now()).await;
        lifted.map_err(|source| self.failed(source))
    }

    /// The living certificate of a serial number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn living(&self, serial: &str, now: SystemTime) -> Result<Option<Issued>, CaError> {
        let found = self.store.issued_serial(serial, seconds(now)).await;
        found.map_err(|source| self.failed(source))
    }

    /// Takes one certificate back. Its holder gets another one at once.
    ///
    /// # Errors
    /// When that cannot be written or signed.
    pub async fn revoke_serial(&self, one: &Issued, reason: &str, now: SystemTime) -> Result<(), CaError> {
        let mut book = self.book.lock().await;
        let taken = self.revocation.take_back(one, reason, now).await;
        taken.map_err(|source| self.failed(source))?;
        self.list_now(&mut book, now).await.map(drop)
    }

    /// As [`Self::list_revoked`]; what failed to be published is soon published by the timer.
    async fn list_now(&self, book: &mut Book, now: SystemTime) -> Result<Gathered, CaError> {
        let listed = self.list_revoked(book, now).await;
        listed.inspect_err(|_| self.news.notify_one())
    }

    /// Brings the lists up to date: after a change, at the start, and from time to time.
    ///
    /// # Errors
    /// When something cannot be written or signed.
    pub async fn refresh_lists(&self, now: SystemTime) -> Result<(), CaError> {
        let mut book = self.book.lock().await;
        self.list_revoked(&mut book, now).await.map(drop)
    }

    /// Takes an authority out of the bundle, and with it all that it signed. With `dry` it only says what that ends.
    ///
    /// # Errors
    /// When nobody could sign instead and `force` is not given, or when we fail.
    pub async fn revoke_authority(
        &self,
        id: &str,
        (force, dry): (bool, bool),
        now: SystemTime,
    ) -> Result<Ended, Refusal> {
        let mut book = self.book.lock().await;
        if !dry {
            // One that is discarded may still be published: then it is not gone before this.
            self.settle(&mut book, now).await?;
        }
        let record = trusted(&book).find(|record| record.id == id).cloned();
        let record = record.ok_or(Refusal::Nothing("no authority of that name is in the bundle"))?;
        refuse_vouched(&book, id, &[id.to_owned()])?;
        let mut ended = self.signed_by(id, now).await?;
        let next = trusted(&book)
            .filter(|other| other.kind == record.kind && other.state == AuthorityState::Prepared)
            .find(|other| other.published > 0)
            .map(|other| other.id.clone());
        let active = record.state == AuthorityState::Active;
        if active && next.is_none() && !force {
            return Err(Refusal::Unsucceeded(record.kind));
        }
        ended.successor = next.clone().filter(|_| active);
        if dry {
            return Ok(ended);
        }
        book.revoking = true;
        let taken = self.take_out(&mut book, &record, next, now).await;
        book.revoking = false;
        // Also of what failed: the timer goes on with it.
        self.news.notify_one();
        ended.successor = taken?;
        Ok(ended)
    }

    /// Takes an authority out of the bundle; where it signs, this one takes over, or a new one. Answers which.
    async fn take_out(
        &self,
        book: &mut Book,
        record: &AuthorityRecord,
        next: Option<String>,
        now: SystemTime,
    ) -> Result<Option<String>, CaError> {
        let mut successor = None;
        if record.state == AuthorityState::Active {
            let id = match next {
                Some(next) => next,
                None => {
                    let made = self.make(book, record.kind, false, now).await?;
                    self.publish(book, now).await?;
                    made.id
                }
            };
            self.let_sign(book, record.kind, &id, now).await?;
            successor = Some(id);
        }
        self.discard(book, std::slice::from_ref(&record.id), now).await?;
        Ok(successor)
    }

    /// What an authority signed and is alive.
    async fn signed_by(&self, id: &str, now: SystemTime) -> Result<Ended, CaError> {
        let alive = self.store.alive(seconds(now)).await;
        let alive = alive.map_err(|source| self.failed(source))?;
        let its = alive.iter().filter(|group| group.authority == id);
        Ok(its.fold(Ended::default(), |sum, group| Ended {
            svids: sum.svids.saturating_add(group.count),
            until: sum.until.max(group.last),
            ..sum
        }))
    }

    /// Lists what revoked identities hold, signs the lists that are due, and publishes them.
    pub(super) async fn list_revoked(&self, book: &mut Book, now: SystemTime) -> Result<Gathered, CaError> {
        let known: BTreeSet<&str> = trusted(book).map(|record| record.id.as_str()).collect();
        let gathered = self.revocation.gather(&known, now).await;
        let gathered = gathered.map_err(|source| self.failed(source))?;
        let authorities: Vec<AuthorityRecord> = trusted(book)
            .filter(|record| record.kind == AuthorityKind::X509 && record.not_after >= seconds(now))
            .cloned()
            .collect();
        let mut failed = None;
        for record in authorities {
            let Some(draft) = self.revocation.due(&record.id, now) else {
                continue;
            };
            // One key that cannot be used must not keep the others from saying what they must.
            match self.signed_list(&record, &draft, now).await {
                Ok(()) => book.unpublished = true,
                Err(error) => {
                    tracing::error!(authority = record.id, %error, "the revocation list of an authority could not be signed");
                    failed = Some(error);
                }
            }
        }
        self.settle(book, now).await?;
        failed.map_or(Ok(gathered), Err)
    }

    async fn signed_list(
        &self,
        record: &AuthorityRecord,
        draft: &Draft,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let list = self
            .open_x509(record, now)?
            .revocation_list(draft.number, &draft.listed, now)?;
        let kept = self.revocation.keep(draft, list, now).await;
        kept.map_err(|source| self.failed(source))?;
        tracing::info!(
            authority = record.id,
            number = draft.number,
            certificates = draft.listed.len(),
            "a revocation list was signed"
        );
        Ok(())
    }

    /// What is revoked at `now`.
    pub fn revoked_now(&self, now: SystemTime) -> (Vec<RevokedIdentity>, Vec<RevokedSerial>) {
        self.revocation.all(now)
    }

    /// Life of a JWT-SVID.
    pub fn jwt_svid_ttl(&self) -> Duration {
        self.lives.jwt_svid
    }

    /// A revoked identity gets nothing.
    pub(super) fn refuse_revoked(&self, id: &SpiffeId) -> Result<(), IssueError> {
        if self.revocation.bars(id) {
            return Err(IssueError(format!("{id} is revoked")));
        }
        Ok(())
    }

    /// Waits until a token's second is one after that in which a revocation was lifted: by it tokens from before are told.
    pub(super) async fn after_lift(&self, id: &SpiffeId, now: SystemTime) -> Result<SystemTime, IssueError> {
        let Some(lifted) = self
            .revocation
            .lifted(id)
            .filter(|lifted| seconds(now) <= *lifted)
        else {
            return Ok(now);
        };
        let next = u64::try_from(lifted.saturating_add(1)).unwrap_or_default();
        let wait = (UNIX_EPOCH + Duration::from_secs(next)).duration_since(now);
        let wait = wait.unwrap_or_default();
        if wait > LONGEST_WAIT {
            let behind = wait.as_secs();
            return Err(IssueError(format!(
                "the clock is {behind} s behind the moment at which the revocation of {id} was lifted"
            )));
        }
        tokio::time::sleep(wait).await;
        Ok(now + wait)
    }

    /// Whether a token that was issued in this second is to be believed.
    pub(super) fn believed(&self, id: &SpiffeId, issued: Option<i64>) -> bool {
        let after = |lifted: i64| issued.is_some_and(|issued| issued > lifted);
        !self.revocation.bars(id) && self.revocation.lifted(id).is_none_or(after)
    }

    /// Whether an SVID may be held on to.
    pub(super) fn is_good(&self, svid: &Svid) -> bool {
        !self.revocation.has(&svid.serial) && !self.revocation.bars(&svid.id)
    }

    /// Lets every stream look again at what it may have.
    fn wake(&self) {
        self.trust.send_modify(|_| {});
    }
}

fn trusted(book: &Book) -> impl Iterator<Item = &AuthorityRecord> {
    let records = book.records.iter();
    records.filter(|record| record.state != AuthorityState::Discarded)
}

/// What an intermediate signed is worth nothing only when no root vouches for it any more: as long as one stays in the bundle for
/// another authority, the intermediate's list must stay too. `going` leave with it.
pub(super) fn refuse_vouched(book: &Book, id: &str, going: &[String]) -> Result<(), Refusal> {
    let Some(record) = trusted(book).find(|record| record.id == id && record.kind == AuthorityKind::X509)
    else {
        return Ok(());
    };
    let stays = |other: &&AuthorityRecord| other.kind == AuthorityKind::X509 && !going.contains(&other.id);
    if trusted(book)
        .filter(stays)
        .any(|other| shares_anchor(&record.certificate, &other.certificate))
    {
        return Err(Refusal::Vouched(id.to_owned()));
    }
    Ok(())
}

fn ended(issued: &[Issued]) -> Ended {
    Ended {
        svids: u64::try_from(issued.len()).unwrap_or(u64::MAX),
        until: issued.iter().map(|one| one.not_after).max().unwrap_or_default(),
        ..Ended::default()
    }
}
