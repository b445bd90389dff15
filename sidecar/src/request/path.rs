//! The path rules: a path as it came enters, the form that the decision is made on leaves, or the reason why two
//! readers could disagree about it. The bytes that go on are never touched.
//!
//! The decision form decodes percent-encoded *unreserved* characters (RFC 3986 6.2.2.2), writes other escapes in upper
//! case, and spells raw UTF-8 as escapes. Nothing else changes: `%2B` is not `+`, `{` is not `%7B`.
//!
//! A route may allow some [`Spellings`] that are refused elsewhere. Which route it is, only the path tells: so a path that
//! is odd in nothing but these is read as if all were allowed ([`read`]), and judged again when its route is known.

use super::Refusal;

/// P23 of docs/request-attacks.md: no application has paths this deep, and routing work grows with them.
const MAX_SEGMENTS: usize = 100;

/// What a route lets into a path although readers differ about it. Nothing, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spellings {
    /// `%2F` is data: it stays in its segment, in the decision form too, and separates nothing.
    pub encoded_slash: bool,
    /// Empty segments (`//`) are one slash in the decision form. A last one stays: `/a/` is not `/a`.
    pub merge_slashes: bool,
    /// `;`, which some readers cut off its segment with what follows, and others take as text.
    pub semicolon: bool,
    /// What a second decoding would change (`%2541`). A third must change nothing, and the second must show nothing that is
    /// refused in a path.
    pub encoded_percent: bool,
}

impl Spellings {
    const NONE: Self = Self {
        encoded_slash: false,
        merge_slashes: false,
        semicolon: false,
        encoded_percent: false,
    };
    const ALL: Self = Self {
        encoded_slash: true,
        merge_slashes: true,
        semicolon: true,
        encoded_percent: true,
    };
}

/// Reads a path that begins with `/`, without query, as if its route allowed every spelling; with it comes the refusal
/// that it gets where none is allowed.
pub(super) fn read(path: &str) -> Result<(Normal, Option<Refusal>), Refusal> {
    match normalize(path, Spellings::NONE) {
        Ok(normal) => Ok((normal, None)),
        // What no route can allow is refused for what comes first.
        Err(refusal) => match normalize(path, Spellings::ALL) {
            Ok(normal) => Ok((normal, Some(refusal))),
            Err(_) => Err(refusal),
        },
    }
}

/// Judges a path that [`read`] took by what all its routes allow.
pub(super) fn judge(path: &str, allowed: Spellings) -> Result<(), Refusal> {
    normalize(path, allowed).map(drop)
}

/// A path, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normal {
    /// The decision form.
    pub(super) path: String,
    /// The decision form with `;parameters` cut off each segment, when it differs.
    pub(super) bare: Option<String>,
}

fn normalize(path: &str, allowed: Spellings) -> Result<Normal, Refusal> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(Refusal::bad("bad_target", "the target does not begin with `/`"));
    };
    let mut normal = String::with_capacity(path.len());
    let mut bare = String::new();
    let mut decoded = Vec::new();
    let mut cut = false;
    let mut segments = rest.split('/').peekable();
    let mut count = 0_usize;
    while let Some(segment) = segments.next() {
        count = count.saturating_add(1);
        if count > MAX_SEGMENTS {
            return Err(Refusal::bad(
                "path_too_deep",
                format!("the path has more than {MAX_SEGMENTS} segments"),
            ));
        }
        if segment.is_empty() && segments.peek().is_some() {
            if allowed.merge_slashes {
                continue;
            }
            return Err(Refusal::bad(
                "empty_segment",
                "the path has an empty segment (`//`)",
            ));
        }
        normal.push('/');
        let before = normal.len();
        decode(segment, allowed, &mut decoded, &mut normal)?;
        check(&decoded, allowed)?;
        let written = normal.get(before..).unwrap_or_default();
        let head = written.split(';').next().unwrap_or_default();
        if head.len() != written.len() {
            if !allowed.semicolon {
                return Err(Refusal::bad(
                    "path_parameter",
                    "the path has a `;`, which applications read in two ways",
                ));
            }
            cut = true;
            if head.is_empty() {
                return Err(Refusal::bad(
                    "empty_segment",
                    "a segment of the path is nothing but a `;` parameter",
                ));
            }
        }
        bare.push('/');
        bare.push_str(head);
    }
    Ok(Normal {
        path: normal,
        bare: cut.then_some(bare),
    })
}

