//! Probes of the application. The kubelet sends them in plaintext from outside of the mesh, so they are led to the sidecar,
//! which asks the application and passes on whether it is well, and nothing else.

use serde_json::{Map as Json, Value, json};

use crate::problem::Judge;
use crate::settings::OWN_PORTS;
use crate::yaml::{Map, Node};

use super::parts;

/// The probes of a container, and how their paths end.
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
const KINDS: [&str; 2] = ["initContainers", "containers"];

/// What the sidecar relays, and what the probes were.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    relay: Json<String, Value>,
    before: Map,
}

impl Relayed {
    /// The value of the sidecar's variable. Kubernetes replaces `$(NAME)` in it, so it holds no `$`.
    pub(super) fn for_sidecar(&self) -> Option<String> {
        (!self.relay.is_empty()).then(|| {
            Value::Object(self.relay.clone())
                .to_string()
                .replace('$', "\\u0024")
        })
    }

    /// The probes as they were: by container and probe.
    pub(super) fn before(self) -> Node {
        Node::Map(self.before)
    }
}

/// Leads the probes of a pod to the sidecar.
pub(super) fn relay(spec: &mut Map, judge: &mut Judge) -> Relayed {
    let mut relayed = Relayed::default();
    for kind in KINDS {
        let Some(Node::List(containers)) = spec.get_mut(kind) else {
            continue;
        };
        for (at, container) in containers.iter_mut().enumerate() {
            let path = format!("spec.{kind}[{at}]");
            let name = container.text_at(&["name"]).unwrap_or_default().to_owned();
            for (key, short) in PROBES {
                one(container, (&name, key, short), (&path, judge), &mut relayed);
            }
        }
    }
    relayed
}

fn one(
    container: &mut Node,
    (name, key, short): (&str, &str, &str),
    (path, judge): (&str, &mut Judge),
    relayed: &mut Relayed,
) {
    let Some(probe) = container.get(key).cloned() else {
        return;
    };
    let Some(handler) = HANDLERS.into_iter().find(|handler| probe.get(handler).is_some()) else {
        return;
    };
    let path = format!("{path}.{key}.{handler}");
    let Some(asked) = probe.get(handler) else { return };
    // It asks another host, not this pod: the sidecar has no part in it.
    if asked.get("host").is_some() {
        return;
    }
    let question = match question(handler, asked, container) {
        Ok(question) => question,
        Err((what, reason)) => return judge.refuse(format!("{path}{what}"), reason),
    };
    let seconds = probe
        .get("timeoutSeconds")
        .and_then(Node::whole)
        .unwrap_or(1)
        .max(1);
    let (relay_path, new) = parts::relayed(name, short);
    let mut entry = question;
    entry.insert("timeout_seconds".to_owned(), json!(seconds));
    relayed.relay.insert(relay_path, Value::Object(entry));
    relayed.before.change(name, |probes| probes.set(key, probe));
    if let Some(probe) = container
        .as_map_mut()
        .and_then(|map| map.get_mut(key)?.as_map_mut())
    {
        probe.replace(handler, "httpGet", new);
    }
}

type Wrong = (&'static str, String);

/// What the sidecar has to ask.
fn question(handler: &str, asked: &Node, container: &Node) -> Result<Json<String, Value>, Wrong> {
    let port = port(asked, container)?;
    let question = match handler {
        "httpGet" => json!({"http": http(asked, port)?}),
        "grpc" => json!({"grpc": {"port": port, "service": asked.text_at(&["service"]).unwrap_or_default()}}),
        _ => json!({"tcp": {"port": port}}),
    };
    match question {
        Value::Object(question) => Ok(question),
        _ => Ok(Json::new()),
    }
}

fn http(asked: &Node, port: u16) -> Result<Value, Wrong> {
    let scheme = asked.text_at(&["scheme"]).unwrap_or("HTTP");
    if scheme != "HTTP" {
        return Err((
            ".scheme",
            format!("probes by {scheme} cannot be relayed: take HTTP, `tcpSocket` or `exec`"),
        ));
    }
    let path = asked.text_at(&["path"]).unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let headers: Vec<Value> = asked
        .at(&["httpHeaders"])
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .map(|header| {
            json!([
                header.text_at(&["name"]).unwrap_or_default(),
                header.text_at(&["value"]).unwrap_or_default()
            ])
        })
        .collect();
    Ok(json!({"port": port, "path": path, "headers": headers}))
}

fn port(asked: &Node, container: &Node) -> Result<u16, Wrong> {
    let said = asked
        .text_at(&["port"])
        .ok_or((".port", "it has no port".to_owned()))?;
    let number = match said.parse::<u16>() {
        Ok(number) => Some(number),
        Err(_) => named(container, said),
    };
    match number {
        Some(0) | None => Err((".port", format!("the container has no port `{said}`"))),
        Some(own) if OWN_PORTS.contains(&own) => Err((".port", format!("{own} is a port of the sidecar"))),
        Some(number) => Ok(number),
    }
}

fn named(container: &Node, name: &str) -> Option<u16> {
    let ports = container.at(&["ports"]).map(Node::items)?;
    let port = ports.iter().find(|port| port.text_at(&["name"]) == Some(name))?;
    u16::try_from(port.get("containerPort")?.whole()?).ok()
}

/// Puts the probes back that still lead to the sidecar; one that was changed since stays as it is.
pub(super) fn put_back(spec: &mut Map, saved: &Node) {
    for kind in KINDS {
        let Some(Node::List(containers)) = spec.get_mut(kind) else {
            continue;
        };
        for container in containers {
            let name = container.text_at(&["name"]).unwrap_or_default().to_owned();
            for (key, short) in PROBES {
                let Some(before) = saved.at(&[&name, key]) else {
                    continue;
                };
                let (path, _) = parts::relayed(&name, short);
                let is_ours = container.text_at(&[key, "httpGet", "path"]) == Some(&path);
                if let Some(map) = container.as_map_mut().filter(|_| is_ours) {
                    map.set(key, before.clone());
                }
            }
        }
    }
}
