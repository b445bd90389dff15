//! From the mesh file to the options of other rooms: typed configuration enters, each room's own values leave. Nothing is
//! checked here again.

use super::{Mesh, MeshClaimKind, MeshIssuer};
use crate::authn::{Algorithm, ClaimKind, ClaimOptions, IssuerOptions};
use crate::authz::{self, GroupModel, HeaderModel, IssuerModel, Model, PortKind, RouteModel, ServiceModel};
use crate::services::Protocol;

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
                })
                .collect(),
        }
    }

    /// The issuers as the verifier of tokens takes them.
    pub fn issuer_options(&self) -> Vec<IssuerOptions> {
        self.issuers.iter().map(issuer_options).collect()
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
        alias: issuer.alias.clone(),
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.clone(),
        algorithms,
        jwks_uri: issuer.jwks_uri.clone(),
        ca_file: issuer.ca_file.clone(),
        allow_http_loopback: issuer.allow_http_loopback,
        leeway: issuer.leeway,
        roles: issuer.roles.clone(),
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