/// Decodes a segment once into `decoded`, and writes its decision form.
fn decode(
    segment: &str,
    allowed: Spellings,
    decoded: &mut Vec<u8>,
    normal: &mut String,
) -> Result<(), Refusal> {
    decoded.clear();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let (value, escaped) = match byte {
            b'%' => (escape(&mut bytes)?, true),
            raw => (raw, false),
        };
        match value {
            b'/' if !allowed.encoded_slash => return Err(encoded_slash()),
            b'\\' => return Err(backslash()),
            b'#' if !escaped => return Err(Refusal::bad("fragment", "the target has a fragment (`#`)")),
            0..0x20 | 0x7f => return Err(control()),
            _ => {}
        }
        decoded.push(value);
        if is_unreserved(value) || (!escaped && value.is_ascii()) {
            normal.push(char::from(value));
        } else {
            push_escape(normal, value);
        }
    }
    Ok(())
}

fn escape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, Refusal> {
    let high = bytes.next().and_then(hex);
    let low = bytes.next().and_then(hex);
    match (high, low) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(Refusal::bad(
            "bad_escape",
            "the path has a `%` that two hexadecimal digits do not follow",
        )),
    }
}

/// What a decoded segment must not be, whoever decodes it.
fn check(decoded: &[u8], allowed: Spellings) -> Result<(), Refusal> {
    if is_encoded(decoded) {
        if !allowed.encoded_percent {
            return Err(double_encoding());
        }
        check_again(decoded, allowed)?;
    }
    check_text(decoded)
}

/// What a second decoding must not show: nothing that the first one must not, and nothing to decode once more.
fn check_again(decoded: &[u8], allowed: Spellings) -> Result<(), Refusal> {
    let twice: Vec<u8> = percent_encoding::percent_decode(decoded).collect();
    if is_encoded(&twice) {
        return Err(double_encoding());
    }
    for byte in &twice {
        match byte {
            b'/' if !allowed.encoded_slash => return Err(encoded_slash()),
            b'\\' => return Err(backslash()),
            0..0x20 | 0x7f => return Err(control()),
            _ => {}
        }
    }
    check_text(&twice)
}

fn is_encoded(decoded: &[u8]) -> bool {
    decoded
        .windows(3)
        .any(|three| matches!(three, [b'%', a, b] if hex(*a).is_some() && hex(*b).is_some()))
}

fn check_text(decoded: &[u8]) -> Result<(), Refusal> {
    let text = std::str::from_utf8(decoded)
        .map_err(|_| Refusal::bad("bad_utf8", "the path, decoded, is not UTF-8"))?;
    if text.is_ascii() {
        return dots(text);
    }
    if text.chars().any(|c| matches!(c, '\u{80}'..='\u{9f}')) {
        return Err(control());
    }
    if text.chars().any(looks_like_slash) {
        return Err(Refusal::bad(
            "lookalike_slash",
            "the path has a character that some readers turn into a slash",
        ));
    }
    let plain: String = text
        .chars()
        .fold(String::with_capacity(text.len()), push_plain_dots);
    dots(&plain)
}

/// `.` and `..`, also with what some readers cut off first: `;parameters`, trailing blanks; and between slashes that are
/// data, for whoever decodes them.
fn dots(segment: &str) -> Result<(), Refusal> {
    let hidden = |part: &str| {
        let head = part.split(';').next().unwrap_or_default().trim_end();
        head == "." || head == ".."
    };
    if segment.split('/').any(hidden) {
        return Err(Refusal::bad(
            "dot_segment",
            "the path has a `.` or `..` segment, plain or encoded",
        ));
    }
    Ok(())
}

/// Compatibility forms and doubles of `/` and `\`: fullwidth, division, fraction, set minus, small, big.
fn looks_like_slash(c: char) -> bool {
    matches!(
        c,
        '\u{ff0f}'
            | '\u{2215}'
            | '\u{2044}'
            | '\u{29f8}'
            | '\u{ff3c}'
            | '\u{fe68}'
            | '\u{2216}'
            | '\u{29f5}'
            | '\u{29f9}'
    )
}

/// What Unicode's compatibility forms (NFKC) make a dot of.
fn push_plain_dots(mut text: String, c: char) -> String {
    match c {
        '\u{ff0e}' | '\u{2024}' | '\u{fe52}' => text.push('.'),
        '\u{2025}' | '\u{fe30}' => text.push_str(".."),
        other => text.push(other),
    }
    text
}

fn encoded_slash() -> Refusal {
    Refusal::bad("encoded_slash", "the path has an encoded slash (%2F)")
}

fn backslash() -> Refusal {
    Refusal::bad("backslash", "the path has a backslash, plain or encoded")
}

fn double_encoding() -> Refusal {
    Refusal::bad(
        "double_encoding",
        "the path is encoded twice (`%25` before two digits)",
    )
}

fn control() -> Refusal {
    Refusal::bad(
        "control_character",
        "the path has a control character, plain or encoded",
    )
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    text.push('%');
    for nibble in [byte >> 4, byte & 15] {
        text.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or('0'));
    }
}
