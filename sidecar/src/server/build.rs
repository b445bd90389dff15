//! From settings to rooms: what was loaded enters, the shared state of the process leaves, with nothing running yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

use crate::assertion::Signer;
use crate::authn::{Authenticator, AuthnOptions, Proofs};
use crate::authz::{Policies, PolicyProblem, load};
use crate::config::{Egress, Loaded, Mesh, Sidecar, read_policies};
use crate::dial::DialOptions;
use crate::flow::{Context, FlowOptions, Probe};
use crate::forward::http2::{Apps, Slots};
use crate::observe::{Denials, Journal, KnownWorkloads, Label, Metrics, UserLog};
use crate::request::Limits;
use crate::runtime::Drain;
use crate::services::{Resolver, ResolverOptions};
use crate::snapshot::Current;
use crate::tls::PublicServer;
use crate::tunnel::{Pool, PoolOptions};

use super::ready::State;
use super::{ServerError, public};

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
    let services = Resolver::new(mesh.services(), ResolverOptions::default())
        .map_err(|error| ServerError::Config(vec![mesh.conflict(&error)]))?;
    let authn = Authenticator::new(mesh.issuer_options(), AuthnOptions::new(dial.clone()))
        .map_err(ServerError::setting("issuer"))?;
    let First {
        policies,
        trouble,
        shadow_trouble,
    } = First::of(&sidecar, &mesh);
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
    let shown = shown_publicly(&sidecar)?;
    let options = options(&sidecar, dial, shown.as_ref());
    let users = UserLog::new(&sidecar.log.user);
    let denials = Denials::new(sidecar.denials);
    let (drain, probe) = (Drain::new(), Probe::default());
    let assertion = signer(&sidecar)?;
    let ctx = Context {
        current,
        services,
        pool,
        apps: Apps::default(),
        slots: Slots::new(super::descriptors::for_streams(sidecar.limits.connections)),
        authn,
        proofs: Proofs::new(),
        assertion,
        journal,
        metrics,
        users,
        denials,
        drain,
        probe,
        options,
    };
    let state = State::new(Arc::new(ctx), sidecar, trouble, shown);
    super::reload::tell_shadow(&state, shadow_trouble);
    Ok(state)
}

/// The policies to start with, and why it is not those of the files.
struct First {
    policies: Arc<Policies>,
    trouble: Option<String>,
    shadow_trouble: Option<String>,
}

impl First {
    fn of(sidecar: &Sidecar, mesh: &Mesh) -> Self {
        let (policies, trouble) = match first_policies(sidecar, mesh) {
            Ok(policies) => (policies, None),
            // A sidecar that does not start would leave its service without an answer that says why; one that denies does
            // not.
            Err(trouble) => (Policies::deny_all(), Some(trouble)),
        };
        if trouble.is_none() && policies.count() == 0 {
            tracing::warn!(folder = %sidecar.policies.display(), "{NO_POLICY}");
        }
        warn(&policies);
        let (shadow, shadow_trouble) = match shadow(sidecar, mesh) {
            Ok(shadow) => (shadow, None),
            Err(trouble) => (None, Some(trouble)),
        };
        Self {
            policies: Arc::new(policies.with_shadow(shadow)),
            trouble,
            shadow_trouble,
        }
    }
}

/// An empty set is a good one: it allows nothing. Nobody means that for long.
pub(super) const NO_POLICY: &str =
    "the policy folder holds no policy: everything is denied (hint: put a *.cedar file into it)";

fn signer(sidecar: &Sidecar) -> Result<Option<Arc<Signer>>, ServerError> {
    let Some(options) = sidecar.assertion.clone() else {
        return Ok(None);
    };
    let signer = Signer::new(options, SystemTime::now()).map_err(ServerError::setting("assertion"))?;
    Ok(Some(Arc::new(signer)))
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
        for asked in counters.introspections {
            metrics.introspections_total(Label::from(asked.alias), asked.result, asked.count);
        }
    });
}

