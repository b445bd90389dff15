//! Entries against facts, as a pure function. Facts that have to be read are asked for only when an entry could match
//! otherwise; a fact that could not be read refuses the entry that needs it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use spiffe::SpiffeId;

use super::entries::{Entries, Entry};
use super::facts::{Ask, Fact, Facts};
use super::selector::Selector;
use super::template::{Expanded, Template, Variable};

/// An identity that a caller may have.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The identity.
    pub id: SpiffeId,
    /// Unique among the grants of one caller (S-48).
    pub hint: Option<Arc<str>>,
    /// What the entry asked of the caller, for the audit log.
    pub by: Arc<[String]>,
}

/// How it came about is no part of what is granted.
impl PartialEq for Grant {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.hint == other.hint
    }
}

impl Eq for Grant {}

/// An entry that matched as far as could be proven, and was refused because the rest could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The identity that was not granted, as the entry writes it.
    pub id: Template,
    /// Why.
    pub reason: Arc<str>,
}

/// The outcome for one caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// In the order of the file, each identity once.
    pub grants: Vec<Grant>,
    /// For the log.
    pub refused: Vec<Refused>,
}

/// One thing that an entry asks of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// To have this.
    Selector(Selector),
    /// To have a value that can be part of its identity.
    Variable(Variable),
}

/// Why an entry grants a caller something, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It grants this identity.
    Match(SpiffeId),
    /// The caller is not whom it names: the first condition that does not hold.
    Mismatch(Condition),
    /// The caller may be whom it names, and that could not be proven.
    Refused(Condition, Arc<str>),
    /// A fact has to be read first.
    Open(Ask),
}

impl Entries {
    /// The next fact that is worth reading for this caller: the cheapest, because its mismatch spares the others.
    pub fn asks(&self, facts: &Facts) -> Option<Ask> {
        let open = |entry: &Entry| match entry.judge(facts) {
            Judgement::Open(ask) => Some(ask),
            Judgement::Match(_) | Judgement::Mismatch(_) | Judgement::Refused(..) => None,
        };
        self.iter().filter_map(open).min()
    }

    /// What a caller may have. An entry whose facts were not asked for is refused, never granted.
    pub fn matching(&self, facts: &Facts) -> Matching {
        let mut matching = Matching::default();
        let mut ids = BTreeSet::new();
        let mut hints = BTreeSet::new();
        for entry in self.iter() {
            let refuse = |reason: Arc<str>| Refused {
                id: entry.id.clone(),
                reason,
            };
            match entry.judge(facts) {
                Judgement::Match(id) => {
                    if ids.insert(id.clone()) {
                        let hint = entry.hint.clone().filter(|hint| hints.insert(hint.clone()));
                        let by = entry.asked.clone();
                        matching.grants.push(Grant { id, hint, by });
                    }
                }
                Judgement::Mismatch(_) => {}
                Judgement::Refused(_, reason) => matching.refused.push(refuse(reason)),
                Judgement::Open(_) => matching.refused.push(refuse("it was not read".into())),
            }
        }
        matching
    }
}

impl Entry {
    /// What the entry says of a caller. One condition that is known not to hold settles it; what is not proven refuses it.
    pub fn judge(&self, facts: &Facts) -> Judgement {
        let mut refused = None;
        let mut open: Option<Ask> = None;
        for selector in &self.selectors {
            match holds(selector, facts) {
                Holds::Yes => {}
                Holds::No => return Judgement::Mismatch(Condition::Selector(selector.clone())),
                Holds::Unproven(reason) => {
                    refused = refused.or(Some((Condition::Selector(selector.clone()), reason)));
                }
                Holds::Unread(ask) => open = Some(open.map_or(ask, |other| other.min(ask))),
            }
        }
        let expanded = self.id.expand(facts);
        if let Expanded::Absent(variable) = expanded {
            return Judgement::Mismatch(Condition::Variable(variable));
        }
        match (refused, open, expanded) {
            (Some((condition, reason)), ..) => Judgement::Refused(condition, reason),
            (None, _, Expanded::Refused(variable, reason)) => {
                Judgement::Refused(Condition::Variable(variable), reason)
            }
            (None, Some(ask), Expanded::Open(other)) => Judgement::Open(ask.min(other)),
            (None, Some(ask), _) | (None, None, Expanded::Open(ask)) => Judgement::Open(ask),
            (None, None, Expanded::Id(id)) => Judgement::Match(id),
            (None, None, Expanded::Absent(variable)) => Judgement::Mismatch(Condition::Variable(variable)),
        }
    }

