//! What others get who are not workloads of this machine: the trust bundle as a SPIFFE bundle document (SPIFFE Trust Domain
//! and Bundle, SPIFFE Federation), and an OpenID discovery document with a JWK Set, by which any JWT library accepts our
//! JWT-SVIDs. Everything here is public and asks nobody who he is; it reads [`Trust`](crate::authority::Trust) and can
//! change nothing.
//!
//! ```text
//!  documents    Trust -> JSON (pure)
//!  site         path -> page, ETag, 304, 404, 405 (pure)
//!  certificate  files that are looked at, or an SVID of our own that is renewed
//!  serve        listeners, TLS, bounds
//! ```

mod certificate;
mod documents;
mod serve;
mod site;
mod turnstile;

pub use documents::root as root_jwk;
pub use serve::Endpoint;

use std::net::SocketAddr;
use std::path::PathBuf;

use spiffe::SpiffeId;

use crate::authority::AuthorityError;
use crate::workload::{IssueError, SocketError};

/// What is served, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The trust bundle, over HTTPS.
    pub bundle: Option<BundleEndpoint>,
    /// The OpenID documents.
    pub openid: Option<OpenId>,
    /// How many connections each listener takes at once.
    pub connections: Connections,
}

/// How many connections a listener takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections(pub u32);

impl Default for Connections {
    fn default() -> Self {
        Self(turnstile::CONNECTIONS)
    }
}

impl Options {
    /// The identity that the endpoint itself has.
    pub fn own_id(&self) -> Option<&SpiffeId> {
        match &self.bundle.as_ref()?.profile {
            Profile::Spiffe(id) => Some(id),
            Profile::Web(_) => None,
        }
    }

    fn listeners(&self) -> u32 {
        let plain = self.openid.as_ref().and_then(|openid| openid.plain.as_ref());
        u32::from(self.bundle.is_some()) + u32::from(plain.is_some())
    }

    /// The descriptors that all connections need.
    pub fn descriptors(&self) -> u64 {
        u64::from(self.listeners()) * u64::from(self.connections.0)
    }

    /// The same within so many descriptors, but with one connection for each listener at the least.
    pub fn within(&self, descriptors: u64) -> Self {
        let most = descriptors / u64::from(self.listeners().max(1));
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        Self {
            connections: Connections(self.connections.0.min(most)),
            ..self.clone()
        }
    }
}

/// The bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The path of the bundle.
    pub path: String,
    /// How it proves that it is what clients ask for.
    pub profile: Profile,
}

/// The endpoint profiles of SPIFFE Federation, section 5.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: a certificate for a host name, of an authority that the clients' machines trust.
    Web(WebFiles),
    /// `https_spiffe`: an X.509-SVID of this identity, issued by ourselves.
    Spiffe(SpiffeId),
}

/// The files of a server certificate, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its key, unencrypted.
    pub key: PathBuf,
}

impl WebFiles {
    /// Whether the files can be used now.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), EndpointError> {
        certificate::read(self).map(drop)
    }
}

/// The OpenID documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenId {
    /// The issuer: `https://host[:port][/path]`, the `iss` of our JWT-SVIDs.
    pub issuer: String,
    /// The path in it, without a slash at its end.
    pub path: String,
    /// Where they are served without TLS, to a proxy of this machine; without it, at the bundle endpoint.
    pub plain: Option<Plain>,
}

/// A listener without TLS. It never leaves the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// A unix socket.
    Unix(PathBuf),
    /// An address of loopback.
    Loopback(SocketAddr),
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is not to be had.
    #[error("cannot listen on {place}: {source}")]
    Listen {
        /// The address.
        place: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A file of the server certificate.
    #[error("`{file}`: {problem}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the server certificate cannot be read for now.
    #[error("`{file}` cannot be read for now: {source}")]
    Shortage {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The endpoint's own SVID could not be issued.
    #[error("the bundle endpoint's own SVID: {0}")]
    Issue(#[from] IssueError),
    /// A document cannot be made of the bundle.
    #[error("the bundle document: {0}")]
    Document(#[from] AuthorityError),
    /// rustls takes no such configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl EndpointError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "stop the other process, or change `listen`".to_owned()
            }
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; take another".to_owned()
            }
            Self::Listen { .. } => "`listen` must be an address of this machine".to_owned(),
            Self::Socket(error) => error.hint(),
            Self::Shortage { .. } => "raise the limit of open files (LimitNOFILE under systemd)".to_owned(),
            Self::File { .. } => {
                "put a certificate chain, leaf first, and its unencrypted key in place, both PEM; the key for its owner \
                 alone or with a group of its own (chmod 0640)"
                    .to_owned()
            }
            Self::Issue(_) => "the authority's log says why; a revoked identity gets one again by `hopguard ca revoke --lift`".to_owned(),
            Self::Document(_) | Self::Tls(_) => {
                "this should not happen: please report it".to_owned()
            }
        }
    }
}
