use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::identity::testing::{Ca, bundles, uri};
use crate::identity::{Bundles, Identity};

const SOON: Duration = Duration::from_secs(10);

/// Both ends' view of one handshake over loopback; the client reads one byte that the server writes once it is content.
struct Shaken {
    client: io::Result<(Session, Option<HandshakeKind>)>,
    server: io::Result<Session>,
}

async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Shaken {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(tcp).await?;
        let seen = session(tls.get_ref().1).map_err(io::Error::other)?;
        tls.write_all(b"!").await?;
        tls.shutdown().await?;
        Ok(seen)
    });
    let connecting = async {
        let name = ServerName::from(addr.ip());
        let tcp = TcpStream::connect(addr).await?;
        let mut tls = tokio_rustls::TlsConnector::from(client)
            .connect(name, tcp)
            .await?;
        tls.read_u8().await?;
        let common = tls.get_ref().1;
        Ok((
            session(common).map_err(io::Error::other)?,
            common.handshake_kind(),
        ))
    };
    let client = tokio::time::timeout(SOON, connecting).await.unwrap();
    Shaken {
        client,
        server: tokio::time::timeout(SOON, serving).await.unwrap().unwrap(),
    }
}

fn mesh(identity: Arc<Identity>) -> MeshTls {
    MeshTls::new(identity).unwrap()
}

fn ago(seconds: u64) -> time::OffsetDateTime {
    (SystemTime::now() - Duration::from_secs(seconds)).into()
}

#[tokio::test]
async fn two_workloads_prove_themselves_to_each_other() {
    let ca = Ca::new("mesh.test");
    let below = ca.intermediate(|_| {}).intermediate(|_| {});
    for (server_ca, client_ca) in [(&ca, &ca), (&below, &ca), (&ca, &below)] {
        let (orders, web) = (
            mesh(server_ca.identity("/orders")),
            mesh(client_ca.identity("/web")),
        );
        let shaken = shake(
            web.client(&[ca.id("/x"), ca.id("/orders")]).unwrap(),
            orders.server(ServerProfile::Hbone),
        )
        .await;
        let (seen, kind) = shaken.client.unwrap();
        assert_eq!(seen.version, "TLSv1.3");
        assert_eq!(seen.kx, "X25519MLKEM768");
        assert_eq!(seen.alpn.as_deref(), Some(&b"h2"[..]));
        assert_ne!(kind, Some(HandshakeKind::Resumed));
        let peer = seen.peer.unwrap();
        assert_eq!(peer.id, ca.id("/orders"));
        let whole_seconds = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(
            whole_seconds(peer.not_after),
            whole_seconds(orders.identity().not_after)
        );
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &orders.identity().chain[0]);
        assert_eq!(peer.fingerprint, digest.as_ref());
        let seen = shaken.server.unwrap();
        assert_eq!(seen.peer.unwrap().id, ca.id("/web"));
        assert_eq!(seen.kx, "X25519MLKEM768");
    }
}

#[test]
fn the_hybrid_group_comes_first_and_only_aws_lc_is_used() {
    let names: Vec<_> = provider().kx_groups.iter().map(|g| g.name()).collect();
    assert_eq!(names.first(), Some(&rustls::NamedGroup::X25519MLKEM768));
}

/// A server with this leaf must be refused by the client, a client with it by the server.
async fn refused_in_both_roles(what: &str, bad: Arc<Identity>, good: Arc<Identity>, said: &str) {
    let (bad, good) = (mesh(bad), mesh(good));
    let expected = [bad.identity().id.clone()];
    let shaken = shake(good.client(&expected).unwrap(), bad.server(ServerProfile::Hbone)).await;
    let failure = shaken.client.expect_err(what);
    assert_eq!(label(&failure), "peer_untrusted", "{what}");
    let problem = explain(&failure);
    assert!(
        problem.contains(said),
        "{what} as server: {problem:?} does not say {said:?}"
    );
    assert!(
        shaken.server.is_err(),
        "{what}: the server thinks it was accepted"
    );

    for profile in [ServerProfile::Hbone, ServerProfile::Port, ServerProfile::Opaque] {
        let mut config = ClientConfig::clone(&bad.client(&[good.identity().id.clone()]).unwrap());
        config.alpn_protocols.clear();
        let shaken = shake(Arc::new(config), good.server(profile)).await;
        let problem = explain(&shaken.server.expect_err(what));
        assert!(
            problem.contains(said),
            "{what} as client: {problem:?} does not say {said:?}"
        );
        assert!(
            shaken.client.is_err(),
            "{what}: the client thinks it was accepted"
        );
    }
}

