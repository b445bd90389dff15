//! What is not wrong but often a trap: forbids that leave out what their writer probably meant, and (`literals`) comparisons that
//! never hold. A set that was checked enters, warnings leave; nothing is refused for one.

use std::collections::BTreeSet;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Policy as Syntax, UnaryOp};
use cedar_policy::{ActionConstraint, Effect};

use super::expr::chain;
use super::literals;
use super::parse::{Parsed, Parsings, Source, Wrong};
use super::problem::{PolicyProblem, Problems};
use super::rules::fits;
use super::world::{METHODS, Route, ServiceFacts, World};

/// Looks at the policies of one service.
pub(super) fn of_service(
    world: &World,
    source: &Source<'_>,
    set: &Parsings,
    service: &str,
) -> Vec<PolicyProblem> {
    let mut found = Problems::default();
    look(world, source, set, (service, &mut found));
    if let Some(facts) = world.services.get(service) {
        let own = |parsed: &&Parsed| fits(&parsed.policy.resource_constraint(), world, service, facts);
        for parsed in set.values().filter(own) {
            literals::look(world, source, parsed, &mut found);
        }
    }
    found.sorted()
}

/// Looks at the policies of every service.
pub(super) fn of_all(world: &World, source: &Source<'_>, set: &Parsings) -> Vec<PolicyProblem> {
    let mut found = Problems::default();
    for service in world.services.keys() {
        look(world, source, set, (service, &mut found));
    }
    for parsed in set.values() {
        literals::look(world, source, parsed, &mut found);
    }
    found.sorted()
}

fn look(world: &World, source: &Source<'_>, set: &Parsings, (name, found): (&str, &mut Problems)) {
    let Some(service) = world.services.get(name) else {
        return;
    };
    let fitting = |parsed: &&Parsed| fits(&parsed.policy.resource_constraint(), world, name, service);
    let (mut permitted, mut forbidden) = (BTreeSet::new(), Actions::default());
    for parsed in set.values().filter(fitting) {
        match parsed.policy.effect() {
            Effect::Permit => permitted.extend(broad(&parsed.policy.action_constraint())),
            Effect::Forbid => forbidden.add(parsed),
        }
    }
    let about = |permit: &BTreeSet<String>, ids: &[&str]| ids.iter().any(|id| permit.contains(*id));
    // A trap is only what one permit opens on the forbidden route and beside it: the forbid takes the one away from it.
    let open_beside = |route: &Route, ids: &[&str]| {
        let on_route = |permit: &BTreeSet<String>| {
            let mut methods = route.methods.iter();
            methods.any(|method| about(permit, &above(method.parent)))
        };
        let opens = |permit: &BTreeSet<String>| about(permit, ids) && on_route(permit);
        permitted.iter().any(opens) && !forbidden.has(ids)
    };
    for parsed in set.values().filter(fitting) {
        if parsed.policy.effect() == Effect::Permit {
            continue;
        }
        let mut tell = |word: &str, wrong: Wrong| {
            let scan = source.scan(parsed.file);
            let place = scan.and_then(|scan| scan.find(parsed.span, word));
            source.problem(found, parsed.file, place.unwrap_or(parsed.span), wrong);
        };
        for route in named(&parsed.policy.action_constraint(), service) {
            for wrong in other_methods(service, route, |ids| open_beside(route, ids))
                .into_iter()
                .chain(beneath(service, route, |ids| open_beside(route, ids)))
            {
                tell("action", wrong);
            }
        }
        if compares_path(parsed) {
            tell("path", path_as_text());
        }
    }
}

/// The methods and groups of methods that a permit opens with all routes in them; nothing when it names routes alone.
fn broad(constraint: &ActionConstraint) -> Option<BTreeSet<String>> {
    let ids: BTreeSet<String> = match constraint {
        ActionConstraint::Any => BTreeSet::from(["http".to_owned()]),
        ActionConstraint::Eq(_) => return None,
        ActionConstraint::In(uids) => uids
            .iter()
            .map(|uid| uid.id().unescaped())
            .filter(|id| !id.contains('#'))
            .map(str::to_owned)
            .collect(),
    };
    (!ids.is_empty()).then_some(ids)
}

/// A method's action and those that it is in.
fn above(method: &str) -> [&str; 3] {
    let group = METHODS.iter().find(|(name, _)| *name == method);
    [method, group.map_or("write", |(_, group)| group), "http"]
}

/// The actions that forbids name.
#[derive(Default)]
struct Actions {
    any: bool,
    exactly: BTreeSet<String>,
    within: BTreeSet<String>,
}

impl Actions {
    fn add(&mut self, parsed: &Parsed) {
        match parsed.policy.action_constraint() {
            ActionConstraint::Any => self.any = true,
            ActionConstraint::Eq(uid) => {
                self.exactly.insert(uid.id().unescaped().to_owned());
            }
            ActionConstraint::In(uids) => {
                let ids = uids.iter().map(|uid| uid.id().unescaped().to_owned());
                self.within.extend(ids);
            }
        }
    }

