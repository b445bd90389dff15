//! Many workloads at once: open streams of the Workload API that come back when they break, and that check each other all the
//! time, by webpki: every chain that somebody holds must verify against every bundle that somebody holds.
//!
//! `hopguard-streams SOCKET COUNT [BUNDLES]` opens COUNT streams of X.509-SVIDs, each on a connection of its own, and BUNDLES
//! streams of bundles. A line `dump DIR` on stdin writes all chains and bundles that are alive as PEM into DIR; `tell` has it say how it
//! stands; the end of stdin ends it. Each answer is one line of JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How often everything is held against everything.
const CHECK: Duration = Duration::from_millis(300);
const RECONNECT: Duration = Duration::from_millis(100);
/// Failures that are told one by one.
const TOLD: usize = 5;

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<SvidMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SvidMessage {
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BundlesResponse {
    #[prost(map = "string, bytes", tag = "2")]
    bundles: std::collections::HashMap<String, Vec<u8>>,
}

/// What one client holds. Its message came whole, so both are of one moment.
#[derive(Clone, Default)]
struct Held {
    chain: Vec<CertificateDer<'static>>,
    serial: Vec<u8>,
    /// Place in [`All::bundles`].
    bundle: usize,
    /// Last second of the leaf.
    end: u64,
}

#[derive(Default)]
struct All {
    held: BTreeMap<usize, Held>,
    /// Every bundle that somebody ever held.
    bundles: Vec<Vec<CertificateDer<'static>>>,
    /// Serial numbers and bundles that were held against each other; that is good until the chain ends.
    verified: BTreeSet<(Vec<u8>, usize)>,
    serials: BTreeSet<Vec<u8>>,
    messages: u64,
    breaks: u64,
    checks: u64,
    failed: u64,
    failures: Vec<String>,
}

type Shared = Arc<Mutex<All>>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (socket, count, bundles) = match words.as_slice() {
        [socket, count] => (*socket, count.parse()?, 0),
        [socket, count, bundles] => (*socket, count.parse()?, bundles.parse()?),
        _ => return Err("usage: hopguard-streams SOCKET COUNT [BUNDLES]".into()),
    };
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(socket, count, bundles))
}

