//! What stands between a policy file and Cedar's recursive parser never panics, and never under-estimates a depth.

use std::str::FromStr;

use cedar_policy::PolicySet;
use cedar_policy::pst::{Clause, Expr};
use proptest::prelude::*;

use super::super::scan::Scan;
use super::*;

/// How deep a text is by the scan: the least bound that it keeps.
fn reckoned(text: &str) -> usize {
    let scan = Scan::new(text);
    (0..).find(|most| scan.deeper_than(*most).is_none()).unwrap()
}

/// How deep it is as Cedar understands it.
fn real(text: &str) -> usize {
    let set = PolicySet::from_str(text).unwrap();
    let depths = set.policies().map(|policy| {
        let pst = policy.to_pst().unwrap();
        let clauses = pst.body().clauses();
        let deepest = clauses.iter().map(|clause| match clause {
            Clause::When(expr) | Clause::Unless(expr) => depth(expr),
        });
        deepest.max().unwrap_or(0) + clauses.len()
    });
    depths.max().unwrap_or(0)
}

fn depth(expr: &Expr) -> usize {
    let below = match expr {
        Expr::UnaryOp { expr, .. } | Expr::GetAttr { expr, .. } | Expr::Like { expr, .. } => depth(expr),
        // `a has b.c` is `a has b && a.b has c`.
        Expr::HasAttr { expr, attrs } => depth(expr) + if attrs.len() > 1 { attrs.len() } else { 0 },
        Expr::BinaryOp { left, right, .. } => depth(left).max(depth(right)),
        Expr::Is { expr, in_expr, .. } => depth(expr).max(in_expr.as_deref().map_or(0, depth)),
        Expr::IfThenElse {
            cond,
            then_expr,
            else_expr,
        } => depth(cond).max(depth(then_expr)).max(depth(else_expr)),
        Expr::Set(items) => items.iter().map(|item| depth(item)).max().unwrap_or(0),
        Expr::Record(fields) => fields.values().map(|field| depth(field)).max().unwrap_or(0),
        _ => 0,
    };
    below + 1
}

/// Expressions as text, nested at random; whether they make sense is no matter.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("context.tls".to_owned()),
        Just("principal".to_owned()),
        Just("7".to_owned()),
        Just("\"a\\\"(b\"".to_owned()),
        Just("Group::\"x\"".to_owned()),
        Just("context.user.claims.tenant".to_owned()),
    ];
    leaf.prop_recursive(12, 96, 4, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..5);
        prop_oneof![
            (
                several.clone(),
                prop_oneof![Just(" && "), Just(" || "), Just(" + "), Just(" * ")]
            )
                .prop_map(|(parts, operator)| format!("({})", parts.join(operator))),
            several.clone().prop_map(|parts| parts.join(" && ")),
            several
                .clone()
                .prop_map(|parts| format!("[{}]", parts.join(", "))),
            several
                .prop_map(|parts| format!("{{a: {}}}", parts.join(", \"b\": (1)").replace("(1)", " || 1"))),
            inner.clone().prop_map(|e| format!("!({e})")),
            inner.clone().prop_map(|e| format!("({e}) has a.b")),
            inner.clone().prop_map(|e| format!("({e}) like \"a*\"")),
            inner.clone().prop_map(|e| format!("({e}) == 1")),
            inner
                .clone()
                .prop_map(|e| format!("({e}).a.b[\"c\"].contains({e})")),
            inner.clone().prop_map(|e| format!("({e}) is Workload in ({e})")),
            (inner.clone(), inner)
                .prop_map(|(c, e)| format!("if {c} then {e} else {e}"))
                .prop_map(|e| format!("({e})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn depth_is_never_underestimated(clauses in prop::collection::vec(expression(), 1..3)) {
        let clauses: String = clauses.iter().map(|e| format!(" when {{ {e} }}")).collect();
        let text = format!("permit(principal, action, resource){clauses};");
        if PolicySet::from_str(&text).is_ok() {
            prop_assert!(real(&text) <= reckoned(&text), "{} > {}: {text}", real(&text), reckoned(&text));
        }
    }

    #[test]
    fn any_text_is_read(text in "[ -~\n\té“\u{1F980}]{0,200}") {
        let scan = Scan::new(&text);
        let all = problem::Span { start: 0, end: text.len() };
        // Tokens are cut between characters, in order, and none is empty.
        let tokens = scan.within(all);
        prop_assert!(tokens.iter().all(|token| !scan.text(*token).is_empty()));
        prop_assert!(tokens.windows(2).all(|pair| pair[0].span.end <= pair[1].span.start));
        let _ = (scan.entities(all), scan.deeper_than(3), scan.without_comments(all));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_text_breaks_loading(words in prop::collection::vec(prop::sample::select(WORDS), 0..60)) {
        for text in [words.join(" "), format!("@id(\"a\") permit(principal, action, resource) when {{ {} }};", words.join(" "))] {
            if let Err(problems) = load(&mesh(), &file(&text), "shop/orders") {
                prop_assert!(!problems.is_empty());
                prop_assert!(!shown(&problems).contains("inside hopguard"), "{text}\n{}", shown(&problems));
            }
        }
    }
}

const WORDS: &[&str] = &[
    "permit",
    "forbid",
    "(",
    ")",
    "principal",
    "action",
    "resource",
    ",",
    ";",
    "when",
    "unless",
    "{",
    "}",
    "context",
    ".",
    "user",
    "==",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "in",
    "has",
    "like",
    "is",
    "if",
    "then",
    "else",
    "[",
    "]",
    "\"text\"",
    "\"*\"",
    "Group::\"frontend\"",
    "Action::\"http\"",
    "Plaintext",
    "7",
    "9223372036854775808",
    "true",
    "@id(\"x\")",
    "@mode",
    "::",
    "//",
    "\n",
    "?principal",
    "ip(\"10.0.0.0/8\")",
    "datetime(\"x\")",
    "\"",
    "\\",
    "é",
    "=",
];
