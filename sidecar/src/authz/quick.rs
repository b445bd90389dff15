//! Conditions in the short way: a condition that consists of the usual constructs is walked by reference, where Cedar's
//! interpreter hands every value on as a copy and reads `datetime("...")` anew each time. The short way only ever answers
//! what is plain. Whatever it does not know, cannot find, or would be an error gives `None`, and Cedar's own interpreter is
//! asked about the whole condition: what an error is, it alone says.

use cedar_policy_core::ast::{
    self, BinaryOp, EntityType, EntityUID, Expr, ExprKind, ExtensionFunction, Literal, PartialValue, Pattern,
    Request, UnaryOp, Value, ValueKind, Var,
};
use cedar_policy_core::entities::{Dereference, Entities};
use cedar_policy_core::evaluator::binary_relation;
use cedar_policy_core::extensions::Extensions;

/// How deep a condition may nest; a deeper one is Cedar's alone, which looks after its stack.
const DEPTH: usize = 64;

/// A condition, or a part of one.
#[derive(Debug)]
pub(super) enum Quick {
    Known(Value),
    Var(Var),
    And(Box<[Self; 2]>),
    Or(Box<[Self; 2]>),
    Not(Box<Self>),
    If(Box<[Self; 3]>),
    Relation(BinaryOp, Box<[Self; 2]>),
    In(Box<[Self; 2]>),
    Sets(BinaryOp, Box<[Self; 2]>),
    Get(Box<Self>, Box<str>),
    /// One attribute, or a chain of them.
    Has(Box<Self>, Box<[Box<str>]>),
    Like(Box<Self>, Pattern),
    Is(Box<Self>, EntityType),
    Call(&'static ExtensionFunction, Vec<Self>),
}

/// What a condition is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) request: &'a Request,
    pub(super) entities: &'a Entities,
}

