//! What only shows in a running sidecar: a file that may not take the place of the one in force, and services that meet where
//! their names lead. Each is told at its place in the file.

use std::path::Path;

use crate::config::document::{Document, Section, read_text};
use crate::config::problem::ConfigProblem;
use crate::services::ServicesError;

use super::Mesh;

/// Reads and checks a mesh file that is to take the place of `before`.
///
/// # Errors
/// Everything that is wrong with it, or what of it cannot change while the sidecar runs.
pub fn load_mesh_after(path: &Path, before: &Mesh) -> Result<Mesh, Vec<ConfigProblem>> {
    let mesh = super::load_mesh(path)?;
    if mesh.trust_domain == before.trust_domain {
        return Ok(mesh);
    }
    let text = read_text(path).map_err(|problem| vec![problem])?;
    let document = Document::new(path, &text);
    let root = document.parse(&text);
    let place = root.as_ref().and_then(|root| {
        let root = Section::root(&document, root);
        root.text("trust_domain").map(|at| at.span)
    });
    document.add(
        place.unwrap_or(0..0),
        format!(
            "the trust domain would change from `{}` to `{}` while the sidecar runs",
            before.trust_domain, mesh.trust_domain
        ),
        Some(
            "identities and open connections rest on it: change it back, or restart the sidecars of the mesh"
                .to_owned(),
        ),
    );
    drop(root);
    Err(document.into_problems())
}

impl Mesh {
    /// Why its services cannot be told apart, at the place of the one that came second.
    #[must_use]
    pub fn conflict(&self, error: &ServicesError) -> ConfigProblem {
        let line = self.lines.get(error.service()).copied().unwrap_or(0);
        let column = usize::from(line > 0);
        ConfigProblem::at(
            &self.file,
            None,
            (line, column),
            error.to_string(),
            Some(error.hint().to_owned()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_mesh;
    use crate::services::{Resolved, Table};

    #[test]
    fn services_that_meet_where_their_names_lead_are_told_at_their_line() {
        let text = "trust_domain = \"mesh.test\"\n\
            [[service]]\nname = \"a/one\"\nhosts = [\"one\"]\nspiffe_ids = [\"spiffe://mesh.test/one\"]\n\
            [[service.port]]\nport = 80\n\
            [[service]]\nname = \"a/two\"\nhosts = [\"two\"]\nspiffe_ids = [\"spiffe://mesh.test/two\"]\n\
            [[service.port]]\nport = 80\n";
        let mesh = parse_mesh(Path::new("mesh.toml"), text).unwrap();
        let mut resolved = Resolved::default();
        for host in ["one", "two"] {
            resolved.set(host, ["10.0.0.1".parse().unwrap()]);
        }
        let error = Table::new(mesh.services(), &resolved).unwrap_err();
        let said = mesh.conflict(&error).to_string();
        for part in [
            "mesh.toml:9:",
            "`a/one` and `a/two`",
            "10.0.0.1:80",
            "`two`",
            "(hint: ",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
