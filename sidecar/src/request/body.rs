//! The body of a message while it passes: bytes enter in any portions, and of each portion is told how much is checked
//! and how much of that goes on. Bytes that go on go on as they came; chunk extensions and forbidden trailers are left out.
//! It never buffers: what is not yet complete stays with the caller.

use std::sync::Arc;

use super::fields::withholds;
use super::strip;
use super::{DeclaredHeader, Framing, Head, Refusal};

/// What [`BodyReader::feed`] made of a portion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that are done with. `0` while not `done`: more input is needed before these can be judged.
    pub consumed: usize,
    /// The first so many of them go on as they came; the rest of them are left out.
    pub forward: usize,
    /// The body ends with these bytes.
    pub done: bool,
}

/// One element of a body, for whoever frames it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many bytes of content.
    Data(usize),
    /// So many bytes of framing, or of a trailer that is left out.
    Framing(usize),
    /// A trailer line of so many bytes, its CRLF included.
    Trailer(usize),
    /// More input is needed, unless the body is done.
    More,
}

/// A strict reader of one body (RFC 9112 6 and 7; S4 of docs/request-attacks.md).
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    /// Bytes and lines of trailers so far.
    trailer_bytes: usize,
    trailer_lines: usize,
    /// Trailers that do not go on beside those that never do.
    withheld: Option<Arc<[DeclaredHeader]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    /// Until the connection ends.
    Eof,
    /// Before a chunk size line.
    Size,
    /// Before the CRLF of a size line whose extension was left out.
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    Trailer,
}

/// Most digits of a chunk size.
const MAX_DIGITS: usize = 16;
/// Most bytes of a chunk extension.
const MAX_EXTENSION: usize = 1024;
/// Most bytes of all trailers.
const MAX_TRAILERS: usize = 8 * 1024;
/// Most trailer lines.
const MAX_TRAILER_LINES: usize = 32;

impl BodyReader {
    /// The longest piece that must lie in one portion to be judged: the caller's buffer must hold as much.
    pub const MAX_PIECE: usize = MAX_TRAILERS;

