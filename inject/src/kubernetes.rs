//! A filter of manifests: a stream of documents enters, the same stream leaves, with a redirect step and a sidecar in every
//! pod. Comments and the spelling of the file are lost, its meaning is not.

mod check;
mod parts;
mod pod;
mod probes;

pub(crate) use check::takes_redirect_away;

use crate::problem::Judge;
use crate::settings::{PREFIX, Redirect, Settings};
use crate::yaml::{Map, Node, read, write};
use crate::{InjectError, Report, Workload};

/// Puts a redirect and a sidecar into every pod. What was injected before is made anew, so twice is once.
///
/// # Errors
/// It is no YAML, or a workload cannot be injected: then nothing is.
pub fn inject(text: &str, settings: &Settings) -> Result<(String, Report), InjectError> {
    let mut report = Report::default();
    let text = every_workload(text, |found, judge| {
        if let Some(done) = inject_one(found, settings, judge, &mut report) {
            report.changed.push(done);
        }
    })?;
    if !report.changed.is_empty() {
        for note in parts::notes(settings) {
            report.note(note);
        }
    }
    tell_unknown(&text, &mut report)?;
    Ok((text, report))
}

/// Takes out what [`inject`] put in, and puts back what it changed.
///
/// # Errors
/// It is no YAML, or what was injected is not as it was.
pub fn uninject(text: &str) -> Result<(String, Report), InjectError> {
    let mut report = Report::default();
    let text = every_workload(text, |found, judge| {
        let name = judge.workload().to_owned();
        if pod::strip(found.pod, judge) {
            report.changed.push(Workload {
                name,
                service: String::new(),
                uid: 0,
            });
        }
    })?;
    Ok((text, report))
}

/// The same documents as this filter writes them, for comparison.
///
/// # Errors
/// It is no YAML.
pub fn rewritten(text: &str) -> Result<String, InjectError> {
    let documents = read(text)?;
    Ok(write(documents.iter().map(|document| &document.root)))
}

/// A workload of the stream.
struct Found<'a> {
    /// What the workload itself says of its sidecar, and its name.
    annotations: Vec<(String, String)>,
    namespace: Option<String>,
    name: Option<String>,
    /// `metadata` and `spec` of its pods.
    pod: &'a mut Map,
}

fn inject_one(
    found: Found<'_>,
    settings: &Settings,
    judge: &mut Judge,
    report: &mut Report,
) -> Option<Workload> {
    let was = pod::strip(found.pod, judge);
    let mut said = found.annotations;
    said.extend(annotations(found.pod.get("metadata")));
    // What the pods say wins over what their owner says.
    let said_of = |key: &str| {
        said.iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    };
    match said_of("inject") {
        Some("false") => {
            let why = if was {
                "taken out: `hopguard.dev/inject` is \"false\""
            } else {
                "`hopguard.dev/inject` is \"false\""
            };
            report.left.push((judge.workload().to_owned(), why.to_owned()));
            return None;
        }
        None | Some("true") => {}
        Some(_) => judge.refuse(format!("{PREFIX}inject"), "say \"true\" or \"false\", as a text"),
    }
    let namespace = found.namespace.unwrap_or_else(|| settings.namespace.clone());
    let default = found.name.map(|name| format!("{namespace}/{name}"));
    let keys: Vec<&str> = said.iter().map(|(key, _)| key.as_str()).collect();
    let redirect = Redirect::read(said_of, &keys, (default, settings), judge);
    let uid = redirect.as_ref().map_or(settings.uid, |redirect| redirect.uid);
    check::pod(found.pod, uid, judge, report);
    if !judge.is_content() {
        return None;
    }
    let redirect = redirect?;
    pod::inject(found.pod, &redirect, settings, judge);
    Some(Workload {
        name: judge.workload().to_owned(),
        service: redirect.service,
        uid: redirect.uid,
    })
}

