//! From checked policies to what decides: the policies that can concern one service enter, its rules by scope and its
//! actions by route leave. Nothing is checked here any more.

use std::sync::Arc;

use cedar_policy::{Effect, Entities, Expression, Policy, Schema, pst};

use super::decide::{Action, Actions, Set, entry};
use super::entities::Maker;
use super::expr;
use super::index::{ActionKey, Audit, Condition, Index, Origin, Rule};
use super::kept::{KeptSlices, KeptUsers};
use super::model::PolicyError;
use super::names::Names;
use super::nearest::{About, Piece};
use super::parse::{Parsed, Parsings, Source};
use super::problem::Span;
use super::rules::fits;
use super::scopes::{Scopes, scopes_of};
use super::world::{METHODS, World};

/// The longest `needs` of a denial, in characters.
const MAX_LINE: usize = 300;
/// The most permits of other services that explanations know.
const MOST_ELSEWHERE: usize = 1000;

/// Everything that a service decides with.
pub(super) fn compile(
    world: &Arc<World>,
    schema: &Schema,
    source: &Source<'_>,
    set: &Parsings,
    service: &str,
) -> Result<Set, PolicyError> {
    let unknown = || PolicyError::UnknownService {
        name: service.to_owned(),
    };
    let own = world.services.get(service).ok_or_else(unknown)?;
    let mut rules = Vec::new();
    let mut elsewhere = Vec::new();
    for (id, parsed) in set {
        if fits(&parsed.policy.resource_constraint(), world, service, own) {
            rules.push((&parsed.policy, rule(id, parsed, source)));
        } else if elsewhere.len() < MOST_ELSEWHERE && parsed.policy.effect() == Effect::Permit {
            elsewhere.push((id.clone(), origin(parsed, source)));
        }
    }
    let maker = Maker::new(world)?;
    let entity = maker.service(world, service, &own.namespace);
    Ok(Set {
        actions: actions(world, schema, &maker, service)?,
        resource: entry(&entity.uid()),
        service: entity,
        maker,
        index: Index::new(rules),
        elsewhere,
        slices: KeptSlices::default(),
        users: KeptUsers::default(),
        world: Arc::clone(world),
    })
}

fn rule(id: &str, parsed: &Parsed, source: &Source<'_>) -> Rule {
    let policy = &parsed.policy;
    Rule {
        id: id.into(),
        effect: policy.effect(),
        shadow: policy.annotation("mode").is_some(),
        audit: match policy.annotation("audit") {
            Some("always") => Audit::Always,
            Some(_) => Audit::Deny,
            None => Audit::No,
        },
        reason: policy.annotation("reason").map(Arc::from),
        condition: conditions(policy),
        uses: parsed.reads.uses,
        without_user: without_user(parsed),
        scopes: scopes(parsed),
        pieces: pieces(parsed),
        asks: asks(parsed, source),
        names: policy
            .to_pst()
            .map_or_else(|_| Names::all(), |policy| Names::of(&policy)),
        origin: origin(parsed, source),
    }
}

/// Where a policy stands, and what it says there.
fn origin(parsed: &Parsed, source: &Source<'_>) -> Origin {
    let text = source
        .scan(parsed.file)
        .map(|scan| scan.without_comments(parsed.span));
    Origin {
        text: text.unwrap_or_default().into(),
        reason: parsed.policy.annotation("reason").map(Box::from),
        file: source.name(parsed.file),
        line: source.line(parsed.file, parsed.span.start),
    }
}

/// A policy's conditions. The index finds exactly the rules whose scope matches, so the scope is not evaluated again. Places
/// in the text are left out where that can be: evaluation would hand them on from value to value.
fn conditions(policy: &Policy) -> Option<Condition> {
    let bare = policy.to_pst().ok().and_then(|pst| Policy::from_pst(pst).ok());
    let conditions = bare.as_ref().unwrap_or(policy).as_ref().non_scope_constraints();
    conditions.map(|conditions| Expression::from(conditions.clone()).into())
}

/// Those of a permit's conditions, `&&` by `&&`, that do not read the user; `None` inside when there is none of them.
fn without_user(parsed: &Parsed) -> Option<Option<Condition>> {
    let (body, mut clauses) = operands(parsed)?;
    clauses.retain(|clause| !expr::reads_user(clause));
    joined(body, clauses)
}

/// A permit's conditions, those that ask for a scope apart from the rest; `None` when there is none of them.
fn scopes(parsed: &Parsed) -> Option<Scopes> {
    if !parsed.reads.uses.user("scope") {
        return None;
    }
    let (body, mut clauses) = operands(parsed)?;
    let mut wanted = Vec::new();
    clauses.retain(|clause| match scopes_of(clause) {
        Some(lists) => {
            wanted.extend(lists);
            false
        }
        None => true,
    });
    if wanted.is_empty() {
        return None;
    }
    let rest = joined(body, clauses)?;
    Some(Scopes { wanted, rest })
}