async fn run(socket: &str, count: usize, bundles: usize) -> Result<(), Failure> {
    let all: Shared = Arc::default();
    for client in 0..count + bundles {
        let (socket, all) = (socket.to_owned(), all.clone());
        tokio::spawn(async move {
            loop {
                let ended = if client < count {
                    svids(&socket, client, &all).await
                } else {
                    bundles_of(&socket, client, &all).await
                };
                broke(&all, ended.err());
                tokio::time::sleep(RECONNECT).await;
            }
        });
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut pace = tokio::time::interval(CHECK);
    loop {
        tokio::select! {
            _ = pace.tick() => check(&all),
            line = lines.next_line() => match line?.as_deref() {
                None => return Ok(()),
                Some("tell") => say(&told(&all)),
                Some(line) => match line.strip_prefix("dump ") {
                    Some(folder) => say(&dump(&all, Path::new(folder))?),
                    None => return Err(format!("unknown: {line}").into()),
                },
            },
        }
    }
}

/// A client comes back; why its stream broke is told only when somebody wants to know.
fn broke(all: &Shared, why: Option<Failure>) {
    all.lock().unwrap().breaks += 1;
    if std::env::var_os("HOPGUARD_STREAMS_LOG").is_some() {
        let _closed = writeln!(std::io::stderr(), "a stream broke: {why:?}");
    }
}

fn say(line: &Value) {
    let mut out = std::io::stdout();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn channel(socket: &str) -> Result<Channel, Failure> {
    Ok(Endpoint::from_shared(format!("unix://{socket}"))?
        .connect()
        .await?)
}

async fn open<T: prost::Message + Default + 'static>(
    socket: &str,
    method: &'static str,
) -> Result<Streaming<T>, Failure> {
    let mut grpc = tonic::client::Grpc::new(channel(socket).await?);
    grpc.ready().await?;
    let mut request = Request::new(Empty {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse()?);
    let codec = ProstCodec::<Empty, T>::default();
    let path = PathAndQuery::from_static(method);
    Ok(grpc.server_streaming(request, path, codec).await?.into_inner())
}

async fn svids(socket: &str, client: usize, all: &Shared) -> Result<(), Failure> {
    let mut stream: Streaming<SvidResponse> = open(socket, "/SpiffeWorkloadAPI/FetchX509SVID").await?;
    while let Some(message) = stream.message().await? {
        let svid = message
            .svids
            .into_iter()
            .next()
            .ok_or_else(|| Status::data_loss("no SVID"))?;
        let chain = certificates(&svid.chain)?;
        let held = Held {
            serial: chain.first().map(serial_of).unwrap_or_default(),
            chain,
            bundle: 0,
            end: end_of(&svid.chain)?,
        };
        keep(all, client, held, certificates(&svid.bundle)?);
    }
    Err("the stream ended".into())
}

async fn bundles_of(socket: &str, client: usize, all: &Shared) -> Result<(), Failure> {
    let mut stream: Streaming<BundlesResponse> = open(socket, "/SpiffeWorkloadAPI/FetchX509Bundles").await?;
    while let Some(message) = stream.message().await? {
        let bundle = message
            .bundles
            .into_values()
            .next()
            .ok_or_else(|| Status::data_loss("no bundle"))?;
        let held = Held {
            end: u64::MAX,
            ..Held::default()
        };
        keep(all, client, held, certificates(&bundle)?);
    }
    Err("the stream ended".into())
}

/// A new state of a client, held against its own bundle at once.
fn keep(all: &Shared, client: usize, mut held: Held, bundle: Vec<CertificateDer<'static>>) {
    let mut all = all.lock().unwrap();
    all.messages += 1;
    held.bundle = match all.bundles.iter().position(|known| *known == bundle) {
        Some(at) => at,
        None => {
            all.bundles.push(bundle);
            all.bundles.len() - 1
        }
    };
    if !held.chain.is_empty() {
        all.serials.insert(held.serial.clone());
        let own = held.bundle;
        all.verify(client, &held, own);
    }
    all.held.insert(client, held);
}

impl All {
    fn verify(&mut self, client: usize, held: &Held, bundle: usize) {
        // What came late may have ended already.
        if held.end <= now() || !self.verified.insert((held.serial.clone(), bundle)) {
            return;
        }
        self.checks += 1;
        let verdict = self
            .bundles
            .get(bundle)
            .map_or(Ok(()), |roots| verify(&held.chain, roots));
        if let Err(error) = verdict {
            self.failed += 1;
            if self.failures.len() < TOLD {
                self.failures
                    .push(format!("client {client} against bundle {bundle}: {error}"));
            }
        }
    }
}

/// Everything that is alive against every bundle of somebody who is.
fn check(all: &Shared) {
    let mut all = all.lock().unwrap();
    let now = now();
    let bundles: BTreeSet<usize> = all
        .held
        .values()
        .filter(|held| held.end > now)
        .map(|held| held.bundle)
        .collect();
    let mut missing = Vec::new();
    for (client, held) in all.held.iter().filter(|(_, held)| !held.chain.is_empty()) {
        for bundle in &bundles {
            if held.end > now && !all.verified.contains(&(held.serial.clone(), *bundle)) {
                missing.push((*client, held.clone(), *bundle));
            }
        }
    }
    for (client, held, bundle) in missing {
        all.verify(client, &held, bundle);
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn verify(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> Result<(), String> {
    let (leaf, between) = chain.split_first().ok_or("no chain")?;
    let anchors: Result<Vec<_>, _> = roots.iter().map(anchor_from_trusted_cert).collect();
    let anchors = anchors.map_err(|e| e.to_string())?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|e| e.to_string())?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now()));
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            between,
            at,
            usage,
            None,
            None,
        )
        .map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn told(all: &Shared) -> Value {
    check(all);
    let all = all.lock().unwrap();
    let mut bundles: BTreeMap<String, usize> = BTreeMap::new();
    let mut signers: BTreeMap<String, usize> = BTreeMap::new();
    for held in all.held.values() {
        let roots: Vec<String> = all.bundles[held.bundle]
            .iter()
            .map(|root| hex::encode(serial_of(root)))
            .collect();
        *bundles.entry(roots.join(",")).or_default() += 1;
        if let Some(leaf) = held.chain.first() {
            *signers.entry(issuer_of(leaf)).or_default() += 1;
        }
    }
    let alive = all.held.values().filter(|held| held.end > now()).count();
    json!({
        "holding": all.held.len(), "alive": alive, "messages": all.messages, "breaks": all.breaks,
        "serials": all.serials.len(), "checks": all.checks, "failed": all.failed, "failures": all.failures,
        "bundles": bundles, "signers": signers,
    })
}

/// `chain.N.pem` of each client, and `bundle.N.pem` of each distinct bundle.
fn dump(all: &Shared, folder: &Path) -> Result<Value, Failure> {
    let all = all.lock().unwrap();
    let mut bundles: BTreeSet<String> = BTreeSet::new();
    let mut chains = 0;
    for (client, held) in &all.held {
        if held.end <= now() {
            continue;
        }
        bundles.insert(all.bundles[held.bundle].iter().map(pem).collect());
        if !held.chain.is_empty() {
            let text: String = held.chain.iter().map(pem).collect();
            std::fs::write(folder.join(format!("chain.{client}.pem")), text)?;
            chains += 1;
        }
    }
    for (number, bundle) in bundles.iter().enumerate() {
        let path: PathBuf = folder.join(format!("bundle.{number}.pem"));
        std::fs::write(path, bundle)?;
    }
    Ok(json!({"chains": chains, "bundles": bundles.len(), "at": now()}))
}

fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

/// Concatenated DER, one certificate after the other.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der)?;
        let (one, _) = der.split_at(der.len() - rest.len());
        all.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(all)
}

fn end_of(chain: &[u8]) -> Result<u64, Failure> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain)?;
    Ok(u64::try_from(leaf.validity().not_after.timestamp())?)
}

fn serial_of(der: &CertificateDer<'_>) -> Vec<u8> {
    let parsed = x509_parser::parse_x509_certificate(der);
    parsed.map_or(Vec::new(), |(_, certificate)| certificate.serial.to_bytes_be())
}

/// The attribute `serialNumber` of the issuer's name: our roots have their serial number there.
fn issuer_of(der: &CertificateDer<'_>) -> String {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else {
        return String::new();
    };
    let issuer = certificate.issuer().to_string();
    issuer
        .rsplit_once('=')
        .map_or(issuer.clone(), |(_, serial)| serial.to_owned())
}
