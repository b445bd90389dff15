//! One stream of one caller: what it may have is decided again before every message, and a message is always the whole
//! state (S-42). The stream ends with PermissionDenied as soon as the caller may have nothing (S-45), and with
//! Unavailable when the authority ends.

mod jwt;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tonic::Status;

use super::issuer::IssueError;
use super::proto::{X509BundlesResponse, X509svid, X509svidResponse};
use super::service::Shared;
use super::streams::{Carries, Ticket};
use crate::attest::{AttestError, Peer};
use crate::audit::Event;
use crate::authority::{Svid, Trust, rotate_at};
use crate::registration::{Entries, Grant};

/// A caller is looked at again after this time even when nothing happened: its executable may have been replaced.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const REVOKED: &str = "the identity of this process is revoked";
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

pub struct Session {
    shared: Arc<Shared>,
    peer: Peer,
    entries: watch::Receiver<Arc<Entries>>,
    trust: watch::Receiver<Arc<Trust>>,
    closing: watch::Receiver<bool>,
    held: Vec<Held>,
    /// What is held differs from what was sent.
    unsent: bool,
    sent: Option<Arc<Trust>>,
    retry: Option<Retry>,
    ticket: Ticket,
}

struct Held {
    grant: Grant,
    svid: Arc<Svid>,
    rotate_at: SystemTime,
}

/// A renewal failed; what is held goes on until it ends.
#[derive(Clone, Copy)]
struct Retry {
    at: SystemTime,
    delay: Duration,
}

impl Session {
    pub fn new(shared: Arc<Shared>, peer: Peer) -> Self {
        let (entries, trust, closing) = (
            shared.entries.clone(),
            shared.issuer.trust(),
            shared.closing.clone(),
        );
        let ticket = shared.streams.enter(peer.clone(), SystemTime::now());
        Self {
            shared,
            peer,
            entries,
            trust,
            closing,
            held: Vec::new(),
            unsent: false,
            sent: None,
            retry: None,
            ticket,
        }
    }

    /// The next message of FetchX509SVID.
    pub async fn identities(&mut self) -> Result<X509svidResponse, Status> {
        loop {
            let grants = self.entitled().await?;
            let trust = self.trust.borrow_and_update().clone();
            self.renew(grants, SystemTime::now()).await?;
            let news = self.unsent || self.sent.as_ref() != Some(&trust);
            if news && self.still_entitled()? {
                self.unsent = false;
                self.sent = Some(trust.clone());
                let svids = self.held.iter().map(|held| &held.svid);
                self.ticket
                    .sent(Carries::Svids, trust.sequence, svids, SystemTime::now());
                return Ok(self.message(&trust));
            }
            if !news {
                self.wait().await?;
            }
        }
    }

    /// The next message of FetchX509Bundles.
    pub async fn bundles(&mut self) -> Result<X509BundlesResponse, Status> {
        loop {
            self.entitled().await?;
            let trust = self.trust.borrow_and_update().clone();
            let news = self.sent.as_ref() != Some(&trust);
            if news && self.still_entitled()? {
                self.ticket.sent(
                    Carries::Bundles,
                    trust.sequence,
                    std::iter::empty(),
                    SystemTime::now(),
                );
                let bundles = [(trust.domain.id_string(), bundle(&trust))].into();
                let crl = trust.crls.clone();
                self.sent = Some(trust);
                return Ok(X509BundlesResponse { crl, bundles });
            }
            if !news {
                self.wait().await?;
            }
        }
    }

    /// What the caller may have now, attested now. Never empty.
    async fn entitled(&mut self) -> Result<Vec<Grant>, Status> {
        if *self.closing.borrow() {
            return Err(ending());
        }
        let entries = self.entries.borrow_and_update().clone();
        let facts = self
            .peer
            .facts(&entries, &self.shared.inspector)
            .await
            .map_err(|error| self.nobody(&error))?;
        let mut matching = entries.matching(&facts);
        let granted = matching.grants.len();
        matching
            .grants
            .retain(|grant| !self.shared.issuer.revoked(&grant.id));
        self.ticket
            .may_have(matching.grants.iter().map(|grant| &grant.id));
        if granted > 0 && matching.grants.is_empty() {
            return Err(self.denied(REVOKED));
        }
        if !matching.grants.is_empty() && matching.refused.is_empty() {
            return Ok(matching.grants);
        }
        if let Some(unlogged) = self.may_log() {
            for refused in &matching.refused {
                tracing::warn!(
                    uid = self.peer.uid(), pid = self.peer.pid(), socket = self.peer.socket(),
                    spiffe_id = %refused.id, reason = ?refused.reason, unlogged, hint = ask(&self.peer),
                    "an entry is refused"
                );
                self.refused(Some(&refused.id), &refused.reason, unlogged);
            }
            if matching.grants.is_empty() {
                self.tell_denied("no entry matches", unlogged);
            }
        }
        if matching.grants.is_empty() {
            // It begins as SPIRE's does: some clients tell this case by the words.
            return Err(Status::permission_denied(
                "no identity issued: no entry grants one to this process (the authority's log says what was missing)",
            ));
        }
        Ok(matching.grants)
    }

