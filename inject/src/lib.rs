//! Puts a sidecar and a redirect beside the services of a Compose file or of Kubernetes manifests, and takes them out
//! again: texts enter, texts leave, with what was done and what was left alone. It reads and writes no file.
//!
//! What cannot be injected safely is refused, all or nothing: a stream in which one workload stays outside the mesh while
//! its operator believes otherwise would be worse than none.

pub mod compose;
mod diff;
pub mod kubernetes;
mod problem;
mod settings;
pub mod yaml;

pub use diff::unified;
pub use problem::{InjectError, Refusal};
pub use settings::{Redirect, Settings, SettingsError, WorkloadApi};

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Workloads that have a sidecar now, or have none any more.
    pub changed: Vec<Workload>,
    /// Workloads that were left as they are, and why.
    pub left: Vec<(String, String)>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// A workload with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Kind and name, as `Deployment/web`; of Compose, the service.
    pub name: String,
    /// Its service in the mesh, as `namespace/name`.
    pub service: String,
    /// The user that its sidecar runs as.
    pub uid: u32,
}

impl Report {
    /// Adds a note, once.
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
