//! Whether the redirect is in place, found out by use: a connection without our mark, to an address that nobody means, must
//! arrive at our own outbound listener. Until it does the sidecar is not ready, and says which family fails. Where the
//! redirect tells us by uid or gid, it takes the port of the probe out of what is ours, so that the same is seen there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::dial::{DialOptions, connect};
use crate::flow::{Context, Probe};
use crate::intercept::neighbours;

use super::ready::State;

/// What a round of probes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Every address family that has a route is redirected.
    InPlace,
    /// A family goes past the sidecar.
    Missing(&'static str),
    /// The probe itself could not be made, for this reason: nothing is known.
    Unknown(String),
}

/// A redirected connection is accepted on this machine at once; anything slower was not redirected.
const PATIENCE: Duration = Duration::from_millis(500);

/// Probes both families once.
pub(super) async fn probe(ctx: &Arc<Context>) -> Redirect {
    for (family, nobody) in [("IPv4", Probe::V4), ("IPv6", Probe::V6)] {
        let Some(target) = reachable(nobody) else {
            continue;
        };
        match redirected(ctx, target).await {
            Ok(true) => {}
            Ok(false) => return Redirect::Missing(family),
            Err(error) => return Redirect::Unknown(error.to_string()),
        }
    }
    Redirect::InPlace
}

/// Whether a connection to `target` arrives at our own listener.
///
/// # Errors
/// There was no descriptor for it.
async fn redirected(ctx: &Arc<Context>, target: SocketAddr) -> io::Result<bool> {
    ctx.probe.listen_for(target);
    let unmarked = DialOptions {
        mark: None,
        timeout: PATIENCE,
    };
    let connection = match connect(target, &unmarked).await {
        Ok(connection) => connection,
        Err(error) if no_descriptor(&error) => return Err(error),
        Err(_) => return Ok(false),
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !ctx.probe.heard(target) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(connection);
    Ok(ctx.probe.heard(target))
}

fn no_descriptor(error: &io::Error) -> bool {
    [nix::errno::Errno::EMFILE, nix::errno::Errno::ENFILE]
        .map(|errno| Some(errno as i32))
        .contains(&error.raw_os_error())
}

/// Where a probe of this family goes: to an address that nobody has or, in a network without a way out, to one in a prefix
/// of ours. `None` when the application, too, could reach nothing by this family.
fn reachable(nobody: SocketAddr) -> Option<SocketAddr> {
    let near = neighbours()
        .into_iter()
        .filter(|near| near.is_ipv4() == nobody.is_ipv4())
        .map(|near| SocketAddr::new(near, Probe::PORT));
    std::iter::once(nobody)
        .chain(near)
        .find(|target| has_route(*target))
}

/// Asks the kernel alone: a datagram socket that is connected sends nothing. (The failure of a TCP connection says less: a
/// router that answers "no route" does so for packets that were not redirected.)
fn has_route(target: SocketAddr) -> bool {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    match UdpSocket::bind((any, 0)) {
        Ok(socket) => socket.connect(target).is_ok(),
        // Without the family there is no route; what fails otherwise must not pass for that.
        Err(error) => {
            error.kind() != io::ErrorKind::AddrNotAvailable
                && error.raw_os_error() != Some(nix::errno::Errno::EAFNOSUPPORT as i32)
        }
    }
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
                Redirect::Unknown(error) => {
                    tracing::error!(%error, "whether traffic is redirected cannot be found out: not ready");
                }
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
