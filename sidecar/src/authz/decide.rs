//! The decision rule: policies and facts enter, one decision leaves. A forbid that matches or errors denies; a permit that
//! errors does not permit; without a permit, no. Shadow policies are evaluated apart, after the verdict, and cannot touch
//! it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cedar_policy::{Entities, Entity, EntityUid};
use cedar_policy_core::ast::{self, EntityUIDEntry, Request, Value};
use cedar_policy_core::entities::{NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;

use super::entities::{Maker, Misfit, record, string};
use super::evaluation::Evaluation;
use super::expr::Uses;
use super::facts::{Decision, Facts, Needs, Principal, Reason, Verdict, What, Would};
use super::index::{ActionKey, Index, Origin, PrincipalKey, Rule};
use super::kept::{KeptSlices, KeptUsers, Prepared};
use super::problem::PolicyProblem;
use super::route::{Router, canonical_escapes, param};
use super::scopes::Scopes;
use super::tally::Tally;
use super::world::{World, method_action};

/// The policies that one sidecar enforces: immutable, shared by its workers.
#[derive(Debug)]
pub struct Policies {
    version: String,
    count: usize,
    pub(super) set: Option<Box<Set>>,
    /// A set that is decided after this one and only watched.
    shadow: Option<Arc<Policies>>,
    warnings: Vec<PolicyProblem>,
}

/// What a loaded set decides with.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) world: Arc<World>,
    pub(super) maker: Maker,
    pub(super) service: Entity,
    /// The service's id, as evaluation takes it.
    pub(super) resource: EntityUIDEntry,
    pub(super) index: Index,
    /// Permits of other services: an explanation may find that one of them was meant.
    pub(super) elsewhere: Vec<(String, Origin)>,
    pub(super) actions: Actions,
    pub(super) slices: KeptSlices,
    pub(super) users: KeptUsers,
}

/// The actions of the own service.
#[derive(Debug, Default)]
pub(super) struct Actions {
    pub(super) all: Vec<Action>,
    /// The place in `all` of each method's action and of `connect`.
    pub(super) bare: HashMap<&'static str, usize>,
    pub(super) router: Router,
}

/// One action.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) entity: Entity,
    pub(super) keys: Vec<ActionKey>,
    /// The entity's id, as evaluation takes it.
    pub(super) entry: EntityUIDEntry,
    /// `<service>#<route>` and the names of its parameters, for a route.
    pub(super) route: Option<(Arc<str>, Vec<String>)>,
}

/// A request that was resolved to an action.
pub(super) struct Asked<'a> {
    pub(super) place: usize,
    pub(super) action: &'a Action,
    pub(super) params: Option<Value>,
}

impl Policies {
    /// A loaded set.
    pub(super) fn new(version: String, count: usize, set: Set) -> Self {
        Self {
            version,
            count,
            set: Some(Box::new(set)),
            shadow: None,
            warnings: Vec::new(),
        }
    }

    /// What stands in while nothing could be loaded: it denies everything with `NoPolicies`.
    pub fn deny_all() -> Self {
        Self {
            version: "none".to_owned(),
            count: 0,
            set: None,
            shadow: None,
            warnings: Vec::new(),
        }
    }

    /// The same policies, watched by another set: it decides after them, and a verdict of its own only shows in
    /// [`Decision::would`].
    #[must_use]
    pub fn with_shadow(self, shadow: Option<Arc<Self>>) -> Self {
        Self { shadow, ..self }
    }

    /// The same policies, with what their writer should know.
    pub(super) fn with_warnings(self, warnings: Vec<PolicyProblem>) -> Self {
        Self { warnings, ..self }
    }

    /// What is not wrong with the policies of the own service but often a trap, by file and place; at most 200.
    pub fn warnings(&self) -> &[PolicyProblem] {
        &self.warnings
    }

    /// The set that watches.
    pub fn shadow(&self) -> Option<&Arc<Self>> {
        self.shadow.as_ref()
    }

