//! An authority that the organisation's root vouches for: a request to be signed leaves, the chain that came back enters and
//! is held against what it must be. Then it issues as any other, and its SVIDs carry what lies between them and the root.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage};

use super::{Authority, AuthorityError, RemoteKey, check, profile};
use crate::keys::Signer;

/// A chain longer than this is nobody's.
const MOST: usize = 5;

impl Authority {
    /// A certificate signing request (PKCS#10, PEM) for an authority of the trust domain with this key.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn request(domain: &TrustDomain, signer: &Arc<dyn Signer>) -> Result<String, AuthorityError> {
        let key = RemoteKey(signer.clone());
        let name = hex::encode(
            digest(&SHA256, signer.public_key())
                .as_ref()
                .get(..16)
                .unwrap_or_default(),
        );
        Ok(profile::request(domain, &name)?.serialize_request(&key)?.pem()?)
    }
}

/// The name of an authority whose serial number somebody else chose: of its certificate alone, so that no two are one.
pub(super) fn name(certificate: &CertificateDer<'_>) -> String {
    hex::encode(
        digest(&SHA256, certificate)
            .as_ref()
            .get(..16)
            .unwrap_or_default(),
    )
}

/// Holds a chain (own certificate first, the root last) against what an intermediate of this trust domain must be.
pub(super) fn check(
    chain: &[CertificateDer<'static>],
    domain: &TrustDomain,
    key: &[u8],
) -> Result<check::Root, AuthorityError> {
    let wrong = |what: String| Err(AuthorityError::Profile(what));
    let [own, above @ ..] = chain else {
        return wrong("there is no certificate".to_owned());
    };
    if above.is_empty() || chain.len() > MOST {
        return wrong(format!(
            "the chain must lead to the root that signed it, in at most {MOST} certificates"
        ));
    }
    let mut found = check::intermediate(own, domain, key)?;
    for (at, pair) in chain.windows(2).enumerate() {
        if let [below, above] = pair {
            let validity = check::above(below, above, at + 1).map_err(|error| match error {
                AuthorityError::Profile(what) => {
                    AuthorityError::Profile(format!("certificate {}: {what}", at + 2))
                }
                other => other,
            })?;
            found.validity.not_before = found.validity.not_before.max(validity.not_before);
            found.validity.not_after = found.validity.not_after.min(validity.not_after);
        }
    }
    if let Some(root) = chain.last() {
        check::self_signed(root)?;
    }
    Ok(found)
}

/// Whether what it would sign is accepted by an independent verifier that knows the root alone: path lengths, extended key
/// usages and all that a root may demand. Nothing of the trial is kept.
pub fn trial(authority: &Authority, now: SystemTime) -> Result<(), AuthorityError> {
    let failed = |what: &dyn std::fmt::Display| {
        AuthorityError::Profile(format!("an SVID below it would be refused: {what}"))
    };
    let id =
        SpiffeId::new(format!("{}/hopguard/trial", authority.domain.id_string())).map_err(|e| failed(&e))?;
    let svid = authority.issue(&id, std::time::Duration::from_secs(60), now)?;
    let [leaf, between @ ..] = svid.chain.as_slice() else {
        return Err(failed(&"there is none"));
    };
    let anchor = webpki::anchor_from_trusted_cert(&authority.anchor).map_err(|e| failed(&e))?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    std::slice::from_ref(&anchor),
                    between,
                    UnixTime::since_unix_epoch(since),
                    usage,
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
