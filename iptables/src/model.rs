//! A rule set in memory that understands `iptables-restore --noflush`, for tests: as strict as the real one about rules that
//! are not there, positions that do not exist and chains that are in use.

use proptest::prelude::*;

use crate::intent::{Families, InboundPorts, Intent, PortRange, RawIntent, RawOwn, Udp};
use crate::state::{Ruleset, SavedChain, SavedTable, canonical, target};

/// What `text` makes of `state`; a table whose transaction fails stays as it was, and nothing after it is read.
pub fn restore(state: &Ruleset, text: &str) -> Result<Ruleset, String> {
    let mut state = state.clone();
    let mut open: Option<SavedTable> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let failed = |why: &str| Err(format!("{why}: {line}"));
        if let Some(name) = line.strip_prefix('*') {
            let existing = state.tables.iter().find(|table| table.name == name).cloned();
            open = Some(existing.unwrap_or_else(|| fresh(name)));
        } else if line == "COMMIT" {
            let Some(table) = open.take() else {
                return failed("no table");
            };
            state.tables.retain(|other| other.name != table.name);
            state.tables.push(table);
        } else {
            let Some(table) = &mut open else {
                return failed("no table");
            };
            step(table, line).map_err(|why| format!("{why}: {line}"))?;
        }
    }
    state.tables.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(state)
}

fn fresh(name: &str) -> SavedTable {
    let chains: &[&str] = match name {
        "nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        "mangle" => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        "filter" => &["INPUT", "FORWARD", "OUTPUT"],
        other => panic!("no table {other}"),
    };
    let chain = |name: &&str| SavedChain {
        name: (*name).to_owned(),
        policy: "ACCEPT".to_owned(),
        rules: vec![],
    };
    SavedTable {
        name: name.to_owned(),
        chains: chains.iter().map(chain).collect(),
    }
}

fn step(table: &mut SavedTable, line: &str) -> Result<(), &'static str> {
    if let Some(declared) = line.strip_prefix(':') {
        let name = declared.split(' ').next().unwrap();
        match table.chains.iter_mut().find(|chain| chain.name == name) {
            Some(chain) => chain.rules.clear(),
            None => {
                table.chains.push(SavedChain {
                    name: name.to_owned(),
                    policy: "-".to_owned(),
                    rules: vec![],
                });
            }
        }
        return Ok(());
    }
    let (command, rest) = line.split_once(' ').ok_or("no command")?;
    let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
    if command == "-X" {
        let used = table
            .chains
            .iter()
            .flat_map(|chain| &chain.rules)
            .any(|rule| target(rule).as_deref() == Some(name));
        let empty = table
            .chains
            .iter()
            .any(|chain| chain.name == name && chain.rules.is_empty());
        table.chains.retain(|chain| chain.name != name);
        return if used || !empty {
            Err("in use or not there")
        } else {
            Ok(())
        };
    }
    if let Some(target) = target(rule).filter(|target| target.starts_with("HOPGUARD")) {
        table
            .chains
            .iter()
            .find(|chain| chain.name == target)
            .ok_or("no such target")?;
    }
    let chain = table
        .chains
        .iter_mut()
        .find(|chain| chain.name == name)
        .ok_or("no such chain")?;
    edit(&mut chain.rules, command, rule)
}

fn edit(rules: &mut Vec<String>, command: &str, rule: &str) -> Result<(), &'static str> {
    match command {
        "-F" => rules.clear(),
        "-A" => rules.push(rule.to_owned()),
        "-D" => {
            let key = canonical(rule);
            let at = rules
                .iter()
                .position(|other| canonical(other) == key)
                .ok_or("no such rule")?;
            rules.remove(at);
        }
        "-I" => {
            let (position, rule) = rule.split_once(' ').ok_or("no position")?;
            let at = position
                .parse::<usize>()
                .map_err(|_| "bad position")?
                .checked_sub(1)
                .ok_or("bad position")?;
            if at > rules.len() {
                return Err("position too big");
            }
            rules.insert(at, rule.to_owned());
        }
        _ => return Err("unknown command"),
    }
    Ok(())
}

