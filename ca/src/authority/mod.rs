//! The X.509 authority: a SPIFFE ID enters, an X.509-SVID with a fresh key leaves. What a certificate shall be
//! (`profile`) and what came out of signing (`check`) are told apart, and nothing leaves that was not checked. It
//! never signs for another trust domain, and never past its own end.

mod check;
mod crl;
mod intermediate;
mod jwt;
mod lifetime;
mod profile;
pub mod slot;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::{Issuer, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::keys::{KeyError, Signer};
pub use crl::{LIST_LIFE, Listed, listed_serials};
pub use intermediate::trial;
pub use jwt::{JwtAuthority, JwtKey, JwtSvid};
pub use lifetime::{Validity, backdate, rotate_at};

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Building or signing failed.
    #[error("the certificate could not be made: {0}")]
    Build(#[from] rcgen::Error),
    /// What came out is not what the profile says; it was thrown away.
    #[error("the certificate does not have its profile: {0}")]
    Profile(String),
    /// The authority's own certificate is not valid now.
    #[error("the authority's certificate is valid from {from} to {to} only")]
    NotValidNow {
        /// Start of validity.
        from: String,
        /// End of validity.
        to: String,
    },
    /// The identity is not ours to give.
    #[error("`{0}` is not an identity that this authority may give")]
    NotOurs(SpiffeId),
    /// The random generator failed.
    #[error("no random numbers")]
    Random,
}

/// An X.509-SVID as its workload gets it.
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// The leaf; intermediates would follow it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Id of the authority that signed it.
    pub authority: String,
    /// Sequence number of the bundle that it will be sent with, or of an older one; whoever publishes bundles sets it.
    pub bundle: u64,
    /// When it was issued (not backdated: rotation counts from here).
    pub issued_at: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// The trust bundle: what a workload verifies its peers against. It is published whole, and every change of it is a new
/// sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The trust domain.
    pub domain: TrustDomain,
    /// Its authorities' certificates; never empty.
    pub roots: Vec<CertificateDer<'static>>,
    /// The keys of its JWT-SVIDs.
    pub jwt_keys: Vec<JwtKey>,
    /// Its revocation lists, DER; each signed by one of the roots.
    pub crls: Vec<Vec<u8>>,
    /// Grows with every change, also over restarts (S-59).
    pub sequence: u64,
    /// How often those who poll shall come back (S-60).
    pub refresh_hint: Duration,
}

/// One signing authority.
pub struct Authority {
    domain: TrustDomain,
    certificate: CertificateDer<'static>,
    /// What lies between its SVIDs and the root, its own certificate first; empty when it is the root itself.
    between: Vec<CertificateDer<'static>>,
    anchor: CertificateDer<'static>,
    id: String,
    validity: Validity,
    public_key: Vec<u8>,
    key_id: Vec<u8>,
    issuer: Issuer<'static, RemoteKey>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a self-signed root for the trust domain (S-13, S-15), and answers its certificate.
    ///
    /// # Errors
    /// When the key cannot sign, or what it signed is not a root.
    pub fn create(
        domain: &TrustDomain,
        signer: &Arc<dyn Signer>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let serial = serial(now)?;
        let validity = Validity::of_authority(now, ttl);
        let key = RemoteKey(signer.clone());
        let certificate = profile::root(domain, &validity, &serial)?.self_signed(&key)?;
        check::root(certificate.der(), domain, signer.public_key())?;
        Ok(certificate.der().clone())
    }

    /// An authority from its certificate and the key that belongs to it. An intermediate is followed by what leads to the root
    /// that vouches for it, and by that root, DER one after the other.
    ///
    /// # Errors
    /// When they do not belong together, it is no authority of the trust domain, or it is not valid now.
    pub fn open(
        domain: &TrustDomain,
        certificate: &CertificateDer<'static>,
        signer: Arc<dyn Signer>,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let mut chain = split(certificate)?;
        let own = chain
            .first()
            .cloned()
            .ok_or_else(|| AuthorityError::Profile("it is empty".to_owned()))?;
        let (root, id) = if chain.len() > 1 {
            (
                intermediate::check(&chain, domain, signer.public_key())?,
                intermediate::name(&own),
            )
        } else {
            let root = check::root(&own, domain, signer.public_key())?;
            let id = root.serial.clone();
            (root, id)
        };
        let anchor = chain.pop().unwrap_or_else(|| own.clone());
        if !root.validity.contains(now) {
            return Err(AuthorityError::NotValidNow {
                from: root.validity.from(),
                to: root.validity.to(),
            });
        }
        let public_key = signer.public_key().to_vec();
        Ok(Self {
            domain: domain.clone(),
            certificate: own.clone(),
            between: chain,
            anchor,
            id,
            validity: root.validity,
            public_key,
            key_id: root.key_id,
            issuer: Issuer::from_ca_cert_der(&own, RemoteKey(signer))?,
        })
    }

