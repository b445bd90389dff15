//! Every tunnel that this side opened and that still lives, pooled or not. A new own identity enters; what its bundles no
//! longer trust is cut. It never opens anything and keeps nothing alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::connect::Tunnel;
use super::life::{End, Life};
use crate::tls::{MeshTls, TlsError};

/// The living tunnels, and the identity that they were last checked under.
#[derive(Debug, Default)]
pub(super) struct Registry {
    living: Mutex<Vec<Living>>,
    newest: Mutex<Option<Arc<MeshTls>>>,
    /// Of `newest`, for a look without the lock.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Living {
    life: Weak<Life>,
    /// What the peer presented.
    chain: Vec<CertificateDer<'static>>,
}

impl Registry {
    pub(super) fn count(&self) -> usize {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living
            .iter()
            .filter(|living| living.life.strong_count() > 0)
            .count()
    }

    /// Takes in a new tunnel, and checks it if the identity changed while it was made.
    pub(super) fn watch_over(&self, tunnel: &Tunnel, tls: &MeshTls, now: SystemTime) {
        let made = Living {
            life: Arc::downgrade(&tunnel.life),
            chain: tunnel.chain.clone(),
        };
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = newest
            .as_ref()
            .filter(|newest| newest.generation() > tls.generation())
        {
            made.recheck(newest, now);
        }
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.retain(|living| living.life.strong_count() > 0);
        living.push(made);
    }

    /// Takes in a new identity: calls `retire`, and checks every tunnel. Does nothing for one that is not new.
    pub(super) fn adopt(&self, tls: &Arc<MeshTls>, now: SystemTime, retire: impl FnOnce()) {
        let generation = tls.generation();
        if self.generation.fetch_max(generation, Ordering::AcqRel) >= generation {
            return;
        }
        // Held until the end, so that a tunnel that is just being made is checked here or there.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest
            .as_ref()
            .is_some_and(|newest| newest.generation() >= generation)
        {
            return;
        }
        *newest = Some(Arc::clone(tls));
        retire();
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.retain(|living| living.recheck(tls, now));
    }
}

impl Living {
    /// Whether the tunnel lives on.
    fn recheck(&self, tls: &MeshTls, now: SystemTime) -> bool {
        // One that has ended by itself may still be held by the pool.
        let Some(life) = self.life.upgrade().filter(|life| life.ended().is_none()) else {
            return false;
        };
        match tls.recheck_server(&self.chain, now) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "tunnel cut: its peer is no longer trusted");
                life.end(match error {
                    TlsError::Revoked => End::Revoked,
                    other => End::Untrusted(other.to_string()),
                });
                false
            }
        }
    }
}
