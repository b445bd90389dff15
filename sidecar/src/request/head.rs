//! The head of a request: the first bytes of a connection (or of what is left of it) enter, a [`Head`] leaves once it is
//! complete, or the refusal as early as it is certain.

use std::fmt;
use std::sync::Arc;

use super::fields::{self, DeclaredHeader, Fate, Fields};
use super::framing::{self, Conflict};
use super::raw::{self, Fault, Scan};
use super::strip::{self, Class};
use super::target::{self, Target};
use super::{Framing, Limits, Refusal, Spellings, host, path};

/// The version of a request. Nothing else is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    H10,
    /// HTTP/1.1.
    H11,
    /// HTTP/2.
    H2,
}

/// A request head with one meaning.
#[derive(Clone)]
pub struct Head {
    /// A token, case-sensitive, at most 32 bytes; never CONNECT.
    pub method: String,
    /// The request target as it came.
    pub target: String,
    /// The path to decide on: see the room's path rules. `*` for `OPTIONS *`. Never holds a query.
    pub path: String,
    /// [`Self::path`] as an application reads it that cuts `;parameters` off segments, when that differs.
    pub bare_path: Option<String>,
    /// What follows the first `?`, as it came.
    pub query: Option<String>,
    /// Lower case, without port and one trailing dot; an IPv6 literal is canonical and in brackets. Empty only in
    /// HTTP/1.0.
    pub host: String,
    /// The version.
    pub version: Version,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// The protocols that the client wants to upgrade to, as they go on.
    pub upgrade: Option<String>,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// How many bytes of the buffer the head took.
    pub len: usize,
    /// The client takes trailers.
    pub(super) takes_trailers: bool,
    /// Headers that policies read: see [`Self::withhold`].
    pub(super) withheld: Option<Arc<[DeclaredHeader]>>,
    pub(super) fields: Fields,
    pub(super) origin: String,
    /// Why the path is refused unless its route allows how it is spelled.
    pub(super) odd: Option<Refusal>,
    /// What `Host` becomes: the text of the target's authority, or else of `Host`.
    pub(super) host_text: Option<String>,
}

/// Without header values and query, which may hold secrets.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("host", &self.host)
            .field("version", &self.version)
            .field("framing", &self.framing)
            .field("headers", &self.fields)
            .finish_non_exhaustive()
    }
}

impl Head {
    /// Every path that some application may take this request for. The request may pass only if all of them may.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.path.as_str()).chain(self.bare_path.as_deref())
    }

    /// Judges how the path is spelled by what its route allows. The request may pass only if this finds nothing: a head
    /// is read before anybody knows its route.
    ///
    /// All [`Self::readings`] must be of one route, so that whatever is looked up by it holds for each of them.
    ///
    /// # Errors
    /// The refusal, as of a path that no route could allow.
    pub fn spelled<R: PartialEq>(
        &self,
        route_of: impl Fn(&str) -> Option<R>,
        allows: impl FnOnce(&R) -> Spellings,
    ) -> Result<(), Refusal> {
        let Some(refusal) = &self.odd else {
            return Ok(());
        };
        let mut routes = self.readings().map(route_of);
        match routes.next().flatten() {
            Some(route) if routes.all(|other| other.as_ref() == Some(&route)) => {
                let path = self.origin.split('?').next().unwrap_or_default();
                path::judge(path, allows(&route))
            }
            _ => Err(refusal.clone()),
        }
    }
}

/// The longest method. The registered ones end at 17 bytes.
const MAX_METHOD: usize = 32;

/// Reads a request head from the beginning of `buf`.
///
/// `Ok(None)`: not complete yet, and nothing wrong so far. The answer is the same whatever portions the bytes come in,
/// except that a fault is told as soon as it is seen.
///
/// # Errors
/// The first rule that the head breaks. The connection must be closed after the answer.
pub fn parse_head(buf: &[u8], limits: &Limits) -> Result<Option<Head>, Refusal> {
    match raw::scan(buf, limits.head_bytes, limits.headers).map_err(|fault| refuse_raw(fault, buf))? {
        Scan::Incomplete { first_line } => {
            if !first_line {
                judge_unfinished_line(buf, limits)?;
            }
            Ok(None)
        }
        Scan::Complete {
            start,
            line_end,
            end,
            lines,
        } => {
            let line = RequestLine::read(buf.get(start..line_end).unwrap_or_default(), limits)?;
            let block = buf.get(line_end.saturating_add(2)..end).unwrap_or_default();
            let fields = Fields::parse(block, lines).map_err(|error| {
                Refusal::bad(
                    "malformed_header",
                    format!("a header line is not `name: value` ({error})"),
                )
            })?;
            assemble(line, fields, end).map(Some)
        }
    }
}

