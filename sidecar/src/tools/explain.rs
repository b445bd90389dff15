//! One refusal, explained: its record enters, with what the decision was made on and the policies, and everything that
//! is known about it leaves. The same for a running sidecar and for a record from a log.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::authz::{Explanation, Inputs, Policies};

use super::advice::advice;

/// Everything that is known about one refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The id that the answer named.
    pub id: String,
    /// When it was recorded.
    pub at: String,
    /// `request` or `connection`.
    pub kind: String,
    /// `inbound` or `outbound`, as seen from the application beside the sidecar.
    pub direction: String,
    /// `allow` or `deny`: what was let in may still have been ended, or not answered.
    pub verdict: String,
    /// The stable label of why.
    pub reason: String,
    /// The answer, when it was HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
    /// The calling workload; none was proven without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Address and port of the caller.
    pub peer_address: String,
    /// The user, as records show it; no token proved one without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Value>,
    /// Who was called: the service and its port, or an address.
    pub called: String,
    /// The request: method, and route or path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The failure in words, where it is no decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The version of the policies in force then.
    pub policy_version: String,
    /// What the decision was made on, as far as it may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Value>,
    /// The decision, policy by policy; none when no policy was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Explanation>,
    /// What limits this explanation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What to do.
    pub hint: String,
}

/// Explains a record. `inputs` is what its decision was made on, where that is known beyond the record itself.
pub fn explain(record: &Value, inputs: Option<&Inputs>, policies: Option<&Policies>) -> Explained {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let mut explained = Explained {
        id: text("/request_id").unwrap_or_default(),
        at: text("/ts").unwrap_or_default(),
        kind: text("/kind").unwrap_or_default(),
        direction: text("/direction").unwrap_or_default(),
        verdict: text("/decision/verdict").unwrap_or_else(|| "deny".to_owned()),
        reason: reason(record),
        status: record.pointer("/http/status").and_then(Value::as_u64),
        peer: text("/src/spiffe_id"),
        peer_address: text("/src/addr").unwrap_or_default(),
        user: record.get("user").cloned(),
        called: called(record),
        request: request(record),
        detail: text("/detail"),
        policy_version: text("/decision/policy_version").unwrap_or_default(),
        inputs: record.get("inputs").cloned(),
        decision: None,
        notes: Vec::new(),
        hint: String::new(),
    };
    let of_the_record = || serde_json::from_value::<Inputs>(record.get("inputs")?.clone()).ok();
    let inputs = inputs.cloned().or_else(of_the_record);
    if let (Some(inputs), Some(policies)) = (&inputs, policies) {
        decided(&mut explained, record, inputs, policies);
    }
    explained.hint = hint(&explained, record);
    explained
}

/// What went wrong: a failure after the decision, or the decision.
fn reason(record: &Value) -> String {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let denied = text("/decision/verdict") == Some("deny");
    let (decided, failed) = (text("/decision/reason"), text("/error"));
    let reason = if denied {
        decided.or(failed)
    } else {
        failed.or(decided)
    };
    reason.unwrap_or_default().to_owned()
}

fn decided(explained: &mut Explained, record: &Value, inputs: &Inputs, policies: &Policies) {
    let shown = match record.pointer("/user/sub").and_then(Value::as_str) {
        Some(_) => None,
        None => Some(
            record
                .pointer("/user/hash")
                .and_then(Value::as_str)
                .unwrap_or("(not shown)"),
        ),
    };
    let decision = match policies.explain(inputs, shown) {
        Ok(decision) => decision,
        Err(error) => {
            return explained
                .notes
                .push(format!("it cannot be decided again: {error}"));
        }
    };
    if decision.policy_version != explained.policy_version {
        explained.notes.push(format!(
            "it was decided under the policies of version {}, and is explained with version {}",
            explained.policy_version, decision.policy_version
        ));
    }
    if !inputs.withheld.is_empty() {
        explained.notes.push(format!(
            "a policy read what is not kept, so its clauses may come out otherwise: {}",
            inputs.withheld.join(", ")
        ));
    }
    if decision.verdict != explained.verdict {
        explained.notes.push(format!(
            "decided again, the answer is `{}` ({})",
            decision.verdict, decision.reason
        ));
    }
    explained.decision = Some(decision);
}

fn hint(explained: &Explained, record: &Value) -> String {
    let agrees = explained
        .decision
        .as_ref()
        .filter(|decision| decision.verdict == explained.verdict);
    if let Some(decision) = agrees.filter(|decision| decision.verdict == "deny") {
        return decision.hint.clone();
    }
    if let Some(advice) = advice(&explained.reason) {
        return advice.to_owned();
    }
    let needs = |field: &str| {
        let needs = record.pointer("/decision/needs")?;
        needs.get(field)?.as_str()
    };
    if let (Some(rule), Some(text)) = (needs("rule"), needs("text")) {
        return format!("nearest is `{rule}`: {text}");
    }
    match explained.status {
        // Only what the reading of requests refuses: a token or a policy is told above, by its own label.
        Some(400 | 408 | 413..=431) => {
            "the request can be read in two ways, or breaks a rule of HTTP: send it as the detail says; \
             docs/request-attacks.md lists what is refused, and why"
                .to_owned()
        }
        _ => explained
            .detail
            .clone()
            .unwrap_or_else(|| explained.reason.clone()),
    }
}

fn called(record: &Value) -> String {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let port = record.pointer("/dst/port").and_then(Value::as_u64);
    match (text("/dst/service"), text("/dst/addr"), port) {
        (Some(service), _, Some(port)) => format!("{service}:{port}"),
        (Some(service), ..) => service.to_owned(),
        (None, Some(address), _) => address.to_owned(),
        (None, None, _) => "?".to_owned(),
    }
}

fn request(record: &Value) -> Option<String> {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let method = text("/http/method").filter(|method| !method.is_empty())?;
    let what = text("/http/route").or_else(|| text("/http/path"));
    let host = text("/http/host").map(|host| format!(" (host {host})"));
    Some(format!(
        "{method} {}{}",
        what.unwrap_or("?"),
        host.unwrap_or_default()
    ))
}
