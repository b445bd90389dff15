//! A plan and what is in place enter, every difference leaves, rule by rule. It looks at our chains and at what leads to
//! them; the rules of others are their own affair, unless they come before ours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use serde::Serialize;

use crate::plan::{ChainPlan, FamilyPlan};
use crate::rules::{ALL, Family, NAT_IN, NAT_OUT, Own, Table};
use crate::state::{Ruleset, SavedChain, canonical, target};

/// One difference between what is planned and what is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Which family.
    pub family: Family,
    /// Which table.
    pub table: Table,
    /// The chain that differs.
    pub chain: String,
    /// How it differs.
    pub kind: DriftKind,
    /// The position of the rule in its chain (from 1): in place when it is there, else as planned.
    pub position: Option<usize>,
    /// The rule that is planned.
    pub expected: Option<String>,
    /// The rule that is in place.
    pub found: Option<String>,
}

/// How something differs from the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A chain of ours is not there.
    ChainMissing,
    /// A chain of ours is there and not planned.
    ChainExtra,
    /// A rule is not there.
    RuleMissing,
    /// A rule is there and not planned.
    RuleExtra,
    /// Another rule stands in a rule's place.
    RuleChanged,
    /// A rule is there, and out of order.
    RuleMoved,
    /// Nothing leads to a chain of ours.
    JumpMissing,
    /// Other rules come before ours.
    JumpNotFirst,
    /// What leads to a chain of ours asks for something else than planned.
    JumpChanged,
    /// Something leads to a chain of ours that is not planned.
    JumpExtra,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family.name(), self.table.name(), self.chain)?;
        if let Some(position) = self.position {
            write!(f, " {position}")?;
        }
        let expected = self.expected.as_deref().unwrap_or_default();
        let found = self.found.as_deref().unwrap_or_default();
        match self.kind {
            DriftKind::ChainMissing => write!(f, ": the chain is missing"),
            DriftKind::ChainExtra => write!(f, ": a chain that is not planned"),
            DriftKind::RuleMissing => write!(f, ": missing `{expected}`"),
            DriftKind::RuleExtra => write!(f, ": not planned `{found}`"),
            DriftKind::RuleChanged => write!(f, ": `{found}` instead of `{expected}`"),
            DriftKind::RuleMoved => write!(f, ": out of order `{found}`"),
            DriftKind::JumpMissing => write!(f, ": the jump is missing `{expected}`"),
            DriftKind::JumpNotFirst => write!(f, ": `{found}` comes before the jump `{expected}`"),
            DriftKind::JumpChanged => write!(f, ": the jump is `{found}` instead of `{expected}`"),
            DriftKind::JumpExtra => write!(f, ": a jump that is not planned `{found}`"),
        }
    }
}

/// Every difference between `plan` and `state`; empty when all is as planned.
pub fn drift(plan: &FamilyPlan, state: &Ruleset) -> Vec<Drift> {
    let mut found = Vec::new();
    for chain in &plan.chains {
        let out = Out {
            family: plan.family,
            table: chain.own.table,
            found: &mut found,
        };
        rules_drift(chain, state, out);
    }
    for own in ALL {
        let planned = plan.chains.iter().any(|chain| chain.own == own);
        if !planned && state.chain(own.table, own.chain).is_some() {
            Out {
                family: plan.family,
                table: own.table,
                found: &mut found,
            }
            .push(own.chain, DriftKind::ChainExtra, None);
        }
    }
    for table in Table::ALL {
        jumps_drift(plan, table, state, &mut found);
    }
    found
}

struct Out<'a> {
    family: Family,
    table: Table,
    found: &'a mut Vec<Drift>,
}

#[derive(Default)]
struct Words {
    position: Option<usize>,
    expected: Option<String>,
    found: Option<String>,
}

impl Out<'_> {
    fn push(&mut self, chain: &str, kind: DriftKind, words: impl Into<Option<Words>>) {
        let words = words.into().unwrap_or_default();
        self.found.push(Drift {
            family: self.family,
            table: self.table,
            chain: chain.to_owned(),
            kind,
            position: words.position,
            expected: words.expected,
            found: words.found,
        });
    }
}

/// A rule as printed, with the spelling that compares.
struct Spelled {
    text: String,
    key: BTreeSet<String>,
}

impl Spelled {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            key: canonical(&text),
            text,
        }
    }
}

