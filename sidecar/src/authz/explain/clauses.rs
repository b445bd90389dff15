//! A policy's text, taken apart: its source enters, its clauses and their parts leave, each with its text and as Cedar
//! evaluates it. Cut by the tokens, and only believed where Cedar's tree of the policy has the same parts.

use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::pst::{self, Expr};
use cedar_policy::{EvalResult, Expression, Policy};

use super::super::compile::conjuncts;
use super::super::problem::Span;
use super::super::scan::{Kind, Scan, Token};
use super::view::{Clause, Part, State, Word};
use super::words::Seen;

/// One clause, taken apart.
pub(super) struct Parsed {
    word: Word,
    whole: Piece,
    parts: Vec<Piece>,
}

/// A piece of source.
struct Piece {
    text: String,
    tree: Arc<Expr>,
    expression: Expression,
}

impl Parsed {
    /// The clauses of a policy's text; none when it cannot be taken apart, or has none.
    pub(super) fn of(text: &str) -> Vec<Self> {
        Self::taken_apart(text).unwrap_or_default()
    }

    fn taken_apart(text: &str) -> Option<Vec<Self>> {
        let policy = Policy::parse(None, text).ok()?.to_pst().ok()?;
        let scan = Scan::new(text);
        let bodies = bodies(&scan, scan.within(whole(text)));
        let clauses: Vec<&pst::Clause> = policy.body().clauses().iter().collect();
        if bodies.len() != clauses.len() {
            return None;
        }
        bodies
            .iter()
            .zip(clauses)
            .map(|(body, clause)| Self::clause(&scan, body, clause))
            .collect()
    }

    fn clause(scan: &Scan<'_>, body: &[Token], clause: &pst::Clause) -> Option<Self> {
        let (word, tree) = match clause {
            pst::Clause::When(tree) => (Word::When, tree),
            pst::Clause::Unless(tree) => (Word::Unless, tree),
        };
        let whole = Piece::checked(scan, body, tree)?;
        let trees: Vec<Arc<Expr>> = conjuncts(tree).collect();
        let pieces = pieces(scan, body);
        let parts: Option<Vec<Piece>> = (pieces.len() == trees.len())
            .then(|| {
                let pairs = pieces.iter().zip(&trees);
                pairs
                    .map(|(piece, tree)| Piece::checked(scan, piece, tree))
                    .collect()
            })
            .flatten();
        let parts = match parts {
            Some(parts) => parts,
            None => vec![Piece::checked(scan, body, tree)?],
        };
        Some(Self { word, whole, parts })
    }

    /// How it came out.
    pub(super) fn judged(&self, seen: &Seen<'_>) -> Clause {
        let mut failed = false;
        let parts = self.parts.iter().map(|piece| {
            let part = piece.judged(seen, failed);
            failed |= part.state != State::True;
            part
        });
        let parts = parts.collect();
        Clause {
            word: self.word,
            text: self.whole.text.clone(),
            state: self.whole.judged(seen, false).state,
            parts,
        }
    }
}

impl Piece {
    /// The piece, if Cedar reads its text as that tree.
    fn checked(scan: &Scan<'_>, tokens: &[Token], tree: &Arc<Expr>) -> Option<Self> {
        let (first, last) = (tokens.first()?, tokens.last()?);
        let text = scan.without_comments(Span {
            start: first.span.start,
            end: last.span.end,
        });
        let alone = format!("permit(principal, action, resource) when {{ {text} }};");
        let alone = Policy::parse(None, alone).ok()?.to_pst().ok()?;
        match alone.body().clauses().first() {
            Some(pst::Clause::When(same)) if same == tree => {}
            _ => return None,
        }
        Some(Self {
            expression: Expression::from_str(&text).ok()?,
            tree: Arc::clone(tree),
            text,
        })
    }

    fn judged(&self, seen: &Seen<'_>, after_a_failure: bool) -> Part {
        let (state, note) = match seen.value(&self.expression) {
            Ok(EvalResult::Bool(true)) => (State::True, None),
            Ok(EvalResult::Bool(false)) => (State::False, seen.note(&self.tree)),
            // `a && b` does not look at `b` when `a` is false, and `b` may need `a`.
            _ if after_a_failure => (State::NotReached, None),
            Ok(_) => (State::Error, None),
            Err(error) => (
                State::Error,
                Some(seen.masked(&format!("cannot be evaluated: {error}"))),
            ),
        };
        Part {
            text: self.text.clone(),
            state,
            note,
        }
    }
}

fn whole(text: &str) -> Span {
    Span {
        start: 0,
        end: text.len(),
    }
}

/// What stands between the braces of each clause.
fn bodies<'t>(scan: &Scan<'_>, tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut from = None;
    let mut awaited = false;
    for (at, token) in tokens.iter().enumerate() {
        match (token.kind, scan.text(*token)) {
            (Kind::Word, "when" | "unless") if depth == 0 => awaited = true,
            (Kind::Mark, "(" | "[" | "{") => {
                if depth == 0 && std::mem::take(&mut awaited) {
                    from = Some(at + 1);
                }
                depth += 1;
            }
            (Kind::Mark, ")" | "]" | "}") => {
                depth = depth.saturating_sub(1);
                if let Some(from) = from.take_if(|_| depth == 0) {
                    found.extend(tokens.get(from..at));
                }
            }
            _ => {}
        }
    }
    found
}

/// The operands of the `&&`s, brackets around chains of them opened.
fn pieces<'t>(scan: &Scan<'_>, tokens: &'t [Token]) -> Vec<&'t [Token]> {
    let mut depth = 0_usize;
    let mut cuts = Vec::new();
    let mut closed_early = false;
    for (at, token) in tokens.iter().enumerate() {
        match (token.kind, scan.text(*token)) {
            (Kind::Mark, "(" | "[" | "{") => depth += 1,
            (Kind::Mark, ")" | "]" | "}") => {
                depth = depth.saturating_sub(1);
                closed_early |= depth == 0 && at + 1 < tokens.len();
            }
            // Both bind less than `&&`: there is nothing to cut.
            (Kind::Mark, "||") | (Kind::Word, "if") if depth == 0 => return vec![tokens],
            (Kind::Mark, "&&") if depth == 0 => cuts.push(at),
            _ => {}
        }
    }
    if cuts.is_empty() {
        return match tokens {
            [first, inner @ .., last]
                if !closed_early && scan.text(*first) == "(" && scan.text(*last) == ")" =>
            {
                pieces(scan, inner)
            }
            _ => vec![tokens],
        };
    }
    let mut found = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([tokens.len()]) {
        if let Some(piece) = tokens.get(from..cut) {
            found.extend(pieces(scan, piece));
        }
        from = cut + 1;
    }
    found
}
