//! ca.toml: TOML -> raw -> typed, strict. Paths in it are relative to it. It fills each room's options; no room takes
//! the configuration whole.

mod endpoint;
mod reader;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use spiffe::TrustDomain;
use toml::Spanned;

use crate::audit::Target;
use crate::endpoint::{Options as EndpointOptions, Profile};
use crate::keys::PassphraseSource;
use crate::problem::Problem;
use crate::registration::{self, Host, Scope};
use crate::workload::{Limits, Socket};
use endpoint::{RawBundleEndpoint, RawOpenId};
pub use reader::svid_ttl;
use reader::{JWT_KEY_TTL, JWT_SVID_TTL, REFRESH_HINT, Reader};

const MAX_FILE: u64 = 1 << 20;
/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that the authority speaks for.
    pub trust_domain: TrustDomain,
    /// Where keys and state are kept.
    pub data_dir: PathBuf,
    /// With what the keys on the disk are encrypted; they are not without it.
    pub key_passphrase: Option<PassphraseSource>,
    /// The entries file.
    pub entries: PathBuf,
    /// Life of an SVID.
    pub svid_ttl: Duration,
    /// Life of a JWT-SVID.
    pub jwt_svid_ttl: Duration,
    /// Life of a new root.
    pub ca_ttl: Duration,
    /// Life of a new JWT signing key.
    pub jwt_key_ttl: Duration,
    /// How often those who poll the trust bundle shall come back.
    pub refresh_hint: Duration,
    /// Where operators speak with the running authority.
    pub admin_socket: PathBuf,
    /// The audit log, when there is one.
    pub audit: Option<Target>,
    /// Whether what cannot be written to the audit log is not done.
    pub audit_required: bool,
    /// The name of this machine, for identities.
    pub host: Host,
    /// What others fetch: the trust bundle, and the OpenID documents.
    pub endpoint: EndpointOptions,
    /// The Workload API's sockets; at least one.
    pub sockets: Vec<Socket>,
    /// The Workload API's limits.
    pub limits: Limits,
}

impl Config {
    /// What entries may name.
    pub fn scope(&self) -> Scope {
        Scope {
            trust_domain: Some(self.trust_domain.clone()),
            reserved: self.endpoint.own_id().cloned(),
            sockets: Some(self.sockets.iter().map(|socket| socket.name.clone()).collect()),
            host: self.host.clone(),
        }
    }

    /// The descriptors that all connections need which may be open at once.
    pub fn descriptors(&self) -> u64 {
        self.limits.descriptors() + self.endpoint.descriptors()
    }

    /// The same within so many descriptors: who comes when there are none left is refused, instead of keeping all others
    /// out. The endpoint, which is for everybody, gets a quarter at the most, so that workloads are served whoever comes.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        if self.descriptors() <= descriptors {
            return self;
        }
        let endpoint = self.endpoint.within(descriptors / 4);
        Self {
            limits: self
                .limits
                .within(descriptors.saturating_sub(endpoint.descriptors())),
            endpoint,
            ..self
        }
    }

    /// The `iss` of JWT-SVIDs, if they have one.
    pub fn issuer(&self) -> Option<String> {
        self.endpoint.openid.as_ref().map(|openid| openid.issuer.clone())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trust_domain: Spanned<String>,
    data_dir: Spanned<PathBuf>,
    key_passphrase_file: Option<Spanned<PathBuf>>,
    key_passphrase_credential: Option<Spanned<String>>,
    entries: Spanned<PathBuf>,
    svid_ttl: Option<Spanned<String>>,
    jwt_svid_ttl: Option<Spanned<String>>,
    ca_ttl: Option<Spanned<String>>,
    jwt_key_ttl: Option<Spanned<String>>,
    refresh_hint: Option<Spanned<String>>,
    admin_socket: Option<Spanned<PathBuf>>,
    audit: Option<Spanned<PathBuf>>,
    audit_required: Option<bool>,
    host: Option<Spanned<String>>,
    #[serde(default)]
    workload_api: Vec<Spanned<RawSocket>>,
    bundle_endpoint: Option<Spanned<RawBundleEndpoint>>,
    openid: Option<Spanned<RawOpenId>>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSocket {
    socket: Spanned<PathBuf>,
    name: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connections: Option<Spanned<u32>>,
    connections_per_uid: Option<Spanned<u32>>,
    streams_per_connection: Option<Spanned<u32>>,
    calls_per_second: Option<Spanned<u32>>,
    call_burst: Option<Spanned<u32>>,
}

/// Reads and checks ca.toml (not the entries file that it names).
///
/// # Errors
/// All that is wrong in it.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = read(path)?;
    parse(path, &text)
}

