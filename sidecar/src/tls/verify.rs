//! The SPIFFE verifier. A presented chain and the time enter; the proven ID leaves. The roots are those of the trust domain
//! in the presented ID and no others. It proves identity only: whether the peer is welcome is decided elsewhere, except
//! that a client may name the IDs it wants to reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use spiffe::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::revoked::Lists;
use crate::identity::{Bundles, Leaf, leaf};

/// The most certificates that a peer may present.
const MAX_PRESENTED: usize = 16;

/// What every verifier of one identity shares: the roots by trust domain, never merged.
#[derive(Debug)]
pub(super) struct Trust {
    roots: BTreeMap<TrustDomain, Vec<Root>>,
    lists: Lists,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Root {
    anchor: TrustAnchor<'static>,
    der: CertificateDer<'static>,
    /// Seconds since 1970; a trust anchor carries no validity of its own.
    not_after: i64,
}

/// In which role the peer presents its certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Server,
    Client,
}

impl Trust {
    pub(super) fn new(bundles: &Bundles, algorithms: WebPkiSupportedAlgorithms) -> Result<Self, TlsError> {
        let mut roots = BTreeMap::new();
        for (domain, certs) in bundles.iter() {
            let of_domain = certs.iter().map(root).collect::<Result<Vec<_>, _>>();
            let of_domain = of_domain.map_err(|e| TlsError::Identity(format!("bundle of {domain}: {e}")))?;
            roots.insert(domain.clone(), of_domain);
        }
        let lists = Lists::new(bundles).map_err(|e| TlsError::Identity(format!("revocation list: {e}")))?;
        Ok(Self {
            roots,
            lists,
            algorithms,
        })
    }

    /// Proves who presents `chain` (leaf first) at `now`.
    pub(super) fn prove(
        &self,
        leaf_cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Leaf, TlsError> {
        let leaf = leaf(leaf_cert)?;
        if between.len() >= MAX_PRESENTED {
            return Err(TlsError::Untrusted(format!(
                "more than {MAX_PRESENTED} certificates"
            )));
        }
        let domain = leaf.id.trust_domain();
        let anchors = self.anchors(domain, now)?;
        let usage = match role {
            Role::Server => KeyUsage::server_auth(),
            Role::Client => KeyUsage::client_auth(),
        };
        EndEntityCert::try_from(leaf_cert)
            .and_then(|cert| {
                let algorithms = self.algorithms.all;
                let path = cert.verify_for_usage(
                    algorithms,
                    &anchors,
                    between,
                    now,
                    usage,
                    None,
                    Some(&signers_may_sign),
                )?;
                self.not_revoked(leaf_cert, &path, domain)
            })
            .map_err(|e| why(&e, domain))?;
        Ok(leaf)
    }

    fn not_revoked(
        &self,
        leaf: &CertificateDer<'_>,
        path: &VerifiedPath<'_>,
        domain: &TrustDomain,
    ) -> Result<(), webpki::Error> {
        let roots = self.roots.get(domain).map(Vec::as_slice).unwrap_or_default();
        let root = roots.iter().find(|root| root.anchor == *path.anchor());
        let root = root.ok_or(webpki::Error::UnknownIssuer)?;
        self.lists.check(leaf, path, &root.der)
    }

    /// The roots of one trust domain that are still valid.
    fn anchors(&self, domain: &TrustDomain, now: UnixTime) -> Result<Vec<TrustAnchor<'static>>, TlsError> {
        let Some(roots) = self.roots.get(domain) else {
            return Err(TlsError::Untrusted(format!(
                "there is no bundle for the trust domain {domain}"
            )));
        };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let live: Vec<_> = roots
            .iter()
            .filter(|r| now <= r.not_after)
            .map(|r| r.anchor.clone())
            .collect();
        if live.is_empty() {
            return Err(TlsError::Untrusted(format!(
                "every root of the trust domain {domain} has expired"
            )));
        }
        Ok(live)
    }
}

/// webpki's own words are its variants' names.
fn why(error: &webpki::Error, domain: &TrustDomain) -> TlsError {
    use webpki::Error as E;
    TlsError::Untrusted(match error {
        E::CertRevoked => return TlsError::Revoked,
        E::CertExpired { time, not_after } => {
            format!(
                "expired {} s ago",
                time.as_secs().saturating_sub(not_after.as_secs())
            )
        }
        E::CertNotValidYet { time, not_before } => {
            let early = not_before.as_secs().saturating_sub(time.as_secs());
            format!("not valid for another {early} s: one of the two clocks is wrong")
        }
        E::UnknownIssuer => format!("no path to a root of the trust domain {domain}"),
        E::RequiredEkuNotFoundContext(_) => "its extended key usage does not allow this role".into(),
        E::EndEntityUsedAsCa => "a certificate in it may not sign others".into(),
        other => format!("{other:?} (trust domain {domain})"),
    })
}

fn root(cert: &CertificateDer<'static>) -> Result<Root, String> {
    let anchor = webpki::anchor_from_trusted_cert(cert)
        .map_err(|e| e.to_string())?
        .to_owned();
    let (_, parsed) = X509Certificate::from_der(cert.as_ref()).map_err(|e| e.to_string())?;
    Ok(Root {
        anchor,
        der: cert.clone(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// webpki asks an intermediate for cA = true but not for keyCertSign (RFC 5280 6.1.4 n).
fn signers_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for signer in path.intermediate_certificates() {
        let der = signer.der();
        let (_, parsed) = X509Certificate::from_der(der.as_ref()).map_err(|_| webpki::Error::BadDer)?;
        let usage = parsed.key_usage().map_err(|_| webpki::Error::BadDer)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// The client's side: the server must be one of those expected.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) trust: Arc<Trust>,
    pub(super) expected: Vec<SpiffeId>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let proven = self
            .trust
            .prove(end_entity, intermediates, Role::Server, now)
            .map_err(refuse)?;
        if !self.expected.contains(&proven.id) {
            let expected: Vec<_> = self.expected.iter().map(SpiffeId::to_string).collect();
            let problem = format!("it is {}, expected was {}", proven.id, expected.join(" or "));
            return Err(refuse(TlsError::Untrusted(problem)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// The server's side: any workload that proves its ID.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) trust: Arc<Trust>,
}

impl ClientCertVerifier for ClientVerifier {
    /// Our own SVID is shown to mesh peers alone: who has none is nobody here, also on a `public` port.
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .prove(end_entity, intermediates, Role::Client, now)
            .map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

fn refuse(error: TlsError) -> Error {
    if matches!(error, TlsError::Revoked) {
        // The peer is told by its own alert.
        return Error::InvalidCertificate(CertificateError::Revoked);
    }
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn tls12() -> Error {
    Error::General("TLS 1.2 is not spoken in the mesh".into())
}
