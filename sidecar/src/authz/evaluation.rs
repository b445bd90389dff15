//! The evaluation of conditions: a request and its entities enter, with each condition; whether it holds leaves. The usual
//! conditions go the short way, the others, and everything that is not plain, to Cedar's own interpreter.

use std::sync::Arc;

use cedar_policy::{Entities, EvalResult, EvaluationError, Expression};
use cedar_policy_core::ast::{self, Request, Value};
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;

use super::index::Condition;
use super::kept::{KnownUser, Prepared};
use super::quick::About;

/// What conditions are evaluated against.
pub(super) struct Evaluation<'p> {
    request: Request,
    entities: Held<'p>,
}

/// The entities of an evaluation.
enum Held<'p> {
    Plain(&'p Entities),
    WithUser(Arc<KnownUser>),
}

impl<'p> Evaluation<'p> {
    /// The evaluation of a request, for a user whose entities are known or for none.
    pub(super) fn new(request: Request, prepared: &'p Prepared, user: Option<Arc<KnownUser>>) -> Self {
        Self {
            request,
            entities: user.map_or(Held::Plain(&prepared.entities), Held::WithUser),
        }
    }

    /// Whether a condition holds, which none at all does; `None` when it cannot be evaluated, or gives no Boolean. The
    /// difference to `false` is what the decision rule is about.
    pub(super) fn holds(&self, condition: Option<&Condition>) -> Option<bool> {
        let Some(condition) = condition else {
            return Some(true);
        };
        let about = About {
            request: &self.request,
            entities: self.entities(),
        };
        let quick = condition.quick.as_ref().and_then(|quick| quick.holds(about));
        #[cfg(test)]
        assert!(
            quick.is_none() || quick == self.by_cedar(&condition.whole),
            "{:?}",
            condition.whole
        );
        quick.or_else(|| self.by_cedar(&condition.whole))
    }

    fn by_cedar(&self, condition: &Expression) -> Option<bool> {
        match self.interpreted(condition).ok()?.value_kind() {
            ast::ValueKind::Lit(ast::Literal::Bool(holds)) => Some(*holds),
            _ => None,
        }
    }

    /// What an expression comes to.
    pub(super) fn value(&self, expression: &Expression) -> Result<EvalResult, Box<EvaluationError>> {
        self.interpreted(expression).map(EvalResult::from)
    }

    fn entities(&self) -> &cedar_policy_core::entities::Entities {
        match &self.entities {
            Held::Plain(entities) => entities.as_ref(),
            Held::WithUser(known) => known.entities.as_ref(),
        }
    }

    fn interpreted(&self, expression: &Expression) -> Result<Value, Box<EvaluationError>> {
        let evaluator = Evaluator::new(self.request.clone(), self.entities(), Extensions::all_available());
        evaluator
            .interpret(expression.as_ref(), &ast::SlotEnv::new())
            .map_err(Box::new)
    }
}
