//! `hopguard entry`: the entries in force, what a new file would change and for whom, and when a change is in force. The
//! file is the only place where entries are changed; nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::seconds;
use crate::admin::Refused;
use crate::attest::{Peer, unknown_group, unknown_user};
use crate::problem::Problem;
use crate::registration::{self, Entries, Entry, Scope, Seen, Selector};
use crate::store::Store;
use crate::workload::{Caller, Shared};

/// The file is looked at many times a second, and read once it is still.
const PATIENCE: Duration = Duration::from_secs(15);
/// Callers that are looked at together.
const AT_ONCE: usize = 64;
/// Identities of one template whose SVIDs are told.
const MOST_IDS: usize = 1000;
/// Names that nobody has, of one file.
const MOST_PROBLEMS: usize = 100;

/// The entries, where they come from, and whom they reach.
pub struct Registry {
    /// The file.
    pub file: PathBuf,
    /// What it may name.
    pub scope: Scope,
    /// What is in force.
    pub entries: watch::Receiver<Arc<Entries>>,
    /// What became of the file.
    pub seen: watch::Receiver<Seen>,
    /// Whom it reaches.
    pub shared: Arc<Shared>,
    /// What was issued.
    pub store: Arc<dyn Store>,
}

impl Registry {
    /// Everything that is in force.
    pub fn list(&self) -> Value {
        let seen = self.seen.borrow().clone();
        let entries = self.entries.borrow().clone();
        json!({
            "file": self.file,
            "in_force": seen.in_force,
            "problems": problems(&seen.problems),
            "entries": entries.iter().map(shown).collect::<Vec<_>>(),
        })
    }

    /// One identity, or one template: its entries, the SVIDs of it that are valid, and who has it now.
    ///
    /// # Errors
    /// When nobody ever heard of it, or the store fails.
    pub async fn show(&self, wanted: &str) -> Result<Value, Refused> {
        let entries = self.entries.borrow().clone();
        let id = SpiffeId::new(wanted).ok().filter(|id| id.to_string() == wanted);
        let is_meant = |entry: &&Entry| match &id {
            Some(id) => entry.id.may_be(id),
            None => entry.id.as_str() == wanted,
        };
        let meant: Vec<&Entry> = entries.iter().filter(is_meant).collect();
        let is_it = |one: &SpiffeId| match &id {
            Some(id) => one == id,
            None => meant.iter().any(|entry| entry.id.may_be(one)),
        };
        let callers = self.shared.streams().callers();
        let have: Vec<&Caller> = callers
            .iter()
            .filter(|caller| caller.ids.iter().any(is_it))
            .collect();
        let mut ids: BTreeSet<SpiffeId> = have
            .iter()
            .flat_map(|caller| caller.ids.iter().filter(|one| is_it(one)).cloned())
            .collect();
        ids.extend(id.clone());
        let texts: Vec<String> = ids.iter().take(MOST_IDS).map(ToString::to_string).collect();
        let asked: Vec<&str> = texts.iter().map(String::as_str).collect();
        let svids = self.store.issued(&asked, seconds(SystemTime::now())).await;
        let svids = svids.map_err(|error| Refused::internal(&error))?;
        if meant.is_empty() && have.is_empty() && svids.is_empty() {
            let message = format!("no entry grants `{wanted}`, and nobody has it");
            return Err(Refused::new(
                message,
                "`hopguard entry list` prints the entries in force",
            ));
        }
        let svids: Vec<Value> = svids
            .iter()
            .map(|svid| json!({"spiffe_id": svid.spiffe_id, "serial": svid.serial, "not_after": svid.not_after}))
            .collect();
        let callers: Vec<Value> = have
            .iter()
            .map(|caller| {
                let told = json!({
                    "since": seconds(caller.since), "has": names(caller.ids.iter().filter(|one| is_it(one))),
                    "default": caller.ids.first().is_some_and(is_it),
                });
                with(who(&caller.peer), told)
            })
            .collect();
        Ok(json!({
            "spiffe_id": wanted, "file": self.file, "entries": meant.into_iter().map(shown).collect::<Vec<_>>(),
            "svids": svids, "callers": callers,
        }))
    }

