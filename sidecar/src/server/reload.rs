//! Files that change while the sidecar runs: mesh file, policies, issuers' CA files. A good set is put in force whole; a
//! bad one changes nothing, and log, metrics and readiness say why. What the machine could not read is no bad one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;

use crate::authz::Policies;
use crate::config::{ConfigProblem, Fingerprint, Mesh, load_mesh_after, read_policies};
use crate::observe::KnownWorkloads;

use super::build::{self, Files};
use super::ready::State;

/// Time between two looks, and between two while a change has yet to come to rest.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(40);
/// How long a change must be past before it is taken, so that a file in the middle of being written is not taken for whole;
/// by the files' own times, and, where another machine's clock stamps them, by ours.
const REST: Duration = Duration::from_millis(150);
const REST_BY_OUR_CLOCK: Duration = Duration::from_millis(200);
/// How long a good set waits for the keys of issuers that are new in it.
const KEYS: Duration = Duration::from_millis(500);
/// How soon files that could not be read for want of descriptors are read again.
const SHORT: Duration = Duration::from_secs(1);
/// After a refused set the files are looked at afresh this often even when nothing changed: what they refer to may have.
const AGAIN: Duration = Duration::from_secs(10);

/// Looks until the process ends.
pub(super) async fn watch(state: Arc<State>) {
    // What was read at the start may have changed before anyone looked: the first look compares contents.
    let (mut in_force, mut first) = (None, true);
    let mut last = fingerprint(&state).await;
    let mut seen_first = Instant::now();
    let mut loaded_last = Instant::now();
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let now = fingerprint(&state).await;
        if let Some(trouble) = now.shortage() {
            postpone(&state, trouble);
            pause = SHORT;
            continue;
        }
        let agree = now == last;
        if !agree {
            seen_first = Instant::now();
            last.clone_from(&now);
        }
        let again = state.refused() && loaded_last.elapsed() >= AGAIN;
        if in_force.as_ref() == Some(&now) && !again {
            resume(&state);
            pause = LOOK;
            continue;
        }
        pause = LOOK_AGAIN;
        let rests = now.rests(SystemTime::now(), REST) || seen_first.elapsed() >= REST_BY_OUR_CLOCK;
        if !agree || !rests {
            continue;
        }
        let (reloading, seen) = (Arc::clone(&state), now.clone());
        // Parsing and validating a large set takes long enough to hold up everything else on this thread.
        let loaded = spawn_blocking(move || load(&reloading, &seen)).await;
        let loaded = match loaded {
            // Written once more while it was read: what was read may be half of each.
            Ok(None) => continue,
            Ok(Some(Err(Trouble::Short(trouble)))) => {
                postpone(&state, &trouble);
                pause = SHORT;
                continue;
            }
            Ok(Some(Err(Trouble::Bad(trouble)))) => Err(trouble),
            Ok(Some(Ok(set))) => Ok(set),
            Err(error) => Err(format!("loading failed: {error}")),
        };
        resume(&state);
        in_force = Some(now);
        loaded_last = Instant::now();
        match loaded {
            Ok(set) if first && set.is_in_force(&state) => {}
            Err(_) if first && state.refused() => {}
            Ok(set) => apply(&state, set).await,
            Err(trouble) => refuse(&state, trouble),
        }
        first = false;
    }
}

/// Has everything that is open decided again when an issuer's keys change.
pub(super) async fn follow_keys(state: Arc<State>) {
    let mut changes = state.ctx.authn.changes();
    while changes.changed().await.is_ok() {
        state.ctx.current.touch();
    }
}

async fn fingerprint(state: &Arc<State>) -> Fingerprint {
    let state = Arc::clone(state);
    spawn_blocking(move || look(&state)).await.unwrap_or_default()
}

fn look(state: &State) -> Fingerprint {
    let mesh = &state.ctx.current.load().mesh;
    let mut files: Vec<PathBuf> = vec![state.sidecar.mesh.clone()];
    files.extend(
        mesh.issuer_options()
            .into_iter()
            .filter_map(|issuer| issuer.ca_file),
    );
    Fingerprint::of(
        files.iter().map(PathBuf::as_path),
        [
            Some(&state.sidecar.policies),
            state.sidecar.shadow_policies.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path),
    )
}

/// A set that was checked as far as files go.
struct Set {
    mesh: Arc<Mesh>,
    policies: Arc<Policies>,
    /// Why the shadow set is still the one before.
    shadow_trouble: Option<String>,
}

impl Set {
    fn is_in_force(&self, state: &State) -> bool {
        let snapshot = state.ctx.current.load();
        let shadow = |policies: &Policies| policies.shadow().map(|shadow| shadow.version().to_owned());
        snapshot.mesh.hash == self.mesh.hash
            && snapshot.policies.version() == self.policies.version()
            && shadow(&snapshot.policies) == shadow(&self.policies)
    }
}

/// Why a set is not taken.
enum Trouble {
    /// Something is wrong with it.
    Bad(String),
    /// It could not be read, for a reason that passes and that is not the set's.
    Short(String),
}

impl From<Vec<ConfigProblem>> for Trouble {
    fn from(problems: Vec<ConfigProblem>) -> Self {
        let short: Vec<ConfigProblem> = problems
            .iter()
            .filter(|problem| problem.shortage)
            .cloned()
            .collect();
        if short.is_empty() {
            Self::Bad(lines(&problems))
        } else {
            Self::Short(lines(&short))
        }
    }
}

