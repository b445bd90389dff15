//! `hopguard config`: files enter, and what is wrong with them leaves, in the place where it stands; or a first set of files
//! is written. It reads them with the code that the programs run, and changes nothing that is there.

mod ca;
mod redirect;

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hopguard_sidecar::config::{self, ConfigProblem, Rendering};
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
    /// Check files as the programs read them: mesh.toml, sidecar.toml, ca.toml, entries.toml, redirect.toml
    ///
    /// The kind of a file is told by its keys. A sidecar.toml is checked together with the mesh file and the policy folder
    /// that it names, a ca.toml together with its entries file and the folders that it needs on this machine. What is only a
    /// warning leaves the exit code 0.
    Check {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Write a first, commented set of files; nothing that is there is overwritten
    Init {
        /// The folder, made if it is not there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.action {
        Action::Check { files } => Ok(check(&files, ui)),
        Action::Init { dir } => init(&dir, ui),
    }
}

#[derive(Serialize)]
struct Checked<'a> {
    file: &'a Path,
    kind: Option<&'static str>,
    ok: bool,
    problems: Vec<Problem<'a>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    severity: &'static str,
    file: &'a Path,
    line: usize,
    column: usize,
    message: &'a str,
    hint: Option<&'a str>,
}

fn check(files: &[PathBuf], ui: &Ui) -> Exit {
    let found: Vec<(&PathBuf, Found)> = files.iter().map(|file| (file, look(file))).collect();
    if ui.is_json() {
        let all: Vec<Checked<'_>> = found.iter().map(|(file, found)| found.checked(file)).collect();
        ui.json(&all);
    } else {
        for (file, found) in &found {
            if found.problems.is_empty() {
                for warning in &found.warnings {
                    ui.line(rendered(warning, ui).trim_end());
                }
                ui.line(format!("{}: ok ({})", file.display(), found.summary));
            } else {
                ui.line(config::render(&found.problems, rendering(ui)).trim_end());
            }
        }
    }
    if found.iter().all(|(_, found)| found.problems.is_empty()) {
        Exit::Done
    } else {
        Exit::BadFile
    }
}

/// A warning, marked as one.
fn rendered(warning: &ConfigProblem, ui: &Ui) -> String {
    let mut warning = warning.clone();
    warning.message = format!("warning: {}", warning.message);
    config::render(&[warning], rendering(ui))
}

fn rendering(ui: &Ui) -> Rendering {
    if !std::io::stdout().is_terminal() {
        return Rendering::Plain;
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    Rendering::Graphical {
        color: ui.color(),
        width: columns.unwrap_or(100),
    }
}

/// What a file is, and what is wrong with it.
struct Found {
    kind: Option<Kind>,
    summary: String,
    problems: Vec<ConfigProblem>,
    /// What is loaded all the same.
    warnings: Vec<ConfigProblem>,
}

impl Found {
    fn checked<'a>(&'a self, file: &'a Path) -> Checked<'a> {
        let of = |severity: &'static str, problems: &'a [ConfigProblem]| {
            problems.iter().map(move |problem| Problem {
                severity,
                file: &problem.file,
                line: problem.line,
                column: problem.column,
                message: &problem.message,
                hint: problem.hint.as_deref(),
            })
        };
        Checked {
            file,
            kind: self.kind.map(Kind::name),
            ok: self.problems.is_empty(),
            problems: of("error", &self.problems)
                .chain(of("warning", &self.warnings))
                .collect(),
        }
    }
}

/// The files that a user writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mesh,
    Sidecar,
    Ca,
    Entries,
    Redirect,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Sidecar => "sidecar",
            Self::Ca => "ca",
            Self::Entries => "entries",
            Self::Redirect => "redirect",
        }
    }

    /// By the keys that only one of them has; by the file's name when there is none of them, as in a file that is no TOML.
    fn of(path: &Path, text: &str) -> Option<Self> {
        let table: toml::Table = toml::from_str(text).unwrap_or_default();
        let has = |keys: &[&str]| keys.iter().any(|key| table.contains_key(*key));
        if has(&["entry"]) {
            Some(Self::Entries)
        } else if has(&["data_dir", "workload_api", "entries", "svid_ttl", "ca_ttl"]) {
            Some(Self::Ca)
        } else if table.get("service").is_some_and(toml::Value::is_str) {
            Some(Self::Sidecar)
        } else if has(&["service", "trust_domain", "groups", "issuer", "headers"]) {
            Some(Self::Mesh)
        } else if has(&redirect::KEYS) {
            Some(Self::Redirect)
        } else {
            let stem = path.file_stem()?.to_str()?;
            [Self::Mesh, Self::Sidecar, Self::Ca, Self::Entries, Self::Redirect]
                .into_iter()
                .find(|kind| kind.name() == stem)
        }
    }
}

