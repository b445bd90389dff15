//! The certificate of `public` ports: its files are looked at while the sidecar runs. A good pair is in force for the next
//! handshake; a bad one changes nothing, and log, status and readiness say why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use crate::config::{Fingerprint, PublicTls, check_public};
use crate::identity::readable;
use crate::tls::{PublicServer, public_server};

use super::ready::State;

/// Time between two looks. Two that agree make a change: certificate and key are seldom written at one moment.
const LOOK: Duration = Duration::from_millis(200);

/// Reads the pair of files.
///
/// # Errors
/// What is wrong with them, and what to do.
pub(super) fn load(files: &PublicTls) -> Result<PublicServer, String> {
    check_public(files).map_err(|problem| problem.to_string())?;
    public_server(&files.certificate, &files.key).map_err(|error| {
        format!("{error} (hint: put a certificate chain, leaf first, and its unencrypted key in place, both in PEM form)")
    })
}

/// Looks until the process ends, if the settings name files.
pub(super) async fn watch(state: Arc<State>) {
    let Some(files) = state.sidecar.inbound.public.clone() else {
        return;
    };
    let mut taken = None;
    let mut last = look(&files).await;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = look(&files).await;
        let settled = now == last;
        last.clone_from(&now);
        if !settled || taken.as_ref() == Some(&now) {
            continue;
        }
        let reading = files.clone();
        let read = move || (is_short(&reading), load(&reading));
        let loaded = spawn_blocking(read).await;
        if look(&files).await != now {
            // Written once more while it was read.
            continue;
        }
        // What could not be read for want of descriptors is read again, until it can be.
        let short = matches!(loaded, Ok((true, _)));
        taken = (!short).then_some(now);
        match loaded {
            Ok((_, Ok(server))) => apply(&state, &files, server),
            Ok((true, Err(trouble))) => postpone(&state, &trouble),
            Ok((false, Err(trouble))) => refuse(&state, trouble),
            Err(error) => refuse(&state, format!("loading failed: {error}")),
        }
    }
}

/// Whether the machine cannot read them now; nothing is known to be wrong with them.
fn is_short(files: &PublicTls) -> bool {
    check_public(files).is_err_and(|problem| problem.shortage)
}

async fn look(files: &PublicTls) -> Fingerprint {
    let files = files.clone();
    let looked =
        spawn_blocking(move || Fingerprint::of([files.certificate.as_path(), files.key.as_path()], []));
    looked.await.unwrap_or_default()
}

fn apply(state: &State, files: &PublicTls, server: PublicServer) {
    if server.not_after <= SystemTime::now() {
        let file = files.certificate.display();
        let ended = readable(server.not_after);
        return refuse(
            state,
            format!("{file}: the certificate expired at {ended} (hint: put a valid one in place)"),
        );
    }
    let (config, not_after) = (Arc::clone(&server.config), server.not_after);
    if state.public_taken(server) {
        state.ctx.options.public_tls.store(Some(config));
        state.ctx.metrics.config_reloaded("public_certificate", "ok");
        tracing::info!(not_after = %readable(not_after), "the certificate of public ports was reloaded");
    }
}

fn postpone(state: &State, trouble: &str) {
    state
        .ctx
        .metrics
        .config_reloaded("public_certificate", "postponed");
    if state.public_refused(trouble) {
        tracing::warn!(%trouble, "the certificate of public ports cannot be read for now, and is tried again; the one before stays");
    }
}

fn refuse(state: &State, trouble: String) {
    state.ctx.metrics.config_reloaded("public_certificate", "refused");
    if state.public_refused(&trouble) {
        tracing::error!(%trouble, "the changed certificate of public ports was refused; the one before stays");
    }
}
