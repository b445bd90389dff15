//! The authorities of the trust domain as they are in the store, with their keys: what is asked of it is signed by the
//! active one and recorded before it leaves, and what it publishes is the bundle of all that are trusted.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use tokio::sync::watch;

use super::{CaError, seconds};
use crate::authority::{Authority, AuthorityError, JwtAuthority, JwtKey, JwtSvid, Svid, Trust};
use crate::config::Config;
use crate::keys::{Disk, Signer};
use crate::store::{
    AuthorityKind, AuthorityRecord, AuthorityState, Issued, Recorder, Sqlite, Store, StoreError,
};
use crate::workload::{Issue, IssueError, IssueJwt, Issuer};

/// Before its end the authority warns at every start.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Signs in this process.
pub struct Keyring {
    active: ArcSwap<Active>,
    records: ArcSwap<Vec<AuthorityRecord>>,
    svid_ttl: Duration,
    jwt_svid_ttl: Duration,
    trust: watch::Sender<Arc<Trust>>,
    recorder: Recorder,
}

/// Who signs now.
struct Active {
    x509: Authority,
    jwt: JwtAuthority,
}

impl Keyring {
    /// Reads the authorities and their keys, and makes those that are missing.
    ///
    /// # Errors
    /// When the store or a key cannot be used, or the active root is not valid now.
    pub async fn open(config: &Config, data_dir: &Path, store: Arc<Sqlite>) -> Result<Self, CaError> {
        let failed = |source| CaError::Store {
            path: data_dir.join("state.sqlite"),
            source,
        };
        let keys = Disk::new(data_dir);
        let now = SystemTime::now();
        let mut records = store.authorities().await.map_err(failed)?;
        if records.is_empty() {
            for orphan in keys.names()? {
                tracing::warn!(
                    key = orphan,
                    "a key without an authority: it is not used, and not removed"
                );
            }
        }
        for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
            if active_of(&records, kind).is_none() {
                let record = first(config, &keys, kind, now)?;
                store.put_authority(&record).await.map_err(failed)?;
                records.push(record);
            }
        }
        let none = || failed(StoreError::Corrupt("no active authority".to_owned()));
        let x509 = active_of(&records, AuthorityKind::X509).ok_or_else(none)?;
        let certificate = CertificateDer::from(x509.certificate.clone());
        let x509 = Authority::open(&config.trust_domain, &certificate, keys.load(&x509.key)?, now)?;
        let jwt = active_of(&records, AuthorityKind::Jwt).ok_or_else(none)?;
        let jwt = JwtAuthority::open(&config.trust_domain, keys.load(&jwt.key)?, config.issuer())?;
        tell(&x509, config, now);
        let trust = trust(config, &records, now)?;
        let (recorder, work) = Recorder::new(store);
        tokio::spawn(work);
        Ok(Self {
            active: ArcSwap::from_pointee(Active { x509, jwt }),
            records: ArcSwap::from_pointee(records),
            svid_ttl: config.svid_ttl,
            jwt_svid_ttl: config.jwt_svid_ttl,
            trust: watch::Sender::new(Arc::new(trust)),
            recorder,
        })
    }

    /// All authorities, the newest last.
    pub fn records(&self) -> Arc<Vec<AuthorityRecord>> {
        self.records.load_full()
    }

    /// What is published now.
    pub fn published(&self) -> Arc<Trust> {
        self.trust.borrow().clone()
    }
}

fn active_of(records: &[AuthorityRecord], kind: AuthorityKind) -> Option<&AuthorityRecord> {
    records
        .iter()
        .rfind(|record| record.kind == kind && record.state == AuthorityState::Active)
}

fn tell(x509: &Authority, config: &Config, now: SystemTime) {
    let left = x509.not_after().duration_since(now).unwrap_or_default();
    tracing::info!(
        authority = x509.id(),
        seconds_left = left.as_secs(),
        "the authority's key and certificate are usable"
    );
    if left < WARN_BEFORE.max(config.svid_ttl * 2) {
        tracing::warn!(
            authority = x509.id(),
            seconds_left = left.as_secs(),
            "the authority's certificate ends soon"
        );
    }
}