    /// Its name: its serial number, or a digest of the certificate when somebody else chose that number. Hexadecimal.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The root that vouches for it: itself, or the organisation's.
    pub fn anchor(&self) -> &CertificateDer<'static> {
        &self.anchor
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// Issues an SVID with a fresh key.
    ///
    /// # Errors
    /// When the identity is not below our trust domain, when our own certificate is not valid now, when signing fails,
    /// and when what was signed is not what was asked for.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Svid, AuthorityError> {
        if !id.is_member_of(&self.domain) || id.path().is_empty() {
            return Err(AuthorityError::NotOurs(id.clone()));
        }
        if !self.validity.contains(now) {
            return Err(AuthorityError::NotValidNow {
                from: self.validity.from(),
                to: self.validity.to(),
            });
        }
        let validity = Validity::of_svid(now, ttl, &self.validity);
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Crypto)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Crypto)?;
        let public = LeafKey(&pair);
        let leaf = profile::leaf(id, &validity, &serial(now)?)?.signed_by(&public, &self.issuer)?;
        let serial = check::leaf(
            leaf.der(),
            id,
            &validity,
            &check::Signed {
                by: &self.public_key,
                key: public.der_bytes(),
            },
        )?;
        Ok(Svid {
            id: id.clone(),
            chain: std::iter::once(leaf.der().clone())
                .chain(self.between.iter().cloned())
                .collect(),
            key: Zeroizing::new(document.as_ref().to_vec()),
            serial,
            authority: self.id.clone(),
            bundle: 0,
            issued_at: now,
            not_after: validity.not_after,
        })
    }
}

/// Whether two authorities (their own certificate first, the root that vouches for it last, DER one after the other) hang on
/// the same root.
pub fn shares_anchor(one: &[u8], other: &[u8]) -> bool {
    let last = |chain| anchor(chain).ok();
    last(one).is_some_and(|root| last(other) == Some(root))
}

/// The root of an authority as it is kept.
///
/// # Errors
/// When it is no chain.
pub fn anchor(chain: &[u8]) -> Result<CertificateDer<'static>, AuthorityError> {
    let last = split(chain)?.pop();
    last.ok_or_else(|| AuthorityError::Profile("it is empty".to_owned()))
}

/// The certificates of a chain, DER one after the other.
///
/// # Errors
/// When something else is there.
pub fn split(mut chain: &[u8]) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let mut certificates = Vec::new();
    while !chain.is_empty() {
        let (rest, _) = X509Certificate::from_der(chain)
            .map_err(|error| AuthorityError::Profile(format!("a certificate of its chain: {error}")))?;
        let length = chain.len().saturating_sub(rest.len());
        let (one, _) = chain.split_at(length);
        certificates.push(CertificateDer::from(one.to_vec()));
        chain = rest;
    }
    Ok(certificates)
}

/// Whether a certificate names itself as its issuer: then we made it, and can make its successor.
pub fn self_signed(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.issuer() == certificate.subject())
}

/// 16 bytes (RFC 5280, 4.1.2.2): the milliseconds since 1970 in six, then 80 random bits, more than the 64 that make
/// it unpredictable. In the order of time, so that the store writes what is issued together next to each other.
fn serial(now: SystemTime) -> Result<[u8; 16], AuthorityError> {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| AuthorityError::Random)?;
    let millis = u64::try_from(since.as_millis()).map_err(|_| AuthorityError::Random)?;
    let mut random = [0; 10];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| AuthorityError::Random)?;
    let mut bytes = [0; 16];
    for (to, from) in bytes
        .iter_mut()
        .zip(millis.to_be_bytes().iter().skip(2).chain(&random))
    {
        *to = *from;
    }
    // A time before 1970 or a clock at its very start: zero is no serial number.
    if bytes == [0; 16] {
        Err(AuthorityError::Random)
    } else {
        Ok(bytes)
    }
}

/// A [`Signer`] as rcgen wants it.
struct RemoteKey(Arc<dyn Signer>);

impl PublicKeyData for RemoteKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for RemoteKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The public half of a workload's key.
struct LeafKey<'a>(&'a EcdsaKeyPair);

impl PublicKeyData for LeafKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests;
