//! One reading of a request: the bytes of an HTTP/1.1 head, or the fields of an HTTP/2 one ([`read_http2`]), enter, a
//! [`Head`] leaves that has exactly one meaning, or a [`Refusal`]. Bodies are checked while they pass ([`BodyReader`]), response heads in the same spirit
//! ([`parse_response`]). It never repairs, never rewrites a path, and does no I/O.
//!
//! The rule (docs/request-attacks.md): refuse what two readers could read in two ways, decide on exactly the bytes
//! that are forwarded. The raw head is searched for bare CR, bare LF, NUL and other control bytes *before* any parser
//! may repair it; then `httparse` splits the fields; then the rules of this room apply.
//!
//! # What becomes of a request header
//!
//! A header is compared by its *folded* name: lower case, and every byte that is neither letter nor digit read as `-`,
//! because CGI, WSGI and PHP give `X_User-Sub`, `x-user-sub` and `x.user.sub` to the application as one variable. The
//! table of all of them is `docs/headers.md`; a test compares it with the lists in `strip.rs`.
//!
//! A header that does not go on is not seen either: [`Head::header`] and [`Head::declared`] answer as if it had never
//! been sent, so a decision cannot rest on what the application will not get. Trailers follow the same table; those that
//! are not removed pass.
//!
//! In HTTP/2 `:authority` is the host, and a `host` field beside it must name the same; `connection`, `keep-alive`,
//! `proxy-connection`, `transfer-encoding`, `upgrade` and any `te` but `trailers` are a 400; the crumbs of `cookie` are one
//! header again.

mod bearer;
mod body;
mod fields;
mod framing;
mod glimpse;
mod head;
mod host;
mod http2;
mod path;
mod presented;
mod raw;
mod response;
mod strip;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use bearer::Bearer;
pub use body::{BodyReader, Fed, Part};
pub use fields::{DeclaredHeader, Header};
pub use glimpse::Glimpse;
pub use head::{Head, Version, parse_head};
pub use http2::{add_trailer, passed_response, passed_trailers, read_http2, trailer_lines};
pub use path::Spellings;
pub use presented::{Presented, TokenPlaces};
pub use response::{BadResponse, ClientSide, ResponseFraming, ResponseHead, parse_response};
pub use strip::is_claim;

/// What a head may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a head: request line, header lines and the empty line. Past it: 431.
    pub head_bytes: usize,
    /// Most header lines. Past it: 431.
    pub headers: usize,
    /// Most bytes of the request target. Past it: 414.
    pub target_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            headers: 100,
            target_bytes: 8 * 1024,
        }
    }
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length` bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a request is not taken. The connection cannot be used for another request after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The HTTP status that tells the client.
    pub status: u16,
    /// Stable label for logs and metrics.
    pub code: &'static str,
    /// One sentence for people. Holds no header value and no token.
    pub detail: String,
}

impl Refusal {
    fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
        }
    }

    fn bad(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(400, code, detail)
    }
}
