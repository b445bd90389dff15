//! `hopguard policy`: the mesh file and the policy folder enter, and what is wrong with them leaves, in the place where it
//! stands, or how their tests came out. They are read by the code that every sidecar runs; only `fmt` changes files.

mod facts;
mod fmt;
mod junit;
mod test;

use std::fmt::{Debug, Display, Error, Formatter, Result as Told};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hopguard_sidecar::authz::{self, Checked, Model, PolicyProblem};
use hopguard_sidecar::config::{self, ConfigProblem, Mesh};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Check a policy folder as every sidecar of the mesh does when it loads it
    ///
    /// With `-o json` the result is a list of what is wrong: severity, file, line, column, message and hint; empty when all
    /// is well. What is only a warning is loaded, and leaves the exit code 0.
    Check {
        /// Take warnings for errors
        #[arg(long)]
        deny_warnings: bool,
        /// The mesh file that the policies are about
        #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
        mesh: PathBuf,
        /// The policy folder, read whole
        #[arg(value_name = "DIR", default_value = "policies")]
        dir: PathBuf,
    },
    /// Run the tests that stand beside the policies (`*.test.toml`), as every sidecar does when it loads them
    ///
    /// Exit code 0: every test passed; 1: one failed, or too few policies decided a test; 3: a file is wrong.
    Test(test::Args),
    /// Bring policy files into one form; nothing changes but blanks and line breaks
    ///
    /// With `-o json` the result is the list of files that changed; with --check, or when a file is wrong, a list as that of
    /// `policy check`.
    Fmt(fmt::Args),
    /// Print what other programs need to reason about the policies: services, workloads, groups, routes, roles, ports
    Facts {
        /// The mesh file
        #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
        mesh: PathBuf,
        /// The policy folder, read whole
        #[arg(value_name = "DIR", default_value = "policies")]
        dir: PathBuf,
    },
    /// Print the Cedar schema that the policies of a mesh are checked against, for editors and other tools
    Schema {
        /// The mesh file
        #[arg(long, value_name = "FILE", default_value = "mesh.toml")]
        mesh: PathBuf,
    },
}

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.action {
        Action::Check {
            mesh,
            dir,
            deny_warnings,
        } => Ok(told(look(&mesh, &dir), &dir, deny_warnings, ui)),
        Action::Test(args) => test::run(&args, ui),
        Action::Fmt(args) => fmt::run(&args, ui),
        Action::Facts { mesh, dir } => Ok(facts::run(&mesh, &dir, ui)),
        Action::Schema { mesh } => schema(&mesh, ui),
    }
}

/// One thing that is wrong, in whichever file.
#[derive(Serialize)]
struct Problem {
    severity: Severity,
    file: String,
    line: usize,
    column: usize,
    message: String,
    hint: Option<String>,
    /// With a file that policies do not depend on.
    #[serde(skip)]
    beside: bool,
    /// The file's text and the span in it, for terminals.
    #[serde(skip)]
    place: Option<(NamedSource<String>, usize, usize)>,
}

/// Whether a set is refused for a problem.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

fn look(mesh: &Path, dir: &Path) -> Result<(Checked, Vec<Problem>), Vec<Problem>> {
    let ((checked, of_policies), mut warnings) = of_set(mesh, dir, |model, files| {
        let checked = authz::check(model, files)?;
        let warning = |found: &PolicyProblem| Problem::of_policy(found.clone(), mesh, files).into_warning();
        let warnings: Vec<Problem> = checked.warnings.iter().map(warning).collect();
        Ok((checked, warnings))
    })?;
    warnings.extend(of_policies);
    Ok((checked, warnings))
}

/// Has `ask` look at a mesh file and a policy folder. Beside its answer comes what is wrong with files that the mesh file
/// names and that policies do not depend on.
fn of_set<T>(
    mesh: &Path,
    dir: &Path,
    ask: impl FnOnce(&Model, &[(PathBuf, String)]) -> Result<T, Vec<PolicyProblem>>,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let (loaded, warnings) = load_mesh(mesh)?;
    let files = config::read_policies(dir).map_err(|problem| vec![Problem::of_config(&problem)])?;
    match ask(&loaded.authz_model(), &files) {
        Ok(answer) => Ok((answer, warnings)),
        Err(problems) => {
            let of = |problem: PolicyProblem| Problem::of_policy(problem, mesh, &files);
            Err(problems.into_iter().map(of).collect())
        }
    }
}

