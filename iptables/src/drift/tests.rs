use super::*;
use crate::change::{Wanted, change};
use crate::intent::{RawIntent, RawOwn, Udp};
use crate::model::restore;
use crate::plan::plan;
use crate::state::SavedTable;

fn planned() -> FamilyPlan {
    let own = RawOwn {
        mark: Some(1337),
        ..RawOwn::default()
    };
    let intent = RawIntent {
        own,
        udp: Udp::Reject,
        ..RawIntent::default()
    };
    plan(&intent.parse().unwrap()).families.remove(0)
}

/// What drifts when the rules in place are edited.
fn after(table: &str, edit: impl FnOnce(&mut SavedTable)) -> Vec<String> {
    let plan = planned();
    let mut state = restore(
        &Ruleset::default(),
        &change(&Ruleset::default(), &Wanted::plan(&plan)),
    )
    .unwrap();
    edit(state.tables.iter_mut().find(|other| other.name == table).unwrap());
    drift(&plan, &state).iter().map(ToString::to_string).collect()
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
fn nothing_edited_nothing_told() {
    assert_eq!(after("nat", |_| {}), [""; 0]);
}

#[test]
fn each_kind_of_drift_is_told_with_its_place() {
    let told = after("nat", |nat| rules(nat, "HOPGUARD_OUTPUT").clear());
    assert_eq!(told.len(), 3);
    assert_eq!(
        told[0],
        "IPv4 nat HOPGUARD_OUTPUT 1: missing `-m mark --mark 0x539 -j RETURN`"
    );
    let told = after("nat", |nat| {
        rules(nat, "HOPGUARD_OUTPUT").insert(1, "-d 8.8.8.8/32 -j ACCEPT".into())
    });
    assert_eq!(
        told,
        ["IPv4 nat HOPGUARD_OUTPUT 2: not planned `-d 8.8.8.8/32 -j ACCEPT`"]
    );
    let told = after("nat", |nat| {
        rules(nat, "HOPGUARD_OUTPUT")[0] = "-m mark --mark 0x53a -j RETURN".into()
    });
    assert_eq!(
        told,
        [
            "IPv4 nat HOPGUARD_OUTPUT 1: `-m mark --mark 0x53a -j RETURN` instead of `-m mark --mark 0x539 -j RETURN`"
        ]
    );
    let told = after("nat", |nat| rules(nat, "HOPGUARD_OUTPUT").rotate_right(1));
    assert_eq!(
        told,
        ["IPv4 nat HOPGUARD_OUTPUT 1: out of order `-p tcp -j REDIRECT --to-ports 15001`"]
    );
    let told = after("nat", |nat| rules(nat, "OUTPUT").clear());
    assert_eq!(
        told,
        ["IPv4 nat OUTPUT 1: the jump is missing `-p tcp -j HOPGUARD_OUTPUT`"]
    );
    let told = after("nat", |nat| rules(nat, "OUTPUT").insert(0, "-j ACCEPT".into()));
    assert_eq!(
        told,
        ["IPv4 nat OUTPUT 2: `-j ACCEPT` comes before the jump `-p tcp -j HOPGUARD_OUTPUT`"]
    );
    let told = after("nat", |nat| {
        rules(nat, "OUTPUT")[0] = "-d 10.0.0.0/8 -p tcp -j HOPGUARD_OUTPUT".into()
    });
    assert_eq!(
        told,
        [
            "IPv4 nat OUTPUT 1: the jump is `-d 10.0.0.0/8 -p tcp -j HOPGUARD_OUTPUT` instead of `-p tcp -j HOPGUARD_OUTPUT`"
        ]
    );
    let told = after("nat", |nat| {
        rules(nat, "OUTPUT").push("-p tcp -j HOPGUARD_OUTPUT".into())
    });
    assert_eq!(
        told,
        ["IPv4 nat OUTPUT 2: a jump that is not planned `-p tcp -j HOPGUARD_OUTPUT`"]
    );
}

#[test]
fn rules_after_ours_are_not_our_affair() {
    let told = after("nat", |nat| {
        rules(nat, "OUTPUT").push("-d 127.0.0.11/32 -j DOCKER_OUTPUT".into());
        rules(nat, "POSTROUTING").push("-j MASQUERADE".into());
    });
    assert_eq!(told, [""; 0]);
}

#[test]
fn a_chain_not_planned_and_a_jump_from_elsewhere_are_told() {
    let mut plan = planned();
    let state = restore(
        &Ruleset::default(),
        &change(&Ruleset::default(), &Wanted::plan(&plan)),
    )
    .unwrap();
    plan.chains.retain(|chain| chain.own != crate::rules::UDP_OUT);
    let told: Vec<String> = drift(&plan, &state).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "IPv4 filter HOPGUARD_UDP: a chain that is not planned",
            "IPv4 filter OUTPUT 1: a jump that is not planned `-p udp -j HOPGUARD_UDP`"
        ]
    );
    let told = after("nat", |nat| {
        rules(nat, "POSTROUTING").push("-j HOPGUARD_OUTPUT".into())
    });
    assert_eq!(
        told,
        ["IPv4 nat POSTROUTING 1: a jump that is not planned `-j HOPGUARD_OUTPUT`"]
    );
}

#[test]
fn the_longest_run_in_order_is_kept() {
    let run = |values: &[usize]| longest_increasing(values).into_iter().collect::<Vec<_>>();
    assert_eq!(run(&[]), [0; 0]);
    assert_eq!(run(&[3, 0, 1, 2]), [0, 1, 2]);
    assert_eq!(run(&[0, 1, 5, 2, 3]), [0, 1, 2, 3]);
}

#[test]
fn whether_the_redirect_stands_is_told_without_an_intent() {
    let plan = planned();
    let state = restore(
        &Ruleset::default(),
        &change(&Ruleset::default(), &Wanted::plan(&plan)),
    )
    .unwrap();
    let stands = Standing::Stands {
        marks: vec![1337],
        outbound_port: Some(15001),
        inbound_port: Some(15006),
    };
    assert_eq!(standing(&state), stands);
    assert_eq!(standing(&Ruleset::default()), Standing::Absent);
    let broken = |edit: &dyn Fn(&mut SavedTable)| {
        let mut state = state.clone();
        edit(state.tables.iter_mut().find(|table| table.name == "nat").unwrap());
        match standing(&state) {
            Standing::Broken(why) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        broken(&|nat| rules(nat, "OUTPUT").clear()),
        "OUTPUT does not lead to HOPGUARD_OUTPUT"
    );
    assert_eq!(
        broken(&|nat| rules(nat, "PREROUTING").insert(0, "-j ACCEPT".into())),
        "other rules of PREROUTING come before HOPGUARD_PREROUTING"
    );
    assert_eq!(
        broken(&|nat| rules(nat, "HOPGUARD_OUTPUT").clear()),
        "the chain HOPGUARD_OUTPUT is empty"
    );
    assert_eq!(
        broken(&|nat| nat.chains.retain(|chain| chain.name != "HOPGUARD_PREROUTING")),
        "the chain HOPGUARD_PREROUTING is missing"
    );
}
