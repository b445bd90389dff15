//! What changes between two sets of entries, as a pure function.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::entries::{Entries, Entry};
use super::{Selector, Template};

/// What changes. An entry has no name: one that keeps its identity and gets other selectors or another hint is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Only in the new ones.
    pub added: Vec<&'a Entry>,
    /// Only in the old ones.
    pub removed: Vec<&'a Entry>,
    /// The old and the new form.
    pub changed: Vec<(&'a Entry, &'a Entry)>,
    /// What is in both stands in another order, which decides who is whose default identity.
    pub reordered: bool,
}

impl Difference<'_> {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }
}

impl Entries {
    /// What `new` changes.
    pub fn difference<'a>(&'a self, new: &'a Self) -> Difference<'a> {
        let (olds, news) = (keys(self), keys(new));
        let removed = without(self, &news);
        // The old ones of each identity, in their order, by their places.
        let mut former: BTreeMap<&Template, VecDeque<usize>> = BTreeMap::new();
        for (at, entry) in removed.iter().enumerate() {
            former.entry(&entry.id).or_default().push_back(at);
        }
        let mut removed: Vec<Option<&Entry>> = removed.into_iter().map(Some).collect();
        let mut added = Vec::new();
        let mut changed = Vec::new();
        for entry in without(new, &olds) {
            let old = former.get_mut(&entry.id).and_then(VecDeque::pop_front);
            match old.and_then(|at| removed.get_mut(at)).and_then(Option::take) {
                Some(old) => changed.push((old, entry)),
                None => added.push(entry),
            }
        }
        Difference {
            added,
            removed: removed.into_iter().flatten().collect(),
            changed,
            reordered: ids_in_both(self, &news) != ids_in_both(new, &olds),
        }
    }
}

type Key<'a> = (&'a Template, Vec<&'a Selector>, Option<&'a str>);

fn key(entry: &Entry) -> Key<'_> {
    let mut selectors: Vec<_> = entry.selectors.iter().collect();
    selectors.sort();
    (&entry.id, selectors, entry.hint.as_deref())
}

fn keys(all: &Entries) -> BTreeSet<Key<'_>> {
    all.iter().map(key).collect()
}

/// The entries of `all` that are not in `others`. An entry is in a file once.
fn without<'a>(all: &'a Entries, others: &BTreeSet<Key<'_>>) -> Vec<&'a Entry> {
    all.iter().filter(|entry| !others.contains(&key(entry))).collect()
}

fn ids_in_both<'a>(all: &'a Entries, others: &BTreeSet<Key<'_>>) -> Vec<&'a Template> {
    let both = all.iter().filter(|entry| others.contains(&key(entry)));
    both.map(|entry| &entry.id).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Scope;
    use super::*;

    fn entries(list: &[(&str, &str)]) -> Entries {
        let entry = |(path, selector): &(&str, &str)| {
            format!("[[entry]]\nspiffe_id = \"spiffe://td/{path}\"\nselectors = [{selector}]\n")
        };
        let text: String = list.iter().map(entry).collect();
        Entries::parse(Path::new("e"), &text, &Scope::default()).unwrap()
    }

    fn paths(list: &[&Entry]) -> Vec<String> {
        list.iter().map(|entry| entry.id.path().to_owned()).collect()
    }

    const ONE: &str = "\"unix:uid:1\"";
    const TWO: &str = "\"unix:uid:2\"";

    #[test]
    fn what_is_only_in_one_is_added_or_removed_and_what_keeps_its_identity_is_changed() {
        let (old, new) = (
            entries(&[("a", ONE), ("b", ONE), ("c", ONE)]),
            entries(&[("a", ONE), ("c", TWO), ("d", ONE)]),
        );
        let difference = old.difference(&new);
        assert_eq!(paths(&difference.added), ["/d"]);
        assert_eq!(paths(&difference.removed), ["/b"]);
        let [(before, after)] = difference.changed.as_slice() else {
            panic!("one is changed: {difference:?}")
        };
        assert_eq!(
            (before.id.path(), &before.selectors),
            ("/c", &old.iter().nth(2).unwrap().selectors)
        );
        assert_eq!(after.selectors, new.iter().nth(1).unwrap().selectors);
        assert!(!difference.reordered && !difference.is_empty());
    }

    #[test]
    fn a_second_way_to_an_identity_is_added_and_the_first_is_not_changed() {
        let (old, new) = (entries(&[("a", ONE)]), entries(&[("a", TWO), ("a", ONE)]));
        let difference = old.difference(&new);
        assert_eq!(
            (
                difference.added.len(),
                difference.removed.len(),
                difference.changed.len()
            ),
            (1, 0, 0)
        );
    }

    #[test]
    fn several_entries_of_one_identity_are_paired_in_their_order() {
        let old = entries(&[("a", ONE), ("b", ONE), ("a", TWO), ("c", ONE)]);
        let new = entries(&[
            ("a", "\"unix:uid:3\""),
            ("a", "\"unix:uid:4\""),
            ("a", "\"unix:uid:5\""),
        ]);
        let difference = old.difference(&new);
        let lines = |list: &[&Entry]| list.iter().map(|entry| entry.line).collect::<Vec<_>>();
        let (before, after): (Vec<&Entry>, Vec<&Entry>) = difference.changed.iter().copied().unzip();
        assert_eq!((lines(&before), lines(&after)), (vec![1, 7], vec![1, 4]));
        assert_eq!(paths(&difference.removed), ["/b", "/c"]);
        assert_eq!(lines(&difference.added), [7]);
    }

    #[test]
    fn the_order_matters_and_the_order_of_selectors_does_not() {
        let old = entries(&[("a", "\"unix:uid:1\", \"unix:gid:1\""), ("b", ONE)]);
        let same = entries(&[("a", "\"unix:gid:1\", \"unix:uid:1\""), ("b", ONE)]);
        assert!(old.difference(&same).is_empty());
        let turned = entries(&[("b", ONE), ("a", "\"unix:uid:1\", \"unix:gid:1\"")]);
        let difference = old.difference(&turned);
        assert!(difference.reordered && difference.added.is_empty() && difference.changed.is_empty());
        assert!(old.difference(&old).is_empty());
    }
}