/// A permit's conditions, `&&` by `&&`, each by itself.
fn pieces(parsed: &Parsed) -> Vec<Piece> {
    let Some((body, clauses)) = all_operands(parsed) else {
        return Vec::new();
    };
    let piece = |clause: pst::Clause| {
        let about = About::of(&clause);
        let condition = joined(body.clone(), vec![clause])??;
        Some(Piece { about, condition })
    };
    clauses.into_iter().filter_map(piece).collect()
}

/// The conditions of a permit that reads the user, `&&` by `&&`.
fn operands(parsed: &Parsed) -> Option<(pst::Template, Vec<pst::Clause>)> {
    all_operands(parsed).filter(|_| parsed.reads.user)
}

fn all_operands(parsed: &Parsed) -> Option<(pst::Template, Vec<pst::Clause>)> {
    if parsed.policy.effect() == Effect::Forbid {
        return None;
    }
    let pst::Policy::Static(policy) = parsed.policy.to_pst().ok()? else {
        return None;
    };
    let body = policy.body().clone();
    let mut operands = Vec::new();
    for clause in body.clauses() {
        match clause {
            pst::Clause::When(expr) => operands.extend(conjuncts(expr).map(pst::Clause::When)),
            pst::Clause::Unless(expr) => operands.push(pst::Clause::Unless(Arc::clone(expr))),
        }
    }
    Some((body, operands))
}

/// Conditions as one expression; `None` inside for none.
fn joined(body: pst::Template, clauses: Vec<pst::Clause>) -> Option<Option<Condition>> {
    let body = body.try_with_clauses(clauses).ok()?;
    let policy = Policy::from_pst(pst::Policy::Static(body.try_into().ok()?)).ok()?;
    let conditions = policy.as_ref().non_scope_constraints();
    Some(conditions.map(|conditions| Expression::from(conditions.clone()).into()))
}

/// The operands of a chain of `&&`, from left to right.
pub(super) fn conjuncts(expr: &Arc<pst::Expr>) -> std::vec::IntoIter<Arc<pst::Expr>> {
    let mut left_first = Vec::new();
    let mut rest = vec![expr];
    while let Some(next) = rest.pop() {
        match &**next {
            pst::Expr::BinaryOp {
                op: pst::BinaryOp::And,
                left,
                right,
            } => rest.extend([right, left]),
            _ => left_first.push(Arc::clone(next)),
        }
    }
    left_first.into_iter()
}

/// What a permit asks for, as a denial tells it: by its conditions, and by its scope.
fn asks(parsed: &Parsed, source: &Source<'_>) -> [Arc<str>; 2] {
    if parsed.policy.effect() == Effect::Forbid {
        return ["".into(), "".into()];
    }
    if let Some(reason) = parsed.policy.annotation("reason") {
        return [reason.into(), reason.into()];
    }
    let Some(scan) = source.scan(parsed.file) else {
        return ["".into(), "".into()];
    };
    let Span { start, end } = parsed.span;
    let scope = scan.find(parsed.span, "permit").map_or(start, |span| span.start);
    let clauses = ["when", "unless"]
        .iter()
        .filter_map(|word| scan.find(parsed.span, word));
    let clauses = clauses.min().map_or(end, |span| span.start);
    let line = |start, end| one_line(&scan.without_comments(Span { start, end }));
    let (scope, clauses) = (line(scope, clauses), line(clauses, end));
    [
        if clauses.is_empty() {
            Arc::clone(&scope)
        } else {
            clauses
        },
        scope,
    ]
}

/// Source in one line of bounded length, without the closing `;`.
fn one_line(source: &str) -> Arc<str> {
    let words: Vec<&str> = source.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.trim_end_matches(';').trim_end();
    if line.chars().count() <= MAX_LINE {
        return line.into();
    }
    let cut: String = line.chars().take(MAX_LINE - 1).collect();
    format!("{cut}…").into()
}

fn actions(world: &World, schema: &Schema, maker: &Maker, service: &str) -> Result<Actions, PolicyError> {
    let fail = |detail: String| PolicyError::Schema { detail };
    let entities = schema.action_entities().map_err(|e| fail(e.to_string()))?;
    let get = |name: &str| action(&entities, maker, name).ok_or_else(|| fail(format!("no action `{name}`")));
    let mut actions = Actions::default();
    for name in METHODS.iter().map(|(method, _)| *method).chain(["connect"]) {
        actions.bare.insert(name, actions.all.len());
        actions.all.push(get(name)?);
    }
    for route in world.services.get(service).into_iter().flat_map(|s| &s.routes) {
        for method in &route.methods {
            let params = route.template.params().map(str::to_owned).collect();
            actions
                .router
                .add(&method.method, &route.template, actions.all.len());
            actions.all.push(Action {
                route: Some((route.action.as_str().into(), params)),
                ..get(&method.action)?
            });
        }
    }
    Ok(actions)
}

fn action(entities: &Entities, maker: &Maker, id: &str) -> Option<Action> {
    let uid = maker.action(id);
    let entity = entities.get(&uid)?.clone();
    let ancestors = entities.ancestors(&uid)?;
    Some(Action {
        keys: ActionKey::of(&uid, ancestors),
        entry: entry(&uid),
        entity,
        route: None,
    })
}
