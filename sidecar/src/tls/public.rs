//! TLS for clients that have no workload identity: the files of a server certificate enter, a configuration leaves that
//! asks for no client certificate. Nobody who connects through it is anybody.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::no_resumption;
use super::{TlsError, provider};

/// TLS with the certificate of a `public` port.
#[derive(Clone, Debug)]
pub struct PublicServer {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The certificate is not valid after.
    pub not_after: SystemTime,
    /// The chain, leaf first: two that are equal need no change.
    pub chain: Vec<CertificateDer<'static>>,
}

/// The certificate chain and key of a `public` port, each a file and its content, PEM. TLS 1.3, ALPN `h2` or `http/1.1`.
///
/// # Errors
/// One holds no certificate or key, or the two do not belong together.
pub fn public_server(
    (cert_pem, cert): (&Path, &[u8]),
    (key_pem, key): (&Path, &[u8]),
) -> Result<PublicServer, TlsError> {
    let wrong = |file: &Path, problem: &dyn std::fmt::Display| TlsError::File {
        file: file.display().to_string(),
        problem: problem.to_string(),
    };
    let chain = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong(cert_pem, &e))?;
    let Some(leaf) = chain.first() else {
        return Err(wrong(cert_pem, &"no certificate in it"));
    };
    let not_after = not_after(leaf).map_err(|e| wrong(cert_pem, &e))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(key_pem, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(cert_pem, &e))?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => wrong(
                key_pem,
                &format!(
                    "it is not the key of the first certificate in {}",
                    cert_pem.display()
                ),
            ),
            other => wrong(key_pem, &other),
        })?;
    no_resumption(&mut config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(PublicServer {
        config: Arc::new(config),
        not_after,
        chain,
    })
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| e.to_string())?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
