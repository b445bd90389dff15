//! Which pods cannot have a sidecar, or not one that would protect them.

use crate::Report;
use crate::problem::Judge;
use crate::settings::OWN_PORTS;
use crate::yaml::{Map, Node};

use super::parts::is_ours;

/// Refuses what would not work, or would only look as if it were protected.
pub(super) fn pod(pod: &Map, uid: u32, judge: &mut Judge, report: &mut Report) {
    let Some(spec) = pod.get("spec") else { return };
    shared(spec, judge);
    form(spec, judge);
    let mut root = Vec::new();
    for kind in ["initContainers", "containers"] {
        for (at, one) in items(spec, kind).iter().enumerate() {
            container(one, spec, (&format!("spec.{kind}[{at}]"), uid), judge);
            if may_be_root(one, spec) {
                root.push(one.text_at(&["name"]).unwrap_or("?").to_owned());
            }
        }
    }
    if !root.is_empty() {
        report.note(format!(
            "{}: {} may run as root, and with the capabilities SETUID or NET_RAW it can send past the sidecar: runAsNonRoot, or capabilities.drop: [ALL]",
            judge.workload(),
            root.join(", ")
        ));
    }
}

fn items<'a>(spec: &'a Node, key: &str) -> &'a [Node] {
    spec.get(key).map(Node::items).unwrap_or_default()
}

/// What it shares with the machine, or among its containers.
fn shared(spec: &Node, judge: &mut Judge) {
    for (key, reason) in [
        (
            "hostNetwork",
            "it uses the machine's network: a redirect there would take in everything that runs on it",
        ),
        (
            "hostPID",
            "it sees the machine's processes, the sidecars of all pods among them, whose keys it could read",
        ),
        (
            "shareProcessNamespace",
            "its containers see each other's processes, and could read the sidecar's keys",
        ),
    ] {
        if spec.get(key).is_some_and(|value| !value.is_false()) {
            judge.refuse(format!("spec.{key}"), reason);
        }
    }
    if spec.text_at(&["os", "name"]).is_some_and(|name| name != "linux") {
        judge.refuse("spec.os.name", "the sidecar is a program for Linux");
    }
}

fn form(spec: &Node, judge: &mut Judge) {
    for key in ["containers", "initContainers", "volumes"] {
        if spec.get(key).is_some_and(|node| !matches!(node, Node::List(_))) {
            judge.refuse(format!("spec.{key}"), "this is no list");
        }
    }
    if items(spec, "containers").is_empty() {
        judge.refuse("spec.containers", "there is no container");
    }
    for (at, volume) in items(spec, "volumes").iter().enumerate() {
        if volume.text_at(&["name"]).is_some_and(is_ours) {
            judge.refuse(
                format!("spec.volumes[{at}].name"),
                "the name is one of hopguard's: take another",
            );
        }
    }
}

fn container(one: &Node, spec: &Node, (path, uid): (&str, u32), judge: &mut Judge) {
    match one.text_at(&["name"]) {
        None => judge.refuse(format!("{path}.name"), "the container has no name"),
        Some(name) if is_ours(name) => {
            judge.refuse(
                format!("{path}.name"),
                "the name is one of hopguard's: take another",
            );
        }
        Some(_) => {}
    }
    if security(one, spec, "runAsUser").and_then(Node::whole) == Some(uid) {
        judge.refuse(
            format!("{path}.securityContext.runAsUser"),
            format!(
                "it runs as the sidecar's own user {uid}, whose traffic is not redirected: annotate hopguard.dev/uid with another"
            ),
        );
    }
    if one
        .at(&["securityContext", "privileged"])
        .is_some_and(|value| !value.is_false())
    {
        judge.refuse(
            format!("{path}.securityContext.privileged"),
            "a privileged container can take the redirect away",
        );
    }
    let added = one
        .at(&["securityContext", "capabilities", "add"])
        .map(Node::items);
    for capability in added.unwrap_or_default().iter().filter_map(Node::text) {
        if takes_redirect_away(capability) {
            judge.refuse(
                format!("{path}.securityContext.capabilities.add"),
                format!("with {capability} it can take the redirect away, or send past it"),
            );
        }
    }
    ports(one, path, judge);
    hooks(one, path, judge);
}

/// Whether a container with this capability can free itself.
pub(crate) fn takes_redirect_away(capability: &str) -> bool {
    let name = capability.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    [
        "ALL",
        "NET_ADMIN",
        "NET_RAW",
        "SYS_ADMIN",
        "SYS_MODULE",
        "BPF",
        "PERFMON",
    ]
    .contains(&name)
}

fn ports(one: &Node, path: &str, judge: &mut Judge) {
    for (at, port) in one
        .at(&["ports"])
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let number = port.get("containerPort").and_then(Node::whole);
        if let Some(number) = number.filter(|number| OWN_PORTS.iter().any(|own| u32::from(*own) == *number)) {
            judge.refuse(
                format!("{path}.ports[{at}].containerPort"),
                format!("{number} is a port of the sidecar"),
            );
        }
    }
}

/// The kubelet asks by plaintext, which the sidecar refuses; and nobody repeats a hook.
fn hooks(one: &Node, path: &str, judge: &mut Judge) {
    for hook in ["postStart", "preStop"] {
        for way in ["httpGet", "tcpSocket"] {
            if one.at(&["lifecycle", hook, way]).is_some() {
                judge.refuse(
                    format!("{path}.lifecycle.{hook}.{way}"),
                    "the kubelet would send it in plaintext, which the sidecar refuses: use `exec`",
                );
            }
        }
    }
}

/// What holds for a container: its own setting, else its pod's.
fn security<'a>(one: &'a Node, spec: &'a Node, key: &str) -> Option<&'a Node> {
    one.at(&["securityContext", key])
        .or_else(|| spec.at(&["securityContext", key]))
}

fn may_be_root(one: &Node, spec: &Node) -> bool {
    let non_root = security(one, spec, "runAsNonRoot").is_some_and(Node::is_true);
    let other = security(one, spec, "runAsUser")
        .and_then(Node::whole)
        .is_some_and(|uid| uid != 0);
    let dropped = one
        .at(&["securityContext", "capabilities", "drop"])
        .map(Node::items);
    let all = dropped
        .unwrap_or_default()
        .iter()
        .any(|name| name.text().is_some_and(|name| name.eq_ignore_ascii_case("all")));
    !(non_root || other || all)
}
