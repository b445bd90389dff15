//! The single values of configuration: a text enters, a value that cannot be wrong leaves, or what is wrong with it and
//! what to do. Pure; it knows neither files nor places.

use crate::request::is_claim;
use std::net::IpAddr;
use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};

use super::document::Wrong;
use super::shape::shown;

type Parsed<T> = Result<T, Wrong>;

/// `5s`, `250ms`, `10m`, `1h`, `7d`; a bare `0` is not a duration.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let wrong = || {
        Wrong::new(
            format!("`{}` is not a duration", shown(text)),
            "write a whole number and a unit: \"250ms\", \"5s\", \"10m\", \"1h\", \"7d\"",
        )
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// A duration as these files write it.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, of) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= of && millis.is_multiple_of(of) {
            return format!("{}{unit}", millis / of);
        }
    }
    format!("{millis}ms")
}

pub(super) fn trust_domain(text: &str) -> Parsed<TrustDomain> {
    let hint = "write its name alone, in lower case: \"mesh.local\"";
    if text.contains(['/', ':']) {
        return Err(Wrong::new(
            format!("`{}` is not a trust domain name", shown(text)),
            hint,
        ));
    }
    match TrustDomain::new(text) {
        Ok(domain) if domain.as_str() == text => Ok(domain),
        Ok(_) => Err(Wrong::new(
            format!("`{}` is not in canonical form", shown(text)),
            hint,
        )),
        Err(error) => Err(Wrong::new(
            format!("`{}` is not a trust domain name: {error}", shown(text)),
            hint,
        )),
    }
}

/// A SPIFFE ID with a path, in canonical form (SPIFFE-ID 2; a workload's ID has a path).
pub(super) fn spiffe_id(text: &str) -> Parsed<SpiffeId> {
    let hint = "write it like \"spiffe://mesh.local/ns/shop/sa/orders\"";
    match SpiffeId::new(text) {
        Err(error) => Err(Wrong::new(
            format!("`{}` is not a SPIFFE ID: {error}", shown(text)),
            hint,
        )),
        Ok(id) if id.path().is_empty() => Err(Wrong::new(
            format!("`{}` names a trust domain, not a workload", shown(text)),
            hint,
        )),
        Ok(id) if id.to_string() != text => Err(Wrong::new(
            format!("`{}` is not in canonical form", shown(text)),
            format!("write \"{id}\""),
        )),
        Ok(id) => Ok(id),
    }
}

/// An exact SPIFFE ID, or one with segments `*` (any one segment) or a last `**` (one or more).
pub(super) fn pattern(text: &str) -> Parsed<String> {
    let hint = "an exact SPIFFE ID; a segment `*` stands for any one segment, a last `**` for one or more";
    let wrong = |message: String| Wrong::new(format!("`{}` {message}", shown(text)), hint);
    let Some((domain, path)) = text
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
    else {
        return spiffe_id(text).map(|id| id.to_string());
    };
    let segments: Vec<&str> = path.split('/').collect();
    let last = segments.len().saturating_sub(1);
    let mut example = format!("spiffe://{domain}");
    for (index, segment) in segments.iter().enumerate() {
        example.push('/');
        match *segment {
            "*" => example.push('x'),
            "**" if index == last => example.push('x'),
            "**" => return Err(wrong("has a `**` that is not its last segment".to_owned())),
            segment if segment.contains('*') => {
                return Err(wrong("has a `*` inside a segment".to_owned()));
            }
            segment => example.push_str(segment),
        }
    }
    match spiffe_id(&example) {
        Ok(_) => Ok(text.to_owned()),
        Err(inner) if example == text => Err(inner),
        Err(_) => Err(wrong("does not stand for SPIFFE IDs".to_owned())),
    }
}

/// `namespace/name`, both DNS labels.
pub(super) fn service_name(text: &str) -> Parsed<String> {
    match text.split_once('/') {
        Some((namespace, name)) if dns_label(namespace) && dns_label(name) => Ok(text.to_owned()),
        _ => Err(Wrong::new(
            format!("`{}` is not a service name", shown(text)),
            "write `namespace/name`, each of lower-case letters, digits and inner hyphens, at most 63: \"shop/orders\"",
        )),
    }
}

fn dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS name, in lower case and without its trailing dot. `_` is allowed, since Compose makes such names.
pub(super) fn host(text: &str) -> Parsed<String> {
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(Wrong::new(
            format!("`{}` is an IP address", shown(text)),
            "put it into `addresses`",
        ));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(Wrong::new(
            format!("`{}` is not a DNS name", shown(text)),
            "write a name without scheme, port or path: \"orders.shop\"",
        ));
    }
    // The system would read `1.2` or `10` as an address (inet_aton), so a last label of digits is no name.
    let numeric = |label: &str| label.bytes().all(|c| c.is_ascii_digit()) || label.starts_with("0x");
    if name.rsplit('.').next().is_some_and(numeric) {
        return Err(Wrong::new(
            format!("`{}` would be read as an IP address by the system", shown(text)),
            "write addresses in full into `addresses`, and names with a last label that is not a number",
        ));
    }
    Ok(name)
}

