//! The shape of a file: keys that exist, kinds that fit, and what is missing. A tree and the table of keys enter, every
//! deviation leaves as a problem. It never reads what a value means.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::keys::{Key, Kind, Need};

/// Checks `table` against `keys`. `span` is where the table is named; `path` is its name for messages.
pub(super) fn check(
    document: &Document,
    table: &DeTable<'_>,
    keys: &[Key],
    (span, path): (Range<usize>, &str),
) {
    for (name, value) in table {
        let text = name.get_ref().as_ref();
        match keys.iter().find(|key| key.name == text) {
            None => unknown(document, name, keys, path),
            Some(key) => value_fits(document, value, key.kind, (name.span(), &join(path, text))),
        }
    }
    for key in keys {
        if matches!(key.need, Need::Required) && table.get(key.name).is_none() {
            let place = if path.is_empty() {
                String::new()
            } else {
                format!(" in `{path}`")
            };
            document.add(
                span.clone(),
                format!("the key `{}` is missing{place}", key.name),
                Some(format!("add `{}`. {}", example(key), key.doc)),
            );
        }
    }
}

fn unknown(document: &Document, name: &Spanned<std::borrow::Cow<'_, str>>, keys: &[Key], path: &str) {
    let text = name.get_ref().as_ref();
    let place = if path.is_empty() {
        String::new()
    } else {
        format!(" in `{path}`")
    };
    let names = keys.iter().map(|key| key.name);
    let hint = match nearest(text, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the keys here are: {}", names.collect::<Vec<_>>().join(", ")),
    };
    document.add(
        name.span(),
        format!("unknown key `{}`{place}", shown(text)),
        Some(hint),
    );
}

fn value_fits(
    document: &Document,
    value: &Spanned<DeValue<'_>>,
    kind: Kind,
    (name, path): (Range<usize>, &str),
) {
    match (kind, value.get_ref()) {
        (Kind::Text, DeValue::String(_))
        | (Kind::Integer, DeValue::Integer(_))
        | (Kind::Boolean, DeValue::Boolean(_)) => {}
        (Kind::Texts, DeValue::Array(items)) => {
            for item in items {
                if item.get_ref().as_str().is_none() {
                    mismatch(document, item, path, "a list of texts");
                }
            }
        }
        (Kind::Path, DeValue::String(_)) => {}
        (Kind::Path, DeValue::Array(_)) => value_fits(document, value, Kind::Texts, (name, path)),
        (Kind::Paths, DeValue::Array(items)) => {
            for item in items {
                value_fits(document, item, Kind::Path, (item.span(), path));
            }
        }
        (Kind::Table(keys), DeValue::Table(table)) => check(document, table, keys, (name, path)),
        (Kind::Tables(keys), DeValue::Array(items)) => {
            for item in items {
                match item.get_ref() {
                    DeValue::Table(table) => check(document, table, keys, (item.span(), path)),
                    _ => mismatch(document, item, path, expected(kind)),
                }
            }
        }
        (Kind::NamedTexts, DeValue::Table(table)) => {
            for (name, value) in table {
                let path = join(path, name.get_ref());
                value_fits(document, value, Kind::Texts, (name.span(), &path));
            }
        }
        (Kind::NamedTables(keys), DeValue::Table(table)) => {
            for (name, value) in table {
                let path = join(path, name.get_ref());
                value_fits(document, value, Kind::Table(keys), (name.span(), &path));
            }
        }
        _ => mismatch(document, value, path, expected(kind)),
    }
}

fn mismatch(document: &Document, value: &Spanned<DeValue<'_>>, path: &str, expected: &str) {
    let (found, hint) = match value.get_ref() {
        DeValue::String(_) => ("a text", "write it without quotes, or as the reference shows"),
        DeValue::Integer(_) | DeValue::Float(_) => {
            ("a number", "put it in quotes, or write it as the reference shows")
        }
        DeValue::Boolean(_) => ("true or false", "write it as the reference shows"),
        DeValue::Datetime(_) => ("a date", "write it as the reference shows"),
        DeValue::Array(_) => ("a list", "write it without [ ], or as the reference shows"),
        DeValue::Table(_) => ("a table", "write it as the reference shows"),
    };
    let hint = match expected {
        "a list of texts" => "write [\"...\", \"...\"]",
        "an array of tables" => "write it as [[...]], once for each",
        _ => hint,
    };
    document.add(
        value.span(),
        format!("`{path}` must be {expected}, but is {found}"),
        Some(hint.to_owned()),
    );
}

pub(super) fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Texts => "a list of texts",
        Kind::Path => "a text or a list of texts",
        Kind::Paths => "a list of texts or of lists of texts",
        Kind::Integer => "an integer",
        Kind::Boolean => "true or false",
        Kind::Table(_) | Kind::NamedTexts | Kind::NamedTables(_) => "a table",
        Kind::Tables(_) => "an array of tables",
    }
}

fn example(key: &Key) -> String {
    match key.kind {
        Kind::Text => format!("{} = \"...\"", key.name),
        Kind::Path => format!("{} = \"...\"", key.name),
        Kind::Paths => format!("{} = [\"...\"]", key.name),
        Kind::Texts => format!("{} = [\"...\"]", key.name),
        Kind::Integer => format!("{} = 8080", key.name),
        Kind::Boolean => format!("{} = true", key.name),
        Kind::Table(_) | Kind::NamedTexts | Kind::NamedTables(_) => format!("[{}]", key.name),
        Kind::Tables(_) => format!("[[{}]]", key.name),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        shown(name)
    } else {
        format!("{path}.{}", shown(name))
    }
}

/// Text of a file as a message may show it: bounded, and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(80).is_some() {
        out.push_str("...");
    }
    out
}

/// The candidate that `text` was probably meant to be.
pub(super) fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    candidates
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The edit distance in which two neighbours that changed places count as one (restricted Damerau-Levenshtein), over at
/// most 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, j) + usize::from(x != y))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        let words = ["protocol", "port", "mode"];
        assert_eq!(nearest("protocl", words.into_iter()), Some("protocol"));
        assert_eq!(nearest("prot", words.into_iter()), Some("port"));
        assert_eq!(nearest("Mode", words.into_iter()), Some("mode"));
        assert_eq!(nearest("certificate", words.into_iter()), None);
        assert_eq!(distance("abcd", "abcd"), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abcd", "acbd"), 1);
    }

    #[test]
    fn what_is_shown_is_bounded_and_printable() {
        assert_eq!(shown("a\u{1b}[31mb"), "a\u{fffd}[31mb");
        assert_eq!(shown(&"x".repeat(200)).len(), 83);
    }
}
