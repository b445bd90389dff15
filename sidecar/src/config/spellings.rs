//! What the routes of a service let into paths: tables of the mesh file enter, the spellings of each route leave.

use super::document::Section;
use super::mesh::{MeshService, choice};
use crate::request::Spellings;

/// Reads what a route lets into a path.
pub(super) fn spellings(route: &Section<'_, '_>) -> Spellings {
    let on = |key| route.boolean(key).is_some_and(|at| at.value);
    let slash = choice(route, "encoded_slash", &[("refuse", false), ("data", true)]);
    Spellings {
        encoded_slash: slash.unwrap_or_default(),
        merge_slashes: on("merge_slashes"),
        semicolon: on("allow_semicolon"),
        encoded_percent: on("encoded_percent"),
    }
}

impl MeshService {
    /// What a route lets into a path, by its name in decisions: `service#route`.
    pub fn spellings(&self, route: &str) -> Spellings {
        let name = route
            .strip_prefix(self.name.as_str())
            .and_then(|rest| rest.strip_prefix('#'));
        let known = self.routes.iter().find(|route| Some(route.name.as_str()) == name);
        known.map(|route| route.spellings).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{ConfigProblem, Mesh, parse_mesh};
    use crate::request::Spellings;

    fn parse(route: &str) -> Result<Mesh, Vec<ConfigProblem>> {
        let text = format!(
            "trust_domain = \"mesh.local\"\n\
             [[service]]\nname = \"shop/files\"\nhosts = [\"files\"]\n\
             spiffe_ids = [\"spiffe://mesh.local/ns/shop/sa/files\"]\n\
             [[service.port]]\nport = 8080\n\
             [[service.route]]\nname = \"plain\"\nmethods = [\"GET\"]\npath = \"/plain\"\n\
             [[service.route]]\nname = \"odd\"\nmethods = [\"GET\"]\npath = \"/files/{{**}}\"\n{route}"
        );
        parse_mesh(Path::new("mesh.toml"), &text)
    }

    #[test]
    fn a_route_allows_what_it_says_and_no_other_does() {
        let mesh = parse("encoded_slash = \"data\"\nallow_semicolon = true\nmerge_slashes = false").unwrap();
        let files = mesh.service("shop/files").unwrap();
        let allowed = Spellings {
            encoded_slash: true,
            semicolon: true,
            ..Spellings::default()
        };
        assert_eq!(files.spellings("shop/files#odd"), allowed);
        for other in ["shop/files#plain", "shop/other#odd", "odd", ""] {
            assert_eq!(files.spellings(other), Spellings::default(), "{other}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for (route, words) in [
            ("encoded_slash = true", "encoded_slash"),
            ("encoded_slash = \"separator\"", "`separator`"),
            ("merge_slashes = \"yes\"", "merge_slashes"),
        ] {
            let problems = parse(route).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem.to_string().contains(words)),
                "{problems:?}"
            );
        }
    }
}
