//! Text of others made fit for a terminal: what a certificate, a token or a peer says enters, text that can move no cursor,
//! turn no direction and forge no line leaves. It never shortens.

use std::borrow::Cow;

/// Text of others on one line: whatever is not printable is written as `\u{..}`, line ends and tabs too.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, &unseen)
}

/// A whole text of ours with strings of others in it: its line ends and tabs stay, and the colours of [`super::Ui::paint`]
/// when there may be any.
pub fn lines(text: &str, color: bool) -> Cow<'_, str> {
    let kept = |c: char| unseen(c) && c != '\n' && c != '\t';
    if !color {
        return escape(text, &kept);
    }
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default();
    let mut out = escape(first, &kept).into_owned();
    for part in parts {
        // Select Graphic Rendition (ECMA-48, 8.3.117) changes colours and nothing else.
        let sgr = part
            .split_once('m')
            .filter(|(codes, _)| codes.len() <= 16 && codes.chars().all(|c| c.is_ascii_digit() || c == ';'));
        match sgr {
            Some((codes, rest)) => {
                out.push_str("\u{1b}[");
                out.push_str(codes);
                out.push('m');
                out.push_str(&escape(rest, &kept));
            }
            None => {
                out.push_str("\\u{1b}[");
                out.push_str(&escape(part, &kept));
            }
        }
    }
    out.into()
}

/// A JSON document in which everything unprintable is written as `\uXXXX` (RFC 8259, 7): the same document, fit for a
/// terminal. Outside of its strings a document of ours has none.
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| unseen(c) && c != '\n') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unseen(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.into()
}

fn escape<'t>(text: &'t str, hidden: &dyn Fn(char) -> bool) -> Cow<'t, str> {
    if !text.contains(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// Control characters (C0, DEL, C1), and format characters: they are not seen, and some turn the direction of the text that
/// follows.
fn unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}1m\u{7}b\u{202e}c\nd\u{e0041}";

    #[test]
    fn nothing_of_others_reaches_a_terminal_but_what_is_seen() {
        assert_eq!(
            printable(HOSTILE),
            "a\\u{1b}[2J\\u{9b}1m\\u{7}b\\u{202e}c\\u{a}d\\u{e0041}"
        );
        assert_eq!(printable("ünï ✔ 日本"), "ünï ✔ 日本");
    }

    #[test]
    fn a_whole_text_keeps_its_lines_and_our_colours() {
        assert_eq!(lines("a\n\tb\u{1b}[1m", false), "a\n\tb\\u{1b}[1m");
        assert_eq!(
            lines("\u{1b}[1;31mred\u{1b}[0m\u{1b}[2J\u{1b}]0;x\u{7}", true),
            "\u{1b}[1;31mred\u{1b}[0m\\u{1b}[2J\\u{1b}]0;x\\u{7}"
        );
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let plain = serde_json::to_string(&[HOSTILE]).unwrap();
        let fit = json(&plain);
        assert!(fit.is_ascii(), "{fit}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&fit).unwrap(), [HOSTILE]);
    }
}
