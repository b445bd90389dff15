//! The table of services: declared services and what their names resolve to enter, and the answer to "which service, and
//! which identities must it prove, at this address and port" leaves. It never opens a connection, and never guesses: an
//! address and port that two services with different identities claim is an error, not a choice.

mod resolver;
mod table;

use std::net::IpAddr;
use std::sync::Arc;

use spiffe::SpiffeId;

pub use resolver::{Lookup, LookupFuture, ResolveProblem, Resolver, ResolverOptions};
pub use table::{Found, Resolved, ServicesError, Table};

/// A declared service of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// DNS names, in lower case without a trailing dot; also the names that an HTTP `Host` may carry.
    pub hosts: Vec<String>,
    /// Fixed addresses.
    pub addresses: Vec<IpAddr>,
    /// The identities of which the service must prove one.
    pub spiffe_ids: Arc<[SpiffeId]>,
    /// Its ports, each at most once.
    pub ports: Vec<Port>,
}

impl Service {
    /// The declared port with this number.
    pub fn port(&self, number: u16) -> Option<Port> {
        self.ports.iter().copied().find(|port| port.port == number)
    }
}

/// A declared port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The number.
    pub port: u16,
    /// What may be spoken on it.
    pub protocol: Protocol,
    /// Who may speak on it without a workload identity.
    pub mode: Mode,
    /// What the application behind an `http` port speaks.
    pub app: AppProtocol,
}

/// The version of HTTP that an application speaks to its own sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Requests go on in the version that they came by, if the application speaks it: it is asked.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, with prior knowledge (gRPC servers).
    Http2,
}

/// What a port is declared to speak; anything else is refused, never passed as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP, decided request by request.
    Http,
    /// Any TCP, decided connection by connection.
    Opaque,
}

impl Protocol {
    /// The name in configuration, records and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Opaque => "opaque",
        }
    }
}

/// Who may reach a port without a workload identity. The policy must still allow what it lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Mesh mTLS only.
    Strict,
    /// Plaintext too, counted and logged, with the principal `Plaintext`.
    Permissive,
    /// Plaintext and server TLS too, for clients that have no workload identity.
    Public,
}

impl Mode {
    /// The name in configuration, records and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Public => "public",
        }
    }
}
