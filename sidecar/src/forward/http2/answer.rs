//! The sidecar's own answer in a stream: as JSON with its status, or, to a gRPC call, as the trailers-only response that a
//! gRPC client understands (the status is then 200, and what went wrong is in `grpc-status`).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::forward::ErrorAnswer;
use crate::forward::answer::error_body;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The head.
    pub response: Response<()>,
    /// The body; empty: the head ends the stream.
    pub body: Bytes,
}

/// Forms the answer to a request, which is a gRPC call or not.
#[must_use]
pub fn answer(error: &ErrorAnswer<'_>, grpc: bool) -> Answer {
    let mut response = Response::new(());
    let body = if grpc { Vec::new() } else { error_body(error) };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(error.status)));
        if let Ok(message) = HeaderValue::try_from(grpc_message(error)) {
            headers.insert("grpc-message", message);
        }
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    for (name, value) in error.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(*value)) {
            headers.append(name, value);
        }
    }
    if !grpc {
        *response.status_mut() =
            StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let body = if error.to_head { Vec::new() } else { body };
    Answer {
        response,
        body: Bytes::from(body),
    }
}

/// Whether a request of this content type is a gRPC call, also one whose head is refused: `application/grpc`, and with `+proto`
/// and the like; not gRPC-Web, which browsers speak.
#[must_use]
pub fn is_grpc(content_type: Option<&[u8]>) -> bool {
    let rest = content_type.and_then(|value| {
        let (name, rest) = value.split_at_checked("application/grpc".len())?;
        name.eq_ignore_ascii_case(b"application/grpc").then_some(rest)
    });
    rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
}

/// What a gRPC call is told for a status, as gRPC clients read statuses of HTTP, and what that table leaves open by meaning.
#[must_use]
pub fn grpc_status(status: u16) -> u16 {
    match status {
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        414 | 431 => 8,
        429 | 502 | 503 => 14,
        400..=499 => 3,
        _ => 2,
    }
}

/// Percent-encoded, as the gRPC protocol demands of what is not plain ASCII.
fn grpc_message(error: &ErrorAnswer<'_>) -> String {
    let id = error.id.unwrap_or_default();
    let text = format!("{}: {} (id {id})", error.code, error.detail);
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}
