//! Why nothing was written.

use crate::yaml::YamlError;

/// Why nothing was written. The fault is the file's, or lies in what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// It is no YAML of the right kind.
    #[error(transparent)]
    Unreadable(#[from] YamlError),
    /// It is not what it was taken for.
    #[error("{0}")]
    NotThis(String),
    /// Workloads that cannot have a sidecar, with the reasons.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refusal>),
}

/// One reason why a workload cannot have a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{workload}: {path}: {reason}", place(*.line))]
pub struct Refusal {
    /// The line that its document begins in, from 1; 0 where the file has one document only.
    pub line: usize,
    /// Kind and name, or the service.
    pub workload: String,
    /// Where in the document.
    pub path: String,
    /// Why not, and what to do.
    pub reason: String,
}

fn place(line: usize) -> String {
    match line {
        0 => String::new(),
        line => format!("line {line}: "),
    }
}

/// Collects what is refused of one workload.
#[derive(Debug)]
pub(crate) struct Judge {
    line: usize,
    workload: String,
    refusals: Vec<Refusal>,
}

impl Judge {
    pub(crate) fn new(line: usize, workload: impl Into<String>) -> Self {
        Self {
            line,
            workload: workload.into(),
            refusals: Vec::new(),
        }
    }

    pub(crate) fn workload(&self) -> &str {
        &self.workload
    }

    pub(crate) fn refuse(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.refusals.push(Refusal {
            line: self.line,
            workload: self.workload.clone(),
            path: path.into(),
            reason: reason.into(),
        });
    }

    pub(crate) fn is_content(&self) -> bool {
        self.refusals.is_empty()
    }

    pub(crate) fn into_refusals(self) -> Vec<Refusal> {
        self.refusals
    }
}
