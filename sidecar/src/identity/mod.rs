//! Who this workload is. A Workload API endpoint enters; an [`Identity`] (SVID, key, trust bundles) leaves, again at
//! every rotation, and [`IdentityState`] says when there is none; beside it the JWT bundles, as [`BundleNews`]. It never decides whether a peer is trusted (`tls`) nor
//! what it may do (`authz`), and it never merges the bundles of two trust domains.

mod backoff;
mod der;
mod describe;
mod endpoint;
mod jwt_bundles;
mod leaf;
mod lists;
mod message;
mod once;
mod proto;
mod value;
mod workload_api;

#[cfg(test)]
pub(crate) mod testing;

pub use describe::{Description, describe, readable};
pub use endpoint::default_endpoint;
pub use jwt_bundles::{BundleNews, watch_jwt_bundles};
pub use leaf::{Leaf, LeafProblem, leaf, parse_id};
pub use lists::RevocationList;
pub use message::Fetched;
pub use once::{FetchedToken, Wanted, fetch_jwt_bundles, fetch_tokens};
pub use value::{Bundles, Identity, Key};
pub use workload_api::{IdentityState, Pick, WorkloadApiOptions, fetch, watch};

/// Whose fault a failure is: the first question of any outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The other end of the connection.
    Peer,
    /// Whoever made the request.
    User,
    /// A setting or a file.
    Config,
    /// hopguard or the machine it runs on.
    Us,
}

/// Why no identity could be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The endpoint is none of the two forms of the SPIFFE Workload Endpoint, section 4.
    #[error(
        "`{endpoint}` is not a Workload API endpoint: {problem} (expected unix:///absolute/path or tcp://IP:port)"
    )]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody answers at the endpoint.
    #[error("cannot reach the Workload API at {endpoint}: {detail}")]
    Unreachable {
        /// As configured.
        endpoint: String,
        /// The system's words.
        detail: String,
    },
    /// The Workload API answered with an error.
    #[error("the Workload API at {endpoint} answered {code:?}: {detail}")]
    Refused {
        /// As configured.
        endpoint: String,
        /// The gRPC status.
        code: tonic::Code,
        /// The server's words, shortened.
        detail: String,
    },
    /// No message came in time.
    #[error("the Workload API at {endpoint} sent nothing in {seconds} s")]
    Silent {
        /// As configured.
        endpoint: String,
        /// How long we waited.
        seconds: u64,
    },
    /// A message that the standard does not allow; it is discarded whole.
    #[error("the Workload API sent a message that cannot be used: {0}")]
    BadMessage(String),
}

impl IdentityError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Endpoint { .. } => Blame::Config,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Silent { .. } | Self::BadMessage(_) => {
                Blame::Peer
            }
        }
    }
}
