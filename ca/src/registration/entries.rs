//! The entries file: TOML -> raw -> typed, strict. Every problem is reported with its place, and a file with one problem
//! is refused whole.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use spiffe::{SpiffeId, TrustDomain};
use toml::Spanned;

use super::collisions::collisions;
use super::selector::Selector;
use super::template::Template;
use crate::problem::Problem;

/// S-48.
const MAX_HINT: usize = 1024;
/// S-5.
pub const MAX_ID: usize = 2048;
/// Each template is compared with every other one of the file.
const MAX_TEMPLATES: usize = 1000;
/// All of them are looked at for each caller.
const MAX_ENTRIES: usize = 50_000;
/// More problems than a person reads are counted.
const MAX_PROBLEMS: usize = 100;
/// Columns farther behind are not counted.
const MAX_COLUMN: usize = 4096;

/// An identity, and what a process must be proven to be to get it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The identity that is granted.
    pub id: Template,
    /// All of them must hold; empty only where the identity itself depends on the caller.
    pub selectors: Vec<Selector>,
    /// What is asked of a caller, for the audit log: the selectors, and the template where the identity depends on the caller.
    pub asked: Arc<[String]>,
    /// Told to the workload, to tell its identities apart.
    pub hint: Option<Arc<str>>,
    /// Where it begins in its file.
    pub line: usize,
    /// Line and column of each selector.
    pub places: Arc<[(usize, usize)]>,
}

/// Its place is no part of what it says.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.selectors == other.selectors && self.hint == other.hint
    }
}

impl Eq for Entry {}

/// All entries, in the order of their file: the first that matches a caller is its default identity (S-47).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    all: Vec<Entry>,
    /// The file says that it has none on purpose.
    none_is_meant: bool,
}

/// What the authority around the file is, where it is known.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Every identity must be in it.
    pub trust_domain: Option<TrustDomain>,
    /// The authority's own identity, which no workload may get.
    pub reserved: Option<SpiffeId>,
    /// The names that `socket:` may use.
    pub sockets: Option<Vec<Arc<str>>>,
    /// What `{host}` stands for.
    pub host: Host,
}

/// The name of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// A file on its own is read.
    #[default]
    Unchecked,
    /// It may be part of an identity.
    Name(Arc<str>),
    /// It may not, for this reason.
    Unusable(Arc<str>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    entries: Option<Spanned<String>>,
    #[serde(default)]
    entry: Vec<Spanned<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    spiffe_id: Spanned<String>,
    selectors: Option<Spanned<Vec<Spanned<String>>>>,
    hint: Option<Spanned<String>>,
}

impl Entries {
    /// The entries, in the order of their file.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none: then nobody gets an identity.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the file says that there are none on purpose.
    pub fn none_is_meant(&self) -> bool {
        self.none_is_meant
    }

    /// Reads the text of an entries file.
    ///
    /// # Errors
    /// All that is wrong in it. One problem refuses the file.
    pub fn parse(file: &Path, text: &str, scope: &Scope) -> Result<Self, Vec<Problem>> {
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            vec![Problem::toml(file, text, &error).hint(
                "an entry is a table [[entry]] with `spiffe_id`, `selectors` (a list of strings) and perhaps `hint`",
            )]
        })?;
        let mut reader = Reader {
            file,
            text,
            scope,
            ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            problems: Vec::new(),
            untold: 0,
        };
        if let Some(beyond) = raw.entry.get(MAX_ENTRIES) {
            let message = format!("there are more than {MAX_ENTRIES} entries");
            reader.complain(
                beyond.span().start,
                message,
                "a template names many callers by one entry, like spiffe://TRUST-DOMAIN/user/{unix.user}",
            );
            return Err(reader.problems);
        }
        let mut entries = Vec::with_capacity(raw.entry.len());
        let mut seen = BTreeSet::new();
        for raw in &raw.entry {
            let Some(entry) = reader.entry(raw) else {
                continue;
            };
            let mut selectors = entry.selectors.clone();
            selectors.sort();
            if seen.insert((entry.id.clone(), selectors)) {
                entries.push(entry);
            } else {
                let message = format!("the entry for `{}` with these selectors is there twice", entry.id);
                reader.complain(raw.span().start, message, "remove one of them");
            }
        }
        reader.collisions(&raw.entry, &entries);
        reader.none(&raw);
        if reader.problems.is_empty() {
            Ok(Self {
                all: entries,
                none_is_meant: raw.entries.is_some(),
            })
        } else {
            Err(reader.all_problems())
        }
    }
}

