//! A request as a value, the ways in which it can be sent, and what is expected of it. HTTP/2 only needs another way to write it.

use hopguard_tests::{Answer, Sight, Until, Via, frames};

use crate::keys::user_token;
use crate::rig::Rig;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1 over mutual TLS on the port.
    Mtls,
    /// HTTP/1.1 through a tunnel.
    Hbone,
    /// HTTP/1.1 without TLS, on a port that allows it.
    Plain,
    /// HTTP/2 by ALPN over mutual TLS on the port.
    MtlsH2,
    /// HTTP/2 with prior knowledge through a tunnel.
    HboneH2,
}

impl Wire {
    fn via(self) -> Via {
        match self {
            Self::Mtls => Via::Mtls,
            Self::Hbone | Self::HboneH2 => Via::Hbone,
            Self::Plain => Via::Plain,
            Self::MtlsH2 => Via::MtlsH2,
        }
    }

    pub fn is_h2(self) -> bool {
        matches!(self, Self::MtlsH2 | Self::HboneH2)
    }
}

/// A body.
#[derive(Clone, Debug)]
pub enum Body {
    None,
    Length(Vec<u8>),
    /// In these chunks, with these trailers.
    Chunked(Vec<Vec<u8>>, Vec<(String, String)>),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: Vec<u8>,
    pub host: String,
    /// Headers, and whether each is to arrive.
    pub headers: Vec<(String, Vec<u8>, bool)>,
    pub body: Body,
}

impl Ask {
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            host: "orders".to_owned(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    /// A header that arrives as it is.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec(), true));
        self
    }

