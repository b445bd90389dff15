//! Asks the same thing again and again, each time over a new connection, and writes one line whenever the answer is another
//! than the last time: Unix milliseconds, and the status, or `none` when no answer came. It never ends by itself.
//!
//! `hopguard-probe --url http://orders:8080/ [--header 'name: value']... [--every-ms 20]`

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    authority: String,
    request: String,
    every: Duration,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let _closed = writeln!(
            io::stderr(),
            "usage: hopguard-probe --url http://HOST:PORT/PATH [--header 'name: value']... [--every-ms N]"
        );
        return ExitCode::FAILURE;
    };
    let mut last = String::new();
    loop {
        let answer = ask(&options).unwrap_or_else(|_| "none".to_owned());
        if answer != last {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if writeln!(io::stdout(), "{} {answer}", since.as_millis()).is_err() {
                return ExitCode::SUCCESS;
            }
            last = answer;
        }
        std::thread::park_timeout(options.every);
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let (mut authority, mut path) = (String::new(), String::new());
    let (mut headers, mut every) = (String::new(), Duration::from_millis(20));
    while let Some(flag) = args.next() {
        let value = args.next()?;
        match flag.as_str() {
            "--url" => {
                let (host, rest) = value.strip_prefix("http://")?.split_once('/')?;
                (authority, path) = (host.to_owned(), format!("/{rest}"));
            }
            "--header" => headers += &format!("{value}\r\n"),
            "--every-ms" => every = Duration::from_millis(value.parse().ok()?),
            _ => return None,
        }
    }
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{headers}\r\n");
    (!authority.is_empty()).then_some(Options {
        authority,
        request,
        every,
    })
}

/// The status of one answer.
fn ask(options: &Options) -> io::Result<String> {
    let mut stream = TcpStream::connect(&options.authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(options.request.as_bytes())?;
    let mut answer = Vec::new();
    // A reset behind the answer takes nothing from it.
    let _reset = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status
        .map(str::to_owned)
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
