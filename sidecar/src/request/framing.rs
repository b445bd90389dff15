//! The two fields that delimit a body, read strictly and alike for requests and responses: values enter, their meaning
//! leaves. Two answers to "where does the body end" are never reconciled, always refused (RFC 9112 6.3, CWE-444).

/// Why the framing of a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    BadLength,
    SecondLength,
    BadEncoding,
    OldEncoding,
    Both,
}

impl Conflict {
    /// A stable label.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::BadLength => "bad_content_length",
            Self::SecondLength => "repeated_content_length",
            Self::BadEncoding => "bad_transfer_encoding",
            Self::OldEncoding => "transfer_encoding_http10",
            Self::Both => "length_and_chunked",
        }
    }

    /// A sentence for people.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::BadLength => "Content-Length is not one plain number",
            Self::SecondLength => "Content-Length is sent more than once",
            Self::BadEncoding => "Transfer-Encoding is not exactly one `chunked`",
            Self::OldEncoding => "HTTP/1.0 has no Transfer-Encoding",
            Self::Both => "both Content-Length and Transfer-Encoding are sent",
        }
    }
}

/// What the framing fields of a head say, one field after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Declared {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

impl Declared {
    /// A `Content-Length` value: digits only, no list, no second one, even if equal.
    pub(super) fn length(&mut self, value: &[u8]) -> Result<(), Conflict> {
        if self.length.is_some() {
            return Err(Conflict::SecondLength);
        }
        self.length = Some(number(value).ok_or(Conflict::BadLength)?);
        Ok(())
    }

    /// A `Transfer-Encoding` value: exactly `chunked`, in any case, once.
    pub(super) fn encoding(&mut self, value: &[u8]) -> Result<(), Conflict> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Conflict::BadEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    /// Both together, and `Transfer-Encoding` where there is none, are refused.
    pub(super) fn settle(self, http11: bool) -> Result<Self, Conflict> {
        match self {
            Self {
                chunked: true,
                length: Some(_),
            } => Err(Conflict::Both),
            Self { chunked: true, .. } if !http11 => Err(Conflict::OldEncoding),
            settled => Ok(settled),
        }
    }
}

/// Digits only, and no more than a signed 64-bit reader can hold.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (number <= i64::MAX.unsigned_abs()).then_some(number)
}
