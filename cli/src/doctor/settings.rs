//! What the doctor needs to know of a sidecar: its files enter, the few settings that are looked at leave.

use std::path::Path;

use hopguard_sidecar::authn::IssuerOptions;
use hopguard_sidecar::config::{ConfigProblem, Loaded, WhichSvid, load};
use hopguard_sidecar::identity::default_endpoint;

/// The most problems of the files that are told; `hopguard config check` tells all.
const MAX_PROBLEMS: usize = 5;

/// What the doctor needs to know of a sidecar.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether a file was given: what would be no fault of a bare machine is one of a configured sidecar.
    pub configured: bool,
    /// The Workload API's endpoint; from the file, else from `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_api: Option<String>,
    /// The identities of which the sidecar takes one, with the words for them; `None`: any.
    pub wanted: Option<Wanted>,
    /// `SO_MARK` of the sidecar's sockets.
    pub mark: Option<u32>,
    /// The ports that the sidecar listens on, with what each is for.
    pub ports: Vec<(u16, &'static str)>,
    /// Where redirected outbound connections arrive.
    pub outbound_port: u16,
    /// Where redirected inbound connections arrive.
    pub inbound_port: u16,
    /// The most connections at once.
    pub connections: usize,
    /// The issuers of user tokens.
    pub issuers: Vec<IssuerOptions>,
}

/// Which SVIDs would do.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// One of these IDs.
    Ids(Vec<String>),
    /// One with this hint.
    Hint(String),
}

impl Default for Settings {
    /// A machine without a sidecar: the ports are the usual ones.
    fn default() -> Self {
        Self {
            configured: false,
            workload_api: default_endpoint(),
            wanted: None,
            mark: None,
            ports: vec![
                (15001, "outbound"),
                (15006, "inbound"),
                (15008, "HBONE"),
                (15020, "metrics"),
                (15021, "health"),
            ],
            outbound_port: 15001,
            inbound_port: 15006,
            connections: 20_000,
            issuers: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads a sidecar's file and the mesh file that it names.
    ///
    /// # Errors
    /// What is wrong with them, each with its place.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let loaded = load(path)
            .map_err(|problems| problems.iter().take(MAX_PROBLEMS).map(told).collect::<Vec<_>>())?;
        Ok(Self::of(&loaded))
    }

    fn of(loaded: &Loaded) -> Self {
        let Loaded { sidecar, mesh } = loaded;
        let wanted = match &sidecar.identity.which {
            WhichSvid::Id(id) => Some(Wanted::Ids(vec![id.to_string()])),
            WhichSvid::Hint(hint) => Some(Wanted::Hint(hint.clone())),
            WhichSvid::OfTheService => mesh
                .service(&sidecar.service)
                .map(|service| Wanted::Ids(service.spiffe_ids.iter().map(ToString::to_string).collect())),
        };
        Self {
            configured: true,
            workload_api: sidecar.identity.workload_api.clone().or_else(default_endpoint),
            wanted,
            mark: sidecar.traffic.mark,
            ports: vec![
                (sidecar.outbound.port, "outbound"),
                (sidecar.inbound.port, "inbound"),
                (sidecar.inbound.hbone_port, "HBONE"),
                (sidecar.metrics.port(), "metrics"),
                (sidecar.health.port(), "health"),
            ],
            outbound_port: sidecar.outbound.port,
            inbound_port: sidecar.inbound.port,
            connections: sidecar.limits.connections,
            issuers: mesh.issuer_options(),
        }
    }
}

fn told(problem: &ConfigProblem) -> String {
    let file = problem.file.display();
    match (problem.line, problem.column) {
        (0, _) => format!("{file}: {}", problem.message),
        (line, column) => format!("{file}:{line}:{column}: {}", problem.message),
    }
}