    /// A short hash of mesh and policies; the same on every sidecar that loaded the same. `none` for `deny_all`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many policies were loaded, those of other services included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many of them the own service enforces or watches in shadow.
    pub fn enforced(&self) -> usize {
        self.set.as_ref().map_or(0, |set| set.index.len())
    }

    /// The declared route that a request is decided on, as `<service>#<route>`: the one of [`Self::decide`].
    pub fn route_of(&self, method: &str, path: &str) -> Option<Arc<str>> {
        let set = self.set.as_deref()?;
        let path = canonical_escapes(path);
        let found = set.actions.router.find(method, &path)?;
        let (name, _) = set.actions.all.get(found.route)?.route.as_ref()?;
        Some(Arc::clone(name))
    }

    /// The routes whose rules about tokens a request must keep: the one that it is decided on or, when it is of none, those
    /// that it differs from in the method or in a slash at its end. An application may take it for one of them.
    pub fn routes_for_tokens(&self, method: &str, path: &str) -> Vec<Arc<str>> {
        if let Some(route) = self.route_of(method, path) {
            return vec![route];
        }
        let Some(set) = self.set.as_deref() else {
            return Vec::new();
        };
        let near = set.actions.router.near(&canonical_escapes(path));
        let routes = near
            .into_iter()
            .filter_map(|at| set.actions.all.get(at)?.route.as_ref());
        routes.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Decides. Total: it has no error, because what cannot be decided is denied.
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let mut decision = self.alone(facts);
        if let Some(shadow) = &self.shadow {
            let other = shadow.verdict(facts);
            if other.verdict != decision.verdict {
                decision.would = Some(Box::new(Would {
                    verdict: other.verdict,
                    reason: other.reason,
                    rules: other.rules,
                    version: shadow.version().into(),
                }));
            }
        }
        decision
    }

    /// The same of a set that only watches: what it was made on is nobody's to read.
    fn verdict(&self, facts: &Facts<'_>) -> Decision {
        let set = self.set.as_deref().filter(|_| self.count > 0);
        let Some(set) = set else {
            return Decision::deny(Reason::NoPolicies);
        };
        let asked = set.actions.resolve(&facts.what);
        asked.map_or_else(
            || Decision::deny(Reason::PolicyError),
            |asked| set.judge(facts, &asked),
        )
    }

    /// The decision of this set, whoever watches.
    fn alone(&self, facts: &Facts<'_>) -> Decision {
        match self.set.as_deref() {
            Some(set) if self.count > 0 => set.decide(facts),
            _ => Decision::deny(Reason::NoPolicies),
        }
    }
}

impl Set {
    fn decide(&self, facts: &Facts<'_>) -> Decision {
        let Some(asked) = self.actions.resolve(&facts.what) else {
            return Decision::deny(Reason::PolicyError);
        };
        let mut decision = self.judge(facts, &asked);
        if decision.verdict == Verdict::Deny || decision.audit {
            decision.inputs = Some(Arc::new(self.inputs(facts, &asked)));
        }
        decision
    }

