//! Text that a record may show: bounded in length, and without characters that a terminal would obey.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The most bytes that one field of a record shows; what is longer ends in `...`.
const MAX_SHOWN: usize = 512;

/// A text of a record: cheap to make from what a worker has at hand, capped and cleaned when it is written.
#[derive(Clone)]
pub struct Text(Inner);

#[derive(Clone)]
enum Inner {
    Static(&'static str),
    Shared(Arc<str>),
    Owned(Box<str>),
}

impl Text {
    /// The whole text, as it was given.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Inner::Static(text) => text,
            Inner::Shared(text) => text,
            Inner::Owned(text) => text,
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self(Inner::Static(text))
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self(Inner::Shared(text))
    }
}

impl From<&Arc<str>> for Text {
    fn from(text: &Arc<str>) -> Self {
        Self(Inner::Shared(Arc::clone(text)))
    }
}

impl From<String> for Text {
    /// Takes at most what a record shows, so that a queue full of records is bounded in bytes too.
    fn from(mut text: String) -> Self {
        if text.len() > MAX_SHOWN {
            // One character more than is shown, so that the cut is still told.
            let end = floor_boundary(&text, MAX_SHOWN + 4);
            text.truncate(end);
        }
        Self(Inner::Owned(text.into_boxed_str()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&clean(self.as_str()))
    }
}

fn clean(text: &str) -> Cow<'_, str> {
    let plain = text.len() <= MAX_SHOWN && text.bytes().all(|c| (0x20..0x7f).contains(&c));
    if plain {
        return Cow::Borrowed(text);
    }
    let shown = text.get(..floor_boundary(text, MAX_SHOWN)).unwrap_or_default();
    let mut out: String = shown
        .chars()
        .map(|c| if obeyed(c) { '\u{fffd}' } else { c })
        .collect();
    if shown.len() < text.len() {
        out.push_str("...");
    }
    Cow::Owned(out)
}

/// Control characters (C0 and C1), and those that turn the direction of what follows.
fn obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: impl Into<Text>) -> String {
        serde_json::to_string(&text.into()).unwrap()
    }

    #[test]
    fn plain_text_is_written_as_it_is() {
        assert_eq!(written("GET"), "\"GET\"");
        assert_eq!(written(Arc::<str>::from("spiffe://a/b")), "\"spiffe://a/b\"");
        assert_eq!(written("Grüße".to_owned()), "\"Grüße\"");
        assert_eq!(written("a\"b\\".to_owned()), r#""a\"b\\""#);
    }

    #[test]
    fn what_a_terminal_or_a_line_reader_would_obey_is_replaced() {
        let text = written("a\nb\r\u{1b}[2J\u{9b}31m\u{202e}x\u{7f}\0".to_owned());
        assert_eq!(
            text,
            "\"a\u{fffd}b\u{fffd}\u{fffd}[2J\u{fffd}31m\u{fffd}x\u{fffd}\u{fffd}\""
        );
    }

    #[test]
    fn long_text_is_cut_at_a_character_and_says_so() {
        let text = written("ü".repeat(2000));
        assert!(text.ends_with("...\""), "{text}");
        assert!(text.len() <= MAX_SHOWN + 5);
        let shared: Arc<str> = "x".repeat(10_000).into();
        assert_eq!(written(shared).len(), MAX_SHOWN + 5);
        assert_eq!(written("x".repeat(MAX_SHOWN)).len(), MAX_SHOWN + 2);
        assert!(Text::from("x".repeat(100_000)).as_str().len() <= MAX_SHOWN + 4);
    }
}
