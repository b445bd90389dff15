//! An authority under the organisation's root: a key and its request leave, the chain that was signed enters and takes its
//! place among the prepared ones. From there it goes the way of all others.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::{Book, Keyring};
use crate::authority::{Authority, split, trial};
use crate::server::{CaError, seconds};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityState};

/// Keys that wait for their certificate have such names.
pub(super) const WAITING: &str = "csr-";

/// Why a chain was not taken in.
#[derive(Debug)]
pub enum Unimported {
    /// It is not what it must be.
    Chain(String),
    /// It is not the time for it.
    NotNow(&'static str),
    /// We failed.
    Failed(CaError),
}

impl From<CaError> for Unimported {
    fn from(error: CaError) -> Self {
        Self::Failed(error)
    }
}

impl Keyring {
    /// A request for an authority, PEM. The same key is asked for again until it has its certificate.
    ///
    /// # Errors
    /// When no key can be made or used.
    pub async fn request(&self) -> Result<String, CaError> {
        let book = self.book.lock().await;
        let name = match self.waiting(&book)?.pop() {
            Some(name) => name,
            None => {
                let mut suffix = [0; 8];
                aws_lc_rs::rand::fill(&mut suffix).map_err(|_| crate::authority::AuthorityError::Random)?;
                let name = format!("{WAITING}{}", hex::encode(suffix));
                self.keys.create(&name)?;
                name
            }
        };
        Ok(Authority::request(&self.lives.domain, &self.keys.load(&name)?)?)
    }

    /// Takes a chain in: own certificate first, the root last. Answers the id of the prepared authority.
    ///
    /// # Errors
    /// [`Unimported`].
    pub async fn import(&self, chain: &[u8], now: SystemTime) -> Result<AuthorityRecord, Unimported> {
        let mut book = self.book.lock().await;
        let prepared = |record: &AuthorityRecord| {
            record.kind == AuthorityKind::X509 && record.state == AuthorityState::Prepared
        };
        if book.records.iter().any(prepared) {
            return Err(Unimported::NotNow("another authority is prepared already"));
        }
        let (key, authority) = self.owner(&book, chain, now)?;
        trial(&authority, now).map_err(|error| Unimported::Chain(error.to_string()))?;
        let least = self.policy(AuthorityKind::X509).signed_life.saturating_mul(2);
        if seconds(authority.not_after()).saturating_sub(seconds(now)) < least {
            return Err(Unimported::Chain(
                "it ends before two lives of an SVID are over".to_owned(),
            ));
        }
        if book.records.iter().any(|record| record.id == authority.id()) {
            return Err(Unimported::Chain("it is here already".to_owned()));
        }
        let record = AuthorityRecord {
            kind: AuthorityKind::X509,
            id: authority.id().to_owned(),
            certificate: chain.to_vec(),
            key,
            state: AuthorityState::Prepared,
            since: seconds(now),
            published: 0,
            sequence: 0,
            held: false,
            until: 0,
            not_after: seconds(authority.not_after()),
        };
        self.put(&mut book, record.clone()).await?;
        self.publish(&mut book, now).await?;
        self.news.notify_one();
        tracing::info!(
            authority = record.id,
            "an authority under another root was imported"
        );
        Ok(record)
    }

    /// Whose chain it is among the keys that wait.
    fn owner(&self, book: &Book, chain: &[u8], now: SystemTime) -> Result<(String, Authority), Unimported> {
        let certificates = split(chain).map_err(|error| Unimported::Chain(error.to_string()))?;
        if certificates.len() < 2 {
            return Err(Unimported::Chain(
                "it must have the certificate that was signed, then what lies between, then the root"
                    .to_owned(),
            ));
        }
        let blob = CertificateDer::from(chain.to_vec());
        let (mut why, waiting) = (None, self.waiting(book)?);
        for name in waiting {
            let signer = self.keys.load(&name).map_err(CaError::from)?;
            match Authority::open(&self.lives.domain, &blob, signer, now) {
                Ok(authority) => return Ok((name, authority)),
                Err(error) => why = Some(error.to_string()),
            }
        }
        Err(match why {
            Some(why) => Unimported::Chain(why),
            None => Unimported::NotNow("no key waits for a certificate"),
        })
    }

    /// The keys that wait for their certificate.
    fn waiting(&self, book: &Book) -> Result<Vec<String>, CaError> {
        let mut names = self.keys.names()?;
        names.retain(|name| {
            name.starts_with(WAITING) && !book.records.iter().any(|record| record.key == *name)
        });
        Ok(names)
    }
}
