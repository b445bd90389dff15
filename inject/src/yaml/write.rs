//! Trees to text that every version of YAML reads alike: block style, texts quoted wherever one could take them for
//! something else.

use std::fmt::Write;

use super::read::ambiguous;
use super::{Node, Scalar};

/// Documents as one stream; each ends with a line break.
pub fn write<'a>(documents: impl IntoIterator<Item = &'a Node>) -> String {
    let mut out = String::new();
    for document in documents {
        if !out.is_empty() {
            out.push_str("---\n");
        }
        node(&mut out, document, 0);
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

/// Writes a value from where the line stands; block collections go on in lines of this indentation.
fn node(out: &mut String, node: &Node, indent: usize) {
    match node {
        Node::Scalar(scalar) => {
            value(out, scalar, indent);
            out.push('\n');
        }
        Node::List(items) if items.is_empty() => out.push_str("[]\n"),
        Node::Map(map) if map.is_empty() => out.push_str("{}\n"),
        Node::List(items) => {
            for (at, item) in items.iter().enumerate() {
                pad(out, indent, at);
                out.push_str("- ");
                self::node(out, item, indent.saturating_add(2));
            }
        }
        Node::Map(map) => {
            for (at, (key, value)) in map.0.iter().enumerate() {
                pad(out, indent, at);
                one_line(out, key);
                out.push(':');
                entry(out, value, indent);
            }
        }
    }
}

fn entry(out: &mut String, value: &Node, indent: usize) {
    match value {
        // A list stands as far left as its key, as kubectl writes it.
        Node::List(items) if !items.is_empty() => {
            out.push('\n');
            spaces(out, indent);
            node(out, value, indent);
        }
        Node::Map(map) if !map.is_empty() => {
            out.push('\n');
            spaces(out, indent.saturating_add(2));
            node(out, value, indent.saturating_add(2));
        }
        _ => {
            out.push(' ');
            node(out, value, indent.saturating_add(2));
        }
    }
}

/// The first line of a collection stands where the line already is.
fn pad(out: &mut String, indent: usize, at: usize) {
    if at > 0 {
        spaces(out, indent);
    }
}

fn spaces(out: &mut String, number: usize) {
    out.extend(std::iter::repeat_n(' ', number));
}

fn value(out: &mut String, scalar: &Scalar, indent: usize) {
    if !scalar.literal && block_would_hold(&scalar.text) {
        let text = &scalar.text;
        let body = text.trim_end_matches('\n');
        out.push_str(match text.len().saturating_sub(body.len()) {
            0 => "|-",
            1 => "|",
            _ => "|+",
        });
        // Of several line breaks at the end, the first ends the last line.
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                spaces(out, indent);
                out.push_str(line);
            }
        }
        return;
    }
    one_line(out, scalar);
}

/// Whether a literal block gives this text back, in every version.
fn block_would_hold(text: &str) -> bool {
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    let starts_well = !first.is_empty() && !first.starts_with([' ', '\t']);
    let printable = text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c));
    text.contains('\n') && starts_well && printable
}

/// What YAML may not hold as it is, and what a terminal would obey.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

fn one_line(out: &mut String, scalar: &Scalar) {
    if scalar.literal || stands_alone(&scalar.text) {
        // An empty literal is `null` left out.
        out.push_str(if scalar.text.is_empty() && scalar.literal {
            "null"
        } else {
            &scalar.text
        });
        return;
    }
    out.push('"');
    for c in scalar.text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => {
                // A text takes whatever is written to it.
                let _whole = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// Whether a text needs no quotes, for any reader.
fn stands_alone(text: &str) -> bool {
    let usual = |c: char| c.is_ascii_alphanumeric() || "_./@-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/');
    let mut chars = text.chars().peekable();
    let mut well = true;
    while let Some(c) = chars.next() {
        well &= match c {
            // A colon or a space within, never at the end or two in a row.
            ':' | ' ' => chars.peek().is_some_and(|next| usual(*next)),
            c => usual(c),
        };
    }
    starts && well && !ambiguous(text)
}
