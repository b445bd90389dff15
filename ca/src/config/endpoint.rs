//! `[bundle_endpoint]` and `[openid]` of ca.toml: where others fetch the trust bundle, and where JWT libraries find our keys.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use spiffe::{SpiffeId, TrustDomain};
use toml::Spanned;

use super::reader::Reader;
use crate::endpoint::{BundleEndpoint, OpenId, Options, Plain, Profile, WebFiles};

/// Its path in the trust domain, where no other is configured.
const OWN_ID: &str = "/hopguard/bundle-endpoint";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBundleEndpoint {
    listen: Spanned<String>,
    profile: Spanned<String>,
    path: Option<Spanned<String>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    spiffe_id: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOpenId {
    issuer: Spanned<String>,
    listen: Option<Spanned<String>>,
    socket: Option<Spanned<PathBuf>>,
}

impl Reader<'_> {
    /// Both tables.
    pub fn endpoint(
        &mut self,
        bundle: Option<&Spanned<RawBundleEndpoint>>,
        openid: Option<&Spanned<RawOpenId>>,
        domain: Option<&TrustDomain>,
    ) -> Options {
        let options = Options {
            bundle: bundle.and_then(|raw| self.bundle_endpoint(raw, domain)),
            openid: openid.and_then(|raw| self.openid(raw.get_ref())),
            ..Options::default()
        };
        if let (Some(at), Some(openid)) = (openid, &options.openid) {
            let served = options.bundle.as_ref().map(|bundle| &bundle.profile);
            if openid.plain.is_none() && bundle.is_none_or(|_| matches!(served, Some(Profile::Spiffe(_)))) {
                self.complain(
                    at,
                    "nobody would serve the documents of [openid]",
                    "add `listen` or `socket` for a proxy that speaks TLS, or a [bundle_endpoint] with profile = \"https_web\"",
                );
            }
            let taken = options.bundle.as_ref().is_some_and(|bundle| {
                let own = ["/keys", "/.well-known/openid-configuration"]
                    .map(|page| format!("{}{page}", openid.path));
                own.contains(&bundle.path)
            });
            if taken {
                self.complain(
                    at,
                    "the bundle and a document of [openid] have the same path",
                    "change `path` in [bundle_endpoint]",
                );
            }
        }
        options
    }

    fn bundle_endpoint(
        &mut self,
        at: &Spanned<RawBundleEndpoint>,
        domain: Option<&TrustDomain>,
    ) -> Option<BundleEndpoint> {
        let raw = at.get_ref();
        let listen = self.address(&raw.listen);
        let path = self.path(raw.path.as_ref());
        let profile = match raw.profile.get_ref().as_str() {
            "https_web" => self.web(at),
            "https_spiffe" => self.own_id(raw, domain),
            other => {
                self.complain(
                    &raw.profile,
                    format!("`{other}` is no profile of a bundle endpoint"),
                    "write \"https_web\" (a certificate for a host name) or \"https_spiffe\" (an SVID of our own)",
                );
                None
            }
        };
        Some(BundleEndpoint {
            listen: listen?,
            path: path?,
            profile: profile?,
        })
    }

    fn address(&mut self, raw: &Spanned<String>) -> Option<SocketAddr> {
        let address = raw.get_ref().parse().ok();
        if address.is_none() {
            self.complain(
                raw,
                format!("`{}` is not an address with a port", raw.get_ref()),
                "write \"0.0.0.0:8443\", \"[::]:8443\" or an address of this machine; a name is none",
            );
        }
        address
    }

    fn path(&mut self, raw: Option<&Spanned<String>>) -> Option<String> {
        let Some(raw) = raw else {
            return Some("/".to_owned());
        };
        let path = raw.get_ref();
        let good = path == "/" || path.strip_prefix('/').is_some_and(is_path);
        if !good {
            self.complain(
                raw,
                format!("`{path}` is not a path of a URL in its one form"),
                "write it like \"/bundle.json\": a slash before each part, letters, digits, `.`, `-`, `_`, `~`",
            );
        }
        good.then(|| path.clone())
    }

    fn web(&mut self, at: &Spanned<RawBundleEndpoint>) -> Option<Profile> {
        let raw = at.get_ref();
        if let Some(id) = &raw.spiffe_id {
            self.complain(
                id,
                "`spiffe_id` is for profile = \"https_spiffe\"",
                "leave it out",
            );
        }
        let (Some(certificate), Some(key)) = (&raw.certificate, &raw.key) else {
            self.complain(
                &raw.profile,
                "\"https_web\" needs `certificate` and `key`",
                "name two PEM files: the chain, leaf first, and its unencrypted key",
            );
            return None;
        };
        Some(Profile::Web(WebFiles {
            certificate: self.file(certificate),
            key: self.file(key),
        }))
    }

    fn own_id(&mut self, raw: &RawBundleEndpoint, domain: Option<&TrustDomain>) -> Option<Profile> {
        if let Some(file) = raw.certificate.as_ref().or(raw.key.as_ref()) {
            self.complain(
                file,
                "`certificate` and `key` are for profile = \"https_web\"",
                "leave them out: with \"https_spiffe\" the authority issues the endpoint's SVID itself",
            );
        }
        let domain = domain?;
        let Some(given) = &raw.spiffe_id else {
            return SpiffeId::new(format!("{}{OWN_ID}", domain.id_string()))
                .ok()
                .map(Profile::Spiffe);
        };
        let text = given.get_ref();
        let id = SpiffeId::new(text).ok().filter(|id| id.to_string() == *text);
        let id = id.filter(|id| id.is_member_of(domain) && !id.path().is_empty());
        if id.is_none() {
            self.complain(
                given,
                format!("`{text}` is not a SPIFFE ID of a workload in {domain}"),
                format!("write \"{}{OWN_ID}\", or leave it out", domain.id_string()),
            );
        }
        id.map(Profile::Spiffe)
    }

    fn openid(&mut self, raw: &RawOpenId) -> Option<OpenId> {
        let path = issuer_path(raw.issuer.get_ref());
        if let Err(problem) = &path {
            self.complain(
                &raw.issuer,
                format!("`{}` is not an issuer URL: {problem}", raw.issuer.get_ref()),
                "write \"https://host[:port][/path]\" as clients will have it, in lower case, without a slash at its end",
            );
        }
        if let (Some(_), Some(socket)) = (&raw.listen, &raw.socket) {
            self.complain(
                socket,
                "there is a `listen` already",
                "choose one of `listen` and `socket`",
            );
        }
        let plain = match (&raw.listen, &raw.socket) {
            (Some(listen), _) => {
                let address = self.address(listen)?;
                if !address.ip().is_loopback() {
                    self.complain(
                        listen,
                        format!("`{address}` is reached from other machines, and this listener has no TLS"),
                        "listen on 127.0.0.1 or [::1], or a unix `socket`, and put a proxy that speaks TLS before it",
                    );
                    return None;
                }
                Some(Plain::Loopback(address))
            }
            (None, Some(socket)) => Some(Plain::Unix(self.file(socket))),
            (None, None) => None,
        };
        Some(OpenId {
            issuer: raw.issuer.get_ref().clone(),
            path: path.ok()?.to_owned(),
            plain,
        })
    }
}

