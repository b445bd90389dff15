//! The options of other rooms, filled from files: typed configuration enters, each room's own type leaves. It decides
//! nothing that the files do not say.

use std::time::Duration;

use spiffe::SpiffeId;

use crate::authn::{Algorithm, ClaimKind, ClaimOptions, IssuerOptions};
use crate::authz::{self, GroupModel, HeaderModel, IssuerModel, Model, PortKind, RouteModel, ServiceModel};
use crate::dial::DialOptions;
use crate::identity::Pick;
use crate::request::{self, DeclaredHeader};
use crate::services::Protocol;
use crate::tunnel::PoolOptions;

use super::issuer::{MeshClaim, MeshClaimKind, MeshIssuer};
use super::mesh::{Mesh, MeshService};
use super::problem::ConfigProblem;
use super::sidecar::{Sidecar, WhichSvid};

impl Mesh {
    /// The mesh as policies see it.
    pub fn authz_model(&self) -> Model {
        Model {
            trust_domain: self.trust_domain.to_string(),
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
                })
                .collect(),
        }
    }

    /// The issuers as the verifier of tokens takes them.
    pub fn issuers(&self) -> Vec<IssuerOptions> {
        self.issuers.iter().map(issuer_options).collect()
    }

    /// The headers that are read from requests for policies.
    pub fn declared_headers(&self) -> Vec<DeclaredHeader> {
        self.headers
            .iter()
            .map(|header| DeclaredHeader {
                cedar: header.cedar_name.clone(),
                name: header.name.clone(),
                list: header.list,
            })
            .collect()
    }

    /// What the decision finds wrong with the mesh as a whole: routes that are ambiguous, for example. `load_mesh` asks.
    pub(super) fn problem_of_the_model(&self) -> Option<ConfigProblem> {
        authz::schema(&self.authz_model()).err().map(|error| {
            ConfigProblem::whole(
                &self.file,
                error.to_string(),
                "change it so that policies can be checked against it",
            )
        })
    }
}

fn service_model(service: &MeshService) -> ServiceModel {
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
            })
            .collect(),
        spiffe_ids: service.spiffe_ids.clone(),
    }
}

fn issuer_model(issuer: &MeshIssuer) -> IssuerModel {
    IssuerModel {
        alias: issuer.alias.clone(),
        role_names: issuer.role_names.clone(),
        claims: issuer
            .claims
            .iter()
            .map(|claim| {
                let kind = match claim.kind {
                    MeshClaimKind::String => authz::ClaimKind::String,
                    MeshClaimKind::Strings => authz::ClaimKind::Strings,
                    MeshClaimKind::Long => authz::ClaimKind::Long,
                    MeshClaimKind::Bool => authz::ClaimKind::Bool,
                };
                (claim.name.clone(), kind)
            })
            .collect(),
    }
}

fn issuer_options(issuer: &MeshIssuer) -> IssuerOptions {
    IssuerOptions {
        alias: issuer.alias.clone(),
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.clone(),
        // Each is one of the registered names; a unit test holds that all of them are known.
        algorithms: issuer
            .algorithms
            .iter()
            .filter_map(|name| name.parse::<Algorithm>().ok())
            .collect(),
        jwks_uri: issuer.jwks_uri.clone(),
        ca_file: issuer.ca_file.clone(),
        allow_http_loopback: issuer.allow_http_loopback,
        leeway: issuer.leeway,
        roles: issuer.roles.clone(),
        claims: issuer.claims.iter().map(claim_options).collect(),
    }
}

fn claim_options(claim: &MeshClaim) -> ClaimOptions {
    ClaimOptions {
        name: claim.name.clone(),
        path: claim.path.clone(),
        kind: match claim.kind {
            MeshClaimKind::String => ClaimKind::String,
            MeshClaimKind::Strings => ClaimKind::Strings,
            MeshClaimKind::Long => ClaimKind::Long,
            MeshClaimKind::Bool => ClaimKind::Bool,
        },
    }
}

/// The longest that a request's target may be, in bytes (POLICY P23).
const TARGET_BYTES: usize = 8192;
/// How long a tunnel without a stream is kept.
const TUNNEL_IDLE: Duration = Duration::from_secs(60);

impl Sidecar {
    /// How the sidecar opens its own connections.
    pub fn dial(&self) -> DialOptions {
        DialOptions {
            mark: self.traffic.mark,
            timeout: self.limits.connect_timeout,
        }
    }

    /// How tunnels are pooled.
    pub fn pool(&self) -> PoolOptions {
        PoolOptions {
            dial: self.dial(),
            max_age: self.limits.tunnel_max_age,
            streams_per_tunnel: self.limits.streams_per_tunnel,
            idle: TUNNEL_IDLE,
        }
    }

    /// What a request's head may take.
    pub fn request_limits(&self) -> request::Limits {
        request::Limits {
            head_bytes: self.limits.head_bytes,
            headers: self.limits.headers,
            target_bytes: TARGET_BYTES.min(self.limits.head_bytes),
            // A path with `;` has two readings; no route asks for that yet.
            allow_semicolon: false,
        }
    }

    /// Which of several SVIDs is taken; `service` are the IDs of the own service.
    pub fn pick(&self, service: &[SpiffeId]) -> Pick {
        match &self.identity.which {
            WhichSvid::OfTheService => Pick::OneOf(service.to_vec()),
            WhichSvid::Id(id) => Pick::Id(id.clone()),
            WhichSvid::Hint(hint) => Pick::Hint(hint.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{ALGORITHMS, load, parse_mesh};
    use super::*;

    #[test]
    fn every_algorithm_that_may_be_configured_is_known_to_the_verifier() {
        for name in ALGORITHMS {
            assert_eq!(name.parse::<Algorithm>().unwrap().name(), name);
        }
        assert_eq!(ALGORITHMS.len(), Algorithm::ALL.len());
    }

    #[test]
    fn the_example_makes_a_schema_and_its_policies_load() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/local/sidecar.toml");
        let loaded = load(Path::new(example)).unwrap();
        let files = super::super::read_policies(&loaded.sidecar.policies).unwrap();
        let model = loaded.mesh.authz_model();
        let policies = authz::load(&model, &files, &loaded.sidecar.service);
        assert!(policies.is_ok(), "{:?}", policies.err());
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
        let issuer = &mesh.issuers()[0];
        assert_eq!(issuer.algorithms, [Algorithm::EdDSA]);
        assert_eq!(issuer.leeway, Duration::from_secs(7));
        assert_eq!(issuer.claims[0].kind, ClaimKind::Strings);
        let model = mesh.authz_model();
        assert_eq!(model.issuers[0].role_names, ["clerk"]);
        assert_eq!(
            model.issuers[0].claims,
            [("tenant".to_owned(), authz::ClaimKind::Strings)]
        );
        assert_eq!(mesh.declared_headers()[0].name, "x-region");
    }
}
