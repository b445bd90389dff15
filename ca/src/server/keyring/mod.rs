//! The authorities of the trust domain as they are in the store, with their keys: what is asked of it is signed by the
//! active one and recorded before it leaves, and what it publishes is the bundle of all that are trusted.
//!
//! Order is everything here, because the process may be killed between any two steps: key file, record, bundle, signature
//! on the way in; record, bundle, key file on the way out. So no signature is ever by a key that the bundle lacks.

mod import;
mod issue;
mod make;
mod outlook;
mod revoke;
mod rotation;

pub use import::Unimported;
pub use outlook::Outlook;
pub use revoke::Ended;
pub use rotation::{Refusal, run};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::digest::{Context, SHA256};
use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::{Mutex, Notify, watch};

use super::revocation::Revocation;
use super::{CaError, seconds};
use crate::audit::{Audit, Event};
use crate::authority::slot::Policy;
use crate::authority::{Authority, JwtAuthority, JwtKey, Svid, Trust, anchor};
use crate::config::Config;
use crate::keys::{Disk, Passphrase};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityState, Recorder, Sqlite, Store, StoreError};
use crate::workload::{Issue, IssueError, IssueJwt, Issuer, Streams};

/// Pollers of the bundle have come back after this many refresh hints (S-63).
const HINTS: i64 = 3;
/// The end of what a JWT key signed is written ahead by at least this, so that few signatures wait for the disk.
const PROMISE: i64 = 60;

/// Signs in this process.
pub struct Keyring {
    lives: Lives,
    keys: Disk,
    store: Arc<Sqlite>,
    path: PathBuf,
    recorder: Recorder,
    audit: Audit,
    revocation: Revocation,
    x509: ArcSwapOption<Authority>,
    jwt: ArcSwapOption<JwtSigner>,
    /// Whoever changes an authority holds it.
    book: Mutex<Book>,
    /// What the book says, for those who only read.
    records: ArcSwap<Vec<AuthorityRecord>>,
    trust: watch::Sender<Arc<Trust>>,
    /// Known once the Workload API is built, which needs us.
    streams: OnceLock<Arc<Streams>>,
    /// Something changed that the timer does not know of.
    news: Notify,
}

/// What the configuration says about lives, and whose authority this is.
struct Lives {
    domain: TrustDomain,
    svid: Duration,
    jwt_svid: Duration,
    ca: Duration,
    jwt_key: Duration,
    refresh_hint: Duration,
    /// Whose SVID the bundle endpoint shows.
    endpoint: Option<SpiffeId>,
    /// The `iss` of tokens.
    token_issuer: Option<String>,
}

/// The authorities, those that are discarded included, the newest last.
struct Book {
    records: Vec<AuthorityRecord>,
    /// What is kept is not all published yet: the next one who comes does that first.
    unpublished: bool,
    /// An authority is being revoked: what that changes is done also where the audit log cannot tell it.
    revoking: bool,
    /// Authorities that signed before, as long as some request may still be signing with them.
    former: Vec<(String, Weak<dyn Send + Sync>)>,
}

/// The active JWT key.
struct JwtSigner {
    authority: JwtAuthority,
    /// As in its record: no token may end later.
    until: AtomicI64,
}

impl Keyring {
    /// Reads the authorities and their keys, makes those that are missing, and does what a crash or a long absence left
    /// undone.
    ///
    /// # Errors
    /// When the store or a key cannot be used, or the active root is not valid yet.
    pub async fn open(
        config: &Config,
        data_dir: &Path,
        store: Arc<Sqlite>,
        audit: Audit,
    ) -> Result<Self, CaError> {
        Self::open_at(config, data_dir, store, audit, SystemTime::now()).await
    }

    async fn open_at(
        config: &Config,
        data_dir: &Path,
        store: Arc<Sqlite>,
        audit: Audit,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let path = data_dir.join("state.sqlite");
        let records = store.authorities().await.map_err(|source| CaError::Store {
            path: path.clone(),
            source,
        })?;
        let passphrase = config.key_passphrase.as_ref().map(Passphrase::read).transpose()?;
        let revocation = Revocation::open(store.clone()).await;
        let revocation = revocation.map_err(|source| CaError::Store {
            path: path.clone(),
            source,
        })?;
        let (recorder, work) = Recorder::new(store.clone());
        tokio::spawn(work);
        let nothing = Trust {
            domain: config.trust_domain.clone(),
            roots: Vec::new(),
            jwt_keys: Vec::new(),
            crls: Vec::new(),
            sequence: 0,
            refresh_hint: config.refresh_hint,
        };
        let keyring = Self {
            lives: Lives {
                domain: config.trust_domain.clone(),
                svid: config.svid_ttl,
                jwt_svid: config.jwt_svid_ttl,
                ca: config.ca_ttl,
                jwt_key: config.jwt_key_ttl,
                refresh_hint: config.refresh_hint,
                endpoint: config.endpoint.own_id().cloned(),
                token_issuer: config.issuer(),
            },
            keys: Disk::with(data_dir, passphrase),
            store,
            path,
            recorder,
            audit,
            revocation,
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            records: ArcSwap::from_pointee(records.clone()),
            book: Mutex::new(Book {
                records,
                unpublished: false,
                revoking: false,
                former: Vec::new(),
            }),
            trust: watch::Sender::new(Arc::new(nothing)),
            streams: OnceLock::new(),
            news: Notify::new(),
        };
        keyring.start(now).await?;
        Ok(keyring)
    }

