//! What the conditions of one policy read: Cedar's public syntax tree enters, the attributes that a decision must supply
//! and the constructs that `check` refuses leave. What is not understood counts as "reads everything".

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, PatternElem, Policy, Var};

/// A set of attributes of the context and of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Uses(u32);

/// The attributes of the context; the position is the bit.
pub(super) const CONTEXT: [&str; 10] = [
    "path", "host", "port", "tls", "src_ip", "now", "headers", "user", "params", "actor",
];
/// The attributes of a user; their bits follow.
pub(super) const USER: [&str; 10] = [
    "issuer",
    "sub",
    "aud",
    "scope",
    "azp",
    "acr",
    "amr",
    "auth_time",
    "exp",
    "claims",
];

impl Uses {
    /// Everything.
    pub(super) const ALL: Self = Self(u32::MAX);

    /// Whether an attribute of the context is read.
    pub(super) fn context(self, name: &str) -> bool {
        self.has(CONTEXT.iter().position(|n| *n == name))
    }

    /// Whether an attribute of the user is read.
    pub(super) fn user(self, name: &str) -> bool {
        self.has(USER.iter().position(|n| *n == name).map(|at| at + CONTEXT.len()))
    }

    /// Whether anything is read that a token tells: without one, none of it is there.
    pub(super) fn of_a_token(self) -> bool {
        self.context("user") || self.context("actor")
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// A name that is not in the tables counts as read.
    fn has(self, bit: Option<usize>) -> bool {
        bit.is_none_or(|bit| self.0 & (1 << bit) != 0)
    }

    fn add(&mut self, names: &[&str], first: usize, name: &str) {
        match names.iter().position(|n| *n == name) {
            Some(at) => self.0 |= 1 << (first + at),
            None => *self = Self::ALL,
        }
    }
}

/// What the conditions of a policy read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The attributes that must be there for it.
    pub(super) uses: Uses,
    /// Ids of actions that are compared otherwise than by `in`.
    pub(super) exact_actions: Vec<String>,
    /// `context.path like` with a `*` between other characters.
    pub(super) inner_wildcard: bool,
    /// What `has` asks for, attribute by attribute from the variable: `["context", "user", "claims", "tenant"]`. What is
    /// no chain of attributes of a variable begins with an empty name.
    pub(super) asked: Vec<Vec<String>>,
    /// Whether `context.path` is read.
    pub(super) path: bool,
    /// Whether `context.user` or `context.actor` is read.
    pub(super) user: bool,
}

/// Whether a clause reads the user.
pub(super) fn reads_user(clause: &Clause) -> bool {
    let mut reads = Reads::default();
    match clause {
        Clause::When(expr) | Clause::Unless(expr) => reads.walk(expr),
    }
    reads.uses.of_a_token()
}

impl Reads {
    /// Reads all clauses of a policy.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut reads = Self::default();
        for clause in policy.body().clauses() {
            match clause {
                Clause::When(expr) | Clause::Unless(expr) => reads.walk(expr),
            }
        }
        reads.path = reads.uses.context("path");
        reads.user = reads.uses.of_a_token();
        reads
    }

    fn walk(&mut self, expr: &Expr) {
        match expr {
            Expr::Var(Var::Context) => self.uses = Uses::ALL, // as a whole, not for one attribute
            Expr::Var(_) | Expr::Slot(_) => {}
            Expr::Literal(Literal::EntityUID(uid)) => {
                if uid.ty.to_string() == "Action" {
                    self.exact_actions.push(uid.eid.to_string());
                }
            }
            Expr::Literal(_) => {}
            Expr::GetAttr { expr, attr } => self.attribute(expr, attr),
            Expr::HasAttr { expr, attrs } => {
                let mut asked = chain(expr);
                asked.extend(attrs.iter().map(ToString::to_string));
                self.asked.push(asked);
                self.attribute(expr, &attrs.head);
                for attr in &attrs.tail {
                    self.deeper(attr);
                }
            }
            Expr::Like { expr, pattern } => {
                let path =
                    matches!(&**expr, Expr::GetAttr { expr, attr } if is_context(expr) && attr == "path");
                self.inner_wildcard |= path && has_inner_wildcard(pattern);
                self.walk(expr);
            }
            Expr::BinaryOp { op, left, right } => {
                self.walk(left);
                if *op != BinaryOp::In || !names_only_entities(right) {
                    self.walk(right);
                }
            }
            Expr::UnaryOp { expr, .. } => self.walk(expr),
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                if let Some(parent) = in_expr.as_deref().filter(|e| !names_only_entities(e)) {
                    self.walk(parent);
                }
            }
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
            _ => self.uses = Uses::ALL,
        }
    }

    fn attribute(&mut self, of: &Expr, name: &str) {
        if is_context(of) {
            self.uses.add(&CONTEXT, 0, name);
        } else {
            self.deeper(name);
            self.walk(of);
        }
    }

    /// An attribute of something else than the context: of the user perhaps, so its bit is set; of anything else, there
    /// is nothing to do, because workloads, headers, claims and parameters are always whole.
    fn deeper(&mut self, name: &str) {
        if USER.contains(&name) {
            self.uses.add(&USER, CONTEXT.len(), name);
        }
    }
}

/// The variable and the attributes that lead to an expression.
pub(super) fn chain(expr: &Expr) -> Vec<String> {
    match expr {
        Expr::Var(Var::Principal) => vec!["principal".to_owned()],
        Expr::Var(Var::Action) => vec!["action".to_owned()],
        Expr::Var(Var::Resource) => vec!["resource".to_owned()],
        Expr::Var(Var::Context) => vec!["context".to_owned()],
        Expr::GetAttr { expr, attr } => {
            let mut names = chain(expr);
            names.push(attr.to_string());
            names
        }
        _ => vec![String::new()],
    }
}

fn is_context(expr: &Expr) -> bool {
    matches!(expr, Expr::Var(Var::Context))
}

fn names_only_entities(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(Literal::EntityUID(_)) => true,
        Expr::Set(items) => items
            .iter()
            .all(|item| matches!(&**item, Expr::Literal(Literal::EntityUID(_)))),
        _ => false,
    }
}

/// Whether a wildcard stands between other characters: there it crosses `/`.
fn has_inner_wildcard(pattern: &[PatternElem]) -> bool {
    let is_char = |e: &PatternElem| matches!(e, PatternElem::Char(_));
    let (first, last) = (
        pattern.iter().position(is_char),
        pattern.iter().rposition(is_char),
    );
    match (first, last) {
        (Some(first), Some(last)) => pattern
            .iter()
            .enumerate()
            .any(|(at, e)| first < at && at < last && !is_char(e)),
        _ => false,
    }
}
