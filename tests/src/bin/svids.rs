//! Workloads that want SVIDs, as many as they can get. Ends with one JSON line.
//!
//! `hopguard-svids --socket PATH --mode connections|calls|streams|floor [--parallel N] [--streams N] [--seconds S] [--log FILE]
//! [--stop-after N]`
//!
//! `floor` asks nobody: it makes a key, signs and verifies for that long, which is what an SVID takes in cryptography alone, and says
//! how much CPU time one takes here and now.
//!
//! `connections`: each SVID by a connection of its own. `calls`: each by a call of its own, on `parallel` connections. `streams`:
//! `streams` calls stay open on `parallel` connections, and each pushed message counts. With `--log` every serial number that
//! came is a line of the file, written before the next one is asked for.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(30);
/// Errors that are told one by one.
const TOLD: usize = 16;

#[derive(Clone, PartialEq, Message)]
struct X509svidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509svid>,
}

#[derive(Clone, PartialEq, Message)]
struct X509svid {
    #[prost(bytes = "bytes", tag = "2")]
    x509_svid: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    x509_svid_key: Bytes,
}

struct Options {
    socket: PathBuf,
    mode: String,
    parallel: usize,
    streams: usize,
    seconds: f64,
    stop_after: u64,
}

#[derive(Default)]
struct Tally {
    svids: u64,
    failed: u64,
    errors: BTreeMap<String, u64>,
    micros: Vec<u32>,
    serials: HashSet<u128>,
    log: Option<File>,
}

type Shared = Arc<Mutex<Tally>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run()));
    match done {
        Ok(line) => {
            let _closed = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "hopguard-svids: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, Failure> {
    let (options, log) = parse()?;
    if options.mode == "floor" {
        return floor(options.seconds);
    }
    let tally = Shared::default();
    lock(&tally).log = log.map(File::create).transpose()?;
    let (options, start) = (Arc::new(options), Instant::now());
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..options.parallel {
        let (options, tally) = (options.clone(), tally.clone());
        tasks.spawn(async move {
            let work = async {
                match options.mode.as_str() {
                    "connections" => connections(&options, &tally).await,
                    "calls" => calls(&options, &tally).await,
                    _ => streams(&options, at, &tally).await,
                }
            };
            let _over = tokio::time::timeout_at(end.into(), work).await;
        });
    }
    while tasks.join_next().await.is_some() {}
    let seconds = start.elapsed().as_secs_f64();
    let mut tally = lock(&tally);
    tally.micros.sort_unstable();
    let part = |share: usize| tally.micros.get(tally.micros.len() * share / 1000).copied();
    let line = serde_json::json!({
        "mode": options.mode, "seconds": seconds, "svids": tally.svids, "distinct": tally.serials.len(),
        "failed": tally.failed, "errors": tally.errors,
        "p50_us": part(500), "p99_us": part(990), "p999_us": part(999),
    });
    Ok(line.to_string())
}

fn parse() -> Result<(Options, Option<PathBuf>), Failure> {
    let mut options = Options {
        socket: PathBuf::new(),
        mode: "calls".to_owned(),
        parallel: 16,
        streams: 1000,
        seconds: 5.0,
        stop_after: u64::MAX,
    };
    let mut log = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--socket" => options.socket = value.into(),
            "--mode" => options.mode = value,
            "--parallel" => options.parallel = value.parse()?,
            "--streams" => options.streams = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--stop-after" => options.stop_after = value.parse()?,
            "--log" => log = Some(value.into()),
            _ => return Err(format!("what is {word}?").into()),
        }
    }
    Ok((options, log))
}

/// A key pair, a signature of the length of a certificate, and its verification.
fn floor(seconds: f64) -> Result<String, Failure> {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    };
    let cpu = || {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(
            u64::try_from(spent.tv_sec).unwrap_or(0),
            u32::try_from(spent.tv_nsec).unwrap_or(0),
        )
    };
    let authority = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, authority.public_key().as_ref());
    let (random, message) = (SystemRandom::new(), [7; 500]);
    let (start, before, mut parts, mut count) = (Instant::now(), cpu(), [Duration::ZERO; 3], 0_u32);
    while start.elapsed().as_secs_f64() < seconds {
        let begun = cpu();
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let made = cpu();
        let signature = authority.sign(&random, &message)?;
        let signed = cpu();
        public.verify(&message, signature.as_ref())?;
        let verified = cpu();
        for (part, spent) in parts
            .iter_mut()
            .zip([made - begun, signed - made, verified - signed])
        {
            *part += spent;
        }
        count += 1;
    }
    let micros = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(count);
    let [key, sign, verify] = parts.map(micros);
    let all = micros(cpu() - before);
    Ok(serde_json::json!({"cpu_us": all, "key_us": key, "sign_us": sign, "verify_us": verify}).to_string())
}

