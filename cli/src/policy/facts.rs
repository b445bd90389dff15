//! `hopguard policy facts`: mesh file and policies enter, one JSON document for other programs leaves.

use std::path::Path;

use hopguard_sidecar::authz;

use super::{of_set, wrong};
use crate::ui::{Exit, Ui};

/// Prints the facts: always as JSON, with line breaks for people.
pub(super) fn run(mesh: &Path, dir: &Path, ui: &Ui) -> Exit {
    match of_set(mesh, dir, authz::describe) {
        Ok((facts, _)) if ui.is_json() => ui.json(&facts),
        Ok((facts, _)) => ui.line(format!("{facts:#}")),
        Err(problems) => return wrong(&problems, ui),
    }
    Exit::Done
}
