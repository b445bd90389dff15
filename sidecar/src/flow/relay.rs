//! The server is no relay: what a CONNECT asks for and where its tunnel came to enter, the declared port of this pod leaves,
//! or the true reason why it is none.

use std::net::SocketAddr;

use super::Context;
use crate::services::Port;

/// The declared port that `authority` names, for a tunnel that came to `local`; or why it names none.
pub(super) fn asked_port(ctx: &Context, authority: SocketAddr, local: SocketAddr) -> Result<Port, String> {
    if authority.ip() != local.ip() {
        return Err(format!(
            "the authority {authority} is not the address {} that the tunnel came to: nothing is relayed, not to another \
             address of this pod either",
            local.ip()
        ));
    }
    if authority.ip().is_loopback() {
        return Err("the authority is a loopback address".to_owned());
    }
    let number = authority.port();
    if ctx.options.own_ports.contains(&number) {
        return Err(format!(
            "the authority's port {number} is one of the sidecar's own"
        ));
    }
    ctx.own_port(number)
        .ok_or_else(|| format!("no service port {number} is declared for {}", ctx.options.service))
}
