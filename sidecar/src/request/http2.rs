//! The same reading for HTTP/2: pseudo-headers and fields, as the HTTP/2 layer decoded them, enter, the same [`Head`] leaves
//! by the same rules, or the refusal; and what passes goes out again as HTTP/2 fields. What the layer below repairs (it cuts
//! a fragment off `:path`) is gone before the decision, so that the application sees what was decided on.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, request};

use super::fields::{Fate, Fields};
use super::head::{self, RequestLine};
use super::strip::{self, Class};
use super::{BadResponse, Head, Limits, Refusal, ResponseHead, Version, host, target};

/// Reads a request head. `ended`: the head ends the stream, so that no body follows.
///
/// # Errors
/// The first rule that the head breaks. Other streams of the connection go on.
pub fn read_http2(request: &request::Parts, ended: bool, limits: &Limits) -> Result<Head, Refusal> {
    let line = request_line(request, limits)?;
    let mut size = line.method.len().saturating_add(line.target.len());
    let mut fields = Fields::default();
    let mut lines = 0_usize;
    for name in request.headers.keys() {
        let values = request.headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let mut values: Vec<&[u8]> = values.collect();
        check(name.as_str(), &values)?;
        let joined;
        if *name == http::header::COOKIE {
            // RFC 9113 8.2.3: a cookie may come in crumbs; nobody behind us would put them together.
            joined = values.join(&b"; "[..]);
            values = vec![&joined];
        }
        for value in values {
            lines = lines.saturating_add(1);
            size = size.saturating_add(name.as_str().len().saturating_add(value.len()).saturating_add(4));
            fields.push(name.as_str(), value);
        }
    }
    if lines > limits.headers {
        return Err(Refusal::new(
            431,
            "too_many_headers",
            "the head has too many header lines",
        ));
    }
    if size > limits.head_bytes {
        return Err(Refusal::new(431, "head_too_large", "the head is too large"));
    }
    if !ended && !request.headers.contains_key(http::header::CONTENT_LENGTH) {
        // How the body goes on where the stream's end cannot say it.
        fields.push("transfer-encoding", b"chunked");
    }
    let head = head::assemble(line, fields, size)?;
    if ended && matches!(head.framing, super::Framing::Length(1..)) {
        let detail = "a length is declared, and the stream ends without a body";
        return Err(Refusal::bad("bad_content_length", detail));
    }
    Ok(head)
}

/// RFC 9113 8.2: what belongs to a connection has no place in a stream, and white space around a value has two readings.
fn check(name: &str, values: &[&[u8]]) -> Result<(), Refusal> {
    let hop = matches!(
        strip::class(name),
        Class::Connection | Class::Upgrade | Class::TransferEncoding
    ) || ["keep-alive", "proxy-connection"].contains(&name);
    let te = name == "te" && values.iter().any(|value| *value != b"trailers");
    if hop || te {
        let detail = format!("`{name}` belongs to a connection of HTTP/1.1, not to a stream");
        return Err(Refusal::bad("connection_header", detail));
    }
    if values.iter().any(|value| value.trim_ascii() != *value) {
        let detail = format!("the value of `{name}` begins or ends with white space");
        return Err(Refusal::bad("padded_header", detail));
    }
    Ok(())
}

fn request_line(request: &request::Parts, limits: &Limits) -> Result<RequestLine, Refusal> {
    let method = head::method(request.method.as_str().as_bytes())?;
    let uri = &request.uri;
    // RFC 3986 3.1: in any case. It goes on as `http`, which is what the application is asked by.
    let https = match uri.scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
        Some(scheme) if !scheme.eq_ignore_ascii_case("http") => {
            return Err(Refusal::bad(
                "bad_target",
                "the scheme of the request is neither http nor https",
            ));
        }
        _ => false,
    };
    let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let target = head::target_text(path.as_bytes(), limits)?;
    if !target.starts_with('/') && target != "*" {
        return Err(Refusal::bad("bad_target", "`:path` does not begin with `/`"));
    }
    let mut read = target::read(&method, &target)?;
    if let Some(text) = uri.authority() {
        let mut authority = host::authority(text.as_str().as_bytes())?;
        authority.port = Some(authority.port.unwrap_or(if https { 443 } else { 80 }));
        read.authority = Some((authority, text.as_str().to_owned()));
    }
    Ok(RequestLine {
        method,
        target,
        read,
        version: Version::H2,
        https,
    })
}

