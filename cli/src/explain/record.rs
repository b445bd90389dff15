//! A record from a log, explained with the mesh file and the policies: lines of JSON enter, one explanation leaves.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use hopguard_sidecar::tools::Explained;
use hopguard_sidecar::{authz, config};
use serde_json::Value;

use crate::ui::{Exit, Failure};

/// The longest line, in bytes: a record is never near it.
const LINE: u64 = 1 << 20;

/// Explains the record of this id, or the only one there is.
fn explain_in(lines: impl BufRead, id: Option<&str>) -> Result<Value, String> {
    let mut found: Option<Value> = None;
    let mut lines = lines;
    let mut number = 0_usize;
    loop {
        let mut line = Vec::new();
        let read = (&mut lines)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
        number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let record: Value =
            serde_json::from_slice(&line).map_err(|error| format!("line {number} is no record: {error}"))?;
        let of = record.get("request_id").and_then(Value::as_str);
        match (of, id) {
            (None, _) => return Err(format!("line {number} is no record: it has no `request_id`")),
            (Some(of), Some(id)) if of != id => {}
            (Some(_), Some(_)) => return Ok(record),
            (Some(_), None) if found.is_some() => {
                return Err("there are several records: name one by its id".to_owned());
            }
            (Some(_), None) => found = Some(record),
        }
    }
    found.ok_or_else(|| match id {
        Some(id) => format!("there is no record of `{id}`"),
        None => "there is no record".to_owned(),
    })
}

/// The record of a file, explained.
pub fn explain(
    file: &Path,
    id: Option<&str>,
    (mesh, policies): (&Path, &Path),
) -> Result<Explained, Failure> {
    let bad = |what: String| Failure::new(format!("{}: {what}", file.display())).exit(Exit::BadFile);
    let record = if file == Path::new("-") {
        explain_in(io::stdin().lock(), id)
    } else {
        let opened = File::open(file).map_err(|error| bad(error.to_string()))?;
        explain_in(BufReader::new(opened), id)
    };
    let record = record.map_err(bad)?;
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let service = text("/inputs/service").or_else(|| text("/dst/service"));
    let inbound = text("/direction") == Some("inbound");
    let Some(service) = service.filter(|_| inbound && record.get("inputs").is_some()) else {
        // No policy was asked, or the record does not say on what: there is nothing to load policies for.
        let mut explained = explain_alone(&record);
        if inbound && text("/decision/needs/rule").is_some() {
            explained.notes.push(
                "the record has no `inputs` (`log.record_inputs = false`), so its policies cannot be told clause by clause"
                    .to_owned(),
            );
        }
        return Ok(explained);
    };
    let (loaded, _) = config::load_mesh_alone(mesh).map_err(problems)?;
    let files = config::read_policies(policies).map_err(|problem| problems(vec![problem]))?;
    let policies = authz::load(&loaded.authz_model(), &files, service).map_err(problems)?;
    Ok(explain_with(&record, &policies))
}

fn explain_alone(record: &Value) -> Explained {
    hopguard_sidecar::tools::explain(record, None, None)
}

fn explain_with(record: &Value, policies: &authz::Policies) -> Explained {
    hopguard_sidecar::tools::explain(record, None, Some(policies))
}

/// What is wrong with a file that is needed.
pub fn problems<P: ToString>(problems: Vec<P>) -> Failure {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Failure::new(lines.join("\n"))
        .hint("`hopguard policy check --mesh FILE DIR` shows each in its place")
        .exit(Exit::BadFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "{\"request_id\":\"a\",\"x\":1}\n\n{\"request_id\":\"b\"}\n";

    #[test]
    fn a_record_is_found_by_its_id() {
        assert_eq!(explain_in(TWO.as_bytes(), Some("b")).unwrap()["request_id"], "b");
        assert_eq!(explain_in(TWO.as_bytes(), Some("a")).unwrap()["x"], 1);
        assert!(
            explain_in(TWO.as_bytes(), Some("c"))
                .unwrap_err()
                .contains("no record of `c`")
        );
        assert!(explain_in(TWO.as_bytes(), None).unwrap_err().contains("several"));
        let one = TWO.lines().next().unwrap();
        assert_eq!(explain_in(one.as_bytes(), None).unwrap()["request_id"], "a");
    }

    #[test]
    fn what_is_no_record_is_told_with_its_line() {
        assert!(explain_in("".as_bytes(), None).unwrap_err().contains("no record"));
        assert!(
            explain_in("{}\n".as_bytes(), None)
                .unwrap_err()
                .contains("line 1")
        );
        assert!(
            explain_in("{\"request_id\":\"a\"}\nnot json".as_bytes(), Some("b"))
                .unwrap_err()
                .contains("line 2")
        );
    }
}