/// Reads everything; `None` when it was changed meanwhile, so that what was read may be part of the one and part of the
/// other. What takes its time, the checking, comes after that.
fn load(state: &State, seen: &Fingerprint) -> Option<Result<Set, Trouble>> {
    let sidecar = &state.sidecar;
    let in_force = Arc::clone(&state.ctx.current.load().mesh);
    let mesh = load_mesh_after(&sidecar.mesh, &in_force).map_err(Trouble::from);
    let files = |path: &Path| read_policies(path).map_err(|problem| Trouble::from(vec![problem]));
    let policies = files(&sidecar.policies);
    let shadow = match sidecar.shadow_policies.as_deref().map(files) {
        Some(Err(Trouble::Short(trouble))) => return Some(Err(Trouble::Short(trouble))),
        Some(Err(Trouble::Bad(trouble))) => Some(Err(trouble)),
        Some(Ok(files)) => Some(Ok(files)),
        None => None,
    };
    let now = look(state);
    if let Some(trouble) = now.shortage() {
        return Some(Err(Trouble::Short(trouble.to_owned())));
    }
    (now == *seen).then(|| checked(state, mesh?, &policies?, shadow).map_err(Trouble::Bad))
}

fn checked(
    state: &State,
    mesh: Mesh,
    policies: &Files,
    shadow: Option<Result<Files, String>>,
) -> Result<Set, String> {
    let sidecar = &state.sidecar;
    if mesh.service(&sidecar.service).is_none() {
        let file = sidecar.mesh.display();
        return Err(format!(
            "{file}: the own service `{}` is not in it any more (hint: rename it back, or restart)",
            sidecar.service
        ));
    }
    let policies = build::checked(policies, sidecar, &mesh)?;
    let shadow = shadow.map(|files| build::checked(&files?, sidecar, &mesh));
    let (shadow, shadow_trouble) = match shadow.transpose() {
        Ok(shadow) => (shadow.map(Arc::new), None),
        // A set that is only watched holds up none that decides.
        Err(trouble) => (state.ctx.current.load().policies.shadow().cloned(), Some(trouble)),
    };
    Ok(Set {
        mesh: Arc::new(mesh),
        policies: Arc::new(policies.with_shadow(shadow)),
        shadow_trouble,
    })
}

/// Says what became of the shadow set.
pub(super) fn tell_shadow(state: &State, trouble: Option<String>) {
    if state.sidecar.shadow_policies.is_none() {
        return;
    }
    let result = if trouble.is_some() { "refused" } else { "ok" };
    state.ctx.metrics.config_reloaded("shadow_policies", result);
    if state.shadow_seen(trouble.as_deref()) {
        let trouble = trouble.unwrap_or_default();
        tracing::error!(%trouble, "shadow policies were refused; what decides is not touched, and the ones before are still watched");
    } else if let Some(shadow) = state.ctx.current.load().policies.shadow() {
        tracing::info!(
            policies = shadow.count(),
            version = shadow.version(),
            "shadow policies are watched"
        );
    }
}

fn lines(problems: &[ConfigProblem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Puts a set in force, once everything in it was found usable.
async fn apply(state: &State, set: Set) {
    let ctx = &state.ctx;
    let issuers = match ctx.authn.prepare(set.mesh.issuer_options()) {
        Ok(issuers) => issuers,
        Err(error) => return refuse(state, format!("{}: {error}", state.sidecar.mesh.display())),
    };
    issuers.with_keys(KEYS).await;
    if let Err(error) = ctx.services.reconfigure(set.mesh.services()) {
        return refuse(state, set.mesh.conflict(&error).to_string());
    }
    ctx.authn.commit(issuers);
    ctx.metrics
        .set_known(KnownWorkloads::new(set.mesh.known_workloads()));
    ctx.metrics.forget_issuers();
    ctx.metrics
        .config_info(&set.mesh.hash, set.policies.version(), env!("CARGO_PKG_VERSION"));
    ctx.metrics.config_reloaded("files", "ok");
    tracing::info!(policies = set.policies.count(), version = set.policies.version(), mesh = %set.mesh.hash, "files reloaded");
    if set.policies.count() == 0 {
        tracing::warn!(folder = %state.sidecar.policies.display(), "{}", build::NO_POLICY);
    }
    build::warn(&set.policies);
    ctx.current.set_files(set.policies, set.mesh);
    state.files_taken();
    tell_shadow(state, set.shadow_trouble);
}

/// Files that cannot be read for a reason that is not theirs are nobody's mistake: they are read again until they can be.
fn postpone(state: &State, trouble: &str) {
    state.ctx.metrics.config_reloaded("files", "postponed");
    if state.files_postponed(true) {
        tracing::warn!(%trouble, "files cannot be read for now; what was in force stays in force, and they are tried again");
    }
}

fn resume(state: &State) {
    if state.files_postponed(false) {
        tracing::info!("files can be read again");
    }
}

fn refuse(state: &State, trouble: String) {
    state.ctx.metrics.config_reloaded("files", "refused");
    if state.files_refused(&trouble) {
        tracing::error!(%trouble, "changed files were refused; what was in force stays in force");
    }
}
