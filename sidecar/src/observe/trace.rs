//! Trace context (W3C Trace Context, level 1): the header of a request enters, the one for the next hop leaves. What is
//! not valid is never passed on.

use std::fmt;

use super::record::unique;

/// A position in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads a `traceparent` header (section 3.2): lower-case hex, no zero ids, version not `ff`. A later version is read
    /// by its first four fields.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let dash = |at: usize| bytes.get(at) == Some(&b'-');
        if !(dash(2) && dash(35) && dash(52)) {
            return None;
        }
        let [version] = field(bytes.get(0..2)?)?;
        let long_enough = if version == 0 {
            bytes.len() == 55
        } else {
            bytes.len() == 55 || dash(55)
        };
        if version == 0xff || !long_enough {
            return None;
        }
        let trace_id: [u8; 16] = field(bytes.get(3..35)?)?;
        let span_id: [u8; 8] = field(bytes.get(36..52)?)?;
        let [flags] = field(bytes.get(53..55)?)?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            // Only `sampled` is defined; a version-00 header must not carry others on (section 3.2.2.5.1).
            flags: flags & 1,
        })
    }

    /// A new trace, not sampled by us: the ids join records, and what samples decides elsewhere.
    pub fn fresh() -> Self {
        Self {
            trace_id: unique(),
            span_id: unique(),
            flags: 0,
        }
    }

    /// The span of this hop: the same trace when the header was valid and came exactly once, else a new one.
    pub fn continued<'h>(mut headers: impl Iterator<Item = &'h [u8]>) -> Self {
        let parent = match (headers.next(), headers.next()) {
            (Some(one), None) => std::str::from_utf8(one).ok().and_then(Self::parse),
            _ => None,
        };
        parent.map_or_else(Self::fresh, Self::child)
    }

    /// A new span of the same trace.
    pub fn child(self) -> Self {
        Self {
            span_id: unique(),
            ..self
        }
    }

    /// The trace's id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace_id)
    }

    /// The span's id, 16 hex digits.
    pub fn span_id(&self) -> String {
        hex::encode(self.span_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id(), self.span_id(), self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex of exactly `N` bytes.
fn field<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    let lower = digits.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    (lower && hex::decode_to_slice(digits, &mut out).is_ok()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_parent_keeps_its_trace_and_gets_a_new_span() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.to_string(), GOOD);
        let next = TraceParent::continued([GOOD.as_bytes()].into_iter());
        assert_eq!(next.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(next.span_id(), "00f067aa0ba902b7");
        assert!(next.to_string().ends_with("-01"));
        assert!(TraceParent::parse(&next.to_string()).is_some());
    }

    #[test]
    fn a_later_version_is_read_by_its_first_fields() {
        let later = GOOD.replacen("00", "01", 1);
        assert!(TraceParent::parse(&later).is_some());
        assert!(TraceParent::parse(&format!("{later}-what-else")).is_some());
        assert!(TraceParent::parse(&format!("{later}x")).is_none());
        assert_eq!(TraceParent::parse(&GOOD.replace("-01", "-ff")).unwrap().flags, 1);
    }

    #[test]
    fn what_is_invalid_begins_a_new_trace() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e47zz-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
            let next = TraceParent::continued([bad.as_bytes()].into_iter());
            assert_ne!(next.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert!(TraceParent::parse(&next.to_string()).is_some());
        }
    }

    #[test]
    fn two_headers_are_none() {
        let next = TraceParent::continued([GOOD.as_bytes(), GOOD.as_bytes()].into_iter());
        assert_ne!(next.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(
            TraceParent::continued(std::iter::empty()),
            TraceParent::continued(std::iter::empty())
        );
    }
}
