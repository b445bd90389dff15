//! From settings to rooms: what was loaded enters, the shared state of the process leaves, with nothing running yet.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::authn::{Authenticator, AuthnOptions};
use crate::authz::{Policies, PolicyProblem, load};
use crate::config::{Egress, Loaded, Mesh, Sidecar, read_policies};
use crate::dial::DialOptions;
use crate::flow::{Context, FlowOptions, Probe};
use crate::observe::{Denials, Journal, KnownWorkloads, Label, Metrics, UserLog};
use crate::request::Limits;
use crate::runtime::Drain;
use crate::services::{Resolver, ResolverOptions};
use crate::snapshot::Current;
use crate::tls::public_server;
use crate::tunnel::{Pool, PoolOptions};

use super::ServerError;
use super::ready::State;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A tunnel without streams is closed after this: well below what connection tracking and address reuse allow.
const TUNNEL_IDLE: Duration = Duration::from_secs(90);

/// Builds every room.
///
/// # Errors
/// What only shows when a setting is used.
pub(super) fn build(loaded: Loaded) -> Result<Arc<State>, ServerError> {
    let Loaded { sidecar, mesh } = loaded;
    let mesh = Arc::new(mesh);
    let metrics = Metrics::new();
    let journal = Journal::start(&sidecar.log.output, metrics.dropped_records())
        .map_err(ServerError::system("log.output"))?;
    let dial = DialOptions {
        mark: sidecar.traffic.mark,
        timeout: sidecar.limits.connect_timeout,
    };
    dial.check()
        .map_err(ServerError::system("traffic.mark needs CAP_NET_ADMIN"))?;
    let services =
        Resolver::new(mesh.services(), ResolverOptions::default()).map_err(ServerError::setting("mesh"))?;
    let authn = Authenticator::new(mesh.issuer_options(), AuthnOptions::new(dial.clone()))
        .map_err(ServerError::setting("issuer"))?;
    let (policies, trouble) = match first_policies(&sidecar, &mesh) {
        Ok(policies) => (policies, None),
        // A sidecar that does not start would leave its service without an answer that says why; one that denies does not.
        Err(trouble) => (Arc::new(Policies::deny_all()), Some(trouble)),
    };
    feed(&metrics, &authn);
    metrics.set_known(KnownWorkloads::new(mesh.known_workloads()));
    metrics.config_info(&mesh.hash, policies.version(), env!("CARGO_PKG_VERSION"));
    let current = Current::new(policies, Arc::clone(&mesh));
    let pool = Pool::new(PoolOptions {
        dial: dial.clone(),
        max_age: sidecar.limits.tunnel_max_age,
        streams_per_tunnel: sidecar.limits.streams_per_tunnel,
        idle: TUNNEL_IDLE,
    });
    let options = options(&sidecar, dial)?;
    let users = UserLog::new(&sidecar.log.user);
    let denials = Denials::new(sidecar.denials);
    let (drain, probe) = (Drain::new(), Probe::default());
    let ctx = Context {
        current,
        services,
        pool,
        authn,
        journal,
        metrics,
        users,
        denials,
        drain,
        probe,
        options,
    };
    Ok(State::new(Arc::new(ctx), sidecar, trouble))
}

/// What is counted elsewhere is told at each scrape.
fn feed(metrics: &Arc<Metrics>, authn: &Arc<Authenticator>) {
    let authn = Arc::clone(authn);
    metrics.on_scrape(move |metrics| {
        for issuer in authn.status(SystemTime::now()) {
            metrics.jwks_age(
                Label::from(Arc::<str>::from(issuer.alias)),
                issuer.age.map(Duration::from_secs),
            );
        }
        let counters = authn.counters();
        for token in counters.tokens {
            metrics.token_checks_total(Label::from(token.alias), token.result, token.cached, token.count);
        }
        for fetch in counters.fetches {
            metrics.jwks_fetches_total(Label::from(fetch.alias), fetch.result, fetch.count);
        }
    });
}

/// The ports that are ours: nothing is ever forwarded to them.
fn own_ports(sidecar: &Sidecar) -> Vec<u16> {
    vec![
        sidecar.outbound.port,
        sidecar.inbound.port,
        sidecar.inbound.hbone_port,
        sidecar.health.port(),
        sidecar.metrics.port(),
    ]
}

fn options(sidecar: &Sidecar, dial: DialOptions) -> Result<FlowOptions, ServerError> {
    let public_tls = match &sidecar.inbound.public {
        Some(files) => Some(
            public_server(&files.certificate, &files.key)
                .map_err(ServerError::setting("inbound.public_certificate"))?,
        ),
        None => None,
    };
    let limits = &sidecar.limits;
    Ok(FlowOptions {
        service: Arc::from(sidecar.service.as_str()),
        own_ports: own_ports(sidecar),
        hbone_port: sidecar.inbound.hbone_port,
        egress_plain: sidecar.outbound.egress == Egress::Plain,
        dial,
        detect_timeout: sidecar.inbound.detect_timeout,
        handshake_timeout: HANDSHAKE,
        limits: Limits {
            head_bytes: limits.head_bytes,
            headers: limits.headers,
            ..Limits::default()
        },
        head_timeout: limits.head_timeout,
        idle_timeout: limits.idle_timeout,
        opaque_idle: limits.opaque_idle_timeout,
        tunnel_max_age: limits.tunnel_max_age,
        streams_per_tunnel: u32::try_from(limits.streams_per_tunnel).unwrap_or(u32::MAX),
        drain_timeout: sidecar.drain_timeout,
        record_inputs: sidecar.log.record_inputs,
        public_tls,
    })
}

fn first_policies(sidecar: &Sidecar, mesh: &Mesh) -> Result<Arc<Policies>, String> {
    policies(sidecar, mesh).inspect_err(|trouble| {
        tracing::error!(%trouble, "no policy set could be loaded: every request is denied until one can");
    })
}

/// Reads and checks the policy folder against a mesh file.
///
/// # Errors
/// Every problem, a line each.
pub(super) fn policies(sidecar: &Sidecar, mesh: &Mesh) -> Result<Arc<Policies>, String> {
    let files = read_policies(&sidecar.policies).map_err(|problem| problem.to_string())?;
    match load(&mesh.authz_model(), &files, &sidecar.service) {
        Ok(policies) => Ok(Arc::new(policies)),
        Err(problems) => Err(lines(&problems)),
    }
}

/// As the problems of other files are told: the hint is marked as one.
fn lines(problems: &[PolicyProblem]) -> String {
    let line = |problem: &PolicyProblem| {
        let mut problem = problem.clone();
        match problem.hint.take() {
            Some(hint) => format!("{problem} (hint: {hint})"),
            None => problem.to_string(),
        }
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}
