//! A failing part in words: what it needs, and what was there instead. Cedar's tree of the part enters, a sentence leaves.
//! It decides nothing: values are what Cedar evaluates them to, and a part that has no words of its own is told by the
//! values that it reads.

use std::str::FromStr;

use cedar_policy::pst::{BinaryOp, Expr, Literal, UnaryOp};
use cedar_policy::{EvalResult, EvaluationError, Expression};

use super::super::evaluation::Evaluation;
use super::super::expr::chain;
use super::super::facts::{Facts, User, What};

/// The longest sentence, in characters.
const MAX_NOTE: usize = 400;

/// What was there.
pub(super) struct Seen<'a> {
    world: &'a Evaluation<'a>,
    user: Option<&'a User>,
    /// How the subject is shown.
    shown: Option<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn new(world: &'a Evaluation<'a>, facts: &Facts<'a>, shown: Option<&'a str>) -> Self {
        let user = match facts.what {
            What::Http(http) => http.user,
            What::Connect => None,
        };
        Self { world, user, shown }
    }

    /// What an expression comes to.
    pub(super) fn value(&self, expression: &Expression) -> Result<EvalResult, Box<EvaluationError>> {
        self.world.value(expression)
    }

    /// A text in which the subject is shown as it may be.
    pub(super) fn masked(&self, text: &str) -> String {
        match (self.user, self.shown) {
            (Some(user), Some(shown)) if !user.subject.is_empty() && user.subject != shown => {
                text.replace(user.subject.as_str(), shown)
            }
            _ => text.to_owned(),
        }
    }

    /// What a part that is false needs, and what was there instead.
    pub(super) fn note(&self, part: &Expr) -> Option<String> {
        let note = match part {
            Expr::HasAttr { expr, attrs } => {
                let mut path = chain(expr);
                path.extend(attrs.iter().map(ToString::to_string));
                self.absent(&path)
            }
            Expr::BinaryOp { op, left, right } => self.of_two(*op, left, right),
            Expr::Like { expr, .. } => Some(format!("needs {part}; has {}", self.shown(expr))),
            Expr::UnaryOp {
                op: UnaryOp::Not,
                expr,
            } => self
                .has(expr)
                .map(|has| format!("needs that this does not hold: {expr}; {has}")),
            _ => None,
        };
        let note = note.or_else(|| self.has(part).map(|has| format!("needs {part}; {has}")))?;
        Some(bounded(&note))
    }

    /// The first attribute of a chain that is not there.
    fn absent(&self, path: &[String]) -> Option<String> {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["context", kind @ ("user" | "actor"), rest @ ..] => match (self.user, rest) {
                (None, _) if *kind == "user" => Some("needs a user; there is none".to_owned()),
                (_, []) => Some(format!("needs {}; there is none", article(kind))),
                (_, ["claims", name, ..]) => {
                    Some(format!("needs claim {name}; the token has none of that type"))
                }
                (_, [name, ..]) => Some(format!("needs {name}; the token has none")),
            },
            ["context", "headers", name, ..] => Some(format!("needs header {name}; it was not sent")),
            _ => None,
        }
    }

    fn of_two(&self, op: BinaryOp, left: &Expr, right: &Expr) -> Option<String> {
        match op {
            BinaryOp::In if is_user(left) => Some(self.roles(right)?),
            BinaryOp::Contains if named(left).is_some() => Some(format!(
                "needs {} {}; has {}",
                named(left)?,
                self.plain(right),
                self.list(left)
            )),
            BinaryOp::ContainsAny if named(left).is_some() => Some(format!(
                "needs one of {} {}; has {}",
                named(left)?,
                self.list(right),
                self.list(left)
            )),
            BinaryOp::ContainsAll if named(left).is_some() => Some(format!(
                "needs all of {} {}; has {}",
                named(left)?,
                self.list(right),
                self.list(left)
            )),
            BinaryOp::Eq
            | BinaryOp::NotEq
            | BinaryOp::Less
            | BinaryOp::LessEq
            | BinaryOp::Greater
            | BinaryOp::GreaterEq => self.compared(op, left, right),
            _ => None,
        }
    }

    fn compared(&self, op: BinaryOp, left: &Expr, right: &Expr) -> Option<String> {
        let (left, right) = match (named(left), named(right), op) {
            (None, Some(_), BinaryOp::Eq | BinaryOp::NotEq) => (right, left),
            _ => (left, right),
        };
        let name = named(left)?;
        let from = named(right).map_or_else(String::new, |name| format!(" ({name})"));
        Some(format!(
            "needs {name} {op} {}{from}; has {}",
            self.shown(right),
            self.shown(left)
        ))
    }

    /// `context.user in Role::"alias|role"`.
    fn roles(&self, right: &Expr) -> Option<String> {
        let items: Vec<&Expr> = match right {
            Expr::Set(items) => items.iter().map(|item| &**item).collect(),
            one => vec![one],
        };
        let wanted: Option<Vec<String>> = items
            .iter()
            .map(|item| match item {
                Expr::Literal(Literal::EntityUID(uid)) if uid.ty.to_string() == "Role" => {
                    let (alias, role) = uid.eid.split_once('|')?;
                    Some(format!("{role} of {alias}"))
                }
                _ => None,
            })
            .collect();
        let (wanted, user) = (wanted?, self.user?);
        let role = if wanted.len() == 1 {
            "role"
        } else {
            "one of the roles"
        };
        let of_another = !items.iter().any(|item| match item {
            Expr::Literal(Literal::EntityUID(uid)) => uid.eid.starts_with(&format!("{}|", user.alias)),
            _ => false,
        });
        let has = match user.roles.as_slice() {
            [] => "none".to_owned(),
            roles => roles.join(", "),
        };
        let issuer = if of_another {
            format!(" of {}", user.alias)
        } else {
            String::new()
        };
        Some(format!("needs {role} {}; has {has}{issuer}", wanted.join(", ")))
    }

    /// The values that an expression reads, each once.
    fn has(&self, expr: &Expr) -> Option<String> {
        let mut read = Vec::new();
        reads(expr, &mut read);
        let mut said: Vec<String> = Vec::new();
        for one in read {
            let name = named(one).unwrap_or_else(|| one.to_string());
            let line = format!("{name} is {}", self.shown(one));
            if !said.contains(&line) {
                said.push(line);
            }
        }
        (!said.is_empty()).then(|| said.join(", "))
    }

    /// A value as Cedar writes it.
    fn shown(&self, expr: &Expr) -> String {
        match self.evaluated(expr) {
            Some(value) => self.masked(&value.to_string()),
            None => "none".to_owned(),
        }
    }

    /// A text without its quotes, any other value as Cedar writes it.
    fn plain(&self, expr: &Expr) -> String {
        match self.evaluated(expr) {
            Some(EvalResult::String(text)) => self.masked(&text.escape_debug().to_string()),
            Some(value) => self.masked(&value.to_string()),
            None => "none".to_owned(),
        }
    }

    /// The members of a set.
    fn list(&self, expr: &Expr) -> String {
        let members: Vec<String> = match self.evaluated(expr) {
            Some(EvalResult::Set(set)) => set
                .iter()
                .map(|member| match member {
                    EvalResult::String(text) => self.masked(&text.escape_debug().to_string()),
                    other => self.masked(&other.to_string()),
                })
                .collect(),
            Some(other) => vec![self.masked(&other.to_string())],
            None => Vec::new(),
        };
        if members.is_empty() {
            "none".to_owned()
        } else {
            members.join(", ")
        }
    }

    fn evaluated(&self, expr: &Expr) -> Option<EvalResult> {
        self.value(&Expression::from_str(&expr.to_string()).ok()?).ok()
    }
}

