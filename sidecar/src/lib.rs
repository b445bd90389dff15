//! The sidecar: interception, mesh mTLS, user tokens and the decision on every hop.
//!
//! One connection reads top to bottom; each stage consumes the previous stage's value and returns the next one, so an
//! unauthenticated connection cannot be forwarded: the value that forwarding needs does not exist yet.
//!
//! ```text
//!  intercept   accept, original destination                    -> Accepted
//!  detect      first bytes -> protocol (pure)                  -> Tls | Http1 | Http2 | Other
//!  tls         mesh handshake, peer's SVID checked             -> Secured
//!  detect      inside the tunnel, against what the port is     -> Http1 | Http2 | Opaque | refused
//!  authn       peer + user token                               -> Caller     ) once a request when HTTP,
//!  authz       decide(policy, facts) (pure)                    -> Decision   ) once a connection when opaque
//!  forward     connect to the app or the peer, move bytes      -> Tally      )
//!  assertion   what was proven, signed for the application     -> where it is asked for, part of what is forwarded
//!  observe     one record for each connection or request       -> log, metrics
//! ```
//!
//! `flow` alone knows the order. Which room may use which is held by `tests/tests/architecture.rs`.

/// The labels of a type: its `label()` answers one of them, and tests can go through all of them. A variant without one
/// does not compile. `else` is for a variant that carries the label of another part.
macro_rules! labels {
    ($type:ident { $($pattern:pat => $label:literal,)+ } $(else { $other:pat => $carried:expr })?) => {
        impl $type {
            /// A stable label for records and metrics.
            #[must_use]
            pub fn label(&self) -> &'static str {
                match self {
                    $($pattern => $label,)+
                    $($other => $carried,)?
                }
            }

            /// All that `label` answers by itself.
            #[cfg(test)]
            pub(crate) const LABELS: &'static [&'static str] = &[$($label),+];
        }
    };
}

pub mod admin;
pub mod assertion;
pub mod authn;
pub mod authz;
pub mod config;
pub mod detect;
pub mod dial;
pub mod flow;
pub mod forward;
pub mod identity;
pub mod intercept;
pub mod observe;
pub mod request;
pub mod runtime;
pub mod server;
pub mod services;
pub mod snapshot;
pub mod tls;
pub mod tools;
pub mod tunnel;
