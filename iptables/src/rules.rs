//! One packet-filter rule as a value: what it matches, what then happens, and why it is there. It leaves as the words that
//! `iptables-save` would print for it, so that what is planned and what is found compare as text.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::PortRange;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// iptables.
    Ipv4,
    /// ip6tables.
    Ipv6,
}

impl Family {
    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// The beginning of the program names: `iptables` or `ip6tables`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }

    /// Whether `net` is of this family.
    pub fn has(self, net: &IpNet) -> bool {
        matches!(
            (self, net),
            (Self::Ipv4, IpNet::V4(_)) | (Self::Ipv6, IpNet::V6(_))
        )
    }
}

/// The tables that hopguard writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Refusals that are told to the sender.
    Filter,
    /// What must not pass in the clear.
    Mangle,
    /// Redirection.
    Nat,
}

impl Table {
    /// In the order in which they are put in place: first what refuses, then what redirects, so that nothing passes in the
    /// clear in between.
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }
}

/// A chain of ours and the built-in chain that jumps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Own {
    /// The table both are in.
    pub table: Table,
    /// Our chain.
    pub chain: &'static str,
    /// The built-in chain.
    pub base: &'static str,
}

/// Inbound connections are redirected here.
pub const NAT_IN: Own = Own {
    table: Table::Nat,
    chain: "HOPGUARD_PREROUTING",
    base: "PREROUTING",
};
/// Outbound connections are redirected here.
pub const NAT_OUT: Own = Own {
    table: Table::Nat,
    chain: "HOPGUARD_OUTPUT",
    base: "OUTPUT",
};
/// What should have been redirected and was not is dropped here, inbound.
pub const GUARD_IN: Own = Own {
    table: Table::Mangle,
    chain: "HOPGUARD_INPUT",
    base: "INPUT",
};
/// The same, outbound: where the device that a packet leaves by is settled, which it is not yet in OUTPUT.
pub const GUARD_OUT: Own = Own {
    table: Table::Mangle,
    chain: "HOPGUARD_POSTROUTING",
    base: "POSTROUTING",
};
/// Outbound UDP is rejected here.
pub const UDP_OUT: Own = Own {
    table: Table::Filter,
    chain: "HOPGUARD_UDP",
    base: "OUTPUT",
};

/// Every chain that hopguard may ever have made. These names are reserved; nothing else is touched.
pub const ALL: [Own; 5] = [NAT_IN, NAT_OUT, GUARD_IN, GUARD_OUT, UDP_OUT];

/// What a rule asks of a packet. Where a rule has several, all must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// To an address in this network.
    Dest(IpNet),
    /// Came in by `lo`.
    InLoopback,
    /// Came in by another device than `lo`.
    InOutside,
    /// Leaves by `lo`: to a loopback address or to an address of this machine.
    OutLoopback,
    /// Leaves by another device than `lo`.
    OutOutside,
    /// TCP to any port.
    Tcp,
    /// UDP to any port.
    Udp,
    /// TCP to a port in the range.
    TcpTo(PortRange),
    /// TCP to any port but this.
    TcpNotTo(u16),
    /// UDP to a port in the range.
    UdpTo(PortRange),
    /// The socket's mark is exactly this.
    Mark(u32),
    /// The socket's user is this.
    Uid(u32),
    /// The socket's primary group is this.
    Gid(u32),
    /// The destination is an address of this machine, not one behind it.
    DestLocal,
    /// The source is an address of this machine: it is not merely passed on.
    SourceLocal,
    /// Not part of a connection that both ends have taken part in: new, invalid, or not tracked.
    NotEstablished,
}

/// What happens to a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On with the chain that jumped here.
    Return,
    /// To this port of this machine.
    Redirect(u16),
    /// Vanishes.
    Drop,
    /// ICMP "port unreachable" to the sender.
    Reject,
    /// To a chain of ours.
    Jump(&'static str),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// Then this happens.
    pub verdict: Verdict,
    /// Why the rule is there, for people who read the plan.
    pub why: &'static str,
}

impl Rule {
    /// A rule of ours.
    pub fn new(matches: impl Into<Vec<Match>>, verdict: Verdict, why: &'static str) -> Self {
        Self {
            matches: matches.into(),
            verdict,
            why,
        }
    }

    /// The rule in the words and order of `iptables-save`, without `-A CHAIN`.
    pub fn spell(&self, family: Family) -> String {
        let mut text = String::new();
        for part in &self.matches {
            text.push_str(&part.spell());
            text.push(' ');
        }
        text.push_str(&self.verdict.spell(family));
        text
    }
}

impl Match {
    fn spell(&self) -> String {
        match self {
            Self::Dest(net) => format!("-d {net}"),
            Self::InLoopback => "-i lo".to_owned(),
            Self::InOutside => "! -i lo".to_owned(),
            Self::OutLoopback => "-o lo".to_owned(),
            Self::OutOutside => "! -o lo".to_owned(),
            Self::Tcp => "-p tcp".to_owned(),
            Self::Udp => "-p udp".to_owned(),
            Self::TcpTo(ports) => format!("-p tcp -m tcp --dport {}", dport(*ports)),
            Self::TcpNotTo(port) => format!("-p tcp -m tcp ! --dport {port}"),
            Self::UdpTo(ports) => format!("-p udp -m udp --dport {}", dport(*ports)),
            Self::Mark(mark) => format!("-m mark --mark {mark:#x}"),
            Self::Uid(uid) => format!("-m owner --uid-owner {uid}"),
            Self::Gid(gid) => format!("-m owner --gid-owner {gid}"),
            Self::DestLocal => "-m addrtype --dst-type LOCAL".to_owned(),
            Self::SourceLocal => "-m addrtype --src-type LOCAL".to_owned(),
            Self::NotEstablished => "-m conntrack ! --ctstate ESTABLISHED".to_owned(),
        }
    }
}

impl Verdict {
    fn spell(self, family: Family) -> String {
        match self {
            Self::Return => "-j RETURN".to_owned(),
            Self::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
            Self::Drop => "-j DROP".to_owned(),
            Self::Reject => match family {
                Family::Ipv4 => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
                Family::Ipv6 => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
            },
            Self::Jump(chain) => format!("-j {chain}"),
        }
    }
}

fn dport(ports: PortRange) -> String {
    let mut text = ports.first().to_string();
    if ports.last() != ports.first() {
        let _infallible = write!(text, ":{}", ports.last());
    }
    text
}
