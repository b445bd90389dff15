//! Compose: the user's file enters, a whole second file leaves. Each service becomes four: a holder that owns the network
//! namespace, the redirect step, the sidecar, and the application as it was.

mod check;
mod parts;
mod ports;
mod service;

use std::collections::BTreeMap;

use crate::problem::Judge;
use crate::settings::{PREFIX, Redirect, Settings, WorkloadApi};
use crate::yaml::{Map, Node, read, write};
use crate::{InjectError, Report, Workload};

/// Marks a file of ours, and says what it was made from.
const MARK: &str = "x-hopguard";

/// Makes the second file from the text of the user's; `name` is how that is called. A file that was made here comes back as
/// it is.
///
/// # Errors
/// It is no Compose file, or a service cannot be injected: then none is.
pub fn inject(text: &str, name: &str, settings: &Settings) -> Result<(String, Report), InjectError> {
    let mut root = root(text)?;
    if root.get(MARK).is_some() {
        let mut report = Report::default();
        report.note("it was injected already, and is as it was: give the original to change something");
        return Ok((text.to_owned(), report));
    }
    if matches!(settings.workload_api, WorkloadApi::Csi { .. }) {
        let message = "Compose has no CSI drivers: --workload-api hostPath:/FOLDER/SOCKET";
        return Err(InjectError::NotThis(message.to_owned()));
    }
    let Some(Node::Map(services)) = root.get("services").cloned() else {
        return Err(InjectError::NotThis("`services` is no mapping".to_owned()));
    };
    let mut refusals = Vec::new();
    if root.get("include").is_some() {
        let mut judge = Judge::new(0, "the file");
        judge.refuse(
            "include",
            format!("what it includes would stay outside the mesh: {MERGE}"),
        );
        refusals.extend(judge.into_refusals());
    }
    let mut report = Report::default();
    let plans = plans(&services, settings, &mut report, &mut refusals);
    if !refusals.is_empty() {
        return Err(InjectError::Refused(refusals));
    }
    let mut made = Map::default();
    for (name, service) in services.iter() {
        match plans.get(name) {
            Some(plan) => service::split(name, service, (plan, &plans), settings, &mut made),
            None => made.set(name, service::beside(service, &plans)),
        }
    }
    root.set("services", Node::Map(made));
    root.set(
        MARK,
        Node::map([
            ("from", Node::string(name)),
            ("version", Node::string(env!("CARGO_PKG_VERSION"))),
        ]),
    );
    for (name, plan) in &plans {
        report.note(parts::entry(name, plan));
        report.changed.push(Workload {
            name: name.clone(),
            service: plan.service.clone(),
            uid: plan.uid,
        });
    }
    let head = format!(
        "# Made by `hopguard inject compose` from {}; it holds everything of it.\n",
        one_line(name)
    );
    Ok((head + &write([&Node::Map(root)]), report))
}

/// What to do where one file is not the whole.
const MERGE: &str = "`docker-compose config` writes all of it into one file";

/// Whether a text is a file that [`inject`] made.
///
/// # Errors
/// It is no Compose file.
pub fn is_injected(text: &str) -> Result<bool, InjectError> {
    Ok(root(text)?.get(MARK).is_some())
}

/// The same file as [`inject`] writes it, for comparison.
///
/// # Errors
/// It is no Compose file.
pub fn rewritten(text: &str) -> Result<String, InjectError> {
    Ok(write([&Node::Map(root(text)?)]))
}

