//! The authority of a request: the text of `Host` or of an absolute target enters, one normal form leaves. Refuses user
//! information, lists, white space and anything whose host two readers could name differently.

use std::net::Ipv6Addr;

use super::Refusal;

/// `host[:port]`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority {
    /// Lower case, without port and without the one trailing dot; an IPv6 literal in brackets and canonical.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// The longest host name (RFC 1035), and enough for any literal.
const MAX_HOST: usize = 255;

/// Reads `host[:port]` (RFC 9110 7.2; H1, H2 of docs/request-attacks.md).
pub(super) fn authority(text: &[u8]) -> Result<Authority, Refusal> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii());
    let text = text.ok_or_else(|| bad("the host is not ASCII"))?;
    if text.is_empty() {
        return Err(bad("the host is empty"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (literal, rest) = rest
            .split_once(']')
            .ok_or_else(|| bad("the IPv6 literal has no closing bracket"))?;
        let address: Ipv6Addr = literal
            .parse()
            .map_err(|_| bad("the host is not an IPv6 address"))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => self::port(port)?,
            None if rest.is_empty() => None,
            None => return Err(bad("something follows the IPv6 literal")),
        };
        return Ok(Authority {
            host: format!("[{address}]"),
            port,
        });
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, self::port(port)?),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_HOST {
        return Err(bad("the host is too long"));
    }
    if name.split('.').any(str::is_empty) {
        return Err(bad("the host has an empty label"));
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~'))
    {
        return Err(bad("the host holds a character that no host name has"));
    }
    Ok(Authority {
        host: name.to_ascii_lowercase(),
        port,
    })
}

/// An empty port is the default one (RFC 3986 3.2.3).
fn port(text: &str) -> Result<Option<u16>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.map(Some)
        .ok_or_else(|| bad("the port of the host is not a number up to 65535"))
}

fn bad(detail: &str) -> Refusal {
    Refusal::bad("bad_host", detail)
}
