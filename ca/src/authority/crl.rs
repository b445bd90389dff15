//! Revocation lists: the serial numbers that an authority takes back enter, a list that it signed leaves (RFC 5280,
//! section 5). As with certificates, what was signed is read back and held against what was wanted.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Authority, AuthorityError, check};

/// Until when a list is good for verifiers that insist on a fresh one. Longer than any SVID lives, so that a list never ends
/// before what it speaks of while the authority is away.
pub const LIST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks of verifiers may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(60);

/// One certificate on a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it was taken back.
    pub since: SystemTime,
}

impl Authority {
    /// Signs the list of what it takes back; `number` grows with every list of this authority.
    ///
    /// # Errors
    /// When a serial number is none, signing fails, or what was signed is not what was asked for.
    pub fn revocation_list(
        &self,
        number: u64,
        listed: &[Listed],
        now: SystemTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        let revoked_certs = listed
            .iter()
            .map(|one| {
                let serial = hex::decode(&one.serial)
                    .map_err(|_| AuthorityError::Profile(format!("`{}` is no serial number", one.serial)))?;
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&serial),
                    revocation_time: OffsetDateTime::from(one.since),
                    // Nobody tells us more; `unspecified` is written by leaving the reason out (5.3.1).
                    reason_code: Some(RevocationReason::Unspecified),
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, AuthorityError>>()?;
        let params = CertificateRevocationListParams {
            this_update: OffsetDateTime::from(now - BACKDATE),
            next_update: OffsetDateTime::from(now + LIST_LIFE),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_id.clone()),
        };
        let list = params.signed_by(&self.issuer)?;
        check::list(
            list.der(),
            &check::WantedList {
                certificate: &self.certificate,
                by: &self.public_key,
                number,
                listed,
            },
        )?;
        Ok(list.der().to_vec())
    }
}

/// The serial numbers on a list, hexadecimal; none when it cannot be read.
pub fn listed_serials(list: &[u8]) -> BTreeSet<String> {
    let Ok((_, list)) = CertificateRevocationList::from_der(list) else {
        return BTreeSet::new();
    };
    let serials = list.iter_revoked_certificates();
    serials
        .map(|one| hex::encode(one.user_certificate.to_bytes_be()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use spiffe::{SpiffeId, TrustDomain};
    use webpki::{
        CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
        anchor_from_trusted_cert,
    };

    use super::*;
    use crate::authority::Svid;
    use crate::keys::Disk;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn authority() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let signer = Disk::new(dir.path()).create("k").unwrap();
        let domain = TrustDomain::new("td").unwrap();
        let certificate = Authority::create(&domain, &signer, HOUR * 24, now()).unwrap();
        Authority::open(&domain, &certificate, Arc::clone(&signer), now()).unwrap()
    }

    fn issue(authority: &Authority) -> Svid {
        let id = SpiffeId::new("spiffe://td/a").unwrap();
        authority.issue(&id, HOUR, now()).unwrap()
    }

    fn listed(svid: &Svid) -> Listed {
        Listed {
            serial: svid.serial.clone(),
            since: now(),
        }
    }

    /// As a strict verifier judges: a list must be there, and fresh.
    fn webpki(authority: &Authority, svid: &Svid, list: &[u8]) -> Result<(), webpki::Error> {
        let anchor = anchor_from_trusted_cert(authority.certificate()).unwrap();
        let list = CertRevocationList::Owned(OwnedCertRevocationList::from_der(list).unwrap());
        let lists = [&list];
        let revocation = RevocationOptionsBuilder::new(&lists)
            .unwrap()
            .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
            .with_status_policy(webpki::UnknownStatusPolicy::Deny)
            .build();
        EndEntityCert::try_from(&svid.chain[0])
            .unwrap()
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[anchor],
                &[],
                rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_001)),
                KeyUsage::client_auth(),
                Some(revocation),
                None,
            )
            .map(|_| ())
    }

    #[test]
    fn an_independent_library_refuses_what_is_listed_and_nothing_else() {
        let authority = authority();
        for count in [0_usize, 1, 40] {
            let (gone, stays) = (issue(&authority), issue(&authority));
            let mut all: Vec<Listed> = (1..count).map(|_| listed(&issue(&authority))).collect();
            all.push(listed(&gone));
            let list = authority
                .revocation_list(u64::MAX - 1, if count == 0 { &[] } else { &all }, now())
                .unwrap();
            webpki(&authority, &stays, &list).unwrap();
            let verdict = webpki(&authority, &gone, &list);
            assert_eq!(verdict.is_ok(), count == 0, "{verdict:?}");
            assert!(count == 0 || matches!(verdict, Err(webpki::Error::CertRevoked)));
        }
    }

    #[test]
    fn a_list_that_is_not_what_was_wanted_never_leaves() {
        let (ours, other) = (authority(), authority());
        let wanted = [listed(&issue(&ours))];
        let more = [wanted[0].clone(), listed(&issue(&ours))];
        let list = ours.revocation_list(7, &wanted, now()).unwrap();
        let judge = |of: &Authority, number, listed: &[Listed]| {
            let wanted = check::WantedList {
                certificate: &of.certificate,
                by: &of.public_key,
                number,
                listed,
            };
            check::list(&list, &wanted)
        };
        judge(&ours, 7, &wanted).unwrap();
        assert!(judge(&ours, 8, &wanted).is_err(), "another number");
        assert!(judge(&ours, 7, &more).is_err(), "one is missing");
        assert!(judge(&ours, 7, &[]).is_err(), "one too many");
        assert!(judge(&other, 7, &wanted).is_err(), "another authority");
        assert!(
            ours.revocation_list(
                1,
                &[Listed {
                    serial: "no".into(),
                    since: now()
                }],
                now()
            )
            .is_err()
        );
    }
}
