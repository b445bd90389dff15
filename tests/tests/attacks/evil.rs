//! I5, I6: certificates signed by the mesh's own authority that no authority of ours would sign.

use std::fs;

use hopguard_tests::{Until, Via, Who, eventually};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::ask::Ask;
use crate::rig::{Rig, forbids};

/// The mesh's authority: its certificate, and its key from its folder.
fn authority(rig: &Rig) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let data = rig.mesh.file("ca/data");
    let mut keys = Vec::new();
    let mut folders = vec![data];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|kind| kind == "p8") {
                keys.push(fs::read(entry.path()).unwrap());
            }
        }
    }
    let pem = fs::read(rig.mesh.file("stolen-web/bundle.0.pem")).unwrap();
    let root = CertificateDer::from_pem_slice(&pem).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&root).unwrap();
    let public = parsed.public_key().subject_public_key.data.to_vec();
    let of_the_root = |key: &Vec<u8>| {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.clone())).ok()?;
        (pair.public_key_raw() == public.as_slice()).then_some(pair)
    };
    let pair = keys.iter().find_map(of_the_root).expect("the root's key");
    let issuer = Issuer::from_ca_cert_der(&root, pair).unwrap();
    (root, issuer)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// What the authority signs for web, changed.
fn changed(rig: &Rig, change: impl FnOnce(&mut CertificateParams)) -> Who {
    let (_, issuer) = authority(rig);
    signed(&issuer, change)
}

