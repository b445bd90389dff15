//! Revocation lists as they come with a message: bytes enter, lists leave that can be read. Who signed a list is told by the
//! key alone: authorities may share a name. What takes the place of a list and cannot be read or believed leaves that list in
//! force; where there is none, nobody knows what was revoked, and the message is refused.

use std::collections::BTreeSet;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::extensions::{ParsedExtension, X509Extension};
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
            && may_sign(signer)
            && self.verifies(signer.public_key()).is_some()
    }

    /// By the algorithms that certificates are checked with, so that whoever may issue one may also take it back.
    fn verifies(&self, key: &SubjectPublicKeyInfo<'_>) -> Option<()> {
        let (_, outer) = Any::from_der(&self.der).ok()?;
        let (after_tbs, _) = Any::from_der(outer.data).ok()?;
        let tbs = outer.data.strip_suffix(after_tbs)?;
        let (_, algorithm) = Any::from_der(after_tbs).ok()?;
        let (_, key_content) = Any::from_der(key.raw).ok()?;
        let (_, key_algorithm) = Any::from_der(key_content.data).ok()?;
        let (_, list) = CertificateRevocationList::from_der(&self.der).ok()?;
        let verifies = |known: &&dyn SignatureVerificationAlgorithm| {
            known.signature_alg_id().as_ref() == algorithm.data
                && known.public_key_alg_id().as_ref() == key_algorithm.data
                && known
                    .verify_signature(&key.subject_public_key.data, tbs, &list.signature_value.data)
                    .is_ok()
        };
        let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        known.all.iter().any(verifies).then_some(())
    }
}

fn may_sign(signer: &X509Certificate<'_>) -> bool {
    signer
        .key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
}

/// Whose list it says it is, so far as that can be told of one that cannot be read.
struct Claim {
    issuer: Vec<u8>,
    key_id: Option<Vec<u8>>,
}

impl Claim {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, list) = CertificateRevocationList::from_der(der).ok()?;
        let key_id = list.extensions().iter().find_map(key_id);
        Some(Self {
            issuer: list.issuer().as_raw().to_vec(),
            key_id,
        })
    }

    /// Whether it may be a list of this authority: not when both name their keys, and they are two.
    fn may_be_of(&self, signer: &X509Certificate<'_>) -> bool {
        let own = signer.extensions().iter().find_map(key_id);
        signer.subject().as_raw() == self.issuer.as_slice()
            && (own.is_none() || self.key_id.is_none() || own == self.key_id)
    }
}

/// The own key of a certificate, or the issuer's of a list.
fn key_id(extension: &X509Extension<'_>) -> Option<Vec<u8>> {
    match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    }
}

/// What came in place of a list and is none to rely on.
struct Doubt {
    problem: String,
    /// Nothing when not even that can be read: then it may be anybody's.
    claim: Option<Claim>,
    readable: bool,
}

