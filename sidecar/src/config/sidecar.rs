//! `sidecar.toml`: the tree of the file enters, the settings of one sidecar as typed values leave, or every problem that
//! was found. The values themselves are read in `settings`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use spiffe::SpiffeId;

use crate::assertion::AssertionOptions;
use crate::observe::{JournalOutput, UserMode};

use super::document::{Document, Section, read_text};
use super::mesh::{Mesh, load_mesh};
use super::problem::ConfigProblem;
use super::settings::read;
use super::{shape, words};

/// The settings of one sidecar.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The service of the mesh that it stands beside.
    pub service: String,
    /// The mesh file.
    pub mesh: PathBuf,
    /// The folder of policies.
    pub policies: PathBuf,
    /// The folder of policies that are only watched.
    pub shadow_policies: Option<PathBuf>,
    /// The pod's own addresses; empty: all addresses of the interfaces but loopback.
    pub addresses: Vec<IpAddr>,
    /// Where its identity comes from.
    pub identity: SidecarIdentity,
    /// Connections that the application opens.
    pub outbound: Outbound,
    /// Connections to the application.
    pub inbound: Inbound,
    /// The signed statement for the application; `None`: there is none.
    pub assertion: Option<AssertionOptions>,
    /// How the redirect knows the sidecar's own traffic.
    pub traffic: Traffic,
    /// Where health and readiness are served.
    pub health: SocketAddr,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    /// The administration socket.
    pub admin: PathBuf,
    /// How many refusals it can explain.
    pub denials: usize,
    /// The records.
    pub log: Log,
    /// What may be taken.
    pub limits: Limits,
    /// Time for open requests and connections to end on SIGTERM.
    pub drain_timeout: Duration,
    /// The port at which the application's probes are relayed, if they are.
    pub probe_port: Option<u16>,
}

/// What the command line says beside the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The service, instead of the file's: one file then serves many sidecars.
    pub service: Option<String>,
    /// The port at which the application's probes are relayed.
    pub probe_port: Option<u16>,
}

/// Where the sidecar's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarIdentity {
    /// The Workload API as `unix:///path` or `tcp://IP:port`; `None`: the environment's `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_api: Option<String>,
    /// Which of several SVIDs is used.
    pub which: WhichSvid,
}

/// Which of several SVIDs is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichSvid {
    /// The first whose ID is one of the service's.
    OfTheService,
    /// The one with this ID.
    Id(SpiffeId),
    /// The one with this hint.
    Hint(String),
}

/// Connections that the application opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The port that redirected connections arrive at, on loopback.
    pub port: u16,
    /// What becomes of destinations outside the mesh.
    pub egress: Egress,
}

/// What becomes of destinations outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Refused.
    Deny,
    /// Passed on as they came, without protection.
    Plain,
}

/// Connections to the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The port that redirected connections arrive at.
    pub port: u16,
    /// The port of the mesh tunnels.
    pub hbone_port: u16,
    /// Time for the first bytes to show the protocol.
    pub detect_timeout: Duration,
    /// Server TLS for `public` ports.
    pub public: Option<PublicTls>,
}

/// Certificate and key for `public` ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicTls {
    /// PEM file with the chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// How the redirect knows the sidecar's own traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// `SO_MARK` of every socket that the sidecar opens.
    pub mark: Option<u32>,
    /// Whether readiness waits until the redirect is seen to work.
    pub probe: bool,
}

/// The records.
#[derive(Clone, Debug)]
pub struct Log {
    /// Where they go.
    pub output: JournalOutput,
    /// How users appear in them.
    pub user: UserMode,
    /// Whether they hold what their decision was made on.
    pub record_inputs: bool,
}

/// What may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Time for a request head to arrive whole.
    pub head_timeout: Duration,
    /// Idle time of a kept-alive HTTP connection.
    pub idle_timeout: Duration,
    /// Idle time of an opaque connection.
    pub opaque_idle_timeout: Duration,
    /// Time for a connect.
    pub connect_timeout: Duration,
    /// Age past which a tunnel takes no new stream.
    pub tunnel_max_age: Duration,
    /// Streams of one tunnel at once.
    pub streams_per_tunnel: usize,
}

