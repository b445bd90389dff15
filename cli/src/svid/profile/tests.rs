use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

const OID_KEY_USAGE: [u64; 4] = [2, 5, 29, 15];

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri("spiffe://mesh.test/a")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params
}

fn above() -> CertificateParams {
    let mut params = good();
    params.distinguished_name.push(rcgen::DnType::CommonName, "ca");
    params.subject_alt_names = vec![uri("spiffe://mesh.test")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages.clear();
    params
}

fn chain(leaf: CertificateParams, authority: CertificateParams) -> [CertificateDer<'static>; 2] {
    let (key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let above = authority.self_signed(&key).unwrap().der().clone();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(authority, key)).unwrap();
    [leaf.der().clone(), above]
}

fn breaks(change: impl FnOnce(&mut CertificateParams)) -> Vec<String> {
    let mut leaf = good();
    change(&mut leaf);
    problems(&chain(leaf, above()), SystemTime::now())
}

/// Exactly this rule is broken.
fn one(change: impl FnOnce(&mut CertificateParams), words: &str) {
    let found = breaks(change);
    assert!(
        found.len() == 1 && found[0].contains(words),
        "{found:?} is not {words:?}"
    );
}

#[test]
fn a_good_svid_breaks_no_rule_and_other_names_are_free() {
    assert_eq!(breaks(|_| {}), Vec::<String>::new());
    let free = |p: &mut CertificateParams| {
        p.subject_alt_names
            .push(SanType::DnsName("a.mesh.test".try_into().unwrap()));
        p.extended_key_usages.clear();
    };
    assert_eq!(breaks(free), Vec::<String>::new());
}

#[test]
fn names_are_those_of_one_workload() {
    one(|p| p.subject_alt_names.clear(), "(X509-SVID 2)");
    one(
        |p| p.subject_alt_names.push(uri("spiffe://mesh.test/b")),
        "2 URIs",
    );
    one(
        |p| p.subject_alt_names = vec![uri("https://mesh.test/a")],
        "the scheme is not spiffe (X509-SVID 5.2, SPIFFE-ID 2)",
    );
    one(
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test")],
        "no path",
    );
}

#[test]
fn purposes_are_those_of_a_workload() {
    one(|p| p.key_usages.clear(), "no key usage");
    one(
        |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
        "a leaf has digitalSignature",
    );
    one(
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "never has keyCertSign",
    );
    one(
        |p| {
            p.key_usages.clear();
            let usage = vec![0x03, 0x02, 0x07, 0x80];
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&OID_KEY_USAGE, usage));
        },
        "key usage is not critical (X509-SVID 4.3)",
    );
    one(|p| p.is_ca = IsCa::NoCa, "no basicConstraints");
    one(
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "cA = true",
    );
    one(
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        "without clientAuth",
    );
    assert_eq!(
        breaks(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]).len(),
        2
    );
}

#[test]
fn extensions_that_nobody_knows_refuse() {
    let unknown = |critical: bool| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    one(
        |p| p.custom_extensions.push(unknown(true)),
        "the critical extension 1.3.6.1.4.1.99999.1 is not known",
    );
    assert_eq!(
        breaks(|p| p.custom_extensions.push(unknown(false))),
        Vec::<String>::new()
    );
}

#[test]
fn time_and_every_certificate_of_the_chain_count() {
    one(
        |p| p.not_after = (SystemTime::now() - Duration::from_secs(5)).into(),
        "expired at",
    );
    one(
        |p| p.not_before = (SystemTime::now() + Duration::from_secs(60)).into(),
        "not valid before",
    );
    let mut weak = above();
    weak.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    weak.not_after = (SystemTime::now() - Duration::from_secs(5)).into();
    let found = problems(&chain(good(), weak), SystemTime::now());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .all(|problem| problem.starts_with("certificate 1 of the chain: ")),
        "{found:?}"
    );
    let leaf_above = problems(&chain(good(), good()), SystemTime::now());
    assert!(
        leaf_above
            .iter()
            .any(|problem| problem.contains("it is not an authority")),
        "{leaf_above:?}"
    );
    assert!(problems(&[CertificateDer::from(vec![0x30])], SystemTime::now())[0].contains("malformed"));
}
