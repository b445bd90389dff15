//! The settings of the redirect (`redirect.toml`), checked by the code that makes the rules: a text enters, its problems leave
//! in the form that all files share.

use std::path::Path;

use hopguard_iptables::InboundPorts;
use hopguard_sidecar::config::ConfigProblem;

use crate::iptables::{FILE_HINT, parse};

/// Keys that no other file has.
pub(super) const KEYS: [&str; 11] = [
    "inbound_ports",
    "exclude_inbound_ports",
    "sidecar_ports",
    "exclude_outbound_ports",
    "exclude_outbound_cidrs",
    "udp",
    "guard",
    "outbound_port",
    "inbound_port",
    "families",
    "own",
];

/// Checks it; what it says, in some words.
pub(super) fn check(path: &Path, text: &str) -> Result<String, Vec<ConfigProblem>> {
    let raw = parse(text).map_err(|(place, message)| {
        vec![ConfigProblem::at(
            path,
            Some(text),
            place,
            message,
            Some(FILE_HINT.to_owned()),
        )]
    })?;
    let intent = raw
        .parse()
        .map_err(|error| vec![ConfigProblem::whole(path, error.to_string(), error.hint())])?;
    let ports = match &intent.get().inbound_ports {
        InboundPorts::All => "all inbound ports".to_owned(),
        InboundPorts::List(list) => format!("{} inbound ports or ranges", list.len()),
    };
    Ok(format!("redirect of {ports}"))
}

#[cfg(test)]
mod tests {
    use hopguard_iptables::RawIntent;

    use super::*;

    #[test]
    fn the_keys_by_which_it_is_known_are_those_that_it_has() {
        let raw = serde_json::to_value(RawIntent::default()).unwrap();
        let mut keys: Vec<&str> = raw.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known = KEYS.to_vec();
        keys.sort_unstable();
        known.sort_unstable();
        assert_eq!(keys, known);
    }

    #[test]
    fn it_is_checked_with_its_places() {
        let path = Path::new("redirect.toml");
        let problem = |text: &str| check(path, text).unwrap_err().remove(0);
        assert!(check(path, "[own]\nmark = 7\n").unwrap().contains("all inbound"));
        let unknown = problem("udp = \"leave\"\ngaurd = true\n[own]\nmark = 7\n");
        assert!(
            unknown.line == 2 && unknown.message.contains("gaurd"),
            "{unknown:?}"
        );
        let nobody = problem("udp = \"leave\"\n");
        assert!(nobody.hint.is_some(), "{nobody:?}");
    }
}
