//! A reading of Cedar text token by token, before Cedar's own parser sees it: text enters, tokens with their places
//! and the depth of the deepest expression leave. It judges nothing but depth, so that a nested text is refused before a
//! recursive parser meets it; the places serve messages only.

use super::problem::Span;

/// What a token is; the text is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: identifier or keyword.
    Word,
    /// A string literal with its quotes.
    Text,
    /// Anything else: a number, an operator, one other character.
    Mark,
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// A file, read.
#[derive(Debug)]
pub(super) struct Scan<'t> {
    text: &'t str,
    tokens: Vec<Token>,
}

/// One level of brackets while the depth is reckoned: operators since the last one that binds less, and the deepest
/// part so far that such an operator closed.
#[derive(Clone, Copy, Default)]
struct Level {
    /// `||`, `if`, clauses: what binds least. A chain of n operators nests n deep.
    or: usize,
    or_part: usize,
    /// `&&`.
    and: usize,
    and_part: usize,
    /// Everything that binds more.
    other: usize,
    /// The deepest bracket since the last `&&` or looser.
    inner: usize,
    /// The deepest element of a list so far.
    most: usize,
}

impl Level {
    fn depth(self) -> usize {
        let and_part = self.and_part.max(self.other + self.inner);
        self.most.max(self.or + self.or_part.max(self.and + and_part))
    }

    fn count(&mut self, operator: &str) {
        match operator {
            "||" | "if" | "then" | "else" | "when" | "unless" => {
                let part = self
                    .or_part
                    .max(self.and + self.and_part.max(self.other + self.inner));
                *self = Self {
                    or: self.or + 1,
                    or_part: part,
                    most: self.most,
                    ..Self::default()
                };
            }
            "&&" => {
                self.and_part = self.and_part.max(self.other + self.inner);
                self.and += 1;
                (self.other, self.inner) = (0, 0);
            }
            _ => self.other += 1,
        }
    }
}

impl<'t> Scan<'t> {
    /// Reads the text. A text that is not Cedar gives tokens too; the parser says what is wrong with it.
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            tokens: tokens(text),
        }
    }

    /// A token's text.
    pub(super) fn text(&self, token: Token) -> &'t str {
        self.text
            .get(token.span.start..token.span.end)
            .unwrap_or_default()
    }

    /// The tokens inside a span.
    pub(super) fn within(&self, span: Span) -> &[Token] {
        let from = self.tokens.partition_point(|t| t.span.start < span.start);
        let to = self.tokens.partition_point(|t| t.span.start < span.end);
        self.tokens.get(from..to).unwrap_or_default()
    }

    /// Entity literals inside a span: `A::B::"id"` without its blanks, and where it is.
    pub(super) fn entities(&self, span: Span) -> Vec<(String, Span)> {
        let mut found = Vec::new();
        let mut name: Option<(String, usize)> = None; // as far as it was read, and where it began
        for token in self.within(span) {
            let text = self.text(*token);
            name = match (token.kind, name.take()) {
                (Kind::Word, Some((so_far, at))) if so_far.ends_with("::") => Some((so_far + text, at)),
                (Kind::Word, _) => Some((text.to_owned(), token.span.start)),
                (Kind::Mark, Some((so_far, at))) if text == "::" && !so_far.ends_with("::") => {
                    Some((so_far + text, at))
                }
                (Kind::Text, Some((so_far, start))) if so_far.ends_with("::") => {
                    found.push((
                        so_far + text,
                        Span {
                            start,
                            end: token.span.end,
                        },
                    ));
                    None
                }
                _ => None,
            };
        }
        found
    }

    /// The first token with that text inside a span.
    pub(super) fn find(&self, span: Span, word: &str) -> Option<Span> {
        self.within(span)
            .iter()
            .find(|t| self.text(**t) == word)
            .map(|t| t.span)
    }

    /// An annotation inside a span, by its name: `@name`.
    pub(super) fn annotation(&self, span: Span, name: &str) -> Option<Span> {
        let tokens = self.within(span);
        let pairs = tokens.iter().zip(tokens.iter().skip(1));
        let mut named = pairs.filter(|(at, word)| self.text(**at) == "@" && self.text(**word) == name);
        named.next().map(|(at, word)| Span {
            start: at.span.start,
            end: word.span.end,
        })
    }

    /// The source of a span without its comments.
    pub(super) fn without_comments(&self, span: Span) -> String {
        let mut out = String::new();
        let mut end = span.start;
        for token in self.within(span) {
            if token.span.start > end {
                out.push(' '); // a blank or a comment
            }
            out.push_str(self.text(*token));
            end = token.span.end;
        }
        out
    }

    /// How many policies the text holds: each ends with a `;`, which stands nowhere else.
    pub(super) fn policies(&self) -> usize {
        self.ends().count()
    }

    /// The first policy of more than so many bytes, if there is one.
    pub(super) fn larger_than(&self, most: usize) -> Option<Span> {
        let mut start = self.tokens.first()?.span.start;
        let last = self.tokens.last()?.span.end;
        for end in self.ends().chain([last]) {
            if end.saturating_sub(start) > most {
                return Some(Span { start, end });
            }
            start = end;
        }
        None
    }

    fn ends(&self) -> impl Iterator<Item = usize> {
        let ends = self
            .tokens
            .iter()
            .filter(|t| t.kind == Kind::Mark && self.text(**t) == ";");
        ends.map(|token| token.span.end)
    }

    /// The place where the depth first exceeds `most`, if it does. The depth is over-estimated, never under-estimated:
    /// every word or mark that can nest counts, and an element is as deep as its operators and its deepest bracket
    /// together. Work and memory are bounded by the text and by `most`.
    pub(super) fn deeper_than(&self, most: usize) -> Option<Span> {
        let mut levels = vec![Level::default()];
        for token in &self.tokens {
            match (token.kind, self.text(*token)) {
                (Kind::Mark, "(" | "[" | "{") => levels.push(Level::default()),
                (Kind::Mark, ")" | "]" | "}") if levels.len() > 1 => {
                    let inner = levels.pop().unwrap_or_default().depth() + 1;
                    change(&mut levels, |top| top.inner = top.inner.max(inner));
                }
                (Kind::Mark, ";") => levels = vec![Level::default()],
                (Kind::Mark, ",") => change(&mut levels, |top| {
                    *top = Level {
                        most: top.depth(),
                        ..Level::default()
                    };
                }),
                (Kind::Mark, "::" | ":" | "@") | (Kind::Text, _) => {}
                (Kind::Mark, mark) if mark.starts_with(|c: char| c.is_ascii_digit()) => {}
                (Kind::Mark, operator)
                | (
                    Kind::Word,
                    operator @ ("in" | "has" | "like" | "is" | "if" | "then" | "else" | "when" | "unless"),
                ) => {
                    change(&mut levels, |top| top.count(operator));
                }
                (Kind::Word, _) => {}
            }
            if levels.len() + levels.last().map_or(0, |l| l.depth()) > most {
                return Some(token.span);
            }
        }
        None
    }
}