fn refuse_raw(fault: Fault, buf: &[u8]) -> Refusal {
    match fault {
        Fault::TooLarge | Fault::TooMany => Refusal::new(431, fault.code(), fault.detail()),
        // TLS on a plaintext port is the commonest way to get here: name it.
        Fault::Control(0x16) if buf.first() == Some(&0x16) => Refusal::bad(
            "tls_bytes",
            "these are the first bytes of TLS, not of an HTTP request",
        ),
        _ => Refusal::bad(fault.code(), fault.detail()),
    }
}

/// A first line that is too long already will not get better.
fn judge_unfinished_line(buf: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let line = buf.strip_prefix(b"\r\n").unwrap_or(buf);
    match line.iter().position(|&byte| byte == b' ') {
        None if line.len() > MAX_METHOD.saturating_add(1) => Err(bad_method()),
        // ` HTTP/1.1` and CR.
        Some(space) if line.len().saturating_sub(space) > limits.target_bytes.saturating_add(12) => {
            Err(too_long(limits))
        }
        _ => Ok(()),
    }
}

pub(super) struct RequestLine {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) read: Target,
    pub(super) version: Version,
    /// Which port an authority without one means.
    pub(super) https: bool,
}

impl RequestLine {
    /// Exactly `METHOD SP target SP HTTP/1.x` (RFC 9112 3).
    fn read(line: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::bad(
                "bad_request_line",
                "the request line is not `METHOD target HTTP/1.1`",
            ));
        };
        if method.len() > MAX_METHOD || !strip::is_token(method) {
            return Err(bad_method());
        }
        let version = match version {
            b"HTTP/1.1" => Version::H11,
            b"HTTP/1.0" => Version::H10,
            [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => {
                let detail = "a request line is HTTP/1.1; HTTP/2 begins with its own preface";
                return Err(Refusal::new(505, "http2_not_supported", detail));
            }
            _ => {
                return Err(Refusal::bad(
                    "bad_version",
                    "the version is neither HTTP/1.1 nor HTTP/1.0",
                ));
            }
        };
        let method = self::method(method)?;
        let target = target_text(target, limits)?;
        let read = target::read(&method, &target)?;
        let https = target
            .get(..8)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        Ok(Self {
            method,
            target,
            read,
            version,
            https,
        })
    }
}

/// A method that may be asked for.
pub(super) fn method(text: &[u8]) -> Result<String, Refusal> {
    if text.len() > MAX_METHOD || !strip::is_token(text) {
        return Err(bad_method());
    }
    if text == b"CONNECT" {
        return Err(Refusal::new(
            405,
            "connect_not_allowed",
            "CONNECT asks for a proxy, and this is none",
        ));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A target as text: bounded, UTF-8, without control characters.
pub(super) fn target_text(target: &[u8], limits: &Limits) -> Result<String, Refusal> {
    if target.len() > limits.target_bytes {
        return Err(too_long(limits));
    }
    let target = std::str::from_utf8(target)
        .map_err(|_| Refusal::bad("bad_target", "the target is not UTF-8"))?
        .to_owned();
    if target.chars().any(char::is_control) {
        return Err(Refusal::bad(
            "control_character",
            "the target has a control character",
        ));
    }
    Ok(target)
}

fn bad_method() -> Refusal {
    Refusal::bad(
        "bad_method",
        format!("the method is not a token of at most {MAX_METHOD} bytes"),
    )
}

fn too_long(limits: &Limits) -> Refusal {
    Refusal::new(
        414,
        "target_too_long",
        format!("the target is longer than {} bytes", limits.target_bytes),
    )
}

/// Joins the request line with what the fields say.
pub(super) fn assemble(line: RequestLine, mut fields: Fields, len: usize) -> Result<Head, Refusal> {
    let http11 = line.version != Version::H10;
    let (host, host_text) = settle_host(&fields, &line)?;
    let framing = settle_framing(&fields, http11)?;
    let options =
        fields::connection_options(&fields).map_err(|detail| Refusal::bad("bad_connection", detail))?;
    if let Some(option) = options.iter().find(|option| strip::is_end_to_end(option)) {
        return Err(Refusal::bad(
            "bad_connection",
            format!("Connection names `{option}`, which is for the application"),
        ));
    }
    let expect = settle_expect(&fields)?;
    let body = !matches!(framing, Framing::None | Framing::Length(0));
    let upgrade = if http11 && !body {
        upgrade(&fields, &options)
    } else {
        None
    };
    fields.settle(|name, class| {
        let named = options.iter().any(|option| strip::same_folded(option, name));
        (named || (class == Class::Expect && !http11)).then_some(Fate::Dropped)
    });
    let close = options.iter().any(|option| option == "close");
    let keep = options.iter().any(|option| option == "keep-alive");
    Ok(Head {
        method: line.method,
        target: line.target,
        path: line.read.path,
        bare_path: line.read.bare,
        odd: line.read.odd,
        query: line.read.query,
        host,
        version: line.version,
        framing,
        keep_alive: !close && (http11 || keep),
        upgrade,
        expect_continue: expect && http11 && body,
        len,
        takes_trailers: http11 && takes_trailers(&fields),
        withheld: None,
        fields,
        origin: line.read.origin,
        host_text,
    })
}

/// `Host` exactly once in HTTP/1.1; an absolute target's authority wins, and must be the same (P20, H1, H2).
fn settle_host(fields: &Fields, line: &RequestLine) -> Result<(String, Option<String>), Refusal> {
    let mut hosts = fields
        .all()
        .filter(|(_, class, _)| *class == Class::Host)
        .map(|(header, _, _)| header.value);
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad("repeated_host", "Host is sent more than once"));
    }
    let header = match first {
        Some(text) => Some((host::authority(text)?, String::from_utf8_lossy(text).into_owned())),
        None if line.version == Version::H11 => {
            return Err(Refusal::bad("no_host", "HTTP/1.1 demands a Host header"));
        }
        None if line.version == Version::H2 && line.read.authority.is_none() => {
            return Err(Refusal::bad(
                "no_host",
                "HTTP/2 demands `:authority` or a Host header",
            ));
        }
        None => None,
    };
    match (&line.read.authority, header) {
        (Some((target, text)), Some((mut header, _))) => {
            header.port = header.port.or(Some(if line.https { 443 } else { 80 }));
            if header != *target {
                return Err(Refusal::bad(
                    "host_mismatch",
                    "Host and the authority of the target differ",
                ));
            }
            Ok((header.host, Some(text.clone())))
        }
        (Some((target, text)), None) => Ok((target.host.clone(), Some(text.clone()))),
        (None, Some((header, text))) => Ok((header.host, Some(text))),
        (None, None) => Ok((String::new(), None)),
    }
}