/// What is wrong, how to make it so, and what must be said about it.
type Case = (&'static str, fn(&mut CertificateParams), &'static str);

/// Names that do not stand for exactly one workload.
const BAD_NAMES: &[Case] = &[
    (
        "two IDs",
        |p| p.subject_alt_names.push(uri("spiffe://mesh.test/admin")),
        "2 URI names",
    ),
    (
        "ID and another URI",
        |p| p.subject_alt_names.push(uri("https://x")),
        "2 URI names",
    ),
    ("no name at all", |p| p.subject_alt_names.clear(), "0 URI names"),
    (
        "ID as DNS name",
        |p| p.subject_alt_names = vec![SanType::DnsName(ia5("spiffe://mesh.test/a"))],
        "0 URI names",
    ),
    (
        "ID as e-mail",
        |p| p.subject_alt_names = vec![SanType::Rfc822Name(ia5("spiffe://mesh.test/a"))],
        "0 URI names",
    ),
    ("ID as common name", common_name_only, "0 URI names"),
    (
        "no path",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test")],
        "names a trust domain",
    ),
    (
        "wrong scheme",
        |p| p.subject_alt_names = vec![uri("https://mesh.test/a")],
        "not a SPIFFE ID",
    ),
    (
        "uppercase",
        |p| p.subject_alt_names = vec![uri("spiffe://MESH.test/a")],
        "canonical",
    ),
    (
        "dot segment",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test/b/../a")],
        "dot segment",
    ),
    (
        "percent",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test/%61")],
        "character",
    ),
    (
        "query",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test/a?b")],
        "character",
    ),
    (
        "fragment",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test/a#b")],
        "character",
    ),
    (
        "port",
        |p| p.subject_alt_names = vec![uri("spiffe://mesh.test:1/a")],
        "character",
    ),
    (
        "user",
        |p| p.subject_alt_names = vec![uri("spiffe://u@mesh.test/a")],
        "character",
    ),
    (
        "too long",
        |p| p.subject_alt_names = vec![uri(&format!("spiffe://mesh.test/{}", "a".repeat(2048)))],
        "2048",
    ),
    (
        "a foreign trust domain",
        |p| p.subject_alt_names = vec![uri("spiffe://other.test/a")],
        "no bundle",
    ),
];

/// Rights that a leaf must not have or must have, and times.
const BAD_RIGHTS: &[Case] = &[
    (
        "a CA as leaf",
        |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "authority",
    ),
    (
        "keyCertSign",
        |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
        "keyCertSign",
    ),
    (
        "cRLSign",
        |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
        "cRLSign",
    ),
    (
        "no digitalSignature",
        |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
        "digitalSignature",
    ),
    ("expired", |p| p.not_after = ago(2), "expired"),
    (
        "not yet valid",
        |p| p.not_before = ago(0) + Duration::from_secs(600),
        "not valid for another",
    ),
    (
        "neither role",
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "serverAuth",
    ),
    ("no keyUsage", |p| p.key_usages.clear(), "key usage"),
];

fn ia5(text: &str) -> rcgen::string::Ia5String {
    text.try_into().unwrap()
}

fn common_name_only(params: &mut CertificateParams) {
    params.subject_alt_names.clear();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "spiffe://mesh.test/a");
}

/// S-16, S-17: also S-1 to S-5, S-7, S-8, S-11 and S-12 as a peer shows them.
#[tokio::test]
async fn each_bad_certificate_is_refused_in_both_roles() {
    let ca = Ca::new("mesh.test");
    for (what, change, said) in BAD_NAMES.iter().chain(BAD_RIGHTS) {
        let bad = ca.identity_with("/a", ca.bundles(), change);
        refused_in_both_roles(what, bad, ca.identity("/good"), said).await;
    }
}

