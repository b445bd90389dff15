//! Running the tests that stand beside policies: a checked set and its cases enter, how each came out leaves. The tests of
//! a folder are part of it: a set that fails one is not loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cases::{self, Case};
use super::compile::compile;
use super::decide::Policies;
use super::facts::{Decision, Reason, Verdict};
use super::load::Mesh;
use super::model::Model;
use super::parse::{Parsings, Source};
use super::problem::Problems;

/// How long the tests of a set may take together. A load that never ends would hold up every later one.
const LONGEST: Duration = Duration::from_secs(20);

/// How one test came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The file that it stands in.
    pub file: PathBuf,
    /// The line of its name, from 1.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// The service that was asked.
    pub service: String,
    /// Whether the decision is the one that it expects.
    pub passed: bool,
    /// What it expects, in words.
    pub expected: String,
    /// What was decided, in words.
    pub got: String,
    /// The policies that made the decision, and those in shadow that would have turned it.
    pub decided_by: Vec<String>,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// A policy and the tests that it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// Its `@id`.
    pub id: String,
    /// The file that it stands in.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// How many tests it decided (or, in shadow, would have turned).
    pub tests: usize,
}

/// The tests of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// The set's version, as sidecars that load it will say.
    pub version: String,
    /// How each test came out, in the order of the files.
    pub outcomes: Vec<Outcome>,
    /// Every policy, by id.
    pub policies: Vec<Covered>,
}

impl Tested {
    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| !outcome.passed).count()
    }

    /// The share of policies that decided a test, in percent, rounded down; 100 of none.
    pub fn coverage(&self) -> usize {
        let covered = self.policies.iter().filter(|policy| policy.tests > 0).count();
        (covered * 100).checked_div(self.policies.len()).unwrap_or(100)
    }
}

/// Runs the tests of a set that is about to be loaded; one that fails is a problem of the set.
pub(super) fn hold(mesh: &Mesh, model: &Model, source: &Source<'_>, set: &Parsings, problems: &mut Problems) {
    let cases = cases::read(model, source, set, problems);
    if !problems.is_empty() {
        return;
    }
    let hint = "correct the policies, or the test if they are right: `hopguard policy test` runs them all";
    let outcomes = outcomes(mesh, source, set, &cases, problems);
    for (case, outcome) in cases.iter().zip(outcomes).filter(|(_, outcome)| !outcome.passed) {
        let message = format!(
            "test `{}` fails: it expects {}, and gets {}",
            case.name, outcome.expected, outcome.got
        );
        source.problem(
            problems,
            case.file,
            case.expects_at,
            (message, Some(hint.to_owned())),
        );
    }
}

/// Runs the tests of a set, and says which policies decided them. `None` when something was wrong and said.
pub(super) fn run(
    mesh: &Mesh,
    model: &Model,
    source: &Source<'_>,
    set: &Parsings,
    problems: &mut Problems,
) -> Option<(Vec<Outcome>, Vec<Covered>)> {
    let cases = cases::read(model, source, set, problems);
    if !problems.is_empty() {
        return None;
    }
    let outcomes = outcomes(mesh, source, set, &cases, problems);
    let mut tests: BTreeMap<&str, usize> = BTreeMap::new();
    for id in outcomes.iter().flat_map(|outcome| &outcome.decided_by) {
        *tests.entry(id).or_default() += 1;
    }
    let covered = set.iter().map(|(id, parsed)| {
        let (file, line) = source.place(parsed.file, parsed.span);
        Covered {
            id: id.clone(),
            file,
            line,
            tests: tests.get(id.as_str()).copied().unwrap_or_default(),
        }
    });
    let covered = covered.collect();
    problems.is_empty().then_some((outcomes, covered))
}

