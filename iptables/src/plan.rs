//! Intent enters, the chains and rules of each family leave: the whole meaning of the redirect in one place, without a look
//! at the machine.
//!
//! Outbound (hook OUTPUT, table nat): the sidecar's own packets pass, what leaves by `lo` passes, exclusions pass, every
//! other TCP connection goes to the sidecar. `-o lo` and not `-d 127.0.0.0/8`: an unprivileged application may bind a socket
//! to a network device and send a packet for 127.0.0.2 onto the wire, past the sidecar.
//!
//! Inbound (hook PREROUTING): exclusions pass, the ports asked for go to the sidecar. Only packets for an address of this
//! machine: what a machine forwards for others is not its own.
//!
//! Guard (table mangle): a TCP packet that should have been redirected and was not (a foreign rule before ours, a packet
//! that connection tracking finds invalid, a socket bound to a device, a connection older than the rules) is dropped instead
//! of passing in the clear. Outbound this is asked in POSTROUTING: only there is the device settled that a packet leaves by.

use std::fmt::Write as _;

use serde::Serialize;

use crate::intent::{InboundPorts, Intent, PortRange, RawIntent, RawOwn, Udp};
use crate::rules::{Family, GUARD_IN, GUARD_OUT, Match, NAT_IN, NAT_OUT, Own, Rule, Table, UDP_OUT, Verdict};

const DNS_PORT: u16 = 53;

/// Where the sidecar knocks to find out whether it would be redirected: discard (RFC 863), which nobody serves. A sidecar
/// that is told by its user or group cannot open a socket that is not its own; so its own sockets, too, are redirected when
/// they go to this port. With a mark it leaves the mark off instead.
pub const PROBE_PORT: u16 = 9;

/// What is to be in place, for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// IPv4 first.
    pub families: Vec<FamilyPlan>,
}

/// What is to be in place for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyPlan {
    /// Which.
    pub family: Family,
    /// Our chains.
    pub chains: Vec<ChainPlan>,
}

/// One chain of ours with the jump that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainPlan {
    /// Its name, table and built-in chain.
    pub own: Own,
    /// The first rules of the built-in chain, in the order of the plan's chains.
    pub jump: Rule,
    /// The rules of our chain.
    pub rules: Vec<Rule>,
}

/// The plan for both families; which of them the machine needs is decided where it is applied.
pub fn plan(intent: &Intent) -> Plan {
    let intent = intent.get();
    Plan {
        families: [Family::Ipv4, Family::Ipv6]
            .map(|family| family_plan(intent, family))
            .to_vec(),
    }
}

fn family_plan(intent: &RawIntent, family: Family) -> FamilyPlan {
    let mut chains = Vec::new();
    if intent.guard {
        chains.push(guard_in(intent));
        chains.push(guard_out(intent, family));
    }
    if intent.udp == Udp::Reject {
        chains.push(udp_out(intent, family));
    }
    chains.push(nat_in(intent));
    chains.push(nat_out(intent, family));
    FamilyPlan { family, chains }
}

fn nat_out(intent: &RawIntent, family: Family) -> ChainPlan {
    let mut rules = own_but_the_probe(intent);
    rules.extend(passing_out(intent, family, Match::TcpTo));
    rules.push(Rule::new(
        [Match::Tcp],
        Verdict::Redirect(intent.outbound_port),
        "everything else goes to the sidecar",
    ));
    ChainPlan {
        own: NAT_OUT,
        jump: jump(
            [Match::Tcp],
            NAT_OUT,
            "before any other rule: connections of this machine",
        ),
        rules,
    }
}