impl Head {
    /// The head for an application that speaks HTTP/2, by the rules of [`Self::forward_bytes`]. Only for a head that came
    /// by HTTP/2.
    ///
    /// # Errors
    /// Something of it has no form in HTTP/2.
    pub fn http2_request(&self, add: &[(&str, &str)]) -> Result<http::Request<()>, Refusal> {
        let unfit = || Refusal::bad("bad_target", "the request has no form in HTTP/2");
        let host = self.host_text.as_deref().unwrap_or_default();
        let uri = Uri::builder()
            .scheme("http")
            .authority(host)
            .path_and_query(self.origin.as_str())
            .build()
            .map_err(|_| unfit())?;
        let mut request = http::Request::builder()
            .method(self.method.as_str())
            .uri(uri)
            .version(http::Version::HTTP_2)
            .body(())
            .map_err(|_| unfit())?;
        let headers = request.headers_mut();
        for (header, class, fate) in self.fields.all() {
            match (class, fate) {
                (_, Fate::Dropped) | (Class::Host | Class::TransferEncoding, _) => {}
                _ if add.iter().any(|(name, _)| strip::same_folded(name, header.name)) => {}
                _ => announced(headers, header.name, header.value, |name| {
                    self.drops_trailer(name)
                }),
            }
        }
        if self.takes_trailers {
            append(headers, b"te", b"trailers");
        }
        for (name, value) in add {
            append(headers, name.as_bytes(), value.as_bytes());
        }
        Ok(request)
    }
}

/// A field as it came; of `trailer`, what is left of it.
fn announced(headers: &mut HeaderMap, name: &str, value: &[u8], dropped: impl Fn(&str) -> bool) {
    if let Some(value) = strip::announced(name, value, dropped) {
        append(headers, name.as_bytes(), &value);
    }
}

/// A field that HTTP/2 cannot carry is left out: what cannot be written is not said.
fn append(headers: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        // Past the capacity of the map; heads are bounded far below it.
        let _full = headers.try_append(name, value);
    }
}

impl ResponseHead {
    /// The head as HTTP/2 says it, by the rules of [`Self::forward_bytes`]: no connection headers, and lengths only where
    /// they say something.
    ///
    /// # Errors
    /// The status is none that HTTP/2 has.
    pub fn http2_response(&self) -> Result<http::Response<()>, BadResponse> {
        let bad = || BadResponse::new("bad_status_line", "a status that HTTP/2 does not have");
        let mut response = http::Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).map_err(|_| bad())?;
        *response.version_mut() = http::Version::HTTP_2;
        if self.status == 101 {
            return Err(bad());
        }
        for (header, class, fate) in self.all() {
            let bare = matches!(self.status, 100..=199 | 204) && class == Class::ContentLength;
            if fate != Fate::Dropped && class != Class::TransferEncoding && !bare {
                announced(
                    response.headers_mut(),
                    header.name,
                    header.value,
                    strip::dropped_trailer,
                );
            }
        }
        Ok(response)
    }
}

/// A response of an application that speaks HTTP/2, as it is passed on.
///
/// # Errors
/// 101, which HTTP/2 does not have.
pub fn passed_response(parts: &http::response::Parts) -> Result<http::Response<()>, BadResponse> {
    let mut response = http::Response::new(());
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadResponse::new(
            "unasked_switch",
            "a switch of protocols in HTTP/2",
        ));
    }
    *response.status_mut() = parts.status;
    *response.version_mut() = http::Version::HTTP_2;
    for (name, value) in &parts.headers {
        let ours = strip::is_ours(name.as_str());
        let dropped = matches!(
            strip::class(name.as_str()),
            Class::Connection | Class::Upgrade | Class::TransferEncoding | Class::Hop | Class::Disguised
        );
        if !ours && !dropped {
            let dropped = strip::dropped_trailer;
            announced(response.headers_mut(), name.as_str(), value.as_bytes(), dropped);
        }
    }
    Ok(response)
}

/// Most trailers, and most bytes of them.
const MAX_TRAILERS: usize = 32;
const MAX_TRAILER_BYTES: usize = 8 * 1024;

impl Head {
    /// The trailers of this request, without those that frame, route, authenticate or claim, or that are withheld.
    ///
    /// # Errors
    /// They are too many.
    pub fn passed_trailers(&self, trailers: &HeaderMap) -> Result<HeaderMap, Refusal> {
        without(trailers, |name| self.drops_trailer(name))
    }
}

/// Trailers of a response, without those that frame, route, authenticate or claim.
///
/// # Errors
/// They are too many.
pub fn passed_trailers(trailers: &HeaderMap) -> Result<HeaderMap, Refusal> {
    without(trailers, strip::dropped_trailer)
}

fn without(trailers: &HeaderMap, dropped: impl Fn(&str) -> bool) -> Result<HeaderMap, Refusal> {
    let bytes = trailers
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    if trailers.len() > MAX_TRAILERS || bytes.sum::<usize>() > MAX_TRAILER_BYTES {
        return Err(Refusal::bad("bad_trailer", "there are too many trailers"));
    }
    let mut passed = HeaderMap::new();
    for (name, value) in trailers {
        if !dropped(name.as_str()) {
            append(&mut passed, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    Ok(passed)
}

/// The same as lines behind the last chunk of HTTP/1.1, with the empty line.
#[must_use]
pub fn trailer_lines(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in trailers {
        super::write::line(&mut out, name.as_str(), value.as_bytes().trim_ascii());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A trailer line of HTTP/1.1 that [`super::BodyReader`] let through, as a field.
pub fn add_trailer(trailers: &mut HeaderMap, line: &[u8]) {
    let colon = line.iter().position(|&byte| byte == b':').unwrap_or_default();
    let (name, value) = line.split_at_checked(colon).unwrap_or_default();
    append(trailers, name, value.get(1..).unwrap_or_default().trim_ascii());
}
