//! The request head as it goes on: a [`Head`] and the headers that the sidecar adds enter, bytes leave. What the table of
//! the room's first page removes is not among them, whatever its spelling.

use super::fields::Fate;
use super::strip::{self, Class};
use super::{Framing, Head, Version};

impl Head {
    /// The bytes of the head for the upstream: the target in origin-form, byte for byte as it came; hop-by-hop and
    /// identity headers removed; framing written anew; `add` at the end.
    ///
    /// A header of the request that has the folded name of one in `add` is removed. An entry of `add` whose name is no
    /// token, or whose value holds a control byte, is left out: a claim that cannot be written is not made.
    #[must_use]
    pub fn forward_bytes(&self, add: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len.saturating_add(256));
        let version = match self.version {
            Version::H10 => "HTTP/1.0",
            Version::H11 | Version::H2 => "HTTP/1.1",
        };
        for part in [&self.method, " ", &self.origin, " ", version, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        let mut host_written = false;
        for (header, class, fate) in self.fields.all() {
            match (class, fate) {
                (_, Fate::Dropped) => {}
                (Class::Host, _) => {
                    host_written = true;
                    line(
                        &mut out,
                        header.name,
                        self.host_text.as_deref().unwrap_or_default().as_bytes(),
                    );
                }
                (Class::ContentLength | Class::TransferEncoding, _) => framing(&mut out, self.framing),
                _ if add.iter().any(|(name, _)| strip::same_folded(name, header.name)) => {}
                _ => announced(&mut out, header.name, header.value, |name| {
                    self.drops_trailer(name)
                }),
            }
        }
        if let (false, Some(host)) = (host_written, &self.host_text) {
            line(&mut out, "host", host.as_bytes());
        }
        if let Some(protocols) = &self.upgrade {
            line(&mut out, "connection", b"upgrade");
            line(&mut out, "upgrade", protocols.as_bytes());
        } else if self.takes_trailers {
            line(&mut out, "connection", b"te");
            line(&mut out, "te", b"trailers");
        }
        append(&mut out, add);
        out.extend_from_slice(b"\r\n");
        out
    }
}

fn framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None => {}
        Framing::Length(length) => line(out, "content-length", length.to_string().as_bytes()),
        Framing::Chunked => line(out, "transfer-encoding", b"chunked"),
    }
}

/// Writes one header line.
pub(super) fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes a header line as it came; of `Trailer`, what is left of it.
pub(super) fn announced(out: &mut Vec<u8>, name: &str, value: &[u8], dropped: impl Fn(&str) -> bool) {
    if let Some(value) = strip::announced(name, value, dropped) {
        line(out, name, &value);
    }
}

/// Writes the headers that we add, those that can be written.
pub(super) fn append(out: &mut Vec<u8>, add: &[(&str, &str)]) {
    for (name, value) in add {
        if strip::is_token(name.as_bytes()) && strip::is_field_value(value.as_bytes()) {
            line(out, name, value.as_bytes());
        }
    }
}