    /// Whom a rotation must wait for is known from here on.
    pub fn watch(&self, streams: Arc<Streams>) {
        let _set_once = self.streams.set(streams);
    }

    /// Where what was issued is told.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The authorities that are trusted, the newest last; never in the middle of a step.
    pub async fn records(&self) -> Vec<AuthorityRecord> {
        let book = self.book.lock().await;
        let trusted = book
            .records
            .iter()
            .filter(|record| record.state != AuthorityState::Discarded);
        trusted.cloned().collect()
    }

    /// Whether this is the identity of the bundle endpoint.
    pub fn is_endpoint(&self, id: &SpiffeId) -> bool {
        self.lives.endpoint.as_ref() == Some(id)
    }

    /// What is published now.
    pub fn published(&self) -> Arc<Trust> {
        self.trust.borrow().clone()
    }

    /// What holds for a kind.
    pub fn policy(&self, kind: AuthorityKind) -> Policy {
        let (life, signed_life) = match kind {
            AuthorityKind::X509 => (self.lives.ca, self.lives.svid),
            AuthorityKind::Jwt => (self.lives.jwt_key, self.lives.jwt_svid),
        };
        Policy {
            life: whole(life),
            signed_life: whole(signed_life),
            patience: whole(self.lives.svid),
            polls: whole(self.lives.refresh_hint).saturating_mul(HINTS),
            strict_end: kind == AuthorityKind::X509,
        }
    }

    fn failed(&self, source: StoreError) -> CaError {
        CaError::Store {
            path: self.path.clone(),
            source,
        }
    }

    /// Writes to the audit log what is about to be done.
    async fn told(&self, book: &Book, event: &Event) -> Result<(), CaError> {
        match self.audit.record(event).await {
            Err(error) if book.revoking => {
                let authority = event.authority.as_deref();
                let outcome = event.outcome;
                tracing::error!(
                    %error, authority, outcome,
                    "A CHANGE OF AN AUTHORITY IS MISSING IN THE AUDIT LOG: a revocation needs it, so it is done all the same"
                );
                Ok(())
            }
            written => written.map_err(CaError::from),
        }
    }

    /// Writes a record, to the disk first.
    async fn put(&self, book: &mut Book, record: AuthorityRecord) -> Result<(), CaError> {
        let before = book.records.iter().find(|old| old.id == record.id);
        let moves = before.is_none_or(|before| before.state != record.state);
        if moves {
            // Of a key that is about to be made there is a record before there is an authority.
            let outcome = if record.certificate.is_empty() {
                "making"
            } else {
                now_in(record.state)
            };
            self.told(book, &changed(&record, outcome)).await?;
        }
        self.store
            .put_authority(&record)
            .await
            .map_err(|source| self.failed(source))?;
        match book.records.iter_mut().find(|old| old.id == record.id) {
            Some(old) => *old = record,
            None => book.records.push(record),
        }
        book.unpublished |= moves;
        self.records.store(Arc::new(book.records.clone()));
        Ok(())
    }

    async fn forget(&self, book: &mut Book, id: &str) -> Result<(), CaError> {
        if let Some(record) = book.records.iter().find(|record| record.id == id) {
            self.told(book, &changed(record, "removed")).await?;
        }
        self.erase(book, id).await
    }

    /// Forgets a record that tells nothing any more.
    async fn erase(&self, book: &mut Book, id: &str) -> Result<(), CaError> {
        self.store
            .remove_authority(id)
            .await
            .map_err(|source| self.failed(source))?;
        book.records.retain(|record| record.id != id);
        self.records.store(Arc::new(book.records.clone()));
        Ok(())
    }

