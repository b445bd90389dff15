//! Which services cannot have a sidecar, or not one that would protect them.

use crate::Report;
use crate::kubernetes::takes_redirect_away;
use crate::problem::Judge;
use crate::settings::OWN_PORTS;
use crate::yaml::Node;

use super::{MERGE, ports};

/// Refuses what would not work, or would only look as if it were protected.
pub(super) fn service(service: &Node, (path, uid): (&str, u32), judge: &mut Judge, report: &mut Report) {
    network(service, path, judge);
    if service.get("extends").is_some() {
        judge.refuse(
            format!("{path}.extends"),
            format!("what it extends may hold a network of its own: {MERGE}"),
        );
    }
    let replicas = service.get("scale").or(service.at(&["deploy", "replicas"]));
    if replicas.is_some_and(|replicas| !matches!(replicas.whole(), Some(0 | 1))) {
        judge.refuse(
            path,
            "several containers of it would share one network namespace, and its ports: name it several times instead",
        );
    }
    if service.text_at(&["deploy", "mode"]) == Some("global") {
        judge.refuse(
            format!("{path}.deploy.mode"),
            "a swarm starts one on every machine, without its sidecar",
        );
    }
    if service.get("privileged").is_some_and(|value| !value.is_false()) {
        judge.refuse(
            format!("{path}.privileged"),
            "a privileged container can take the redirect away",
        );
    }
    if service.text_at(&["pid"]) == Some("host") {
        judge.refuse(
            format!("{path}.pid"),
            "it sees the machine's processes, the sidecars among them, whose keys it could read",
        );
    }
    for capability in service.at(&["cap_add"]).map(Node::items).unwrap_or_default() {
        if capability.text().is_some_and(takes_redirect_away) {
            let capability = capability.text().unwrap_or_default();
            judge.refuse(
                format!("{path}.cap_add"),
                format!("with {capability} it can take the redirect away, or send past it"),
            );
        }
    }
    let user = service
        .text_at(&["user"])
        .map(|user| user.split(':').next().unwrap_or_default());
    if user.and_then(|user| user.parse().ok()) == Some(uid) {
        judge.refuse(
            format!("{path}.user"),
            format!("it runs as the sidecar's own user {uid}, whose traffic is not redirected: label hopguard.dev/uid with another"),
        );
    }
    let dropped = service.at(&["cap_drop"]).map(Node::items).unwrap_or_default();
    let all = dropped
        .iter()
        .any(|name| name.text().is_some_and(|name| name.eq_ignore_ascii_case("all")));
    if !all && user.is_none_or(|user| user == "0" || user == "root") {
        report.note(format!(
            "{}: it may run as root, and with the capabilities SETUID or NET_RAW it can send past the sidecar: `user`, or cap_drop: [ALL]",
            judge.workload()
        ));
    }
}

fn network(service: &Node, path: &str, judge: &mut Judge) {
    let mode = service.text_at(&["network_mode"]).unwrap_or_default();
    let shared = mode == "host" || mode.starts_with("service:") || mode.starts_with("container:");
    if shared {
        judge.refuse(
            format!("{path}.network_mode"),
            format!("`{mode}`: the network belongs to somebody else, who would be redirected too"),
        );
    }
    if mode.contains('$') {
        judge.refuse(
            format!("{path}.network_mode"),
            format!("what `{mode}` becomes is not known here"),
        );
    }
    for key in ["ports", "expose"] {
        let taken = service.at(&[key]).map(Node::items).unwrap_or_default();
        for (at, port) in taken.iter().enumerate() {
            let of_container = ports::of_container(port);
            let own = OWN_PORTS
                .into_iter()
                .find(|own| of_container.as_ref().is_some_and(|range| range.contains(own)));
            if let Some(own) = own {
                judge.refuse(
                    format!("{path}.{key}[{at}]"),
                    format!("{own} is a port of the sidecar"),
                );
            }
        }
    }
    for key in ["networks", "links", "depends_on", "sysctls"] {
        let odd = match service.get(key) {
            Some(Node::Scalar(_)) => true,
            Some(Node::List(items)) => items.iter().any(|item| item.text().is_none()),
            _ => false,
        };
        if odd {
            judge.refuse(
                format!("{path}.{key}"),
                "this is neither a mapping nor a list of texts",
            );
        }
    }
}