/// Hands every workload of a stream to `each`, and writes the stream.
fn every_workload(text: &str, mut each: impl FnMut(Found<'_>, &mut Judge)) -> Result<String, InjectError> {
    let mut documents = read(text)?;
    let mut refusals = Vec::new();
    for document in &mut documents {
        let line = document.line;
        if document.root.as_map().is_none() {
            return Err(InjectError::NotThis(format!(
                "line {line}: this document is no object of Kubernetes"
            )));
        }
        if is_compose(&document.root) {
            return Err(InjectError::NotThis(
                "this is a Compose file: see `hopguard inject compose`".to_owned(),
            ));
        }
        visit(
            &mut document.root,
            line,
            &mut |found, judge| each(found, judge),
            &mut refusals,
        );
    }
    if !refusals.is_empty() {
        return Err(InjectError::Refused(refusals));
    }
    Ok(write(documents.iter().map(|document| &document.root)))
}

fn is_compose(root: &Node) -> bool {
    root.get("services").is_some() && root.get("kind").is_none()
}

type Refusals = Vec<crate::Refusal>;

fn visit(root: &mut Node, line: usize, each: &mut dyn FnMut(Found<'_>, &mut Judge), refusals: &mut Refusals) {
    if is_list(root) {
        if let Some(Node::List(items)) = root.as_map_mut().and_then(|map| map.get_mut("items")) {
            for item in items {
                visit(item, line, each, refusals);
            }
        }
        return;
    }
    let Some(path) = pod_path(root) else { return };
    let name = root.text_at(&["metadata", "name"]).map(str::to_owned);
    let mut judge = Judge::new(line, shown(root));
    let annotations = if path.is_empty() {
        Vec::new()
    } else {
        annotations(root.get("metadata"))
    };
    let namespace = root.text_at(&["metadata", "namespace"]).map(str::to_owned);
    let pod = path
        .iter()
        .try_fold(root, |node, key| node.as_map_mut()?.get_mut(key))
        .and_then(Node::as_map_mut);
    match pod {
        Some(pod) if pod.get("spec").is_some_and(|spec| spec.as_map().is_some()) => {
            let found = Found {
                annotations,
                namespace,
                name,
                pod,
            };
            each(found, &mut judge);
        }
        _ => judge.refuse([path, &["spec"]].concat().join("."), "there is no pod in it"),
    }
    refusals.extend(judge.into_refusals());
}

fn is_list(root: &Node) -> bool {
    let core = root.text_at(&["apiVersion"]) == Some("v1");
    let kind = root.text_at(&["kind"]).unwrap_or_default();
    let of_pods = [
        "PodList",
        "DeploymentList",
        "StatefulSetList",
        "DaemonSetList",
        "ReplicaSetList",
        "JobList",
        "CronJobList",
    ];
    (core && kind == "List") || of_pods.contains(&kind)
}

/// Kind and name.
fn shown(root: &Node) -> String {
    let kind = root.text_at(&["kind"]).unwrap_or("?");
    let name = root
        .text_at(&["metadata", "name"])
        .or(root.text_at(&["metadata", "generateName"]))
        .unwrap_or("?");
    format!("{kind}/{name}")
}

/// Where an object has its pods' `metadata` and `spec`.
fn pod_path(root: &Node) -> Option<&'static [&'static str]> {
    let version = root.text_at(&["apiVersion"])?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, root.text_at(&["kind"])?) {
        ("", "Pod") => Some(&[]),
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// What stands under our prefix among the annotations of an object, without the prefix.
fn annotations(metadata: Option<&Node>) -> Vec<(String, String)> {
    let annotations = metadata.and_then(|metadata| metadata.get("annotations")?.as_map());
    annotations
        .into_iter()
        .flat_map(Map::iter)
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.text()?.to_owned())))
        .collect()
}

/// Objects of other kinds that hold pods stay outside the mesh: said, because nobody would see it.
fn tell_unknown(text: &str, report: &mut Report) -> Result<(), InjectError> {
    for document in read(text)? {
        unknown(&document.root, report);
    }
    Ok(())
}

fn unknown(root: &Node, report: &mut Report) {
    if is_list(root) {
        for item in root.at(&["items"]).map(Node::items).unwrap_or_default() {
            unknown(item, report);
        }
    } else if pod_path(root).is_none() && holds_pods(root) {
        let why = "it holds pods, but its kind is not known here";
        report.left.push((shown(root), why.to_owned()));
    }
}

fn holds_pods(node: &Node) -> bool {
    match node {
        Node::Scalar(_) => false,
        Node::List(items) => items.iter().any(holds_pods),
        Node::Map(map) => {
            let containers = map.get("containers").map(Node::items).unwrap_or_default();
            containers
                .iter()
                .any(|container| container.get("image").is_some())
                || map.iter().any(|(_, node)| holds_pods(node))
        }
    }
}

#[cfg(test)]
mod tests;
