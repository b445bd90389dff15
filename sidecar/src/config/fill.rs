//! From the mesh file to the options of other rooms: typed configuration enters, each room's own values leave. Nothing is
//! checked here again.

use std::path::PathBuf;

use super::{ConfigProblem, Loaded, Mesh, MeshClaimKind, MeshIssuer, read_policies};
use crate::authn::{Algorithm, ClaimKind, ClaimOptions, IssuerOptions};
use crate::authz::{
    self, GroupModel, HeaderModel, IssuerModel, Model, Policies, PolicyProblem, PortKind, RouteModel,
    ServiceModel,
};
use crate::request::DeclaredHeader;
use crate::services::{Mode, Protocol};

impl Mesh {
    /// The mesh as policies see it.
    pub fn authz_model(&self) -> Model {
        Model {
            trust_domain: self.trust_domain.as_str().to_owned(),
            services: self.services.iter().map(service_model).collect(),
            groups: self
                .groups
                .iter()
                .map(|group| GroupModel {
                    name: group.name.clone(),
                    patterns: group.patterns.clone(),
                })
                .collect(),
            issuers: self.issuers.iter().map(issuer_model).collect(),
            headers: self
                .headers
                .iter()
                .map(|header| HeaderModel {
                    name: header.cedar_name.clone(),
                    wire: header.name.clone(),
                    list: header.list,
                })
                .collect(),
        }
    }

    /// The request headers that policies may read, as a request's head gives them.
    pub fn declared_headers(&self) -> Vec<DeclaredHeader> {
        let read = self.headers.iter().map(|header| DeclaredHeader {
            cedar: header.cedar_name.clone(),
            name: header.name.clone(),
            list: header.list,
        });
        read.collect()
    }

    /// The issuers as the verifier of tokens takes them.
    pub fn issuer_options(&self) -> Vec<IssuerOptions> {
        let mut bind_claims: Vec<_> = Vec::new();
        for claim in self
            .services
            .iter()
            .flat_map(|service| service.tokens.bind_claims())
        {
            if !bind_claims.contains(claim) {
                bind_claims.push(claim.clone());
            }
        }
        let options = self.issuers.iter().map(issuer_options);
        options
            .map(|options| IssuerOptions {
                bind_claims: bind_claims.clone(),
                ..options
            })
            .collect()
    }

    /// What the decision finds wrong with the mesh as a whole: routes that are ambiguous, for example.
    pub(super) fn problem_of_the_model(&self) -> Option<ConfigProblem> {
        let error = authz::schema(&self.authz_model()).err()?;
        let hint = "policies could not be checked against it: change what is named";
        Some(ConfigProblem::whole(&self.file, error.to_string(), hint))
    }
}

impl Loaded {
    /// Reads the policy folder and checks it for the own service, as the sidecar does at start. Beside the policies comes
    /// what is not wrong with them but often a trap.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn policies(&self) -> Result<(Policies, Vec<ConfigProblem>), Vec<ConfigProblem>> {
        let files = read_policies(&self.sidecar.policies).map_err(|problem| vec![problem])?;
        let model = self.mesh.authz_model();
        let placed = |problem| self.policy_problem(&files, problem);
        match authz::load(&model, &files, &self.sidecar.service) {
            Ok(policies) => {
                let warnings = policies.warnings().iter().cloned().map(placed).collect();
                Ok((policies, warnings))
            }
            Err(problems) => Err(problems.into_iter().map(placed).collect()),
        }
    }

    fn policy_problem(&self, files: &[(PathBuf, String)], problem: PolicyProblem) -> ConfigProblem {
        let file = if problem.file.as_os_str().is_empty() {
            &self.mesh.file
        } else {
            &problem.file
        };
        match files.iter().find(|(path, _)| path == file) {
            Some((_, text)) if problem.line > 0 => {
                let span = problem.offset..problem.offset.saturating_add(problem.len);
                ConfigProblem::in_text((file, text), span, problem.message, problem.hint)
            }
            _ => ConfigProblem::at(file, None, (0, 0), problem.message, problem.hint),
        }
    }
}

fn service_model(service: &super::MeshService) -> ServiceModel {
    ServiceModel {
        name: service.name.clone(),
        ports: service
            .ports
            .iter()
            .map(|port| match port.protocol {
                Protocol::Http => (port.port, PortKind::Http),
                Protocol::Opaque => (port.port, PortKind::Opaque),
            })
            .collect(),
        routes: service
            .routes
            .iter()
            .map(|route| RouteModel {
                name: route.name.clone(),
                methods: route.methods.clone(),
                path: route.path.clone(),
                spellings: route.spellings,
            })
            .collect(),
        spiffe_ids: service.spiffe_ids.clone(),
        strict: service
            .ports
            .iter()
            .filter(|port| port.mode == Mode::Strict)
            .map(|port| port.port)
            .collect(),
        hosts: service.hosts.clone(),
    }
}

