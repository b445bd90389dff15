//! The decision rule on evaluated rules: how each rule of a slice came out enters, the verdict and who made it leave.

use std::sync::Arc;

use cedar_policy::Effect;

use super::evaluation::Evaluation;
use super::facts::{Decision, Reason, Verdict};
use super::index::{Audit, Rule};

/// How the rules of one slice came out.
#[derive(Default)]
pub(super) struct Tally<'a> {
    pub(super) forbids: Vec<&'a Rule>,
    pub(super) failed_forbids: Vec<&'a Rule>,
    pub(super) permits: Vec<&'a Rule>,
    pub(super) errors: u32,
}

impl<'a> Tally<'a> {
    pub(super) fn add(&mut self, rules: impl Iterator<Item = &'a Rule>, evaluation: &Evaluation<'_>) {
        for rule in rules {
            match (evaluation.holds(rule.condition.as_ref()), rule.effect) {
                (Some(false), _) => {}
                (Some(true), Effect::Permit) => self.permits.push(rule),
                (Some(true), Effect::Forbid) => self.forbids.push(rule),
                // Not evaluated: never taken for true of a permit, nor for false of a forbid.
                (None, Effect::Permit) => self.errors += 1,
                (None, Effect::Forbid) => {
                    self.errors += 1;
                    self.failed_forbids.push(rule);
                }
            }
        }
    }

    /// The forbids that deny: those that matched, else those that could not be evaluated.
    pub(super) fn denied_by(&self) -> Vec<&'a Rule> {
        if self.forbids.is_empty() {
            self.failed_forbids.clone()
        } else {
            self.forbids.clone()
        }
    }

    pub(super) fn decision(&self) -> Decision {
        let denied_by = self.denied_by();
        let (verdict, reason, rules) = if !self.forbids.is_empty() {
            (Verdict::Deny, Reason::Forbidden, &denied_by)
        } else if !denied_by.is_empty() {
            (Verdict::Deny, Reason::PolicyError, &denied_by)
        } else if self.permits.is_empty() {
            (Verdict::Deny, Reason::NoRule, &self.permits)
        } else {
            (Verdict::Allow, Reason::Allowed, &self.permits)
        };
        Decision {
            verdict,
            rules: rules.iter().map(|rule| Arc::clone(&rule.id)).collect(),
            errors: self.errors,
            text: rules.iter().find_map(|rule| rule.reason.clone()),
            audit: rules.iter().any(|rule| match rule.audit {
                Audit::No => false,
                Audit::Always => true,
                Audit::Deny => verdict == Verdict::Deny,
            }),
            ..Decision::deny(reason)
        }
    }
}
