//! The nearest permit: the permits about a request that none allowed enter, the one that lacks least leaves. There is one
//! ranking, made with the decision: what the answer asks the client for, what the record names and what an explanation shows
//! first are the same permit.
//!
//! Nearest is what a client could mend: a scope of the token, then anything else of the user, then what else was asked; another
//! caller comes after that, and a permit for another path last, because the request was never meant by it.

use std::sync::Arc;

use cedar_policy::pst::{Clause, Expr, Var};

use super::decide::{Asked, Set};
use super::evaluation::Evaluation;
use super::expr;
use super::facts::{Facts, User, What};
use super::index::{Condition, Rule};
use super::kept::Prepared;

/// The most permits that are compared part by part: it is done while a request waits.
const MOST: usize = 128;

/// A part of a permit's conditions, as far as `&&` cuts them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) about: About,
    pub(super) condition: Condition,
}

/// What a part asks about; the later, the further away is what lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    /// The user, whatever else it reads.
    User,
    /// Headers, time, address, port.
    Other,
    /// Who calls.
    Caller,
    /// A parameter of the route's path.
    Parameter,
    /// The path.
    Path,
}

impl About {
    /// What a part asks about.
    pub(super) fn of(clause: &Clause) -> Self {
        let (Clause::When(expr) | Clause::Unless(expr)) = clause;
        let (mut caller, mut path, mut parameter) = (false, false, false);
        let mut look = |of: &[String]| match of {
            [first, ..] if first == "principal" => caller = true,
            [first, name, ..] if first == "context" && name == "path" => path = true,
            [first, name, ..] if first == "context" && name == "params" => parameter = true,
            _ => {}
        };
        each(expr, &mut look);
        match () {
            () if expr::reads_user(clause) => Self::User,
            () if path => Self::Path,
            () if parameter => Self::Parameter,
            () if caller => Self::Caller,
            () => Self::Other,
        }
    }
}

/// Every chain of attributes in an expression.
fn each(expr: &Expr, look: &mut impl FnMut(&[String])) {
    match expr {
        Expr::Var(Var::Principal) | Expr::GetAttr { .. } => {
            let of = expr::chain(expr);
            if of.first().is_some_and(|first| !first.is_empty()) {
                return look(&of);
            }
            if let Expr::GetAttr { expr, .. } = expr {
                each(expr, look);
            }
        }
        Expr::HasAttr { expr, attrs } => {
            let mut of = expr::chain(expr);
            of.push(attrs.head.to_string());
            look(&of);
            each(expr, look);
        }
        Expr::Like { expr, .. } | Expr::UnaryOp { expr, .. } => each(expr, look),
        Expr::Is { expr, in_expr, .. } => {
            each(expr, look);
            in_expr.iter().for_each(|parent| each(parent, look));
        }
        Expr::BinaryOp { left, right, .. } => {
            each(left, look);
            each(right, look);
        }
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => [cond, then_expr, else_expr]
            .into_iter()
            .for_each(|one| each(one, look)),
        Expr::Set(items) => items.iter().for_each(|item| each(item, look)),
        _ => {}
    }
}

/// The nearest permit.
pub(super) struct Nearest<'s> {
    pub(super) rule: &'s Rule,
    /// Whether caller, action and service fit it.
    pub(super) scope_matched: bool,
    /// The scopes to ask for, when nothing else is in the way.
    pub(super) scopes: Vec<Arc<str>>,
    /// Whether only the user is in the way.
    pub(super) user_alone: bool,
}

/// How far a permit is: what is in the way at the worst, how many parts fail, how many were not reached.
type Distance = (About, usize, usize);