fn rules_drift(chain: &ChainPlan, state: &Ruleset, mut out: Out<'_>) {
    let name = chain.own.chain;
    let Some(saved) = state.chain(chain.own.table, name) else {
        out.push(name, DriftKind::ChainMissing, None);
        return;
    };
    let expected: Vec<Spelled> = chain
        .rules
        .iter()
        .map(|rule| Spelled::new(rule.spell(out.family)))
        .collect();
    let found: Vec<Spelled> = saved.rules.iter().map(Spelled::new).collect();
    let matched = Matched::new(&expected, &found);
    for (position, expected, found) in matched.differences(&expected, &found) {
        let kind = match (&expected, &found) {
            (Some(expected), Some(found)) if expected.key == found.key => DriftKind::RuleMoved,
            (Some(_), Some(_)) => DriftKind::RuleChanged,
            (Some(_), None) => DriftKind::RuleMissing,
            (None, _) => DriftKind::RuleExtra,
        };
        let text = |rule: Option<&Spelled>| rule.map(|rule| rule.text.clone());
        out.push(
            name,
            kind,
            Words {
                position: Some(position.saturating_add(1)),
                expected: text(expected),
                found: text(found),
            },
        );
    }
}

/// Which rule in place is which planned one.
struct Matched {
    /// For each rule in place: the planned one it is.
    planned: Vec<Option<usize>>,
    /// Planned rules that are nowhere.
    missing: Vec<usize>,
    /// Of the rules in place that are planned, the most that stand in the planned order.
    in_order: BTreeSet<usize>,
}

type Difference<'a> = (usize, Option<&'a Spelled>, Option<&'a Spelled>);

impl Matched {
    fn new(expected: &[Spelled], found: &[Spelled]) -> Self {
        let mut unmatched: BTreeMap<&BTreeSet<String>, VecDeque<usize>> = BTreeMap::new();
        for (index, rule) in expected.iter().enumerate() {
            unmatched.entry(&rule.key).or_default().push_back(index);
        }
        let planned: Vec<Option<usize>> = found
            .iter()
            .map(|rule| unmatched.get_mut(&rule.key).and_then(VecDeque::pop_front))
            .collect();
        let mut missing: Vec<usize> = unmatched.into_values().flatten().collect();
        missing.sort_unstable();
        let in_order = longest_increasing(&planned.iter().flatten().copied().collect::<Vec<_>>());
        Self {
            planned,
            missing,
            in_order,
        }
    }

    /// Each difference as (position, planned rule, rule in place), in the order of the chain in place, what is missing at
    /// the end. A missing rule and an unplanned one after the same neighbour are one change.
    fn differences<'a>(&self, expected: &'a [Spelled], found: &'a [Spelled]) -> Vec<Difference<'a>> {
        let mut missing: Vec<usize> = self.missing.clone();
        let mut differences = Vec::new();
        let mut neighbour = None;
        for (position, (rule, planned)) in found.iter().zip(&self.planned).enumerate() {
            match planned {
                Some(index) if self.in_order.contains(index) => neighbour = Some(*index),
                Some(index) => differences.push((position, expected.get(*index), Some(rule))),
                None => {
                    let instead = missing
                        .iter()
                        .position(|index| self.neighbour(*index) == neighbour);
                    let instead = instead
                        .map(|at| missing.remove(at))
                        .and_then(|index| expected.get(index));
                    differences.push((position, instead, Some(rule)));
                }
            }
        }
        differences.extend(
            missing
                .into_iter()
                .map(|index| (index, expected.get(index), None)),
        );
        differences
    }

    /// The planned rule before `index` that stands in its place.
    fn neighbour(&self, index: usize) -> Option<usize> {
        self.in_order.range(..index).next_back().copied()
    }
}

/// The longest run of `values` that increases, not necessarily adjacent. The values are distinct and no more than the plan
/// has rules, so the square is affordable.
fn longest_increasing(values: &[usize]) -> BTreeSet<usize> {
    let mut best: Vec<(usize, Option<usize>)> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let before = values
            .iter()
            .zip(&best)
            .enumerate()
            .take(index)
            .filter(|(_, (other, _))| *other < value);
        let longest = before.max_by_key(|(_, (_, (length, _)))| *length);
        best.push(match longest {
            Some((previous, (_, (length, _)))) => (length.saturating_add(1), Some(previous)),
            None => (1, None),
        });
    }
    let mut run = BTreeSet::new();
    let mut at = best
        .iter()
        .enumerate()
        .max_by_key(|(_, (length, _))| *length)
        .map(|(index, _)| index);
    while let Some(index) = at {
        run.extend(values.get(index));
        at = best.get(index).and_then(|(_, previous)| *previous);
    }
    run
}

fn jumps_drift(plan: &FamilyPlan, table: Table, state: &Ruleset, found: &mut Vec<Drift>) {
    let mut out = Out {
        family: plan.family,
        table,
        found,
    };
    let own: Vec<Own> = ALL.into_iter().filter(|own| own.table == table).collect();
    let bases: BTreeSet<&str> = own.iter().map(|own| own.base).collect();
    for base in &bases {
        let planned = plan.jumps(table).into_iter().filter(|(at, ..)| at == base);
        let planned: Vec<(&str, Spelled)> = planned
            .map(|(.., chain)| (chain.own.chain, Spelled::new(chain.jump.spell(plan.family))))
            .collect();
        base_drift(base, &planned, state.chain(table, base), &own, &mut out);
    }
    // A chain of somebody else's that leads to ours; what our own chains hold was compared above.
    let others = state.table(table).into_iter().flat_map(|table| &table.chains);
    for chain in others.filter(|chain| !bases.contains(chain.name.as_str())) {
        if own.iter().all(|own| own.chain != chain.name) {
            for (position, rule) in references(chain, &own) {
                out.push(
                    &chain.name,
                    DriftKind::JumpExtra,
                    Words {
                        position: Some(position),
                        expected: None,
                        found: Some(rule.to_owned()),
                    },
                );
            }
        }
    }
}