    /// The decision about what was resolved, without what it was made on.
    pub(super) fn judge(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Decision {
        let route = asked.action.route.as_ref().map(|(name, _)| Arc::clone(name));
        let decided = self.prepared(facts.principal, asked).and_then(|prepared| {
            let mut decision = self.enforce(facts, asked, &prepared)?;
            self.shadow(facts, asked, &prepared, &mut decision);
            Ok(decision)
        });
        Decision {
            route,
            ..decided.unwrap_or_else(|Misfit| Decision::deny(Reason::PolicyError))
        }
    }

    /// The verdict of the rules in force.
    fn enforce(
        &self,
        facts: &Facts<'_>,
        asked: &Asked<'_>,
        prepared: &Arc<Prepared>,
    ) -> Result<Decision, Misfit> {
        let slice = &prepared.slice;
        let mut tally = Tally::default();
        let world = match slice.forbids.is_empty() && slice.permits.is_empty() {
            true => None,
            false => Some(self.evaluation(facts, asked, prepared, slice.uses)?),
        };
        if let Some(world) = &world {
            tally.add(self.index.rules(&slice.forbids), world);
            tally.add(self.index.rules(&slice.permits), world);
        }
        let mut decision = tally.decision();
        if decision.reason != Reason::NoRule {
            return Ok(decision);
        }
        let Some(nearest) = self.nearest(facts, asked, prepared, world.as_ref()) else {
            return Ok(decision);
        };
        let no_user = matches!(facts.what, What::Http(http) if http.user.is_none());
        if nearest.user_alone && no_user {
            decision.user_would_help = true;
            decision.reason = Reason::UserRequired;
        }
        decision.needs = Some(nearest.rule.needs(nearest.scope_matched));
        decision.scopes = nearest.scopes;
        Ok(decision)
    }

    /// What the shadow rules would have changed: the verdict is made again with them, and if it differs they are named.
    /// Facts that only they read and that do not fit are no reason to deny.
    fn shadow(
        &self,
        facts: &Facts<'_>,
        asked: &Asked<'_>,
        prepared: &Arc<Prepared>,
        decision: &mut Decision,
    ) {
        let slice = &prepared.slice;
        let forbidden = decision.verdict == Verdict::Deny && !decision.rules.is_empty();
        if slice.shadow.is_empty() || forbidden {
            return; // nothing in shadow turns a denial that a rule made
        }
        let Ok(world) = self.evaluation(facts, asked, prepared, slice.shadow_uses) else {
            return;
        };
        let mut tally = Tally::default();
        tally.add(self.index.rules(&slice.shadow), &world);
        let denied_by = tally.denied_by();
        let turned = match decision.verdict {
            Verdict::Allow => denied_by,
            Verdict::Deny if denied_by.is_empty() => tally.permits,
            Verdict::Deny => Vec::new(),
        };
        decision.shadow = turned.iter().map(|rule| Arc::clone(&rule.id)).collect();
    }

    /// The request and the entities for one evaluation, with what the rules read.
    pub(super) fn evaluation<'p>(
        &self,
        facts: &Facts<'_>,
        asked: &Asked<'_>,
        prepared: &'p Arc<Prepared>,
        uses: Uses,
    ) -> Result<Evaluation<'p>, Misfit> {
        let user = match &facts.what {
            What::Http(http) if uses.of_a_token() => http.user,
            _ => None,
        };
        let user = match user {
            Some(user) => Some(self.users.get(prepared, user, uses, || {
                let users = self.maker.users(user, uses)?;
                Ok((self.maker.names(user), with(&prepared.entities, users)?))
            })?),
            None => None,
        };
        let names = user.as_ref().map(|known| &known.names);
        let context = self.maker.context(facts, uses, asked.params.as_ref(), names)?;
        let request = Request::new_unchecked(
            prepared.principal.clone(),
            asked.action.entry.clone(),
            self.resource.clone(),
            Some(context),
        );
        Ok(Evaluation::new(request, prepared, user))
    }

    /// The slice for a peer and an action, from those found before or new.
    pub(super) fn prepared(
        &self,
        principal: Principal<'_>,
        asked: &Asked<'_>,
    ) -> Result<Arc<Prepared>, Misfit> {
        let make = || self.prepare(principal, asked.action);
        self.slices.get(principal, asked.place, make)
    }

    /// Finds the slice anew.
    fn prepare(&self, principal: Principal<'_>, action: &Action) -> Result<Prepared, Misfit> {
        let (peer, keys) = self.peer(principal)?;
        self.prepare_by(peer, &keys, action, &action.keys)
    }

    /// The peer's entity and all the keys that rules about it stand under.
    fn peer(&self, principal: Principal<'_>) -> Result<(Entity, Vec<PrincipalKey>), Misfit> {
        let (entity, ancestors) = match principal {
            Principal::Plaintext => (self.maker.plaintext(), Vec::new()),
            Principal::Workload(id) => self.maker.workload(&self.world, id)?,
        };
        let keys = PrincipalKey::of(&entity.uid(), &ancestors);
        Ok((entity, keys))
    }

    fn prepare_by(
        &self,
        peer: Entity,
        peer_keys: &[PrincipalKey],
        action: &Action,
        action_keys: &[ActionKey],
    ) -> Result<Prepared, Misfit> {
        let principal = entry(&peer.uid());
        let entities = Entities::from_entities([peer, action.entity.clone(), self.service.clone()], None);
        Ok(Prepared {
            slice: self.index.slice(peer_keys, action_keys),
            names: OnceLock::new(),
            principal,
            entities: entities.map_err(|_| Misfit)?,
        })
    }
}

