//! Names of headers and what becomes of them: a name enters, its class leaves. The table of the room's first page in code.

use std::borrow::Cow;

/// What a header name means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// Ends at this hop.
    Hop,
    /// Claims who or where: never believed, never passed on.
    Claim,
    /// Another spelling of a framing name, which a careless application reads as that name.
    Disguised,
    /// Everything else.
    Plain,
}

/// Classifies a field name (a token).
pub(super) fn class(name: &str) -> Class {
    for (known, class) in KNOWN {
        if name.eq_ignore_ascii_case(known) {
            return *class;
        }
    }
    if ["content-length", "transfer-encoding"]
        .iter()
        .any(|known| folds_to(name, known))
    {
        return Class::Disguised;
    }
    if HOP.iter().any(|known| folds_to(name, known)) {
        return Class::Hop;
    }
    if is_claim(name) {
        return Class::Claim;
    }
    Class::Plain
}

const KNOWN: &[(&str, Class)] = &[
    ("host", Class::Host),
    ("content-length", Class::ContentLength),
    ("transfer-encoding", Class::TransferEncoding),
    ("connection", Class::Connection),
    ("upgrade", Class::Upgrade),
    ("expect", Class::Expect),
];

pub(super) const HOP: &[&str] = &[
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "http2-settings",
    "proxy",
];

pub(super) const CLAIMS: &[&str] = &[
    "forwarded",
    "x-forwarded",
    "x-hopguard",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-arr-clientcert",
    "x-spiffe-id",
    "remote-user",
    "x-user",
    "x-userinfo",
    "x-auth-user",
    "x-webauth-user",
    "x-override-url",
    "x-orig-url",
    "x-host",
    "x-http-host-override",
    "x-original-url",
    "x-original-uri",
    "x-original-path",
    "x-original-method",
    "x-original-host",
    "x-rewrite-url",
    "x-rewrite-uri",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

// `x-forwarded-client-cert` among them.
pub(super) const CLAIM_PREFIXES: &[&str] = &[
    "x-hopguard-",
    "x-user-",
    "x-envoy-",
    "x-forwarded-",
    "ssl-client-",
    "x-ssl-client-",
    "x-remote-",
    "x-authenticated-",
    "x-auth-request-",
    "x-goog-authenticated-user-",
    "x-amzn-oidc-",
    "impersonate-",
];

/// Whether a header of this name claims an identity, an origin, another target or another method.
pub fn is_claim(name: &str) -> bool {
    CLAIMS.iter().any(|known| folds_to(name, known))
        || CLAIM_PREFIXES
            .iter()
            .any(|prefix| name.len() > prefix.len() && starts_folded(name, prefix))
}

/// Whether only the sidecar writes headers of this name.
pub(super) fn is_ours(name: &str) -> bool {
    folds_to(name, "x-hopguard") || starts_folded(name, "x-hopguard-") && name.len() > "x-hopguard-".len()
}

/// Whether a trailer of this name is taken out: what frames, routes, authenticates or claims is never honoured there
/// (RFC 9110 6.5.1).
pub(super) fn dropped_trailer(name: &str) -> bool {
    class(name) != Class::Plain
        || END_TO_END.iter().any(|known| folds_to(name, known))
        || folds_to(name, "trailer")
}

/// The value of a `Trailer` header without the names of trailers that are `dropped`, as it came when none is: what is not
/// passed on is not announced either. `None`: there is nothing left to announce. Any other header's value passes.
pub(super) fn announced<'v>(
    name: &str,
    value: &'v [u8],
    dropped: impl Fn(&str) -> bool,
) -> Option<Cow<'v, [u8]>> {
    if !name.eq_ignore_ascii_case("trailer") {
        return Some(Cow::Borrowed(value));
    }
    let passes = |name: &[u8]| is_token(name) && !dropped(&String::from_utf8_lossy(name));
    let names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if names.clone().all(passes) {
        return Some(Cow::Borrowed(value));
    }
    let left: Vec<&[u8]> = names.filter(|name| passes(name)).collect();
    (!left.is_empty()).then(|| Cow::Owned(left.join(&b", "[..])))
}

/// Fields that are meant for the application, so that naming one in `Connection` is an attack on it (RFC 9110 7.6.1).
pub(super) fn is_end_to_end(name: &str) -> bool {
    END_TO_END.iter().any(|known| folds_to(name, known))
}

const END_TO_END: &[&str] = &[
    "host",
    "authorization",
    "cookie",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "range",
    "transfer-encoding",
];

/// Whether both names are one to an application that reads `-`, `_` and other punctuation as the same.
pub(super) fn same_folded(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

fn folds_to(name: &str, known: &str) -> bool {
    same_folded(name, known)
}

fn starts_folded(name: &str, prefix: &str) -> bool {
    name.bytes().zip(prefix.bytes()).all(|(a, b)| fold(a) == b)
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

/// RFC 9110 5.6.2.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A value that may stand in a header line: no control byte but HTAB.
pub(super) fn is_field_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}
