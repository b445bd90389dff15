//! What can be seen of a request whose head is refused, for its record: bytes or fields enter, a method and a path leave, as
//! far as they are there. Nothing is decided on it.

use http::request::Parts;

use super::{Head, Version, strip};

/// The longest request line that is looked at. A record shows less.
const MAX_LINE: usize = 1024;
/// The longest method that is taken for one.
const MAX_METHOD: usize = 32;

/// A request as far as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// Empty when what stands in its place is none.
    pub method: String,
    /// Without query and fragment, which may hold secrets; as it came, so that the fault in it can be seen.
    pub path: Option<String>,
    /// As which it came.
    pub version: Version,
}

impl Glimpse {
    /// From the first bytes of a request of HTTP/1.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        let line = bytes.get(..MAX_LINE).unwrap_or(bytes);
        let line = line.split(|byte| matches!(byte, b'\r' | b'\n')).next();
        let mut words = line.unwrap_or_default().split(|&byte| byte == b' ');
        let method = words.next().unwrap_or_default();
        // Without a blank behind it, nothing says that it is a method.
        let target = words.next();
        let is_method = target.is_some() && method.len() <= MAX_METHOD && strip::is_token(method);
        Self {
            method: if is_method {
                String::from_utf8_lossy(method).into_owned()
            } else {
                String::new()
            },
            path: target.filter(|_| is_method).and_then(path_of),
            version: Version::H11,
        }
    }

    /// From a request of HTTP/2, as the layer below decoded it.
    #[must_use]
    pub fn of_parts(parts: &Parts) -> Self {
        let method = parts.method.as_str();
        let method = method.get(..MAX_METHOD).unwrap_or(method).to_owned();
        let path = parts.uri.path();
        Self {
            method,
            path: path_of(path.as_bytes().get(..MAX_LINE).unwrap_or(path.as_bytes())),
            version: Version::H2,
        }
    }

    /// From a head that was read, and then refused.
    #[must_use]
    pub fn of_head(head: &Head) -> Self {
        Self {
            method: head.method.clone(),
            path: path_of(head.target.as_bytes()),
            version: head.version,
        }
    }
}

/// The path of a target, also of an absolute one.
fn path_of(target: &[u8]) -> Option<String> {
    let target = String::from_utf8_lossy(target);
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').and_then(|at| rest.get(at..))?,
        _ => target,
    };
    (!path.is_empty()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_first_line_is_seen_and_nothing_secret() {
        for (bytes, method, path) in [
            (
                &b"GET /a/../b?token=x HTTP/1.1\r\nHost: a\r\n\r\n"[..],
                "GET",
                Some("/a/../b"),
            ),
            (b"\r\nPOST /a#b HTTP/1.1", "POST", Some("/a")),
            (b"GET http://u:secret@svc/a?x HTTP/1.1\r\n", "GET", Some("/a")),
            (b"GET http://u:secret@svc HTTP/1.1\r\n", "GET", None),
            (b"GET /\xff\x01 HTTP/1.1\n", "GET", Some("/\u{fffd}\u{1}")),
            (b"GET", "", None),
            (b"G\xe9T /a HTTP/1.1", "", None),
            (b"\x16\x03\x01 /a", "", None),
            (b"", "", None),
        ] {
            let seen = Glimpse::of_bytes(bytes);
            assert_eq!(
                (seen.method.as_str(), seen.path.as_deref()),
                (method, path),
                "{bytes:?}"
            );
        }
        let long = [b"GET /".as_slice(), &[b'a'; 9000]].concat();
        assert!(Glimpse::of_bytes(&long).path.unwrap().len() < MAX_LINE);
    }
}
