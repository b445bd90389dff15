//! What the decision knows of the mesh, as configuration hands it over: plain values enter, nothing is checked here
//! (`world` does that, once, for the schema and for loading alike).

use spiffe::SpiffeId;

use crate::request::Spellings;

/// The mesh as policies see it; filled from `mesh.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The own trust domain, for example `mesh.local`.
    pub trust_domain: String,
    /// Every service of the mesh, not only the own one: one policy folder serves them all.
    pub services: Vec<ServiceModel>,
    /// Workload groups.
    pub groups: Vec<GroupModel>,
    /// Issuers of user tokens.
    pub issuers: Vec<IssuerModel>,
    /// Request headers that policies may read.
    pub headers: Vec<HeaderModel>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceModel {
    /// `namespace/name`.
    pub name: String,
    /// Its ports and what is spoken on them.
    pub ports: Vec<(u16, PortKind)>,
    /// Those that take mutual TLS alone.
    pub strict: Vec<u16>,
    /// The hosts that a request to it may name.
    pub hosts: Vec<String>,
    /// Its declared routes.
    pub routes: Vec<RouteModel>,
    /// The identities that it is expected to prove.
    pub spiffe_ids: Vec<SpiffeId>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// HTTP: decided once a request.
    Http,
    /// Any TCP: decided once a connection.
    Opaque,
}

/// One declared route. It becomes the action `"<service>#<name>"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteModel {
    /// Its name, unique in the service.
    pub name: String,
    /// The methods it answers to, at least one.
    pub methods: Vec<String>,
    /// Its template: `/tenants/{tenant}/orders/{id}`; a last `{**}` is the rest of the path, also nothing.
    pub path: String,
    /// What it lets into a path that is refused elsewhere.
    pub spellings: Spellings,
}

/// A named set of workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupModel {
    /// Its name.
    pub name: String,
    /// SPIFFE IDs; a segment `*` stands for one segment, a last `**` for one or more.
    pub patterns: Vec<String>,
}

/// One issuer of user tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerModel {
    /// Its short name; holds no `|`.
    pub alias: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// The audiences of which a token must name one.
    pub audiences: Vec<String>,
    /// The roles that policies may name.
    pub role_names: Vec<String>,
    /// The claims that policies may read, by the name that policies use.
    pub claims: Vec<(String, ClaimKind)>,
}

/// The type of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// One string.
    String,
    /// A set of strings.
    Strings,
    /// A 64-bit integer.
    Long,
    /// True or false.
    Bool,
}

/// A request header that policies read as `context.headers.NAME`, the set of all its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModel {
    /// The name in policies.
    pub name: String,
    /// The name on the wire.
    pub wire: String,
    /// Whether one value is a list with commas.
    pub list: bool,
}

/// The model itself is wrong: what `mesh.toml` says cannot be turned into a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A name that does not fit where it is used.
    #[error("{what} `{name}` {problem}")]
    Name {
        /// What is named, for example `service`.
        what: &'static str,
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that is there twice.
    #[error("{what} `{name}` is declared twice")]
    Twice {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A claim that two issuers declare with different types.
    #[error("claim `{name}` has two types; policies see the claims of all issuers as one record")]
    ClaimType {
        /// The claim's name in policies.
        name: String,
    },
    /// A route that is not a route.
    #[error("route `{route}` of service `{service}`: {problem}")]
    Route {
        /// The service's name.
        service: String,
        /// The route's name.
        route: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two routes that may match the same request, neither more specific than the other.
    #[error(
        "routes `{first}` and `{second}` of service `{service}` are ambiguous: {method} on `{example}` fits both"
    )]
    Ambiguous {
        /// The service's name.
        service: String,
        /// One route.
        first: String,
        /// The other route.
        second: String,
        /// The method that both have.
        method: String,
        /// A path that both match.
        example: String,
    },
    /// A group pattern that is not a pattern of SPIFFE IDs.
    #[error("pattern `{pattern}` of group `{group}`: {problem}")]
    Pattern {
        /// The group's name.
        group: String,
        /// The pattern as given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The service whose slice is asked for is not in the model.
    #[error("service `{name}` is not in the mesh file")]
    UnknownService {
        /// The name asked for.
        name: String,
    },
    /// The schema that was generated is not one: a bug of ours, named rather than hidden.
    #[error("the generated schema is not valid: {detail}")]
    Schema {
        /// Cedar's message.
        detail: String,
    },
}
