//! The slice: rules and the keys of one request enter, the few rules whose scope fits it leave. A rule is found by its
//! principal and action constraint; those whose resource cannot be the own service were left out at load. What the index
//! gives is exactly the set of rules whose scope matches: it decides nothing else.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Expression, Policy, PrincipalConstraint,
};

use super::expr::Uses;
use super::names::Names;
use super::nearest::Piece;
use super::quick::Quick;
use super::scopes::Scopes;

/// One policy of the own service, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    pub(super) effect: Effect,
    /// `@mode("shadow")`.
    pub(super) shadow: bool,
    pub(super) audit: Audit,
    /// `@reason`.
    pub(super) reason: Option<Arc<str>>,
    /// Its conditions together, without its scope; `None` when there are none, and its scope alone decides.
    pub(super) condition: Option<Condition>,
    pub(super) uses: Uses,
    /// For a permit that reads the user: what it asks for beside the user and its scope (inside: `None` for nothing). True
    /// means that only the user is in the way.
    pub(super) without_user: Option<Option<Condition>>,
    /// For a permit that asks for scopes of the token: which, and what it asks for beside them.
    pub(super) scopes: Option<Scopes>,
    /// The parts of a permit's conditions, for how near it is; none of a forbid.
    pub(super) pieces: Vec<Piece>,
    /// What it asks for when its scope matched, and when its principal did not; one line each.
    pub(super) asks: [Arc<str>; 2],
    /// The single values that its conditions name.
    pub(super) names: Names,
    pub(super) origin: Origin,
}

/// Conditions as one expression.
#[derive(Debug)]
pub(super) struct Condition {
    /// As Cedar evaluates it.
    pub(super) whole: Expression,
    /// The same in the short way, where there is one.
    pub(super) quick: Option<Quick>,
}

impl From<Expression> for Condition {
    fn from(whole: Expression) -> Self {
        let quick = Quick::of(whole.as_ref());
        Self { whole, quick }
    }
}

/// A policy as it stands in its file, for people: what explanations show.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// Its text without comments.
    pub(super) text: Box<str>,
    /// Its `@reason`.
    pub(super) reason: Option<Box<str>>,
    pub(super) file: Arc<str>,
    /// From 1.
    pub(super) line: usize,
}

/// `@audit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Audit {
    /// As sampling says.
    #[default]
    No,
    /// Every decision that it makes.
    Always,
    /// Every denial that it makes.
    Deny,
}

/// What a principal constraint is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PrincipalKey {
    /// No constraint.
    Any,
    /// `is Type`.
    Is(EntityTypeName),
    /// `== uid`.
    Eq(EntityUid),
    /// `in uid`, also with `is`.
    In(EntityUid),
}

/// What an action constraint is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ActionKey {
    /// No constraint.
    Any,
    /// `== uid`.
    Eq(EntityUid),
    /// `in uid`, or `in [.., uid, ..]`.
    In(EntityUid),
}

impl PrincipalKey {
    /// The keys of a peer: a rule fits it if and only if it stands under one of them.
    pub(super) fn of(uid: &EntityUid, ancestors: &[EntityUid]) -> Vec<Self> {
        let mut keys = vec![
            Self::Any,
            Self::Is(uid.type_name().clone()),
            Self::Eq(uid.clone()),
            Self::In(uid.clone()),
        ];
        keys.extend(ancestors.iter().cloned().map(Self::In));
        keys
    }

    fn under(policy: &Policy) -> Self {
        match policy.principal_constraint() {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => Self::In(uid),
            PrincipalConstraint::Eq(uid) => Self::Eq(uid),
            PrincipalConstraint::Is(kind) => Self::Is(kind),
        }
    }
}

impl ActionKey {
    /// The keys of an action.
    pub(super) fn of<'a>(uid: &EntityUid, ancestors: impl Iterator<Item = &'a EntityUid>) -> Vec<Self> {
        let mut keys = vec![Self::Any, Self::Eq(uid.clone()), Self::In(uid.clone())];
        keys.extend(ancestors.cloned().map(Self::In));
        keys
    }

    /// One key, or several for a list; each once.
    fn under(policy: &Policy) -> Vec<Self> {
        match policy.action_constraint() {
            ActionConstraint::Any => vec![Self::Any],
            ActionConstraint::Eq(uid) => vec![Self::Eq(uid)],
            ActionConstraint::In(uids) => {
                let distinct: BTreeSet<EntityUid> = uids.into_iter().collect();
                distinct.into_iter().map(Self::In).collect()
            }
        }
    }
}

