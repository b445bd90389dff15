//! Entries against facts, as a pure function. Facts that cost something (path and hash of an executable) are asked for
//! only when an entry could match otherwise; a fact that could not be read refuses the entry that needs it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use spiffe::SpiffeId;

use super::entries::{Entries, Entry};
use super::selector::Selector;

/// What is known about one property of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// Nobody needed it yet.
    Unasked,
    /// The kernel proves it.
    Proven(T),
    /// It could not be proven, for this reason.
    Unproven(Arc<str>),
}

/// What is known about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Effective uid when it connected.
    pub uid: Fact<u32>,
    /// Effective gid when it connected.
    pub gid: Fact<u32>,
    /// The socket that it came through.
    pub socket: Arc<str>,
    /// Path of its executable.
    pub path: Fact<PathBuf>,
    /// SHA-256 of its executable.
    pub sha256: Fact<[u8; 32]>,
}

/// A fact that somebody has to read before entries can be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The path of the executable.
    Path,
    /// The hash of the executable.
    Sha256,
}

/// An identity that a caller may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The identity.
    pub id: SpiffeId,
    /// Unique among the grants of one caller (S-48).
    pub hint: Option<Arc<str>>,
}

/// An entry that matched as far as could be proven, and was refused because the rest could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The identity that was not granted.
    pub id: SpiffeId,
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

enum Judgement {
    Match,
    Mismatch,
    Refused(Arc<str>),
    Open(Ask),
}

impl Entries {
    /// The next fact that is worth reading for this caller. A path is asked for before a hash: it is cheaper, and its
    /// mismatch spares the hash.
    pub fn asks(&self, facts: &Facts) -> Option<Ask> {
        let mut hash = None;
        for entry in self.iter() {
            match judge(entry, facts) {
                Judgement::Open(Ask::Path) => return Some(Ask::Path),
                Judgement::Open(Ask::Sha256) => hash = Some(Ask::Sha256),
                Judgement::Match | Judgement::Mismatch | Judgement::Refused(_) => {}
            }
        }
        hash
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
            match judge(entry, facts) {
                Judgement::Match if ids.insert(&entry.id) => {
                    let hint = entry.hint.clone().filter(|hint| hints.insert(hint.clone()));
                    matching.grants.push(Grant {
                        id: entry.id.clone(),
                        hint,
                    });
                }
                Judgement::Match | Judgement::Mismatch => {}
                Judgement::Refused(reason) => matching.refused.push(refuse(reason)),
                Judgement::Open(_) => matching.refused.push(refuse("it was not read".into())),
            }
        }
        matching
    }
}

fn judge(entry: &Entry, facts: &Facts) -> Judgement {
    let mut refused = None;
    let mut path = false;
    let mut hash = false;
    for selector in &entry.selectors {
        let answer = match selector {
            Selector::Uid(uid) => compare(&facts.uid, uid),
            Selector::Gid(gid) => compare(&facts.gid, gid),
            Selector::Path(path) => compare(&facts.path, path),
            Selector::Sha256(hash) => compare(&facts.sha256, hash),
            Selector::Socket(name) => Some(Ok(*name == facts.socket)),
        };
        match (answer, selector) {
            (Some(Ok(true)), _) => {}
            (Some(Ok(false)), _) => return Judgement::Mismatch,
            (Some(Err(reason)), _) => refused = Some(reason),
            (None, Selector::Path(_)) => path = true,
            (None, Selector::Sha256(_)) => hash = true,
            // The kernel told these with the connection; were one missing, the entry is refused.
            (None, _) => refused = Some("it was not read".into()),
        }
    }
    match refused {
        Some(reason) => Judgement::Refused(reason),
        None if path => Judgement::Open(Ask::Path),
        None if hash => Judgement::Open(Ask::Sha256),
        None => Judgement::Match,
    }
}

fn compare<T: PartialEq>(fact: &Fact<T>, wanted: &T) -> Option<Result<bool, Arc<str>>> {
    match fact {
        Fact::Unasked => None,
        Fact::Proven(value) => Some(Ok(value == wanted)),
        Fact::Unproven(reason) => Some(Err(reason.clone())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::entries::Scope;
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
        Facts {
            uid: Fact::Proven(1000),
            gid: Fact::Proven(100),
            socket: "default".into(),
            path: Fact::Unasked,
            sha256: Fact::Unasked,
        }
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
}
