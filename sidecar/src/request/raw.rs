//! The first look at the bytes of a head, before any parser: bytes enter, the place of the empty line leaves, or the
//! fault that a lenient parser would have repaired. It never looks at what the bytes mean.

/// Where the head is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// No end yet, and all within limits. `first_line` tells whether the first line is complete.
    Incomplete { first_line: bool },
    /// `start..line_end` is the first line without CRLF, `line_end + 2..end` the header block with its empty line.
    Complete {
        start: usize,
        line_end: usize,
        end: usize,
        lines: usize,
    },
}

/// What is wrong with the raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BareCr,
    BareLf,
    Control(u8),
    Fold,
    TooLarge,
    TooMany,
}

impl Fault {
    /// A stable label.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::BareCr => "bare_cr",
            Self::BareLf => "bare_lf",
            Self::Control(_) => "control_byte",
            Self::Fold => "folded_header",
            Self::TooLarge => "head_too_large",
            Self::TooMany => "too_many_headers",
        }
    }

    /// A sentence for people.
    pub(super) fn detail(self) -> String {
        match self {
            Self::BareCr => "a CR without LF in the head".to_owned(),
            Self::BareLf => "a line of the head ends with LF alone".to_owned(),
            Self::Control(byte) => format!("control byte 0x{byte:02x} in the head"),
            Self::Fold => "a header line begins with white space (line folding is refused)".to_owned(),
            Self::TooLarge => "the head is too large".to_owned(),
            Self::TooMany => "the head has too many header lines".to_owned(),
        }
    }
}

/// Searches `buf` for the end of the head.
///
/// One empty line before the first is skipped (RFC 9112 2.2: clients once sent a stray CRLF after a body).
pub(super) fn scan(buf: &[u8], max_bytes: usize, max_lines: usize) -> Result<Scan, Fault> {
    let window = buf.get(..max_bytes).unwrap_or(buf);
    let start = if window.starts_with(b"\r\n") { 2 } else { 0 };
    let mut walk = Walk {
        line_start: start,
        lines: 0,
        line_end: None,
    };
    let mut previous = 0_u8;
    for (at, &byte) in window.iter().enumerate().skip(start) {
        if previous == b'\r' && byte != b'\n' {
            return Err(Fault::BareCr);
        }
        match byte {
            b'\n' if previous != b'\r' => return Err(Fault::BareLf),
            b'\n' => {
                if let Some(end) = walk.line(at, max_lines)? {
                    let line_end = walk.line_end.unwrap_or(start);
                    return Ok(Scan::Complete {
                        start,
                        line_end,
                        end,
                        lines: walk.lines,
                    });
                }
            }
            b'\r' => {}
            b' ' | b'\t' if at == walk.line_start => return Err(Fault::Fold),
            // HTAB is white space inside a header line, and nothing at all in the first line.
            b'\t' if walk.line_end.is_some() => {}
            0..0x20 | 0x7f => return Err(Fault::Control(byte)),
            _ => {}
        }
        previous = byte;
    }
    if buf.len() >= max_bytes {
        return Err(Fault::TooLarge);
    }
    Ok(Scan::Incomplete {
        first_line: walk.line_end.is_some(),
    })
}

struct Walk {
    line_start: usize,
    lines: usize,
    line_end: Option<usize>,
}

impl Walk {
    /// A line ends with the LF at `at`. Answers the end of the head when it is the empty one.
    fn line(&mut self, at: usize, max_lines: usize) -> Result<Option<usize>, Fault> {
        let length = at.saturating_sub(1).saturating_sub(self.line_start);
        let first = self.line_end.is_none();
        if length == 0 && !first {
            return Ok(Some(at.saturating_add(1)));
        }
        if first {
            self.line_end = Some(at.saturating_sub(1));
        } else {
            self.lines = self.lines.saturating_add(1);
            if self.lines > max_lines {
                return Err(Fault::TooMany);
            }
        }
        self.line_start = at.saturating_add(1);
        Ok(None)
    }
}