/// The rules of the own service, by scope. A rule's number is its rank by id.
#[derive(Debug, Default)]
pub(super) struct Index {
    rules: Vec<Rule>,
    by_scope: HashMap<PrincipalKey, HashMap<ActionKey, Vec<u32>>>,
    permits: HashMap<ActionKey, Vec<u32>>,
}

/// The rules whose scope fits one peer and action, by rank.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) forbids: Vec<u32>,
    pub(super) permits: Vec<u32>,
    pub(super) shadow: Vec<u32>,
    /// What forbids and permits read.
    pub(super) uses: Uses,
    /// What the shadow rules read.
    pub(super) shadow_uses: Uses,
}

impl Slice {
    /// How many rules it holds.
    pub(super) fn len(&self) -> usize {
        self.forbids.len() + self.permits.len() + self.shadow.len()
    }
}

impl Index {
    /// Indexes the rules; they must come sorted by id.
    pub(super) fn new(rules: Vec<(&Policy, Rule)>) -> Self {
        let mut index = Self::default();
        for (rank, (policy, rule)) in (0_u32..).zip(rules) {
            let by_action = index.by_scope.entry(PrincipalKey::under(policy)).or_default();
            for key in ActionKey::under(policy) {
                by_action.entry(key.clone()).or_default().push(rank);
                if rule.effect == Effect::Permit && !rule.shadow {
                    index.permits.entry(key).or_default().push(rank);
                }
            }
            index.rules.push(rule);
        }
        index
    }

    /// Every rule, by rank.
    pub(super) fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// How many rules there are.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// A rule by rank.
    pub(super) fn rule(&self, rank: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(rank).ok()?)
    }

    /// Rules by their ranks.
    pub(super) fn rules<'i>(&'i self, ranks: &'i [u32]) -> impl Iterator<Item = &'i Rule> {
        ranks.iter().filter_map(|rank| self.rule(*rank))
    }

    /// The permits of a slice, by rank.
    pub(super) fn permits<'i>(&'i self, slice: &'i Slice) -> impl Iterator<Item = &'i Rule> {
        self.rules(&slice.permits)
    }

    /// The rules that stand under one of the principal keys and one of the action keys.
    pub(super) fn slice(&self, principal: &[PrincipalKey], action: &[ActionKey]) -> Slice {
        let ranks: BTreeSet<u32> = principal
            .iter()
            .filter_map(|key| self.by_scope.get(key))
            .flat_map(|by_action| {
                action
                    .iter()
                    .filter_map(|key| by_action.get(key))
                    .flatten()
                    .copied()
            })
            .collect();
        let mut slice = Slice::default();
        for rank in ranks {
            let Some(rule) = self.rule(rank) else { continue };
            if rule.shadow {
                slice.shadow.push(rank);
                slice.shadow_uses = slice.shadow_uses.and(rule.uses);
                continue;
            }
            slice.uses = slice.uses.and(rule.uses);
            match rule.effect {
                Effect::Permit => slice.permits.push(rank),
                Effect::Forbid => slice.forbids.push(rank),
            }
        }
        slice
    }

    /// The first permits for an action, whoever the peer, but those of a slice; the lowest ids first.
    pub(super) fn permits_of(&self, action: &[ActionKey], but: &[u32], most: usize) -> Vec<&Rule> {
        let of_key = |key| {
            let ranks = self.permits.get(key).map_or(&[][..], Vec::as_slice);
            let others = ranks.iter().filter(|rank| but.binary_search(rank).is_err());
            others.copied().take(most)
        };
        let ranks: BTreeSet<u32> = action.iter().flat_map(of_key).collect();
        let rules = ranks.into_iter().take(most);
        rules.filter_map(|rank| self.rule(rank)).collect()
    }
}