/// Selectors, and line and column of each.
type Selectors = (Vec<Selector>, Vec<(usize, usize)>);

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    scope: &'a Scope,
    /// Where lines end.
    ends: Vec<usize>,
    problems: Vec<Problem>,
    /// How many were found beyond those.
    untold: usize,
}

impl Reader<'_> {
    /// Counted from 1. The text is not counted anew for each of many entries.
    fn line(&self, offset: usize) -> usize {
        self.ends.partition_point(|end| *end < offset) + 1
    }

    /// Line and column, counted from 1.
    fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = line.checked_sub(2).and_then(|before| self.ends.get(before));
        let start = start.map_or(0, |end| end + 1);
        let within = offset.saturating_sub(start);
        let column = match self.text.get(start..offset) {
            Some(before) if within <= MAX_COLUMN => before.chars().count(),
            _ => within,
        };
        (line, column + 1)
    }

    fn all_problems(mut self) -> Vec<Problem> {
        if self.untold > 0 {
            let message = format!("and {} more problems", self.untold);
            let hint = "mend these first";
            self.problems.push(Problem::whole(self.file, message).hint(hint));
        }
        self.problems
    }

    fn complain(&mut self, offset: usize, message: String, hint: &str) {
        // Each place is found by going through the text.
        if self.problems.len() >= MAX_PROBLEMS {
            self.untold += 1;
            return;
        }
        self.problems
            .push(Problem::at(self.file, self.text, offset, message).hint(hint));
    }

    /// `entries = "none"`, in a file that has none.
    fn none(&mut self, raw: &RawFile) {
        let Some(said) = &raw.entries else { return };
        let at = said.span().start;
        if said.get_ref() != "none" {
            let message = format!("`entries` is `{}`, and can be `none` alone", said.get_ref());
            self.complain(at, message, "write each entry as a table [[entry]]");
        } else if !raw.entry.is_empty() {
            let message = "`entries` says that there are none, and there are".to_owned();
            self.complain(at, message, "remove `entries`, or every [[entry]]");
        }
    }

    fn entry(&mut self, raw: &Spanned<RawEntry>) -> Option<Entry> {
        let (at, raw) = (raw.span().start, raw.get_ref());
        let id = self.id(&raw.spiffe_id);
        let selectors = match &raw.selectors {
            Some(selectors) => self.selectors(selectors),
            None => Some((Vec::new(), Vec::new())),
        };
        let hint = self.hint(raw.hint.as_ref());
        let (id, (selectors, places)) = (id?, selectors?);
        if selectors.is_empty() && !id.bounds_the_caller() {
            let at = raw.selectors.as_ref().map_or(at, |list| list.span().start);
            self.complain(
                at,
                "an entry without selectors would match everyone".to_owned(),
                "add `selectors`, like [\"unix:uid:1000\"]",
            );
            return None;
        }
        let template = id.bounds_the_caller().then(|| id.to_string());
        let asked = selectors.iter().map(ToString::to_string).chain(template);
        Some(Entry {
            asked: asked.collect(),
            id,
            selectors,
            hint: hint?,
            line: self.line(at),
            places: places.into(),
        })
    }

    fn id(&mut self, raw: &Spanned<String>) -> Option<Template> {
        let text = raw.get_ref();
        let at = raw.span().start;
        let id = match Template::parse(text, &self.scope.host) {
            Ok(id) => id,
            Err(error) => {
                self.complain(at, error.to_string(), &error.hint());
                return None;
            }
        };
        if let Some(domain) = self
            .scope
            .trust_domain
            .as_ref()
            .filter(|domain| id.trust_domain() != *domain)
        {
            let message = format!("`{text}` is not in the trust domain `{domain}`");
            self.complain(
                at,
                message,
                &format!("this authority only speaks for spiffe://{domain}/..."),
            );
            return None;
        }
        if let Some(own) = self.scope.reserved.as_ref().filter(|own| id.may_be(own)) {
            let message = if id.is_template() {
                format!("`{text}` may become `{own}`, the identity of the authority's bundle endpoint")
            } else {
                format!("`{text}` is the identity of the authority's bundle endpoint")
            };
            self.complain(
                at,
                message,
                "whoever had it could serve a false trust bundle: give the workload another path",
            );
            return None;
        }
        Some(id)
    }

    /// A caller's name must not decide that it is taken for somebody whom another entry names.
    fn collisions(&mut self, raw: &[Spanned<RawEntry>], entries: &[Entry]) {
        let mut templates: Vec<&Entry> = entries.iter().filter(|entry| entry.id.is_template()).collect();
        templates.sort_by_key(|entry| &entry.id);
        templates.dedup_by_key(|entry| &entry.id);
        let first = |entry: &Entry| {
            let text = entry.id.as_str();
            let ids = raw.iter().map(|raw| &raw.get_ref().spiffe_id);
            let mut same = ids.filter(|id| id.get_ref() == text);
            same.next().map_or(0, |id| id.span().start)
        };
        if let Some(beyond) = templates.get(MAX_TEMPLATES) {
            self.complain(
                first(beyond),
                format!("there are more than {MAX_TEMPLATES} templates"),
                "one template names many callers: write fewer",
            );
            return;
        }
        let found = collisions(&templates, entries);
        for (template, other) in templates.iter().zip(found) {
            let Some(other) = other else { continue };
            let message = format!(
                "`{}` may become the identity that `{}` of line {} grants to other callers",
                template.id, other.id, other.line
            );
            self.complain(
                first(template),
                message,
                "give the template a prefix of its own, like /user/{unix.user}",
            );
        }
    }

    /// Selectors, and where each stands.
    fn selectors(&mut self, raw: &Spanned<Vec<Spanned<String>>>) -> Option<Selectors> {
        let mut selectors: Vec<Selector> = Vec::new();
        let mut places = Vec::new();
        let before = self.problems.len() + self.untold;
        for one in raw.get_ref() {
            let at = one.span().start;
            let selector = match Selector::parse(one.get_ref()) {
                Ok(selector) => selector,
                Err(error) => {
                    self.complain(at, error.to_string(), error.hint());
                    continue;
                }
            };
            if let Some(other) = selectors.iter().find(|other| other.same_kind(&selector)) {
                let message =
                    format!("`{selector}` stands beside `{other}`, and all selectors of an entry must hold");
                self.complain(
                    at,
                    message,
                    "write a second [[entry]] with the same spiffe_id for the other value",
                );
                continue;
            }
            self.known_socket(at, &selector);
            selectors.push(selector);
            places.push(self.place(at));
        }
        (self.problems.len() + self.untold == before).then_some((selectors, places))
    }

    fn known_socket(&mut self, at: usize, selector: &Selector) {
        if let (Selector::Socket(name), Some(known)) = (selector, &self.scope.sockets)
            && !known.contains(name)
        {
            let message = format!("no [[workload_api]] of ca.toml has the name `{name}`");
            self.complain(
                at,
                message,
                &format!("its sockets are named {}", known.join(", ")),
            );
        }
    }

    /// `Some(None)`: there is none. `None`: there is a bad one.
    fn hint(&mut self, raw: Option<&Spanned<String>>) -> Option<Option<Arc<str>>> {
        let Some(raw) = raw else { return Some(None) };
        let text = raw.get_ref();
        if text.is_empty() || text.len() > MAX_HINT || text.chars().any(char::is_control) {
            let message = format!("`hint` must have 1 to {MAX_HINT} bytes and no control character");
            self.complain(
                raw.span().start,
                message,
                "leave it out when the workload has one identity only",
            );
            return None;
        }
        Some(Some(text.as_str().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            trust_domain: Some(TrustDomain::new("td").unwrap()),
            reserved: Some(SpiffeId::new("spiffe://td/hopguard/bundle-endpoint").unwrap()),
            sockets: Some(vec!["default".into()]),
            host: Host::Name("node-1".into()),
        }
    }

    fn parse(text: &str) -> Result<Entries, Vec<Problem>> {
        Entries::parse(Path::new("entries.toml"), text, &scope())
    }

    fn only(text: &str) -> Problem {
        let problems = parse(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].hint.is_some(), "{problems:?}");
        problems[0].clone()
    }

    #[test]
    fn nobody_gets_the_identity_of_the_bundle_endpoint() {
        for path in [
            "bundle-endpoint",
            "{unix.user}",
            "bundle-{unix.group}",
            "{systemd.id}",
        ] {
            let text = format!(
                "[[entry]]\nspiffe_id = \"spiffe://td/hopguard/{path}\"\nselectors = [\"unix:uid:1\"]\n"
            );
            let problem = only(&text);
            assert!(problem.message.contains("bundle endpoint"), "{problem}");
            assert_eq!(problem.line, 2);
        }
        for path in [
            "hopguard/{unix.uid}",
            "hopguard/other",
            "hopguard/{unix.user}/x",
            "user/{unix.user}",
        ] {
            let text =
                format!("[[entry]]\nspiffe_id = \"spiffe://td/{path}\"\nselectors = [\"unix:uid:1\"]\n");
            parse(&text).unwrap();
        }
    }

    #[test]
    fn entries_keep_the_order_of_the_file() {
        let entries = parse(
            "[[entry]]\nspiffe_id = \"spiffe://td/z\"\nselectors = [\"unix:uid:1\"]\nhint = \"internal\"\n\
             [[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\", \"socket:default\"]\n",
        )
        .unwrap();
        let ids: Vec<_> = entries.iter().map(|e| e.id.path().to_owned()).collect();
        assert_eq!(ids, ["/z", "/a"]);
        assert_eq!(entries.iter().next().unwrap().hint.as_deref(), Some("internal"));
    }

    #[test]
    fn each_of_many_entries_knows_its_line() {
        let one = |at: usize| {
            format!("[[entry]]\nspiffe_id = \"spiffe://td/{at}\"\nselectors = [\"unix:uid:1\"]\n")
        };
        let text: String = (0..10_000).map(one).collect();
        let entries = parse(&text).unwrap();
        assert!(
            entries
                .iter()
                .enumerate()
                .all(|(at, entry)| entry.line == 3 * at + 1)
        );
    }

    #[test]
    fn a_long_file_is_read_whole_and_its_problems_are_bounded() {
        let fixed = |at: usize| {
            format!(
                "[[entry]]\nspiffe_id = \"spiffe://td/ns/{at}/sa/web\"\nselectors = [\"unix:uid:{at}\"]\n"
            )
        };
        let open = |at: usize| format!("[[entry]]\nspiffe_id = \"spiffe://td/ns/{at}/user/{{unix.user}}\"\n");
        let text: String = (0..20_000)
            .map(fixed)
            .chain((0..MAX_TEMPLATES).map(open))
            .collect();
        assert_eq!(parse(&text).unwrap().len(), 20_000 + MAX_TEMPLATES);
        let wrong = text.replace("unix:uid", "unix:udi");
        let problems = parse(&wrong).unwrap_err();
        assert_eq!(problems.len(), MAX_PROBLEMS + 1, "a hundred, and how many more");
        assert!(
            problems[MAX_PROBLEMS].message.contains("19900 more"),
            "{}",
            problems[MAX_PROBLEMS]
        );
        assert_eq!(problems[99].line, 300);
    }

    #[test]
    fn more_entries_than_anybody_has_are_refused() {
        let one = |at: usize| {
            format!("[[entry]]\nspiffe_id = \"spiffe://td/{at}\"\nselectors = [\"unix:uid:1\"]\n")
        };
        let text: String = (0..=MAX_ENTRIES).map(one).collect();
        let problem = only(&text);
        assert!(problem.message.contains("more than 50000 entries"), "{problem}");
        assert_eq!(problem.line, 3 * MAX_ENTRIES + 1);
    }

    #[test]
    fn each_selector_knows_its_place() {
        let entries = parse(
            "[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\",\n  \"unix:gid:2\"]\n",
        );
        let entries = entries.unwrap();
        assert_eq!(entries.iter().next().unwrap().places.as_ref(), [(3, 14), (4, 3)]);
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        let (silent, meant) = (parse("").unwrap(), parse("entries = \"none\"\n").unwrap());
        assert!(silent.is_empty() && !silent.none_is_meant());
        assert!(meant.is_empty() && meant.none_is_meant());
        assert!(only("entries = \"all\"\n").message.contains("`none` alone"));
        let both =
            "entries = \"none\"\n[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\"]\n";
        assert!(only(both).message.contains("and there are"));
    }

    #[test]
    fn a_problem_names_its_line() {
        let problem = only(
            "[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\",\n  \"unix:udi:2\"]\n",
        );
        assert_eq!((problem.line, problem.column), (4, 3));
        assert!(problem.message.contains("unix:udi:2"));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let text = "[[entry]]\nspiffe_id = \"spiffe://td\"\nselectors = []\n[[entry]]\nspiffe_id = \"x\"\nselectors = [\"y\"]\n";
        let lines: Vec<_> = parse(text).unwrap_err().iter().map(|p| p.line).collect();
        assert_eq!(lines, [2, 5, 6]);
    }

    /// S-1 to S-4, S-8: an ID that is none, or not in its one form, is in no entry.
    #[test]
    fn what_would_grant_too_much_or_never_is_refused() {
        let entry = |id: &str, selectors: &str| {
            format!("[[entry]]\nspiffe_id = \"{id}\"\nselectors = [{selectors}]\n")
        };
        let good = "\"unix:uid:1\"";
        for (text, word) in [
            (entry("spiffe://td", good), "trust domain itself"),
            (entry("spiffe://td/", good), "not a SPIFFE ID"),
            (entry("spiffe://other/a", good), "not in the trust domain"),
            (entry("spiffe://TD/a", good), "one form"),
            (entry("SPIFFE://td/a", good), "one form"),
            (entry("spiffe://td/../a", good), "not a SPIFFE ID"),
            (entry("spiffe://td/a%20b", good), "not a SPIFFE ID"),
            (entry("spiffe://td/a", ""), "match everyone"),
            (
                entry("spiffe://td/a", "\"unix:uid:1\", \"unix:uid:2\""),
                "all selectors",
            ),
            (
                entry("spiffe://td/a", "\"unix:uid:1\", \"unix:uid:1\""),
                "all selectors",
            ),
            (
                entry("spiffe://td/a", "\"socket:nowhere\""),
                "no [[workload_api]]",
            ),
            (entry("spiffe://td/a", good).repeat(2), "twice"),
            (entry("spiffe://td/a", good) + "hint = \"\"\n", "`hint`"),
            (entry("spiffe://td/a", good) + "hint = \"a\\nb\"\n", "`hint`"),
            (entry("spiffe://td/a", good) + "ttl = \"1h\"\n", "unknown field"),
            (
                format!("trust = 1\n{}", entry("spiffe://td/a", good)),
                "unknown field",
            ),
            (
                "[[entry]]\nselectors = [\"unix:uid:1\"]\n".to_owned(),
                "spiffe_id",
            ),
            ("[[entry]\n".to_owned(), ""),
        ] {
            let problem = only(&text);
            assert!(problem.message.contains(word), "{text}: {problem}");
        }
    }

    fn template(id: &str, selectors: &str) -> String {
        format!("[[entry]]\nspiffe_id = \"spiffe://td/{id}\"\n{selectors}\n")
    }

    #[test]
    fn a_template_names_each_caller_by_itself_and_everybody_else_needs_a_selector() {
        for good in [
            template("host/{host}/user/{unix.user}", ""),
            template("u/{unix.uid}-{unix.gid}", "").replace("-{unix.gid}", "/{unix.gid}"),
            template("unit/{systemd.id}", "selectors = []"),
            template("s/{socket}", ""),
            template("host/{host}", "selectors = [\"unix:uid:0\"]"),
            template("user/{unix.user}", "selectors = [\"unix:group:shop\"]"),
            // The same identity for more callers: each by its own name.
            template("user/{unix.user}", "selectors = [\"unix:gid:1\"]")
                + &template("user/{unix.user}", "selectors = [\"unix:gid:2\"]"),
            template("user/{unix.user}", "") + &template("users/root", "selectors = [\"unix:uid:0\"]"),
            template("u/{unix.uid}", "") + &template("u/root", "selectors = [\"unix:uid:0\"]"),
            template("u/a-{unix.user}", "") + &template("u/b-{unix.user}", "selectors = [\"unix:gid:2\"]"),
        ] {
            parse(&good).unwrap_or_else(|problems| panic!("{good}: {problems:?}"));
        }
    }

    #[test]
    fn a_template_that_could_name_somebody_else_or_everybody_is_refused() {
        for (text, word) in [
            (template("host/{host}", ""), "match everyone"),
            (template("host/{host}", "selectors = []"), "match everyone"),
            (template("a", ""), "match everyone"),
            (template("{unix.user}", ""), "starts with the variable"),
            (
                template("{host}/a", "selectors = [\"unix:uid:0\"]"),
                "starts with the variable",
            ),
            (template("user/{unix.name}", ""), "no variable"),
            (template("user/{unix.user}{unix.uid}", ""), "one {variable}"),
            (template("user/{unix.user}-{unix.group}", ""), "one {variable}"),
            (template("user/{{unix.user}}", ""), "one {variable}"),
            (template("user/{unix.user", ""), "one {variable}"),
            (template("user/unix.user}", ""), "one {variable}"),
            (template("user/{unix.user}/", ""), "not a SPIFFE ID"),
            (template("user//{unix.user}", ""), "not a SPIFFE ID"),
            (template("user/../{unix.user}", ""), "not a SPIFFE ID"),
            (template("user/a%{unix.user}", ""), "not a SPIFFE ID"),
            (
                template("user/{unix.user}", "") + &template("user/root", "selectors = [\"unix:uid:0\"]"),
                "other callers",
            ),
            (
                template("u/{unix.uid}", "") + &template("u/0", "selectors = [\"unix:uid:1\"]"),
                "other callers",
            ),
            (
                template("u/{unix.uid}", "") + &template("u/{unix.gid}", ""),
                "other callers",
            ),
            (
                template("host/{host}/{unix.user}", "")
                    + &template("host/node-1/a", "selectors = [\"unix:uid:1\"]"),
                "other callers",
            ),
        ] {
            let problems = parse(&text).unwrap_err();
            assert!(problems[0].message.contains(word), "{text}: {problems:?}");
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.hint.is_some() && problem.line > 0),
                "{problems:?}"
            );
        }
        let elsewhere = "[[entry]]\nspiffe_id = \"spiffe://other/user/{unix.user}\"\n";
        assert!(only(elsewhere).message.contains("trust domain"));
    }

    #[test]
    fn a_machine_whose_name_cannot_be_in_an_identity_refuses_it() {
        let text = "[[entry]]\nspiffe_id = \"spiffe://td/host/{host}/user/{unix.user}\"\n";
        let with = |host: Host| Entries::parse(Path::new("e"), text, &Scope { host, ..scope() });
        with(Host::Unchecked).unwrap();
        let problem = with(Host::Unusable("`a b` has a blank".into()))
            .unwrap_err()
            .remove(0);
        assert!(problem.message.contains("a b") && problem.line == 2, "{problem}");
        assert!(problem.hint.unwrap().contains("ca.toml"));
    }

    #[test]
    fn a_place_is_no_part_of_an_entry() {
        let text = "[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\"]\n";
        let (one, other) = (parse(text).unwrap(), parse(&format!("# moved\n{text}")).unwrap());
        assert_eq!(one, other);
        let lines = [&one, &other].map(|entries| entries.iter().next().unwrap().line);
        assert_eq!(lines, [1, 2]);
    }

    #[test]
    fn the_same_selectors_in_another_order_are_the_same_entry() {
        let text = "[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\", \"unix:gid:2\"]\n\
                    [[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:gid:2\", \"unix:uid:1\"]\n";
        assert_eq!(only(text).line, 4);
    }

    #[test]
    fn two_ways_to_one_identity_and_two_identities_for_one_caller_are_fine() {
        let text = "[[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:1\"]\n\
                    [[entry]]\nspiffe_id = \"spiffe://td/a\"\nselectors = [\"unix:uid:2\"]\n\
                    [[entry]]\nspiffe_id = \"spiffe://td/b\"\nselectors = [\"unix:uid:1\"]\n";
        assert_eq!(parse(text).unwrap().len(), 3);
    }
}
