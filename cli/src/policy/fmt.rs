//! `hopguard policy fmt`: policy files enter, the same policies in one form take their place. A file that is wrong, or of
//! which it cannot be shown that nothing but its form changes, stays as it is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hopguard_sidecar::authz;
use hopguard_sidecar::config::read_policies;

use super::{Problem, Severity, wrong};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Change nothing; exit with 1 when a file is not in form
    #[arg(long)]
    check: bool,
    /// The policy folder, with its sub-folders
    #[arg(value_name = "DIR", default_value = "policies")]
    dir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let files = match read_policies(&args.dir) {
        Ok(files) => files,
        Err(problem) => return Ok(wrong(&[Problem::of_config(&problem)], ui)),
    };
    let (mut changed, mut problems) = (Vec::new(), Vec::new());
    for (path, text) in files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "cedar"))
    {
        match authz::format(path, text) {
            Ok(formatted) if formatted == *text => {}
            Ok(formatted) => {
                if !args.check {
                    put(path, &formatted).map_err(|error| {
                        Failure::new(format!("{}: cannot be written: {error}", path.display()))
                            .hint("check that you may write the file and its folder")
                    })?;
                }
                changed.push((path.display().to_string(), first_change(text, &formatted)));
            }
            Err(of_file) => {
                problems.extend(
                    of_file
                        .into_iter()
                        .map(|problem| Problem::of_policy(problem, path, &files)),
                );
            }
        }
    }
    if !problems.is_empty() {
        return Ok(wrong(&problems, ui));
    }
    let paths = changed.iter().map(|(path, _)| path);
    match (ui.is_json(), args.check) {
        (true, true) => ui.json(&changed.iter().map(out_of_form).collect::<Vec<_>>()),
        (true, false) => ui.json(&paths.collect::<Vec<_>>()),
        (false, _) => paths.for_each(|path| ui.line(path)),
    }
    if !args.check || changed.is_empty() {
        return Ok(Exit::Done);
    }
    if !ui.is_json() {
        ui.note("not in form: run `hopguard policy fmt`");
    }
    Ok(Exit::No)
}

/// As `policy check -o json` says what is wrong: who reads the one reads the other.
fn out_of_form((file, line): &(String, usize)) -> Problem {
    Problem {
        severity: Severity::Error,
        file: file.clone(),
        line: *line,
        column: 1,
        message: "not in form".to_owned(),
        hint: Some("`hopguard policy fmt` brings it there".to_owned()),
        beside: false,
        place: None,
    }
}

/// The first line that is another in form, from 1.
fn first_change(text: &str, formatted: &str) -> usize {
    let same = text.lines().zip(formatted.lines()).take_while(|(a, b)| a == b);
    same.count() + 1
}

/// Whole or not at all, with the rights that the file had: a sidecar may be reading it.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".hopguard-fmt-")
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    // A link is followed: its target is the file.
    let target = fs::canonicalize(path)?;
    file.as_file()
        .set_permissions(fs::metadata(&target)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&target).map(drop).map_err(|failed| failed.error)
}
