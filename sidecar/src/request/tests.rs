//! The attack tables of the known attacks on paths (P), hosts (H), identity headers (I) and framing (S), and beside them what a careless strictness would break.

mod body;
mod documented;
mod framing;
mod headers;
mod hosts;
mod http2;
mod ordinary;
mod paths;
mod presented;
mod properties;
mod responses;

use super::{Head, Limits, Refusal, parse_head};

/// Reads a whole head.
fn read(text: impl AsRef<[u8]>) -> Result<Head, Refusal> {
    read_with(text, &Limits::default())
}

fn read_with(text: impl AsRef<[u8]>, limits: &Limits) -> Result<Head, Refusal> {
    parse_head(text.as_ref(), limits).map(|head| head.expect("a complete head"))
}

/// Reads `GET target` with `Host: svc`.
fn get(target: &str) -> Result<Head, Refusal> {
    read(format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n"))
}

/// Reads a GET with these header lines beside `Host`.
fn with(lines: &str) -> Result<Head, Refusal> {
    read(format!("GET / HTTP/1.1\r\nHost: svc\r\n{lines}\r\n"))
}

#[track_caller]
fn refused(answer: Result<Head, Refusal>, status: u16, code: &str, what: &str) {
    match answer {
        Ok(head) => panic!("{what}: taken as {head:?}"),
        Err(refusal) => assert_eq!(
            (refusal.status, refusal.code),
            (status, code),
            "{what}: {refusal}"
        ),
    }
}

/// The head as it goes on, as text.
fn forwarded(head: &Head, add: &[(&str, &str)]) -> String {
    String::from_utf8_lossy(&head.forward_bytes(add)).into_owned()
}