/// What a part comes to.
enum Seen<'a> {
    Bool(bool),
    Uid(&'a EntityUID),
    Value(&'a Value),
    Made(Box<Value>),
    Context(&'a ast::Context),
}

impl Quick {
    /// The condition in the short way, if there is one.
    pub(super) fn of(expr: &Expr) -> Option<Self> {
        Self::at(expr, 0)
    }

    fn at(expr: &Expr, depth: usize) -> Option<Self> {
        if depth > DEPTH {
            return None;
        }
        let part = |expr: &Expr| Self::at(expr, depth + 1);
        let pair = |a: &Expr, b: &Expr| Some(Box::new([part(a)?, part(b)?]));
        Some(match expr.expr_kind() {
            ExprKind::Lit(literal) => Self::Known(literal.clone().into()),
            ExprKind::Var(var) => Self::Var(*var),
            ExprKind::If {
                test_expr,
                then_expr,
                else_expr,
            } => Self::If(Box::new([part(test_expr)?, part(then_expr)?, part(else_expr)?])),
            ExprKind::And { left, right } => Self::And(pair(left, right)?),
            ExprKind::Or { left, right } => Self::Or(pair(left, right)?),
            ExprKind::UnaryApp {
                op: UnaryOp::Not,
                arg,
            } => Self::Not(Box::new(part(arg)?)),
            ExprKind::BinaryApp { op, arg1, arg2 } => match op {
                BinaryOp::Eq | BinaryOp::Less | BinaryOp::LessEq => Self::Relation(*op, pair(arg1, arg2)?),
                BinaryOp::In => Self::In(pair(arg1, arg2)?),
                BinaryOp::Contains | BinaryOp::ContainsAll | BinaryOp::ContainsAny => {
                    Self::Sets(*op, pair(arg1, arg2)?)
                }
                _ => return None,
            },
            ExprKind::GetAttr { expr, attr } => Self::Get(Box::new(part(expr)?), attr.as_str().into()),
            ExprKind::HasAttr { expr, attr } => {
                Self::Has(Box::new(part(expr)?), [attr.as_str().into()].into())
            }
            ExprKind::ExtHasAttr { expr, attrs } => {
                let attrs = attrs.iter().map(|attr| attr.as_str().into()).collect();
                Self::Has(Box::new(part(expr)?), attrs)
            }
            ExprKind::Like { expr, pattern } => Self::Like(Box::new(part(expr)?), pattern.clone()),
            ExprKind::Is { expr, entity_type } => Self::Is(Box::new(part(expr)?), entity_type.clone()),
            ExprKind::Set(items) => {
                let known: Option<Vec<Value>> = items.iter().map(|item| part(item)?.known()).collect();
                Self::Known(Value::set(known?, None))
            }
            ExprKind::ExtensionFunctionApp { fn_name, args } => {
                let function = Extensions::all_available().func(fn_name).ok()?;
                let args: Option<Vec<Self>> = args.iter().map(part).collect();
                Self::call(function, args?)?
            }
            _ => return None,
        })
    }

    /// A call, or what it comes to when all that it is given is known.
    fn call(function: &'static ExtensionFunction, args: Vec<Self>) -> Option<Self> {
        let known: Option<Vec<Value>> = args
            .iter()
            .map(|arg| match arg {
                Self::Known(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        match known {
            Some(known) => called(function, &known).map(Self::Known),
            None => Some(Self::Call(function, args)),
        }
    }

    fn known(self) -> Option<Value> {
        match self {
            Self::Known(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it holds, where that is plain.
    pub(super) fn holds(&self, about: About<'_>) -> Option<bool> {
        self.seen(about)?.bool()
    }

    fn seen<'a>(&'a self, about: About<'a>) -> Option<Seen<'a>> {
        Some(match self {
            Self::Known(value) => Seen::Value(value),
            Self::Var(Var::Principal) => Seen::Uid(about.request.principal().uid()?),
            Self::Var(Var::Action) => Seen::Uid(about.request.action().uid()?),
            Self::Var(Var::Resource) => Seen::Uid(about.request.resource().uid()?),
            Self::Var(Var::Context) => Seen::Context(about.request.context()?),
            Self::And(both) => {
                let [left, right] = &**both;
                Seen::Bool(left.holds(about)? && right.holds(about)?)
            }
            Self::Or(both) => {
                let [left, right] = &**both;
                Seen::Bool(left.holds(about)? || right.holds(about)?)
            }
            Self::Not(of) => Seen::Bool(!of.holds(about)?),
            Self::If(parts) => {
                let [test, then, otherwise] = &**parts;
                return if test.holds(about)? { then } else { otherwise }.seen(about);
            }
            Self::Relation(op, both) => {
                let [left, right] = &**both;
                Seen::Bool(related(*op, &left.seen(about)?, &right.seen(about)?)?)
            }
            Self::In(both) => {
                let [of, group] = &**both;
                Seen::Bool(within(&of.seen(about)?, &group.seen(about)?, about)?)
            }
            Self::Sets(op, both) => {
                let [left, right] = &**both;
                Seen::Bool(of_sets(*op, &left.seen(about)?, &right.seen(about)?)?)
            }
            Self::Get(of, attr) => Seen::Value(of.seen(about)?.attribute(attr, about)??),
            Self::Has(of, attrs) => Seen::Bool(has(of.seen(about)?, attrs, about)?),
            Self::Like(of, pattern) => match of.seen(about)?.value()?.value_kind() {
                ValueKind::Lit(Literal::String(text)) => Seen::Bool(pattern.wildcard_match(text)),
                _ => return None,
            },
            Self::Is(of, kind) => Seen::Bool(of.seen(about)?.uid()?.entity_type() == kind),
            Self::Call(function, args) => {
                let args: Option<Vec<Value>> = args.iter().map(|arg| arg.seen(about)?.owned()).collect();
                Seen::Made(Box::new(called(function, &args?)?))
            }
        })
    }
}

impl<'a> Seen<'a> {
    fn bool(&self) -> Option<bool> {
        if let Self::Bool(yes) = self {
            return Some(*yes);
        }
        match self.value()?.value_kind() {
            ValueKind::Lit(Literal::Bool(yes)) => Some(*yes),
            _ => None,
        }
    }

    fn uid(&self) -> Option<&EntityUID> {
        if let Self::Uid(uid) = self {
            return Some(uid);
        }
        match self.value()?.value_kind() {
            ValueKind::Lit(Literal::EntityUID(uid)) => Some(uid),
            _ => None,
        }
    }

    /// A value that is one already.
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Made(value) => Some(value),
            Self::Bool(_) | Self::Uid(_) | Self::Context(_) => None,
        }
    }

    fn owned(&self) -> Option<Value> {
        match self {
            Self::Bool(yes) => Some(Value::from(*yes)),
            Self::Uid(uid) => Some(Value::from((*uid).clone())),
            _ => self.value().cloned(),
        }
    }

    /// An attribute; inside, `None` for one that is not there.
    fn attribute(&self, name: &str, about: About<'a>) -> Option<Option<&'a Value>> {
        let uid = match self {
            Self::Context(ast::Context::Value(pairs)) => return Some(pairs.get(name)),
            Self::Value(value) => match value.value_kind() {
                ValueKind::Record(record) => return Some(record.get(name)),
                ValueKind::Lit(Literal::EntityUID(uid)) => uid,
                _ => return None,
            },
            Self::Uid(uid) => *uid,
            Self::Context(_) | Self::Bool(_) | Self::Made(_) => return None,
        };
        let Some(entity) = entity(uid, about)? else {
            return Some(None);
        };
        match entity.get(name) {
            None => Some(None),
            Some(PartialValue::Value(value)) => Some(Some(value)),
            Some(PartialValue::Residual(_)) => None,
        }
    }
}

/// An entity; inside, `None` for one that is not there.
fn entity<'a>(uid: &EntityUID, about: About<'a>) -> Option<Option<&'a ast::Entity>> {
    match about.entities.entity(uid) {
        Dereference::Data(entity) => Some(Some(entity)),
        Dereference::NoSuchEntity => Some(None),
        Dereference::Residual(_) => None,
    }
}

fn called(function: &ExtensionFunction, args: &[Value]) -> Option<Value> {
    match function.call(args).ok()? {
        PartialValue::Value(value) => Some(value),
        PartialValue::Residual(_) => None,
    }
}

fn related(op: BinaryOp, left: &Seen<'_>, right: &Seen<'_>) -> Option<bool> {
    let compared = match (left.value(), right.value()) {
        (Some(left), Some(right)) if op == BinaryOp::Eq => return Some(left == right),
        (Some(left), Some(right)) => binary_relation(op, left, right, Extensions::all_available()),
        _ => match (left.uid(), right.uid()) {
            (Some(left), Some(right)) if op == BinaryOp::Eq => return Some(left == right),
            _ => binary_relation(op, &left.owned()?, &right.owned()?, Extensions::all_available()),
        },
    };
    match compared.ok()?.value_kind() {
        ValueKind::Lit(Literal::Bool(yes)) => Some(*yes),
        _ => None,
    }
}

fn within(of: &Seen<'_>, group: &Seen<'_>, about: About<'_>) -> Option<bool> {
    let uid = of.uid()?;
    let entity = entity(uid, about)?;
    let below = |group: &EntityUID| uid == group || entity.is_some_and(|of| of.is_descendant_of(group));
    if let Some(group) = group.uid() {
        return Some(below(group));
    }
    let ValueKind::Set(groups) = group.value()?.value_kind() else {
        return None;
    };
    // What is no entity among them is an error, whatever the others are.
    let groups: Option<Vec<&EntityUID>> = groups
        .iter()
        .map(|group| match group.value_kind() {
            ValueKind::Lit(Literal::EntityUID(uid)) => Some(&**uid),
            _ => None,
        })
        .collect();
    Some(groups?.into_iter().any(below))
}

fn of_sets(op: BinaryOp, left: &Seen<'_>, right: &Seen<'_>) -> Option<bool> {
    let ValueKind::Set(set) = left.value()?.value_kind() else {
        return None;
    };
    if op == BinaryOp::Contains {
        return match right.value() {
            Some(value) => Some(set.contains(value)),
            None => Some(set.contains(&right.owned()?)),
        };
    }
    let ValueKind::Set(other) = right.value()?.value_kind() else {
        return None;
    };
    match op {
        BinaryOp::ContainsAll => Some(other.is_subset(set)),
        BinaryOp::ContainsAny => Some(!set.is_disjoint(other)),
        _ => None,
    }
}

fn has<'a>(mut of: Seen<'a>, attrs: &[Box<str>], about: About<'a>) -> Option<bool> {
    for attr in attrs {
        match of.attribute(attr, about)? {
            Some(value) => of = Seen::Value(value),
            None => return Some(false),
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use cedar_policy::Expression;

    use super::*;

    fn quick(text: &str) -> Option<Quick> {
        Quick::of(Expression::from_str(text).unwrap().as_ref())
    }

    #[test]
    fn the_usual_conditions_have_a_short_way() {
        for text in [
            "context has user && context.user in Role::\"corp|clerk\"",
            "context has user.claims.tenant && context.user.claims.tenant == context.params.tenant",
            "context.now >= datetime(\"2026-12-31\") || context.src_ip.isInRange(ip(\"10.0.0.0/8\"))",
            "context.user.scope.containsAny([\"a\", \"b\"]) && !(principal is Plaintext)",
            "if context.path like \"/a*\" then action in [Action::\"read\", Action::\"write\"] else false",
        ] {
            assert!(quick(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_known_at_load_is_read_at_load() {
        let known = quick("datetime(\"2026-12-31\")");
        assert!(matches!(known, Some(Quick::Known(_))), "{known:?}");
        assert!(quick("context.now < datetime(\"no date\")").is_none());
    }

    #[test]
    fn what_is_unusual_or_deep_is_left_to_cedar() {
        assert!(quick("context.port * 2 > 5").is_none());
        assert!(quick("{a: 1}.a == 1").is_none());
        let deep = "context.tls && ".repeat(DEPTH + 2) + "true";
        assert!(quick(&deep).is_none());
    }
}
