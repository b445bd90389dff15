//! The only room that runs a program: reads what is in place with `iptables-save`, changes it with one
//! `iptables-restore --noflush` a family, and reads again whether it took. An intent enters; either all of it is in place
//! when this returns, or everything is as it was before.

mod error;
mod tool;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use error::{ApplyError, Blame, Cause, Undone};
pub use tool::Tool;

use crate::change::{Wanted, change, held};
use crate::drift::{Drift, Standing, drift, standing};
use crate::host::{Backend, Ipv6, is_mapped};
use crate::intent::{Families, Intent};
use crate::plan::{FamilyPlan, plan};
use crate::rules::Family;
use crate::state::Ruleset;

/// How often a change is tried when somebody else changes the same rules meanwhile.
const ATTEMPTS: usize = 3;

/// How programs are found and run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which implementation of iptables.
    pub backend: Backend,
    /// Where programs are looked for first; `/usr/sbin` and `/sbin` are always looked at last.
    pub path: Option<OsString>,
    /// The longest that one program may run.
    pub timeout: Duration,
}

impl Options {
    /// The environment's `PATH`, 30 seconds.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            path: std::env::var_os("PATH"),
            timeout: Duration::from_secs(30),
        }
    }
}

/// What became of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FamilyOutcome {
    /// Which.
    pub family: Family,
    /// What was done or found.
    pub outcome: Outcome,
    /// Why, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What was done or found for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Changed, and read back as planned.
    Changed,
    /// Was as planned already; nothing was touched.
    Unchanged,
    /// Not as planned (a check changes nothing).
    Differs,
    /// Not looked at.
    Skipped,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Each family, IPv4 first.
    pub families: Vec<FamilyOutcome>,
    /// Every difference; none when all is as planned.
    pub drift: Vec<Drift>,
}

/// Puts the redirect in place, for all families that need it or for none. Doing it twice changes nothing; another intent
/// replaces the one in place.
///
/// # Errors
/// What went wrong, and whether everything is as it was before.
pub fn apply(intent: &Intent, options: &Options) -> Result<Vec<FamilyOutcome>, ApplyError> {
    check_mapped(intent)?;
    let ipv6 = Ipv6::here();
    let jobs = plan(intent).families.into_iter().map(|plan| Job {
        need: need(plan.family, intent.get().families, ipv6),
        family: plan.family,
        goal: Goal::Plan(plan),
    });
    run(jobs, options)
}

/// Takes away our chains and the jumps to them, whatever intent made them, and nothing else. Doing it twice is harmless.
///
/// # Errors
/// What went wrong, and whether everything is as it was before.
pub fn undo(options: &Options) -> Result<Vec<FamilyOutcome>, ApplyError> {
    let ipv6 = Ipv6::here();
    let jobs = [Family::Ipv4, Family::Ipv6].map(|family| Job {
        need: match need(family, Families::Auto, ipv6) {
            // Rules may be left from a time when there was IPv6.
            Need::No(why) => Need::Try(why),
            need => need,
        },
        family,
        goal: Goal::Nothing,
    });
    run(jobs.into_iter(), options)
}

/// Compares what is in place with the intent, and changes nothing.
///
/// # Errors
/// What is in place cannot be read.
pub fn check(intent: &Intent, options: &Options) -> Result<Checked, ApplyError> {
    let ipv6 = Ipv6::here();
    let mut checked = Checked {
        families: Vec::new(),
        drift: Vec::new(),
    };
    for plan in plan(intent).families {
        let found = match need(plan.family, intent.get().families, ipv6) {
            Need::No(why) => Err(why),
            Need::Must => Ok(read(plan.family, options)?),
            Need::Try(why) => match read(plan.family, options) {
                // As `apply` left it where it could not be done: nothing to compare.
                Ok(state) if standing(&state) == Standing::Absent => Err(why),
                found => found.map_err(|cause| format!("{why}; {cause}")),
            },
        };
        checked.families.push(match found {
            Err(why) => outcome(plan.family, Outcome::Skipped, Some(why)),
            Ok(state) => {
                let found = drift(&plan, &state);
                let kind = if found.is_empty() {
                    Outcome::Unchanged
                } else {
                    Outcome::Differs
                };
                checked.drift.extend(found);
                outcome(plan.family, kind, None)
            }
        });
    }
    Ok(checked)
}

