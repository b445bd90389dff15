//! The seven scenarios, as data: who calls whom with what, and what must come of it. Nothing is done here.

use serde::Serialize;

/// One scenario.
pub struct Scenario {
    /// Its number.
    pub id: u8,
    /// What happens, in one line.
    pub title: &'static str,
    /// What is tried, one after the other.
    pub attempts: &'static [Attempt],
    /// What must come of each attempt.
    pub expected: Expected,
    /// The hops that the sidecars must have recorded, for each attempt.
    pub hops: &'static [ExpectedHop],
}

/// One call.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// What is special about it.
    pub how: &'static str,
    /// The pod from which it is made.
    pub from: &'static str,
    /// The pod that is called.
    pub to: &'static str,
    /// The port.
    pub port: u16,
    /// The path of the POST.
    pub path: &'static str,
    /// Whose token it carries.
    pub user: &'static str,
    /// How the token is forged.
    pub flaw: &'static str,
    /// What is below HTTP.
    pub below: Below,
}

/// What is below HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// Nothing: plain TCP, as every application speaks it.
    Plain,
    /// TLS without a certificate.
    Anonymous,
    /// TLS with a certificate that claims to be `orders`, made by a CA that nobody knows.
    SelfMade,
}

/// What must come of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// This answer.
    Status(u16),
    /// No answer at all: refused before HTTP.
    Refused,
}

/// A hop that must have been recorded.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpectedHop {
    /// Who called.
    pub src: &'static str,
    /// Who was called.
    pub dst: &'static str,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// For whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'static str>,
    /// The rule that decided, or would have been needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'static str>,
    /// Why, in the record's stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Scenario {
    /// How many requests the application of `payments` must have counted.
    pub fn charges(&self) -> u64 {
        if self.expected == Expected::Status(200) {
            self.attempts.len() as u64
        } else {
            0
        }
    }

    /// How many hops must have been recorded before it can be judged.
    pub fn recorded(&self) -> usize {
        self.hops.len() * self.attempts.len()
    }
}

const fn order(how: &'static str, user: &'static str, flaw: &'static str) -> Attempt {
    Attempt {
        how,
        from: "laptop",
        to: "web",
        port: 8080,
        path: "/order",
        user,
        flaw,
        below: Below::Plain,
    }
}

const fn charge(how: &'static str, from: &'static str, port: u16, below: Below) -> Attempt {
    Attempt {
        how,
        from,
        to: "payments",
        port,
        path: "/charge",
        user: "alice",
        flaw: "none",
        below,
    }
}

const fn hop(src: &'static str, dst: &'static str, verdict: &'static str) -> ExpectedHop {
    ExpectedHop {
        src,
        dst,
        verdict,
        user: None,
        rule: None,
        reason: None,
    }
}

const fn decided(hop: ExpectedHop, user: &'static str, rule: &'static str) -> ExpectedHop {
    ExpectedHop {
        user: Some(user),
        rule: Some(rule),
        ..hop
    }
}

/// All of them, in the order in which they are told.
pub const SCENARIOS: [Scenario; 7] = [
    Scenario {
        id: 1,
        title: "alice, who is a clerk, orders: web, orders and payments each prove who they are, and for whom they call",
        attempts: &[order("alice's token", "alice", "none")],
        expected: Expected::Status(200),
        hops: &[
            decided(hop("laptop", "web", "allow"), "alice", "front-door"),
            decided(hop("web", "orders", "allow"), "alice", "web-places-orders"),
            decided(
                hop("orders", "payments", "allow"),
                "alice",
                "orders-charges-for-clerks",
            ),
        ],
    },
    Scenario {
        id: 2,
        title: "bob, who has no role, orders: payments is the first that minds",
        attempts: &[order("bob's token", "bob", "none")],
        expected: Expected::Status(403),
        hops: &[
            decided(hop("laptop", "web", "allow"), "bob", "front-door"),
            decided(hop("web", "orders", "allow"), "bob", "web-places-orders"),
            decided(
                hop("orders", "payments", "deny"),
                "bob",
                "orders-charges-for-clerks",
            ),
        ],
    },
    Scenario {
        id: 3,
        title: "web skips orders and calls payments itself, with alice's valid token: web may not",
        attempts: &[charge("alice's token", "web", 8080, Below::Plain)],
        expected: Expected::Status(403),
        hops: &[decided(
            hop("web", "payments", "deny"),
            "alice",
            "orders-charges-for-clerks",
        )],
    },
    Scenario {
        id: 4,
        title: "a machine without identity replays alice's token: refused before HTTP",
        attempts: &[
            charge(
                "TLS to 15008, no certificate",
                "stranger",
                15008,
                Below::Anonymous,
            ),
            charge(
                "TLS to 15008, a self-made certificate of orders",
                "stranger",
                15008,
                Below::SelfMade,
            ),
            charge("TLS to 8080, no certificate", "stranger", 8080, Below::Anonymous),
            charge(
                "TLS to 8080, a self-made certificate of orders",
                "stranger",
                8080,
                Below::SelfMade,
            ),
        ],
        expected: Expected::Refused,
        hops: &[hop("stranger", "payments", "deny")],
    },
    Scenario {
        id: 5,
        title: "the same machine speaks plaintext to the port of payments: refused",
        attempts: &[charge("plain HTTP to 8080", "stranger", 8080, Below::Plain)],
        expected: Expected::Refused,
        hops: &[hop("stranger", "payments", "deny")],
    },
    Scenario {
        id: 6,
        title: "forged tokens: no provider signed them, or not for now",
        attempts: &[
            order("no signature (alg none)", "alice", "alg_none"),
            order("signed with another key", "alice", "wrong_key"),
            order("expired", "alice", "expired"),
        ],
        expected: Expected::Status(401),
        hops: &[hop("laptop", "web", "deny")],
    },
    Scenario {
        id: 7,
        title: "payments, whose identity is good and whom the policy allows, replays alice's token at orders: it is web's",
        attempts: &[Attempt {
            how: "alice's token, taken from web",
            from: "payments",
            to: "orders",
            port: 8080,
            path: "/order",
            user: "alice",
            flaw: "none",
            below: Below::Plain,
        }],
        expected: Expected::Status(401),
        hops: &[ExpectedHop {
            reason: Some("not_bound_to_caller"),
            ..hop("payments", "orders", "deny")
        }],
    },
];
