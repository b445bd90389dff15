//! Whether the redirect is in place, found out by use: a connection without our mark, to an address that nobody has, must
//! arrive at our own outbound listener. Until it does the sidecar is not ready, and says which family fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::dial::{DialOptions, connect};
use crate::flow::{Context, Probe};

use super::ready::State;

/// What a round of probes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Every address family that has a route is redirected.
    InPlace,
    /// A family goes past the sidecar.
    Missing(&'static str),
}

/// A redirected connection is accepted on this machine at once; anything slower was not redirected.
const PATIENCE: Duration = Duration::from_millis(500);

/// Probes both families once.
pub(super) async fn probe(ctx: &Arc<Context>) -> Redirect {
    for (family, target) in [("IPv4", Probe::V4), ("IPv6", Probe::V6)] {
        if !redirected(ctx, target).await {
            return Redirect::Missing(family);
        }
    }
    Redirect::InPlace
}

async fn redirected(ctx: &Arc<Context>, target: SocketAddr) -> bool {
    ctx.probe.forget(target);
    let unmarked = DialOptions {
        mark: None,
        timeout: PATIENCE,
    };
    let connection = match connect(target, &unmarked).await {
        Ok(connection) => connection,
        // Without a route of this family the application cannot reach anything by it either.
        Err(error) if no_route(&error) => return true,
        Err(_) => return false,
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !ctx.probe.heard(target) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(connection);
    ctx.probe.heard(target)
}

fn no_route(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        NetworkUnreachable | HostUnreachable | AddrNotAvailable
    ) || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

/// Time between two rounds while the redirect is missing, and once it is in place.
const SOON: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(15);

/// Probes until the process ends, if the settings ask for it.
pub(super) async fn keep(state: Arc<State>) {
    if !state.sidecar.traffic.probe {
        return;
    }
    loop {
        let found = probe(&state.ctx).await;
        let pause = if found == Redirect::InPlace { LATER } else { SOON };
        if state.redirect_seen(found.clone()) {
            match found {
                Redirect::InPlace => tracing::info!("the redirect is in place"),
                Redirect::Missing(family) => {
                    tracing::error!(
                        family,
                        "traffic is not redirected: not ready (hint: `hopguard iptables apply`)"
                    );
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}