/// What one family's program and rules look like, without an intent to compare with: for `hopguard doctor`.
#[derive(Debug)]
pub struct Survey {
    /// Which family.
    pub family: Family,
    /// Where `iptables` is, and what it says of itself (`iptables v1.8.9 (nf_tables)`).
    pub program: Result<(PathBuf, String), Cause>,
    /// What is in place; an error when it may not be read.
    pub state: Result<Ruleset, Cause>,
}

/// Looks at one family's program and rules.
pub fn survey(family: Family, options: &Options) -> Survey {
    let program = Tool::find(family, "", options).and_then(|tool| {
        let said = tool.run(&["--version"], None)?;
        Ok((tool.path().to_owned(), said.trim().to_owned()))
    });
    Survey {
        family,
        program,
        state: read(family, options),
    }
}

/// Whether a family's rules are needed here.
#[derive(Clone, Debug)]
enum Need {
    /// Without them traffic would pass by the sidecar.
    Must,
    /// They cannot matter now, and may later.
    Try(String),
    /// They cannot matter, or are not wanted.
    No(String),
}

fn need(family: Family, families: Families, ipv6: Ipv6) -> Need {
    match (family, families, ipv6) {
        (Family::Ipv4, Families::Ipv6, _) => {
            Need::No("only IPv6 is asked for: IPv4 traffic passes by the sidecar".to_owned())
        }
        (Family::Ipv6, Families::Ipv4, Ipv6::Present | Ipv6::Off) => {
            Need::No("only IPv4 is asked for: IPv6 traffic passes by the sidecar".to_owned())
        }
        (Family::Ipv6, Families::Auto | Families::Ipv4, Ipv6::Absent) => {
            Need::No("this kernel has no IPv6".to_owned())
        }
        (Family::Ipv6, Families::Auto, Ipv6::Off) => {
            Need::Try("IPv6 is switched off on every interface here".to_owned())
        }
        _ => Need::Must,
    }
}

struct Job {
    family: Family,
    need: Need,
    goal: Goal,
}

/// What is to be reached.
enum Goal {
    Plan(FamilyPlan),
    Nothing,
}

impl Goal {
    fn wanted(&self) -> Wanted {
        match self {
            Self::Plan(plan) => Wanted::plan(plan),
            Self::Nothing => Wanted::nothing(),
        }
    }

    /// What still differs from it.
    fn distance(&self, family: Family, state: &Ruleset) -> Vec<Drift> {
        match self {
            Self::Plan(plan) => drift(plan, state),
            Self::Nothing => drift(
                &FamilyPlan {
                    family,
                    chains: Vec::new(),
                },
                state,
            ),
        }
    }
}

/// A family whose rules were read, before the first of any family is changed.
struct Work {
    family: Family,
    goal: Goal,
    optional: Option<String>,
    save: Tool,
    restore: Tool,
    before: Ruleset,
}

fn run(jobs: impl Iterator<Item = Job>, options: &Options) -> Result<Vec<FamilyOutcome>, ApplyError> {
    let _alone = alone();
    let mut outcomes = Vec::new();
    let mut works = Vec::new();
    for job in jobs {
        let optional = match job.need {
            Need::No(why) => {
                outcomes.push(outcome(job.family, Outcome::Skipped, Some(why)));
                continue;
            }
            Need::Must => None,
            Need::Try(why) => Some(why),
        };
        match (
            Work::open(job.family, job.goal, optional.clone(), options),
            optional,
        ) {
            (Ok(work), _) => works.push(work),
            (Err(cause), Some(why)) => {
                outcomes.push(outcome(
                    job.family,
                    Outcome::Skipped,
                    Some(format!("{why}; {cause}")),
                ));
            }
            (Err(cause), None) => return Err(cause.into()),
        }
    }
    for (index, work) in works.iter().enumerate() {
        match (work.settle(), &work.optional) {
            (Ok(kind), why) => outcomes.push(outcome(work.family, kind, why.clone())),
            (Err(cause), Some(why)) => {
                let undone = roll_back([work]);
                if let Undone::Failed(_) = undone {
                    return Err(ApplyError { cause, undone });
                }
                outcomes.push(outcome(
                    work.family,
                    Outcome::Skipped,
                    Some(format!("{why}; {cause}")),
                ));
            }
            (Err(cause), None) => {
                let undone = roll_back(works.iter().take(index.saturating_add(1)).rev());
                return Err(ApplyError { cause, undone });
            }
        }
    }
    outcomes.sort_by_key(|outcome| outcome.family);
    Ok(outcomes)
}

