//! `hopguard why PID`: what is found about a process, which entries were considered, and the first thing that each misses.
//! The same code attests and judges as for a caller that asks for its identity.

use std::sync::Arc;

use serde_json::{Value, json};

use super::entries::{Registry, shown, with};
use crate::admin::Refused;
use crate::attest::{AttestError, Peer};
use crate::registration::{Entries, Fact, Facts, Judgement};
use crate::workload::Caller;

impl Registry {
    /// What a process would get at a socket: the one that it is connected to, if none is named.
    ///
    /// # Errors
    /// When there is no such process or socket.
    pub async fn why(&self, pid: i32, socket: Option<&str>) -> Result<Value, Refused> {
        let streams: Vec<Caller> = self.shared.streams().callers();
        let streams: Vec<Caller> = streams.into_iter().filter(|one| one.peer.pid() == pid).collect();
        let connected: Vec<&Caller> = streams.iter().filter(|one| one.peer.check().is_ok()).collect();
        let sockets = self.scope.sockets.clone().unwrap_or_default();
        let socket = chosen(socket, &connected, &sockets)?;
        // As it was when it connected; else as it is now.
        let at_socket = connected.iter().find(|one| one.peer.socket() == &*socket);
        let peer = match at_socket.or(connected.first()) {
            Some(stream) => stream.peer.at(socket.clone()),
            None => Peer::named(pid, socket.clone()).map_err(|error| nobody(pid, &error))?,
        };
        let facts = peer.all_facts(self.shared.inspector()).await;
        let facts = facts.map_err(|error| nobody(pid, &error))?;
        let entries = self.entries.borrow().clone();
        let grants: Vec<Value> = entries
            .matching(&facts)
            .grants
            .iter()
            .map(|grant| {
                let revoked = self.shared.revoked(&grant.id);
                json!({"spiffe_id": grant.id.to_string(), "hint": grant.hint, "revoked": revoked})
            })
            .collect();
        let connected: Vec<Value> = connected
            .iter()
            .map(|one| {
                let ids: Vec<String> = one.ids.iter().map(ToString::to_string).collect();
                json!({"socket": one.peer.socket(), "since": super::super::seconds(one.since), "has": ids})
            })
            .collect();
        Ok(json!({
            "pid": pid, "socket": &*socket, "sockets": sockets, "connected": connected, "file": self.file,
            "facts": found(&facts), "grants": grants, "entries": considered(&entries, &facts),
        }))
    }
}

fn chosen(named: Option<&str>, connected: &[&Caller], sockets: &[Arc<str>]) -> Result<Arc<str>, Refused> {
    if let Some(name) = named {
        let known = sockets.iter().find(|socket| ***socket == *name);
        return known.cloned().ok_or_else(|| {
            let names = sockets.join(", ");
            Refused::new(
                format!("no [[workload_api]] of ca.toml has the name `{name}`"),
                format!("its sockets are named {names}"),
            )
        });
    }
    let connected = connected.first().map(|stream| Arc::from(stream.peer.socket()));
    let usual = || {
        sockets
            .iter()
            .find(|socket| &***socket == "default")
            .or(sockets.first())
            .cloned()
    };
    Ok(connected.or_else(usual).unwrap_or_else(|| "default".into()))
}

fn nobody(pid: i32, error: &AttestError) -> Refused {
    let hint = match error {
        AttestError::Gone(_) | AttestError::Invisible => {
            "PIDs are those of the authority's own PID namespace: `ps -o pid,args` beside it prints them"
        }
        AttestError::Unmapped(_) => "map the uid into the user namespace of the authority",
        AttestError::Replaced(_) => "it is refused until it connects anew",
        AttestError::Kernel(_) => "name the process itself (its thread group)",
    };
    match error {
        AttestError::Gone(_) => {
            Refused::new(format!("there is no process {pid} that the authority sees"), hint)
        }
        other => Refused::new(format!("nothing is known of process {pid}: {other}"), hint),
    }
}

fn found(facts: &Facts) -> Value {
    let cgroup = &facts.cgroup;
    let slices = cgroup.clone().and_then(|cgroup| match cgroup.slices.as_slice() {
        [] => Fact::Absent(format!("its control group {} is in no slice", cgroup.path).into()),
        slices => Fact::Proven(slices.join(", ")),
    });
    json!([
        told("uid", &facts.uid),
        told("gid", &facts.gid),
        told("user", &facts.user),
        told("group", &facts.group),
        told("socket", &Fact::Proven(&*facts.socket)),
        told("cgroup", &cgroup.clone().map(|cgroup| cgroup.path)),
        told("unit", &facts.unit()),
        told("slices", &slices),
        told("container", &facts.container()),
        told("path", &facts.path.clone().map(|path| path.display().to_string())),
        told("sha256", &facts.sha256.clone().map(hex::encode)),
    ])
}

fn told<T: ToString>(name: &str, fact: &Fact<T>) -> Value {
    let (state, key, text) = match fact {
        Fact::Proven(value) => ("proven", "value", value.to_string()),
        Fact::Absent(reason) => ("absent", "reason", reason.to_string()),
        Fact::Unproven(reason) => ("unproven", "reason", reason.to_string()),
        Fact::Unasked => ("unproven", "reason", "it was not read".to_owned()),
    };
    json!({"name": name, "state": state, key: text})
}

/// Every entry with its outcome, in the order of the file.
fn considered(entries: &Entries, facts: &Facts) -> Vec<Value> {
    let mut granted = std::collections::BTreeSet::new();
    entries
        .iter()
        .map(|entry| {
            let told = with(shown(entry), json!({"held": entry.held(facts)}));
            let outcome = match entry.judge(facts) {
                Judgement::Match(id) => {
                    let (name, again) = (id.to_string(), !granted.insert(id));
                    json!({"outcome": "granted", "grants": name, "again": again})
                }
                Judgement::Mismatch(condition) => json!({
                    "outcome": "mismatch", "condition": condition.to_string(), "found": facts.found(&condition),
                }),
                Judgement::Refused(condition, reason) => json!({
                    "outcome": "refused", "condition": condition.to_string(), "found": facts.found(&condition),
                    "reason": &*reason,
                }),
                Judgement::Open(ask) => json!({"outcome": "refused", "reason": format!("not read: {ask:?}")}),
            };
            with(told, outcome)
        })
        .collect()
}