/// The certificate for clients of `public` ports, when there is one.
fn shown_publicly(sidecar: &Sidecar) -> Result<Option<PublicServer>, ServerError> {
    let files = sidecar.inbound.public.as_ref();
    let loaded =
        files.map(|files| public::load(files).map_err(ServerError::setting("inbound.public_certificate")));
    loaded.transpose()
}

fn options(sidecar: &Sidecar, dial: DialOptions, public: Option<&PublicServer>) -> FlowOptions {
    let limits = &sidecar.limits;
    FlowOptions {
        service: Arc::from(sidecar.service.as_str()),
        own_ports: sidecar.ports(),
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
        public_tls: Arc::new(ArcSwapOption::new(
            public.map(|public| Arc::clone(&public.config)),
        )),
    }
}

fn first_policies(sidecar: &Sidecar, mesh: &Mesh) -> Result<Policies, String> {
    policies(sidecar, mesh).inspect_err(|trouble| {
        tracing::error!(%trouble, "no policy set could be loaded: every request is denied until one can");
    })
}

/// Reads and checks the policy folder against a mesh file.
fn policies(sidecar: &Sidecar, mesh: &Mesh) -> Result<Policies, String> {
    folder(&sidecar.policies, sidecar, mesh)
}

/// The same for the folder that is only watched, where there is one.
fn shadow(sidecar: &Sidecar, mesh: &Mesh) -> Result<Option<Arc<Policies>>, String> {
    let loaded = sidecar
        .shadow_policies
        .as_deref()
        .map(|path| folder(path, sidecar, mesh));
    Ok(loaded.transpose()?.map(Arc::new))
}

fn folder(path: &Path, sidecar: &Sidecar, mesh: &Mesh) -> Result<Policies, String> {
    let files = read_policies(path).map_err(|problem| problem.to_string())?;
    checked(&files, sidecar, mesh)
}

/// The files of a policy folder.
pub(super) type Files = Vec<(PathBuf, String)>;

/// Checks what was read against a mesh file.
///
/// # Errors
/// Every problem, a line each.
pub(super) fn checked(files: &Files, sidecar: &Sidecar, mesh: &Mesh) -> Result<Policies, String> {
    load(&mesh.authz_model(), files, &sidecar.service).map_err(|problems| lines(&problems))
}

/// Warns of what is often a trap in a set that comes in force.
pub(super) fn warn(policies: &Policies) {
    if !policies.warnings().is_empty() {
        let warnings = lines(policies.warnings());
        tracing::warn!(%warnings, "the policies may let pass what they should not (hint: `hopguard policy check` shows where)");
    }
}

/// As the problems of other files are told: the hint is marked as one. What Cedar finds once for each kind of request is one
/// mistake, and its remedy is told once.
fn lines(problems: &[PolicyProblem]) -> String {
    let mut told: Vec<(&PolicyProblem, String)> = Vec::new();
    let line = |problem| {
        let problem: &PolicyProblem = problem;
        let mut bare = problem.clone();
        let Some(hint) = bare.hint.take() else {
            return bare.to_string();
        };
        let again = told.iter().any(|(before, said)| {
            let here = (&before.file, before.line) == (&problem.file, problem.line);
            here && (before.offset == problem.offset || *said == hint)
        });
        if again {
            return bare.to_string();
        }
        let text = format!("{bare} (hint: {hint})");
        told.push((problem, hint));
        text
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_told_once() {
        let problem = |offset: usize, message: &str, hint: &str| PolicyProblem {
            file: "a.cedar".into(),
            offset,
            len: 1,
            line: 1 + offset / 100,
            column: 1 + offset % 100,
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let said = lines(&[
            problem(10, "one", "write a"),
            problem(10, "two", "write b"),
            problem(20, "three", "write a"),
            problem(30, "four", "write c"),
            problem(110, "five", "write a"),
        ]);
        assert_eq!(
            said,
            "a.cedar:1:11: one (hint: write a)\na.cedar:1:11: two\na.cedar:1:21: three\n\
             a.cedar:1:31: four (hint: write c)\na.cedar:2:11: five (hint: write a)"
        );
    }
}
