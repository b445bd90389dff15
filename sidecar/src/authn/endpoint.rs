//! An address of an identity provider: text enters, an [`Endpoint`] leaves that cannot be anything but https, or plain
//! http to this machine where that is allowed. No user info, no fragment, no repair of what is odd.

use std::fmt;
use std::net::IpAddr;

const MAX_URL_BYTES: usize = 2048;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// False only for a host that is this machine.
    pub(super) secure: bool,
    /// A DNS name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) target: String,
}

impl Endpoint {
    /// Reads an absolute URL; `plain_loopback` says whether `http` to this machine may be used.
    pub(super) fn parse(url: &str, plain_loopback: bool) -> Result<Self, &'static str> {
        if url.len() > MAX_URL_BYTES || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("not a URL of at most 2048 printable ASCII characters");
        }
        if url.contains(['#', '\\', '"', '<', '>']) {
            return Err("a URL with a fragment or with characters that a URL must escape");
        }
        let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("not an https URL"),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).ok_or("not a URL")?;
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        let endpoint = Self {
            secure,
            host,
            port,
            target,
        };
        let this_machine = plain_loopback && endpoint.names_this_machine();
        if !secure && !this_machine {
            return Err(
                "plain http; only https is taken (http for loopback alone, with allow_http_loopback)",
            );
        }
        Ok(endpoint)
    }

    fn names_this_machine(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|ip| ip.is_loopback())
    }

    /// The host as an address, where it is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a key of the operator's.
        let path = self.target.split('?').next().unwrap_or_default();
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

/// Splits `host[:port]` (RFC 3986 section 3.2) without user info.
fn host_and_port(authority: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("an unclosed [")?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| "no IPv6 address in []")?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err("characters after ]"),
            };
            (host, port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if host.is_empty() || host.len() > 253 || !host.bytes().all(named) {
                return Err("no host, or one that is neither a DNS name nor an address");
            }
            (host, port)
        }
    };
    let port = match port {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(
            digits
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("a port past 65535")?,
        ),
        Some(_) => return Err("a port that is no number"),
    };
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_is_taken_apart() {
        let url = Endpoint::parse("https://IdP.example:8443/realms/a?x=1", false).expect("a URL");
        assert_eq!(
            (url.host.as_str(), url.port, url.target.as_str()),
            ("idp.example", 8443, "/realms/a?x=1")
        );
        assert_eq!(url.authority(), "idp.example:8443");
        assert_eq!(
            url.to_string(),
            "https://idp.example:8443/realms/a",
            "the query is not shown"
        );
        let url = Endpoint::parse("https://[2001:db8::1]", false).expect("a URL");
        assert_eq!(
            (url.port, url.target.as_str(), url.authority()),
            (443, "/", "[2001:db8::1]".to_owned())
        );
        assert_eq!(
            Endpoint::parse("https://a?b", false).map(|url| url.target),
            Ok("/?b".to_owned())
        );
    }

    #[test]
    fn plain_http_is_for_this_machine_and_only_when_allowed() {
        for url in [
            "http://127.0.0.1:80/",
            "http://[::1]:9/x",
            "http://localhost/x",
            "http://127.9.9.9/",
        ] {
            assert!(Endpoint::parse(url, true).is_ok(), "{url}");
            assert!(Endpoint::parse(url, false).is_err(), "{url}");
        }
        for url in [
            "http://10.0.0.1/",
            "http://localhost.evil.example/",
            "http://idp/",
            "http://0.0.0.0/",
            "http://127.0.0.1.nip.io/",
        ] {
            assert!(Endpoint::parse(url, true).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_odd_is_refused() {
        for url in [
            "",
            "idp.example",
            "ftp://a/",
            "HTTPS://a/",
            "https:/a",
            "https://",
            "https:///x",
            "https://u@a/",
            "https://u:p@a/",
            "https://a#f",
            "https://a/#f",
            "https://a b/",
            "https://a/\r\nx",
            "https://a:0/",
            "https://a:65536/",
            "https://a:/",
            "https://a:8x/",
            "https://[::1/",
            "https://[a]/",
            "https://[::1]x/",
            "https://ä/",
            "https://a\\b/",
            "https://a:1:2/",
            "//a/",
            "https://%61/",
        ] {
            assert!(Endpoint::parse(url, true).is_err(), "{url}");
        }
        assert!(Endpoint::parse(&format!("https://a/{}", "x".repeat(MAX_URL_BYTES)), false).is_err());
    }
}
