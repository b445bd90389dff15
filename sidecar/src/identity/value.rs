//! The values of the room: an identity, its key and the bundles that its Workload API vouches for. They are made once
//! and never change; a rotation makes new ones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use spiffe::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

/// One X.509-SVID with its key, and the roots that peers are checked against.
#[derive(Debug)]
pub struct Identity {
    /// The SPIFFE ID in the leaf.
    pub id: SpiffeId,
    /// The certificate chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: Key,
    /// The roots of the own and of federated trust domains, each apart.
    pub bundles: Arc<Bundles>,
    /// The leaf is not valid before.
    pub not_before: SystemTime,
    /// The leaf is not valid after.
    pub not_after: SystemTime,
}

impl Identity {
    /// Whether `other` is this very SVID with the very same roots, so that nothing has to be built anew.
    pub fn same_as(&self, other: &Self) -> bool {
        self.chain == other.chain && self.bundles == other.bundles && self.key.0 == other.key.0
    }
}

/// A private key, PKCS#8 DER. Never printed, zeroized when dropped.
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Takes over PKCS#8 DER.
    pub fn new(pkcs8: Vec<u8>) -> Self {
        Self(Zeroizing::new(pkcs8))
    }

    /// The key as a view for whoever signs or writes it to a file.
    pub fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.as_slice())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Trust domain to its roots. Roots of two trust domains never meet in one set (Workload API 4.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundles {
    roots: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Bundles {
    /// From roots by trust domain and the revocation lists that came with them.
    pub fn new(
        roots: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Self {
        Self { roots, crls }
    }

    /// The roots of one trust domain; none when the domain is unknown.
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&[CertificateDer<'static>]> {
        self.roots.get(trust_domain).map(Vec::as_slice)
    }

    /// Every trust domain with its roots, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &[CertificateDer<'static>])> {
        self.roots
            .iter()
            .map(|(domain, roots)| (domain, roots.as_slice()))
    }

    /// The revocation lists of the Workload API (field `crl`).
    pub fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }
}
