//! Our own identity as it comes and goes: states of the Workload API client enter, the snapshot in force leaves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use tokio::task::JoinHandle;

use crate::config::WhichSvid;
use crate::identity::{
    Identity, IdentityError, IdentityState, Pick, WorkloadApiOptions, default_endpoint, readable, watch,
};
use crate::observe::Label;
use crate::tls::{MeshTls, TlsError};

use super::ServerError;
use super::ready::State;

/// Starts the client.
///
/// # Errors
/// No endpoint is configured.
pub(super) fn start(state: &Arc<State>) -> Result<JoinHandle<IdentityError>, ServerError> {
    let settings = &state.sidecar.identity;
    let endpoint = settings
        .workload_api
        .clone()
        .or_else(default_endpoint)
        .ok_or(ServerError::Setting {
            what: "identity.workload_api",
            detail: "not set, and neither is SPIFFE_ENDPOINT_SOCKET".to_owned(),
        })?;
    let pick = match &settings.which {
        WhichSvid::Id(id) => Pick::Id(id.clone()),
        WhichSvid::Hint(hint) => Pick::Hint(hint.clone()),
        WhichSvid::OfTheService => {
            let snapshot = state.ctx.current.load();
            let service = snapshot.mesh.service(&state.sidecar.service);
            Pick::OneOf(
                service
                    .map(|service| service.spiffe_ids.clone())
                    .unwrap_or_default(),
            )
        }
    };
    let state = Arc::clone(state);
    Ok(tokio::spawn(watch(
        WorkloadApiOptions { endpoint, pick },
        move |news| take(&state, news),
    )))
}

fn take(state: &State, news: IdentityState) {
    let ctx = &state.ctx;
    let identity = match news {
        IdentityState::Ready(identity) => identity,
        IdentityState::Waiting { reason } => {
            tracing::warn!(%reason, "waiting for an identity: no mesh traffic passes");
            return ctx.current.set_tls(Err(Arc::from(reason)));
        }
        IdentityState::Lost { reason } => {
            tracing::error!(%reason, "the identity is lost: no mesh traffic passes");
            ctx.metrics.svid_rotated("lost");
            ctx.pool.retire_all();
            return ctx.current.set_tls(Err(Arc::from(reason)));
        }
    };
    match MeshTls::new(Arc::clone(&identity)) {
        Ok(tls) if own_revoked(&tls, &identity) => {
            let reason = format!("the own certificate ({}) was revoked", identity.id);
            tracing::error!(%reason, "the identity is lost: no mesh traffic passes");
            ctx.metrics.svid_rotated("revoked");
            ctx.pool.retire_all();
            ctx.current.set_tls(Err(Arc::from(reason)));
        }
        Ok(tls) => {
            let tls = Arc::new(tls);
            ctx.current.set_tls(Ok(Arc::clone(&tls)));
            ctx.pool.adopt(&tls, SystemTime::now());
            ctx.metrics.svid_rotated("ok");
            ctx.metrics.svid_expiry(
                Label::from(Arc::<str>::from(identity.id.trust_domain_name())),
                identity.not_after,
            );
            ctx.metrics.bundle_expiry(bundle_ends(&identity));
            tracing::info!(spiffe_id = %identity.id, not_after = %readable(identity.not_after), "identity in force");
        }
        Err(error) => {
            // What is held goes on until it ends by itself.
            ctx.metrics.svid_rotated("unusable");
            tracing::error!(%error, "an identity came that cannot be used; the one before stays");
        }
    }
}

/// Whether we are on a list ourselves. No peer would have us: then we do not speak in that name either.
fn own_revoked(tls: &MeshTls, identity: &Identity) -> bool {
    let own = tls.recheck_client(&identity.chain, SystemTime::now());
    matches!(own, Err(TlsError::Revoked))
}

/// When the last authority of each trust domain ends: from then on nobody of it can be trusted.
fn bundle_ends(identity: &Identity) -> Vec<(Label, SystemTime)> {
    let end = |cert: &CertificateDer<'_>| {
        let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
        let seconds = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let bundles = identity.bundles.iter();
    bundles
        .filter_map(|(domain, roots)| {
            let last = roots.iter().filter_map(end).max()?;
            Some((Label::from(Arc::<str>::from(domain.as_str())), last))
        })
        .collect()
}
