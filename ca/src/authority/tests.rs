use std::time::UNIX_EPOCH;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;
use crate::keys::Disk;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn signer() -> (tempfile::TempDir, Arc<dyn Signer>) {
    let dir = tempfile::tempdir().unwrap();
    let signer = Disk::new(dir.path()).create("k").unwrap();
    (dir, signer)
}

fn authority(ttl: Duration) -> Authority {
    let (_dir, signer) = signer();
    let certificate = Authority::create(&domain(), &signer, ttl, now()).unwrap();
    Authority::open(&domain(), &certificate, signer, now()).unwrap()
}

#[test]
fn an_svid_verifies_for_server_and_client_by_an_independent_library() {
    let authority = authority(HOUR * 24);
    let svid = authority.issue(&id("spiffe://td/a"), HOUR, now()).unwrap();
    let anchor = anchor_from_trusted_cert(authority.certificate()).unwrap();
    let leaf = EndEntityCert::try_from(&svid.chain[0]).unwrap();
    let at = |seconds: u64| {
        rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000 + seconds))
    };
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        let verify = |time| {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&anchor),
                &[],
                time,
                usage,
                None,
                None,
            )
            .map(|_| ())
        };
        verify(at(0)).unwrap();
        verify(at(3600)).unwrap();
        assert!(verify(at(3601)).is_err());
    }
    let uris: Vec<_> = leaf.valid_uri_names().collect();
    assert_eq!(uris, ["spiffe://td/a"]);
}

#[test]
fn every_svid_has_its_own_key_and_serial_number() {
    let authority = authority(HOUR);
    let issue = || authority.issue(&id("spiffe://td/a"), HOUR, now()).unwrap();
    let (first, second) = (issue(), issue());
    assert_ne!(first.serial, second.serial);
    assert_ne!(*first.key, *second.key);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &first.key).unwrap();
    let leaf = x509_parser::parse_x509_certificate(&first.chain[0]).unwrap().1;
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        pair.public_key().as_ref()
    );
    assert!(!format!("{first:?}").contains("key"), "a Debug never shows a key");
}

#[test]
fn an_svid_ends_no_later_than_its_authority() {
    let authority = authority(Duration::from_secs(90));
    let svid = authority.issue(&id("spiffe://td/a"), HOUR, now()).unwrap();
    assert_eq!(svid.not_after, now() + Duration::from_secs(90));
    let late = authority.issue(&id("spiffe://td/a"), HOUR, now() + Duration::from_secs(91));
    assert!(matches!(late, Err(AuthorityError::NotValidNow { .. })));
}

#[test]
fn every_life_that_may_be_configured_can_be_issued() {
    let authority = authority(HOUR * 48);
    for seconds in (2..70).chain([3600, 3601, 86_400]) {
        let moment = now() + Duration::from_millis(seconds * 137);
        authority
            .issue(&id("spiffe://td/a"), Duration::from_secs(seconds), moment)
            .unwrap();
    }
}

/// S-8.
#[test]
fn it_speaks_for_identities_of_its_trust_domain_only() {
    let authority = authority(HOUR);
    for foreign in ["spiffe://td", "spiffe://other/a", "spiffe://td.x/a"] {
        let refused = authority.issue(&id(foreign), HOUR, now());
        assert!(matches!(refused, Err(AuthorityError::NotOurs(_))), "{foreign}");
    }
}

#[test]
fn a_certificate_and_a_key_that_do_not_belong_together_are_refused() {
    let (_dir, one) = signer();
    let (_dir2, other) = signer();
    let certificate = Authority::create(&domain(), &one, HOUR, now()).unwrap();
    assert!(matches!(
        Authority::open(&domain(), &certificate, other, now()),
        Err(AuthorityError::Profile(_))
    ));
    let foreign = TrustDomain::new("other").unwrap();
    assert!(matches!(
        Authority::open(&foreign, &certificate, one.clone(), now()),
        Err(AuthorityError::Profile(_))
    ));
    let late = Authority::open(&domain(), &certificate, one, now() + HOUR * 2);
    assert!(matches!(late, Err(AuthorityError::NotValidNow { .. })));
}

#[test]
fn a_life_past_2049_is_written_as_verifiers_read_it() {
    let authority = authority(HOUR * 24 * 365 * 40);
    let svid = authority.issue(&id("spiffe://td/a"), HOUR, now()).unwrap();
    let anchor = anchor_from_trusted_cert(authority.certificate()).unwrap();
    let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    EndEntityCert::try_from(&svid.chain[0])
        .unwrap()
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &[],
            time,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map(|_| ())
        .unwrap();
}

/// The check is not the profile: each way in which a signed certificate could go wrong is refused by it.
/// S-7, S-9 to S-12.
#[test]
fn a_leaf_that_is_not_its_profile_never_leaves() {
    let authority = authority(HOUR * 24);
    let wanted_id = id("spiffe://td/a");
    let wanted = Validity::of_svid(now(), HOUR, &authority.validity);
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let key = LeafKey(&pair);
    let verdict = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = profile::leaf(&wanted_id, &wanted, &[1; 16]).unwrap();
        change(&mut params);
        let made = params.signed_by(&key, &authority.issuer).unwrap();
        check::leaf(
            made.der(),
            &wanted_id,
            &wanted,
            &check::Signed {
                by: &authority.public_key,
                key: key.der_bytes(),
            },
        )
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    verdict(&|_| {}).unwrap();
    type Change<'a> = &'a dyn Fn(&mut CertificateParams);
    let wrong: [(&str, Change<'_>); 16] = [
        ("no basic constraints", &|p| p.is_ca = IsCa::NoCa),
        ("a CA", &|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("may sign certificates", &|p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign)
        }),
        ("no key usage", &|p| p.key_usages.clear()),
        ("server only", &|p| p.extended_key_usages.truncate(1)),
        ("signs code too", &|p| {
            p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)
        }),
        ("no AKI", &|p| p.use_authority_key_identifier_extension = false),
        ("another ID", &|p| {
            p.subject_alt_names = vec![uri("spiffe://td/b")]
        }),
        ("two IDs", &|p| p.subject_alt_names.push(uri("spiffe://td/b"))),
        ("a DNS name", &|p| {
            p.subject_alt_names
                .push(SanType::DnsName("a".try_into().unwrap()))
        }),
        ("no ID", &|p| p.subject_alt_names.clear()),
        ("serial number zero", &|p| {
            p.serial_number = Some(SerialNumber::from_slice(&[0]))
        }),
        ("no subject", &|p| p.distinguished_name = DistinguishedName::new()),
        ("longer", &|p| p.not_after += Duration::from_secs(1)),
        ("earlier", &|p| p.not_before -= Duration::from_secs(1)),
        ("one more extension", &|p| {
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]));
        }),
    ];
    for (name, change) in wrong {
        assert!(
            matches!(verdict(change), Err(AuthorityError::Profile(_))),
            "{name}"
        );
    }
}

#[test]
fn a_leaf_by_another_authority_never_leaves() {
    let (ours, other) = (authority(HOUR), authority(HOUR));
    let svid = other.issue(&id("spiffe://td/a"), HOUR, now()).unwrap();
    let wanted = Validity::of_svid(now(), HOUR, &ours.validity);
    let leaf = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap().1;
    let keys = check::Signed {
        by: &ours.public_key,
        key: &leaf.public_key().subject_public_key.data,
    };
    assert!(check::leaf(&svid.chain[0], &svid.id, &wanted, &keys).is_err());
}
