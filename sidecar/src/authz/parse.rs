//! From text to policies: files enter, policies with an `@id` of their own and their places leave. What Cedar's parser
//! cannot take safely (too deep) never reaches it; templates and nameless policies go no further.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{Policy, PolicyId, PolicySet};
use miette::Diagnostic;

use super::expr::Reads;
use super::problem::{Problems, Span};
use super::scan::Scan;

/// The most policies of a set: what they cost to check grows with their number and with that of the actions.
const MAX_POLICIES: usize = 20_000;
/// The largest policy, in bytes.
const MAX_POLICY: usize = 64 << 10;
/// How deep an expression may nest, operators of a chain included: Cedar parses, validates and evaluates recursively,
/// the last on the stack of a data worker. Cedar checks what is left of it, so too deep is an error there, never a crash.
pub(super) const MAX_DEPTH: usize = 64;

/// Whether a file holds tests of the policies beside it.
pub(super) fn is_test(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().ends_with(b".test.toml"))
}

/// One policy and where it stands.
pub(super) struct Parsed {
    pub(super) file: usize,
    pub(super) span: Span,
    pub(super) policy: Policy,
    pub(super) reads: Reads,
}

/// A set, by `@id`.
pub(super) type Parsings = BTreeMap<String, Parsed>;

/// What is wrong, and what to do.
pub(super) type Wrong = (String, Option<String>);

/// All files, read.
pub(super) struct Source<'f> {
    files: &'f [(PathBuf, String)],
    scans: Vec<Scan<'f>>,
    /// Where the lines of each file end.
    ends: Vec<Vec<usize>>,
}

impl<'f> Source<'f> {
    /// Reads the files token by token.
    pub(super) fn new(files: &'f [(PathBuf, String)]) -> Self {
        Self {
            files,
            scans: files
                .iter()
                .map(|(path, text)| Scan::new(if is_test(path) { "" } else { text }))
                .collect(),
            ends: files
                .iter()
                .map(|(_, text)| text.match_indices('\n').map(|(at, _)| at).collect())
                .collect(),
        }
    }

