//! The scopes that permits ask of a token: the `&&` operands of a permit's conditions enter, those that ask for a scope leave
//! as names, for the answer that asks the client for them (RFC 6750 section 3.1).

use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal};

use super::expr::chain;
use super::index::Condition;

/// What a permit asks for: scopes, and the rest.
#[derive(Debug)]
pub(super) struct Scopes {
    /// Of each list, one is enough.
    pub(super) wanted: Vec<Vec<Arc<str>>>,
    /// Its other conditions; `None` for none.
    pub(super) rest: Option<Condition>,
}

impl Scopes {
    /// The scopes to ask for, for a user who has these: of each list one that is there, else its first.
    pub(super) fn for_user(&self, has: &[String]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for list in &self.wanted {
            let held = list
                .iter()
                .find(|name| has.iter().any(|scope| **scope == ***name));
            let name = held.or_else(|| list.first());
            names.extend(name.filter(|name| !names.contains(name)).cloned());
        }
        names
    }
}

/// The scopes that an operand asks for when it asks for nothing else: `context.user.scope.contains("x")`, `containsAll` and
/// `containsAny` with a list of texts.
pub(super) fn scopes_of(clause: &Clause) -> Option<Vec<Vec<Arc<str>>>> {
    let Clause::When(expr) = clause else {
        return None;
    };
    let Expr::BinaryOp { op, left, right } = &**expr else {
        return None;
    };
    if chain(left) != ["context", "user", "scope"] {
        return None;
    }
    match op {
        BinaryOp::Contains => Some(vec![vec![name(right)?]]),
        BinaryOp::ContainsAll => Some(names(right)?.into_iter().map(|name| vec![name]).collect()),
        BinaryOp::ContainsAny => Some(vec![names(right)?]),
        _ => None,
    }
}

fn names(expr: &Expr) -> Option<Vec<Arc<str>>> {
    match expr {
        Expr::Set(items) if !items.is_empty() => items.iter().map(|item| name(item)).collect(),
        _ => None,
    }
}

/// A name of a scope, as it may stand in a challenge (RFC 6749 section 3.3).
fn name(expr: &Expr) -> Option<Arc<str>> {
    let Expr::Literal(Literal::String(text)) = expr else {
        return None;
    };
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    (!text.is_empty() && text.bytes().all(fits)).then(|| text.as_str().into())
}