fn look(path: &Path) -> Found {
    let text = match config::read_file(path) {
        Ok(text) => text,
        Err(problem) => return Found::bad(None, vec![problem]),
    };
    let Some(kind) = Kind::of(path, &text) else {
        let problem = ConfigProblem::whole(
            path,
            "is none of the files that hopguard reads",
            "a mesh file has `trust_domain` and [[service]], a sidecar file `service = \"...\"`, a CA file `data_dir`, an entries file [[entry]], a redirect file [own]",
        );
        return Found::bad(None, vec![problem]);
    };
    let mut warnings = Vec::new();
    let summary = match kind {
        Kind::Mesh => config::parse_mesh(path, &text).map(|mesh| of_mesh(&mesh)),
        Kind::Sidecar => sidecar(path, &mut warnings),
        Kind::Redirect => redirect::check(path, &text),
        Kind::Ca | Kind::Entries => ca::check(path, &text).map(|()| kind.name().to_owned()),
    };
    match summary {
        Ok(summary) => Found {
            kind: Some(kind),
            summary,
            problems: Vec::new(),
            warnings,
        },
        Err(problems) => Found::bad(Some(kind), problems),
    }
}

impl Found {
    fn bad(kind: Option<Kind>, problems: Vec<ConfigProblem>) -> Self {
        Self {
            kind,
            summary: String::new(),
            problems,
            warnings: Vec::new(),
        }
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

fn of_mesh(mesh: &config::Mesh) -> String {
    format!(
        "mesh `{}`: {}, {}, {}",
        mesh.trust_domain,
        count(mesh.services.len(), "service"),
        count(mesh.groups.len(), "group"),
        count(mesh.issuers.len(), "issuer")
    )
}

fn sidecar(path: &Path, warnings: &mut Vec<ConfigProblem>) -> Result<String, Vec<ConfigProblem>> {
    let loaded = config::load(path)?;
    let (policies, traps) = loaded.policies()?;
    *warnings = traps;
    Ok(format!(
        "sidecar of `{}` in {}, policy set {} with {}",
        loaded.sidecar.service,
        of_mesh(&loaded.mesh),
        policies.version(),
        count(policies.count(), "rule")
    ))
}

/// What `init` writes, by name below its folder. The same files as in `examples/local`, which tests run.
const FIRST: [(&str, &str); 5] = [
    ("mesh.toml", include_str!("../../examples/local/mesh.toml")),
    ("sidecar.toml", include_str!("../../examples/local/sidecar.toml")),
    ("ca.toml", include_str!("../../examples/local/ca.toml")),
    ("entries.toml", include_str!("../../examples/local/entries.toml")),
    (
        "policies/first.cedar",
        include_str!("../../examples/local/policies/first.cedar"),
    ),
];

fn init(dir: &Path, ui: &Ui) -> Result<Exit, Failure> {
    let there: Vec<String> = FIRST
        .iter()
        .map(|(name, _)| dir.join(name))
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| format!("`{}`", path.display()))
        .collect();
    if !there.is_empty() {
        let message = format!("nothing was written: {} would be overwritten", there.join(", "));
        return Err(Failure::new(message).hint("name another folder, or move the files away"));
    }
    let mut written = Vec::new();
    for (name, text) in FIRST {
        let path = dir.join(name);
        write_new(&path, text).map_err(|error| {
            Failure::new(format!("`{}` cannot be written: {error}", path.display()))
                .hint("check the folder and its rights")
        })?;
        written.push(path);
    }
    let run = dir.join(RUN);
    std::fs::create_dir_all(&run).map_err(|error| {
        Failure::new(format!("`{}` cannot be made: {error}", run.display()))
            .hint("check the folder and its rights")
    })?;
    if ui.is_json() {
        ui.json(&serde_json::json!({ "written": written }));
        return Ok(Exit::Done);
    }
    for path in &written {
        ui.line(path.display().to_string());
    }
    let dir = dir.display();
    ui.note("Change what their comments say, then:");
    ui.note(format!("  hopguard config check {dir}/*.toml"));
    ui.note(format!(
        "  chown hopguard {dir}/{RUN}        # the user that the sidecar runs as"
    ));
    ui.note(format!("  hopguard ca serve --config {dir}/ca.toml"));
    ui.note(format!("  hopguard sidecar --config {dir}/sidecar.toml"));
    Ok(Exit::Done)
}

/// The folder of the sidecar's admin socket: its own, so that it needs no right to write the files beside.
const RUN: &str = "run";

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // `create_new`: what appeared since the look is not overwritten either, and no link is followed.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Output;

