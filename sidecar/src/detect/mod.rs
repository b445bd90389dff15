//! What a connection speaks, told from its first bytes: bytes enter, a protocol or "not yet" leaves. Nothing is consumed:
//! what was looked at is read again by whoever comes next.

mod prefixed;

pub use prefixed::{Detected, Prefixed, detect};

/// A protocol, as far as first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TLS record with a handshake (RFC 8446 section 5.1).
    Tls,
    /// An HTTP/1 request line (RFC 9112 section 3).
    Http1,
    /// The HTTP/2 connection preface (RFC 9113 section 3.4).
    Http2,
    /// Anything else.
    Other,
}

impl Protocol {
    /// A stable label for records and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::Other => "other",
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest request method that is taken for one.
const LONGEST_METHOD: usize = 32;

/// Tells the protocol, or `None` while the bytes could still become more than one.
pub fn classify(bytes: &[u8]) -> Option<Protocol> {
    let first = *bytes.first()?;
    if first == 0x16 {
        return classify_tls(bytes);
    }
    if PREFACE.starts_with(bytes) {
        return (bytes.len() == PREFACE.len()).then_some(Protocol::Http2);
    }
    if bytes.starts_with(PREFACE) {
        return Some(Protocol::Http2);
    }
    for byte in bytes.iter().take(LONGEST_METHOD + 1) {
        match byte {
            b' ' => {
                return Some(if first == b' ' {
                    Protocol::Other
                } else {
                    Protocol::Http1
                });
            }
            b if is_token(*b) => {}
            _ => return Some(Protocol::Other),
        }
    }
    (bytes.len() > LONGEST_METHOD).then_some(Protocol::Other)
}

/// Whether bytes begin HTTP/2, or `None` while they still may.
pub fn may_be_http2(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(PREFACE) {
        Some(true)
    } else if PREFACE.starts_with(bytes) {
        None
    } else {
        Some(false)
    }
}

/// A record header is content type 22 and version 3.0 to 3.4.
fn classify_tls(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [_] | [_, 3] => None,
        [_, 3, minor, ..] if *minor <= 4 => Some(Protocol::Tls),
        _ => Some(Protocol::Other),
    }
}

/// A token character (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_it_knows() {
        let known: &[(&[u8], Protocol)] = &[
            (b"\x16\x03\x01\x02\x00", Protocol::Tls),
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
            (b"get /", Protocol::Http1),
            (b"PRIVATE /x HTTP/1.1", Protocol::Http1),
            (PREFACE, Protocol::Http2),
            (b"\x16\x02\x01", Protocol::Other),
            (b"\x00\x00", Protocol::Other),
            (b" GET /", Protocol::Other),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Protocol::Other),
            (b"\x80\x2e\x01", Protocol::Other),
            (b"PRI * HTTP/2.0\r\n\r\nSMx", Protocol::Http1),
        ];
        for (bytes, protocol) in known {
            assert_eq!(classify(bytes), Some(*protocol), "{bytes:?}");
        }
        assert_eq!(classify(&[b'A'; 33]), Some(Protocol::Other));
        assert_eq!(classify(b""), None);
    }

    #[test]
    fn no_prefix_is_told_wrong() {
        for (whole, protocol) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], Protocol::Tls),
            (b"DELETE /orders HTTP/1.1", Protocol::Http1),
            (PREFACE, Protocol::Http2),
        ] {
            let http2 = protocol == Protocol::Http2;
            assert_eq!(may_be_http2(whole), Some(http2), "{whole:?}");
            for end in 0..=whole.len() {
                assert!(end == 0 || may_be_http2(&whole[..end]) != Some(!http2), "{end}");
                let said = classify(&whole[..end]);
                assert!(
                    said.is_none() || said == Some(protocol),
                    "{:?} was told {said:?}",
                    &whole[..end]
                );
            }
        }
    }
}
