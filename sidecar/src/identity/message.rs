//! One message of `FetchX509SVID`: the generated type enters, checked identities leave. A message with an empty mandatory
//! field is refused whole (Workload API 4.2), and so is an SVID whose key, ID or certificate does not fit the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use spiffe::{SpiffeId, TrustDomain};

use super::proto::X509svidResponse;
use super::value::{Bundles, Identity, Key};
use super::{IdentityError, der, leaf, lists, parse_id};

/// More SVIDs, federated bundles or revocation lists than this is no message for one workload.
const MAX_ENTRIES: usize = 1024;

/// One SVID as the Workload API handed it out.
#[derive(Debug)]
pub struct Fetched {
    /// The SVID, its key and the bundles.
    pub identity: Identity,
    /// What the issuer says it is for; empty when it says nothing.
    pub hint: String,
}

/// A message whose mandatory fields are there. The key bytes in it are wiped when it is dropped.
pub(super) struct Message(X509svidResponse);

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} SVIDs)", self.0.svids.len())
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        for svid in &mut self.0.svids {
            zeroize::Zeroize::zeroize(&mut svid.x509_svid_key);
        }
    }
}

impl Message {
    pub(super) fn check(raw: X509svidResponse) -> Result<Self, IdentityError> {
        let message = Self(raw);
        let raw = &message.0;
        if raw.svids.is_empty() {
            return Err(bad("it has no SVID"));
        }
        if [raw.svids.len(), raw.federated_bundles.len(), raw.crl.len()]
            .iter()
            .any(|n| *n > MAX_ENTRIES)
        {
            return Err(bad(format!("more than {MAX_ENTRIES} entries")));
        }
        for svid in &raw.svids {
            for (field, empty) in [
                ("spiffe_id", svid.spiffe_id.is_empty()),
                ("x509_svid", svid.x509_svid.is_empty()),
                ("x509_svid_key", svid.x509_svid_key.is_empty()),
                ("bundle", svid.bundle.is_empty()),
            ] {
                if empty {
                    return Err(bad(format!("the mandatory field `{field}` is empty")));
                }
            }
        }
        Ok(message)
    }

    /// ID and hint of each SVID, in the order of the message: the first is the default identity.
    pub(super) fn offers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .svids
            .iter()
            .map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str()))
    }

    /// The `at`-th SVID as an identity. `before` are the revocation lists that were in force until now.
    pub(super) fn take(
        &mut self,
        at: usize,
        before: &[CertificateRevocationListDer<'static>],
        now: SystemTime,
    ) -> Result<Fetched, IdentityError> {
        let mut roots = federated(&self.0.federated_bundles);
        let svid = self.0.svids.get_mut(at).ok_or_else(|| bad("no such SVID"))?;
        let key = Key::new(std::mem::take(&mut svid.x509_svid_key));
        let id = parse_id(&svid.spiffe_id).map_err(|e| bad(format!("`{}`: {e}", svid.spiffe_id)))?;
        let own = authorities(&svid.bundle).map_err(|e| bad(format!("bundle of {id}: {e}")))?;
        // The bundle that came with the SVID is the one of its trust domain, whatever the other map says.
        roots.insert(id.trust_domain().clone(), own);
        let chain =
            der::split(&svid.x509_svid, der::MAX_CHAIN).map_err(|e| bad(format!("SVID {id}: {e}")))?;
        let between = chain.iter().skip(1);
        let signers: Vec<_> = roots.values().flatten().chain(between).collect();
        let crls = lists::adopt(&self.0.crl, &signers, before).map_err(bad)?;
        let identity = identity((id, chain), key, Bundles::new(roots, crls), now)?;
        Ok(Fetched {
            identity,
            hint: std::mem::take(&mut svid.hint),
        })
    }
}

fn identity(
    (id, chain): (SpiffeId, Vec<CertificateDer<'static>>),
    key: Key,
    bundles: Bundles,
    now: SystemTime,
) -> Result<Identity, IdentityError> {
    let of = |e: String| bad(format!("SVID {id}: {e}"));
    let first = chain.first().ok_or_else(|| of("no certificate".into()))?;
    let leaf = leaf(first).map_err(|e| of(e.to_string()))?;
    if leaf.id != id {
        return Err(of(format!("the certificate is for {}", leaf.id)));
    }
    if leaf.not_after <= now {
        return Err(of("already expired".into()));
    }
    check_key(&chain, &key).map_err(of)?;
    let bundles = Arc::new(bundles);
    Ok(Identity {
        id,
        chain,
        key,
        bundles,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    })
}

/// The key must be the one of the leaf: with another every handshake would fail, and nobody would know why.
fn check_key(chain: &[CertificateDer<'static>], key: &Key) -> Result<(), String> {
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from(key.pkcs8()))
        .map_err(|_| "the private key is not PKCS#8 of a kind we can sign with".to_owned())?;
    CertifiedKey::new(chain.to_vec(), signer)
        .keys_match()
        .map_err(|_| "the private key does not belong to the certificate".to_owned())
}

/// The certificates of a bundle that can sign; an explicit non-authority in it is no root.
fn authorities(bundle: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = der::split(bundle, der::MAX_ROOTS)?;
    found.retain(|cert| match leaf::parse(cert) {
        Ok(parsed) => parsed
            .basic_constraints()
            .is_ok_and(|bc| bc.is_none_or(|bc| bc.value.ca)),
        Err(_) => false,
    });
    if found.is_empty() {
        Err("no certificate authority in it".into())
    } else {
        Ok(found)
    }
}

/// Federated bundles; one that cannot be read is a trust domain that is not trusted, and no reason to refuse our own SVID.
fn federated(
    raw: &std::collections::HashMap<String, Vec<u8>>,
) -> BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
    let mut roots = BTreeMap::new();
    for (name, bundle) in raw {
        let domain = TrustDomain::new(name)
            .ok()
            .filter(|domain| domain.id_string() == *name);
        match (domain, authorities(bundle)) {
            (Some(domain), Ok(certs)) => drop(roots.insert(domain, certs)),
            (None, _) => tracing::warn!(
                name,
                "federated bundle ignored: its key is not spiffe://trust-domain"
            ),
            (_, Err(problem)) => tracing::warn!(
                name,
                problem,
                "federated bundle ignored, its members are not trusted"
            ),
        }
    }
    roots
}

fn bad(problem: impl Into<String>) -> IdentityError {
    IdentityError::BadMessage(problem.into())
}