/// A new connection for each SVID.
async fn connections(options: &Options, tally: &Shared) {
    while lock(tally).svids < options.stop_after {
        let start = Instant::now();
        let fetched = async {
            let client = connect(options).await?;
            fetch(client, 1, |message| note(tally, message, start)).await
        };
        if let Err(error) = fetched.await {
            failed(tally, &error);
            // Nobody listens, or we are over a limit: the next one no sooner than that.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A new call for each SVID.
async fn calls(options: &Options, tally: &Shared) {
    while lock(tally).svids < options.stop_after {
        let client = match connect(options).await {
            Ok(client) => client,
            Err(error) => {
                failed(tally, &error);
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
        };
        while lock(tally).svids < options.stop_after {
            let start = Instant::now();
            let fetched = fetch(client.clone(), 1, |message| note(tally, message, start));
            if let Err(error) = fetched.await {
                failed(tally, &error);
                break;
            }
        }
    }
}

/// This connection's share of the streams, open until the end.
async fn streams(options: &Options, at: usize, tally: &Shared) {
    let share = options.streams / options.parallel + usize::from(at < options.streams % options.parallel);
    let client = match connect(options).await {
        Ok(client) => client,
        Err(error) => return failed(tally, &error),
    };
    let mut open = tokio::task::JoinSet::new();
    for _ in 0..share {
        let (client, tally) = (client.clone(), tally.clone());
        open.spawn(async move {
            let start = Instant::now();
            let mut first = true;
            let told = |message: &[u8]| {
                // How long the first one took; the others come when they are due.
                let since = std::mem::take(&mut first).then_some(start);
                note(&tally, message, since.unwrap_or_else(Instant::now))
            };
            if let Err(error) = fetch(client, u64::MAX, told).await {
                failed(&tally, &error);
            }
        });
    }
    while open.join_next().await.is_some() {}
}

async fn connect(options: &Options) -> Result<SendRequest<Bytes>, Failure> {
    let stream = UnixStream::connect(&options.socket).await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(client.ready().await?)
}

/// Reads `most` messages of one call of FetchX509SVID.
async fn fetch(
    client: SendRequest<Bytes>,
    most: u64,
    mut told: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let request = Request::post("http://localhost/SpiffeWorkloadAPI/FetchX509SVID")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("workload.spiffe.io", "true")
        .body(())?;
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(Bytes::from_static(&[0; 5]), true)?;
    let response = tokio::time::timeout(PATIENCE, response).await??;
    if let Some(status) = response.headers().get("grpc-status") {
        return Err(format!("grpc-status {}", status.to_str()?).into());
    }
    let mut stream = response.into_body();
    let (mut buffer, mut messages) = (BytesMut::new(), 0);
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        buffer.extend_from_slice(&chunk);
        while let Some(length) = buffer.get(1..5).map(|mut length| length.get_u32() as usize) {
            if buffer.len() < 5 + length {
                break;
            }
            let message = buffer.split_to(5 + length);
            told(&message[5..])?;
            messages += 1;
            if messages == most {
                return Ok(());
            }
        }
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    let status = trailers
        .get("grpc-status")
        .map_or("none", |status| status.to_str().unwrap_or("?"));
    Err(format!("the stream ended: grpc-status {status}").into())
}

fn note(tally: &Shared, message: &[u8], start: Instant) -> Result<(), Failure> {
    let message = X509svidResponse::decode(message)?;
    let mut tally = lock(tally);
    for svid in &message.svids {
        let serial = serial(&svid.x509_svid).ok_or("this is no certificate")?;
        if svid.x509_svid_key.is_empty() {
            return Err("an SVID without its key".into());
        }
        tally.svids += 1;
        tally.serials.insert(serial);
        if let Some(log) = &mut tally.log {
            writeln!(log, "{serial:032x}")?;
        }
    }
    tally
        .micros
        .push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    Ok(())
}

/// `SEQUENCE { SEQUENCE { [0] { INTEGER 2 }, INTEGER serial, ...`: the head of every certificate of ours.
fn serial(der: &[u8]) -> Option<u128> {
    let version = [0xa0, 3, 2, 1, 2, 2];
    let at = der
        .get(..20)?
        .windows(version.len())
        .position(|window| window == version)?
        + version.len();
    let length = usize::from(*der.get(at)?);
    let digits = der.get(at + 1..at + 1 + length)?;
    Some(
        digits
            .iter()
            .fold(0, |so_far, digit| so_far << 8 | u128::from(*digit)),
    )
}

fn failed(tally: &Shared, error: &Failure) {
    let mut tally = lock(tally);
    tally.failed += 1;
    let error = error.to_string();
    if tally.errors.len() < TOLD || tally.errors.contains_key(&error) {
        *tally.errors.entry(error).or_default() += 1;
    }
}

fn lock(tally: &Shared) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
