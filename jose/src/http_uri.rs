//! The URI of an HTTP request as two parties compare it: text enters, its one normal form leaves (RFC 3986 sections 6.2.2
//! and 6.2.3), without query and fragment, as RFC 9449 section 4.3 wants `htu` compared.

/// An absolute `http` or `https` URI in normal form. Two of them are equal when they are the same text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUri(String);

impl HttpUri {
    /// Reads a URI; `None` when it is not absolute, not of HTTP, or holds credentials, blanks, backslashes or a broken
    /// escape. Dot segments stay: no request that has one gets as far as a comparison.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split(['?', '#']).next()?;
        let (scheme, rest) = text.split_once("://")?;
        let (scheme, default_port) = if scheme.eq_ignore_ascii_case("https") {
            ("https", "443")
        } else if scheme.eq_ignore_ascii_case("http") {
            ("http", "80")
        } else {
            return None;
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at)?,
            None => (rest, "/"),
        };
        let authority = normal_authority(authority, default_port)?;
        Some(Self(format!("{scheme}://{authority}{}", normal_path(path)?)))
    }

    /// The URI of `path` below this one, whose own path is a prefix; `None` when `path` does not begin with `/`.
    #[must_use]
    pub fn below(&self, path: &str) -> Option<Self> {
        let base = self.0.strip_suffix('/').unwrap_or(&self.0);
        path.starts_with('/')
            .then(|| normal_path(path))
            .flatten()
            .map(|path| Self(format!("{base}{path}")))
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Host in lower case, the scheme's own port left out.
fn normal_authority(authority: &str, default_port: &str) -> Option<String> {
    let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (literal, rest) = literal.split_once(']')?;
            let good = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
            if literal.is_empty() || !literal.bytes().all(good) {
                return None;
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => port,
                None if rest.is_empty() => "",
                None => return None,
            };
            (format!("[{}]", literal.to_ascii_lowercase()), port)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            if host.is_empty() || !host.bytes().all(host_byte) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    match port {
        "" => Some(host),
        port if port == default_port => Some(host),
        port if port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(format!("{host}:{port}"))
        }
        _ => None,
    }
}

/// Escapes of unreserved characters decoded, other escapes in upper case, what is not ASCII escaped.
fn normal_path(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                let value = u8::try_from(digit()? * 16 + digit()?).ok()?;
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    out.push(char::from(value));
                } else {
                    out.push_str(&format!("%{value:02X}"));
                }
            }
            0..=b' ' | b'\\' | 0x7f => return None,
            byte if byte.is_ascii() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        HttpUri::parse(text).map(|uri| uri.as_str().to_owned())
    }

    #[test]
    fn spellings_of_one_uri_are_one() {
        for text in [
            "https://shop.example/orders/7",
            "HTTPS://Shop.Example:443/orders/7?x=1#y",
            "https://shop.example/%6Frders/7",
            "https://shop.example:/orders/7?",
        ] {
            assert_eq!(normal(text).unwrap(), "https://shop.example/orders/7", "{text}");
        }
        assert_eq!(normal("http://orders:80").unwrap(), "http://orders/");
        assert_eq!(normal("http://orders:8080").unwrap(), "http://orders:8080/");
        assert_eq!(normal("https://orders:80/").unwrap(), "https://orders:80/");
        assert_eq!(normal("http://[FD77::1]:80/a").unwrap(), "http://[fd77::1]/a");
        assert_eq!(normal("http://h/caf%c3%a9"), normal("http://h/café"));
    }

    #[test]
    fn what_is_another_uri_stays_another() {
        for (a, b) in [
            ("http://h/a", "https://h/a"),
            ("http://h/a", "http://h/A"),
            ("http://h/a", "http://h/a/"),
            ("http://h/a%2Fb", "http://h/a/b"),
            ("http://h:8080/", "http://h/"),
            ("http://h/./a", "http://h/a"),
        ] {
            assert_ne!(normal(a).unwrap(), normal(b).unwrap());
        }
    }

    #[test]
    fn what_is_no_uri_of_a_request_is_none() {
        for text in [
            "",
            "/a",
            "h/a",
            "ftp://h/a",
            "http:///a",
            "http://u@h/a",
            "http://h:x/a",
            "http://h:123456/a",
            "http://h/%zz",
            "http://h/%6",
            "http://h/a b",
            "http://h/a\\b",
            "http://[::1/a",
            "http://[]/a",
            "http://[::1]x/a",
            "http://h\u{0}/",
            "http://hé/",
            "https://h,evil/a",
        ] {
            assert_eq!(normal(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_is_put_below() {
        let below = |base: &str, path: &str| {
            HttpUri::parse(base)
                .unwrap()
                .below(path)
                .map(|uri| uri.as_str().to_owned())
        };
        assert_eq!(
            below("https://shop.example", "/orders").unwrap(),
            "https://shop.example/orders"
        );
        assert_eq!(
            below("https://shop.example/api/", "/a").unwrap(),
            "https://shop.example/api/a"
        );
        assert_eq!(
            below("https://shop.example/api", "/").unwrap(),
            "https://shop.example/api/"
        );
        assert_eq!(below("https://shop.example", "*"), None);
    }
}
