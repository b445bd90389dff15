//! Revocation lists as they come with a message: bytes enter, lists leave that can be read. One that cannot, or that nobody
//! whom we know signed, is told and changes nothing: what an earlier list took back stays taken back.

use std::collections::BTreeSet;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A revocation list that can be read.
#[derive(Debug)]
pub struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    issuer: Vec<u8>,
    serials: BTreeSet<Vec<u8>>,
}

impl RevocationList {
    /// Reads a list, strictly: version 2, no delta list, no critical extension that we do not know.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(der: &CertificateRevocationListDer<'static>) -> Result<Self, String> {
        // One library is strict, the other tells what we need.
        webpki::BorrowedCertRevocationList::from_der(der)
            .and_then(|list| list.to_owned())
            .map_err(|error| format!("{error:?}"))?;
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let serials = list.iter_revoked_certificates();
        Ok(Self {
            issuer: list.issuer().as_raw().to_vec(),
            serials: serials.map(|one| one.raw_serial().to_vec()).collect(),
            der: der.clone(),
        })
    }

    /// The name of who says that it signed it, DER.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Whether it has this serial number, as it stands in a certificate.
    pub fn has(&self, serial: &[u8]) -> bool {
        self.serials.contains(serial)
    }

    /// Whether the holder of this certificate signed it, and may.
    pub fn is_signed_by(&self, signer: &X509Certificate<'_>) -> bool {
        signer.subject().as_raw() == self.issuer.as_slice()
            && signer
                .key_usage()
                .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
            && self.verifies(signer.public_key())
    }

    fn verifies(&self, key: &SubjectPublicKeyInfo<'_>) -> bool {
        let Ok((_, list)) = CertificateRevocationList::from_der(&self.der) else {
            return false;
        };
        let algorithm = &list.signature_algorithm.algorithm;
        let weak = [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm);
        !weak && list.verify_signature(key).is_ok()
    }

    fn is_vouched_for(&self, signers: &[&CertificateDer<'_>]) -> bool {
        signers
            .iter()
            .any(|der| X509Certificate::from_der(der).is_ok_and(|(_, signer)| self.is_signed_by(&signer)))
    }
}

/// The lists that are in force with a message. `signers` are all that we know; `before` was in force until now.
pub(super) fn adopt(
    raw: &[Vec<u8>],
    signers: &[&CertificateDer<'_>],
    before: &[CertificateRevocationListDer<'static>],
) -> Vec<CertificateRevocationListDer<'static>> {
    let (mut lists, mut sure, mut unreadable) = (Vec::new(), BTreeSet::new(), false);
    let mut named = BTreeSet::new();
    for bytes in raw {
        let der = CertificateRevocationListDer::from(bytes.clone());
        match RevocationList::read(&der) {
            Ok(list) => {
                if list.is_vouched_for(signers) {
                    sure.insert(list.issuer.clone());
                } else {
                    tracing::warn!(
                        "a revocation list of the Workload API is signed by no authority of the bundle: it says something \
                         only about certificates of who signed it"
                    );
                }
                named.insert(list.issuer.clone());
                lists.push(der);
            }
            Err(problem) => {
                unreadable = true;
                tracing::error!(
                    problem,
                    "a revocation list of the Workload API cannot be read: what was revoked before stays so"
                );
            }
        }
    }
    for der in before {
        let Ok(list) = RevocationList::read(der) else {
            continue;
        };
        // In place of a sure one came a doubtful one, or perhaps the one that cannot be read.
        let replaced = named.contains(&list.issuer) && !sure.contains(&list.issuer);
        let missing = unreadable && !named.contains(&list.issuer);
        if (replaced || missing) && list.is_vouched_for(signers) && !lists.contains(der) {
            lists.push(der.clone());
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::super::testing::Ca;
    use super::*;

    fn der(bytes: &[u8]) -> CertificateRevocationListDer<'static> {
        CertificateRevocationListDer::from(bytes.to_vec())
    }

    fn roots(ca: &Ca) -> Vec<CertificateDer<'static>> {
        ca.bundles()
            .iter()
            .flat_map(|(_, roots)| roots.to_vec())
            .collect()
    }

    #[test]
    fn a_list_replaces_the_one_before_also_when_it_takes_back_less() {
        let ca = Ca::new("mesh.test");
        let roots = roots(&ca);
        let signers: Vec<_> = roots.iter().collect();
        let (more, less) = (ca.revoked(1, &[7, 8]), ca.revoked(2, &[8]));
        assert_eq!(
            adopt(std::slice::from_ref(&less), &signers, &[der(&more)]),
            [der(&less)]
        );
        assert_eq!(
            adopt(&[], &signers, &[der(&more)]),
            [],
            "it said that nothing is revoked"
        );
    }

    #[test]
    fn what_cannot_be_read_or_believed_leaves_the_list_before_in_force() {
        let ca = Ca::new("mesh.test");
        let other = ca.impostor();
        let roots = roots(&ca);
        let signers: Vec<_> = roots.iter().collect();
        let good = ca.revoked(1, &[7]);
        // The same name, another key.
        let forged = other.revoked(9, &[]);
        let mut cut = good.clone();
        cut.truncate(40);
        for bad in [vec![], vec![1, 2, 3], cut] {
            assert_eq!(
                adopt(std::slice::from_ref(&bad), &signers, &[der(&good)]),
                [der(&good)],
                "{bad:?}"
            );
            assert_eq!(adopt(&[bad], &signers, &[]), []);
        }
        let in_force = adopt(std::slice::from_ref(&forged), &signers, &[der(&good)]);
        assert!(in_force.contains(&der(&good)), "{in_force:?}");
        let again = adopt(&[forged], &signers, &in_force);
        assert_eq!(again.len(), 2, "they do not pile up");
    }

    #[test]
    fn a_list_has_its_serials_and_its_signer() {
        let ca = Ca::new("mesh.test");
        let other = ca.impostor();
        let list = RevocationList::read(&der(&ca.revoked(1, &[7, 200]))).unwrap();
        assert!(list.has(&[7]) && list.has(&[0, 200]) && !list.has(&[8]));
        let signed_by = |ca: &Ca| {
            let root = roots(ca).remove(0);
            list.is_signed_by(&X509Certificate::from_der(&root).unwrap().1)
        };
        assert!(signed_by(&ca) && !signed_by(&other));
    }
}
