//! JUnit XML, which every CI shows: outcomes enter, one document leaves.

use std::fmt::Write as _;

use hopguard_sidecar::authz::{Outcome, Tested};

/// One `testsuite` a file, one `testcase` a test.
pub(super) fn document(tested: &Tested) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let seconds = |outcomes: &[Outcome]| seconds(outcomes.iter().map(|outcome| outcome.micros).sum());
    let _infallible = writeln!(
        out,
        "<testsuites name=\"hopguard policy test\" tests=\"{}\" failures=\"{}\" time=\"{}\">",
        tested.outcomes.len(),
        tested.failed(),
        seconds(&tested.outcomes)
    );
    for suite in tested.outcomes.chunk_by(|a, b| a.file == b.file) {
        let Some(first) = suite.first() else { continue };
        let failures = suite.iter().filter(|outcome| !outcome.passed).count();
        let _infallible = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{}\">",
            escaped(&first.file.display().to_string()),
            suite.len(),
            seconds(suite)
        );
        for outcome in suite {
            case(&mut out, outcome);
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn case(out: &mut String, outcome: &Outcome) {
    let _infallible = write!(
        out,
        "    <testcase name=\"{}\" classname=\"{}\" file=\"{}\" line=\"{}\" time=\"{}\"",
        escaped(&outcome.name),
        escaped(&outcome.service),
        escaped(&outcome.file.display().to_string()),
        outcome.line,
        seconds(outcome.micros)
    );
    if outcome.passed {
        out.push_str("/>\n");
        return;
    }
    let message = format!("expected {}, got {}", outcome.expected, outcome.got);
    let _infallible = writeln!(
        out,
        ">\n      <failure message=\"{}\" type=\"decision\"/>\n    </testcase>",
        escaped(&message)
    );
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Text inside an attribute. What XML 1.0 has no way to write becomes a replacement character.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\r' | '\t' => {
                let _infallible = write!(out, "&#{};", u32::from(c));
            }
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