    /// Publishes the bundle of all that are trusted, and notes of the new ones that they are in it now.
    async fn publish(&self, book: &mut Book, now: SystemTime) -> Result<(), CaError> {
        let mut trust = Trust::clone(&self.published());
        let of = |kind| {
            let records = book.records.iter();
            records.filter(move |record| record.kind == kind && record.state != AuthorityState::Discarded)
        };
        trust.roots = Vec::new();
        for record in of(AuthorityKind::X509) {
            let root = anchor(&record.certificate)?;
            // Several intermediates may hang on one root.
            if !trust.roots.contains(&root) {
                trust.roots.push(root);
            }
        }
        trust.jwt_keys = of(AuthorityKind::Jwt)
            .map(|record| JwtKey::new(&record.certificate))
            .collect::<Result<_, _>>()?;
        trust.crls = self
            .revocation
            .lists(of(AuthorityKind::X509).map(|record| record.id.as_str()));
        let sequence = self.store.sequence(&content(&trust)).await;
        let sequence = sequence.map_err(|source| self.failed(source))?;
        trust.sequence = u64::try_from(sequence).unwrap_or_default();
        self.trust.send_if_modified(|published| {
            let changed = **published != trust;
            if changed {
                *published = Arc::new(trust);
            }
            changed
        });
        let new: Vec<AuthorityRecord> = book
            .records
            .iter()
            .filter(|record| record.published == 0 && record.state != AuthorityState::Discarded)
            .cloned()
            .collect();
        for mut record in new {
            record.published = seconds(now);
            record.sequence = sequence;
            self.put(book, record).await?;
        }
        book.unpublished = false;
        Ok(())
    }

    /// Publishes what an earlier attempt left behind.
    async fn settle(&self, book: &mut Book, now: SystemTime) -> Result<(), CaError> {
        if book.unpublished {
            self.publish(book, now).await?;
        }
        Ok(())
    }

    /// No token of this key may end after what its record says: the record is moved on first.
    async fn promise(&self, signer: &JwtSigner, end: i64) -> Result<(), IssueError> {
        let mut book = self.book.lock().await;
        if signer.until.load(Ordering::Acquire) >= end {
            return Ok(());
        }
        let id = &signer.authority.key().kid;
        let record = book
            .records
            .iter()
            .find(|record| record.id == *id && record.state != AuthorityState::Discarded);
        let mut record = record
            .cloned()
            .ok_or_else(|| IssueError("the key was taken out of the bundle".to_owned()))?;
        let until = end + PROMISE.max(whole(self.lives.jwt_svid));
        record.until = until;
        self.put(&mut book, record)
            .await
            .map_err(|error| IssueError(error.to_string()))?;
        signer.until.store(until, Ordering::Release);
        Ok(())
    }
}

/// A change of an authority, as the audit log has it: before it is made.
fn changed(record: &AuthorityRecord, outcome: &'static str) -> Event {
    let kind = match record.kind {
        AuthorityKind::X509 => "x509",
        AuthorityKind::Jwt => "jwt",
    };
    Event {
        authority: Some(record.id.clone()),
        not_after: Some(record.not_after),
        detail: Some(serde_json::json!({ "kind": kind })),
        ..Event::new("authority", outcome)
    }
}

fn now_in(state: AuthorityState) -> &'static str {
    match state {
        AuthorityState::Prepared => "prepared",
        AuthorityState::Active => "active",
        AuthorityState::Retired => "retired",
        AuthorityState::Discarded => "discarded",
    }
}

/// What a bundle says, as a digest: two bundles with the same are one (S-59).
fn content(trust: &Trust) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    };
    add(trust.domain.as_str().as_bytes());
    add(&trust.refresh_hint.as_millis().to_be_bytes());
    for (name, parts) in [
        (
            "roots",
            trust.roots.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>(),
        ),
        (
            "keys",
            trust.jwt_keys.iter().map(|key| key.point.as_slice()).collect(),
        ),
        ("crls", trust.crls.iter().map(Vec::as_slice).collect()),
    ] {
        add(name.as_bytes());
        for part in parts {
            add(part);
        }
    }
    context.finish().as_ref().to_vec()
}

/// In seconds, rounded up.
fn whole(life: Duration) -> i64 {
    i64::try_from(life.as_millis().div_ceil(1000)).unwrap_or(i64::MAX / 4)
}

impl Issuer for Keyring {
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a> {
        self.issue_for(id, self.lives.svid, now)
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String], now: SystemTime) -> IssueJwt<'a> {
        self.issue_jwt_for(id, audience, self.lives.jwt_svid, now)
    }

    fn revoked(&self, id: &SpiffeId) -> bool {
        self.revocation.bars(id)
    }

    fn believes(&self, id: &SpiffeId, issued: Option<i64>) -> bool {
        self.believed(id, issued)
    }

    fn stands(&self, svid: &Svid) -> bool {
        let records = self.records.load();
        let signed = |record: &AuthorityRecord| {
            record.id == svid.authority && record.state != AuthorityState::Discarded
        };
        self.is_good(svid) && records.iter().any(signed)
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}

#[cfg(test)]
mod tests;