#[test]
fn what_rustls_itself_would_not_show_is_refused_too() {
    let ca = Ca::new("mesh.test");
    let good = mesh(ca.identity("/good"));
    let refused = |chain: &[CertificateDer<'_>]| {
        good.recheck_client(chain, SystemTime::now())
            .unwrap_err()
            .to_string()
    };
    let unknown = ca.issue("/a", |p| {
        let mut unknown =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
        unknown.set_criticality(true);
        p.custom_extensions.push(unknown);
    });
    assert!(refused(&unknown.chain).contains("1.3.6.1.4.1.55555.1"));
    assert!(refused(&[ca.issue_for_rsa("/a", 1024)]).contains("RSA key of 1024 bits"));
    // Long enough, and with everything else as it must be.
    good.recheck_client(&[ca.issue_for_rsa("/a", 2048)], SystemTime::now())
        .unwrap();
}

#[tokio::test]
async fn a_role_that_the_certificate_does_not_have_is_refused() {
    let ca = Ca::new("mesh.test");
    let only = |eku: ExtendedKeyUsagePurpose| {
        mesh(ca.identity_with("/a", ca.bundles(), move |p| p.extended_key_usages = vec![eku]))
    };
    let good = mesh(ca.identity("/good"));
    let client_only = only(ExtendedKeyUsagePurpose::ClientAuth);
    let shaken = shake(
        good.client(&[ca.id("/a")]).unwrap(),
        client_only.server(ServerProfile::Hbone),
    )
    .await;
    assert!(explain(&shaken.client.unwrap_err()).contains("serverAuth is missing"));
    let server_only = only(ExtendedKeyUsagePurpose::ServerAuth);
    let shaken = shake(
        server_only.client(&[ca.id("/good")]).unwrap(),
        good.server(ServerProfile::Hbone),
    )
    .await;
    assert!(explain(&shaken.server.unwrap_err()).contains("clientAuth is missing"));
}

/// S-18.
#[tokio::test]
async fn the_bundle_of_the_presented_trust_domain_decides_and_bundles_are_never_merged() {
    let (own, friend) = (Ca::new("own.test"), Ca::new("friend.test"));
    let both = bundles(&[&own, &friend]);
    let good = own.identity_with("/good", Arc::clone(&both), |_| {});

    // Federated, each signed by the authority of its own domain: accepted.
    let ally = mesh(friend.identity_with("/ally", Arc::clone(&both), |_| {}));
    let shaken = shake(
        mesh(Arc::clone(&good)).client(&[friend.id("/ally")]).unwrap(),
        ally.server(ServerProfile::Hbone),
    )
    .await;
    assert_eq!(shaken.client.unwrap().0.peer.unwrap().id, friend.id("/ally"));
    assert_eq!(shaken.server.unwrap().peer.unwrap().id, own.id("/good"));

    // The friend's authority signs an ID of ours: its roots are trusted, but not for us.
    let forged = friend.identity_with("/a", Arc::clone(&both), |p| {
        p.subject_alt_names = vec![uri("spiffe://own.test/a")]
    });
    refused_in_both_roles(
        "forged by a friend",
        forged,
        Arc::clone(&good),
        "no path to a root",
    )
    .await;

    // An authority of the same name that is not in the bundle.
    let twin = Ca::new("own.test");
    let stranger = twin.identity_with("/a", Arc::clone(&both), |_| {});
    refused_in_both_roles("a twin of our authority", stranger, good, "no path to a root").await;
}

