//! TLS for clients that have no workload identity: the files of a server certificate enter, a configuration leaves that
//! asks for no client certificate. Nobody who connects through it is anybody.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::no_resumption;
use super::{TlsError, provider};

/// The certificate chain and key of a `public` port, PEM. TLS 1.3, ALPN `h2` or `http/1.1`.
///
/// # Errors
/// A file cannot be read, holds no certificate or key, or the two do not belong together.
pub fn public_server(cert_pem: &Path, key_pem: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |file: &Path, problem: &dyn std::fmt::Display| TlsError::File {
        file: file.display().to_string(),
        problem: problem.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(cert_pem)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(cert_pem, &e))?;
    if chain.is_empty() {
        return Err(wrong(cert_pem, &"no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(key_pem).map_err(|e| wrong(key_pem, &e))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(cert_pem, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(key_pem, &e))?;
    no_resumption(&mut config);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
