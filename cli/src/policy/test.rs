//! `hopguard policy test`: mesh file, policies and the tests beside them enter; how each test came out leaves, and which
//! policies decided none.

use std::path::PathBuf;

use hopguard_sidecar::authz::{self, Outcome, Tested};

use super::{junit, of_set, wrong};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The mesh file that the policies are about
    #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
    mesh: PathBuf,
    /// Write the outcomes as JUnit XML too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// List how many tests each policy decided
    #[arg(long)]
    coverage: bool,
    /// Exit with 1 when fewer policies than so many percent decided a test
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// The policy folder, with its sub-folders
    #[arg(value_name = "DIR", default_value = "policies")]
    dir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let tested = match of_set(&args.mesh, &args.dir, authz::test) {
        Ok((tested, _)) => tested,
        Err(problems) => return Ok(wrong(&problems, ui)),
    };
    if let Some(path) = &args.junit {
        std::fs::write(path, junit::document(&tested)).map_err(|error| {
            Failure::new(format!("{}: cannot be written: {error}", path.display()))
                .hint("check that its folder is there and that you may write it")
        })?;
    }
    let enough = args
        .coverage_min
        .is_none_or(|least| tested.coverage() >= usize::from(least));
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "version": tested.version,
            "tests": tested.outcomes.len(),
            "failed": tested.failed(),
            "coverage": tested.coverage(),
            "outcomes": tested.outcomes,
            "policies": tested.policies,
        }));
    } else {
        table(&tested, args, ui);
    }
    if !enough {
        ui.note(format!(
            "{} % of the policies decided a test, and {} are asked for",
            tested.coverage(),
            args.coverage_min.unwrap_or_default()
        ));
    }
    if tested.failed() > 0 {
        ui.note("a sidecar would refuse this set and keep the one it has");
    }
    Ok(if tested.failed() == 0 && enough {
        Exit::Done
    } else {
        Exit::No
    })
}

fn table(tested: &Tested, args: &Args, ui: &Ui) {
    for of_file in tested.outcomes.chunk_by(|a, b| a.file == b.file) {
        if let Some(first) = of_file.first() {
            ui.line(first.file.display().to_string());
        }
        for outcome in of_file {
            ui.line(row(outcome, ui));
        }
    }
    if args.coverage {
        ui.line("policies by the tests that they decided");
        for policy in &tested.policies {
            let count = match policy.tests {
                0 => ui.paint("33", "none"),
                count => count.to_string(),
            };
            ui.line(format!("  {:<40} {count}", policy.id));
        }
    }
    let (count, failed) = (tested.outcomes.len(), tested.failed());
    let decided = tested.policies.iter().filter(|policy| policy.tests > 0).count();
    ui.line(format!(
        "{} passed, {failed} failed; {decided} of {} policies decided a test ({} %); version {}",
        count - failed,
        tested.policies.len(),
        tested.coverage(),
        tested.version
    ));
}

fn row(outcome: &Outcome, ui: &Ui) -> String {
    if outcome.passed {
        return format!("  {}   {}: {}", ui.paint("32", "ok"), outcome.name, outcome.got);
    }
    format!(
        "  {} {}: expected {}, got {}\n       {}:{}",
        ui.paint("31", "FAIL"),
        outcome.name,
        outcome.expected,
        outcome.got,
        outcome.file.display(),
        outcome.line
    )
}