impl Given {
    /// What the command line says wins, but a name in the file must be one.
    pub(super) fn service_of(&self, root: &Section<'_, '_>) -> Option<String> {
        let in_file = root.parsed("service", words::service_name);
        let Some(service) = &self.service else {
            if root.text("service").is_none() {
                root.document.add(
                    0..0,
                    "the key `service` is missing",
                    Some("add `service = \"shop/orders\"`, or give `hopguard sidecar --service`".to_owned()),
                );
            }
            return in_file.map(|at| at.value);
        };
        match words::service_name(service) {
            Ok(service) => Some(service),
            Err(wrong) => {
                root.document
                    .add(0..0, format!("--service: {}", wrong.message), Some(wrong.hint));
                None
            }
        }
    }
}

/// A sidecar's settings with the mesh that they name, checked against each other.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub sidecar: Sidecar,
    /// The mesh.
    pub mesh: Mesh,
}

/// Reads and checks a sidecar file alone.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_sidecar(path: &Path) -> Result<Sidecar, Vec<ConfigProblem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    parse_sidecar(path, &text)
}

/// The same for text that is at hand; `path` is for messages and relative paths.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn parse_sidecar(path: &Path, text: &str) -> Result<Sidecar, Vec<ConfigProblem>> {
    let document = Document::new(path, text);
    let sidecar = read(&document, text, &Given::default());
    finish(document, sidecar)
}

/// Reads and checks a sidecar file, the mesh file that it names, and the one against the other.
///
/// # Errors
/// Everything that is wrong with both.
pub fn load(path: &Path) -> Result<Loaded, Vec<ConfigProblem>> {
    load_given(path, &Given::default())
}

/// The same with what the command line says beside it.
///
/// # Errors
/// Everything that is wrong with both.
pub fn load_given(path: &Path, given: &Given) -> Result<Loaded, Vec<ConfigProblem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    let document = Document::new(path, &text);
    let Some(sidecar) = read(&document, &text, given) else {
        return Err(document.into_problems());
    };
    match load_mesh(&sidecar.mesh) {
        Ok(mesh) => {
            fits(&document, &text, &sidecar, &mesh);
            finish(document, Some(Loaded { sidecar, mesh }))
        }
        Err(of_the_mesh) => {
            let mut problems = document.into_problems();
            problems.extend(of_the_mesh);
            Err(problems)
        }
    }
}

fn finish<T>(document: Document, value: Option<T>) -> Result<T, Vec<ConfigProblem>> {
    let problems = document.into_problems();
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems),
    }
}

/// What one file cannot know of the other.
fn fits(document: &Document, text: &str, sidecar: &Sidecar, mesh: &Mesh) {
    let Some(root) = document.parse(text) else {
        return;
    };
    let section = Section::root(document, &root);
    let Some(service) = mesh.service(&sidecar.service) else {
        let span = section.text("service").map_or(0..0, |at| at.span);
        let names = mesh.services.iter().map(|service| service.name.as_str());
        let hint = match shape::nearest(&sidecar.service, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it as a [[service]] there, or name one that is there".to_owned(),
        };
        let message = format!(
            "the service `{}` is not in `{}`",
            sidecar.service,
            mesh.file.display()
        );
        document.add(span, message, Some(hint));
        return;
    };
    if let WhichSvid::Id(id) = &sidecar.identity.which
        && !service.spiffe_ids.contains(id)
    {
        let span = section
            .table("identity")
            .and_then(|identity| identity.text("spiffe_id"));
        document.add(
            span.map_or(0..0, |at| at.span),
            format!("`{id}` is not one of the `spiffe_ids` of `{}`", service.name),
            Some("its peers would refuse it: add it there, or take the key out".to_owned()),
        );
    }
    for port in service.ports.iter().map(|port| port.port) {
        if sidecar.ports().contains(&port) {
            let span = section.text("service").map_or(0..0, |at| at.span);
            document.add(
                span,
                format!(
                    "the port {port} of `{}` is one of this sidecar's own",
                    service.name
                ),
                Some("move the sidecar's listener or the application's".to_owned()),
            );
        }
    }
}

impl Sidecar {
    /// The ports that the sidecar itself listens on.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports = vec![
            self.outbound.port,
            self.inbound.port,
            self.inbound.hbone_port,
            self.metrics.port(),
            self.health.port(),
        ];
        ports.extend(self.assertion.as_ref().map(|assertion| assertion.port));
        ports.extend(self.probe_port);
        ports
    }
}

#[cfg(test)]
mod tests;