#[tokio::test]
async fn chains_that_must_not_lead_anywhere() {
    let ca = Ca::new("mesh.test");
    let good = || ca.identity("/good");
    let may_not_sign = ca.intermediate(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    refused_in_both_roles(
        "intermediate without keyCertSign",
        may_not_sign.identity("/a"),
        good(),
        "may not sign",
    )
    .await;
    let no_ca = ca.intermediate(|p| p.is_ca = IsCa::ExplicitNoCa);
    refused_in_both_roles("a leaf that signs", no_ca.identity("/a"), good(), "may not sign").await;
    let expired = ca.intermediate(|p| p.not_after = ago(5));
    refused_in_both_roles("expired intermediate", expired.identity("/a"), good(), "expired").await;
    let hidden = ca.intermediate(|_| {});
    let mut issued = hidden.issue("/a", |_| {});
    issued.chain.truncate(1);
    let id = good();
    let bad = Identity {
        id: ca.id("/a"),
        chain: issued.chain,
        key: crate::identity::Key::new(issued.key),
        bundles: ca.bundles(),
        not_before: id.not_before,
        not_after: id.not_after,
    };
    refused_in_both_roles("intermediate not sent", Arc::new(bad), id, "no path to a root").await;
}

#[tokio::test]
async fn an_expired_root_is_no_root() {
    let ca = Ca::new("mesh.test");
    let tls = mesh(ca.identity("/a"));
    let chain = ca.issue("/b", |_| {}).chain;
    let now = SystemTime::now();
    tls.recheck_client(&chain, now).unwrap();
    let far = now + Duration::from_secs(400_000);
    let long = ca
        .issue("/b", |p| p.not_after = (far + Duration::from_secs(1000)).into())
        .chain;
    tls.recheck_client(&long, now).unwrap();
    let problem = tls.recheck_client(&long, far).unwrap_err();
    assert!(problem.to_string().contains("every root"), "{problem}");
}

fn numbered(n: u8) -> impl Fn(&mut CertificateParams) {
    move |p: &mut CertificateParams| p.serial_number = Some(SerialNumber::from(vec![n]))
}

/// The bundles of an authority, with these lists.
fn with_lists(ca: &Ca, lists: &[Vec<u8>]) -> Arc<Bundles> {
    let bundles = ca.bundles();
    let roots = bundles.iter().map(|(td, roots)| (td.clone(), roots.to_vec()));
    let lists = lists.iter().cloned().map(CertificateRevocationListDer::from);
    Arc::new(Bundles::new(roots.collect(), lists.collect()))
}

#[tokio::test]
async fn a_peer_that_was_revoked_is_refused_in_both_roles_and_told_so() {
    let ca = Ca::new("mesh.test");
    let judge = mesh(ca.identity_with("/judge", with_lists(&ca, &[ca.revoked(1, &[7])]), |_| {}));
    let now = SystemTime::now();
    for chain in [
        ca.issue("/a", numbered(8)).chain,
        ca.intermediate(|_| {}).issue("/a", numbered(7)).chain,
    ] {
        judge.recheck_server(&chain, now).unwrap();
        judge.recheck_client(&chain, now).unwrap();
    }
    let revoked = mesh(ca.identity_with("/a", ca.bundles(), numbered(7)));
    let shaken = shake(
        judge.client(&[ca.id("/a")]).unwrap(),
        revoked.server(ServerProfile::Hbone),
    )
    .await;
    assert_eq!(label(&shaken.client.unwrap_err()), "revoked");
    assert!(explain(&shaken.server.unwrap_err()).contains("CertificateRevoked"));
    let shaken = shake(
        revoked.client(&[ca.id("/judge")]).unwrap(),
        judge.server(ServerProfile::Hbone),
    )
    .await;
    let failure = shaken.server.unwrap_err();
    assert_eq!(
        (label(&failure), explain(&failure).contains("revoked")),
        ("revoked", true)
    );
    assert!(matches!(
        judge.recheck_client(&revoked.identity().chain, now),
        Err(TlsError::Revoked)
    ));
}

#[test]
fn an_intermediate_revokes_what_it_signed_and_is_revoked_by_its_root() {
    let ca = Ca::new("mesh.test");
    let below = ca.intermediate(numbered(9));
    let now = SystemTime::now();
    let (seventh, eighth) = (
        below.issue("/a", numbered(7)).chain,
        below.issue("/a", numbered(8)).chain,
    );
    let judged = |lists: &[Vec<u8>], chain: &[CertificateDer<'static>]| {
        let judge = mesh(ca.identity_with("/judge", with_lists(&ca, lists), |_| {}));
        judge.recheck_client(chain, now).is_ok()
    };
    let lists = [below.revoked(1, &[7])];
    assert!(!judged(&lists, &seventh) && judged(&lists, &eighth));
    let lists = [ca.revoked(1, &[9])];
    assert!(
        !judged(&lists, &seventh) && !judged(&lists, &eighth),
        "all that it signed"
    );
    assert!(
        judged(&[ca.revoked(1, &[7])], &seventh),
        "the root speaks of what it signed itself"
    );
}

#[test]
fn a_list_that_its_issuer_did_not_sign_says_nothing_and_an_old_one_goes_on() {
    let ca = Ca::new("mesh.test");
    let now = SystemTime::now();
    let chain = ca.issue("/a", numbered(7)).chain;
    let judged = |lists: &[Vec<u8>]| {
        let judge = mesh(ca.identity_with("/judge", with_lists(&ca, lists), |_| {}));
        judge.recheck_client(&chain, now).is_ok()
    };
    let forged = ca.impostor().revoked(9, &[7]);
    assert!(judged(std::slice::from_ref(&forged)), "it refuses nobody");
    assert!(
        !judged(&[forged, ca.revoked(1, &[7])]),
        "nor does it hide a good one"
    );
    let old = ca.revoke(CertificateRevocationListParams {
        this_update: ago(9000),
        next_update: ago(5000),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(vec![7]),
            revocation_time: ago(9000),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    });
    assert!(!judged(&[old]), "an old list is better than none");
}

/// S-20.
#[tokio::test]
async fn a_peer_that_is_not_the_expected_one_is_refused() {
    let ca = Ca::new("mesh.test");
    let (orders, web) = (mesh(ca.identity("/orders")), mesh(ca.identity("/web")));
    let shaken = shake(
        web.client(&[ca.id("/payments")]).unwrap(),
        orders.server(ServerProfile::Hbone),
    )
    .await;
    let problem = explain(&shaken.client.unwrap_err());
    assert!(
        problem.contains("it is spiffe://mesh.test/orders, expected was spiffe://mesh.test/payments"),
        "{problem}"
    );
    assert!(shaken.server.is_err());
    assert!(matches!(web.client(&[]), Err(TlsError::NobodyExpected)));
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_unless_the_profile_lets_it_be_nobody() {
    let ca = Ca::new("mesh.test");
    let (orders, web) = (mesh(ca.identity("/orders")), mesh(ca.identity("/web")));
    let mut config = ClientConfig::clone(&web.client(&[ca.id("/orders")]).unwrap());
    config.client_auth_cert_resolver = Arc::new(Nobody);
    config.alpn_protocols.clear();
    let config = Arc::new(config);
    for profile in [ServerProfile::Hbone, ServerProfile::Port, ServerProfile::Opaque] {
        let shaken = shake(Arc::clone(&config), orders.server(profile)).await;
        assert!(
            explain(&shaken.server.unwrap_err()).contains("no certificate"),
            "{profile:?}"
        );
        assert!(shaken.client.is_err(), "{profile:?}");
    }
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn tls_1_2_is_answered_with_the_alert_protocol_version() {
    let ca = Ca::new("mesh.test");
    let server = mesh(ca.identity("/orders"));
    for profile in [ServerProfile::Hbone, ServerProfile::Port, ServerProfile::Opaque] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(tokio_rustls::TlsAcceptor::from(server.server(profile)).accept(tcp));
        client.write_all(&client_hello_1_2()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(SOON, client.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        // Alert record, fatal, protocol_version (70).
        assert_eq!(
            (answer[0], &answer[5..7]),
            (21, &[2, 70][..]),
            "{profile:?}: {answer:?}"
        );
        assert_eq!(label(&serving.await.unwrap().unwrap_err()), "tls_version");
    }
}

/// A ClientHello as a TLS 1.2 client sends it: no supported_versions.
fn client_hello_1_2() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 23, 0, 0, // extended_master_secret
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    body.extend([1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

/// S-19.
#[tokio::test]
async fn a_client_that_would_resume_never_can() {
    let ca = Ca::new("mesh.test");
    let (orders, web) = (mesh(ca.identity("/orders")), mesh(ca.identity("/web")));
    let mut eager = ClientConfig::clone(&web.client(&[ca.id("/orders")]).unwrap());
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    let eager = Arc::new(eager);
    for _ in 0..3 {
        let shaken = shake(Arc::clone(&eager), orders.server(ServerProfile::Hbone)).await;
        assert_eq!(shaken.client.unwrap().1, Some(HandshakeKind::Full));
    }
    assert_eq!(orders.server(ServerProfile::Hbone).max_early_data_size, 0);
}

#[tokio::test]
async fn alpn_is_answered_as_the_profile_says() {
    let ca = Ca::new("mesh.test");
    let (orders, web) = (mesh(ca.identity("/orders")), mesh(ca.identity("/web")));
    let offering = |protocols: &[&[u8]]| {
        let mut config = ClientConfig::clone(&web.client(&[ca.id("/orders")]).unwrap());
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Arc::new(config)
    };
    let http: &[&[u8]] = &[b"h2", b"http/1.1"];
    for (profile, offered, agreed) in [
        (ServerProfile::Hbone, http, Some("h2")),
        (ServerProfile::Hbone, &[], None),
        (ServerProfile::Port, http, Some("h2")),
        (ServerProfile::Port, &[b"http/1.1"], Some("http/1.1")),
        (ServerProfile::Opaque, http, None),
        (ServerProfile::Opaque, &[&b"postgresql"[..]], None),
    ] {
        let shaken = shake(offering(offered), orders.server(profile)).await;
        let alpn = shaken.server.unwrap().alpn.map(|a| String::from_utf8(a).unwrap());
        assert_eq!(alpn.as_deref(), agreed, "{profile:?} {offered:?}");
    }
    let shaken = shake(offering(&[b"http/1.1"]), orders.server(ServerProfile::Hbone)).await;
    assert!(shaken.client.is_err() && shaken.server.is_err());
}

#[tokio::test]
async fn what_a_bundle_change_takes_away_is_found_by_a_recheck() {
    let (own, friend) = (Ca::new("own.test"), Ca::new("friend.test"));
    let before = mesh(own.identity_with("/a", bundles(&[&own, &friend]), |_| {}));
    let after = mesh(own.identity("/a"));
    assert!(after.generation() > before.generation());
    let chain = friend.issue("/b", |_| {}).chain;
    assert_eq!(
        before.recheck_server(&chain, SystemTime::now()).unwrap().id,
        friend.id("/b")
    );
    assert!(matches!(
        after.recheck_server(&chain, SystemTime::now()),
        Err(TlsError::Untrusted(_))
    ));
    assert!(matches!(
        after.recheck_client(&[], SystemTime::now()),
        Err(TlsError::Incomplete(_))
    ));
}

#[test]
fn a_key_of_another_certificate_is_refused_and_never_printed() {
    let ca = Ca::new("mesh.test");
    let good = ca.identity("/a");
    let stranger = ca.issue("/a", |_| {});
    let secret = stranger.key.clone();
    let bad = Identity {
        id: good.id.clone(),
        chain: good.chain.clone(),
        key: crate::identity::Key::new(stranger.key),
        bundles: ca.bundles(),
        not_before: good.not_before,
        not_after: good.not_after,
    };
    let printed = format!("{bad:?}");
    assert!(printed.contains("redacted") && !printed.contains(&format!("{}, {}", secret[40], secret[41])));
    assert!(matches!(MeshTls::new(Arc::new(bad)), Err(TlsError::Identity(_))));
    let tls = mesh(good);
    assert!(format!("{tls:?}").contains("redacted"));
}

#[tokio::test]
async fn a_public_port_shows_its_certificate_and_asks_for_none() {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let (cert_file, key_file) = (Path::new("tls.pem"), Path::new("tls.key"));
    let read =
        |cert: &str, key: &str| public_server((cert_file, cert.as_bytes()), (key_file, key.as_bytes()));
    let server = read(&cert, &key).unwrap();
    assert!(server.not_after > SystemTime::now());
    let server = server.config;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let (client, server) = tokio::join!(
        connector.connect(ServerName::try_from("shop.example").unwrap(), tcp),
        tokio_rustls::TlsAcceptor::from(server).accept(accepted)
    );
    client.unwrap();
    assert_eq!(session(server.unwrap().get_ref().1).unwrap().peer, None);

    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (cert, key) in [
        (&*cert, &*other),
        (&cert, ""),
        ("", &key),
        (&key, &key),
        (&cert, &cert),
    ] {
        assert!(matches!(read(cert, key), Err(TlsError::File { .. })), "{cert:?}");
    }
}
