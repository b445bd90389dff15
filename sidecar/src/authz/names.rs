//! Which of the values that only a request has the conditions of a policy name: single claims, headers and path
//! parameters, the path, the user's roles and subject. Cedar's public syntax tree enters, the names leave. They say what
//! a record keeps of a request; no decision rests on them. What is not understood counts as "all of them".

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, Policy, Var};

use super::expr::chain;

/// Names of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    all: bool,
    names: BTreeSet<String>,
}

impl Named {
    /// Whether a name is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    fn add(&mut self, name: Option<&String>) {
        match name {
            Some(name) => {
                self.names.insert(name.clone());
            }
            None => self.all = true,
        }
    }

    fn join(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

/// What is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) claims: Named,
    pub(super) headers: Named,
    pub(super) params: Named,
    pub(super) path: bool,
    /// Whether the user is looked for in roles.
    pub(super) roles: bool,
    /// Whether the user's subject matters.
    pub(super) subject: bool,
}

impl Names {
    /// Of the conditions of a policy.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut names = Self::default();
        for clause in policy.body().clauses() {
            match clause {
                Clause::When(expr) | Clause::Unless(expr) => names.walk(expr),
            }
        }
        names
    }

    /// All there are.
    pub(super) fn all() -> Self {
        let every = || Named {
            all: true,
            names: BTreeSet::new(),
        };
        Self {
            claims: every(),
            headers: every(),
            params: every(),
            path: true,
            roles: true,
            subject: true,
        }
    }

    /// Adds those of another policy.
    pub(super) fn join(&mut self, other: &Self) {
        self.claims.join(&other.claims);
        self.headers.join(&other.headers);
        self.params.join(&other.params);
        self.path |= other.path;
        self.roles |= other.roles;
        self.subject |= other.subject;
    }

    fn walk(&mut self, expr: &Expr) {
        match expr {
            Expr::Var(Var::Context) => *self = Self::all(), // as a whole, not for one attribute
            Expr::Var(_) | Expr::Literal(_) | Expr::Slot(_) => {}
            Expr::GetAttr { expr: inner, .. } => self.attribute(&chain(expr), inner),
            Expr::HasAttr { expr: inner, attrs } => {
                let mut path = chain(inner);
                path.extend(attrs.iter().map(ToString::to_string));
                // That there is a user, a claim or a header at all says nothing about which others there are.
                match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    ["context", _] | ["context", "user" | "actor", _] => {}
                    _ => self.attribute(&path, inner),
                }
            }
            Expr::BinaryOp {
                op: BinaryOp::In,
                left,
                right,
            } if is_user(left) && names_roles(right) => self.roles = true,
            Expr::BinaryOp { left, right, .. } => {
                self.walk(left);
                self.walk(right);
            }
            Expr::Is {
                expr,
                in_expr: Some(parent),
                ..
            } if is_user(expr) && names_roles(parent) => self.roles = true,
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                in_expr.iter().for_each(|parent| self.walk(parent));
            }
            Expr::Like { expr, .. } | Expr::UnaryOp { expr, .. } => self.walk(expr),
            Expr::IfThenElse {
                cond,
                then_expr,
                else_expr,
            } => {
                self.walk(cond);
                self.walk(then_expr);
                self.walk(else_expr);
            }
            Expr::Set(items) => items.iter().for_each(|item| self.walk(item)),
            Expr::Record(fields) => fields.values().for_each(|field| self.walk(field)),
            _ => *self = Self::all(),
        }
    }

    /// A chain of attributes from a variable, and what it begins from when that is no variable.
    fn attribute(&mut self, path: &[String], from: &Expr) {
        let mut words = path.iter().map(String::as_str);
        match (words.next(), words.next(), words.next()) {
            (Some("context"), Some("headers"), _) => self.headers.add(path.get(2)),
            (Some("context"), Some("params"), _) => self.params.add(path.get(2)),
            (Some("context"), Some("path"), _) => self.path = true,
            (Some("context"), Some("user" | "actor"), Some("claims")) => self.claims.add(path.get(3)),
            (Some("context"), Some("user" | "actor"), Some("sub")) => self.subject = true,
            (Some("context"), Some("user" | "actor"), None) => (self.roles, self.subject) = (true, true),
            (Some("context" | "principal" | "resource" | "action"), ..) => {}
            _ => {
                *self = Self::all();
                self.walk(from);
            }
        }
    }
}

fn is_user(expr: &Expr) -> bool {
    let path = chain(expr);
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(words.as_slice(), ["context", "user" | "actor"])
}

/// Roles by name, and nothing else.
fn names_roles(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(Literal::EntityUID(uid)) => uid.ty.to_string() == "Role",
        Expr::Set(items) => items.iter().all(|item| names_roles(item)),
        _ => false,
    }
}
