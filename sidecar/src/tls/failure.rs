//! Why a handshake failed, for people and for metrics: the error of the TLS stream enters, words and a stable label leave.
//! rustls wraps our own verdict so deep that its own words hide it.

use std::io;

use rustls::{CertificateError, Error, PeerIncompatible};

use super::TlsError;

/// What went wrong, in words for a log: the verifier's own verdict where there is one.
pub fn explain(error: &io::Error) -> String {
    match rustls_error(error) {
        Some(Error::InvalidCertificate(CertificateError::Other(verdict))) => verdict.0.to_string(),
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => TlsError::Revoked.to_string(),
        Some(Error::AlertReceived(alert)) => format!("the peer refused the handshake: {alert:?}"),
        Some(Error::NoCertificatesPresented) => "the peer presented no certificate".into(),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer hung up during the handshake".into()
        }
        None => error.to_string(),
    }
}

/// The same as one of a few stable labels.
pub fn label(error: &io::Error) -> &'static str {
    match rustls_error(error) {
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => "revoked",
        Some(Error::InvalidCertificate(_)) => "peer_untrusted",
        Some(Error::NoCertificatesPresented) => "no_client_certificate",
        Some(Error::AlertReceived(_)) => "refused_by_peer",
        Some(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )) => "tls_version",
        Some(Error::NoApplicationProtocol) => "alpn",
        Some(_) => "tls_protocol",
        None if error.kind() == io::ErrorKind::TimedOut => "timeout",
        None => "closed",
    }
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
