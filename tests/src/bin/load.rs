//! A load of HTTP/1.1 requests that never retries: what was sent and not answered is a failure. Ends with one JSON line.
//!
//! `hopguard-load --url http://orders:8080/ --connections 64 --seconds 60 [--requests N] [--header 'name: value']...
//! [--method POST] [--body-bytes N] [--new-connections] [--pause-ms N] [--traced]`
//!
//! With `--traced` each request has a trace of its own, and the line says under `answers` how each was answered.
//!
//! With `--pause-ms` a connection stands idle after each answer, for up to so long.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Body = Full<Bytes>;

#[derive(Clone)]
struct Options {
    authority: String,
    path: String,
    method: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    connections: usize,
    deadline: Duration,
    requests: u64,
    new_connections: bool,
    pause: Duration,
    traced: bool,
}

#[derive(Default)]
struct Tally {
    statuses: BTreeMap<u16, u64>,
    sent: u64,
    answered: u64,
    failed: u64,
    opened: u64,
    errors: Vec<String>,
    micros: Vec<u32>,
    /// Trace ids and statuses.
    answers: Vec<(String, u16)>,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return say(false, &format!("hopguard-load: {error}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(false, &format!("hopguard-load: {error}")),
    };
    let started = Instant::now();
    let tally = runtime.block_on(run(&options));
    let clean = tally.failed == 0 && tally.answered > 0;
    say(clean, &report(tally, started.elapsed()))
}

fn say(clean: bool, text: &str) -> ExitCode {
    use std::io::Write;
    let _closed = writeln!(std::io::stdout(), "{text}");
    if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        authority: String::new(),
        path: "/".into(),
        method: "GET".into(),
        headers: Vec::new(),
        body: Bytes::new(),
        connections: 1,
        deadline: Duration::from_secs(3600),
        requests: u64::MAX,
        new_connections: false,
        pause: Duration::ZERO,
        traced: false,
    };
    while let Some(flag) = args.next() {
        if flag == "--new-connections" {
            options.new_connections = true;
            continue;
        }
        if flag == "--traced" {
            options.traced = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} needs a number"));
        match flag.as_str() {
            "--url" => {
                let rest = value
                    .strip_prefix("http://")
                    .ok_or("--url must begin with http://")?;
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                options.authority = authority.to_owned();
                options.path = format!("/{path}");
            }
            "--header" => {
                let (name, text) = value.split_once(':').ok_or("--header is `name: value`")?;
                options
                    .headers
                    .push((name.trim().to_owned(), text.trim().to_owned()));
            }
            "--method" => options.method = value,
            "--body-bytes" => options.body = Bytes::from(vec![b'x'; usize::try_from(number()?).unwrap_or(0)]),
            "--connections" => options.connections = usize::try_from(number()?).unwrap_or(1),
            "--seconds" => options.deadline = Duration::from_secs(number()?),
            "--pause-ms" => options.pause = Duration::from_millis(number()?),
            "--requests" => options.requests = number()?,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    if options.authority.is_empty() {
        Err("--url is missing".into())
    } else {
        Ok(options)
    }
}

async fn run(options: &Options) -> Tally {
    let end = tokio::time::Instant::now() + options.deadline;
    let left = Arc::new(AtomicU64::new(options.requests));
    let mut workers = Vec::new();
    for seed in (1..).take(options.connections) {
        workers.push(tokio::spawn(worker(
            options.clone(),
            end,
            Arc::clone(&left),
            seed,
        )));
    }
    let mut all = Tally::default();
    for worker in workers {
        let Ok(one) = worker.await else { continue };
        all.sent += one.sent;
        all.answered += one.answered;
        all.failed += one.failed;
        all.opened += one.opened;
        all.errors.extend(one.errors);
        all.micros.extend(one.micros);
        all.answers.extend(one.answers);
        for (status, count) in one.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    all
}

async fn worker(options: Options, end: tokio::time::Instant, left: Arc<AtomicU64>, seed: u64) -> Tally {
    let mut tally = Tally::default();
    let mut connection: Option<SendRequest<Body>> = None;
    let mut random = seed;
    while tokio::time::Instant::now() < end {
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_err()
        {
            break;
        }
        // A connection that the server asked to be closed is not used again; one that it closed while idle is told by
        // `ready` before anything is sent.
        let mut kept = connection.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => match open(&options).await {
                Ok(open) => {
                    tally.opened += 1;
                    open
                }
                Err(error) => {
                    tally.failed += 1;
                    note(&mut tally, &format!("connect: {error}"));
                    continue;
                }
            },
        };
        // Just before it sends, as any client does: was the connection closed while it stood idle?
        if !options.pause.is_zero() {
            tokio::time::sleep(pause(&options, &mut random)).await;
            if sender.ready().await.is_err() {
                left.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        }
        let started = Instant::now();
        tally.sent += 1;
        let trace = options.traced.then(|| format!("{seed:016x}{:016x}", tally.sent));
        let exchanged = exchange(&mut sender, &options, trace.as_deref());
        match tokio::time::timeout(Duration::from_secs(30), exchanged).await {
            Ok(Ok((status, keep))) => {
                tally.answers.extend(trace.map(|trace| (trace, status)));
                tally.answered += 1;
                *tally.statuses.entry(status).or_default() += 1;
                tally
                    .micros
                    .push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
                if keep && !options.new_connections {
                    connection = Some(sender);
                }
            }
            Ok(Err(error)) => {
                tally.failed += 1;
                note(&mut tally, &format!("request: {error:?}"));
            }
            Err(_) => {
                tally.failed += 1;
                note(&mut tally, "request: no answer in 30 s");
            }
        }
    }
    tally
}

/// Any length up to the longest one (xorshift: the same in every run).
fn pause(options: &Options, random: &mut u64) -> Duration {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    options
        .pause
        .mul_f64((*random >> 11) as f64 / (1u64 << 53) as f64)
}

async fn open(options: &Options) -> Result<SendRequest<Body>, String> {
    let stream = TcpStream::connect(&options.authority)
        .await
        .map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(
    sender: &mut SendRequest<Body>,
    options: &Options,
    trace: Option<&str>,
) -> Result<(u16, bool), hyper::Error> {
    let mut request = http::Request::builder()
        .method(options.method.as_str())
        .uri(options.path.as_str())
        .header("host", options.authority.as_str());
    for (name, value) in &options.headers {
        request = request.header(name.as_str(), value.as_str());
    }
    if let Some(trace) = trace {
        // W3C Trace Context, 3.2: version, trace, parent, flags.
        request = request.header("traceparent", format!("00-{trace}-00000000000000aa-01"));
    }
    let Ok(request) = request.body(Full::new(options.body.clone())) else {
        return Ok((0, false));
    };
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let close = response
        .headers()
        .get("connection")
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    response.into_body().collect().await?;
    Ok((status, !close))
}

fn note(tally: &mut Tally, error: &str) {
    if tally.errors.len() < 3 {
        tally.errors.push(error.to_owned());
    }
}

fn report(mut tally: Tally, took: Duration) -> String {
    tally.micros.sort_unstable();
    let at = |share: f64| {
        let rank = (tally.micros.len() as f64 * share) as usize;
        tally
            .micros
            .get(rank.min(tally.micros.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    tally.errors.truncate(10);
    serde_json::json!({
        "sent": tally.sent, "answered": tally.answered, "failed": tally.failed, "statuses": tally.statuses,
        "connections_opened": tally.opened, "seconds": took.as_secs_f64(),
        "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "max_us": at(1.0), "errors": tally.errors,
        "answers": tally.answers,
    })
    .to_string()
}
