//! From an identity to rustls configurations. Everything that the configurations share is built once for an identity; a
//! rotation makes a new [`MeshTls`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use spiffe::SpiffeId;

use super::session::Peer;
use super::verify::{ClientVerifier, Role, ServerVerifier, Trust};
use super::{TlsError, provider};
use crate::identity::Identity;

/// What a listener asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProfile {
    /// The HBONE port: a client certificate is required, ALPN `h2`.
    Hbone,
    /// mTLS straight on an `http` port: required, ALPN `h2` or `http/1.1`.
    Port,
    /// mTLS straight on an `opaque` port: required, and whatever ALPN the client offers is left unanswered, because the
    /// protocol inside is not ours to know.
    Opaque,
}

/// TLS for one identity.
#[derive(Debug)]
pub struct MeshTls {
    identity: Arc<Identity>,
    generation: u64,
    provider: Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
    trust: Arc<Trust>,
    servers: Servers,
}

#[derive(Debug)]
struct Servers {
    hbone: Arc<ServerConfig>,
    port: Arc<ServerConfig>,
    opaque: Arc<ServerConfig>,
}

impl MeshTls {
    /// Prepares everything for `identity`.
    ///
    /// # Errors
    /// Its key cannot sign, or a bundle of it cannot be read.
    pub fn new(identity: Arc<Identity>) -> Result<Self, TlsError> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let provider = provider();
        let key = PrivateKeyDer::from(identity.key.pkcs8());
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|_| TlsError::Identity("the private key is of a kind we cannot sign with".into()))?;
        let own = CertifiedKey::new(identity.chain.clone(), signer);
        own.keys_match().map_err(|e| TlsError::Identity(e.to_string()))?;
        let own = Arc::new(SingleCertAndKey::from(own));
        let trust = Arc::new(Trust::new(
            &identity.bundles,
            provider.signature_verification_algorithms,
        )?);
        let server = |alpn: &[&[u8]]| server(&provider, &own, &trust, alpn);
        let servers = Servers {
            hbone: server(&[b"h2"])?,
            port: server(&[b"h2", b"http/1.1"])?,
            opaque: server(&[])?,
        };
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            identity,
            generation,
            provider,
            own,
            trust,
            servers,
        })
    }

    /// Whose TLS this is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// A number of this value alone in the whole process, larger than that of any earlier one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The configuration of a listener.
    pub fn server(&self, profile: ServerProfile) -> Arc<ServerConfig> {
        Arc::clone(match profile {
            ServerProfile::Hbone => &self.servers.hbone,
            ServerProfile::Port => &self.servers.port,
            ServerProfile::Opaque => &self.servers.opaque,
        })
    }

    /// The configuration for a tunnel to whoever proves one of the `expected` IDs. ALPN is `h2`.
    ///
    /// # Errors
    /// Nobody is expected: that is a mistake of ours and must not mean anybody.
    pub fn client(&self, expected: &[SpiffeId]) -> Result<Arc<ClientConfig>, TlsError> {
        if expected.is_empty() {
            return Err(TlsError::NobodyExpected);
        }
        let verifier = ServerVerifier {
            trust: Arc::clone(&self.trust),
            expected: expected.to_vec(),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::Identity(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(&self.own));
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Proves a chain again that a peer presented as a server, under the roots of now: after a bundle change, what an
    /// open tunnel rests on may be gone.
    ///
    /// # Errors
    /// The peer would not be accepted today.
    pub fn recheck_server(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Peer, TlsError> {
        self.recheck(chain, Role::Server, now)
    }

    /// The same for a chain that a peer presented as a client.
    ///
    /// # Errors
    /// The peer would not be accepted today.
    pub fn recheck_client(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Peer, TlsError> {
        self.recheck(chain, Role::Client, now)
    }

    fn recheck(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<Peer, TlsError> {
        let (leaf_cert, between) = chain
            .split_first()
            .ok_or(TlsError::Incomplete("a peer certificate"))?;
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let leaf = self
            .trust
            .prove(leaf_cert, between, role, UnixTime::since_unix_epoch(since_1970))?;
        Ok(Peer::new(leaf, leaf_cert))
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    own: &Arc<SingleCertAndKey>,
    trust: &Arc<Trust>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = ClientVerifier {
        trust: Arc::clone(trust),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Identity(e.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::<SingleCertAndKey>::clone(own));
    no_resumption(&mut config);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// No tickets, no stored sessions, no early data: every connection proves itself anew.
pub(super) fn no_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}
