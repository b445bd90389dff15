//! Asks the same thing again and again, each time over a new connection, and writes one line whenever the answer is another
//! than the last time: Unix milliseconds, and the status, or `none` when no answer came. It never ends by itself.
//!
//! `hopguard-probe --url http://orders:8080/ [--header 'name: value']... [--every-ms 20]`
//!
//! With `--hold payments:9090` it holds one connection to a server that greets and echoes, and talks: `open` once it was
//! greeted, and at last `reset`, or `closed` when it ended in order.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    authority: String,
    /// Empty when a connection is to be held.
    request: String,
    every: Duration,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let _closed = writeln!(
            io::stderr(),
            "usage: hopguard-probe (--url http://HOST:PORT/PATH [--header 'name: value']... | --hold HOST:PORT) [--every-ms N]"
        );
        return ExitCode::FAILURE;
    };
    if options.request.is_empty() {
        return if hold(&options).is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let mut last = String::new();
    loop {
        let answer = ask(&options).unwrap_or_else(|_| "none".to_owned());
        if answer != last {
            if tell(&answer).is_err() {
                return ExitCode::SUCCESS;
            }
            last = answer;
        }
        std::thread::park_timeout(options.every);
    }
}

fn tell(what: &str) -> io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    writeln!(io::stdout(), "{} {what}", since.as_millis())
}

/// One connection, until its end.
fn hold(options: &Options) -> io::Result<()> {
    let mut stream = TcpStream::connect(&options.authority)?;
    let mut greeting = BufReader::new(stream.try_clone()?);
    if greeting.read_line(&mut String::new())? == 0 {
        return tell("closed");
    }
    tell("open")?;
    loop {
        let mut echo = [0; 4];
        if let Err(error) = stream
            .write_all(b"ping")
            .and_then(|()| stream.read_exact(&mut echo))
        {
            // An end in order says that nothing is missing.
            let in_order = error.kind() == io::ErrorKind::UnexpectedEof;
            return tell(if in_order { "closed" } else { "reset" });
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
            "--hold" => authority = value,
            "--header" => headers += &format!("{value}\r\n"),
            "--every-ms" => every = Duration::from_millis(value.parse().ok()?),
            _ => return None,
        }
    }
    let asks = !path.is_empty();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{headers}\r\n");
    (!authority.is_empty()).then_some(Options {
        authority,
        request: if asks { request } else { String::new() },
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