fn nat_in(intent: &RawIntent) -> ChainPlan {
    let to_sidecar = Verdict::Redirect(intent.inbound_port);
    let mut rules = vec![
        Rule::new(
            [Match::InLoopback],
            Verdict::Return,
            "this machine talks to itself",
        ),
        // The outbound listener serves this pod alone: a peer that knocks there is answered as any other peer is.
        Rule::new(
            [Match::TcpTo(PortRange::one(intent.outbound_port))],
            to_sidecar,
            "the outbound listener is not for peers",
        ),
    ];
    rules.extend(passing_in(intent));
    match &intent.inbound_ports {
        InboundPorts::All => {
            rules.push(Rule::new(
                [Match::Tcp],
                to_sidecar,
                "everything else goes to the sidecar",
            ));
        }
        InboundPorts::List(ports) => rules.extend(ports.iter().map(|ports| {
            Rule::new(
                [Match::TcpTo(*ports)],
                to_sidecar,
                "a port that the sidecar serves",
            )
        })),
    }
    let asks = [Match::Tcp, Match::DestLocal];
    ChainPlan {
        own: NAT_IN,
        jump: jump(asks, NAT_IN, "before any other rule: connections to this machine"),
        rules,
    }
}

fn guard_out(intent: &RawIntent, family: Family) -> ChainPlan {
    let mut rules = own_rules(intent);
    rules.extend(excluded_out(intent, family, Match::TcpTo));
    rules.push(Rule::new(
        [],
        Verdict::Drop,
        "was not redirected: not in the clear either",
    ));
    // What is redirected leaves by `lo`. What this machine forwards for others has another source.
    let asks = [
        Match::OutOutside,
        Match::Tcp,
        Match::SourceLocal,
        Match::NotEstablished,
    ];
    ChainPlan {
        own: GUARD_OUT,
        jump: jump(
            asks,
            GUARD_OUT,
            "what leaves this machine and is not of a known connection",
        ),
        rules,
    }
}

fn guard_in(intent: &RawIntent) -> ChainPlan {
    let inbound = PortRange::one(intent.inbound_port);
    let why = "redirected, as it should be (the sidecar refuses what was not)";
    let mut rules = vec![Rule::new([Match::TcpTo(inbound)], Verdict::Return, why)];
    rules.extend(passing_in(intent));
    let why = "was not redirected: the application never sees it";
    match &intent.inbound_ports {
        InboundPorts::All => rules.push(Rule::new([], Verdict::Drop, why)),
        InboundPorts::List(ports) => {
            let outbound = PortRange::one(intent.outbound_port);
            let dropped = std::iter::once(&outbound).chain(ports);
            rules.extend(dropped.map(|ports| Rule::new([Match::TcpTo(*ports)], Verdict::Drop, why)));
        }
    }
    let asks = [Match::InOutside, Match::Tcp, Match::NotEstablished];
    ChainPlan {
        own: GUARD_IN,
        jump: jump(asks, GUARD_IN, "what comes in and is not of a known connection"),
        rules,
    }
}

fn udp_out(intent: &RawIntent, family: Family) -> ChainPlan {
    let mut rules = own_rules(intent);
    rules.extend(passing_out(intent, family, Match::UdpTo));
    rules.push(Rule::new(
        [Match::UdpTo(PortRange::one(DNS_PORT))],
        Verdict::Return,
        "names are still resolved",
    ));
    rules.push(Rule::new(
        [],
        Verdict::Reject,
        "UDP cannot be redirected: clients fall back to TCP",
    ));
    ChainPlan {
        own: UDP_OUT,
        jump: jump(
            [Match::Udp],
            UDP_OUT,
            "before any other rule: UDP of this machine",
        ),
        rules,
    }
}

/// What of the application leaves without the sidecar.
fn passing_out(intent: &RawIntent, family: Family, to: fn(PortRange) -> Match) -> Vec<Rule> {
    let mut rules = vec![Rule::new(
        [Match::OutLoopback],
        Verdict::Return,
        "to loopback or an own address",
    )];
    rules.extend(excluded_out(intent, family, to));
    rules
}

fn own_rules(intent: &RawIntent) -> Vec<Rule> {
    tells(&intent.own)
        .map(|tell| Rule::new([tell], Verdict::Return, "the sidecar's own: no loop"))
        .collect()
}

/// The same, but for the probe of a sidecar that cannot knock as anybody else.
fn own_but_the_probe(intent: &RawIntent) -> Vec<Rule> {
    tells(&intent.own)
        .map(|tell| match tell {
            Match::Mark(_) => Rule::new([tell], Verdict::Return, "the sidecar's own: no loop"),
            tell => Rule::new(
                [Match::TcpNotTo(PROBE_PORT), tell],
                Verdict::Return,
                "the sidecar's own: no loop; by its probe it sees that the redirect works",
            ),
        })
        .collect()
}