impl Work {
    fn open(family: Family, goal: Goal, optional: Option<String>, options: &Options) -> Result<Self, Cause> {
        let save = Tool::find(family, "save", options)?;
        let restore = Tool::find(family, "restore", options)?;
        let before = save.rules()?;
        if let Some(held) = held(&before).into_iter().next() {
            return Err(Cause::Held(held));
        }
        Ok(Self {
            family,
            goal,
            optional,
            save,
            restore,
            before,
        })
    }

    /// Changes the rules until they are what is wanted. Somebody else may change them between reading and writing: then the
    /// text refers to rules that are gone, or the result is not the wanted one, and it is made anew.
    fn settle(&self) -> Result<Outcome, Cause> {
        let mut state = self.before.clone();
        let mut outcome = Outcome::Unchanged;
        for _attempt in 0..ATTEMPTS {
            if self.goal.distance(self.family, &state).is_empty() {
                return Ok(outcome);
            }
            let text = change(&state, &self.goal.wanted());
            let restored = self.restore.run(&["--noflush", "--wait"], Some(&text));
            let now = self.save.rules()?;
            match restored {
                Ok(_) => outcome = Outcome::Changed,
                Err(cause) if Wanted::found(&now) == Wanted::found(&state) => return Err(cause),
                Err(_) => {}
            }
            state = now;
        }
        let left = self.goal.distance(self.family, &state);
        if left.is_empty() {
            Ok(outcome)
        } else {
            Err(Cause::DidNotTake(left))
        }
    }

    fn back(&self) -> Result<(), Cause> {
        let wanted = Wanted::found(&self.before);
        let now = self.save.rules()?;
        if Wanted::found(&now) == wanted {
            return Ok(());
        }
        self.restore
            .run(&["--noflush", "--wait"], Some(&change(&now, &wanted)))?;
        if Wanted::found(&self.save.rules()?) == wanted {
            Ok(())
        } else {
            Err(Cause::DidNotTake(Vec::new()))
        }
    }
}

fn roll_back<'a>(works: impl IntoIterator<Item = &'a Work>) -> Undone {
    let failed: Vec<String> = works
        .into_iter()
        .filter_map(|work| {
            work.back()
                .err()
                .map(|cause| format!("{}: {cause}", work.family.name()))
        })
        .collect();
    if failed.is_empty() {
        Undone::AsBefore
    } else {
        Undone::Failed(failed.join("; "))
    }
}

/// Keeps a second hopguard from changing the rules of this network namespace at the same time: rolling back would take away
/// what the other one just made. The lock lies on the namespace itself, so it needs no file and is gone with its holder. Any
/// process of the namespace may hold it, so it is waited for a while and not for ever.
fn alone() -> Option<File> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let namespace = File::open("/proc/self/ns/net").ok()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match namespace.try_lock() {
            Ok(()) => return Some(namespace),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::park_timeout(Duration::from_millis(20));
            }
            Err(_) => return None,
        }
    }
}

fn read(family: Family, options: &Options) -> Result<Ruleset, Cause> {
    Tool::find(family, "save", options)?.rules()
}

/// A rule for a user or group that this user namespace does not have is refused by the kernel with "Invalid argument", which
/// tells nobody what is wrong.
fn check_mapped(intent: &Intent) -> Result<(), ApplyError> {
    let own = &intent.get().own;
    for (what, ids, map) in [
        ("uid", &own.uids, "/proc/self/uid_map"),
        ("gid", &own.gids, "/proc/self/gid_map"),
    ] {
        let Ok(map) = fs::read_to_string(map) else {
            continue;
        };
        if let Some(id) = ids.iter().find(|id| !is_mapped(&map, **id)) {
            return Err(Cause::Unmapped { what, id: *id }.into());
        }
    }
    Ok(())
}

fn outcome(family: Family, outcome: Outcome, why: Option<String>) -> FamilyOutcome {
    FamilyOutcome { family, outcome, why }
}
