//! Keys and records of authorities, made and unmade. A key file without a record that names it is never left behind: what is
//! about to be made or removed is in the store first, as discarded.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::{Book, JwtSigner, Keyring};
use crate::authority::{Authority, AuthorityError, JwtAuthority, JwtKey};
use crate::server::{CaError, seconds};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityState};

impl Keyring {
    /// Makes an authority: it is in no bundle yet.
    pub(super) async fn make(
        &self,
        book: &mut Book,
        kind: AuthorityKind,
        held: bool,
        now: SystemTime,
    ) -> Result<AuthorityRecord, CaError> {
        let mut suffix = [0; 8];
        aws_lc_rs::rand::fill(&mut suffix).map_err(|_| AuthorityError::Random)?;
        let prefix = match kind {
            AuthorityKind::X509 => "x509",
            AuthorityKind::Jwt => "jwt",
        };
        let key = format!("{prefix}-{}", hex::encode(suffix));
        let plan = AuthorityRecord {
            kind,
            id: format!("key {key}"),
            certificate: Vec::new(),
            key: key.clone(),
            state: AuthorityState::Discarded,
            since: seconds(now),
            published: 0,
            sequence: 0,
            held: false,
            until: 0,
            not_after: 0,
        };
        self.put(book, plan.clone()).await?;
        let signer = self.keys.create(&key)?;
        let (id, certificate, not_after) = match kind {
            AuthorityKind::X509 => {
                let domain = &self.lives.domain;
                let certificate = Authority::create(domain, &signer, self.lives.ca, now)?;
                let authority = Authority::open(domain, &certificate, signer, now)?;
                let not_after = authority.not_after();
                (authority.id().to_owned(), certificate.to_vec(), not_after)
            }
            AuthorityKind::Jwt => {
                let public = JwtKey::new(signer.public_key())?;
                (public.kid, public.point, now + self.lives.jwt_key)
            }
        };
        let record = AuthorityRecord {
            id,
            certificate,
            state: AuthorityState::Prepared,
            held,
            not_after: seconds(not_after),
            ..plan.clone()
        };
        self.put(book, record.clone()).await?;
        // The key is the authority's by now: nothing was removed.
        self.erase(book, &plan.id).await?;
        tracing::info!(authority = record.id, ?kind, trust_domain = %self.lives.domain, "a new authority was made");
        Ok(record)
    }

    /// Removes what is left of discarded ones: the key file, what was taken back of them, then the record.
    pub(super) async fn sweep(&self, book: &mut Book) -> Result<(), CaError> {
        let discarded: Vec<AuthorityRecord> = book
            .records
            .iter()
            .filter(|record| record.state == AuthorityState::Discarded)
            .cloned()
            .collect();
        for record in discarded {
            let used = book
                .records
                .iter()
                .any(|other| other.key == record.key && other.state != AuthorityState::Discarded);
            if !used {
                self.keys.remove(&record.key)?;
            }
            // No list speaks of it any more, and its room is for others.
            let forgotten = self.revocation.forget(&record.id).await;
            forgotten.map_err(|source| self.failed(source))?;
            self.forget(book, &record.id).await?;
        }
        Ok(())
    }

    /// Lets the active one of a kind sign: the newest, when a crash left two.
    pub(super) async fn align(
        &self,
        book: &mut Book,
        kind: AuthorityKind,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let mut active: Vec<AuthorityRecord> = book
            .records
            .iter()
            .filter(|record| record.kind == kind && record.state == AuthorityState::Active)
            .cloned()
            .collect();
        // In the order of their activation; of the same second the one that was made later is last.
        active.sort_by_key(|record| record.since);
        let Some(newest) = active.pop() else {
            return Ok(());
        };
        for mut old in active {
            old.state = AuthorityState::Retired;
            old.since = seconds(now);
            tracing::info!(authority = old.id, ?kind, "the authority signs no more");
            self.put(book, old).await?;
        }
        match kind {
            AuthorityKind::X509 => self.sign_with_x509(book, &newest, now),
            AuthorityKind::Jwt => self.sign_with_jwt(book, &newest),
        }
    }

    fn sign_with_x509(
        &self,
        book: &mut Book,
        record: &AuthorityRecord,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let signs = self.x509.load_full();
        // One that has ended signs nothing; its successor is made at once.
        if signs.is_some_and(|signs| signs.id() == record.id) || record.not_after < seconds(now) {
            return Ok(());
        }
        let authority = self.open_x509(record, now)?;
        if let Some(old) = self.x509.swap(Some(Arc::new(authority))) {
            let id = old.id().to_owned();
            let old: Arc<dyn Send + Sync> = old;
            book.former.push((id, Arc::downgrade(&old)));
        }
        tracing::info!(
            authority = record.id,
            "the authority signs X.509-SVIDs from now on"
        );
        Ok(())
    }

    /// Opens the authority of a record.
    pub(super) fn open_x509(&self, record: &AuthorityRecord, now: SystemTime) -> Result<Authority, CaError> {
        let certificate = CertificateDer::from(record.certificate.clone());
        let signer = self.keys.load(&record.key)?;
        Ok(Authority::open(&self.lives.domain, &certificate, signer, now)?)
    }

    fn sign_with_jwt(&self, book: &mut Book, record: &AuthorityRecord) -> Result<(), CaError> {
        let signs = self.jwt.load_full();
        if signs.is_some_and(|signs| signs.authority.key().kid == record.id) {
            return Ok(());
        }
        let authority = JwtAuthority::open(
            &self.lives.domain,
            self.keys.load(&record.key)?,
            self.lives.token_issuer.clone(),
        )?;
        let signer = JwtSigner {
            authority,
            until: AtomicI64::new(record.until),
        };
        if let Some(old) = self.jwt.swap(Some(Arc::new(signer))) {
            let id = old.authority.key().kid.clone();
            let old: Arc<dyn Send + Sync> = old;
            book.former.push((id, Arc::downgrade(&old)));
        }
        tracing::info!(key = record.id, "the key signs JWT-SVIDs from now on");
        Ok(())
    }
}
