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

use super::{Head, Limits, Refusal, Spellings, parse_head};

/// Reads a whole head.
fn read(text: impl AsRef<[u8]>) -> Result<Head, Refusal> {
    read_with(text, &Limits::default())
}

fn read_with(text: impl AsRef<[u8]>, limits: &Limits) -> Result<Head, Refusal> {
    let head = parse_head(text.as_ref(), limits)?.expect("a complete head");
    on_route(head, Spellings::default())
}

/// What becomes of a head whose only route allows these spellings.
fn on_route(head: Head, allowed: Spellings) -> Result<Head, Refusal> {
    head.spelled(|_| Some(()), |()| allowed).map(|()| head)
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
