//! Keeps whoever is logged in by SSH from cutting the branch that they sit on: an intent and the machine's sockets enter, a
//! refusal leaves where the redirect would take port 22. It knows nothing of other ports: those are what a redirect is for.

use std::fs;

use hopguard_iptables::{InboundPorts, Intent};

use crate::ui::Failure;

const SSH_PORT: u16 = 22;

/// Refuses an intent that would cut an SSH session of this network namespace.
///
/// # Errors
/// Somebody is logged in, and port 22 would be redirected.
pub fn spare(intent: &Intent) -> Result<(), Failure> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    if !redirects(intent) || !tables.iter().any(|table| has_session(table)) {
        return Ok(());
    }
    Err(Failure::new("somebody is logged in here by SSH, and the redirect would take port 22: nothing was changed").hint(
        "this is the network namespace of the machine, or of a service that is reached by SSH: --exclude-inbound-ports 22 \
         leaves SSH alone (an open session may stall; a new one goes through); --cut-ssh redirects it all the same",
    ))
}

fn redirects(intent: &Intent) -> bool {
    let intent = intent.get();
    match &intent.inbound_ports {
        InboundPorts::All => !intent
            .exclude_inbound_ports
            .iter()
            .any(|range| range.contains(SSH_PORT)),
        InboundPorts::List(list) => list.iter().any(|range| range.contains(SSH_PORT)),
    }
}

/// Whether a table as the kernel prints it (proc_pid_net(5)) has an established connection to port 22 of this machine.
fn has_session(table: &str) -> bool {
    const ESTABLISHED: &str = "01";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let port = local
            .and_then(|local| local.rsplit_once(':'))
            .map(|(_, port)| port);
        port.and_then(|port| u16::from_str_radix(port, 16).ok()) == Some(SSH_PORT)
            && state == Some(ESTABLISHED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_from_a_listener_and_from_a_client() {
        let head = "  sl  local_address rem_address   st tx_queue\n";
        let line =
            |local: &str, remote: &str, state: &str| format!("{head}   0: {local} {remote} {state} 0:0\n");
        assert!(has_session(&line("0A4D0001:0016", "0A4D0002:C350", "01")));
        assert!(!has_session(&line("00000000:0016", "00000000:0000", "0A")));
        assert!(!has_session(&line("0A4D0001:C350", "0A4D0002:0016", "01")));
        assert!(!has_session(""));
    }
}