fn issuer_model(issuer: &MeshIssuer) -> IssuerModel {
    IssuerModel {
        alias: issuer.alias.clone(),
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.clone(),
        role_names: issuer.role_names.clone(),
        claims: issuer
            .claims
            .iter()
            .map(|claim| (claim.name.clone(), policy_kind(claim.kind)))
            .collect(),
    }
}

fn policy_kind(kind: MeshClaimKind) -> authz::ClaimKind {
    match kind {
        MeshClaimKind::String => authz::ClaimKind::String,
        MeshClaimKind::Strings => authz::ClaimKind::Strings,
        MeshClaimKind::Long => authz::ClaimKind::Long,
        MeshClaimKind::Bool => authz::ClaimKind::Bool,
    }
}

fn issuer_options(issuer: &MeshIssuer) -> IssuerOptions {
    // The names were checked against the same list; one that the verifier does not know is not allowed rather than guessed.
    let algorithms = Algorithm::ALL
        .iter()
        .copied()
        .filter(|algorithm| issuer.algorithms.contains(&algorithm.name()))
        .collect();
    IssuerOptions {
        kind: issuer.kind,
        introspection: issuer.introspection.clone(),
        alias: issuer.alias.clone(),
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.clone(),
        algorithms,
        jwks_uri: issuer.jwks_uri.clone(),
        ca_file: issuer.ca_file.clone(),
        allow_http_loopback: issuer.allow_http_loopback,
        leeway: issuer.leeway,
        roles: issuer.roles.clone(),
        bind_claims: Vec::new(),
        claims: issuer
            .claims
            .iter()
            .map(|claim| ClaimOptions {
                name: claim.name.clone(),
                path: claim.path.clone(),
                kind: token_kind(claim.kind),
            })
            .collect(),
    }
}

fn token_kind(kind: MeshClaimKind) -> ClaimKind {
    match kind {
        MeshClaimKind::String => ClaimKind::String,
        MeshClaimKind::Strings => ClaimKind::Strings,
        MeshClaimKind::Long => ClaimKind::Long,
        MeshClaimKind::Bool => ClaimKind::Bool,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::super::{ALGORITHMS, load, parse_mesh};
    use super::*;

    #[test]
    fn every_algorithm_that_may_be_configured_is_known_to_the_verifier_and_no_other() {
        let known: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
        assert_eq!(known, ALGORITHMS);
    }

    fn example() -> Loaded {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/local/sidecar.toml");
        load(Path::new(example)).unwrap()
    }

    #[test]
    fn the_policies_of_the_example_load() {
        assert_eq!(example().policies().unwrap().0.count(), 2);
    }

    #[test]
    fn problems_of_policies_come_in_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut loaded = example();
        loaded.sidecar.policies = dir.path().to_owned();
        let text = "@id(\"a\")\npermit(principal in Group::\"nobody\", action, resource);\n";
        std::fs::write(dir.path().join("a.cedar"), text).unwrap();
        let problems = loaded.policies().unwrap_err();
        assert_eq!(problems[0].file, dir.path().join("a.cedar"));
        assert_eq!(problems[0].line, 2, "{problems:?}");
        assert!(problems[0].message.contains("nobody"), "{problems:?}");
        loaded.sidecar.policies = dir.path().join("missing");
        assert!(
            loaded.policies().unwrap_err()[0]
                .message
                .contains("cannot be read")
        );
    }

    #[test]
    fn ambiguous_routes_are_refused_with_the_mesh_file() {
        let text = r#"
            trust_domain = "m.l"
            [[service]]
            name = "a/b"
            addresses = ["10.0.0.1"]
            spiffe_ids = ["spiffe://m.l/b"]
            port = [{ port = 80 }]
            route = [
                { name = "x", methods = ["GET"], path = "/a/{x}" },
                { name = "y", methods = ["GET"], path = "/{y}/b" },
            ]
        "#;
        let problems = parse_mesh(Path::new("mesh.toml"), text).unwrap_err();
        assert_eq!(problems[0].file, Path::new("mesh.toml"));
        assert!(problems[0].message.contains("ambiguous"), "{problems:?}");
    }

    #[test]
    fn what_is_configured_arrives() {
        let text = r#"
            trust_domain = "m.l"
            [[issuer]]
            alias = "corp"
            issuer = "https://idp"
            audiences = ["x"]
            algorithms = ["EdDSA"]
            leeway = "7s"
            role_names = ["clerk"]
            claims.tenant = { path = "t", type = "strings" }
            [headers]
            x_region = { name = "x-region" }
        "#;
        let mesh = parse_mesh(Path::new("mesh.toml"), text).unwrap();
        let issuer = mesh.issuer_options().remove(0);
        assert_eq!(issuer.algorithms, [Algorithm::EdDSA]);
        assert_eq!(issuer.leeway, Duration::from_secs(7));
        assert_eq!(issuer.claims[0].kind, ClaimKind::Strings);
        let model = mesh.authz_model();
        assert_eq!(model.issuers[0].role_names, ["clerk"]);
        assert_eq!(
            model.issuers[0].claims,
            [("tenant".to_owned(), authz::ClaimKind::Strings)]
        );
        assert_eq!(model.headers[0].name, "x_region");
    }
}