fn trust(config: &Config, records: &[AuthorityRecord], now: SystemTime) -> Result<Trust, AuthorityError> {
    let live = |kind| {
        records
            .iter()
            .filter(move |record| record.kind == kind && record.not_after >= seconds(now))
    };
    Ok(Trust {
        domain: config.trust_domain.clone(),
        roots: live(AuthorityKind::X509)
            .map(|record| CertificateDer::from(record.certificate.clone()))
            .collect(),
        jwt_keys: live(AuthorityKind::Jwt)
            .map(|record| JwtKey::new(&record.certificate))
            .collect::<Result<_, _>>()?,
        crls: Vec::new(),
        sequence: u64::try_from(records.len()).unwrap_or(u64::MAX),
        refresh_hint: config.refresh_hint,
    })
}

/// The key is on the disk before the record that names it.
fn first(
    config: &Config,
    keys: &Disk,
    kind: AuthorityKind,
    now: SystemTime,
) -> Result<AuthorityRecord, CaError> {
    let mut suffix = [0; 8];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|_| AuthorityError::Random)?;
    let name = |kind: &str| format!("{kind}-{}", hex::encode(suffix));
    let (key, signer): (String, Arc<dyn Signer>);
    let (id, certificate, not_after) = match kind {
        AuthorityKind::X509 => {
            key = name("x509");
            signer = keys.create(&key)?;
            let certificate = Authority::create(&config.trust_domain, &signer, config.ca_ttl, now)?;
            let authority = Authority::open(&config.trust_domain, &certificate, signer, now)?;
            (
                authority.id().to_owned(),
                certificate.to_vec(),
                authority.not_after(),
            )
        }
        AuthorityKind::Jwt => {
            key = name("jwt");
            signer = keys.create(&key)?;
            let public = JwtKey::new(signer.public_key())?;
            (public.kid, public.point, now + config.ca_ttl)
        }
    };
    tracing::info!(authority = id, ?kind, trust_domain = %config.trust_domain, "a new authority was made");
    Ok(AuthorityRecord {
        kind,
        id,
        certificate,
        key,
        state: AuthorityState::Active,
        since: seconds(now),
        published: seconds(now),
        not_after: seconds(not_after),
    })
}

impl Keyring {
    /// As [`Issuer::issue`], for another life than that of workloads' SVIDs, which is never longer.
    pub async fn issue_for(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Arc<Svid>, IssueError> {
        let failed = |error: &dyn std::fmt::Display| IssueError(error.to_string());
        let active = self.active.load_full();
        let svid = active
            .x509
            .issue(id, ttl.min(self.svid_ttl), now)
            .map_err(|error| failed(&error))?;
        let record = Issued {
            serial: svid.serial.clone(),
            spiffe_id: svid.id.to_string(),
            authority: active.x509.id().to_owned(),
            not_after: seconds(svid.not_after),
        };
        self.recorder
            .record(record)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Arc::new(svid))
    }

    /// As [`Issuer::issue_jwt`], for another life, which is never longer.
    pub fn issue_jwt_for(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<JwtSvid, IssueError> {
        let active = self.active.load_full();
        let issued = active.jwt.issue(id, audience, ttl.min(self.jwt_svid_ttl), now);
        issued.map_err(|error| IssueError(error.to_string()))
    }

    /// The longest lives: of an SVID, and of a JWT-SVID. Rotation counts on them.
    pub fn lives(&self) -> (Duration, Duration) {
        (self.svid_ttl, self.jwt_svid_ttl)
    }
}

impl Issuer for Keyring {
    fn issue<'a>(&'a self, id: &'a SpiffeId, now: SystemTime) -> Issue<'a> {
        Box::pin(self.issue_for(id, self.svid_ttl, now))
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String], now: SystemTime) -> IssueJwt<'a> {
        Box::pin(async move { self.issue_jwt_for(id, audience, self.jwt_svid_ttl, now) })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }
}
