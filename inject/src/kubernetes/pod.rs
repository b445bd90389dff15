//! One pod: the parts go in, or come out again. What is changed of the pod is kept in an annotation, so that it can be put
//! back as it was.

use crate::problem::Judge;
use crate::settings::{PREFIX, Redirect, Settings};
use crate::yaml::{Map, Node, read, write};

use super::{parts, probes};

/// Says that a pod was injected, and by which version.
const INJECTED: &str = "injected";
/// What was there before.
const RESTORE: &str = "restore";

/// What may have been absent.
const PLACES: [&[&str]; 4] = [
    &["metadata"],
    &["metadata", "annotations"],
    &["spec", "initContainers"],
    &["spec", "volumes"],
];

/// Puts the parts in. The pod was checked.
pub(super) fn inject(pod: &mut Map, redirect: &Redirect, settings: &Settings, judge: &mut Judge) {
    let (mut absent, mut nulls) = (Vec::new(), Vec::new());
    for path in PLACES {
        match place(pod, path) {
            None => absent.push(path.join(".")),
            Some(node) if node.is_null() => nulls.push(path.join(".")),
            Some(_) => {}
        }
    }
    let Some(spec) = pod.get_mut("spec").and_then(Node::as_map_mut) else {
        return;
    };
    let probes = probes::relay(spec, judge);
    let for_sidecar = probes.for_sidecar();
    let mut containers = vec![
        parts::redirect(redirect, settings, for_sidecar.is_some()),
        parts::sidecar(redirect, settings, for_sidecar),
    ];
    containers.extend(
        spec.get("initContainers")
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .cloned(),
    );
    spec.set("initContainers", Node::List(containers));
    let mut volumes = spec.get("volumes").map(Node::items).unwrap_or_default().to_vec();
    volumes.extend(parts::volumes(settings));
    spec.set("volumes", Node::List(volumes));

    let restore = Node::map([
        ("absent", Node::strings(absent)),
        ("nulls", Node::strings(nulls)),
        ("probes", probes.before()),
    ]);
    pod.change("metadata", |metadata| {
        metadata.change("annotations", |annotations| {
            annotations.set(
                &format!("{PREFIX}{INJECTED}"),
                Node::string(env!("CARGO_PKG_VERSION")),
            );
            annotations.set(&format!("{PREFIX}{RESTORE}"), Node::string(write([&restore])));
        });
    });
}

/// Takes the parts out and puts back what was there; whether there were any. A pod that was never injected is not touched.
pub(super) fn strip(pod: &mut Map, judge: &mut Judge) -> bool {
    let annotation = |key: &str| place(pod, &["metadata", "annotations", &format!("{PREFIX}{key}")]);
    let (injected, restore) = (annotation(INJECTED).is_some(), annotation(RESTORE).cloned());
    if !injected && restore.is_none() {
        return false;
    }
    let before = restore
        .as_ref()
        .and_then(Node::text)
        .and_then(|text| read(text).ok());
    let Some(before) = before.and_then(|documents| documents.into_iter().next()) else {
        judge.refuse(
            format!("metadata.annotations.{PREFIX}{RESTORE}"),
            "it was injected, but what was there before cannot be read: start from the original manifest",
        );
        return true;
    };
    for key in [INJECTED, RESTORE] {
        if let Some(annotations) = place_mut(pod, &["metadata", "annotations"]).and_then(Node::as_map_mut) {
            annotations.remove(&format!("{PREFIX}{key}"));
        }
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Node::as_map_mut) {
        for kind in ["initContainers", "volumes"] {
            if let Some(Node::List(items)) = spec.get_mut(kind) {
                items.retain(|item| !item.text_at(&["name"]).is_some_and(parts::is_ours));
            }
        }
        if let Some(saved) = before.root.get("probes") {
            probes::put_back(spec, saved);
        }
    }
    put_back_places(pod, &before.root);
    true
}

/// What was absent, or `null`, and is empty now, is so again; from the inside out.
fn put_back_places(pod: &mut Map, before: &Node) {
    let was = |kind: &str, path: &str| {
        let paths = before.at(&[kind]).map(Node::items).unwrap_or_default();
        paths.iter().any(|one| one.text() == Some(path))
    };
    for path in PLACES.into_iter().rev() {
        let empty = match place(pod, path) {
            Some(Node::List(items)) => items.is_empty(),
            Some(Node::Map(map)) => map.is_empty(),
            _ => false,
        };
        let Some((key, above)) = path.split_last().filter(|_| empty) else {
            continue;
        };
        let name = path.join(".");
        let holder = match above.split_first() {
            None => Some(&mut *pod),
            Some((first, _)) => pod.get_mut(first).and_then(Node::as_map_mut),
        };
        let Some(holder) = holder else { continue };
        if was("absent", &name) {
            holder.remove(key);
        } else if was("nulls", &name) {
            holder.set(key, Node::null());
        }
    }
}

fn place<'a>(pod: &'a Map, path: &[&str]) -> Option<&'a Node> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(pod.get(first)?, |node, key| node.as_map()?.get(key))
}

fn place_mut<'a>(pod: &'a mut Map, path: &[&str]) -> Option<&'a mut Node> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(pod.get_mut(first)?, |node, key| node.as_map_mut()?.get_mut(key))
}
