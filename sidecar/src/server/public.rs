//! The certificate of `public` ports: its files are looked at while the sidecar runs. A good pair is in force for the next
//! handshake; a bad one changes nothing, and log, status and readiness say why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use crate::config::{Fingerprint, PublicTls, read_public};
use crate::identity::readable;
use crate::tls::{PublicServer, public_server};

use super::ready::State;

/// Time between two looks. Two that agree make a change: certificate and key are seldom written at one moment.
const LOOK: Duration = Duration::from_millis(200);

/// Why a pair is not in force.
#[derive(Debug)]
pub(super) struct Unloaded {
    trouble: String,
    /// The machine cannot read it now; nothing is known to be wrong with it.
    shortage: bool,
    /// What it holds is not known, so that it is read again though nothing was written.
    unread: bool,
}

impl std::fmt::Display for Unloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.trouble)
    }
}

/// Reads the pair of files, each once: between two readings one could vanish.
///
/// # Errors
/// What is wrong with them, and what to do.
pub(super) fn load(files: &PublicTls) -> Result<PublicServer, Unloaded> {
    let (certificate, key) = read_public(files).map_err(|problem| Unloaded {
        trouble: problem.to_string(),
        shortage: problem.shortage,
        unread: problem.unread,
    })?;
    public_server((&files.certificate, &certificate), (&files.key, &key)).map_err(|error| Unloaded {
        trouble: format!(
            "{error} (hint: put a certificate chain, leaf first, and its unencrypted key in place, both in PEM form)"
        ),
        shortage: false,
        unread: false,
    })
}

/// Looks until the process ends, if the settings name files.
pub(super) async fn watch(state: Arc<State>) {
    let Some(files) = state.sidecar.inbound.public.clone() else {
        return;
    };
    let mut follower = Follower::new(files).await;
    loop {
        tokio::time::sleep(LOOK).await;
        match follower.look(load).await {
            None => {}
            Some(Ok(server)) => apply(&state, &follower.files, server),
            Some(Err(unloaded)) if unloaded.shortage => postpone(&state, &unloaded.trouble),
            Some(Err(unloaded)) => refuse(&state, unloaded.trouble),
        }
    }
}

/// Files that are looked at now and then.
struct Follower {
    files: PublicTls,
    /// The state that was read last; what was read at the start may have changed since.
    taken: Option<Fingerprint>,
    last: Fingerprint,
}

impl Follower {
    async fn new(files: PublicTls) -> Self {
        let last = look(&files).await;
        Self {
            files,
            taken: None,
            last,
        }
    }

    /// One look; what reading brought, when there is something to read.
    async fn look<F>(&mut self, load: F) -> Option<Result<PublicServer, Unloaded>>
    where
        F: FnOnce(&PublicTls) -> Result<PublicServer, Unloaded> + Send + 'static,
    {
        let now = look(&self.files).await;
        let settled = now == self.last;
        self.last.clone_from(&now);
        if !settled || self.taken.as_ref() == Some(&now) {
            return None;
        }
        let reading = self.files.clone();
        let loaded = spawn_blocking(move || load(&reading)).await;
        if look(&self.files).await != now {
            // Written once more while it was read.
            return None;
        }
        let loaded = loaded.unwrap_or_else(|error| {
            Err(Unloaded {
                trouble: format!("loading failed: {error}"),
                shortage: false,
                unread: true,
            })
        });
        let unread = matches!(&loaded, Err(unloaded) if unloaded.unread);
        self.taken = (!unread).then_some(now);
        Some(loaded)
    }
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
    if state.public_refused(trouble) {
        state
            .ctx
            .metrics
            .config_reloaded("public_certificate", "postponed");
        tracing::warn!(%trouble, "the certificate of public ports cannot be read for now, and is tried again; the one before stays");
    }
}

fn refuse(state: &State, trouble: String) {
    // What cannot be read is read again at every look, and counts once.
    if state.public_refused(&trouble) {
        state.ctx.metrics.config_reloaded("public_certificate", "refused");
        tracing::error!(%trouble, "the changed certificate of public ports was refused; the one before stays");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn unloaded(shortage: bool, unread: bool) -> Unloaded {
        Unloaded {
            trouble: "no".to_owned(),
            shortage,
            unread,
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_read_again_and_what_is_wrong_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = PublicTls {
            certificate: dir.path().join("public.pem"),
            key: dir.path().join("public.key"),
        };
        let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&files.key, private).unwrap();

        let mut follower = Follower::new(files.clone()).await;
        // At whichever of its steps reading fails, nothing is written, and the next look reads again.
        for _ in 0..3 {
            let short = follower.look(|_| Err(unloaded(true, true))).await.unwrap();
            assert!(short.unwrap_err().shortage);
            assert!(
                follower
                    .look(|_| Err(unloaded(false, true)))
                    .await
                    .unwrap()
                    .is_err()
            );
        }
        assert!(follower.look(load).await.unwrap().is_ok());
        assert!(follower.look(load).await.is_none(), "it is in force");

        let mut follower = Follower::new(files.clone()).await;
        assert!(
            follower
                .look(|_| Err(unloaded(false, false)))
                .await
                .unwrap()
                .is_err()
        );
        assert!(follower.look(load).await.is_none(), "nothing changed since");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = PublicTls {
            certificate: dir.path().join("public.pem"),
            key: dir.path().join("public.key"),
        };
        // Reading it fails with neither "missing" nor "denied".
        std::os::unix::fs::symlink(&files.certificate, &files.certificate).unwrap();
        let unloaded = load(&files).unwrap_err();
        assert!(unloaded.unread && !unloaded.shortage, "{unloaded}");
        std::fs::remove_file(&files.certificate).unwrap();
        std::fs::write(&files.certificate, "no certificate").unwrap();
        assert!(!load(&files).unwrap_err().unread);
    }
}