/// The mesh file alone: the CA files of its issuers need not be where policies are written.
fn load_mesh(mesh: &Path) -> Result<(Mesh, Vec<Problem>), Vec<Problem>> {
    let of = |problems: Vec<ConfigProblem>| problems.iter().map(Problem::of_config).collect::<Vec<_>>();
    let (loaded, warnings) = config::load_mesh_alone(mesh).map_err(of)?;
    let beside = |problem: Problem| Problem {
        beside: true,
        ..problem.into_warning()
    };
    Ok((loaded, of(warnings).into_iter().map(beside).collect()))
}

fn told(
    found: Result<(Checked, Vec<Problem>), Vec<Problem>>,
    dir: &Path,
    deny_warnings: bool,
    ui: &Ui,
) -> Exit {
    let (checked, mut warnings) = match found {
        Ok(found) => found,
        Err(problems) => return wrong(&problems, ui),
    };
    let mut denied = false;
    for warning in warnings
        .iter_mut()
        .filter(|warning| deny_warnings && !warning.beside)
    {
        warning.severity = Severity::Error;
        denied = true;
    }
    show(&warnings, ui);
    match (ui.is_json(), denied) {
        (true, _) => {}
        (false, true) => ui.note("a sidecar would load this set, but warnings are denied"),
        (false, false) => ui.line(summary(&checked, dir)),
    }
    if denied { Exit::BadFile } else { Exit::Done }
}

/// Tells what is wrong with files.
fn wrong(problems: &[Problem], ui: &Ui) -> Exit {
    show(problems, ui);
    if !ui.is_json() {
        let (count, s) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
        ui.note(format!(
            "{count} problem{s}: a sidecar would refuse this set and keep the one it has"
        ));
    }
    Exit::BadFile
}

fn show(problems: &[Problem], ui: &Ui) {
    if ui.is_json() {
        return ui.json(&problems);
    }
    let graphical = std::io::stdout().is_terminal();
    for problem in problems {
        let text = if graphical {
            problem.graphical(ui.color())
        } else {
            problem.plain()
        };
        ui.line(text.trim_end());
    }
}

fn summary(checked: &Checked, dir: &Path) -> String {
    let mut text = format!(
        "{}: ok ({} policies, version {})",
        dir.display(),
        checked.count,
        checked.version
    );
    for (service, count) in &checked.services {
        let rules = match count {
            0 => "none: every call is denied".to_owned(),
            count => count.to_string(),
        };
        text.push_str(&format!("\n  {service}: {rules}"));
    }
    text
}

fn schema(mesh: &Path, ui: &Ui) -> Result<Exit, Failure> {
    let loaded = match load_mesh(mesh) {
        Ok((loaded, _)) => loaded,
        Err(problems) => return Ok(wrong(&problems, ui)),
    };
    let text = authz::schema(&loaded.authz_model())
        .map_err(|error| Failure::new(format!("{}: {error}", mesh.display())).exit(Exit::BadFile))?;
    if ui.is_json() {
        ui.json(&serde_json::json!({ "schema": text }));
    } else {
        ui.line(text.trim_end());
    }
    Ok(Exit::Done)
}

impl Problem {
    fn into_warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    fn of_config(problem: &ConfigProblem) -> Self {
        let text = std::fs::read_to_string(&problem.file).ok();
        let start = text
            .as_deref()
            .and_then(|text| offset(text, problem.line, problem.column));
        let file = problem.file.display().to_string();
        Self {
            severity: Severity::Error,
            beside: false,
            place: text
                .zip(start)
                .map(|(text, start)| (NamedSource::new(&file, text), start, 0)),
            file,
            line: problem.line,
            column: problem.column,
            message: problem.message.clone(),
            hint: problem.hint.clone(),
        }
    }

    /// What has no file is the mesh's.
    fn of_policy(problem: PolicyProblem, mesh: &Path, files: &[(PathBuf, String)]) -> Self {
        let path = if problem.file.as_os_str().is_empty() {
            mesh
        } else {
            &problem.file
        };
        let file = path.display().to_string();
        let text = files
            .iter()
            .find(|(path, _)| *path == problem.file && problem.line > 0);
        Self {
            severity: Severity::Error,
            beside: false,
            place: text.map(|(_, text)| (NamedSource::new(&file, text.clone()), problem.offset, problem.len)),
            file,
            line: problem.line,
            column: problem.column,
            message: problem.message,
            hint: problem.hint,
        }
    }

    /// `file:line:column: message`, and the hint on a line of its own: for pipes.
    fn plain(&self) -> String {
        let place = if self.line > 0 {
            format!(":{}:{}", self.line, self.column)
        } else {
            String::new()
        };
        let hint = self.hint.as_ref().map(|hint| format!("\n  hint: {hint}"));
        let kind = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        format!(
            "{}{place}: {kind}{}{}",
            self.file,
            self.message,
            hint.unwrap_or_default()
        )
    }