/// Without the tables that hold nothing: iptables itself makes them on first use.
pub fn without_empty_tables(mut state: Ruleset) -> Ruleset {
    state.tables.retain(|table| {
        table
            .chains
            .iter()
            .any(|chain| !chain.rules.is_empty() || chain.policy != "ACCEPT")
    });
    state.tables.sort_by(|one, other| one.name.cmp(&other.name));
    state
}

/// Rules of other programs, some of which look like ours.
pub fn foreign_rules() -> impl Strategy<Value = Ruleset> {
    let rule = prop_oneof![
        Just("-p tcp -m tcp --dport 22 -j ACCEPT"),
        Just("-j LOG --log-prefix \"HOPGUARD_OUTPUT \""),
        Just("-m comment --comment \"-j HOPGUARD_OUTPUT\" -j ACCEPT"),
        Just("-d 127.0.0.11/32 -j DOCKER_OUTPUT"),
        Just("-p tcp -j REDIRECT --to-ports 15001"),
        Just("-m mark --mark 0x539 -j RETURN"),
        Just("! -o lo -j ACCEPT"),
    ];
    let rules = || proptest::collection::vec(rule.clone().prop_map(str::to_owned), 0..5);
    let nat = proptest::option::of((rules(), rules(), rules()));
    let mangle = proptest::option::of((rules(), rules(), rules()));
    let filter = proptest::option::of((rules(), rules(), rules()));
    (nat, mangle, filter).prop_map(|(nat, mangle, filter)| {
        let mut state = Ruleset::default();
        for (name, bases, filled) in [
            ("nat", ["PREROUTING", "OUTPUT"], nat),
            ("mangle", ["INPUT", "POSTROUTING"], mangle),
            ("filter", ["INPUT", "OUTPUT"], filter),
        ] {
            let Some((one, two, user)) = filled else { continue };
            let mut table = fresh(name);
            for (base, rules) in bases.iter().zip([one, two]) {
                table
                    .chains
                    .iter_mut()
                    .find(|chain| chain.name == *base)
                    .unwrap()
                    .rules = rules;
            }
            for (name, rules) in [("DOCKER_OUTPUT", user), ("HOPGUARD_LOOKALIKE", vec![])] {
                table.chains.push(SavedChain {
                    name: name.to_owned(),
                    policy: "-".to_owned(),
                    rules,
                });
            }
            state.tables.push(table);
        }
        without_empty_tables(state)
    })
}

/// Every kind of intent.
pub fn intents() -> impl Strategy<Value = Intent> {
    let range =
        (1_u16..15000, 0_u16..20).prop_map(|(first, more)| PortRange::new(first, first + more).unwrap());
    let ranges = || proptest::collection::vec(range.clone(), 0..4);
    let cidr = prop_oneof![
        (any::<u32>(), 1_u8..=32).prop_map(|(ip, len)| ipnet::Ipv4Net::new(ip.into(), len).unwrap().into()),
        (any::<u128>(), 1_u8..=128).prop_map(|(ip, len)| ipnet::Ipv6Net::new(ip.into(), len).unwrap().into()),
    ];
    let own = (
        proptest::option::of(1_u32..),
        proptest::collection::vec(0..u32::MAX, 0..3),
        proptest::collection::vec(0..u32::MAX, 0..2),
    );
    let inbound = prop_oneof![Just(InboundPorts::All), ranges().prop_map(InboundPorts::List)];
    (
        inbound,
        ranges(),
        ranges(),
        proptest::collection::vec(cidr, 0..3),
        own,
        any::<(bool, bool)>(),
    )
        .prop_filter_map(
            "contradictory",
            |(inbound_ports, exclude_in, exclude_out, cidrs, (mark, uids, gids), (guard, reject))| {
                RawIntent {
                    inbound_ports,
                    exclude_inbound_ports: exclude_in,
                    exclude_outbound_ports: exclude_out,
                    exclude_outbound_cidrs: cidrs,
                    udp: if reject { Udp::Reject } else { Udp::Leave },
                    guard,
                    families: Families::Auto,
                    own: RawOwn { mark, uids, gids },
                    ..RawIntent::default()
                }
                .parse()
                .ok()
            },
        )
}
