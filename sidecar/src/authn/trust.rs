//! Which certificates of identity providers are trusted: `ca_file` or the machine's public roots enter, a TLS client
//! configuration leaves. The one never adds to the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::error::AuthnError;
use super::options::IssuerOptions;

/// What tells one set of roots from another, so that a changed `ca_file` is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TrustId {
    /// The machine's.
    Public,
    /// SHA-256 of the certificates of a `ca_file`.
    File(Vec<u8>),
}

/// The roots of an issuer.
pub(super) struct Trust {
    /// Its alias and its own file, if it has one.
    file: Option<(String, PathBuf)>,
    tls: ArcSwap<ClientConfig>,
}

impl Trust {
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        self.tls.load_full()
    }

    /// Reads the issuer's own file again; the old roots stay when it cannot be used.
    pub(super) fn reload(&self) -> Result<(), AuthnError> {
        if let Some((alias, path)) = &self.file {
            let (_, roots) = from_file(alias, path)?;
            self.tls.store(config(roots)?);
        }
        Ok(())
    }
}

/// Loads roots; the machine's at most once.
#[derive(Default)]
pub(super) struct Roots {
    public: Option<Arc<ClientConfig>>,
}

impl Roots {
    /// The roots of an issuer.
    pub(super) fn trust(&mut self, options: &IssuerOptions) -> Result<(TrustId, Trust), AuthnError> {
        let (id, file, tls) = match &options.ca_file {
            Some(path) => {
                let (id, roots) = from_file(&options.alias, path)?;
                (id, Some((options.alias.clone(), path.clone())), config(roots)?)
            }
            None => match self.public() {
                // Then TLS has nobody to trust, and needs nobody.
                Err(AuthnError::Roots(_)) if plain(options) => {
                    (TrustId::Public, None, config(RootCertStore::empty())?)
                }
                public => (TrustId::Public, None, public?),
            },
        };
        Ok((
            id,
            Trust {
                file,
                tls: ArcSwap::from(tls),
            },
        ))
    }

    fn public(&mut self) -> Result<Arc<ClientConfig>, AuthnError> {
        if let Some(public) = &self.public {
            return Ok(Arc::clone(public));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found
                .errors
                .first()
                .map_or_else(|| "none found".to_owned(), ToString::to_string);
            return Err(AuthnError::Roots(why));
        }
        let public = config(roots)?;
        self.public = Some(Arc::clone(&public));
        Ok(public)
    }
}

/// Whether an issuer is spoken with on this machine, without TLS.
fn plain(options: &IssuerOptions) -> bool {
    options
        .jwks_uri
        .as_ref()
        .unwrap_or(&options.issuer)
        .starts_with("http://")
}

fn from_file(alias: &str, path: &Path) -> Result<(TrustId, RootCertStore), AuthnError> {
    let fail = |problem: String| AuthnError::CaFile {
        alias: alias.to_owned(),
        path: path.to_owned(),
        problem,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fail("holds no certificate in PEM".to_owned()));
    }
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        hash.update(&certificate);
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    Ok((TrustId::File(hash.finish().as_ref().to_vec()), roots))
}

/// TLS as a client that trusts these roots alone.
fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, AuthnError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // One connection a fetch, minutes apart: nothing to resume, nothing to remember.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
