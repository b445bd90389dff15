//! Files that change while the sidecar runs: mesh file, policies, issuers' CA files. A good set is put in force whole; a
//! bad one changes nothing, and log, metrics and readiness say why.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::config::{ConfigProblem, Fingerprint, Mesh, load_mesh_after};
use crate::observe::KnownWorkloads;

use super::build;
use super::ready::State;

/// Time between two looks. Two that agree make a change, so that a file in the middle of being written is not taken for whole.
const LOOK: Duration = Duration::from_millis(200);
/// How long a good set waits for the keys of issuers that are new in it.
const KEYS: Duration = Duration::from_millis(500);
/// After a refused set the files are looked at afresh this often even when nothing changed: what they refer to may have.
const AGAIN: u32 = 50;

/// Looks until the process ends.
pub(super) async fn watch(state: Arc<State>) {
    // What was read at the start may have changed before anyone looked: the first look compares contents.
    let (mut in_force, mut first) = (None, true);
    let mut last = fingerprint(&state).await;
    let mut looks_since_refusal = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = fingerprint(&state).await;
        let settled = now == last;
        last.clone_from(&now);
        looks_since_refusal += 1;
        let again = state.refused() && looks_since_refusal >= AGAIN;
        if !settled || (in_force.as_ref() == Some(&now) && !again) {
            continue;
        }
        let reloading = Arc::clone(&state);
        // Parsing and validating a large set takes long enough to hold up everything else on this thread.
        let loaded = spawn_blocking(move || load(&reloading)).await;
        if fingerprint(&state).await != now {
            // Written once more while it was read: what was read may be half of each.
            continue;
        }
        in_force = Some(now);
        looks_since_refusal = 0;
        match loaded {
            Ok(Ok(set)) if first && set.is_in_force(&state) => {}
            Ok(Err(_)) if first && state.refused() => {}
            Ok(Ok(set)) => apply(&state, set).await,
            Ok(Err(trouble)) => refuse(&state, trouble),
            Err(error) => refuse(&state, format!("loading failed: {error}")),
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
        [Path::new(&state.sidecar.policies)],
    )
}

/// A set that was checked as far as files go.
struct Set {
    mesh: Arc<Mesh>,
    policies: Arc<crate::authz::Policies>,
}

impl Set {
    fn is_in_force(&self, state: &State) -> bool {
        let snapshot = state.ctx.current.load();
        snapshot.mesh.hash == self.mesh.hash && snapshot.policies.version() == self.policies.version()
    }
}

fn load(state: &State) -> Result<Set, String> {
    let sidecar = &state.sidecar;
    let in_force = Arc::clone(&state.ctx.current.load().mesh);
    let mesh = load_mesh_after(&sidecar.mesh, &in_force).map_err(|problems| lines(&problems))?;
    if mesh.service(&sidecar.service).is_none() {
        let file = sidecar.mesh.display();
        return Err(format!(
            "{file}: the own service `{}` is not in it any more (hint: rename it back, or restart)",
            sidecar.service
        ));
    }
    let policies = build::policies(sidecar, &mesh)?;
    Ok(Set {
        mesh: Arc::new(mesh),
        policies,
    })
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
    ctx.current.set_files(set.policies, set.mesh);
    state.files_taken();
}

fn refuse(state: &State, trouble: String) {
    state.ctx.metrics.config_reloaded("files", "refused");
    if state.files_refused(&trouble) {
        tracing::error!(%trouble, "changed files were refused; what was in force stays in force");
    }
}
