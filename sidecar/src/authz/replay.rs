//! Decisions made again: inputs that a decision left behind enter, the same decision leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Asked, Policies, Set};
use super::entities::{record, string};
use super::expr::Uses;
use super::facts::{Decision, Facts, What};
use super::inputs::{Inputs, Reading};
use super::kept::Prepared;
use super::names::Names;
use super::route::{canonical_escapes, param};

/// Why inputs cannot be decided on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Nothing is loaded.
    #[error("there are no policies")]
    NoPolicies,
    /// They are of another service's sidecar.
    #[error("it was decided for the service `{of}`, and these policies are those of `{here}`")]
    Service {
        /// Whose they are.
        of: String,
        /// Whose policies these are.
        here: String,
    },
    /// The route is none of the mesh file's, and the path was not kept.
    #[error("the route `{0}` is not in the mesh file (any more)")]
    Route(String),
}

impl Policies {
    /// Decides again, on what a decision was made on. Under the policies that made it the outcome is the same, unless
    /// [`Inputs::withheld`] says that something is missing.
    ///
    /// # Errors
    /// [`ReplayError`] when the inputs are not about these policies at all.
    pub fn replay(&self, inputs: &Inputs) -> Result<Decision, ReplayError> {
        let set = self.set.as_deref().ok_or(ReplayError::NoPolicies)?;
        set.again(inputs, |facts, asked| {
            let mut decision = set.judge(facts, asked);
            decision.inputs = Some(Arc::new(inputs.clone()));
            decision
        })
    }

    /// What a decision on these facts would be made on; `None` without policies, or for what is no request at all.
    pub fn inputs(&self, facts: &Facts<'_>) -> Option<Inputs> {
        let set = self.set.as_deref()?;
        let asked = set.actions.resolve(&facts.what)?;
        Some(set.inputs(facts, &asked))
    }
}

impl Set {
    /// The name of the own service.
    pub(super) fn own(&self) -> Arc<str> {
        Arc::from(self.service.uid().id().unescaped())
    }

    /// What is read of these facts.
    pub(super) fn inputs(&self, facts: &Facts<'_>, asked: &Asked<'_>) -> Inputs {
        let route = asked.action.route.as_ref();
        let route = route.map(|(name, names)| (Arc::clone(name), self.params(&facts.what, names)));
        // Facts that do not fit are kept whole: they are the reason.
        let prepared = self.prepared(facts.principal, asked).ok();
        let all;
        let reading = match &prepared {
            Some(prepared) => Reading {
                uses: prepared.slice.uses.and(prepared.slice.shadow_uses),
                names: self.names(prepared),
            },
            None => {
                all = Names::all();
                Reading {
                    uses: Uses::ALL,
                    names: &all,
                }
            }
        };
        Inputs::of(self.own(), facts, route, &reading)
    }

    fn names<'p>(&self, prepared: &'p Prepared) -> &'p Names {
        prepared.names.get_or_init(|| {
            let slice = &prepared.slice;
            let mut names = Names::default();
            for ranks in [&slice.forbids, &slice.permits, &slice.shadow] {
                self.index.rules(ranks).for_each(|rule| names.join(&rule.names));
            }
            names
        })
    }

    fn params(&self, what: &What<'_>, names: &[String]) -> BTreeMap<String, String> {
        let What::Http(http) = what else {
            return BTreeMap::new();
        };
        let path = canonical_escapes(http.path);
        let found = self.actions.router.find(http.method, &path);
        let values = found.into_iter().flat_map(|found| found.values);
        let values = values.map(|value| param(value).unwrap_or_default().into_owned());
        names.iter().cloned().zip(values).collect()
    }

    /// Does something with the facts of inputs, resolved as they were.
    pub(super) fn again<R>(
        &self,
        inputs: &Inputs,
        then: impl FnOnce(&Facts<'_>, &Asked<'_>) -> R,
    ) -> Result<R, ReplayError> {
        if inputs.service != self.own() {
            return Err(ReplayError::Service {
                of: inputs.service.to_string(),
                here: self.own().to_string(),
            });
        }
        inputs.with_facts(|facts| match self.asked_again(inputs, facts) {
            Some(asked) => Ok(then(facts, &asked)),
            None => Err(ReplayError::Route(
                inputs
                    .request
                    .as_ref()
                    .and_then(|request| request.route.as_deref())
                    .unwrap_or_default()
                    .to_owned(),
            )),
        })
    }

    /// By its path; where that was not kept, by the route that stands for it.
    fn asked_again(&self, inputs: &Inputs, facts: &Facts<'_>) -> Option<Asked<'_>> {
        let Some(request) = inputs.request.as_ref().filter(|request| request.path.is_none()) else {
            return self.actions.resolve(&facts.what);
        };
        let route = request.route.as_deref()?;
        let of_method = format!("{route}:{}", request.method);
        let place = self.actions.all.iter().position(|action| {
            let id = action.entity.uid();
            let id = id.id().unescaped();
            action.route.is_some() && (id == route || id == of_method)
        })?;
        let (_, names) = self.actions.all.get(place)?.route.as_ref()?;
        // What no policy read may be anything.
        let params = names.iter().map(|name| {
            let value = request.params.get(name).map_or("", String::as_str);
            (name.as_str(), string(value))
        });
        self.actions.asked(place, Some(record(params).ok()?))
    }
}
