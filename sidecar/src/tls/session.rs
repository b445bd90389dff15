//! What a finished handshake established: a rustls connection enters, plain facts leave. The chain was proven by the
//! verifier before the handshake could finish; here the leaf is only read.

use std::time::SystemTime;

use rustls::{CommonState, HandshakeKind, NamedGroup, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;

use super::TlsError;
use crate::identity::{Leaf, leaf};

/// The workload at the other end, as it proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its leaf is not valid before.
    pub not_before: SystemTime,
    /// Its leaf is not valid after.
    pub not_after: SystemTime,
    /// SHA-256 of the leaf, DER.
    pub fingerprint: [u8; 32],
}

impl Peer {
    pub(super) fn new(leaf: Leaf, cert: &CertificateDer<'_>) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cert.as_ref());
        let mut fingerprint = [0; 32];
        for (to, from) in fingerprint.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self {
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            fingerprint,
        }
    }
}

/// The facts of one TLS session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The peer; `None` where a certificate is not required and none came.
    pub peer: Option<Peer>,
    /// `TLSv1.3`.
    pub version: &'static str,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub kx: &'static str,
    /// The protocol that was agreed on, if any.
    pub alpn: Option<Vec<u8>>,
}

/// Reads the facts of a finished handshake.
///
/// # Errors
/// The handshake is not over, or it is a resumed one: that peer proved nothing now.
pub fn session(common: &CommonState) -> Result<Session, TlsError> {
    if common.is_handshaking() {
        return Err(TlsError::Incomplete("a session yet"));
    }
    if common.handshake_kind() == Some(HandshakeKind::Resumed) {
        return Err(TlsError::Incomplete("a fresh identity: the session was resumed"));
    }
    let peer = match common.peer_certificates().and_then(<[_]>::first) {
        Some(cert) => Some(Peer::new(leaf(cert)?, cert)),
        None => None,
    };
    let version = match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => return Err(TlsError::Incomplete("a protocol version")),
    };
    let group = common
        .negotiated_key_exchange_group()
        .ok_or(TlsError::Incomplete("a key exchange"))?;
    let kx = match group.name() {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::secp256r1MLKEM768 => "secp256r1MLKEM768",
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "other",
    };
    Ok(Session {
        peer,
        version,
        kx,
        alpn: common.alpn_protocol().map(<[u8]>::to_vec),
    })
}