fn tells(own: &RawOwn) -> impl Iterator<Item = Match> {
    let mark = own.mark.map(Match::Mark).into_iter();
    mark.chain(own.uids.iter().copied().map(Match::Uid))
        .chain(own.gids.iter().copied().map(Match::Gid))
}

fn excluded_out(
    intent: &RawIntent,
    family: Family,
    to: fn(PortRange) -> Match,
) -> impl Iterator<Item = Rule> {
    let nets = intent
        .exclude_outbound_cidrs
        .iter()
        .filter(move |net| family.has(net));
    let nets = nets.map(|net| {
        Rule::new(
            [Match::Dest(*net)],
            Verdict::Return,
            "excluded by exclude_outbound_cidrs",
        )
    });
    let ports = intent.exclude_outbound_ports.iter();
    nets.chain(ports.map(move |ports| {
        Rule::new(
            [to(*ports)],
            Verdict::Return,
            "excluded by exclude_outbound_ports",
        )
    }))
}

/// What arrives without the sidecar's doing, the same in every inbound chain.
fn passing_in(intent: &RawIntent) -> Vec<Rule> {
    let sidecar = intent
        .sidecar_ports
        .iter()
        .map(|port| (PortRange::one(*port), "a listener of the sidecar's own"));
    let excluded = intent
        .exclude_inbound_ports
        .iter()
        .map(|ports| (*ports, "excluded by exclude_inbound_ports"));
    sidecar
        .chain(excluded)
        .map(|(ports, why)| Rule::new([Match::TcpTo(ports)], Verdict::Return, why))
        .collect()
}

fn jump(matches: impl Into<Vec<Match>>, own: Own, why: &'static str) -> Rule {
    Rule::new(matches, Verdict::Jump(own.chain), why)
}

impl FamilyPlan {
    /// The chains of one table.
    pub fn of(&self, table: Table) -> impl Iterator<Item = &ChainPlan> {
        self.chains.iter().filter(move |chain| chain.own.table == table)
    }

    /// The plan for people and for a machine without rules: text for `iptables-restore --noflush`, each rule with its why.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            if self.of(table).next().is_none() {
                continue;
            }
            let _infallible = writeln!(text, "*{}", table.name());
            for chain in self.of(table) {
                let _infallible = writeln!(text, ":{} - [0:0]", chain.own.chain);
            }
            for chain in self.of(table) {
                for rule in &chain.rules {
                    let _infallible = writeln!(
                        text,
                        "# {}\n-A {} {}",
                        rule.why,
                        chain.own.chain,
                        rule.spell(self.family)
                    );
                }
            }
            for (base, position, chain) in self.jumps(table) {
                let rule = chain.jump.spell(self.family);
                let _infallible = writeln!(text, "# {}\n-I {base} {position} {rule}", chain.jump.why);
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    /// The jumps of one table: built-in chain, position in it (from 1), and the chain jumped to.
    pub fn jumps(&self, table: Table) -> Vec<(&'static str, usize, &ChainPlan)> {
        let mut jumps: Vec<(&'static str, usize, &ChainPlan)> = Vec::new();
        for chain in self.of(table) {
            let position = 1 + jumps.iter().filter(|(base, ..)| *base == chain.own.base).count();
            jumps.push((chain.own.base, position, chain));
        }
        jumps
    }
}

/// A plan as `-o json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct PlanView {
    /// Which family.
    pub family: Family,
    /// The program that takes `restore`.
    pub program: String,
    /// Text for `iptables-restore --noflush`.
    pub restore: String,
}

impl From<&FamilyPlan> for PlanView {
    fn from(plan: &FamilyPlan) -> Self {
        Self {
            family: plan.family,
            program: format!("{}-restore --noflush --wait", plan.family.program()),
            restore: plan.text(),
        }
    }
}

#[cfg(test)]
mod tests;
