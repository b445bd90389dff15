//! The seven scenarios, played by the real binary in namespaces with real iptables; each one asserted for itself, with both
//! address families and in a network that has no IPv4 address at all.

#![cfg(test)]

use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{hopguard, output_within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

static BOTH: LazyLock<Value> = LazyLock::new(|| told(&[]));
static SIX: LazyLock<Value> = LazyLock::new(|| told(&["--ipv6-only"]));

/// What `hopguard demo --once -o json` says; `ok` and the exit code must say the same.
fn told(arguments: &[&str]) -> Value {
    let mut command = hopguard();
    command.args(["-o", "json", "demo", "--once"]).args(arguments);
    let output = output_within(PATIENCE, command).unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let said: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    assert_eq!(
        output.status.code(),
        Some(if said["ok"] == true { 0 } else { 1 }),
        "{said}{stderr}"
    );
    assert_eq!(said["scenarios"].as_array().unwrap().len(), 7);
    said
}

/// In both kinds of network: the scenario's own verdict on itself is not asked.
fn each_network(id: usize, check: impl Fn(&Value)) {
    for said in [&*BOTH, &*SIX] {
        let scenario = &said["scenarios"][id - 1];
        assert_eq!(scenario["id"], id);
        check(scenario);
    }
}

/// `src>dst verdict` of each hop, in order.
fn hops(scenario: &Value) -> Vec<String> {
    let hops = scenario["observed"]["hops"].as_array().unwrap();
    let text = |hop: &Value, field: &str| hop[field].as_str().unwrap_or("-").to_owned();
    hops.iter()
        .map(|hop| {
            format!(
                "{}>{} {}",
                text(hop, "src"),
                text(hop, "dst"),
                text(hop, "verdict")
            )
        })
        .collect()
}

fn statuses(scenario: &Value) -> Vec<Option<u64>> {
    scenario["observed"]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["status"].as_u64())
        .collect()
}

#[test]
fn alice_orders_and_each_of_three_hops_is_decided() {
    each_network(1, |scenario| {
        assert_eq!(statuses(scenario), [Some(200)], "{scenario}");
        assert_eq!(
            hops(scenario),
            ["laptop>web allow", "web>orders allow", "orders>payments allow"],
            "{scenario}"
        );
        for (hop, rule) in [
            (0, "front-door"),
            (1, "web-places-orders"),
            (2, "orders-charges-for-clerks"),
        ] {
            let hop = &scenario["observed"]["hops"][hop];
            assert_eq!(
                (&hop["user"], &hop["rule"]),
                (&"alice".into(), &rule.into()),
                "{scenario}"
            );
        }
        assert_eq!(scenario["observed"]["application_requests"], 1, "{scenario}");
    });
}

#[test]
fn bob_is_refused_at_payments_with_the_rule_that_was_needed() {
    each_network(2, |scenario| {
        assert_eq!(statuses(scenario), [Some(403)], "{scenario}");
        assert_eq!(
            hops(scenario),
            ["laptop>web allow", "web>orders allow", "orders>payments deny"],
            "{scenario}"
        );
        let last = &scenario["observed"]["hops"][2];
        assert_eq!(
            (&last["user"], &last["rule"]),
            (&"bob".into(), &"orders-charges-for-clerks".into()),
            "{scenario}"
        );
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn web_may_not_call_payments_even_for_alice() {
    each_network(3, |scenario| {
        assert_eq!(statuses(scenario), [Some(403)], "{scenario}");
        assert_eq!(hops(scenario), ["web>payments deny"], "{scenario}");
        assert_eq!(scenario["observed"]["hops"][0]["user"], "alice", "{scenario}");
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn a_token_replayed_without_identity_is_refused_before_http() {
    each_network(4, |scenario| {
        assert_eq!(statuses(scenario), [None; 4], "{scenario}");
        for attempt in scenario["observed"]["attempts"].as_array().unwrap() {
            assert!(
                attempt["refused"].as_str().unwrap().starts_with("tls"),
                "{scenario}"
            );
        }
        assert_eq!(hops(scenario), ["stranger>payments deny"; 4], "{scenario}");
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn plaintext_to_a_strict_port_is_refused() {
    each_network(5, |scenario| {
        assert_eq!(statuses(scenario), [None], "{scenario}");
        assert_eq!(hops(scenario), ["stranger>payments deny"], "{scenario}");
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn forged_tokens_are_answered_with_401() {
    each_network(6, |scenario| {
        assert_eq!(statuses(scenario), [Some(401); 3], "{scenario}");
        assert_eq!(hops(scenario), ["laptop>web deny"; 3], "{scenario}");
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn a_token_taken_from_one_pod_and_replayed_from_another_is_refused() {
    each_network(7, |scenario| {
        assert_eq!(statuses(scenario), [Some(401)], "{scenario}");
        assert_eq!(hops(scenario), ["payments>orders deny"], "{scenario}");
        let hop = &scenario["observed"]["hops"][0];
        assert_eq!(
            (&hop["reason"], &hop["identity"]),
            (&"not_bound_to_caller".into(), &true.into()),
            "{scenario}"
        );
        assert_eq!(scenario["observed"]["application_requests"], 0, "{scenario}");
    });
}

#[test]
fn the_story_finds_itself_as_it_must_be() {
    for said in [&*BOTH, &*SIX] {
        assert_eq!(said["ok"], true, "{said}");
    }
}
