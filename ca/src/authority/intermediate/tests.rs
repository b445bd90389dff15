use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};

use super::*;
use crate::keys::Disk;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::new("td").unwrap()
}

/// The organisation's root: no SPIFFE ID, a key of its own kind.
struct Organisation {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn organisation(change: impl Fn(&mut CertificateParams)) -> Organisation {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Acme Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now() - DAY).into();
    params.not_after = (now() + DAY * 1000).into();
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
    Organisation { certificate, issuer }
}

/// What the organisation makes of a request.
fn signed(organisation: &Organisation, request: &str, change: impl Fn(&mut CertificateParams)) -> Vec<u8> {
    let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
    let params = &mut request.params;
    params.not_before = (now() - DAY).into();
    params.not_after = (now() + DAY * 365).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(params);
    let own = request.signed_by(&organisation.issuer).unwrap();
    [own.der().as_ref(), organisation.certificate.as_ref()].concat()
}

fn signer(dir: &tempfile::TempDir, name: &str) -> Arc<dyn Signer> {
    Disk::new(dir.path()).create(name).unwrap()
}

#[test]
fn what_the_organisation_signed_issues_svids_that_its_root_vouches_for() {
    let dir = tempfile::tempdir().unwrap();
    let signer = signer(&dir, "k");
    let request = Authority::request(&domain(), &signer).unwrap();
    let organisation = organisation(|_| {});
    let chain = signed(&organisation, &request, |_| {});
    let authority = Authority::open(&domain(), &CertificateDer::from(chain), signer, now()).unwrap();
    trial(&authority, now()).unwrap();
    assert_eq!(authority.anchor(), &organisation.certificate);
    assert!(authority.not_after() <= now() + DAY * 365);
    let svid = authority
        .issue(&SpiffeId::new("spiffe://td/a").unwrap(), DAY, now())
        .unwrap();
    assert_eq!(svid.chain.len(), 2, "the root is not sent");
    authority.revocation_list(1, &[], now()).unwrap();
}

#[test]
fn its_life_is_that_of_the_whole_chain() {
    let dir = tempfile::tempdir().unwrap();
    let signer = signer(&dir, "k");
    let request = Authority::request(&domain(), &signer).unwrap();
    let organisation = organisation(|p| p.not_after = (now() + DAY * 30).into());
    let chain = CertificateDer::from(signed(&organisation, &request, |_| {}));
    let authority = Authority::open(&domain(), &chain, signer.clone(), now()).unwrap();
    assert_eq!(authority.not_after(), now() + DAY * 30);
    assert!(matches!(
        Authority::open(&domain(), &chain, signer, now() + DAY * 31),
        Err(AuthorityError::NotValidNow { .. })
    ));
}

type Change = Box<dyn Fn(&mut CertificateParams)>;

/// What an organisation must not make of a request.
fn below() -> Vec<(&'static str, Change)> {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    vec![
        ("no CA", Box::new(|p| p.is_ca = IsCa::ExplicitNoCa)),
        (
            "signs no certificates",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ),
        (
            "signs no lists",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        ),
        ("no key usage", Box::new(|p| p.key_usages.clear())),
        (
            "another trust domain",
            Box::new(move |p| p.subject_alt_names = vec![uri("spiffe://other")]),
        ),
        (
            "an ID with a path",
            Box::new(move |p| p.subject_alt_names = vec![uri("spiffe://td/a")]),
        ),
        ("no ID", Box::new(|p| p.subject_alt_names.clear())),
        (
            "two names",
            Box::new(|p| {
                p.subject_alt_names
                    .push(SanType::DnsName("a".try_into().unwrap()))
            }),
        ),
        (
            "name constraints",
            Box::new(|p| {
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("td".into())],
                    excluded_subtrees: vec![],
                });
            }),
        ),
        (
            "for servers alone",
            Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "over",
            Box::new(|p| p.not_after = (now() - Duration::from_secs(1)).into()),
        ),
        ("not yet", Box::new(|p| p.not_before = (now() + DAY).into())),
    ]
}

/// What its root must not be.
fn above() -> Vec<(&'static str, Change)> {
    vec![
        (
            "a root without room below",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ),
        (
            "a root that signs no certificates",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        (
            "a root that is over",
            Box::new(|p| p.not_after = (now() - Duration::from_secs(1)).into()),
        ),
    ]
}

#[test]
fn every_way_in_which_it_is_not_an_authority_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ours = signer(&dir, "k");
    let request = Authority::request(&domain(), &ours).unwrap();
    let verdict = |organisation: &Organisation, change: &dyn Fn(&mut CertificateParams)| {
        let chain = CertificateDer::from(signed(organisation, &request, change));
        let authority = Authority::open(&domain(), &chain, ours.clone(), now())?;
        trial(&authority, now())
    };
    let good = organisation(|_| {});
    verdict(&good, &|_| {}).unwrap();
    for (what, change) in &below() {
        assert!(verdict(&good, change).is_err(), "{what}");
    }
    for (what, change) in &above() {
        assert!(verdict(&organisation(change), &|_| {}).is_err(), "{what}");
    }
}

#[test]
fn a_chain_that_leads_elsewhere_or_nowhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ours = signer(&dir, "k");
    let request = Authority::request(&domain(), &ours).unwrap();
    let good = organisation(|_| {});
    let chain = signed(&good, &request, |_| {});
    let open = |chain: Vec<u8>, signer: &Arc<dyn Signer>| {
        Authority::open(&domain(), &CertificateDer::from(chain), signer.clone(), now()).is_err()
    };
    assert!(open(chain.clone(), &signer(&dir, "other")), "another key");
    let own = super::super::split(&chain).unwrap()[0].to_vec();
    assert!(open(own.clone(), &ours), "without its root");
    let stranger = organisation(|_| {});
    assert!(
        open([own.clone(), stranger.certificate.to_vec()].concat(), &ours),
        "below another root"
    );
    assert!(open([chain.clone(), vec![0]].concat(), &ours), "bytes behind it");
    assert!(open([own.clone(), own].concat(), &ours), "no root at its end");
}
