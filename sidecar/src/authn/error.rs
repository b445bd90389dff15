//! What goes wrong here, by who has to act: a [`Rejection`] answers a request, a [`FetchError`] is the issuer's or the
//! network's, an [`AuthnError`] is the configuration's. None of them holds a part of a token.

use std::io;
use std::path::PathBuf;

use hopguard_jose::{KeySetError, TokenError};

/// Why a request with a token gets no user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The token is not accepted: 401, always, never "no token".
    #[error("{detail}")]
    Invalid {
        /// A stable label: one of [`TokenError::LABELS`], `unknown_issuer`, `inactive` (its issuer says so), or (of what stays
        /// open) `issuer_changed`, `introspection_due`; of a token that is good, but not its sender's, those of
        /// [`crate::authn::Binding::check`].
        reason: &'static str,
        /// For people; holds nothing of the token.
        detail: String,
    },
    /// Its issuer's keys are not there (yet, or any more), or its issuer does not answer, so nobody can say: 503.
    #[error("{detail}")]
    Unavailable {
        /// The issuer's alias.
        alias: String,
        /// For people.
        detail: String,
    },
}

impl Rejection {
    /// A stable label for metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Invalid { reason, .. } => reason,
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

impl From<TokenError> for Rejection {
    fn from(error: TokenError) -> Self {
        Self::Invalid {
            reason: error.label(),
            detail: error.to_string(),
        }
    }
}

/// Whose fault it is, the first question of any outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The identity provider, or the network to it.
    Peer,
    /// The files of the operator.
    Config,
}

/// Why issuers cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    /// A setting that cannot be.
    #[error("issuer `{alias}`: {problem}")]
    Option {
        /// The issuer's alias.
        alias: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// `ca_file` cannot be used.
    #[error("issuer `{alias}`: ca_file {}: {problem}", path.display())]
    CaFile {
        /// The issuer's alias.
        alias: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine has no public roots.
    #[error("no public root certificates on this machine ({0}); install ca-certificates or set ca_file")]
    Roots(String),
    /// TLS cannot be set up.
    #[error("TLS to issuers cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A provider did not answer as it must (from [`crate::authn::probe`] only).
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl AuthnError {
    /// Who has to act.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Fetch(_) => Blame::Peer,
            _ => Blame::Config,
        }
    }
}

/// A document of an identity provider that was not got.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {fault}")]
pub struct FetchError {
    /// Where.
    pub url: String,
    /// How it was asked for.
    pub method: &'static str,
    /// Why.
    #[source]
    pub fault: FetchFault,
}

impl FetchError {
    /// Of a document that came and is not what it must be.
    pub(super) fn got(at: &dyn std::fmt::Display, fault: FetchFault) -> Self {
        Self {
            url: at.to_string(),
            method: "GET",
            fault,
        }
    }
}

/// Why a document was not got, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum FetchFault {
    /// The name has no address.
    #[error("the name does not resolve: {0}")]
    Resolve(io::Error),
    /// No address takes a connection, or a plain one leads off this machine.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// TLS, above all a certificate that is not trusted.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// The answer is not HTTP as it must be.
    #[error("HTTP: {0}")]
    Http(String),
    /// The answer is not a 200.
    #[error("the answer is {0}, not 200{note}", note = if (300..400).contains(.0) { "; redirects are not followed" } else { "" })]
    Status(u16),
    /// The answer is larger than 256 KiB.
    #[error("the answer is larger than 256 KiB")]
    TooLarge,
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// The document is not what it must be.
    #[error("{0}")]
    Document(String),
    /// The document is no JWK Set.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// The JWK Set has no key that we may use.
    #[error("the key set has no usable key{0}")]
    NoKeys(String),
}

impl FetchFault {
    /// A stable label for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Document(_) => "document",
            Self::Keys(_) => "keys",
            Self::NoKeys(_) => "no_keys",
        }
    }
}