fn signed(issuer: &Issuer<'_, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> Who {
    let mut params = CertificateParams::default();
    let now = time_now();
    params.not_before = now - rcgen_time(60);
    params.not_after = now + rcgen_time(3600);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    params.subject_alt_names = vec![uri("spiffe://mesh.local/ns/shop/sa/web")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Who::Pem(certificate.pem(), key.serialize_pem())
}

fn time_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

fn rcgen_time(seconds: i64) -> time::Duration {
    time::Duration::seconds(seconds)
}

/// The status for this certificate; `None` when the handshake failed.
fn status(rig: &Rig, who: Who, via: Via) -> Option<u16> {
    let bytes = Ask::get("/public").http1("evil");
    let flight = rig.send_as(who, via, &[(&bytes, "")], Until::Answers(vec!["GET".to_owned()]));
    let answers = flight.answers(&["GET"]);
    assert!(flight.end != "silence", "{flight:?}");
    answers.first().map(|answer| answer.status)
}

#[test]
fn certificates_that_are_no_svid_end_the_handshake() {
    let rig = forbids();
    // The control: what the authority would sign passes, and arrives.
    for via in [Via::Mtls, Via::Hbone] {
        assert_eq!(status(&rig, changed(&rig, |_| {}), via), Some(200));
        rig.echo.take("x-case: evil", 1).unwrap();
    }
    let long = format!("spiffe://mesh.local/{}", "a".repeat(2048));
    let bad_ids = [
        "spiffe://mesh.local/ns/a/sa/b/../c",
        "spiffe://mesh.local/ns/a%2fsa/b",
        "SPIFFE://mesh.local/ns/shop/sa/web",
        "spiffe://Mesh.local/ns/shop/sa/web",
        "spiffe://MESH.LOCAL/ns/shop/sa/web",
        "spiffe://mesh.local/ns/shop/sa/web?x=y",
        "spiffe://mesh.local/ns/shop/sa/web#x",
        "spiffe://mesh.local:443/ns/shop/sa/web",
        "spiffe://u@mesh.local/ns/shop/sa/web",
        "spiffe://mesh.local/ns/shop/sa/web/",
        "spiffe://mesh.local//ns/shop/sa/web",
        "spiffe://mesh.local/./ns/shop/sa/web",
        "spiffe://mesh.local",
        "spiffe://mesh.local/",
        "spiffe:///ns/shop/sa/web",
        "https://mesh.local/ns/shop/sa/web",
        "spiffe:/mesh.local/ns/shop/sa/web",
        "spiffe://mesh.local/ns/shop/sa/web%00",
        "spiffe://mesh.local/ns/shop/sa/w b",
        "spiffe://mesh.local./ns/shop/sa/web",
        "urn:spiffe:mesh.local",
        &long,
    ];
    for id in bad_ids {
        let who = changed(&rig, |params| params.subject_alt_names = vec![uri(id)]);
        assert_eq!(status(&rig, who, Via::Mtls), None, "{id}");
    }
    type Change = Box<dyn Fn(&mut CertificateParams)>;
    let web = "spiffe://mesh.local/ns/shop/sa/web";
    let changes: Vec<(&str, Change)> = vec![
        (
            "two URI names",
            Box::new(move |p| {
                p.subject_alt_names
                    .push(uri("spiffe://mesh.local/ns/shop/sa/orders"))
            }),
        ),
        (
            "the same URI name twice",
            Box::new(move |p| p.subject_alt_names.push(uri(web))),
        ),
        (
            "a second URI name of another kind",
            Box::new(|p| p.subject_alt_names.push(uri("https://mesh.local/"))),
        ),
        (
            "the ID as a DNS name",
            Box::new(move |p| p.subject_alt_names = vec![dns(web)]),
        ),
        (
            "the ID as a mail address",
            Box::new(move |p| p.subject_alt_names = vec![SanType::Rfc822Name(web.try_into().unwrap())]),
        ),
        (
            "the ID as the common name",
            Box::new(move |p| {
                p.subject_alt_names.clear();
                p.distinguished_name.push(DnType::CommonName, web);
            }),
        ),
        ("no name", Box::new(|p| p.subject_alt_names.clear())),
        (
            "an authority",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "a signer of certificates",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "a signer of revocations",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ),
        (
            "no digital signature",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        ("expired", Box::new(|p| p.not_after = time_now() - rcgen_time(30))),
        (
            "not yet",
            Box::new(|p| p.not_before = time_now() + rcgen_time(1800)),
        ),
        // I6: another trust domain is not ours to vouch for, whoever signed.
        (
            "another trust domain",
            Box::new(|p| p.subject_alt_names = vec![uri("spiffe://other/ns/shop/sa/web")]),
        ),
        (
            "a longer trust domain",
            Box::new(|p| p.subject_alt_names = vec![uri("spiffe://mesh.local.evil/ns/shop/sa/web")]),
        ),
    ];
    for (what, change) in &changes {
        for via in [Via::Mtls, Via::Hbone] {
            assert_eq!(
                status(&rig, changed(&rig, |params| change(params)), via),
                None,
                "{what}"
            );
        }
    }
    // Signed by an authority of nobody's that bears the same name.
    let (root, _) = authority(&rig);
    let stranger = Issuer::from_ca_cert_der(&root, KeyPair::generate().unwrap()).unwrap();
    assert_eq!(status(&rig, signed(&stranger, |_| {}), Via::Mtls), None);
    assert_eq!(status(&rig, Who::Nobody, Via::Mtls), None);
    let told = eventually(std::time::Duration::from_secs(20), || {
        let records = rig.mesh.records("orders");
        let failed = records
            .iter()
            .filter(|record| record["decision"]["reason"] == "handshake_failed")
            .count();
        if failed > bad_ids.len() {
            Ok(failed)
        } else {
            Err(format!("{failed} records"))
        }
    });
    told.unwrap();
    rig.settle();
}

/// I6: an identity is compared whole.
#[test]
fn an_identity_is_itself_and_no_other() {
    let rig = crate::rig::permits();
    for id in [
        "spiffe://mesh.local/ns/shop/sa/web2",
        "spiffe://mesh.local/ns/shop/sa/WEB",
        "spiffe://mesh.local/ns/shop/sa/web/x",
        "spiffe://mesh.local/ns/shop/sa",
        "spiffe://mesh.local/ns/shop/sa/we",
        "spiffe://mesh.local/ns/other/sa/web",
        "spiffe://mesh.local/web",
    ] {
        let who = changed(&rig, |params| params.subject_alt_names = vec![uri(id)]);
        assert_eq!(status(&rig, who, Via::Mtls), Some(403), "{id}");
    }
    assert_eq!(status(&rig, changed(&rig, |_| {}), Via::Mtls), Some(200));
    rig.echo.take("x-case: evil", 1).unwrap();
    rig.settle();
}