/// One outcome a case, in their order; fewer when the time was over, which is then a problem.
fn outcomes(
    mesh: &Mesh,
    source: &Source<'_>,
    set: &Parsings,
    cases: &[Case],
    problems: &mut Problems,
) -> Vec<Outcome> {
    let began = Instant::now();
    let mut services: BTreeMap<&str, Policies> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(cases.len());
    for case in cases {
        if began.elapsed() > LONGEST {
            let message = format!("the tests of this set take longer than {LONGEST:?}");
            let hint = "keep some of them outside of the policy folder";
            source.problem(problems, case.file, case.span, (message, Some(hint.to_owned())));
            return outcomes;
        }
        if !services.contains_key(case.service.as_str()) {
            match compile(&mesh.world, &mesh.schema, source, set, &case.service) {
                Ok(own) => {
                    services.insert(&case.service, Policies::new(String::new(), set.len(), own));
                }
                Err(error) => {
                    source.problem(problems, case.file, case.span, (error.to_string(), None));
                    return outcomes;
                }
            }
        }
        if let Some(policies) = services.get(case.service.as_str()) {
            outcomes.push(outcome(case, policies, source));
        }
    }
    outcomes
}

fn outcome(case: &Case, policies: &Policies, source: &Source<'_>) -> Outcome {
    let began = Instant::now();
    let mut readings = case.readings().map(|facts| policies.decide(&facts));
    let first = readings
        .next()
        .unwrap_or_else(|| Decision::deny(Reason::PolicyError));
    let other = readings.find(|other| other.verdict == Verdict::Deny);
    let decision = other.filter(|_| first.verdict == Verdict::Allow).unwrap_or(first);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let decided_by: BTreeSet<&Arc<str>> = decision.rules.iter().chain(&decision.shadow).collect();
    let (file, line) = source.place(case.file, case.span);
    Outcome {
        file,
        line,
        name: case.name.clone(),
        service: case.service.clone(),
        passed: as_expected(case, &decision),
        expected: expected(case),
        got: got(case, &decision),
        decided_by: decided_by.into_iter().map(ToString::to_string).collect(),
        micros,
    }
}

/// The status of a denied request, as the sidecar gives it.
fn status(case: &Case, decision: &Decision) -> Option<u16> {
    (case.is_http() && decision.verdict == Verdict::Deny).then_some({
        if decision.user_would_help && !case.has_user() {
            401
        } else {
            403
        }
    })
}

fn as_expected(case: &Case, decision: &Decision) -> bool {
    let expect = &case.expect;
    let made_by = |id: &String| decision.rules.iter().any(|rule| **rule == **id);
    let in_shadow = |ids: &Vec<String>| {
        ids.iter()
            .map(String::as_str)
            .eq(decision.shadow.iter().map(|id| &**id))
    };
    decision.verdict == expect.verdict
        && expect.rules.iter().all(made_by)
        && expect.reason.is_none_or(|reason| reason == decision.reason)
        && (expect.status.is_none() || expect.status == status(case, decision))
        && expect.shadow.as_ref().is_none_or(in_shadow)
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
    .to_owned()
}

fn listed<S: AsRef<str>>(before: &str, ids: &[S]) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("`{}`", id.as_ref())).collect();
    match quoted.as_slice() {
        [] => String::new(),
        quoted => format!("{before}{}", quoted.join(", ")),
    }
}

fn expected(case: &Case) -> String {
    let expect = &case.expect;
    let mut text = verdict(expect.verdict);
    if let Some(status) = expect.status {
        text += &format!(" with {status}");
    }
    if let Some(reason) = expect.reason {
        text += &format!(" ({})", reason.label());
    }
    text += &listed(" by ", &expect.rules);
    match &expect.shadow {
        Some(none) if none.is_empty() => text += ", nothing in shadow against it",
        Some(ids) => text += &listed(", in shadow turned by ", ids),
        None => {}
    }
    text
}

fn got(case: &Case, decision: &Decision) -> String {
    let mut text = verdict(decision.verdict);
    if let Some(status) = status(case, decision) {
        text += &format!(" with {status}");
    }
    text += &format!(" ({})", decision.reason.label());
    text += &listed(" by ", &decision.rules);
    text += &listed(", in shadow turned by ", &decision.shadow);
    if decision.errors > 0 {
        text += &format!(", with {} policies that could not be evaluated", decision.errors);
    }
    if let Some(needs) = &decision.needs {
        text += &format!(", nearest is `{}`: {}", needs.rule, needs.text);
    }
    text
}
