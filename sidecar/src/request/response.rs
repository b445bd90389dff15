//! The head of a response: the first bytes from the upstream enter, a [`ResponseHead`] with one framing leaves, or the
//! reason why it is not passed on. Odd but legal reason phrases and values of any language pass as they came.

use std::fmt;

use super::fields::{self, Fate, Fields, Header};
use super::framing;
use super::raw::{self, Scan};
use super::strip::{self, Class};
use super::{BodyReader, Framing, Limits, Version, write};

/// How the body of a response is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// No body: an interim answer, 204, 304, or the answer to HEAD.
    None,
    /// `Content-Length` bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the upstream closes.
    Eof,
}

impl ResponseFraming {
    /// A reader for such a body.
    #[must_use]
    pub fn reader(self) -> BodyReader {
        match self {
            Self::None => BodyReader::new(Framing::None),
            Self::Length(length) => BodyReader::new(Framing::Length(length)),
            Self::Chunked => BodyReader::new(Framing::Chunked),
            Self::Eof => BodyReader::until_eof(),
        }
    }
}

/// Why a response is not passed on. The client gets a 502.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the application's answer is not passed on: {detail}")]
pub struct BadResponse {
    /// Stable label.
    pub code: &'static str,
    /// One sentence for people.
    pub detail: String,
}

impl BadResponse {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// A response head with one meaning.
#[derive(Clone)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// How the body is delimited.
    pub framing: ResponseFraming,
    /// Whether the upstream lets the connection live on.
    pub keep_alive: bool,
    /// Of a 101: the protocol that the upstream switches to.
    pub upgrade: Option<String>,
    /// How many bytes of the buffer the head took.
    pub len: usize,
    reason: Vec<u8>,
    fields: Fields,
    declared: framing::Declared,
}

/// Without header values.
impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("framing", &self.framing)
            .field("keep_alive", &self.keep_alive)
            .field("headers", &self.fields)
            .finish_non_exhaustive()
    }
}

/// What the client's side of the connection is told in a response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientSide {
    /// Nothing: HTTP/1.1, and the connection lives on.
    Open,
    /// `connection: keep-alive`, which an HTTP/1.0 client waits for.
    KeepAlive,
    /// `connection: close`.
    Close,
}

/// Reads a response head from the beginning of `buf`. `Ok(None)`: not complete yet.
///
/// # Errors
/// What two readers could read in two ways: bare CR or LF, control bytes, folded lines, two lengths (even if equal),
/// length with chunked, a transfer coding that is not `chunked`, or any in HTTP/1.0.
pub fn parse_response(
    buf: &[u8],
    request_method: &str,
    limits: &Limits,
) -> Result<Option<ResponseHead>, BadResponse> {
    let scan = raw::scan(buf, limits.head_bytes, limits.headers)
        .map_err(|fault| BadResponse::new(fault.code(), fault.detail()))?;
    let Scan::Complete {
        start,
        line_end,
        end,
        lines,
    } = scan
    else {
        return Ok(None);
    };
    let (version, status, reason) = status_line(buf.get(start..line_end).unwrap_or_default())?;
    let block = buf.get(line_end.saturating_add(2)..end).unwrap_or_default();
    let mut fields = Fields::parse(block, lines).map_err(|error| {
        BadResponse::new(
            "malformed_header",
            format!("a header line is not `name: value` ({error})"),
        )
    })?;
    let declared = declared_framing(&fields, version)?;
    let options =
        fields::connection_options(&fields).map_err(|detail| BadResponse::new("bad_connection", detail))?;
    let upgrade = if status == 101 { switched_to(&fields) } else { None };
    fields.settle(|name, class| {
        let named = options.iter().any(|option| strip::same_folded(option, name));
        Some(fate(name, class, named))
    });
    let close = options.iter().any(|option| option == "close");
    let keep = options.iter().any(|option| option == "keep-alive");
    Ok(Some(ResponseHead {
        status,
        framing: framing_of(status, request_method, declared),
        keep_alive: !close && (version == Version::H11 || keep),
        upgrade,
        len: end,
        reason: reason.to_vec(),
        fields,
        declared,
    }))
}

