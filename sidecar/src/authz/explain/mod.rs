//! Why a decision came out as it did: inputs and a policy set enter, every policy that was considered leaves, clause by
//! clause, with the nearest miss and a hint. Cold: nothing of it happens while a request waits.
//!
//! Clauses are evaluated by Cedar, with the request and the entities of the decision. What a text is cut into is checked
//! against Cedar's own tree of the policy; a clause that cannot be cut safely is shown whole.

mod clauses;
mod hint;
mod scope;
mod view;
mod words;

use std::sync::Arc;

use super::decide::{Asked, Policies, Set};
use super::evaluation::Evaluation;
use super::facts::{Decision, Facts, Reason, Verdict};
use super::index::Rule;
use super::inputs::Inputs;
use super::kept::Prepared;
use super::replay::ReplayError;

use clauses::Parsed;
pub use view::{Clause, Effect, Explanation, Judged, Miss, Nearest, Part, State, Word};
use words::Seen;

/// The most policies that are told of: matching or not, and missed by scope.
const MOST_JUDGED: usize = 200;
const MOST_MISSED: usize = 20;
/// The most permits that are compared with a request to find the nearest by scope.
const MOST_COMPARED: usize = 1000;
/// Parsing and evaluating is recursive: as much stack as loading has.
const STACK: usize = 64 << 20;

impl Policies {
    /// Explains the decision on these inputs. `user` is how the subject is shown; `None` shows it as it is.
    ///
    /// # Errors
    /// [`ReplayError`] when the inputs are not about these policies at all.
    pub fn explain(&self, inputs: &Inputs, user: Option<&str>) -> Result<Explanation, ReplayError> {
        let set = self.set.as_deref().ok_or(ReplayError::NoPolicies)?;
        let explain = || set.again(inputs, |facts, asked| set.explain(facts, asked, (inputs, user)));
        let explained = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("explain".to_owned())
                .stack_size(STACK)
                .spawn_scoped(scope, explain)
                .ok()
                .and_then(|thread| thread.join().ok())
        });
        let mut explained = explained.unwrap_or(Err(ReplayError::NoPolicies))?;
        self.version().clone_into(&mut explained.policy_version);
        Ok(explained)
    }
}

impl Set {
    fn explain(&self, facts: &Facts<'_>, asked: &Asked<'_>, how: (&Inputs, Option<&str>)) -> Explanation {
        let (inputs, user) = how;
        let decision = self.judge(facts, asked);
        let mut told = self.opening(&decision, inputs, asked);
        let Ok(prepared) = self.prepared(facts.principal, asked) else {
            told.hint = hint::misfit();
            return told;
        };
        let slice = &prepared.slice;
        let uses = slice.uses.and(slice.shadow_uses);
        let Ok(world) = self.evaluation(facts, asked, &prepared, uses) else {
            told.hint = hint::misfit();
            return told;
        };
        let seen = Seen::new(&world, facts, user);
        let chosen = decision.needs.as_ref().map(|needs| &*needs.rule);
        let mut near = None;
        for ranks in [&slice.forbids, &slice.permits, &slice.shadow] {
            for rule in self.index.rules(ranks) {
                let judged = judged(rule, &world, &seen);
                if chosen == Some(&*rule.id) {
                    near = Some(nearest(&judged));
                }
                if told.considered.len() < MOST_JUDGED {
                    told.considered.push(judged);
                } else {
                    told.more += 1;
                }
            }
        }
        self.missed(&mut told, (&prepared, chosen), &seen);
        if decision.verdict == Verdict::Deny && decision.rules.is_empty() {
            // The one that the decision named; where it had none, no permit of the service is about the action.
            told.nearest = near.or_else(|| told.missed.first().map(Miss::nearest));
        }
        told.hint = hint::of(decision.reason, &told);
        told
    }

