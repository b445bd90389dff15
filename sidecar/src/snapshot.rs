//! What the workers decide with, as one immutable value behind one pointer: one writer, one generation, one load for a
//! decision. It holds state; it never fetches any.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::authz::Policies;
use crate::config::Mesh;
use crate::request::DeclaredHeader;
use crate::tls::MeshTls;

/// Everything that a decision reads.
pub struct Snapshot {
    /// Counts the changes; in every record, so that an answer can be matched with what it was decided on.
    pub generation: u64,
    /// Our identity as TLS configuration, or why there is none: without it no mesh traffic passes.
    pub tls: Result<Arc<MeshTls>, Arc<str>>,
    /// The policy set in force; one that denies everything until a set could be loaded.
    pub policies: Arc<Policies>,
    /// The mesh file in force.
    pub mesh: Arc<Mesh>,
    /// The headers that its policies may read.
    pub declared: Arc<[DeclaredHeader]>,
}

/// The snapshot in force.
pub struct Current {
    held: ArcSwap<Snapshot>,
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Current {
    /// Starts without an identity.
    pub fn new(policies: Arc<Policies>, mesh: Arc<Mesh>) -> Arc<Self> {
        let tls = Err(Arc::from("no identity has been received yet"));
        let first = Snapshot {
            generation: 0,
            tls,
            policies,
            declared: declared(&mesh),
            mesh,
        };
        Arc::new(Self {
            held: ArcSwap::from_pointee(first),
            writing: Mutex::new(()),
            changed: watch::Sender::new(0),
        })
    }

    /// The snapshot in force: one atomic load.
    pub fn load(&self) -> Arc<Snapshot> {
        self.held.load_full()
    }

    /// Puts another identity, or its absence, in force.
    pub fn set_tls(&self, tls: Result<Arc<MeshTls>, Arc<str>>) {
        self.change(|old| Snapshot {
            generation: old.generation + 1,
            tls,
            policies: Arc::clone(&old.policies),
            mesh: Arc::clone(&old.mesh),
            declared: Arc::clone(&old.declared),
        });
    }

    /// Puts another mesh file and the policies that were checked against it in force, together.
    pub fn set_files(&self, policies: Arc<Policies>, mesh: Arc<Mesh>) {
        let declared = declared(&mesh);
        self.change(|old| Snapshot {
            generation: old.generation + 1,
            tls: old.tls.clone(),
            policies,
            mesh,
            declared,
        });
    }

    /// Says to everything that is open that it must be decided again (an issuer's keys changed, say).
    pub fn touch(&self) {
        self.change(|old| Snapshot {
            generation: old.generation + 1,
            tls: old.tls.clone(),
            policies: Arc::clone(&old.policies),
            mesh: Arc::clone(&old.mesh),
            declared: Arc::clone(&old.declared),
        });
    }

    /// Notified with the generation at each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn change(&self, next: impl FnOnce(&Snapshot) -> Snapshot) {
        // Writers are few and on the control side; the lock only keeps two of them from losing one another's change.
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&self.held.load());
        let generation = next.generation;
        self.held.store(Arc::new(next));
        self.changed.send_replace(generation);
    }
}

fn declared(mesh: &Mesh) -> Arc<[DeclaredHeader]> {
    mesh.declared_headers().into()
}