/// The rules of a chain that lead to chains of ours, with their positions from 1.
pub fn references<'a>(chain: &'a SavedChain, own: &[Own]) -> Vec<(usize, &'a str)> {
    let leads = |rule: &str| target(rule).is_some_and(|target| own.iter().any(|own| own.chain == target));
    let rules = chain.rules.iter().enumerate().filter(|(_, rule)| leads(rule));
    rules
        .map(|(index, rule)| (index.saturating_add(1), rule.as_str()))
        .collect()
}

fn base_drift(
    base: &str,
    planned: &[(&str, Spelled)],
    saved: Option<&SavedChain>,
    own: &[Own],
    out: &mut Out<'_>,
) {
    let mut ours: Vec<(usize, Spelled)> = saved
        .map(|saved| {
            references(saved, own)
                .into_iter()
                .map(|(at, rule)| (at, Spelled::new(rule)))
                .collect()
        })
        .unwrap_or_default();
    for (index, (chain, jump)) in planned.iter().enumerate() {
        let wanted = index.saturating_add(1);
        let expected = Some(jump.text.clone());
        if let Some(at) = ours.iter().position(|(_, rule)| rule.key == jump.key) {
            let (position, _) = ours.remove(at);
            let before = saved.and_then(|saved| saved.rules.get(index)).cloned();
            if position > wanted {
                let words = Words {
                    position: Some(position),
                    expected,
                    found: before,
                };
                out.push(base, DriftKind::JumpNotFirst, words);
            }
        } else if let Some(at) = ours
            .iter()
            .position(|(_, rule)| target(&rule.text).as_deref() == Some(chain))
        {
            let (position, rule) = ours.remove(at);
            let words = Words {
                position: Some(position),
                expected,
                found: Some(rule.text),
            };
            out.push(base, DriftKind::JumpChanged, words);
        } else {
            out.push(
                base,
                DriftKind::JumpMissing,
                Words {
                    position: Some(wanted),
                    expected,
                    found: None,
                },
            );
        }
    }
    for (position, rule) in ours {
        out.push(
            base,
            DriftKind::JumpExtra,
            Words {
                position: Some(position),
                expected: None,
                found: Some(rule.text),
            },
        );
    }
}

/// What a look at the rules tells without an intent to compare them with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of ours.
    Absent,
    /// Chains of ours without what makes them work; why.
    Broken(String),
    /// Connections are redirected, before any other rule.
    Stands {
        /// The marks by which the sidecar's own traffic is told.
        marks: Vec<u32>,
        /// Where outbound connections are redirected to.
        outbound_port: Option<u16>,
        /// Where inbound connections are redirected to.
        inbound_port: Option<u16>,
    },
}

/// Whether the redirect stands.
pub fn standing(state: &Ruleset) -> Standing {
    if state.own().next().is_none() {
        return Standing::Absent;
    }
    for own in [NAT_OUT, NAT_IN] {
        let Some(chain) = state.chain(own.table, own.chain) else {
            return Standing::Broken(format!("the chain {} is missing", own.chain));
        };
        if chain.rules.is_empty() {
            return Standing::Broken(format!("the chain {} is empty", own.chain));
        }
        let base = state.chain(own.table, own.base);
        let jumps = base.map(|base| references(base, &[own])).unwrap_or_default();
        match jumps.first() {
            None => return Standing::Broken(format!("{} does not lead to {}", own.base, own.chain)),
            Some((1, _)) => {}
            Some(_) => {
                return Standing::Broken(format!("other rules of {} come before {}", own.base, own.chain));
            }
        }
    }
    let values = |own: Own, flag: &str| -> Vec<u32> {
        let rules = state
            .chain(own.table, own.chain)
            .into_iter()
            .flat_map(|chain| &chain.rules);
        let clauses = rules.flat_map(|rule| canonical(rule));
        clauses
            .filter_map(|clause| clause.strip_prefix(flag)?.trim().parse().ok())
            .collect()
    };
    let port = |own| {
        values(own, "--to-ports")
            .last()
            .and_then(|port| u16::try_from(*port).ok())
    };
    Standing::Stands {
        marks: values(NAT_OUT, "--mark"),
        outbound_port: port(NAT_OUT),
        inbound_port: port(NAT_IN),
    }
}

#[cfg(test)]
mod tests;
