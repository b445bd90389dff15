//! The JWT bundles as they come and go: news of the Workload API enter, the verifier of tokens takes them. Nobody is asked
//! unless the mesh has an issuer of JWT-SVIDs.

use std::sync::Arc;
use std::time::SystemTime;

use crate::authn::{IssuerKind, JwtBundles};
use crate::identity::{BundleNews, default_endpoint, watch_jwt_bundles};

use super::ready::State;

/// Follows the bundles until the process ends, from when they are first needed on.
pub(super) async fn keep(state: Arc<State>) {
    let mut changes = state.ctx.current.changes();
    while !needed(&state) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let endpoint = state.sidecar.identity.workload_api.clone();
    // Without an endpoint the sidecar did not start.
    let Some(endpoint) = endpoint.or_else(default_endpoint) else {
        return;
    };
    let authn = Arc::clone(&state.ctx.authn);
    let error = watch_jwt_bundles(endpoint, move |news| {
        authn.set_bundles(said(news), SystemTime::now());
    })
    .await;
    tracing::error!(%error, "no JWT bundles can come");
}

fn needed(state: &State) -> bool {
    let snapshot = state.ctx.current.load();
    let mut issuers = snapshot.mesh.issuers.iter();
    issuers.any(|issuer| issuer.kind == IssuerKind::JwtSvid)
}

fn said(news: BundleNews) -> JwtBundles {
    match news {
        BundleNews::All(bundles) => JwtBundles::All(bundles),
        BundleNews::Silent(reason) => JwtBundles::Silent(reason),
        BundleNews::Denied(reason) => JwtBundles::Denied(reason),
    }
}