    /// A refusal that the log tells as well.
    fn denied(&self, reason: &'static str) -> Status {
        if let Some(unlogged) = self.may_log() {
            self.tell_denied(reason, unlogged);
        }
        Status::permission_denied(reason)
    }

    fn tell_denied(&self, reason: &str, unlogged: u64) {
        tracing::warn!(
            uid = self.peer.uid(),
            pid = self.peer.pid(),
            socket = self.peer.socket(),
            reason,
            unlogged,
            hint = ask(&self.peer),
            "permission denied"
        );
        self.refused(None, &reason, unlogged);
    }

    fn nobody(&self, error: &AttestError) -> Status {
        let worth_a_look = matches!(error, AttestError::Unmapped(_) | AttestError::Replaced(_));
        if worth_a_look && let Some(unlogged) = self.may_log() {
            self.tell_denied(&error.to_string(), unlogged);
        }
        tracing::debug!(uid = self.peer.uid(), pid = self.peer.pid(), reason = %error, "permission denied");
        Status::permission_denied(error.to_string())
    }

    /// Whether what was decided a moment ago still holds: between the decision and here an SVID was signed and recorded.
    fn still_entitled(&self) -> Result<bool, Status> {
        self.peer.check().map_err(|error| self.nobody(&error))?;
        let same = |changed: Result<bool, watch::error::RecvError>| {
            changed.map(|changed| !changed).map_err(|_| ending())
        };
        Ok(same(self.entries.has_changed())? && same(self.trust.has_changed())? && !*self.closing.borrow())
    }

    /// Brings what is held to what is granted, and issues what is missing or due.
    async fn renew(&mut self, grants: Vec<Grant>, now: SystemTime) -> Result<(), Status> {
        let mut before = std::mem::take(&mut self.held);
        self.unsent |= before.len() != grants.len() || before.iter().map(|held| &held.grant).ne(&grants);
        let wait = self.retry.is_some_and(|retry| now < retry.at);
        let mut failed = None;
        let jitter = jitter();
        for grant in grants {
            let old = before
                .iter()
                .position(|held| held.grant.id == grant.id)
                .map(|at| before.swap_remove(at));
            // Without its authority in the bundle nobody would take it any more.
            let old = old.filter(|old| self.shared.issuer.stands(&old.svid));
            let old = match old {
                Some(old) if now < old.rotate_at || (wait && now < old.svid.not_after) => {
                    self.held.push(Held { grant, ..old });
                    continue;
                }
                old => old.filter(|old| now < old.svid.not_after),
            };
            match (self.issue(&grant, now).await, old) {
                (Ok(svid), _) => {
                    self.unsent = true;
                    let rotate_at = rotate_at(svid.issued_at, svid.not_after, jitter);
                    self.held.push(Held {
                        grant,
                        svid,
                        rotate_at,
                    });
                }
                (Err(error), Some(old)) => {
                    self.held.push(Held { grant, ..old });
                    failed = Some(error);
                }
                (Err(_), _) if self.shared.issuer.revoked(&grant.id) => {
                    return Err(self.denied(REVOKED));
                }
                (Err(error), None) => return Err(self.none_issued(&grant, &error)),
            }
        }
        self.retry = failed
            .map(|error| self.retry_later(&error.to_string(), now))
            .or(self.retry.filter(|_| wait));
        Ok(())
    }

