//! Whether a sidecar is ready, asked over its health port: an address enters, readiness with its reasons leaves. Bounded in
//! time and size.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use hopguard_sidecar::config::Sidecar;
use serde::Deserialize;

use crate::ui::{Exit, Failure, Ui};

/// Where a sidecar listens that no file says otherwise of.
const PORT: u16 = 15021;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest answer, in bytes.
const MOST: usize = 64 << 10;

/// Which sidecar is meant, and how long is waited.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Address and port of its `[health]` (else of --config, else port 15021 of this machine)
    #[arg(long, value_name = "IP:PORT")]
    pub health: Option<SocketAddr>,
    /// How long to wait for it to be ready
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// What `/readyz` says.
#[derive(Debug, Deserialize)]
struct Readiness {
    ready: bool,
    #[serde(default)]
    reasons: Vec<String>,
}

/// Reads the file of a sidecar.
///
/// # Errors
/// When it is wrong.
pub fn load(file: &Path) -> Result<Sidecar, Failure> {
    hopguard_sidecar::config::load_sidecar(file).map_err(|problems| crate::sidecar::wrong(&problems, false))
}

/// The addresses at which a sidecar answers: those of this machine when it listens on all.
pub fn addresses(which: &Which, config: Option<&Sidecar>) -> Vec<SocketAddr> {
    let listens = which
        .health
        .or(config.map(|file| file.health))
        .unwrap_or((Ipv6Addr::UNSPECIFIED, PORT).into());
    let at = |ip: IpAddr| SocketAddr::new(ip, listens.port());
    match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into())],
        // Without IPv6 a sidecar listens on IPv4 instead.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())]
        }
        ip => vec![at(ip)],
    }
}

/// The address at which one answers now, ready or not.
pub fn answering(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses.iter().copied().find(|address| ask(*address).is_ok())
}

/// Waits until a sidecar at one of the addresses is ready; `gone` says when there is no use in waiting. What it waits for
/// is said on stderr whenever it changes.
///
/// # Errors
/// When it is not ready in time, with its reasons.
pub fn wait(
    addresses: &[SocketAddr],
    patience: Duration,
    ui: &Ui,
    mut gone: impl FnMut() -> Option<Failure>,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let why = match ask_any(addresses) {
            Ok(Readiness { ready: true, .. }) => return Ok(start.elapsed()),
            Ok(readiness) => readiness.reasons.join("; "),
            Err(error) => error,
        };
        if why != said {
            ui.note(format!("waiting for the sidecar: {why}"));
            said.clone_from(&why);
        }
        if let Some(failure) = gone() {
            return Err(failure);
        }
        if start.elapsed() >= patience {
            return Err(Failure::new(format!(
                "the sidecar is not ready after {} s: {why}",
                patience.as_secs()
            ))
            .hint("`hopguard doctor --config sidecar.toml` looks for the cause; the sidecar's log says more")
            .exit(Exit::No));
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// The first address that answers; else what kept the first from answering.
fn ask_any(addresses: &[SocketAddr]) -> Result<Readiness, String> {
    let mut first = None;
    for address in addresses {
        match ask(*address) {
            Ok(readiness) => return Ok(readiness),
            Err(error) => first = first.or(Some(format!("nothing answers at {address} ({error})"))),
        }
    }
    Err(first.unwrap_or_default())
}

fn ask(address: SocketAddr) -> io::Result<Readiness> {
    let until = Instant::now() + PATIENCE;
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: health\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    // The whole answer in that time, not each piece of it.
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let read = stream.read(&mut piece)?;
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
        if read == 0 || answer.len() > MOST {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let strange = || io::Error::other("what answers there is no sidecar");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(strange)?;
    if !matches!(head.split(' ').nth(1), Some("200" | "503")) {
        return Err(strange());
    }
    serde_json::from_str(body).map_err(|_| strange())
}