    /// What another text of the file would change, and for whom; of a text that is wrong, what is wrong.
    ///
    /// # Errors
    /// None: what is wrong is the answer.
    pub async fn plan(&self, name: Option<PathBuf>, text: &str) -> Result<Value, Refused> {
        let seen = self.seen.borrow().clone();
        let name = name.unwrap_or_else(|| self.file.clone());
        let told = json!({
            "file": self.file, "in_force": seen.in_force, "digest": registration::digest(text),
            "on_disk": {"digest": seen.read, "problems": problems(&seen.problems)},
        });
        let (text, scope) = (text.to_owned(), self.scope.clone());
        let old = self.entries.borrow().clone();
        let held = old.clone();
        // A text may be long, and names may come from the network.
        let parsed = tokio::task::spawn_blocking(move || {
            let new = Entries::parse(&name, &text, &scope)?;
            let mut unknown = unknown_names(&name, &new);
            unknown.extend(registration::takes_all(&name, &held, &new));
            if unknown.is_empty() { Ok(new) } else { Err(unknown) }
        });
        let new = match parsed.await.map_err(|error| Refused::internal(&error))? {
            Ok(new) => Arc::new(new),
            Err(wrong) => return Ok(with(told, json!({"problems": problems(&wrong)}))),
        };
        let (open, reached) = self.reached(&old, &new).await;
        let compared = tokio::task::spawn_blocking(move || changes(&old, &new));
        let changes = compared.await.map_err(|error| Refused::internal(&error))?;
        let told = with(told, changes);
        Ok(with(
            told,
            json!({"problems": [], "open_callers": open, "callers": reached}),
        ))
    }

    /// How many callers have streams open, and those among them for whom something changes.
    async fn reached(&self, old: &Arc<Entries>, new: &Arc<Entries>) -> (usize, Vec<Value>) {
        let mut peers: BTreeMap<(i32, String), Peer> = BTreeMap::new();
        for caller in self.shared.streams().callers() {
            let key = (caller.peer.pid(), caller.peer.socket().to_owned());
            peers.entry(key).or_insert(caller.peer);
        }
        let count = peers.len();
        let mut waiting = peers.into_iter();
        let mut looking = JoinSet::new();
        let mut reached = BTreeMap::new();
        loop {
            while looking.len() < AT_ONCE
                && let Some((key, peer)) = waiting.next()
            {
                let (shared, old, new) = (self.shared.clone(), old.clone(), new.clone());
                looking.spawn(async move { (key, effect(&shared, &peer, &old, &new).await) });
            }
            match looking.join_next().await {
                Some(Ok((key, Some(effect)))) => {
                    reached.insert(key, effect);
                }
                Some(_) => {}
                None => return (count, reached.into_values().collect()),
            }
        }
    }

    /// Waits until the authority has read a text of its file: is it in force?
    ///
    /// # Errors
    /// When it does not come to see it.
    pub async fn settled(&self, digest: &str) -> Result<Value, Refused> {
        let mut seen = self.seen.clone();
        let read = |seen: &Seen| seen.read.as_deref() == Some(digest);
        match tokio::time::timeout(PATIENCE, seen.wait_for(read)).await {
            Ok(Ok(seen)) => Ok(json!({
                "in_force": seen.in_force.as_deref() == Some(digest), "problems": problems(&seen.problems),
            })),
            Ok(Err(_)) => Err(Refused::internal(&"the entries file is no longer followed")),
            Err(_) => Err(Refused::new(
                format!(
                    "{} does not hold that text for the authority",
                    self.file.display()
                ),
                "does it see the same file (containers, bind mounts)? its log says what it read",
            )),
        }
    }
}

