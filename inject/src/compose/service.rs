//! One service becomes four: what belongs to its network goes to the holder, the rest stays with the application.

use std::collections::BTreeMap;

use crate::settings::{Redirect, Settings};
use crate::yaml::{Map, Node};

use super::parts;

/// What belongs to the network namespace, whoever is in it.
const OF_THE_NETWORK: [&str; 13] = [
    "network_mode",
    "networks",
    "ports",
    "expose",
    "hostname",
    "domainname",
    "mac_address",
    "extra_hosts",
    "dns",
    "dns_opt",
    "dns_search",
    "links",
    "external_links",
];

type Plans = BTreeMap<String, Redirect>;

/// Puts the four into `made`.
pub(super) fn split(
    name: &str,
    service: &Node,
    (plan, plans): (&Redirect, &Plans),
    settings: &Settings,
    made: &mut Map,
) {
    let mut app = service.as_map().cloned().unwrap_or_default();
    let mut holder = Map::default();
    for (key, node) in parts::holding(settings) {
        holder.set(key, node);
    }
    for key in OF_THE_NETWORK {
        if let Some(node) = app.remove(key).filter(|node| !node.is_null()) {
            holder.set(key, node);
        }
    }
    relink(&mut holder, plans);
    aliases(&mut holder, name, app.get("container_name").and_then(Node::text));
    sysctls(&mut app, &mut holder);
    app.set("network_mode", parts::joined(name));
    wait(&mut app, name);
    let [of_holder, of_redirect, of_sidecar] = parts::names(name);
    let mut parts = [
        (of_holder, Node::Map(holder)),
        (of_redirect, parts::redirect(name, plan, settings)),
        (of_sidecar, parts::sidecar(name, plan, settings)),
    ];
    // Together in every choice of services.
    for (_, part) in &mut parts {
        if let (Some(profiles), Some(part)) = (app.get("profiles"), part.as_map_mut()) {
            part.set("profiles", profiles.clone());
        }
    }
    for (name, part) in parts {
        made.set(&name, part);
    }
    made.set(name, Node::Map(app));
}

/// A service that has no sidecar, beside others that have one.
pub(super) fn beside(service: &Node, plans: &Plans) -> Node {
    let mut service = service.clone();
    if let Some(map) = service.as_map_mut() {
        relink(map, plans);
    }
    service
}

/// A link leads to who owns the network.
fn relink(service: &mut Map, plans: &Plans) {
    let Some(Node::List(links)) = service.get("links").cloned() else {
        return;
    };
    let links = links.into_iter().map(|link| {
        let text = link.text().unwrap_or_default();
        let (to, alias) = text.split_once(':').unwrap_or((text, text));
        if plans.contains_key(to) {
            Node::string(format!("{}:{alias}", parts::holder(to)))
        } else {
            link
        }
    });
    service.set("links", Node::list(links));
}

/// The names of the service lead to the holder, in every network.
fn aliases(holder: &mut Map, name: &str, container_name: Option<&str>) {
    if holder.get("network_mode").is_some() {
        return;
    }
    let mut networks = match holder.remove("networks") {
        Some(Node::Map(map)) if !map.is_empty() => map,
        Some(Node::List(items)) if !items.is_empty() => {
            let mut map = Map::default();
            for item in items {
                map.set(item.text().unwrap_or_default(), Node::null());
            }
            map
        }
        _ => {
            let mut map = Map::default();
            map.set("default", Node::null());
            map
        }
    };
    let names: Vec<String> = networks.iter().map(|(network, _)| network.to_owned()).collect();
    for network in names {
        networks.change(&network, |network| {
            let mut aliases = network
                .get("aliases")
                .map(Node::items)
                .unwrap_or_default()
                .to_vec();
            for name in std::iter::once(name).chain(container_name) {
                if !aliases.iter().any(|alias| alias.text() == Some(name)) {
                    aliases.push(Node::string(name));
                }
            }
            network.set("aliases", Node::List(aliases));
        });
    }
    holder.set("networks", Node::Map(networks));
}

/// Settings of the kernel's network belong to the namespace too.
fn sysctls(app: &mut Map, holder: &mut Map) {
    let of_network = |text: &str| text.starts_with("net.");
    let (moved, kept) = match app.get("sysctls") {
        Some(Node::Map(map)) => {
            let (mut moved, mut kept) = (Map::default(), Map::default());
            for (key, value) in map.iter() {
                let to = if of_network(key) { &mut moved } else { &mut kept };
                to.set(key, value.clone());
            }
            (Node::Map(moved), Node::Map(kept))
        }
        Some(Node::List(items)) => {
            let (moved, kept): (Vec<Node>, Vec<Node>) = items
                .iter()
                .cloned()
                .partition(|item| item.text().is_some_and(of_network));
            (Node::List(moved), Node::List(kept))
        }
        _ => return,
    };
    let empty = |node: &Node| node.items().is_empty() && node.as_map().is_none_or(Map::is_empty);
    if empty(&kept) {
        app.remove("sysctls");
    } else {
        app.set("sysctls", kept);
    }
    if !empty(&moved) {
        holder.set("sysctls", moved);
    }
}

/// The application starts after what it waited for before, after the redirect and after its sidecar.
fn wait(app: &mut Map, name: &str) {
    let condition = |condition: &str| Node::map([("condition", Node::string(condition))]);
    if let Some(Node::List(items)) = app.get("depends_on").cloned() {
        let mut map = Map::default();
        for item in items {
            map.set(item.text().unwrap_or_default(), condition("service_started"));
        }
        app.set("depends_on", Node::Map(map));
    }
    app.change("depends_on", |others| {
        others.set(
            &parts::redirect_name(name),
            condition("service_completed_successfully"),
        );
        others.set(&parts::sidecar_name(name), condition("service_started"));
    });
}
