use proptest::prelude::*;

use super::*;
use crate::drift::drift;
use crate::intent::Intent;
use crate::model::{foreign_rules, intents, restore, without_empty_tables};
use crate::plan::plan;

fn applied(state: &Ruleset, intent: &Intent) -> Ruleset {
    let plan = &plan(intent).families[0];
    restore(state, &change(state, &Wanted::plan(plan))).unwrap()
}

fn undone(state: &Ruleset) -> Ruleset {
    restore(state, &change(state, &Wanted::nothing())).unwrap()
}

proptest! {
    #[test]
    fn undo_after_apply_is_as_if_nothing_had_been(before in foreign_rules(), intent in intents()) {
        let after = undone(&applied(&before, &intent));
        prop_assert_eq!(without_empty_tables(after.clone()), before);
        prop_assert_eq!(change(&after, &Wanted::nothing()), "", "twice is nothing");
    }

    #[test]
    fn applied_is_as_planned_and_twice_is_once(before in foreign_rules(), intent in intents()) {
        let once = applied(&before, &intent);
        for family in &plan(&intent).families[..1] {
            prop_assert_eq!(drift(family, &once), vec![]);
        }
        prop_assert_eq!(applied(&once, &intent), once);
    }

    #[test]
    fn another_intent_replaces_the_one_in_place(before in foreign_rules(), first in intents(), second in intents()) {
        let replaced = applied(&applied(&before, &first), &second);
        prop_assert_eq!(drift(&plan(&second).families[0], &replaced), vec![]);
        prop_assert_eq!(without_empty_tables(undone(&replaced)), before);
    }

    #[test]
    fn rolling_back_leads_to_what_was_before(before in foreign_rules(), first in intents(), second in intents()) {
        // Also to a redirect that was in place and had been tampered with.
        let mut earlier = applied(&before, &first);
        let table = earlier.tables.iter_mut().find(|table| table.name == "nat").unwrap();
        table.chains.iter_mut().find(|chain| chain.name == "HOPGUARD_OUTPUT").unwrap().rules.pop();
        table.chains.iter_mut().find(|chain| chain.name == "OUTPUT").unwrap().rules.insert(0, "-p udp -j ACCEPT".into());
        let later = applied(&earlier, &second);
        let back = restore(&later, &change(&later, &Wanted::found(&earlier))).unwrap();
        prop_assert_eq!(sorted(back), sorted(earlier));
    }

    #[test]
    fn any_tampering_shows_and_is_put_right(
        before in foreign_rules(), intent in intents(), which in any::<prop::sample::Index>(), how in 0..4
    ) {
        let good = applied(&before, &intent);
        let mut bad = good.clone();
        let plan = &plan(&intent).families[0];
        let own = plan.chains[which.index(plan.chains.len())].own;
        let table = bad.tables.iter_mut().find(|table| table.name == own.table.name()).unwrap();
        let tampered = match how {
            0 => rules(table, own.chain).pop().is_some(),
            1 => { rules(table, own.chain).insert(0, "-s 10.1.1.1/32 -j ACCEPT".into()); true }
            2 => { rules(table, own.base).insert(0, "-s 10.1.1.1/32 -j ACCEPT".into()); true }
            _ => { rules(table, own.base).clear(); true }
        };
        if tampered {
            prop_assert_ne!(drift(plan, &bad), vec![]);
            prop_assert_eq!(drift(plan, &applied(&bad, &intent)), vec![]);
        }
    }
}

/// Without what does not matter: tables that iptables made and that hold nothing, and the order of chains.
fn sorted(state: Ruleset) -> Ruleset {
    let mut state = without_empty_tables(state);
    for table in &mut state.tables {
        table.chains.sort_by(|one, other| one.name.cmp(&other.name));
    }
    state
}

fn rules<'a>(table: &'a mut SavedTable, chain: &str) -> &'a mut Vec<String> {
    &mut table
        .chains
        .iter_mut()
        .find(|other| other.name == chain)
        .unwrap()
        .rules
}

#[test]
fn rules_of_others_that_lead_to_ours_are_named() {
    let text = "*nat\n:OUTPUT ACCEPT [0:0]\n:THEIRS - [0:0]\n:HOPGUARD_OUTPUT - [0:0]\n\
        -A OUTPUT -j HOPGUARD_OUTPUT\n-A THEIRS -p tcp -j HOPGUARD_OUTPUT\nCOMMIT\n";
    let held = held(&Ruleset::parse(text).unwrap());
    assert_eq!(
        held,
        [Held {
            table: Table::Nat,
            by: "THEIRS".to_owned(),
            rule: "-p tcp -j HOPGUARD_OUTPUT".to_owned()
        }]
    );
}

#[test]
fn the_guard_comes_first_and_goes_last() {
    let intent = crate::intent::RawIntent {
        own: crate::intent::RawOwn {
            mark: Some(1),
            ..Default::default()
        },
        ..Default::default()
    };
    let intent = intent.parse().unwrap();
    let up = change(&Ruleset::default(), &Wanted::plan(&plan(&intent).families[0]));
    assert!(up.find("*mangle").unwrap() < up.find("*nat").unwrap());
    let down = change(&applied(&Ruleset::default(), &intent), &Wanted::nothing());
    assert!(down.find("*nat").unwrap() < down.find("*mangle").unwrap());
}