fn settle_framing(fields: &Fields, http11: bool) -> Result<Framing, Refusal> {
    let refuse = |conflict: Conflict| Refusal::bad(conflict.code(), conflict.detail());
    let mut declared = framing::Declared::default();
    for (header, class, _) in fields.all() {
        match class {
            Class::ContentLength => declared.length(header.value).map_err(refuse)?,
            Class::TransferEncoding => declared.encoding(header.value).map_err(refuse)?,
            Class::Disguised => {
                let detail = format!(
                    "`{}` is a disguise of a header that delimits the body",
                    header.name
                );
                return Err(Refusal::bad("disguised_framing", detail));
            }
            _ => {}
        }
    }
    let declared = declared.settle(http11).map_err(refuse)?;
    Ok(match (declared.chunked, declared.length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    })
}

fn settle_expect(fields: &Fields) -> Result<bool, Refusal> {
    let mut expects = false;
    for (header, class, _) in fields.all() {
        if class == Class::Expect {
            if !header.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::new(
                    417,
                    "bad_expectation",
                    "the only expectation met here is `100-continue`",
                ));
            }
            expects = true;
        }
    }
    Ok(expects)
}

/// Whether `TE` names `trailers`. Trailers pass us, so the application may be told (RFC 9110 6.5.1).
fn takes_trailers(fields: &Fields) -> bool {
    let lines = fields
        .all()
        .filter(|(header, _, _)| header.name.eq_ignore_ascii_case("te"));
    lines
        .flat_map(|(header, _, _)| header.value.split(|&byte| byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The protocols of `Upgrade`, when `Connection` names it. Another HTTP or TLS inside would escape every decision, so
/// those are taken out; the request then goes on as plain HTTP/1.1, as RFC 9110 7.8 allows.
fn upgrade(fields: &Fields, options: &[String]) -> Option<String> {
    if !options.iter().any(|option| option == "upgrade") {
        return None;
    }
    let mut kept = Vec::new();
    for (header, class, _) in fields.all() {
        if class == Class::Upgrade {
            let text = std::str::from_utf8(header.value).ok()?;
            for protocol in text
                .split(',')
                .map(str::trim)
                .filter(|protocol| !protocol.is_empty())
            {
                let name = protocol.split('/').next().unwrap_or_default();
                if !strip::is_token(name.as_bytes()) {
                    return None;
                }
                let known = ["h2c", "h2", "http", "tls"]
                    .iter()
                    .any(|other| name.eq_ignore_ascii_case(other));
                if !known {
                    kept.push(protocol);
                }
            }
        }
    }
    if kept.is_empty() {
        None
    } else {
        Some(kept.join(", "))
    }
}