    /// With the lines concerned, for terminals.
    fn graphical(&self, color: bool) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let width = columns.unwrap_or(100).max(40);
        let mut out = String::new();
        let handler = GraphicalReportHandler::new_themed(theme).with_width(width);
        match handler.render_report(&mut out, &Shown(self)) {
            Ok(()) => out,
            Err(Error) => self.plain(),
        }
    }
}

/// Byte offset of a line and column, both from 1.
fn offset(text: &str, line: usize, column: usize) -> Option<usize> {
    let lines = text.split_inclusive('\n').take(line.checked_sub(1)?);
    let start: usize = lines.map(str::len).sum();
    let characters = text.get(start..)?.chars().take(column.checked_sub(1)?);
    Some(start + characters.map(char::len_utf8).sum::<usize>())
}

/// A problem as miette sees it: without its place where the snippet shows it.
#[derive(Debug)]
struct Shown<'p>(&'p Problem);

impl Debug for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> Told {
        f.write_str(&self.plain())
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Told {
        match self.0.place {
            Some(_) => f.write_str(&self.0.message),
            None => write!(f, "{}: {}", self.0.file, self.0.message),
        }
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        let hint = self.0.hint.as_ref()?;
        Some(Box::new(hint))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let (source, _, _) = self.0.place.as_ref()?;
        Some(source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, start, len) = self.0.place.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, *start, *len))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies")
    }

    #[test]
    fn the_examples_are_good() {
        let (checked, warnings) = look(&examples().join("mesh.toml"), &examples()).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(checked.count >= 8);
        let text = summary(&checked, Path::new("policies"));
        assert!(
            text.starts_with("policies: ok (") && text.contains("\n  shop/payments: "),
            "{text}"
        );
    }

    #[test]
    fn a_problem_is_shown_where_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let text = "@id(\"a\")\npermit(principal in Group::\"monitor\", action, resource);\n";
        std::fs::write(dir.path().join("a.cedar"), text).unwrap();
        let problems = look(&examples().join("mesh.toml"), dir.path()).err().unwrap();
        assert_eq!(problems.len(), 1);
        let problem = problems.first().unwrap();
        assert_eq!((problem.line, problem.column), (2, 21));
        let plain = problem.plain();
        assert!(
            plain.contains("a.cedar:2:21: group `monitor` is not in the mesh file\n  hint: "),
            "{plain}"
        );
        let graphical = problem.graphical(false);
        for part in [
            "a.cedar:2:21",
            "permit(principal in Group::\"monitor\"",
            "group `monitor`",
        ] {
            assert!(graphical.contains(part), "{graphical}");
        }
        let json = serde_json::to_value(&problems).unwrap();
        let mut keys: Vec<&String> = json[0].as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["column", "file", "hint", "line", "message", "severity"]);
    }

    #[test]
    fn the_ca_files_of_issuers_need_not_be_where_policies_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = std::fs::read_to_string(examples().join("mesh.toml")).unwrap();
        let named = mesh.replacen("[[issuer]]\n", "[[issuer]]\nca_file = \"elsewhere.pem\"\n", 1);
        assert_ne!(named, mesh);
        let path = dir.path().join("mesh.toml");
        std::fs::write(&path, named).unwrap();
        assert!(config::load_mesh(&path).is_err(), "a sidecar needs it");
        let found = look(&path, &examples()).unwrap();
        let [warning] = found.1.as_slice() else {
            panic!("{:?}", found.1);
        };
        let said = warning.plain();
        assert!(
            said.contains("warning: ") && said.contains("elsewhere.pem"),
            "{said}"
        );
        let ui = Ui::new(crate::ui::Output::Json);
        assert_eq!(
            told(Ok(found), &examples(), true, &ui),
            Exit::Done,
            "policies are not at fault"
        );
    }

    #[test]
    fn a_missing_or_wrong_mesh_is_a_problem_of_that_file() {
        let dir = tempfile::tempdir().unwrap();
        let mesh = dir.path().join("mesh.toml");
        let problems = look(&mesh, dir.path()).unwrap_err();
        assert!(problems.first().unwrap().plain().contains("mesh.toml"));
        std::fs::write(&mesh, "trust_domain = \"mesh.local\"\nservices = 1\n").unwrap();
        let problems = look(&mesh, dir.path()).unwrap_err();
        assert!(problems.iter().any(|p| p.line == 2), "{problems:?}");
    }
}