    /// A header that does not arrive.
    pub fn claim(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec(), false));
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// As bob, who is no admin.
    pub fn with_bob(self) -> Self {
        self.token(&user_token())
    }

    pub fn body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body = Body::Length(bytes.as_ref().to_vec());
        self
    }

    pub fn chunks(mut self, chunks: &[&str], trailers: &[(&str, &str)]) -> Self {
        let chunks = chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.body = Body::Chunked(chunks, trailers.iter().map(own).collect());
        self
    }

    /// Its content, without framing.
    pub fn content(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Length(bytes) => bytes.clone(),
            Body::Chunked(chunks, _) => chunks.concat(),
        }
    }

    /// As HTTP/1.1 writes it.
    pub fn http1(&self, case: &str) -> Vec<u8> {
        let mut out = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        if !self.host.is_empty() {
            out.extend(format!("Host: {}\r\n", self.host).bytes());
        }
        out.extend(format!("x-case: {case}\r\n").bytes());
        for (name, value, _) in &self.headers {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        match &self.body {
            Body::None => out.extend(b"\r\n"),
            Body::Length(bytes) => {
                out.extend(format!("content-length: {}\r\n\r\n", bytes.len()).bytes());
                out.extend(bytes);
            }
            Body::Chunked(chunks, trailers) => {
                out.extend(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in chunks {
                    out.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    out.extend(chunk);
                    out.extend(b"\r\n");
                }
                out.extend(b"0\r\n");
                for (name, value) in trailers {
                    out.extend(format!("{name}: {value}\r\n").bytes());
                }
                out.extend(b"\r\n");
            }
        }
        out
    }

    /// As HTTP/2 writes it, on stream 1.
    pub fn http2(&self, case: &str) -> Vec<u8> {
        let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let mut fields = vec![
            pair(":method", self.method.as_bytes()),
            pair(":scheme", b"https"),
            pair(":path", &self.target),
        ];
        if !self.host.is_empty() {
            fields.push(pair(":authority", self.host.as_bytes()));
        }
        fields.push(pair("x-case", case.as_bytes()));
        for (name, value, _) in &self.headers {
            fields.push(pair(&name.to_ascii_lowercase(), value));
        }
        let content = self.content();
        let (body, trailers) = match &self.body {
            Body::None => (None, Vec::new()),
            Body::Length(bytes) => {
                fields.push(pair("content-length", bytes.len().to_string().as_bytes()));
                (Some(content.as_slice()), Vec::new())
            }
            Body::Chunked(_, trailers) => {
                let trailers = trailers
                    .iter()
                    .map(|(name, value)| pair(&name.to_ascii_lowercase(), value.as_bytes()));
                (Some(content.as_slice()), trailers.collect())
            }
        };
        let mut out = frames::preface();
        out.extend(frames::request(1, &fields, body, &trailers));
        out
    }
}

/// What was said to a request.
#[derive(Debug)]
pub struct Said {
    pub status: Option<u16>,
    /// The whole answer, of HTTP/1.1.
    pub answer: Option<Answer>,
    /// How it ended: `enough`, `closed`, `reset`, ...
    pub end: String,
}

/// Sends a request.
pub fn fire(rig: &Rig, wire: Wire, ask: &Ask, case: &str) -> Said {
    if wire.is_h2() {
        let flight = rig.send(wire.via(), &[&ask.http2(case)], Until::Streams(vec![1]));
        return Said {
            status: frames::status(&flight.bytes(), 1),
            answer: None,
            end: flight.end,
        };
    }
    let until = Until::Answers(vec![ask.method.clone()]);
    let flight = rig.send(wire.via(), &[&ask.http1(case)], until);
    let answer = flight.answers(&[&ask.method]).pop();
    Said {
        status: answer.as_ref().map(|answer| answer.status),
        answer,
        end: flight.end,
    }
}

/// The headers that the sidecar writes.
pub const OURS: [&str; 5] = [
    "traceparent",
    "x-forwarded-client-cert",
    "x-hopguard-user",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// Asserts that it is answered with one of these statuses and does not arrive. The end of the table sees to the latter.
pub fn refused(rig: &Rig, wire: Wire, ask: &Ask, statuses: &[u16]) {
    let said = fire(rig, wire, ask, "refused");
    let text = String::from_utf8_lossy(&ask.target).into_owned();
    let fine = match said.status {
        Some(status) => statuses.contains(&status),
        // HTTP/2 may refuse what is malformed by resetting the stream, or the connection.
        None => wire.is_h2() && statuses.contains(&400) && said.end != "silence",
    };
    let shown: String = text.chars().take(120).collect();
    assert!(
        fine,
        "{wire:?} {} {shown:?}: expected {statuses:?}, got {said:?}",
        ask.method
    );
}

/// Asserts that it passes, and that what arrives is what was sent.
pub fn passes(rig: &Rig, wire: Wire, ask: &Ask) -> (Said, Sight) {
    let said = fire(rig, wire, ask, "passes");
    let text = String::from_utf8_lossy(&ask.target).into_owned();
    assert!(
        said.status.is_some_and(|status| status < 400),
        "{wire:?} {} {text:?} {:?}: {said:?}",
        ask.method,
        ask.headers
    );
    let mut sights = rig.echo.take("x-case: passes", 1).unwrap();
    let sight = sights.pop().unwrap();
    assert!(sights.is_empty(), "{text:?} arrived {} times", sights.len() + 1);
    arrived(ask, &sight);
    (said, sight)
}

/// Asserts that it arrived unchanged but for what the sidecar takes out and writes.
pub fn arrived(ask: &Ask, sight: &Sight) {
    let origin = origin_form(ask);
    let line = [ask.method.as_bytes(), b" ", &origin, b" HTTP/1.1\r\n"].concat();
    assert!(
        sight.head.starts_with(&line),
        "{:?} arrived as {:?}",
        String::from_utf8_lossy(&line),
        sight.line()
    );
    assert_eq!(sight.ended, "whole", "{ask:?}");
    assert_eq!(sight.content(), ask.content(), "{ask:?}");
    let framing = ["host", "content-length", "transfer-encoding", "x-case"];
    let received: Vec<(String, Vec<u8>)> = sight
        .headers()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| !framing.contains(&name.as_str()) && !OURS.contains(&name.as_str()))
        .collect();
    let sent: Vec<(String, Vec<u8>)> = ask
        .headers
        .iter()
        .filter(|(_, _, goes)| *goes)
        .map(|(name, value, _)| (name.to_ascii_lowercase(), value.trim_ascii().to_vec()))
        .collect();
    if received != sent {
        // HTTP/2 may split cookies, and whoever hands them on to HTTP/1.1 joins them (RFC 9113, 8.2.3).
        assert_eq!(
            joined(received),
            joined(sent),
            "{:?}",
            String::from_utf8_lossy(&sight.head)
        );
    }
}

fn joined(headers: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let (cookies, mut others): (Vec<_>, Vec<_>) = headers.into_iter().partition(|(name, _)| name == "cookie");
    let values: Vec<Vec<u8>> = cookies.into_iter().map(|(_, value)| value).collect();
    if !values.is_empty() {
        others.push(("cookie".to_owned(), values.join(&b"; "[..])));
    }
    others
}

/// The target as it goes on.
fn origin_form(ask: &Ask) -> Vec<u8> {
    let text = String::from_utf8_lossy(&ask.target).into_owned();
    let Some((_, rest)) = text.split_once("://").filter(|_| !text.starts_with('/')) else {
        return ask.target.clone();
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    match &rest[at..] {
        "" if ask.method == "OPTIONS" => b"*".to_vec(),
        tail if tail.starts_with('/') => tail.as_bytes().to_vec(),
        tail => format!("/{tail}").into_bytes(),
    }
}
