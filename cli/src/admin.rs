//! The administration socket of a sidecar, asked: a path enters, its JSON leaves. Bounded in time and size; it believes
//! only a sidecar of its own user, or of root.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::ui::{Exit, Failure};

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const MOST: u64 = 16 << 20;

/// What a sidecar answered: the status, and the JSON.
pub fn ask(socket: &Path, path: &str) -> Result<(u16, Value), Failure> {
    let place = socket.display();
    let answer = exchange(socket, path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "is the sidecar running? name its socket by --socket, or its file by --config"
            }
            io::ErrorKind::ConnectionRefused => "no sidecar listens there any more: start it",
            io::ErrorKind::PermissionDenied => "it answers only the user that the sidecar runs as, and root",
            _ => "the sidecar's log says more; it answers only the user that it runs as, and root",
        };
        Failure::new(format!("{place}: {error}"))
            .hint(hint)
            .exit(Exit::NotHere)
    })?;
    let strange = || {
        Failure::new(format!(
            "{place}: what answers there is no sidecar of this version"
        ))
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(strange)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let json = serde_json::from_str(body).map_err(|_| strange())?;
    Ok((status.ok_or_else(strange)?, json))
}

fn exchange(socket: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it hung up without an answer",
        ));
    }
    Ok(answer)
}