fn change(levels: &mut [Level], how: impl FnOnce(&mut Level)) {
    if let Some(top) = levels.last_mut() {
        how(top);
    }
}

/// Marks of two characters.
const DOUBLE: [&[u8; 2]; 7] = [b"::", b"==", b"!=", b"<=", b">=", b"&&", b"||"];

/// Cuts the text as Cedar's grammar does: `//` comments to the end of the line, strings with `\` escapes.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let at = |i: usize| bytes.get(i).copied();
    let mut tokens = Vec::new();
    let mut i = 0;
    while let Some(byte) = at(i) {
        let start = i;
        let kind = match byte {
            b'/' if at(i + 1) == Some(b'/') => {
                i = end_where(bytes, i, |b| b == b'\n' || b == b'\r');
                continue;
            }
            b'"' => {
                i = end_of_string(bytes, i);
                Kind::Text
            }
            b if b.is_ascii_whitespace() || b == 0x0b => {
                i += 1;
                continue;
            }
            b if b.is_ascii_alphabetic() || b == b'_' => {
                i = end_where(bytes, i, |b| !b.is_ascii_alphanumeric() && b != b'_');
                Kind::Word
            }
            b if b.is_ascii_digit() => {
                i = end_where(bytes, i, |b| !b.is_ascii_digit());
                Kind::Mark
            }
            b if at(i + 1).is_some_and(|next| DOUBLE.contains(&&[b, next])) => {
                i += 2;
                Kind::Mark
            }
            _ => {
                // One character, whole: its continuation bytes belong to it.
                i = end_where(bytes, i + 1, |b| (b & 0xc0) != 0x80);
                Kind::Mark
            }
        };
        tokens.push(Token {
            kind,
            span: Span { start, end: i },
        });
    }
    tokens
}

fn end_where(bytes: &[u8], from: usize, end: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .enumerate()
        .skip(from)
        .find(|(_, b)| end(**b))
        .map_or(bytes.len(), |(at, _)| at)
}

/// The end of the string that begins at `from`; an unfinished one reaches to the end of the text.
fn end_of_string(bytes: &[u8], from: usize) -> usize {
    let mut escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(from + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}
