//! What the sidecars wrote about what they saw: lines of JSON enter, hops leave. It believes the records and nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::files;
use super::pods::{PODS, meshed};
use crate::explain::by_id;

/// One hop: a request or connection that a sidecar let in, or did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Who called: a workload by its name, else the machine.
    pub src: String,
    /// Whose sidecar wrote it.
    pub dst: String,
    /// The user for whom, when one was proven.
    pub user: Option<String>,
    /// `allow` or `deny`.
    pub verdict: String,
    /// The rules that decided, or the rule that would have been needed.
    pub rule: Option<String>,
    /// Why, in a stable word.
    pub reason: String,
    /// Why, for people.
    pub detail: Option<String>,
    /// Whether the caller proved an identity.
    pub identity: bool,
    /// The answer, when it was HTTP.
    pub status: Option<u16>,
    /// The trace that the caller began; a connection that ended before HTTP has none.
    #[serde(skip)]
    pub trace: Option<String>,
}

/// The records of every sidecar, from where they were last read.
pub struct Records {
    files: Vec<Tail>,
    reasons: BTreeMap<String, String>,
}

struct Tail {
    pod: &'static str,
    path: PathBuf,
    read: u64,
    partial: Vec<u8>,
}

impl Records {
    /// All records from here on. `policies` is the text whose annotations explain the rules.
    pub fn new(policies: &str) -> Self {
        let tail = |pod: &'static str| Tail {
            pod,
            path: files::records(pod),
            read: 0,
            partial: Vec::new(),
        };
        Self {
            files: meshed().map(|pod| tail(pod.name)).collect(),
            reasons: reasons(policies),
        }
    }

    /// The hops that were written since the last call, outermost pod first.
    pub fn new_hops(&mut self) -> Vec<Hop> {
        let mut hops = Vec::new();
        for tail in &mut self.files {
            let pod = tail.pod;
            hops.extend(tail.lines().iter().filter_map(|line| {
                let mut hop = hop(pod, line, &self.reasons)?;
                hop.explain(pod, line);
                Some(hop)
            }));
        }
        hops
    }
}

impl Tail {
    /// Whole new lines. A file that is not there yet has none.
    fn lines(&mut self) -> Vec<Value> {
        let mut new = Vec::new();
        let opened = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut new)
        });
        self.read += opened.unwrap_or(0) as u64;
        self.partial.extend(new);
        let whole = self
            .partial
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.partial.drain(..whole).collect();
        lines
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

fn hop(pod: &str, record: &Value, reasons: &BTreeMap<String, String>) -> Option<Hop> {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let verdict = text("/decision/verdict");
    let outbound = text("/direction")? == "outbound";
    // What was let out is told by whoever let it in.
    if outbound && verdict.as_deref() == Some("allow") {
        return None;
    }
    let rule = text("/decision/rule")
        .or_else(|| text("/decision/rules/0"))
        .or_else(|| text("/decision/needs/rule"));
    let explained = rule.as_ref().and_then(|rule| reasons.get(rule)).cloned();
    let identity = text("/src/spiffe_id");
    let named = |pointer: &str| text(pointer).map_or_else(|| "?".to_owned(), |address| machine(&address));
    let (src, dst) = if outbound {
        (pod.to_owned(), named("/dst/addr"))
    } else {
        (
            identity.as_deref().map_or_else(|| named("/src/addr"), workload),
            pod.to_owned(),
        )
    };
    Some(Hop {
        src,
        dst,
        user: text("/user/sub"),
        // A connection that ended before it could be decided on was not let in.
        verdict: verdict.unwrap_or_else(|| "deny".to_owned()),
        rule,
        reason: text("/decision/reason")
            .or_else(|| text("/error"))
            .unwrap_or_default(),
        detail: explained
            .or_else(|| text("/decision/detail"))
            .or_else(|| text("/detail")),
        identity: identity.is_some(),
        status: record
            .pointer("/http/status")
            .and_then(Value::as_u64)
            .and_then(|status| u16::try_from(status).ok()),
        trace: text("/trace_id").filter(|_| text("/kind").as_deref() == Some("request")),
    })
}

impl Hop {
    /// Adds what the nearest policy needed, as the sidecar of `pod` explains the refusal.
    fn explain(&mut self, pod: &str, record: &Value) {
        let id = record.get("request_id").and_then(Value::as_str);
        let Some(id) = id.filter(|_| self.verdict == "deny" && self.rule.is_some()) else {
            return;
        };
        let explained = by_id(&files::pod_folder(pod).join("admin.sock"), id);
        let nearest = explained.ok().and_then(|explained| explained.decision?.nearest);
        if let Some(nearest) = nearest {
            let colon = self.detail.as_ref().map_or("", |_| ": ");
            let detail = self.detail.take().unwrap_or_default();
            self.detail = Some(format!("{detail}{colon}{}", nearest.needs.join("; ")));
        }
    }
}