/// An address at which a workload can be.
pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    let ip: IpAddr = text.parse().map_err(|_| {
        Wrong::new(
            format!("`{}` is not an IP address", shown(text)),
            "write an address without port or prefix: \"10.77.0.12\", \"fd77::12\"; names belong in `hosts`",
        )
    })?;
    let ip = ip.to_canonical();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(Wrong::new(
            format!("`{}` is not the address of a workload", shown(text)),
            "write the address at which others reach it; loopback is never redirected",
        ));
    }
    Ok(ip)
}

/// A name that operators choose for routes, groups and issuers: it ends up in policies, records and metrics.
pub(super) fn label(what: &str, text: &str) -> Parsed<String> {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.len() <= 63 && text.bytes().all(good) {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            format!("`{}` is not a name for {what}", shown(text)),
            "letters, digits, `_`, `-` and `.`, beginning with a letter or digit, at most 63",
        ))
    }
}

/// An identifier that Cedar reads without quotes.
pub(super) fn identifier(what: &str, text: &str) -> Parsed<String> {
    const RESERVED: [&str; 9] = ["true", "false", "if", "then", "else", "in", "is", "like", "has"];
    let first = text
        .bytes()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    let rest = text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    let hint =
        "letters, digits and `_`, not beginning with a digit, at most 63: policies write it after a dot";
    if RESERVED.contains(&text) || text.starts_with("__cedar") {
        return Err(Wrong::new(
            format!("`{text}` is a reserved word of Cedar, so it cannot name {what}"),
            "choose another name",
        ));
    }
    if first && rest && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            format!("`{}` is not a name for {what}", shown(text)),
            hint,
        ))
    }
}

pub(super) fn method(text: &str) -> Parsed<String> {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    if KNOWN.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(Wrong::new(
            format!("`{}` is not a method of a declared route", shown(text)),
            "GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE, in capitals; others are decided as the action `OTHER`",
        ))
    }
}

/// A route template; its segments are literal, `{name}` or a last `{**}`.
pub(super) fn template(text: &str) -> Parsed<String> {
    let wrong = |message: String| {
        Wrong::new(
            message,
            "write it like \"/tenants/{tenant}/orders/{id}\" or \"/static/{**}\"",
        )
    };
    let Some(rest) = text.strip_prefix('/') else {
        return Err(wrong(format!(
            "the template `{}` does not begin with `/`",
            shown(text)
        )));
    };
    if text.len() > 1024 {
        return Err(wrong("the template is longer than 1024 bytes".to_owned()));
    }
    let segments: Vec<&str> = rest.split('/').collect();
    let mut names: Vec<&str> = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        if segment.is_empty() && !last {
            return Err(wrong(format!(
                "the template `{}` has an empty segment",
                shown(text)
            )));
        }
        match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some("**") if last => {}
            Some("**") => {
                return Err(wrong(
                    "`{**}` is the rest of a path, so it must be the last segment".to_owned(),
                ));
            }
            Some(name) => {
                identifier("a path parameter", name)?;
                if names.contains(&name) {
                    return Err(wrong(format!("the parameter `{name}` appears twice")));
                }
                names.push(name);
            }
            None => literal_segment(segment)?,
        }
    }
    Ok(text.to_owned())
}

/// What may stand between two slashes of a path as the sidecar decides it: unreserved characters and sub-delimiters, and
/// in percent form what is neither. Requests with a `;` are refused: they have two readings.
fn literal_segment(segment: &str) -> Parsed<()> {
    if segment == "." || segment == ".." {
        return Err(Wrong::new(
            "a template with dot segments would never match: such requests are refused",
            "write the path without them",
        ));
    }
    let good = |c: u8| c.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@".contains(&c);
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            byte if good(byte) => {}
            b'%' => {
                let digits = [bytes.next().unwrap_or_default(), bytes.next().unwrap_or_default()];
                escape(segment, digits)?;
            }
            b'{' | b'}' => {
                return Err(Wrong::new(
                    format!("`{}` has a `{}` inside", shown(segment), char::from(byte)),
                    "a parameter is a whole segment: \"/{name}/\"",
                ));
            }
            b'*' => {
                return Err(Wrong::new(
                    format!("`{}` has a `*`", shown(segment)),
                    "write `{name}` for one segment, `{**}` for the rest",
                ));
            }
            byte => {
                return Err(Wrong::new(
                    format!(
                        "`{}` holds a character that a template cannot match ({})",
                        shown(segment),
                        byte.escape_ascii()
                    ),
                    "letters, digits and -._~!$&'()+,=:@; others in percent form, or a parameter in their place",
                ));
            }
        }
    }
    Ok(())
}

