use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    life: 6000,
    signed_life: 100,
    patience: 100,
    polls: 30,
    strict_end: true,
};

fn slot(id: &str, place: Place, published: i64, not_after: i64) -> Slot {
    Slot {
        id: id.into(),
        place,
        published,
        not_after,
        held: false,
        own: true,
    }
}

fn facts(now: i64) -> Facts {
    Facts {
        now,
        ..Facts::default()
    }
}

fn alive(count: u64, until: i64) -> Alive {
    Alive { count, until }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read at a glance")]
fn the_next_step_of_every_state() {
    let active = || slot("a", Place::Active, 1, 6000);
    let prepared = || slot("b", Place::Prepared, 1000, 9000);
    let retired = || slot("z", Place::Retired, 1, 5000);
    let activate = || Step::Activate("b".into());
    let remove = || Step::Remove("z".into());
    let unaware = |count, now| Facts {
        unaware: alive(count, 1080),
        ..facts(now)
    };
    let signed = |id: &str, now| Facts {
        signed: [(id.to_owned(), alive(2, 1090))].into(),
        ..facts(now)
    };
    let wait = |step, reasons: &[Reason]| Next::Wait {
        step,
        reasons: reasons.to_vec(),
    };
    let held = Slot {
        held: true,
        ..prepared()
    };
    let foreign = Slot {
        own: false,
        ..active()
    };
    type Row = (&'static str, Vec<Slot>, Facts, Next);
    let table: Vec<Row> = vec![
        ("nothing is there", vec![], facts(10), Next::Do(Step::Prepare)),
        (
            "all is well",
            vec![active()],
            facts(10),
            Next::Rest {
                prepare_at: Some(5001),
            },
        ),
        (
            "just before it is due",
            vec![active()],
            facts(5000),
            Next::Rest {
                prepare_at: Some(5001),
            },
        ),
        (
            "a sixth of its life is left",
            vec![active()],
            facts(5001),
            Next::Do(Step::Prepare),
        ),
        (
            "it has ended long ago",
            vec![active()],
            facts(90_000),
            Next::Do(Step::Prepare),
        ),
        (
            "an intermediate has no successor here",
            vec![foreign],
            facts(5999),
            Next::Rest { prepare_at: None },
        ),
        (
            "made, and not published",
            vec![active(), slot("b", Place::Prepared, 0, 9000)],
            facts(1001),
            Next::Do(Step::Publish("b".into())),
        ),
        (
            "made and not published, of a crash, although the active one has ended",
            vec![active(), slot("b", Place::Prepared, 0, 9000)],
            facts(7000),
            Next::Do(Step::Publish("b".into())),
        ),
        (
            "holders without it",
            vec![active(), prepared()],
            unaware(3, 1050),
            wait(activate(), &[Reason::Unaware(alive(3, 1080))]),
        ),
        (
            "pollers without it",
            vec![active(), prepared()],
            facts(1030),
            wait(activate(), &[Reason::Polls { until: 1031 }]),
        ),
        (
            "everybody has it",
            vec![active(), prepared()],
            facts(1031),
            Next::Do(activate()),
        ),
        (
            "a stream of bundles did not read",
            vec![active(), prepared()],
            Facts {
                unread: 1,
                ..facts(1100)
            },
            wait(
                activate(),
                &[Reason::Unread {
                    streams: 1,
                    until: 1101,
                }],
            ),
        ),
        (
            "a stream of bundles never reads",
            vec![active(), prepared()],
            Facts {
                unread: 1,
                ..facts(1101)
            },
            Next::Do(activate()),
        ),
        (
            "held",
            vec![active(), held.clone()],
            facts(2000),
            wait(activate(), &[Reason::Held]),
        ),
        (
            "held, and overruled by the end",
            vec![active(), held],
            facts(5001),
            Next::Do(activate()),
        ),
        (
            "the last moment",
            vec![active(), prepared()],
            unaware(3, 5990),
            Next::Do(activate()),
        ),
        (
            "nobody signs",
            vec![prepared()],
            unaware(3, 1001),
            Next::Do(activate()),
        ),
        (
            "what the retired one signed is alive",
            vec![retired(), active()],
            signed("z", 1050),
            wait(remove(), &[Reason::Signed(alive(2, 1090))]),
        ),
        (
            "the retired one signs at this moment",
            vec![retired(), active()],
            Facts {
                signing: vec!["z".into()],
                ..facts(1050)
            },
            wait(remove(), &[Reason::Signing]),
        ),
        (
            "nothing of the retired one is alive",
            vec![retired(), active()],
            signed("a", 1050),
            Next::Do(remove()),
        ),
        (
            "the retired one has ended",
            vec![retired(), active()],
            signed("z", 5001),
            Next::Do(remove()),
        ),
        (
            "two rotations at once: the next one does not wait for the last",
            vec![retired(), active(), prepared()],
            signed("z", 1031),
            Next::Do(activate()),
        ),
    ];
    for (name, slots, facts, expected) in table {
        assert_eq!(next(&slots, &POLICY, &facts), expected, "{name}");
    }
}

#[test]
fn a_jwt_key_signs_past_its_time_rather_than_being_followed_by_one_that_nobody_knows() {
    let policy = Policy {
        strict_end: false,
        ..POLICY
    };
    let slots = [
        slot("a", Place::Active, 1, 6000),
        slot("b", Place::Prepared, 6500, 9000),
    ];
    assert!(matches!(next(&slots, &policy, &facts(6510)), Next::Wait { .. }));
    assert_eq!(
        next(&slots, &policy, &facts(6531)),
        Next::Do(Step::Activate("b".into()))
    );
    let slots = [
        slot("z", Place::Retired, 1, 5000),
        slot("a", Place::Active, 1, 9000),
    ];
    let signed = Facts {
        signed: [("z".to_owned(), alive(1, 5050))].into(),
        ..facts(5040)
    };
    assert!(
        matches!(next(&slots, &policy, &signed), Next::Wait { .. }),
        "its tokens outlive it"
    );
}

#[test]
fn the_next_one_is_prepared_with_time_for_twice_what_activation_may_wait() {
    let lead = |life, signed_life, polls| {
        Policy {
            life,
            signed_life,
            patience: signed_life,
            polls,
            strict_end: true,
        }
        .lead()
    };
    assert_eq!(lead(315_360_000, 3600, 900), 52_560_000);
    assert_eq!(lead(7200 * 4, 3600, 900), 7200);
    assert_eq!(lead(20_000, 3600, 4000), 8000);
    assert_eq!(lead(7200, 3600, 900), 3600, "never more than half");
}

/// The mesh as a model: holders with the SVIDs and the roots that they have, an authority that is run by this file alone.
#[derive(Debug, Default)]
struct Model {
    now: i64,
    slots: Vec<Slot>,
    made: u32,
    svids: Vec<Svid>,
    holders: Vec<Holder>,
}

#[derive(Debug)]
struct Svid {
    by: String,
    until: i64,
    holder: usize,
}

#[derive(Debug, Default)]
struct Holder {
    open: bool,
    roots: Vec<String>,
}

#[derive(Clone, Debug)]
enum Event {
    Passes(i64),
    /// The authority is off for this time: nothing is pushed, renewed or rotated.
    Away(i64),
    Renew(usize),
    Close(usize),
    Operator(bool),
    Abort,
}

const HOLDERS: usize = 4;

impl Model {
    fn bundle(&self) -> Vec<String> {
        let published = self.slots.iter().filter(|slot| slot.published > 0);
        published.map(|slot| slot.id.clone()).collect()
    }

    fn push(&mut self) {
        let bundle = self.bundle();
        for holder in self.holders.iter_mut().filter(|holder| holder.open) {
            holder.roots.clone_from(&bundle);
        }
    }

    fn facts(&self) -> Facts {
        let mut facts = facts(self.now);
        let prepared = prepared(&self.slots);
        for svid in self.svids.iter().filter(|svid| svid.until >= self.now) {
            let signed = facts.signed.entry(svid.by.clone()).or_default();
            signed.count += 1;
            signed.until = signed.until.max(svid.until);
            let has = prepared.is_none_or(|slot| self.holders[svid.holder].roots.contains(&slot.id));
            if !has {
                facts.unaware.count += 1;
                facts.unaware.until = facts.unaware.until.max(svid.until);
            }
        }
        facts
    }

    /// What must be true whenever something is alive: the bundle has whoever signed it, and so has every other holder.
    fn check(&self) -> Result<(), TestCaseError> {
        let alive = || self.svids.iter().filter(|svid| svid.until >= self.now);
        for svid in alive() {
            prop_assert!(self.bundle().contains(&svid.by), "{self:?}");
            for other in alive() {
                prop_assert!(
                    self.holders[other.holder].roots.contains(&svid.by),
                    "one lacks the root of another: {self:?}"
                );
            }
        }
        let signers = self
            .slots
            .iter()
            .filter(|slot| slot.place == Place::Active)
            .count();
        prop_assert!(signers <= 1, "{self:?}");
        Ok(())
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Prepare => {
                self.made += 1;
                let id = self.made.to_string();
                let mut made = slot(&id, Place::Prepared, 0, self.now + POLICY.life);
                made.held = false;
                self.slots.push(made);
            }
            Step::Publish(id) => {
                for slot in self.slots.iter_mut().filter(|slot| slot.id == id) {
                    slot.published = self.now;
                }
                self.push();
            }
            Step::Activate(id) => {
                for slot in &mut self.slots {
                    if slot.place == Place::Active {
                        slot.place = Place::Retired;
                    }
                    if slot.id == id {
                        slot.place = Place::Active;
                    }
                }
            }
            Step::Remove(id) => {
                self.slots.retain(|slot| slot.id != id);
                self.push();
            }
        }
    }

    fn run(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..8 {
            let Next::Do(step) = next(&self.slots, &POLICY, &self.facts()) else {
                return Ok(());
            };
            self.perform(step);
            self.check()?;
        }
        prop_assert!(false, "it never rests: {self:?}");
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Passes(seconds) => {
                // The timer of the authority looks at least this often while something waits.
                for _ in 0..seconds {
                    self.now += 1;
                    self.run()?;
                }
            }
            Event::Away(seconds) => {
                for holder in &mut self.holders {
                    holder.open = false;
                }
                self.now += seconds;
            }
            Event::Renew(holder) => {
                let active = active(&self.slots).filter(|active| active.not_after >= self.now);
                if let Some((by, end)) = active.map(|active| (active.id.clone(), active.not_after)) {
                    let until = (self.now + POLICY.signed_life).min(end);
                    self.svids.push(Svid { by, until, holder });
                    self.holders[holder].open = true;
                    self.holders[holder].roots = self.bundle();
                }
            }
            Event::Close(holder) => self.holders[holder].open = false,
            Event::Operator(hold) => {
                if prepared(&self.slots).is_none() {
                    self.perform(Step::Prepare);
                    if let Some(made) = self.slots.last_mut() {
                        made.held = hold;
                    }
                }
            }
            Event::Abort => {
                if let Some(id) = prepared(&self.slots).map(|slot| slot.id.clone()) {
                    self.perform(Step::Remove(id));
                }
            }
        }
        self.run()?;
        self.check()
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..150_i64).prop_map(Event::Passes),
        1 => (1..20_000_i64).prop_map(Event::Away),
        1 => (1..150_i64).prop_map(Event::Away),
        10 => (0..HOLDERS).prop_map(Event::Renew),
        2 => (0..HOLDERS).prop_map(Event::Close),
        2 => any::<bool>().prop_map(Event::Operator),
        1 => Just(Event::Abort),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no step takes away, or signs with, what somebody alive needs.
    #[test]
    fn no_step_breaks_a_holder(events in prop::collection::vec(event(), 1..80)) {
        let mut model = Model { now: 1_000_000, ..Model::default() };
        model.holders.resize_with(HOLDERS, Holder::default);
        model.run()?;
        for event in events {
            model.happen(event)?;
        }
    }

    /// And it never gets stuck: without anybody holding it back, a rotation ends within two lives and the polls.
    #[test]
    fn a_rotation_ends(events in prop::collection::vec(event(), 1..40)) {
        let mut model = Model { now: 1_000_000, ..Model::default() };
        model.holders.resize_with(HOLDERS, Holder::default);
        model.run()?;
        for event in events {
            model.happen(event)?;
        }
        for slot in &mut model.slots {
            slot.held = false;
        }
        // At some moment: the next one may be due before the last second of the time that the one before may take.
        let mut rested = false;
        for _ in 0..2 * POLICY.signed_life + POLICY.polls + 5 {
            model.now += 1;
            model.run()?;
            rested |= model.slots.len() == 1 && model.slots[0].place == Place::Active;
        }
        prop_assert!(rested, "{model:?}");
    }
}