/// An entity's id as evaluation takes it.
pub(super) fn entry(uid: &EntityUid) -> EntityUIDEntry {
    EntityUIDEntry::known(uid.as_ref().clone(), None)
}

/// Entities with a user among them. Each names all its ancestors, so there is nothing to close over.
fn with(entities: &Entities, users: Vec<ast::Entity>) -> Result<Entities, Misfit> {
    let all = entities.as_ref().clone().add_entities(
        users.into_iter().map(Arc::new),
        None::<&NoEntitiesSchema>,
        TCComputation::AssumeAlreadyComputed,
        Extensions::all_available(),
    );
    all.map(Entities::from).map_err(|_| Misfit)
}

impl Actions {
    /// The action of what is asked for: of the declared route that fits best, else the method's own.
    pub(super) fn resolve<'a>(&'a self, what: &What<'_>) -> Option<Asked<'a>> {
        let http = match what {
            What::Connect => return self.asked(*self.bare.get("connect")?, None),
            What::Http(http) => http,
        };
        let path = canonical_escapes(http.path);
        let Some(found) = self.router.find(http.method, &path) else {
            return self.asked(*self.bare.get(method_action(http.method))?, None);
        };
        let (_, names) = self.all.get(found.route)?.route.as_ref()?;
        let values: Option<Vec<_>> = found.values.into_iter().map(param).collect();
        let values = values?.into_iter().map(|value| string(&value));
        let params = record(names.iter().map(String::as_str).zip(values)).ok()?;
        self.asked(found.route, Some(params))
    }

    pub(super) fn asked(&self, place: usize, params: Option<Value>) -> Option<Asked<'_>> {
        let action = self.all.get(place)?;
        Some(Asked {
            place,
            action,
            params,
        })
    }
}

impl Rule {
    /// Whether everything that it asks for beside a user is there.
    pub(super) fn all_but_the_user(&self, evaluation: &Evaluation<'_>) -> bool {
        let rest = self.without_user.as_ref();
        rest.is_some_and(|rest| evaluation.holds(rest.as_ref()) == Some(true))
    }

    /// The scopes that it asks for, when everything else that it asks for is there.
    pub(super) fn all_but_scopes(&self, evaluation: &Evaluation<'_>) -> Option<&Scopes> {
        let scopes = self.scopes.as_ref();
        scopes.filter(|scopes| evaluation.holds(scopes.rest.as_ref()) == Some(true))
    }

    /// What it would have taken, as its scope matched or not.
    fn needs(&self, scope_matched: bool) -> Needs {
        let [conditions, scope] = &self.asks;
        Needs {
            rule: Arc::clone(&self.id),
            text: if scope_matched { conditions } else { scope }.to_string(),
        }
    }
}

#[cfg(test)]
impl Policies {
    /// Decides with an index that is asked for less: the tests show that no kind of key can be left out.
    pub(super) fn decide_without(
        &self,
        facts: &Facts<'_>,
        peer_key: fn(&PrincipalKey) -> bool,
        action_key: fn(&ActionKey) -> bool,
    ) -> Decision {
        let set = self.set.as_deref().unwrap();
        let asked = set.actions.resolve(&facts.what).unwrap();
        let (peer, mut peer_keys) = set.peer(facts.principal).unwrap();
        peer_keys.retain(|key| !peer_key(key));
        let mut action_keys = asked.action.keys.clone();
        action_keys.retain(|key| !action_key(key));
        let prepared = set
            .prepare_by(peer, &peer_keys, asked.action, &action_keys)
            .unwrap();
        let decided = set.enforce(facts, &asked, &Arc::new(prepared));
        decided.unwrap_or_else(|Misfit| Decision::deny(Reason::PolicyError))
    }
}