    /// Whether one of them is about an action: its own id first, then those that it is in.
    fn has(&self, ids: &[&str]) -> bool {
        self.any
            || ids.first().is_some_and(|id| self.exactly.contains(*id))
            || ids.iter().any(|id| self.within.contains(*id))
    }
}

/// The routes that an action constraint names, by themselves or by one of their methods.
fn named<'s>(constraint: &ActionConstraint, service: &'s ServiceFacts) -> Vec<&'s Route> {
    let uids = match constraint {
        ActionConstraint::Any => Vec::new(),
        ActionConstraint::Eq(uid) => vec![uid.clone()],
        ActionConstraint::In(uids) => uids.clone(),
    };
    let ids: BTreeSet<&str> = uids.iter().map(|uid| uid.id().unescaped()).collect();
    let is_named = |route: &&Route| {
        let mut methods = route.methods.iter();
        ids.contains(route.action.as_str()) || methods.any(|method| ids.contains(method.action.as_str()))
    };
    service.routes.iter().filter(is_named).collect()
}

/// The methods of a route's path that a permit opens and no forbid is about: a route answers to its own methods only.
fn other_methods(service: &ServiceFacts, route: &Route, open: impl Fn(&[&str]) -> bool) -> Option<Wrong> {
    let same = || {
        service
            .routes
            .iter()
            .filter(|other| other.template == route.template)
    };
    let is_open = |(method, _): &&(&str, &str)| {
        let [_, group, http] = above(method);
        let declared = same()
            .flat_map(|route| route.methods.iter().map(move |m| (route, m)))
            .find(|(_, declared)| declared.method == *method);
        match declared {
            Some((route, declared)) => open(&[&declared.action, &route.action, method, group, http]),
            None => open(&[method, group, http]),
        }
    };
    let left: Vec<&str> = METHODS
        .iter()
        .filter(is_open)
        .map(|(method, _)| *method)
        .collect();
    if left.is_empty() {
        return None;
    }
    let action = &route.action;
    let message = format!(
        "this forbid is about the methods of route `{action}` alone: {} on the same path is permitted elsewhere",
        left.join(", ")
    );
    let hint = "permit only routes and methods that are meant, or add a forbid of these methods";
    Some((message, Some(hint.to_owned())))
}

/// A path without `{**}` is one path: what is beneath it, and itself with a slash behind, are others.
fn beneath(service: &ServiceFacts, route: &Route, open: impl Fn(&[&str]) -> bool) -> Option<Wrong> {
    let covered = service
        .routes
        .iter()
        .any(|other| other.template.is_beneath(&route.template));
    let mut methods = route.methods.iter();
    let is_open = methods.any(|m| open(&above(m.parent)));
    if !route.template.is_one_path() || covered || !is_open {
        return None;
    }
    let action = &route.action;
    let message = format!(
        "this forbid is about the path of route `{action}` alone: the same with a `/` behind, and what is beneath it, is permitted elsewhere"
    );
    let hint = "declare a route that ends in `/{**}`, and forbid that";
    Some((message, Some(hint.to_owned())))
}

fn path_as_text() -> Wrong {
    let message = "this forbid compares `context.path` as text: with a `/` or a suffix behind, or in capitals, it is another path, which some applications take for the same";
    let hint = "forbid the action of a declared route (`/admin/{**}`), or permit only what is meant";
    (message.to_owned(), Some(hint.to_owned()))
}

/// Whether a forbid holds for some texts of the path only.
fn compares_path(parsed: &Parsed) -> bool {
    if !parsed.reads.path {
        return false;
    }
    let Ok(Syntax::Static(policy)) = parsed.policy.to_pst() else {
        return false;
    };
    policy.body().clauses().iter().any(|clause| match clause {
        Clause::When(expr) => narrows(expr, true),
        Clause::Unless(expr) => narrows(expr, false),
    })
}

/// Whether an expression is a comparison of the path that makes a forbid smaller: it must hold (`wanted`) and not fail.
fn narrows(expr: &Expr, wanted: bool) -> bool {
    let is_path = |expr: &Expr| chain(expr) == ["context", "path"];
    match expr {
        Expr::UnaryOp {
            op: UnaryOp::Not,
            expr,
        } => narrows(expr, !wanted),
        Expr::BinaryOp { op, left, right } => match op {
            BinaryOp::And | BinaryOp::Or => narrows(left, wanted) || narrows(right, wanted),
            BinaryOp::Eq => wanted && (is_path(left) || is_path(right)),
            BinaryOp::NotEq => !wanted && (is_path(left) || is_path(right)),
            BinaryOp::Contains => wanted && is_path(right),
            _ => false,
        },
        Expr::Like { expr, .. } => wanted && is_path(expr),
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => narrows(cond, wanted) || narrows(then_expr, wanted) || narrows(else_expr, wanted),
        _ => false,
    }
}