    /// How many of its conditions hold: the nearer it is to a match.
    pub fn held(&self, facts: &Facts) -> usize {
        let held = |selector: &&Selector| matches!(holds(selector, facts), Holds::Yes);
        self.selectors.iter().filter(held).count()
    }
}

enum Holds {
    Yes,
    No,
    Unproven(Arc<str>),
    Unread(Ask),
}

fn holds(selector: &Selector, facts: &Facts) -> Holds {
    match selector {
        Selector::Uid(uid) => compare(&facts.uid, None, |fact| fact == uid),
        Selector::Gid(gid) => compare(&facts.gid, None, |fact| fact == gid),
        Selector::User(name) => compare(&facts.user, Some(Ask::User), |fact| fact == name),
        Selector::Group(name) => compare(&facts.group, Some(Ask::Group), |fact| fact == name),
        Selector::Path(path) => compare(&facts.path, Some(Ask::Path), |fact| fact == path),
        Selector::Sha256(hash) => compare(&facts.sha256, Some(Ask::Sha256), |fact| fact == hash),
        Selector::Socket(name) if *name == facts.socket => Holds::Yes,
        Selector::Socket(_) => Holds::No,
        Selector::Unit(name) => compare(&facts.unit(), Some(Ask::Cgroup), |fact| fact == name),
        Selector::Slice(name) => compare(&facts.cgroup, Some(Ask::Cgroup), |fact| {
            fact.slices.contains(name)
        }),
        Selector::Container(id) => compare(&facts.container(), Some(Ask::Cgroup), |fact| fact == id),
        Selector::Cgroup(above) => compare(&facts.cgroup, Some(Ask::Cgroup), |fact| {
            is_below(&fact.path, above)
        }),
    }
}

fn compare<T>(fact: &Fact<T>, ask: Option<Ask>, is: impl FnOnce(&T) -> bool) -> Holds {
    match (fact, ask) {
        (Fact::Proven(value), _) if is(value) => Holds::Yes,
        (Fact::Proven(_) | Fact::Absent(_), _) => Holds::No,
        (Fact::Unproven(reason), _) => Holds::Unproven(reason.clone()),
        (Fact::Unasked, Some(ask)) => Holds::Unread(ask),
        // The kernel told these with the connection; were one missing, the entry is refused.
        (Fact::Unasked, None) => Holds::Unproven("it was not read".into()),
    }
}

/// Whether a path is another one, or below it: by whole parts.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Facts {
    /// What was found of the thing that a condition is about, or why nothing was.
    pub fn found(&self, condition: &Condition) -> String {
        let selector = match condition {
            Condition::Selector(selector) => selector,
            Condition::Variable(variable) => return said(&variable.value(self)),
        };
        match selector {
            Selector::Uid(_) => said(&self.uid),
            Selector::Gid(_) => said(&self.gid),
            Selector::User(_) => said(&self.user),
            Selector::Group(_) => said(&self.group),
            Selector::Path(_) => said(&self.path.clone().map(|path| path.display().to_string())),
            Selector::Sha256(_) => said(&self.sha256.clone().map(hex::encode)),
            Selector::Socket(_) => self.socket.to_string(),
            Selector::Unit(_) => said(&self.unit()),
            Selector::Slice(_) => said(&self.cgroup.clone().map(|cgroup| match cgroup.slices.as_slice() {
                [] => format!("none: its control group is {}", cgroup.path),
                slices => slices.join(", "),
            })),
            Selector::Container(_) => said(&self.container()),
            Selector::Cgroup(_) => said(&self.cgroup.clone().map(|cgroup| cgroup.path)),
        }
    }
}