/// The last segment of a SPIFFE ID: here, the pod's name.
fn workload(id: &str) -> String {
    id.rsplit('/').next().unwrap_or(id).to_owned()
}

/// The pod that has the address.
fn machine(address: &str) -> String {
    let ip = address
        .parse::<SocketAddr>()
        .map(|socket| socket.ip())
        .or_else(|_| address.parse::<IpAddr>());
    let Ok(ip) = ip.map(|ip| ip.to_canonical()) else {
        return address.to_owned();
    };
    let pod = PODS.iter().find(|pod| pod.owns(ip));
    pod.map_or_else(|| address.to_owned(), |pod| pod.name.to_owned())
}

/// `@reason` of each `@id` of a policy text.
fn reasons(policies: &str) -> BTreeMap<String, String> {
    let annotation = |line: &str, name: &str| {
        let quoted = line
            .trim()
            .strip_prefix(name)?
            .strip_prefix("(\"")?
            .strip_suffix("\")")?;
        Some(quoted.to_owned())
    };
    let mut found = BTreeMap::new();
    let mut id = None;
    for line in policies.lines() {
        id = annotation(line, "@id").or(id);
        if let (Some(id), Some(reason)) = (&id, annotation(line, "@reason")) {
            found.insert(id.clone(), reason);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_becomes_a_hop_between_names() {
        let record = json!({
            "direction": "inbound", "kind": "request", "trace_id": "t", "src": {"addr": "[::ffff:10.77.0.12]:4711", "spiffe_id": "spiffe://mesh.local/ns/shop/sa/orders"},
            "user": {"sub": "bob"}, "http": {"status": 403},
            "decision": {"verdict": "deny", "reason": "no_rule", "needs": {"rule": "r"}},
        });
        let reasons = reasons("@id(\"r\")\n@reason(\"for clerks\")\npermit(...);");
        let hop = hop("payments", &record, &reasons).unwrap();
        assert_eq!(
            (hop.src.as_str(), hop.dst.as_str(), hop.user.as_deref()),
            ("orders", "payments", Some("bob"))
        );
        assert_eq!(
            (hop.rule.as_deref(), hop.detail.as_deref()),
            (Some("r"), Some("for clerks"))
        );
        assert_eq!(
            (hop.status, hop.identity, hop.trace.as_deref()),
            (Some(403), true, Some("t"))
        );
    }

    #[test]
    fn a_caller_without_identity_is_known_by_its_machine() {
        for address in [
            "10.77.0.15:1",
            "[::ffff:10.77.0.15]:1",
            "[fd77::15]:1",
            "fd77::15",
        ] {
            assert_eq!(machine(address), "stranger", "{address}");
        }
        assert_eq!(machine("192.0.2.1:5"), "192.0.2.1:5");
    }

    #[test]
    fn a_connection_that_ended_before_the_decision_was_refused() {
        let record = json!({
            "direction": "inbound", "kind": "connection", "trace_id": "t", "src": {"addr": "10.77.0.15:5"}, "error": "handshake", "detail": "no certificate",
        });
        let hop = hop("payments", &record, &BTreeMap::new()).unwrap();
        assert_eq!(
            (hop.src.as_str(), hop.verdict.as_str(), hop.reason.as_str()),
            ("stranger", "deny", "handshake")
        );
        assert_eq!((hop.detail.as_deref(), hop.trace), (Some("no certificate"), None));
    }

    #[test]
    fn of_outbound_records_only_refusals_are_hops() {
        let record = |verdict: &str| json!({"direction": "outbound", "src": {"spiffe_id": "spiffe://mesh.local/x/web"}, "dst": {"addr": "10.77.0.15:80"}, "decision": {"verdict": verdict}});
        assert!(hop("web", &record("allow"), &BTreeMap::new()).is_none());
        let refused = hop("web", &record("deny"), &BTreeMap::new()).unwrap();
        assert_eq!((refused.src.as_str(), refused.dst.as_str()), ("web", "stranger"));
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let mut tail = Tail {
            pod: "web",
            path: path.clone(),
            read: 0,
            partial: Vec::new(),
        };
        assert!(tail.lines().is_empty());
        std::fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        assert_eq!(tail.lines(), [json!({"a": 1})]);
        std::fs::write(&path, "{\"a\":1}\n{\"b\":2}\n").unwrap();
        assert_eq!(tail.lines(), [json!({"b": 2})]);
    }
}
