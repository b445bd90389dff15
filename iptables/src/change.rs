//! What is in place and what is wanted enter, the text that leads from one to the other leaves, for one
//! `iptables-restore --noflush` of one family. It names our chains and the jumps to them, and no other rule.
//!
//! Each table is one transaction: until its COMMIT the old rules are in force, after it the new ones.

use std::fmt::Write as _;

use crate::drift::references;
use crate::plan::FamilyPlan;
use crate::rules::{ALL, Own, Table};
use crate::state::{Ruleset, SavedTable};

/// Our part of a rule set: what a plan wants, or what was in place before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    tables: Vec<WantedTable>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WantedTable {
    table: Table,
    chains: Vec<(String, Vec<String>)>,
    /// Built-in chain, position in it (from 1), rule.
    jumps: Vec<(String, usize, String)>,
}

impl Wanted {
    /// Nothing of ours.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// What a plan asks for.
    pub fn plan(plan: &FamilyPlan) -> Self {
        let tables = Table::ALL.map(|table| WantedTable {
            table,
            chains: plan
                .of(table)
                .map(|chain| {
                    let rules = chain.rules.iter().map(|rule| rule.spell(plan.family)).collect();
                    (chain.own.chain.to_owned(), rules)
                })
                .collect(),
            jumps: plan
                .jumps(table)
                .into_iter()
                .map(|(base, position, chain)| (base.to_owned(), position, chain.jump.spell(plan.family)))
                .collect(),
        });
        Self {
            tables: tables.to_vec(),
        }
    }

    /// Our part of what is in place, to come back to.
    pub fn found(state: &Ruleset) -> Self {
        let tables = Table::ALL.map(|table| {
            let chains = state.own().filter(|(own, _)| own.table == table);
            WantedTable {
                table,
                chains: chains
                    .map(|(own, chain)| (own.chain.to_owned(), chain.rules.clone()))
                    .collect(),
                jumps: own_jumps(state, table),
            }
        });
        Self {
            tables: tables.to_vec(),
        }
    }

    fn of(&self, table: Table) -> Option<&WantedTable> {
        self.tables.iter().find(|wanted| wanted.table == table)
    }

    fn redirects(&self) -> bool {
        self.of(Table::Nat)
            .is_some_and(|wanted| !wanted.chains.is_empty())
    }
}

/// A chain of ours that a chain of somebody else's leads to: it cannot be taken away under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The table.
    pub table: Table,
    /// The chain that holds the rule.
    pub by: String,
    /// The rule.
    pub rule: String,
}

/// Rules of other chains that lead to ours.
pub fn held(state: &Ruleset) -> Vec<Held> {
    let mut held = Vec::new();
    for table in Table::ALL {
        let own = own_of(table);
        let foreign = state
            .table(table)
            .into_iter()
            .flat_map(|table| &table.chains)
            .filter(|chain| {
                own.iter()
                    .all(|own| own.chain != chain.name && own.base != chain.name)
            });
        for chain in foreign {
            held.extend(references(chain, &own).into_iter().map(|(_, rule)| Held {
                table,
                by: chain.name.clone(),
                rule: rule.to_owned(),
            }));
        }
    }
    held
}

/// The text that leads from `state` to `wanted`; empty when there is nothing to do.
///
/// The guard comes before the redirect and goes after it, so that between the two transactions nothing passes in the clear.
pub fn change(state: &Ruleset, wanted: &Wanted) -> String {
    let mut order = Table::ALL;
    if !wanted.redirects() {
        order.reverse();
    }
    let tables = order.into_iter();
    tables
        .map(|table| table_change(state, wanted.of(table), table))
        .collect()
}

fn table_change(state: &Ruleset, wanted: Option<&WantedTable>, table: Table) -> String {
    let empty = WantedTable {
        table,
        chains: Vec::new(),
        jumps: Vec::new(),
    };
    let wanted = wanted.unwrap_or(&empty);
    let existing: Vec<&str> = state
        .own()
        .filter(|(own, _)| own.table == table)
        .map(|(own, _)| own.chain)
        .collect();
    let jumps = own_jumps(state, table);
    if existing.is_empty() && jumps.is_empty() && wanted.chains.is_empty() {
        return String::new();
    }
    let stale: Vec<&str> = existing
        .into_iter()
        .filter(|chain| wanted.chains.iter().all(|(name, _)| name != chain))
        .collect();
    let mut text = format!("*{}\n", table.name());
    let mut line = |line: std::fmt::Arguments<'_>| {
        let _infallible = text.write_fmt(line).and_then(|()| text.write_char('\n'));
    };
    for (chain, _) in &wanted.chains {
        // Declaring a chain that exists empties it, within the transaction.
        line(format_args!(":{chain} - [0:0]"));
    }
    for (base, _, rule) in &jumps {
        line(format_args!("-D {base} {rule}"));
    }
    for chain in &stale {
        line(format_args!("-F {chain}"));
    }
    for (chain, rules) in &wanted.chains {
        for rule in rules {
            line(format_args!("-A {chain} {rule}"));
        }
    }
    for (base, position, rule) in &wanted.jumps {
        line(format_args!("-I {base} {position} {rule}"));
    }
    for chain in &stale {
        line(format_args!("-X {chain}"));
    }
    line(format_args!("COMMIT"));
    text
}

/// The rules of the built-in chains that lead to chains of ours, with their positions.
fn own_jumps(state: &Ruleset, table: Table) -> Vec<(String, usize, String)> {
    let own = own_of(table);
    let bases = |saved: &&crate::state::SavedChain| own.iter().any(|own| own.base == saved.name);
    let chains = state
        .table(table)
        .map(|table: &SavedTable| table.chains.iter())
        .into_iter()
        .flatten();
    chains
        .filter(bases)
        .flat_map(|chain| {
            references(chain, &own)
                .into_iter()
                .map(|(at, rule)| (chain.name.clone(), at, rule.to_owned()))
        })
        .collect()
}

fn own_of(table: Table) -> Vec<Own> {
    ALL.into_iter().filter(|own| own.table == table).collect()
}

#[cfg(test)]
mod tests;
