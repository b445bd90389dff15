//! Mesh TLS. An [`Identity`](crate::identity::Identity) enters, rustls configurations leave whose verifiers accept exactly the peers that prove a
//! SPIFFE ID; [`session()`] reads from a finished handshake who the peer is. It never decides what a peer may do, never
//! resumes a session (a resumed one would carry an identity past the end of its bundle), never speaks less than TLS 1.3.

mod config;
mod failure;
mod proof;
mod public;
mod revoked;
mod session;
mod verify;

pub use config::{MeshTls, ServerProfile};
pub use failure::{explain, label};
pub use proof::{client_for, prove};
pub use public::{PublicServer, public_server};
pub use session::{Peer, Session, session};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::identity::{Blame, LeafProblem};

/// Why TLS could not be set up, or what a peer presented is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The own SVID or bundle cannot be used.
    #[error("the own identity cannot be used for TLS: {0}")]
    Identity(String),
    /// A file of the public certificate.
    #[error("{file}: {problem}")]
    File {
        /// Path as configured.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A client configuration was asked for that expects nobody.
    #[error("no SPIFFE ID is expected of the peer, so none can be accepted")]
    NobodyExpected,
    /// The handshake is not over, or told too little.
    #[error("the handshake did not establish {0}")]
    Incomplete(&'static str),
    /// The peer's leaf breaks a rule.
    #[error("the peer's certificate: {0}")]
    Leaf(#[from] LeafProblem),
    /// A certificate of the peer's chain is on a revocation list.
    #[error("the peer's certificate was revoked")]
    Revoked,
    /// The peer's chain does not lead to a root of its trust domain.
    #[error("the peer's certificate chain: {0}")]
    Untrusted(String),
}

impl TlsError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Identity(_) | Self::NobodyExpected => Blame::Us,
            Self::File { .. } => Blame::Config,
            Self::Incomplete(_) | Self::Leaf(_) | Self::Untrusted(_) | Self::Revoked => Blame::Peer,
        }
    }
}

/// The one provider, passed explicitly: a process default could be set by anyone. X25519MLKEM768 comes first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