/// What an attribute is called by people; `None` for what is no attribute.
fn named(expr: &Expr) -> Option<String> {
    let path = chain(expr);
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["context", "user", "claims", rest @ ..] if !rest.is_empty() => {
            Some(format!("claim {}", rest.join(".")))
        }
        ["context", "headers", name] => Some(format!("header {name}")),
        ["context", "params", name] => Some(format!("path parameter {name}")),
        ["context", "user", "scope"] => Some("scope".to_owned()),
        ["context", "user", "aud"] => Some("audience".to_owned()),
        ["context", "user", "amr"] => Some("authentication method".to_owned()),
        ["context", "user", name] => Some((*name).to_owned()),
        ["context", "src_ip"] => Some("source address".to_owned()),
        ["context", "now"] => Some("time".to_owned()),
        ["context", name] => Some((*name).to_owned()),
        [variable, _, ..] if !variable.is_empty() => Some(words.join(".")),
        _ => None,
    }
}

fn article(kind: &str) -> &'static str {
    if kind == "actor" { "an actor" } else { "a user" }
}

fn is_user(expr: &Expr) -> bool {
    chain(expr).iter().map(String::as_str).eq(["context", "user"])
}

/// The longest attribute chains below an expression.
fn reads<'e>(expr: &'e Expr, found: &mut Vec<&'e Expr>) {
    match expr {
        Expr::GetAttr { expr: inner, .. } => {
            if named(expr).is_some() {
                found.push(expr);
            } else {
                reads(inner, found);
            }
        }
        Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::UnaryOp { expr, .. }
        | Expr::Is { expr, .. } => {
            reads(expr, found);
        }
        Expr::BinaryOp { left, right, .. } => {
            reads(left, found);
            reads(right, found);
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => {
            reads(cond, found);
            reads(then_expr, found);
            reads(else_expr, found);
        }
        Expr::Set(items) => items.iter().for_each(|item| reads(item, found)),
        _ => {}
    }
}

fn bounded(note: &str) -> String {
    if note.chars().count() <= MAX_NOTE {
        return note.to_owned();
    }
    let cut: String = note.chars().take(MAX_NOTE - 1).collect();
    format!("{cut}…")
}