    fn kind(name: &str, text: &str) -> Option<Kind> {
        Kind::of(Path::new(name), text)
    }

    #[test]
    fn a_file_is_known_by_its_keys_whatever_its_name() {
        for (name, text) in FIRST {
            let Some(stem) = name.strip_suffix(".toml") else {
                continue;
            };
            assert_eq!(kind("x.toml", text).map(Kind::name), Some(stem));
        }
        assert_eq!(kind("x.toml", "trust_domain = \"a\""), Some(Kind::Mesh));
        assert_eq!(kind("x.toml", "service = \"a/b\""), Some(Kind::Sidecar));
        assert_eq!(
            kind("x.toml", "trust_domain = \"a\"\ndata_dir = \"b\""),
            Some(Kind::Ca)
        );
        assert_eq!(kind("mesh.toml", "trust_domian = \"a\""), Some(Kind::Mesh));
        assert_eq!(kind("/etc/entries.toml", "[[entry"), Some(Kind::Entries));
        assert_eq!(kind("x.toml", "[own]\nmark = 1"), Some(Kind::Redirect));
        assert_eq!(kind("redirect.toml", "= ="), Some(Kind::Redirect));
        assert_eq!(kind("x.toml", "a = 1"), None);
    }

    #[test]
    fn what_init_writes_passes_its_own_check_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let ui = Ui::new(Output::Json);
        let folder = dir.path().join("new/folder");
        init(&folder, &ui).unwrap();
        for (name, text) in FIRST {
            assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), text);
        }
        let files = ["mesh.toml", "sidecar.toml", "ca.toml", "entries.toml"].map(|name| folder.join(name));
        for file in &files {
            let found = look(file);
            assert!(found.problems.is_empty(), "{:?}", found.problems);
        }
        assert_eq!(check(&files, &ui), Exit::Done);

        let mesh = folder.join("mesh.toml");
        std::fs::write(&mesh, "mine").unwrap();
        std::fs::remove_file(folder.join("ca.toml")).unwrap();
        let failure = init(&folder, &ui).unwrap_err();
        assert!(failure.message.contains("mesh.toml"), "{}", failure.message);
        assert_eq!(std::fs::read_to_string(&mesh).unwrap(), "mine");
        assert!(!folder.join("ca.toml").exists());
        assert_eq!(check(&[mesh], &ui), Exit::BadFile);
    }

    #[test]
    fn a_dangling_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("mesh.toml")).unwrap();
        assert!(init(&folder, &Ui::new(Output::Json)).is_err());
        assert!(!outside.exists());
    }

    #[test]
    fn what_is_only_a_trap_is_told_and_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let ui = Ui::new(Output::Json);
        init(dir.path(), &ui).unwrap();
        let trap = "@id(\"trap\") forbid(principal, action in Action::\"http\", resource) when { context.path == \"/admin\" };\n";
        std::fs::write(dir.path().join("policies/trap.cedar"), trap).unwrap();
        let sidecar = dir.path().join("sidecar.toml");
        let found = look(&sidecar);
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let told = serde_json::to_value(found.checked(&sidecar)).unwrap();
        assert_eq!(told["ok"], true, "{told}");
        assert_eq!(told["problems"][0]["severity"], "warning", "{told}");
        assert_eq!(told["problems"][0]["line"], 1, "{told}");
        let line = rendered(&found.warnings[0], &ui);
        assert!(
            line.contains("trap.cedar:1:") && line.contains(": warning: "),
            "{line}"
        );
        assert_eq!(check(&[sidecar], &ui), Exit::Done);
    }

    #[test]
    fn problems_of_every_kind_come_with_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let problem = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let found = look(&path);
            let first = &found.problems[0];
            (first.line, first.message.clone())
        };
        assert_eq!(
            problem("mesh.toml", "trust_domain = \"a.b\"\ngrups = {}\n"),
            (2, "unknown key `grups`".to_owned())
        );
        assert_eq!(problem("mesh.toml", "a = [\n").0, 1);
        let without_mesh = "service = \"a/b\"\nmesh = \"missing.toml\"\n";
        assert!(problem("sidecar.toml", without_mesh).1.contains("cannot be read"));
        assert!(problem("what.toml", "x = 1\n").1.contains("none of the files"));
        assert!(
            look(&dir.path().join("missing.toml")).problems[0]
                .message
                .contains("cannot be read")
        );
    }
}