fn one_line(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

fn root(text: &str) -> Result<Map, InjectError> {
    let mut documents = read(text)?;
    let document = documents.pop();
    match document.map(|document| document.root) {
        Some(Node::Map(map)) if documents.is_empty() && map.get("services").is_some() => Ok(map),
        Some(Node::Map(map)) if map.get("kind").is_some() => Err(InjectError::NotThis(
            "this is a manifest of Kubernetes: see `hopguard inject kubernetes`".to_owned(),
        )),
        _ => Err(InjectError::NotThis(
            "this is no Compose file: it has no `services`".to_owned(),
        )),
    }
}

/// Which services get a sidecar, and how.
fn plans(
    services: &Map,
    settings: &Settings,
    report: &mut Report,
    refusals: &mut Vec<crate::Refusal>,
) -> BTreeMap<String, Redirect> {
    let mut plans = BTreeMap::new();
    for (name, service) in services.iter() {
        let mut judge = Judge::new(0, name);
        let plan = plan(name, service, settings, (&mut judge, report));
        if let Some(plan) = plan {
            for part in parts::names(name) {
                if services.get(&part).is_some() {
                    judge.refuse(
                        format!("services.{part}"),
                        "the name is one of hopguard's: take another",
                    );
                }
            }
            plans.insert(name.to_owned(), plan);
        }
        refusals.extend(judge.into_refusals());
    }
    for (name, service) in services.iter() {
        let joined = service
            .text_at(&["network_mode"])
            .and_then(|mode| mode.strip_prefix("service:"));
        if let Some(owner) = joined.filter(|owner| plans.contains_key(*owner) && !plans.contains_key(name)) {
            let mut judge = Judge::new(0, name);
            judge.refuse(
                format!("services.{name}.network_mode"),
                format!("it would stay outside the mesh in the network of `{owner}`: opt both out, or give it one of its own"),
            );
            refusals.extend(judge.into_refusals());
        }
    }
    let mut slices = BTreeMap::new();
    for (name, plan) in &plans {
        if let Some(other) = slices.insert(plan.service.clone(), name.clone()) {
            let mut judge = Judge::new(0, name);
            judge.refuse(
                format!("services.{name}"),
                format!(
                    "it is `{}` in the mesh, as `{other}` is: label one with hopguard.dev/service",
                    plan.service
                ),
            );
            refusals.extend(judge.into_refusals());
        }
    }
    plans
}

fn plan(
    name: &str,
    service: &Node,
    settings: &Settings,
    (judge, report): (&mut Judge, &mut Report),
) -> Option<Redirect> {
    let path = format!("services.{name}");
    if service.as_map().is_none() {
        judge.refuse(path, "this is no mapping");
        return None;
    }
    let said = labels(service);
    let said_of = |key: &str| {
        said.iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    };
    match said_of("inject") {
        Some("false") => {
            report
                .left
                .push((name.to_owned(), "`hopguard.dev/inject` is \"false\"".to_owned()));
            return None;
        }
        None | Some("true") => {}
        Some(_) => judge.refuse(
            format!("{path}.labels.{PREFIX}inject"),
            "say \"true\" or \"false\", as a text",
        ),
    }
    if service.text_at(&["network_mode"]) == Some("none") {
        report
            .left
            .push((name.to_owned(), "it has no network".to_owned()));
        return None;
    }
    let keys: Vec<&str> = said.iter().map(|(key, _)| key.as_str()).collect();
    let default = Some(format!("{}/{name}", settings.namespace));
    let redirect = Redirect::read(said_of, &keys, (default, settings), judge);
    let uid = redirect.as_ref().map_or(settings.uid, |redirect| redirect.uid);
    check::service(service, (&path, uid), judge, report);
    redirect
}

/// What stands under our prefix among the labels of a service, without the prefix.
fn labels(service: &Node) -> Vec<(String, String)> {
    let ours = |key: &str, value: &str| Some((key.strip_prefix(PREFIX)?.to_owned(), value.to_owned()));
    match service.get("labels") {
        Some(Node::Map(map)) => map
            .iter()
            .filter_map(|(key, value)| ours(key, value.text()?))
            .collect(),
        Some(list) => list
            .items()
            .iter()
            .filter_map(|label| {
                let (key, value) = label.text()?.split_once('=')?;
                ours(key, value)
            })
            .collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