    /// Signed, on the disk, and in the audit log: only then it may leave.
    async fn issue(&self, grant: &Grant, now: SystemTime) -> Result<Arc<Svid>, IssueError> {
        let svid = self.shared.issuer.issue(&grant.id, now).await?;
        if self.shared.audit.is_on() {
            let event = Event {
                spiffe_id: Some(svid.id.to_string()),
                selectors: grant.by.clone(),
                serial: Some(svid.serial.clone()),
                authority: Some(svid.authority.to_string()),
                not_after: since_1970(svid.not_after),
                ..self.event("x509_svid", "issued")
            };
            let written = self.shared.audit.record(&event).await;
            written.map_err(|error| IssueError(error.to_string()))?;
        } else {
            self.log(&svid);
        }
        Ok(svid)
    }

    /// An event of this caller.
    fn event(&self, event: &'static str, outcome: &'static str) -> Event {
        Event {
            uid: Some(self.peer.uid()),
            pid: Some(self.peer.pid()),
            socket: Some(self.peer.socket().into()),
            ..Event::new(event, outcome)
        }
    }

    fn refused(&self, id: Option<&dyn std::fmt::Display>, reason: &dyn std::fmt::Display, untold: u64) {
        self.shared.audit.tell(&Event {
            spiffe_id: id.map(ToString::to_string),
            untold,
            ..self.event("svid", "refused").because(reason)
        });
    }

    fn none_issued(&self, grant: &Grant, error: &IssueError) -> Status {
        if let Some(unlogged) = self.may_log() {
            tracing::error!(
                uid = self.peer.uid(), spiffe_id = %grant.id, reason = %error, unlogged, "no SVID could be issued"
            );
            self.shared.audit.tell(&Event {
                spiffe_id: Some(grant.id.to_string()),
                untold: unlogged,
                ..self.event("svid", "failed").because(error)
            });
        }
        Status::unavailable("no SVID can be issued now")
    }

    fn may_log(&self) -> Option<u64> {
        self.shared.admission.may_log(self.peer.uid(), Instant::now())
    }

    fn retry_later(&self, error: &str, now: SystemTime) -> Retry {
        let delay = self
            .retry
            .map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(LAST_RETRY));
        tracing::error!(uid = self.peer.uid(), reason = error, retry = ?delay, "an SVID could not be renewed");
        Retry {
            at: now + delay,
            delay,
        }
    }

    fn log(&self, svid: &Svid) {
        tracing::info!(
            uid = self.peer.uid(), pid = self.peer.pid(), socket = self.peer.socket(),
            spiffe_id = %svid.id, serial = svid.serial, "SVID issued"
        );
    }

    /// Returns when something may have changed for this caller.
    async fn wait(&mut self) -> Result<(), Status> {
        let now = SystemTime::now();
        let due = match self.retry {
            // A failed renewal is tried again before what is held ends, or when it does.
            Some(retry) => self
                .held
                .iter()
                .map(|held| held.svid.not_after.min(retry.at))
                .min(),
            None => self.held.iter().map(|held| held.rotate_at).min(),
        };
        let pause = due
            .map_or(LOOK_AGAIN, |due| due.duration_since(now).unwrap_or_default())
            .min(LOOK_AGAIN);
        tokio::select! {
            _ = self.closing.wait_for(|closing| *closing) => Err(ending()),
            changed = self.entries.changed() => changed.map_err(|_| ending()),
            changed = self.trust.changed() => changed.map_err(|_| ending()),
            () = self.peer.gone() => Err(Status::permission_denied("the process that connected is gone")),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    fn message(&self, trust: &Trust) -> X509svidResponse {
        let bundle = bundle(trust);
        let svids = self.held.iter().map(|held| X509svid {
            spiffe_id: held.svid.id.to_string(),
            x509_svid: held
                .svid
                .chain
                .iter()
                .flat_map(|der| der.iter().copied())
                .collect(),
            x509_svid_key: held.svid.key.to_vec(),
            bundle: bundle.clone(),
            hint: held.grant.hint.as_deref().unwrap_or_default().to_owned(),
        });
        X509svidResponse {
            svids: svids.collect(),
            crl: trust.crls.clone(),
            federated_bundles: Default::default(),
        }
    }
}

/// How operators learn more.
fn ask(peer: &Peer) -> String {
    format!("hopguard why {} --socket {}", peer.pid(), peer.socket())
}

/// The roots, one after the other, DER (S-49).
fn bundle(trust: &Trust) -> Vec<u8> {
    trust.roots.iter().flat_map(|root| root.iter().copied()).collect()
}

fn since_1970(time: SystemTime) -> Option<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

fn ending() -> Status {
    Status::unavailable("the authority is ending")
}

/// Between -1 and 1. Without random numbers everybody rotates at the same time, which is still right.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0,
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests;