fn said<T: fmt::Display>(fact: &Fact<T>) -> String {
    match fact {
        Fact::Proven(value) => value.to_string(),
        Fact::Absent(reason) => format!("none: {reason}"),
        Fact::Unproven(reason) => format!("not proven: {reason}"),
        Fact::Unasked => "not read".to_owned(),
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selector(selector) => selector.fmt(f),
            Self::Variable(variable) => variable.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::entries::Scope;
    use super::super::facts::Cgroup;
    use super::*;

    const HASH: [u8; 32] = [7; 32];

    fn entries(list: &[(&str, &[&str], Option<&str>)]) -> Entries {
        let mut text = String::new();
        for (path, selectors, hint) in list {
            text += &format!("[[entry]]\nspiffe_id = \"spiffe://td/{path}\"\nselectors = {selectors:?}\n");
            if let Some(hint) = hint {
                text += &format!("hint = {hint:?}\n");
            }
        }
        Entries::parse(Path::new("e"), &text, &Scope::default()).unwrap()
    }

    fn facts() -> Facts {
        Facts::new(Fact::Proven(1000), Fact::Proven(100), "default".into())
    }

    fn granted(entries: &Entries, facts: &Facts) -> Vec<String> {
        entries
            .matching(facts)
            .grants
            .iter()
            .map(|g| g.id.path().to_owned())
            .collect()
    }

    #[test]
    fn all_selectors_of_an_entry_must_hold() {
        for (selectors, matches) in [
            (&["unix:uid:1000"][..], true),
            (&["unix:uid:1001"], false),
            (&["unix:gid:100"], true),
            (&["unix:gid:1000"], false),
            (&["socket:default"], true),
            (&["socket:other"], false),
            (&["unix:uid:1000", "unix:gid:100", "socket:default"], true),
            (&["unix:uid:1000", "unix:gid:101", "socket:default"], false),
            (&["unix:uid:1000", "socket:other"], false),
        ] {
            let entries = entries(&[("a", selectors, None)]);
            assert_eq!(!granted(&entries, &facts()).is_empty(), matches, "{selectors:?}");
        }
    }

    #[test]
    fn the_first_match_in_the_file_is_the_default_identity() {
        let entries = entries(&[
            ("other", &["unix:uid:1"], None),
            ("z", &["unix:uid:1000"], None),
            ("a", &["unix:gid:100"], None),
            ("z", &["unix:gid:100"], None),
        ]);
        assert_eq!(granted(&entries, &facts()), ["/z", "/a"]);
    }

    #[test]
    fn a_hint_is_unique_in_one_answer() {
        let entries = entries(&[
            ("a", &["unix:uid:1000"], Some("x")),
            ("b", &["unix:gid:100"], Some("x")),
            ("c", &["socket:default"], Some("y")),
        ]);
        let hints: Vec<_> = entries
            .matching(&facts())
            .grants
            .into_iter()
            .map(|g| g.hint.map(|h| h.to_string()))
            .collect();
        assert_eq!(hints, [Some("x".to_owned()), None, Some("y".to_owned())]);
    }

    #[test]
    fn an_executable_is_read_only_for_an_entry_that_could_match() {
        let path = "unix:path:/usr/bin/orders";
        let hash = format!("unix:sha256:{}", hex::encode(HASH));
        let other_uid = entries(&[("a", &["unix:uid:1", path, &hash], None)]);
        assert_eq!(other_uid.asks(&facts()), None);

        let both = entries(&[("a", &["unix:uid:1000", path, &hash], None)]);
        assert_eq!(both.asks(&facts()), Some(Ask::Path));
        let mut known = facts();
        known.path = Fact::Proven("/usr/bin/web".into());
        assert_eq!(both.asks(&known), None, "a wrong path spares the hash");
        known.path = Fact::Proven("/usr/bin/orders".into());
        assert_eq!(both.asks(&known), Some(Ask::Sha256));
        assert_eq!(granted(&both, &known), [""; 0], "not granted before it is read");
        known.sha256 = Fact::Proven([8; 32]);
        assert_eq!(granted(&both, &known), [""; 0]);
        known.sha256 = Fact::Proven(HASH);
        assert_eq!(
            (both.asks(&known), granted(&both, &known)),
            (None, vec!["/a".to_owned()])
        );
    }

    #[test]
    fn what_cannot_be_proven_refuses_the_entry_and_says_so() {
        let entries = entries(&[
            ("a", &["unix:uid:1000", "unix:path:/usr/bin/orders"], None),
            ("b", &["unix:uid:1000"], None),
            ("c", &["unix:uid:1", "unix:path:/usr/bin/orders"], None),
        ]);
        let mut facts = facts();
        facts.path = Fact::Unproven("no permission".into());
        let matching = entries.matching(&facts);
        assert_eq!(matching.grants.len(), 1);
        assert_eq!(matching.grants[0].id.path(), "/b");
        assert_eq!(matching.refused.len(), 1, "an entry for another uid is no news");
        assert_eq!(&*matching.refused[0].reason, "no permission");
        assert_eq!(entries.asks(&facts), None, "it is not asked for twice");
    }

    #[test]
    fn a_uid_that_the_kernel_does_not_prove_matches_nothing() {
        let entries = entries(&[("a", &["unix:uid:1000"], None), ("b", &["socket:default"], None)]);
        for unproven in [Fact::Unasked, Fact::Unproven("not mapped".into())] {
            let mut facts = facts();
            facts.uid = unproven;
            assert_eq!(granted(&entries, &facts), ["/b"]);
        }
    }

    fn in_unit(path: &str, slices: &[&str], unit: Fact<Arc<str>>) -> Facts {
        Facts {
            cgroup: Fact::Proven(Cgroup {
                path: path.into(),
                slices: slices.iter().map(|slice| Arc::from(*slice)).collect(),
                unit,
                container: Fact::Absent("no container".into()),
            }),
            user: Fact::Proven("orders".into()),
            group: Fact::Proven("shop".into()),
            ..facts()
        }
    }

    #[test]
    fn names_units_slices_and_control_groups_match_by_the_whole_word() {
        let path = "/shop.slice/shop-orders.slice/orders.service/worker";
        let slices = ["shop.slice", "shop-orders.slice"];
        let facts = in_unit(path, &slices, Fact::Proven("orders.service".into()));
        let id = format!("container:id:{}", "ab".repeat(32));
        for (selector, matches) in [
            ("unix:user:orders", true),
            ("unix:user:order", false),
            ("unix:group:shop", true),
            ("unix:group:orders", false),
            ("systemd:unit:orders.service", true),
            ("systemd:unit:orders.scope", false),
            ("systemd:unit:worker.service", false),
            ("systemd:slice:shop.slice", true),
            ("systemd:slice:shop-orders.slice", true),
            ("systemd:slice:orders.slice", false),
            ("container:cgroup:/shop.slice", true),
            (
                "container:cgroup:/shop.slice/shop-orders.slice/orders.service/worker",
                true,
            ),
            (
                "container:cgroup:/shop.slice/shop-orders.slice/orders.service/work",
                false,
            ),
            ("container:cgroup:/shop", false),
            ("container:cgroup:/shop-orders.slice", false),
            (&id, false),
        ] {
            let entries = entries(&[("a", &[selector], None)]);
            assert_eq!(!granted(&entries, &facts).is_empty(), matches, "{selector}");
            assert_eq!(entries.matching(&facts).refused.len(), 0, "{selector}");
        }
    }

    #[test]
    fn what_is_cheap_is_asked_first_and_a_mismatch_spares_the_rest() {
        let hash = format!("unix:sha256:{}", hex::encode(HASH));
        let all = [
            "unix:user:orders",
            "unix:group:shop",
            "systemd:unit:a.service",
            "unix:path:/a",
            &hash,
        ];
        let entries = entries(&[("a", &all, None)]);
        let mut facts = facts();
        let mut asked = Vec::new();
        while let Some(ask) = entries.asks(&facts) {
            asked.push(ask);
            match ask {
                Ask::Cgroup => facts = in_unit("/a.service", &[], Fact::Proven("a.service".into())),
                Ask::User => facts.user = Fact::Proven("orders".into()),
                Ask::Group => facts.group = Fact::Proven("shop".into()),
                Ask::Path => facts.path = Fact::Proven("/a".into()),
                Ask::Sha256 => facts.sha256 = Fact::Proven(HASH),
            }
            if ask == Ask::Cgroup {
                (facts.user, facts.group) = (Fact::Unasked, Fact::Unasked);
            }
        }
        assert_eq!(asked, Ask::ALL);
        assert_eq!(granted(&entries, &facts), ["/a"]);
        let other = in_unit("/b.service", &[], Fact::Proven("b.service".into()));
        assert_eq!(
            entries.asks(&Facts {
                user: Fact::Unasked,
                ..other
            }),
            None
        );
    }

    #[test]
    fn a_caller_without_such_a_thing_is_no_match_and_one_of_whom_it_is_not_known_is_refused() {
        let entries = entries(&[
            ("a", &["systemd:unit:a.service"], None),
            ("unit/{systemd.id}", &[], None),
        ]);
        let none = entries.matching(&in_unit("/x", &[], Fact::Absent("it is in no unit".into())));
        assert_eq!((none.grants.len(), none.refused.len()), (0, 0));
        let unknown = entries.matching(&in_unit("/x", &[], Fact::Unproven("not ours".into())));
        assert_eq!((unknown.grants.len(), unknown.refused.len()), (0, 2));
        assert_eq!(unknown.refused[1].id.path(), "/unit/{systemd.id}");
        let hidden = Facts {
            cgroup: Fact::Unproven("hidden".into()),
            ..facts()
        };
        assert_eq!(entries.matching(&hidden).refused.len(), 2);
    }

    #[test]
    fn a_value_that_cannot_be_in_an_identity_refuses_the_entry() {
        let entries = entries(&[("unit/{systemd.id}", &[], None)]);
        let granted_for = |unit: &str| granted(&entries, &in_unit("/x", &[], Fact::Proven(unit.into())));
        assert_eq!(granted_for("orders.service"), ["/unit/orders.service"]);
        for unit in [
            "orders@1.service",
            "a\\x2db.service",
            "a/b",
            "..",
            ".",
            "",
            "a b",
            "\u{e9}.service",
        ] {
            assert_eq!(granted_for(unit), [""; 0], "{unit}");
            let refused = entries
                .matching(&in_unit("/x", &[], Fact::Proven(unit.into())))
                .refused;
            assert!(
                refused[0].reason.contains("cannot be a part"),
                "{unit}: {refused:?}"
            );
        }
    }

    #[test]
    fn the_first_condition_that_does_not_hold_is_named_with_what_was_found() {
        let entries = entries(&[
            (
                "a",
                &["unix:uid:1000", "systemd:unit:b.service", "unix:gid:4"],
                None,
            ),
            ("b", &["unix:user:orders", "unix:path:/x"], None),
            ("unit/{systemd.id}", &[], None),
        ]);
        let facts = Facts {
            path: Fact::Unproven("hidden".into()),
            ..in_unit("/a.service", &[], Fact::Proven("a@1.service".into()))
        };
        let told: Vec<String> = entries
            .iter()
            .map(|entry| match entry.judge(&facts) {
                Judgement::Mismatch(condition) => format!("{condition} is {}", facts.found(&condition)),
                Judgement::Refused(condition, reason) => format!("{condition} refused {reason}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(told[0], "systemd:unit:b.service is a@1.service");
        assert_eq!(told[1], "unix:path:/x refused hidden");
        assert!(
            told[2].starts_with("{systemd.id} refused the value `a@1.service`"),
            "{}",
            told[2]
        );
        assert_eq!(
            entries.iter().map(|entry| entry.held(&facts)).collect::<Vec<_>>(),
            [1, 1, 0]
        );
    }
}