impl Set {
    /// The nearest of the permits; `world` is the request as they were evaluated on it, if there were any. Of several that are
    /// as near the one with the lowest id.
    pub(super) fn nearest<'s>(
        &'s self,
        facts: &Facts<'_>,
        asked: &Asked<'_>,
        prepared: &'s Arc<Prepared>,
        world: Option<&Evaluation<'_>>,
    ) -> Option<Nearest<'s>> {
        let user = match facts.what {
            What::Http(http) => http.user,
            What::Connect => None,
        };
        let inside = world.and_then(|world| {
            self.of_the_user(prepared, world, user)
                .or_else(|| self.inside(prepared, world))
        });
        match inside {
            Some((nearest, (About::User | About::Other, ..))) => Some(nearest),
            inside => {
                let outside = self.outside(facts, asked, prepared);
                let farther = |worst: About| inside.as_ref().is_some_and(|(_, (of, ..))| *of <= worst);
                match outside {
                    Some((_, worst)) if farther(worst) => inside.map(|(nearest, _)| nearest),
                    Some((rule, _)) => Some(Nearest {
                        rule,
                        scope_matched: false,
                        scopes: Vec::new(),
                        user_alone: false,
                    }),
                    None => inside.map(|(nearest, _)| nearest),
                }
            }
        }
    }

    /// A permit of which only the user is in the way: best one that only asks for a scope.
    fn of_the_user<'s>(
        &'s self,
        prepared: &'s Arc<Prepared>,
        world: &Evaluation<'_>,
        user: Option<&User>,
    ) -> Option<(Nearest<'s>, Distance)> {
        let permits = || self.index.permits(&prepared.slice);
        let found = |rule, scopes: Vec<Arc<str>>| {
            let nearest = Nearest {
                rule,
                scope_matched: true,
                scopes,
                user_alone: true,
            };
            (nearest, (About::User, 0, 0))
        };
        let Some(user) = user else {
            let rule = permits().find(|rule| rule.all_but_the_user(world))?;
            return Some(found(rule, Vec::new()));
        };
        let lacking =
            permits().find_map(|rule| Some((rule, rule.all_but_scopes(world)?.for_user(&user.scope))));
        if let Some((rule, scopes)) = lacking {
            return Some(found(rule, scopes));
        }
        let others = permits().filter(|rule| rule.all_but_the_user(world)).take(MOST);
        let rule = others.min_by_key(|rule| rule.distance(world))?;
        Some(found(rule, Vec::new()))
    }

    /// A permit whose scope fits.
    fn inside<'s>(
        &'s self,
        prepared: &'s Arc<Prepared>,
        world: &Evaluation<'_>,
    ) -> Option<(Nearest<'s>, Distance)> {
        let permits = self.index.permits(&prepared.slice).take(MOST);
        let (distance, rule) = permits
            .map(|rule| (rule.distance(world), rule))
            .min_by_key(|(distance, _)| *distance)?;
        let nearest = Nearest {
            rule,
            scope_matched: true,
            scopes: Vec::new(),
            user_alone: false,
        };
        Some((nearest, distance))
    }

    /// A permit that another caller would have matched, and what is in the way.
    fn outside<'s>(
        &'s self,
        facts: &Facts<'_>,
        asked: &Asked<'_>,
        prepared: &Arc<Prepared>,
    ) -> Option<(&'s Rule, About)> {
        let slice = &prepared.slice;
        let others = self.index.permits_of(&asked.action.keys, &slice.permits, MOST);
        let first = *others.first()?;
        // A declared route stands for its path, which need not be known.
        let read = || others.iter().filter(|rule| rule.reads_path());
        if asked.action.route.is_some() || read().next().is_none() {
            return Some((first, About::Caller));
        }
        let uses = read().fold(slice.uses, |uses, rule| uses.and(rule.uses));
        let world = self.evaluation(facts, asked, prepared, uses).ok();
        let fits = |rule: &&&Rule| match &world {
            Some(world) => rule.fits_path(world),
            None => !rule.reads_path(),
        };
        let near = others.iter().find(fits);
        Some(near.map_or((first, About::Path), |rule| (*rule, About::Caller)))
    }
}

impl Rule {
    fn distance(&self, world: &Evaluation<'_>) -> Distance {
        let (mut worst, mut failing, mut open) = (About::User, 0, 0);
        for piece in &self.pieces {
            match world.holds(Some(&piece.condition)) {
                Some(true) => continue,
                // `a && b` does not look at `b` when `a` is false, and `b` may need `a`.
                None if failing > 0 => open += 1,
                Some(false) | None => failing += 1,
            }
            worst = worst.max(piece.about);
        }
        (worst, failing, open)
    }

    fn reads_path(&self) -> bool {
        self.pieces.iter().any(|piece| piece.about == About::Path)
    }

    fn fits_path(&self, world: &Evaluation<'_>) -> bool {
        self.pieces
            .iter()
            .filter(|piece| piece.about == About::Path)
            .all(|piece| world.holds(Some(&piece.condition)) == Some(true))
    }
}
