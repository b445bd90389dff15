//! The verifier of the mesh, for those who hold a chain and a bundle and no connection: the command line proves an SVID with
//! it, and asks a bundle endpoint that shows one (SPIFFE Federation, 5.2.2). There is no second reading of the rules.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use spiffe::SpiffeId;

use super::verify::{Role, ServerVerifier, Trust};
use super::{TlsError, provider};
use crate::identity::{Bundles, Leaf};

/// Proves a chain, leaf first, against the bundle of the trust domain in its own ID, in both roles of a workload.
///
/// # Errors
/// Why it is not to be trusted at `now`.
pub fn prove(chain: &[CertificateDer<'_>], bundles: &Bundles, now: SystemTime) -> Result<Leaf, TlsError> {
    let (leaf, between) = chain.split_first().ok_or(TlsError::Incomplete("a certificate"))?;
    let trust = Trust::new(bundles, provider().signature_verification_algorithms)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    trust.prove(leaf, between, Role::Client, now)?;
    trust.prove(leaf, between, Role::Server, now)
}

/// A client that talks to `server` alone, proven by its SVID, with TLS 1.2 or 1.3; it shows no certificate itself.
///
/// # Errors
/// The bundle cannot be used.
pub fn client_for(server: &SpiffeId, bundles: &Bundles) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let trust = Arc::new(Trust::new(bundles, provider.signature_verification_algorithms)?);
    let verifier = EitherVersion(ServerVerifier {
        trust,
        expected: vec![server.clone()],
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError::Identity(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// In the mesh nobody speaks TLS 1.2; a bundle endpoint may.
#[derive(Debug)]
struct EitherVersion(ServerVerifier);

impl ServerCertVerifier for EitherVersion {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::identity::testing::Ca;

    fn bundles(domain: &str, ca: &Ca) -> Bundles {
        let domain = spiffe::TrustDomain::new(domain).unwrap();
        Bundles::new(BTreeMap::from([(domain, vec![ca.root().clone()])]), vec![])
    }

    #[test]
    fn a_chain_is_proven_by_the_bundle_of_its_own_trust_domain_alone() {
        let (ours, others) = (Ca::new("mesh.test"), Ca::new("mesh.test"));
        let chain = ours.issue("/a", |_| {}).chain.clone();
        let now = SystemTime::now();
        let leaf = prove(&chain, &bundles("mesh.test", &ours), now).unwrap();
        assert_eq!(leaf.id.to_string(), "spiffe://mesh.test/a");
        for (wrong, at) in [
            (bundles("mesh.test", &others), now),
            (bundles("other.test", &ours), now),
            (Bundles::default(), now),
            (
                bundles("mesh.test", &ours),
                now + Duration::from_secs(100 * 365 * 86_400),
            ),
        ] {
            assert!(matches!(prove(&chain, &wrong, at), Err(TlsError::Untrusted(_))));
        }
        assert!(prove(&[], &bundles("mesh.test", &ours), now).is_err());
    }
}