    /// A file's tokens.
    pub(super) fn scan(&self, file: usize) -> Option<&Scan<'f>> {
        self.scans.get(file)
    }

    /// A file's text.
    pub(super) fn text(&self, file: usize) -> &'f str {
        self.files.get(file).map_or("", |(_, text)| text)
    }

    /// The test files among them.
    pub(super) fn tests(&self) -> impl Iterator<Item = (usize, &'f str)> {
        let files = self.files.iter().enumerate();
        files
            .filter(|(_, (path, _))| is_test(path))
            .map(|(at, (_, text))| (at, text.as_str()))
    }

    /// A file's path, and the line of a place in it, from 1.
    pub(super) fn place(&self, file: usize, span: Span) -> (PathBuf, usize) {
        let path = self.files.get(file).map(|(path, _)| path.clone());
        (path.unwrap_or_default(), self.line(file, span.start))
    }

    /// A file's name, without its folder: that differs between machines.
    pub(super) fn name(&self, file: usize) -> Arc<str> {
        let path = self.files.get(file).map(|(path, _)| path);
        let name = path.and_then(|path| path.file_name());
        name.map_or_else(Arc::default, |name| Arc::from(name.to_string_lossy()))
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, file: usize, at: usize) -> usize {
        let ends = self.ends.get(file).map_or(&[][..], Vec::as_slice);
        ends.partition_point(|end| *end < at) + 1
    }

    /// Notes a problem at a place.
    pub(super) fn problem(&self, problems: &mut Problems, file: usize, span: Span, wrong: Wrong) {
        match self.files.get(file) {
            Some((path, text)) => problems.at((path, text), span, wrong.0, wrong.1),
            None => problems.whole(PathBuf::new(), wrong.0, wrong.1.as_deref()),
        }
    }

    /// Every policy that can be read and named.
    pub(super) fn parse(&self, problems: &mut Problems) -> Parsings {
        let mut all = Vec::new();
        if self.scans.iter().map(Scan::policies).sum::<usize>() > MAX_POLICIES {
            let message = format!("there are more than {MAX_POLICIES} policies");
            problems.whole(
                PathBuf::new(),
                message,
                Some("split the mesh, or say more with fewer"),
            );
            return Parsings::new();
        }
        for (at, scan) in self.scans.iter().enumerate() {
            if self.files.get(at).is_none_or(|(path, _)| is_test(path)) {
                continue;
            }
            match scan.deeper_than(MAX_DEPTH) {
                Some(span) => {
                    let message = format!("an expression nests deeper than {MAX_DEPTH} here");
                    let hint = "use a set (`[..].contains(..)`) or several policies";
                    self.problem(problems, at, span, (message, Some(hint.to_owned())));
                }
                None => match scan.larger_than(MAX_POLICY) {
                    Some(span) => {
                        let message = format!("this policy has more than {MAX_POLICY} bytes");
                        let hint = "group what it lists: workloads, routes and roles can be";
                        self.problem(problems, at, span, (message, Some(hint.to_owned())));
                    }
                    None => self.parse_file(at, &mut all, problems),
                },
            }
        }
        all.sort_by_key(|parsed| (parsed.file, parsed.span));
        self.named(all, problems)
    }

    fn parse_file(&self, at: usize, all: &mut Vec<Parsed>, problems: &mut Problems) {
        let set = match PolicySet::from_str(self.text(at)) {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter() {
                    let (span, wrong) = said(error);
                    self.problem(problems, at, span.unwrap_or_default(), wrong);
                }
                return;
            }
        };
        for template in set.templates() {
            let loc = template.as_ref().loc();
            let span = loc.map_or(Span::default(), |l| Span {
                start: l.start(),
                end: l.end(),
            });
            let message = "a template (`?principal`, `?resource`) cannot be loaded".to_owned();
            let hint = "write the entity itself".to_owned();
            self.problem(problems, at, span, (message, Some(hint)));
        }
        for policy in set.policies() {
            let loc = policy.as_ref().loc();
            let span = loc.map_or(Span::default(), |l| Span {
                start: l.start(),
                end: l.end(),
            });
            match policy.to_pst() {
                Ok(pst) => all.push(Parsed {
                    file: at,
                    span,
                    policy: policy.clone(),
                    reads: Reads::of(&pst),
                }),
                Err(error) => self.problem(problems, at, span, (error.to_string(), None)),
            }
        }
    }

    /// The policies by their `@id`, which each must have for itself. One that has none is kept under a name that no `@id`
    /// can be, so that everything else that is wrong with it is told at once.
    fn named(&self, all: Vec<Parsed>, problems: &mut Problems) -> Parsings {
        let mut set = Parsings::new();
        for (at, parsed) in all.into_iter().enumerate() {
            let id = self.id(&parsed, &set).unwrap_or_else(|wrong| {
                let place = self
                    .scan(parsed.file)
                    .and_then(|scan| scan.annotation(parsed.span, "id"));
                self.problem(problems, parsed.file, place.unwrap_or(parsed.span), wrong);
                format!("?{at}")
            });
            let policy = parsed.policy.new_id(PolicyId::new(&id));
            set.insert(id, Parsed { policy, ..parsed });
        }
        set
    }

    fn id(&self, parsed: &Parsed, taken: &Parsings) -> Result<String, Wrong> {
        let Some(id) = parsed.policy.annotation("id") else {
            let hint = "write `@id(\"a-name\")` before it: logs and explanations name policies by it";
            return Err(("this policy has no `@id`".to_owned(), Some(hint.to_owned())));
        };
        if !(1..=128).contains(&id.len())
            || !id
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
        {
            return Err((
                format!("`@id(\"{}\")` is not a name", id.escape_debug()),
                Some("letters, digits and `-_.:/`, at most 128".to_owned()),
            ));
        }
        match taken.get(id) {
            None => Ok(id.to_owned()),
            Some(first) => {
                let before = self.text(first.file).get(..first.span.start).unwrap_or_default();
                let path = self
                    .files
                    .get(first.file)
                    .map(|(path, _)| path.display().to_string());
                let line = before.matches('\n').count() + 1;
                let hint = format!("the first is at {}:{line}", path.unwrap_or_default());
                Err((format!("`@id(\"{id}\")` is there twice"), Some(hint)))
            }
        }
    }
}

/// What Cedar says, and where.
pub(super) fn said(found: &dyn Diagnostic) -> (Option<Span>, Wrong) {
    let label = found.labels().and_then(|mut labels| labels.next());
    let span = label.as_ref().map(|label| Span {
        start: label.offset(),
        end: label.offset() + label.len(),
    });
    let hint = found.help().map(|help| help.to_string());
    let hint = hint.or_else(|| label.and_then(|l| l.label().map(str::to_owned)));
    (span, (found.to_string(), hint))
}