/// A percent escape as the decided path has it: only what must be escaped, and nothing whose requests are refused.
fn escape(segment: &str, digits: [u8; 2]) -> Parsed<()> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    let wrong = |message: &str, hint: &str| Wrong::new(format!("`{}` {message}", shown(segment)), hint);
    let (Some(high), Some(low)) = (high, low) else {
        return Err(wrong(
            "has a `%` without two hex digits",
            "write it like `%C3%BC`",
        ));
    };
    let byte = u8::try_from(high * 16 + low).unwrap_or_default();
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        return Err(wrong("escapes a character that needs none", "write it plainly"));
    }
    if byte.is_ascii_control() || b"/\\%;".contains(&byte) {
        return Err(wrong(
            "escapes a character whose requests are refused",
            "a template with it would never match",
        ));
    }
    Ok(())
}

/// The path of a claim: names with dots between, or a URL, which is one name.
pub(super) fn claim_path(text: &str) -> Parsed<String> {
    if text.contains("://") {
        return plain_text("the path of a claim", text);
    }
    if text.contains('.') && text.contains(['/', ':']) {
        // As likely one name as a path; a wrong guess would find another claim, or none.
        return Err(Wrong::new(
            format!(
                "`{}` may be one name with dots, or names with dots between",
                shown(text)
            ),
            "write the names as a list: [\"idp.example/roles\"] is one, [\"idp\", \"example/roles\"] are two",
        ));
    }
    let segments = text.split('.');
    let bad = text.len() > 256
        || text.chars().any(char::is_control)
        || segments.clone().any(str::is_empty)
        || segments.count() > 8;
    if bad {
        return Err(Wrong::new(
            format!("`{}` is not the path of a claim", shown(text)),
            "names with a dot between, at most 8: \"tenant\", \"realm_access.roles\"",
        ));
    }
    Ok(text.to_owned())
}

/// Free text that ends up in an entity ID or is compared with a claim.
pub(super) fn plain_text(what: &str, text: &str) -> Parsed<String> {
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        return Err(Wrong::new(
            format!("`{}` is not {what}", shown(text)),
            "1 to 256 bytes, without control characters",
        ));
    }
    Ok(text.to_owned())
}

/// The name of a header that policies may see, in lower case.
pub(super) fn header_name(text: &str) -> Parsed<String> {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(token) {
        return Err(Wrong::new(
            format!("`{}` is not a header name", shown(text)),
            "write it as it is on the wire, without the colon: \"x-region\"",
        ));
    }
    let name = text.to_ascii_lowercase();
    let folded = name.replace('_', "-");
    if is_claim(&folded)
        || NEVER_SEEN.contains(&folded.as_str())
        || NEVER_SEEN_PREFIXES.iter().any(|p| folded.starts_with(p))
    {
        return Err(Wrong::new(
            format!(
                "the header `{}` carries identity, framing or routing, and is never trusted",
                shown(text)
            ),
            "policies see what was proven: `principal`, `context.user`, `context.host`, `context.path`",
        ));
    }
    Ok(name)
}

/// Headers that say who calls, for whom, or where to: stripped or rewritten at every hop, so a policy on them would
/// decide on what anyone can write.
const NEVER_SEEN: [&str; 24] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];
const NEVER_SEEN_PREFIXES: [&str; 5] = ["x-forwarded", "x-hopguard-", "x-envoy-", "x-user-", "hopguard-"];

/// An absolute URL of an issuer or its keys. Plain http is for loopback alone, and only where it is asked for.
pub(super) fn url(text: &str, http_loopback: bool) -> Parsed<String> {
    let wrong = |message: &str, hint: &str| Wrong::new(format!("`{}` {message}", shown(text)), hint);
    let hint = "write an absolute URL: \"https://idp.example.org\"";
    if text.len() > 1024 || text.contains('#') {
        return Err(wrong("is not a URL for this", hint));
    }
    let uri: http::Uri = text.parse().map_err(|_| wrong("is not a URL", hint))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("is not an absolute URL", hint));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("holds credentials", "take them out of the URL"));
    }
    let host = authority.host();
    if host.is_empty() || authority.port_u16() == Some(0) {
        return Err(wrong("names no host and port", hint));
    }
    let bare = host.trim_matches(['[', ']']);
    let loopback = bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    match scheme {
        "https" => Ok(text.to_owned()),
        "http" if loopback && http_loopback => Ok(text.to_owned()),
        "http" if loopback => Err(wrong(
            "is plain http",
            "use https, or set `allow_http_loopback = true` for an issuer on this very machine",
        )),
        "http" => Err(wrong(
            "is plain http, so anyone on the way could replace the keys",
            "use https; plain http is possible for loopback addresses only",
        )),
        _ => Err(wrong("is neither https nor http", hint)),
    }
}

#[cfg(test)]
mod tests;