/// The lists that are in force with a message. `signers` are all that we know; `before` was in force until now.
///
/// # Errors
/// What an authority revoked is not known: its list cannot be read or believed, and there is none from before.
pub(super) fn adopt(
    raw: &[Vec<u8>],
    signers: &[&CertificateDer<'_>],
    before: &[CertificateRevocationListDer<'static>],
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let signers = signers
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    let mut adoption = Adoption {
        signers: signers.map(|(_, signer)| signer).filter(may_sign).collect(),
        lists: Vec::new(),
        names: BTreeSet::new(),
        covered: BTreeSet::new(),
        doubts: Vec::new(),
    };
    for bytes in raw {
        adoption.take(bytes);
    }
    adoption.keep(before);
    adoption.finish()
}

struct Adoption<'a> {
    /// The authorities that may sign lists.
    signers: Vec<X509Certificate<'a>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// The issuers of the lists that came and can be read.
    names: BTreeSet<Vec<u8>>,
    /// The keys (DER) of which there is a list to rely on.
    covered: BTreeSet<Vec<u8>>,
    doubts: Vec<Doubt>,
}

impl Adoption<'_> {
    fn take(&mut self, bytes: &[u8]) {
        let der = CertificateRevocationListDer::from(bytes.to_vec());
        let list = match RevocationList::read(&der) {
            Ok(list) => list,
            Err(problem) => {
                return self.doubts.push(Doubt {
                    problem: format!("cannot be read ({problem})"),
                    claim: Claim::of(bytes),
                    readable: false,
                });
            }
        };
        let keys = self.keys(&list);
        if keys.is_empty() {
            self.doubts.push(Doubt {
                problem: "is signed by no authority of the bundle".into(),
                claim: Claim::of(bytes),
                readable: true,
            });
        }
        self.covered.extend(keys);
        self.names.insert(list.issuer);
        self.lists.push(der);
    }

    /// The keys of the authorities that signed it.
    fn keys(&self, list: &RevocationList) -> Vec<Vec<u8>> {
        let signed = self.signers.iter().filter(|signer| list.is_signed_by(signer));
        signed.map(|signer| signer.public_key().raw.to_vec()).collect()
    }

    /// Leaves in force what was, where something came in its place that is none to rely on.
    fn keep(&mut self, before: &[CertificateRevocationListDer<'static>]) {
        let mut kept = BTreeSet::new();
        for der in before {
            let Ok(list) = RevocationList::read(der) else {
                continue;
            };
            let keys = self.keys(&list);
            let stays = if keys.is_empty() {
                // Whose it is we never knew. Another of that name replaces it, so that they do not pile up.
                !self.names.contains(&list.issuer) && self.doubts.iter().any(|doubt| !doubt.readable)
            } else {
                let superseded = keys.iter().any(|key| self.covered.contains(key));
                let doubted = |doubt: &Doubt| doubt.claim.as_ref().is_none_or(|of| of.issuer == list.issuer);
                !superseded && self.doubts.iter().any(doubted)
            };
            if stays && !self.lists.contains(der) {
                self.lists.push(der.clone());
                self.names.insert(list.issuer);
                kept.extend(keys);
            }
        }
        self.covered.append(&mut kept);
    }

    fn finish(self) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        for doubt in &self.doubts {
            let problem = &doubt.problem;
            if !self.is_answered(doubt) {
                let whose = self.whose(doubt);
                return Err(format!(
                    "a revocation list of {whose} {problem}, and there is none from before: what was revoked is not known"
                ));
            }
            if doubt.readable {
                tracing::warn!(
                    "a revocation list of the Workload API {problem}: it says something only about certificates of who \
                     signed it"
                );
            } else {
                tracing::error!(
                    "a revocation list of the Workload API {problem}: what was revoked before stays so"
                );
            }
        }
        Ok(self.lists)
    }

    /// Whether everyone whose list it may be has another one that is in force.
    fn is_answered(&self, doubt: &Doubt) -> bool {
        let mut known = self
            .signers
            .iter()
            .filter(|signer| doubt.claim.as_ref().is_none_or(|claim| claim.may_be_of(signer)))
            .peekable();
        if known.peek().is_some() {
            return known.all(|signer| self.covered.contains(signer.public_key().raw));
        }
        // It is of someone whom only the peers know. One that can be read is asked when they show who it is.
        doubt.readable
            || doubt
                .claim
                .as_ref()
                .is_some_and(|claim| self.names.contains(&claim.issuer))
    }

    fn whose(&self, doubt: &Doubt) -> String {
        let Some(claim) = &doubt.claim else {
            return "an authority that cannot be told".into();
        };
        let name = x509_parser::x509::X509Name::from_der(&claim.issuer).map(|(_, name)| name.to_string());
        let printable = |c: &char| !c.is_control();
        let name: String = name
            .unwrap_or_default()
            .chars()
            .filter(printable)
            .take(128)
            .collect();
        format!("`{name}`")
    }
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
            adopt(std::slice::from_ref(&less), &signers, &[der(&more)]).unwrap(),
            [der(&less)]
        );
        assert_eq!(
            adopt(&[], &signers, &[der(&more)]).unwrap(),
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
                adopt(std::slice::from_ref(&bad), &signers, &[der(&good)]).unwrap(),
                [der(&good)],
                "{bad:?}"
            );
        }
        let in_force = adopt(std::slice::from_ref(&forged), &signers, &[der(&good)]).unwrap();
        assert!(in_force.contains(&der(&good)), "{in_force:?}");
        let again = adopt(&[forged], &signers, &in_force).unwrap();
        assert_eq!(again.len(), 2, "they do not pile up");
    }

    /// The extension that numbers it made into the one of a list of changes (RFC 5280 5.2.4): none that is read, and whose it
    /// is can be told.
    fn of_changes(ca: &Ca) -> Vec<u8> {
        let mut list = ca.revoked(3, &[7]);
        let number = [0x55, 0x1d, 20];
        let at = list.windows(3).position(|window| window == number).unwrap();
        list[at + 2] = 27;
        list
    }

    #[test]
    fn without_a_list_from_before_one_that_cannot_be_read_or_believed_is_an_error() {
        let (ca, friend) = (Ca::new("mesh.test"), Ca::new("friend.test"));
        let roots = [roots(&ca), roots(&friend)].concat();
        let signers: Vec<_> = roots.iter().collect();
        let (ours, theirs) = (ca.revoked(1, &[7]), friend.revoked(1, &[7]));
        let unreadable = of_changes(&ca);
        assert!(RevocationList::read(&der(&unreadable)).is_err());
        let mut unbelievable = ours.clone();
        *unbelievable.last_mut().unwrap() ^= 1;
        for bad in [&unreadable, &unbelievable] {
            for before in [vec![], vec![der(&theirs)]] {
                let said = adopt(&[bad.clone(), theirs.clone()], &signers, &before).unwrap_err();
                assert!(
                    said.contains("CN=mesh.test") && said.contains("not known"),
                    "{said}"
                );
            }
            let kept = adopt(&[bad.clone(), theirs.clone()], &signers, &[der(&ours)]).unwrap();
            assert!(kept.contains(&der(&ours)) && kept.contains(&der(&theirs)));
        }
        // It may be anyone's, and one of them never had a list.
        for garbage in [vec![], vec![1, 2, 3], ours[..40].to_vec()] {
            for before in [vec![], vec![der(&ours)], vec![der(&theirs)]] {
                let said = adopt(std::slice::from_ref(&garbage), &signers, &before).unwrap_err();
                assert!(said.contains("cannot be told"), "{said}");
            }
            let kept = adopt(&[garbage, theirs.clone()], &signers, &[der(&ours)]).unwrap();
            assert_eq!(kept, [der(&theirs), der(&ours)]);
        }
    }

    #[test]
    fn of_two_authorities_with_one_name_each_has_its_own_list() {
        let ca = Ca::new("mesh.test");
        let other = ca.impostor();
        let both = [roots(&ca), roots(&other)].concat();
        let signers: Vec<_> = both.iter().collect();
        let (first, second) = (ca.revoked(1, &[7]), other.revoked(1, &[8]));
        let mut broken = ca.revoked(2, &[7, 9]);
        *broken.last_mut().unwrap() ^= 1;
        // Of the name alone, the list of the other would stand for the one that cannot be believed.
        let kept = adopt(&[broken.clone(), second.clone()], &signers, &[der(&first)]).unwrap();
        assert!(kept.contains(&der(&first)), "{kept:?}");
        adopt(&[broken, second], &signers, &[]).unwrap_err();
        // The other left the bundle; its list goes on to come, and is nobody's.
        let known = roots(&ca);
        let known: Vec<_> = known.iter().collect();
        adopt(&[other.revoked(2, &[])], &known, &[]).unwrap();
    }

    #[test]
    fn lists_are_checked_with_the_algorithms_of_chains() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
        ] {
            let ca = Ca::with_key("mesh.test", rcgen::KeyPair::generate_for(algorithm).unwrap());
            let root = roots(&ca).remove(0);
            let (_, signer) = X509Certificate::from_der(&root).unwrap();
            let list = ca.revoked(1, &[7]);
            assert!(
                RevocationList::read(&der(&list)).unwrap().is_signed_by(&signer),
                "{algorithm:?}"
            );
            let mut forged = list;
            let at = forged.len() - 1;
            forged[at] ^= 1;
            assert!(!RevocationList::read(&der(&forged)).is_ok_and(|list| list.is_signed_by(&signer)));
        }
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