    fn opening(&self, decision: &Decision, inputs: &Inputs, asked: &Asked<'_>) -> Explanation {
        let peer = inputs.peer.as_ref();
        let groups = peer.into_iter().flat_map(|id| self.world.groups_of(id));
        Explanation {
            verdict: if decision.verdict == Verdict::Allow {
                "allow"
            } else {
                "deny"
            }
            .to_owned(),
            reason: decision.reason.label().to_owned(),
            rules: decision.rules.iter().map(ToString::to_string).collect(),
            shadow: decision.shadow.iter().map(ToString::to_string).collect(),
            service: inputs.service.to_string(),
            peer: peer.map_or_else(|| "plaintext".to_owned(), ToString::to_string),
            groups: groups.map(|group| group.name.clone()).collect(),
            action: asked.action.entity.uid().id().unescaped().to_owned(),
            route: decision.route.as_ref().map(ToString::to_string),
            considered: Vec::new(),
            more: 0,
            missed: Vec::new(),
            nearest: None,
            hint: String::new(),
            policy_version: String::new(),
        }
    }

    /// The permits whose scope missed, the nearest first, which is the chosen one.
    fn missed(
        &self,
        told: &mut Explanation,
        (prepared, chosen): (&Arc<Prepared>, Option<&str>),
        seen: &Seen<'_>,
    ) {
        let slice = &prepared.slice;
        let first = self.index.all().iter().find(|rule| Some(&*rule.id) == chosen);
        let first = first.map(|rule| (&*rule.id, &rule.origin));
        let own = (0..).zip(self.index.all()).filter(|(rank, rule)| {
            rule.effect == cedar_policy::Effect::Permit && !rule.shadow && !slice.permits.contains(rank)
        });
        let own = own.map(|(_, rule)| (&*rule.id, &rule.origin));
        let others = self.elsewhere.iter().map(|(id, origin)| (id.as_str(), origin));
        let others = own.chain(others).filter(|(id, _)| Some(*id) != chosen);
        let mut missed: Vec<(usize, Miss)> = first
            .into_iter()
            .chain(others.take(MOST_COMPARED))
            .filter_map(|(id, origin)| scope::miss(id, origin, seen, told))
            .collect();
        let key =
            |distance: usize, miss: &Miss| (chosen != Some(miss.id.as_str()), distance, miss.id.clone());
        missed.sort_by_cached_key(|(distance, miss)| key(*distance, miss));
        told.missed = missed
            .into_iter()
            .take(MOST_MISSED)
            .map(|(_, miss)| miss)
            .collect();
    }
}

/// One policy, clause by clause.
fn judged(rule: &Rule, world: &Evaluation<'_>, seen: &Seen<'_>) -> Judged {
    let clauses = Parsed::of(&rule.origin.text);
    let mut clauses: Vec<Clause> = clauses.iter().map(|clause| clause.judged(seen)).collect();
    let state = match world.holds(rule.condition.as_ref()) {
        Some(true) => State::True,
        Some(false) => State::False,
        None => State::Error,
    };
    // The whole condition is what was decided on; parts that do not add up to it would explain something else.
    if clauses.iter().all(Clause::applies) != (state == State::True) {
        clauses = vec![Clause::whole(&rule.origin.text, state)];
    }
    Judged {
        id: rule.id.to_string(),
        effect: match rule.effect {
            cedar_policy::Effect::Permit => Effect::Permit,
            cedar_policy::Effect::Forbid => Effect::Forbid,
        },
        shadow: rule.shadow,
        file: rule.origin.file.to_string(),
        line: rule.origin.line,
        reason: rule.origin.reason.as_deref().map(str::to_owned),
        state,
        clauses,
    }
}

/// The permit that the decision found nearest, with what it needed.
fn nearest(judged: &Judged) -> Nearest {
    Nearest {
        rule: judged.id.clone(),
        file: judged.file.clone(),
        line: judged.line,
        reason: judged.reason.clone(),
        scope_matched: true,
        needs: judged.clauses.iter().flat_map(Clause::needs).collect(),
    }
}

/// The reason that stands for denials by error.
fn is_error(reason: Reason) -> bool {
    reason == Reason::PolicyError
}