/// `HTTP/1.x SP 3DIGIT [ SP reason ]`; the reason may be missing with its space, and may be of any language.
fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), BadResponse> {
    let bad = || BadResponse::new("bad_status_line", "the status line is not `HTTP/1.1 200 reason`");
    let (version, rest) = line.split_at_checked(9).ok_or_else(bad)?;
    let version = match version {
        b"HTTP/1.1 " => Version::H11,
        b"HTTP/1.0 " => Version::H10,
        _ => return Err(bad()),
    };
    let (code, rest) = rest.split_at_checked(3).ok_or_else(bad)?;
    let [first @ b'1'..=b'9', second @ b'0'..=b'9', third @ b'0'..=b'9'] = code else {
        return Err(bad());
    };
    let digit = |byte: &u8| u16::from(byte.saturating_sub(b'0'));
    let status = digit(first)
        .saturating_mul(100)
        .saturating_add(digit(second).saturating_mul(10))
        .saturating_add(digit(third));
    match rest {
        [] => Ok((version, status, b"")),
        [b' ', reason @ ..] => Ok((version, status, reason)),
        _ => Err(bad()),
    }
}

fn declared_framing(fields: &Fields, version: Version) -> Result<framing::Declared, BadResponse> {
    let refuse = |conflict: framing::Conflict| BadResponse::new(conflict.code(), conflict.detail());
    let mut declared = framing::Declared::default();
    for (header, class, _) in fields.all() {
        match class {
            Class::ContentLength => declared.length(header.value).map_err(refuse)?,
            Class::TransferEncoding => declared.encoding(header.value).map_err(refuse)?,
            Class::Disguised => {
                return Err(BadResponse::new(
                    "disguised_framing",
                    format!("`{}` is a disguised framing header", header.name),
                ));
            }
            _ => {}
        }
    }
    declared.settle(version == Version::H11).map_err(refuse)
}

/// RFC 9112 6.3.
fn framing_of(status: u16, request_method: &str, declared: framing::Declared) -> ResponseFraming {
    let bodiless = matches!(status, 100..=199 | 204 | 304) || request_method == "HEAD";
    match declared {
        _ if bodiless => ResponseFraming::None,
        framing::Declared { chunked: true, .. } => ResponseFraming::Chunked,
        framing::Declared {
            length: Some(length), ..
        } => ResponseFraming::Length(length),
        _ => ResponseFraming::Eof,
    }
}

/// The application may say anything about itself, but not in our name.
fn fate(name: &str, class: Class, named: bool) -> Fate {
    match class {
        Class::ContentLength | Class::TransferEncoding => Fate::Rewritten,
        Class::Host | Class::Expect | Class::Plain | Class::Claim if !named && !strip::is_ours(name) => {
            Fate::Passes
        }
        _ => Fate::Dropped,
    }
}

fn switched_to(fields: &Fields) -> Option<String> {
    let mut values = fields
        .all()
        .filter(|(_, class, _)| *class == Class::Upgrade)
        .map(|(header, _, _)| header.value);
    let value = std::str::from_utf8(values.next()?).ok()?;
    if values.next().is_some() {
        None
    } else {
        Some(value.to_owned())
    }
}

impl ResponseHead {
    /// Whether this is an interim answer, after which another comes (101 is final).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Header<'_>, Class, Fate)> {
        self.fields.all()
    }

    /// The values of a header that goes on.
    pub fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields
            .passing()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// The bytes of the head for the client: hop-by-hop headers removed, framing written anew, `add` at the end in place
    /// of any of the same name. An interim answer gets neither `add` nor a word about the connection.
    #[must_use]
    pub fn forward_bytes(&self, add: &[(&str, &str)], side: ClientSide) -> Vec<u8> {
        let add = if self.is_interim() { &[] } else { add };
        let mut out = Vec::with_capacity(self.len.saturating_add(128));
        out.extend_from_slice(format!("HTTP/1.1 {:03} ", self.status).as_bytes());
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        let bare = matches!(self.status, 100..=199 | 204);
        for (header, class, fate) in self.fields.all() {
            match (class, fate) {
                (_, Fate::Dropped) => {}
                (_, Fate::Rewritten) if bare => {}
                (Class::ContentLength, _) => {
                    let length = self.declared.length.unwrap_or_default();
                    write::line(&mut out, "content-length", length.to_string().as_bytes());
                }
                (Class::TransferEncoding, _) => write::line(&mut out, "transfer-encoding", b"chunked"),
                _ if add.iter().any(|(name, _)| strip::same_folded(name, header.name)) => {}
                _ => write::announced(&mut out, header.name, header.value, strip::dropped_trailer),
            }
        }
        match (&self.upgrade, side) {
            (Some(protocol), _) => {
                write::line(&mut out, "connection", b"upgrade");
                write::line(&mut out, "upgrade", protocol.as_bytes());
            }
            _ if self.is_interim() => {}
            (None, ClientSide::Close) => write::line(&mut out, "connection", b"close"),
            (None, ClientSide::KeepAlive) => write::line(&mut out, "connection", b"keep-alive"),
            (None, ClientSide::Open) => {}
        }
        write::append(&mut out, add);
        out.extend_from_slice(b"\r\n");
        out
    }
}
