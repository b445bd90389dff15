//! An application that takes whatever comes, writes down exactly what that was, and answers. It is lenient on purpose: what a
//! sidecar should have refused, it would serve. One JSON line for each request: connection, raw head, raw body, how it ended.
//!
//! `hopguard-echo 8080 [9999]` serves on the first port; on the second, of loopback alone, a key set: each line of standard input
//! is from then on the document.
//!
//! The request header `x-want` shapes the answer: a status, then words: `chunked` (with a trailer), `eof`, `bare` (no length), `early`
//! (before the body is read), `interim` (a 103 first). `GET /events` is an event stream without end, an upgrade to `websocket` is taken
//! and echoes messages of up to 125 bytes.

use std::io::{self, BufRead, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine;
use serde_json::json;

fn main() -> io::Result<()> {
    let ports: Vec<u16> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let port = ports.first().copied().unwrap_or(8080);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    if let Some(keys) = ports.get(1) {
        serve_keys(*keys)?;
    }
    tell(&json!({"ready": port}))?;
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        thread::spawn(move || {
            let _over = connection(number, stream);
        });
    }
    Ok(())
}

fn tell(what: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

/// A key set on loopback, read anew from standard input.
fn serve_keys(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let document = Arc::new(Mutex::new(String::from("{\"keys\":[]}")));
    let read = Arc::clone(&document);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            *read.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let body = document.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let _over = answer_keys(stream, &body);
        }
    });
    Ok(())
}

fn answer_keys(stream: TcpStream, body: &str) -> io::Result<()> {
    let mut client = Client::new(stream);
    if client.head()?.is_some() {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: max-age=300\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        client.stream.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// A client's socket and what was read too much.
struct Client {
    stream: TcpStream,
    ahead: Vec<u8>,
}

const MOST: usize = 4 << 20;

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut some = [0; 16 * 1024];
        let got = self.stream.read(&mut some)?;
        self.ahead.extend_from_slice(&some[..got]);
        if self.ahead.len() > MOST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(got > 0)
    }

    /// Up to and with `end`; `None` when the client ended before the first byte.
    fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.ahead.drain(..at + end.len()).collect()));
            }
            if !self.fill()? {
                let nothing = self.ahead.is_empty();
                return if nothing {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.until(b"\r\n\r\n")
    }

    fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        while self.ahead.len() < length {
            if !self.fill()? {
                into.append(&mut self.ahead);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        into.extend(self.ahead.drain(..length));
        Ok(())
    }

    /// The body's bytes as they are on the wire.
    fn body(&mut self, head: &[u8], into: &mut Vec<u8>) -> io::Result<()> {
        if field(head, "transfer-encoding").is_some_and(|value| value.to_lowercase().contains("chunked")) {
            return self.chunks(into);
        }
        let length = field(head, "content-length").and_then(|value| value.trim().parse().ok());
        self.exactly(length.unwrap_or(0), into)
    }

    fn chunks(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        loop {
            let line = self.until(b"\n")?.ok_or_else(ended)?;
            into.extend_from_slice(&line);
            let text = String::from_utf8_lossy(&line);
            let digits = text.split([';', '\r', '\n']).next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size > 0 {
                self.exactly(size + 2, into)?;
                continue;
            }
            loop {
                let trailer = self.until(b"\r\n")?.ok_or_else(ended)?;
                into.extend_from_slice(&trailer);
                if trailer == b"\r\n" {
                    return Ok(());
                }
            }
        }
    }
}

/// The value of the first header of that name.
fn field(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).into_owned();
    text.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn connection(number: usize, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut client = Client::new(stream);
    loop {
        let head = match client.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) => {
                let rest = hex::encode(&client.ahead);
                return tell(
                    &json!({"conn": number, "head": rest, "body": "", "ended": error.kind().to_string()}),
                );
            }
        };
        if field(&head, "expect").is_some() {
            client.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if head.starts_with(b"PRI * HTTP/2.0") {
            // Somebody asks whether HTTP/2 is spoken here. It is not, and nothing was asked for yet.
            return client
                .stream
                .write_all(b"HTTP/1.1 400 No HTTP/2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        let want = field(&head, "x-want").unwrap_or_default();
        if want.contains("early") {
            answer(&mut client, &head, &want)?;
        }
        let mut body = Vec::new();
        let read = client.body(&head, &mut body);
        let ended = match &read {
            Ok(()) => "whole".to_owned(),
            Err(error) => error.kind().to_string(),
        };
        tell(
            &json!({"conn": number, "head": hex::encode(&head), "body": hex::encode(&body), "ended": ended}),
        )?;
        read?;
        if want.contains("early") {
            continue;
        }
        if head.starts_with(b"GET /events") {
            return events(&mut client);
        }
        if let Some(key) = field(&head, "sec-websocket-key") {
            return websocket(&mut client, &key);
        }
        answer(&mut client, &head, &want)?;
        if want.contains("eof") {
            return Ok(());
        }
    }
}

fn answer(client: &mut Client, head: &[u8], want: &str) -> io::Result<()> {
    let status: u16 = want.get(..3).and_then(|text| text.parse().ok()).unwrap_or(200);
    let bodiless = matches!(status, 204 | 304);
    let to_head = head.starts_with(b"HEAD ");
    let mut text = String::new();
    if want.contains("interim") {
        text += "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
    }
    text += &format!("HTTP/1.1 {status} Fine\r\nx-app: here\r\n");
    let body = if to_head || bodiless { "" } else { "taken" };
    if want.contains("chunked") {
        text += "transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        if !to_head {
            text += &format!("{:x}\r\n{body}\r\n0\r\nx-sum: 5\r\n\r\n", body.len());
        }
    } else if want.contains("eof") {
        text += &format!("connection: close\r\n\r\n{body}");
    } else if bodiless || want.contains("bare") {
        text += "\r\n";
    } else {
        text += &format!("content-length: 5\r\n\r\n{body}");
    }
    client.stream.write_all(text.as_bytes())
}

/// One event every 50 ms, until the client is gone.
fn events(client: &mut Client) -> io::Result<()> {
    client.stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\r\n",
    )?;
    for count in 0_u64.. {
        client
            .stream
            .write_all(format!("id: {count}\ndata: tick\n\n").as_bytes())?;
        thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// RFC 6455: the handshake, then an echo of short messages.
fn websocket(client: &mut Client, key: &str) -> io::Result<()> {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    client.stream.write_all(
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n")
            .as_bytes(),
    )?;
    loop {
        let mut frame = Vec::new();
        client.exactly(2, &mut frame)?;
        let (kind, length) = (frame[0], usize::from(frame[1] & 0x7f));
        let mut masked = Vec::new();
        client.exactly(4 + length, &mut masked)?;
        let (mask, data) = masked.split_at(4);
        let mut back = vec![if kind & 0x0f == 9 { 0x8a } else { kind }, frame[1] & 0x7f];
        back.extend(
            data.iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        client.stream.write_all(&back)?;
        if kind & 0x0f == 8 {
            return Ok(());
        }
    }
}