/// The path of an issuer URL (OpenID Connect Discovery, section 2: https, no query, no fragment), in the one form that is
/// compared byte by byte.
fn issuer_path(url: &str) -> Result<&str, &'static str> {
    let rest = url
        .strip_prefix("https://")
        .ok_or("it does not start with https://")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let inner = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let name = |host: &str| {
        host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
    };
    match inner {
        Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {}
        None if name(host) => {}
        _ => return Err("its host is no name in lower case and no address"),
    }
    if let Some(port) = port
        && (port.starts_with(['0', '+']) || port.parse::<u16>().is_err())
    {
        return Err("its port is no number");
    }
    match path.strip_prefix('/') {
        None => Ok(""),
        Some(inner) if is_path(inner) => Ok(path),
        Some(_) => Err("its path has an empty part, a dot part, or characters that have two spellings"),
    }
}

/// Parts joined by slashes, each of characters that nobody writes in two ways.
fn is_path(text: &str) -> bool {
    text.split('/').all(|part| {
        !["", ".", ".."].contains(&part)
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_has_one_form() {
        for (url, path) in [
            ("https://id.example.org", ""),
            ("https://id.example.org:8443", ""),
            ("https://id.example.org/mesh/local", "/mesh/local"),
            ("https://[::1]:9/x", "/x"),
            ("https://127.0.0.1:9", ""),
            ("https://[2001:db8::1]", ""),
        ] {
            assert_eq!(issuer_path(url), Ok(path), "{url}");
        }
        for url in [
            "http://id.example.org",
            "https://",
            "https:///x",
            "https://id.example.org/",
            "https://ID.example.org",
            "https://u@id.example.org",
            "https://id.example.org?x",
            "https://id.example.org#x",
            "https://id.example.org/a?x",
            "https://id.example.org//a",
            "https://id.example.org/a/../b",
            "https://id.example.org/%61",
            "https://id.example.org:",
            "https://id.example.org:x",
            "https://id.example.org:99999",
            "https://id.example.org:080",
            "https://id..org",
            "https://[::1",
            "https://[zz]",
            "https://id example",
        ] {
            assert!(issuer_path(url).is_err(), "{url}");
        }
    }
}