/// What another text changes, whoever it reaches.
fn changes(old: &Entries, new: &Entries) -> Value {
    let difference = old.difference(new);
    let all = |entries: &[&Entry]| entries.iter().map(|entry| shown(entry)).collect::<Value>();
    let changed = difference.changed.iter();
    let changed = changed.map(|(before, after)| json!({"before": shown(before), "after": shown(after)}));
    json!({
        "added": all(&difference.added), "removed": all(&difference.removed), "changed": changed.collect::<Value>(),
        "reordered": difference.reordered,
    })
}

/// What changes for one caller, if anything.
async fn effect(shared: &Shared, peer: &Peer, old: &Entries, new: &Entries) -> Option<Value> {
    let mut before = Vec::new();
    let mut after = Vec::new();
    for (entries, ids) in [(old, &mut before), (new, &mut after)] {
        // Who has ended loses nothing.
        let facts = peer.facts(entries, shared.inspector()).await.ok()?;
        ids.extend(entries.matching(&facts).grants.into_iter().map(|grant| grant.id));
    }
    let gains: Vec<&SpiffeId> = after.iter().filter(|id| !before.contains(id)).collect();
    let loses: Vec<&SpiffeId> = before.iter().filter(|id| !after.contains(id)).collect();
    let turned = before.first() != after.first();
    if gains.is_empty() && loses.is_empty() && !turned {
        return None;
    }
    let told = json!({
        "gains": names(gains.into_iter()), "loses": names(loses.into_iter()), "nothing_left": after.is_empty(),
    });
    let told = with(who(peer), told);
    if !turned {
        return Some(told);
    }
    let name = |ids: &[SpiffeId]| ids.first().map(ToString::to_string);
    Some(with(
        told,
        json!({"default": {"before": name(&before), "after": name(&after)}}),
    ))
}

fn who(peer: &Peer) -> Value {
    json!({"pid": peer.pid(), "uid": peer.uid(), "socket": peer.socket()})
}

fn names<'a>(ids: impl Iterator<Item = &'a SpiffeId>) -> Value {
    ids.map(ToString::to_string).collect()
}

/// Both objects in one.
pub fn with(mut told: Value, more: Value) -> Value {
    if let (Value::Object(all), Value::Object(more)) = (&mut told, more) {
        all.extend(more);
    }
    told
}

/// An entry as operators see it.
pub fn shown(entry: &Entry) -> Value {
    let selectors: Vec<String> = entry.selectors.iter().map(ToString::to_string).collect();
    json!({
        "spiffe_id": entry.id.as_str(), "selectors": selectors, "hint": entry.hint, "line": entry.line,
        "template": entry.id.is_template(),
    })
}

fn problems(problems: &[Problem]) -> Value {
    let one = |problem: &Problem| {
        json!({
            "file": problem.file, "line": problem.line, "column": problem.column, "message": problem.message,
            "hint": problem.hint,
        })
    };
    problems.iter().map(one).collect()
}

/// Selectors whose user or group is not known on this machine: they name nobody.
pub fn unknown_names(file: &std::path::Path, entries: &Entries) -> Vec<Problem> {
    let mut known: BTreeMap<&Selector, Option<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in entries.iter() {
        for (at, selector) in entry.selectors.iter().enumerate() {
            let unknown = known.entry(selector).or_insert_with(|| match selector {
                Selector::User(name) => unknown_user(name),
                Selector::Group(name) => unknown_group(name),
                _ => None,
            });
            if let Some(why) = unknown {
                if found.len() >= MOST_PROBLEMS {
                    return found;
                }
                let mut problem = Problem::whole(file, format!("`{selector}` names nobody: {why}"));
                (problem.line, problem.column) = entry.places.get(at).copied().unwrap_or((entry.line, 1));
                found.push(problem.hint("make the account, or remove the entry"));
            }
        }
    }
    found
}