    /// A reader for a body with this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self::with(match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
        })
    }

    /// A reader for the body of this request.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        Self {
            withheld: head.withheld.clone(),
            ..Self::new(head.framing)
        }
    }

    /// A reader for a body that ends with the connection. Responses only.
    #[must_use]
    pub fn until_eof() -> Self {
        Self::with(State::Eof)
    }

    fn with(state: State) -> Self {
        Self {
            state,
            trailer_bytes: 0,
            trailer_lines: 0,
            withheld: None,
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the proper end of this body.
    #[must_use]
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::Eof
    }

    /// Judges the next bytes of the body. Feed again what was not consumed, together with what comes next; feed also after
    /// a portion was consumed whole or in part until nothing more is.
    ///
    /// # Errors
    /// 400: the framing is broken. The bytes before it may have gone on; the connection that they went to must be
    /// aborted, never ended cleanly nor used again.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed, Refusal> {
        let mut at = 0_usize;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let step = self.step(rest)?;
            at = at.saturating_add(step.forward);
            let skipped = step.consumed.saturating_sub(step.forward);
            if skipped > 0 || self.is_done() || step.consumed == 0 {
                return Ok(Fed {
                    consumed: at.saturating_add(skipped),
                    forward: at,
                    done: self.is_done(),
                });
            }
        }
    }

    /// Judges the next element alone, and tells content from framing. It and [`Self::feed`] are not to be mixed on one body.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn part(&mut self, input: &[u8]) -> Result<Part, Refusal> {
        let content = matches!(self.state, State::Length(_) | State::Data(_) | State::Eof);
        let trailer = self.state == State::Trailer;
        let step = self.step(input)?;
        Ok(match step.consumed {
            0 => Part::More,
            taken if content => Part::Data(taken),
            taken if trailer && step.forward > 0 && !self.is_done() => Part::Trailer(taken),
            taken => Part::Framing(taken),
        })
    }

    /// One element: a size line, the data at hand, a trailer line.
    fn step(&mut self, rest: &[u8]) -> Result<Fed, Refusal> {
        match self.state {
            State::Done => Ok(Fed::default()),
            State::Eof => Ok(keep(rest.len())),
            State::Length(left) => Ok(self.data(left, rest, State::Done, State::Length)),
            State::Data(left) => Ok(self.data(left, rest, State::DataEnd, State::Data)),
            State::Size => self.size(rest),
            State::SizeEnd(size) => self.crlf(rest, after_size(size)),
            State::DataEnd => self.crlf(rest, State::Size),
            State::Trailer => self.trailer(rest),
        }
    }

    fn data(&mut self, left: u64, rest: &[u8], end: State, more: fn(u64) -> State) -> Fed {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
        self.state = if left == 0 { end } else { more(left) };
        keep(taken)
    }

    fn crlf(&mut self, rest: &[u8], next: State) -> Result<Fed, Refusal> {
        match rest {
            [] | [b'\r'] => Ok(Fed::default()),
            [b'\r', b'\n', ..] => {
                self.state = next;
                Ok(keep(2))
            }
            _ => Err(bad(
                "bad_chunk_end",
                "the data of a chunk is not followed by CRLF",
            )),
        }
    }

    /// `1*16HEXDIG [ chunk-ext ] CRLF`, no white space, no sign, no `0x`.
    fn size(&mut self, rest: &[u8]) -> Result<Fed, Refusal> {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > MAX_DIGITS || (digits == 0 && !rest.is_empty()) {
            return Err(bad(
                "bad_chunk_size",
                "a chunk size is not 1 to 16 hexadecimal digits",
            ));
        }
        let tail = rest.get(digits..).unwrap_or_default();
        let extension = match tail {
            [] | [b'\r'] => return Ok(Fed::default()),
            [b'\r', b'\n', ..] => 0,
            [b';', ..] => match extension(tail)? {
                Some(length) => length,
                None => return Ok(Fed::default()),
            },
            _ => {
                return Err(bad(
                    "bad_chunk_size",
                    "a chunk size is followed by neither CRLF nor `;`",
                ));
            }
        };
        let text = std::str::from_utf8(rest.get(..digits).unwrap_or_default()).unwrap_or_default();
        let size = u64::from_str_radix(text, 16)
            .ok()
            .filter(|size| i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| {
            bad(
                "bad_chunk_size",
                "a chunk size is larger than any reader can hold",
            )
        })?;
        if extension > 0 {
            self.state = State::SizeEnd(size);
            return Ok(Fed {
                consumed: digits.saturating_add(extension),
                forward: digits,
                done: false,
            });
        }
        self.state = after_size(size);
        Ok(keep(digits.saturating_add(2)))
    }

    fn trailer(&mut self, rest: &[u8]) -> Result<Fed, Refusal> {
        match rest {
            [] | [b'\r'] => return Ok(Fed::default()),
            [b'\r', b'\n', ..] => {
                self.state = State::Done;
                return Ok(keep(2));
            }
            _ => {}
        }
        let Some(length) = line(
            rest,
            MAX_TRAILERS.saturating_sub(self.trailer_bytes),
            "bad_trailer",
        )?
        else {
            return Ok(Fed::default());
        };
        self.trailer_bytes = self.trailer_bytes.saturating_add(length);
        self.trailer_lines = self.trailer_lines.saturating_add(1);
        if self.trailer_lines > MAX_TRAILER_LINES {
            return Err(bad("bad_trailer", "there are too many trailers"));
        }
        let text = rest.get(..length).unwrap_or_default();
        let colon = text.iter().position(|&byte| byte == b':').unwrap_or_default();
        let name = text.get(..colon).unwrap_or_default();
        if !strip::is_token(name) {
            return Err(bad("bad_trailer", "a trailer is not `name: value`"));
        }
        let length = length.saturating_add(2);
        let name = String::from_utf8_lossy(name);
        let dropped = strip::dropped_trailer(&name) || withholds(self.withheld.as_deref(), &name);
        Ok(Fed {
            consumed: length,
            forward: if dropped { 0 } else { length },
            done: false,
        })
    }
}

fn after_size(size: u64) -> State {
    if size == 0 {
        State::Trailer
    } else {
        State::Data(size)
    }
}

fn keep(length: usize) -> Fed {
    Fed {
        consumed: length,
        forward: length,
        done: false,
    }
}

/// The length of a chunk extension without its CRLF, once it is complete.
fn extension(tail: &[u8]) -> Result<Option<usize>, Refusal> {
    line(tail, MAX_EXTENSION, "bad_chunk_extension")
}

/// The length of a line without its CRLF, once it is complete. No control byte but HTAB, no CR or LF alone.
fn line(text: &[u8], most: usize, code: &'static str) -> Result<Option<usize>, Refusal> {
    for (at, &byte) in text.iter().enumerate() {
        if at > most {
            return Err(bad(code, "a line between or after the chunks is too long"));
        }
        match byte {
            b'\r' => {
                return match text.get(at.saturating_add(1)) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some(at)),
                    Some(_) => Err(bad(code, "a CR without LF between or after the chunks")),
                };
            }
            b'\t' => {}
            0..0x20 | 0x7f => {
                return Err(bad(
                    code,
                    "a control byte or a bare LF between or after the chunks",
                ));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn bad(code: &'static str, detail: &str) -> Refusal {
    Refusal::bad(code, detail)
}