/// Checks a file of the authority, whichever of the two it is: ca.toml (with the entries file that it names) or an
/// entries file on its own (then without knowing trust domain and sockets).
///
/// # Errors
/// All that is wrong, with places.
pub fn check_file(path: &Path) -> Result<(), Vec<Problem>> {
    let text = read(path)?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|error| vec![Problem::toml(path, &text, &error).hint("this is not TOML")])?;
    if table.contains_key("entry") {
        return registration::check(path, &Scope::default(), None).map(|_| ());
    }
    if ["data_dir", "workload_api", "entries", "svid_ttl"]
        .iter()
        .any(|key| table.contains_key(*key))
    {
        let config = parse(path, &text)?;
        let mut problems = here(path, &text, &config);
        // Whoever checks need not be the user whom the authority runs as.
        let us = std::fs::metadata(&config.data_dir).map(|found| found.uid()).ok();
        if let Err(of_entries) = registration::check(&config.entries, &config.scope(), us) {
            problems.extend(of_entries);
        }
        return if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        };
    }
    Err(vec![Problem::whole(path, "this is neither a ca.toml nor an entries file").hint(
        "a ca.toml has `trust_domain`, `data_dir`, `entries` and [[workload_api]]; an entries file has [[entry]]",
    )])
}

/// What the machine must have for the paths of a good file. Serving finds it out by itself.
fn here(path: &Path, text: &str, config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let raw: Option<Raw> = toml::from_str(text).ok();
    let places = raw.iter().flat_map(|raw| &raw.workload_api);
    for (socket, place) in config.sockets.iter().zip(places) {
        if let Err(error) = socket.check() {
            let at = place.get_ref().socket.span().start;
            problems.push(Problem::at(path, text, at, error.to_string()).hint(error.hint()));
        }
    }
    if let (Some(place), Some(bundle)) = (
        raw.as_ref().and_then(|raw| raw.bundle_endpoint.as_ref()),
        &config.endpoint.bundle,
    ) && let Profile::Web(files) = &bundle.profile
        && let Err(error) = files.check()
    {
        problems.push(Problem::at(path, text, place.span().start, error.to_string()).hint(error.hint()));
    }
    let parent = config.data_dir.parent().unwrap_or(Path::new("/"));
    let fault = if !parent.is_dir() {
        Some("is in no directory that exists")
    } else if config.data_dir.exists() && !config.data_dir.is_dir() {
        Some("is not a directory")
    } else {
        None
    };
    if let (Some(fault), Some(raw)) = (fault, &raw) {
        let message = format!("`data_dir` {} {fault}", config.data_dir.display());
        let problem = Problem::at(path, text, raw.data_dir.span().start, message);
        problems.push(problem.hint(format!(
            "the authority makes it, but not what is above: mkdir -p {}",
            parent.display()
        )));
    }
    problems
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    let problem = |message: String| {
        let hint = "name the file that was meant; `hopguard config init DIR` writes a first set";
        vec![Problem::whole(path, message).hint(hint)]
    };
    let found = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(problem(format!(
            "it is not a plain file of at most {MAX_FILE} bytes"
        )));
    }
    std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))
}

fn parse(path: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let raw: Raw = toml::from_str(text).map_err(|error| {
        vec![Problem::toml(path, text, &error).hint("the configuration reference lists the keys of ca.toml")]
    })?;
    let mut reader = Reader::new(path, text);
    let trust_domain = reader.trust_domain(&raw.trust_domain);
    let svid_ttl = reader.svid_ttl(raw.svid_ttl.as_ref());
    let ca_ttl = reader.ca_ttl(raw.ca_ttl.as_ref(), svid_ttl);
    let jwt_svid_ttl = reader.within(raw.jwt_svid_ttl.as_ref(), &JWT_SVID_TTL);
    let jwt_key_ttl = reader.within(raw.jwt_key_ttl.as_ref(), &JWT_KEY_TTL);
    let refresh_hint = reader.within(raw.refresh_hint.as_ref(), &REFRESH_HINT);
    let host = reader.host(raw.host.as_ref());
    let sockets = reader.sockets(&raw.workload_api);
    let (bundle, openid) = (raw.bundle_endpoint.as_ref(), raw.openid.as_ref());
    let endpoint = reader.endpoint(bundle, openid, trust_domain.as_ref());
    let limits = reader.limits(&raw.limits);
    let (data_dir, entries) = (reader.file(&raw.data_dir), reader.file(&raw.entries));
    let key_passphrase = reader.passphrase(
        raw.key_passphrase_file.as_ref(),
        raw.key_passphrase_credential.as_ref(),
    );
    let admin_socket = match &raw.admin_socket {
        Some(path) => reader.file(path),
        None => data_dir.join("admin.sock"),
    };
    let audit = raw.audit.as_ref().map(|path| reader.audit(path));
    match trust_domain {
        Some(trust_domain) if reader.problems.is_empty() => Ok(Config {
            trust_domain,
            data_dir,
            key_passphrase,
            entries,
            svid_ttl,
            jwt_svid_ttl,
            ca_ttl,
            jwt_key_ttl,
            refresh_hint,
            admin_socket,
            audit,
            audit_required: raw.audit_required.unwrap_or(true),
            host,
            endpoint,
            sockets,
            limits,
        }),
        _ => Err(reader.problems),
    }
}

#[cfg(test)]
mod tests;
