//! `hopguard entry`: the entries of a running authority. They are changed in their file only; here a new text of it is
//! checked by the authority, shown with what it changes for whom, put in place, and waited for.

mod print;
mod replace;

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use hopguard_ca::admin::Request;
use serde_json::{Value, json};

use crate::authority::{self, ask, is, list, text};
use crate::ui::{Exit, Failure, Ui};

/// As the authority has it.
const MOST: u64 = 16 << 20;

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// The authority's configuration, for its administration socket
    #[arg(long, global = true, value_name = "FILE", default_value = "ca.toml")]
    config: PathBuf,
    /// The authority's administration socket itself
    #[arg(long, global = true, value_name = "PATH", alias = "socket")]
    admin_socket: Option<PathBuf>,
}

const AFTER_HELP: &str = "Examples:
  hopguard entry list
  hopguard entry plan --file entries.new.toml
  hopguard entry apply --file entries.new.toml
  hopguard entry show spiffe://mesh.local/ns/shop/sa/web

The authority answers its own user and root. Exit codes: 0 done, 1 refused or not in force, 2 usage, 3 a file is wrong, \
4 the authority cannot be asked.";

#[derive(clap::Subcommand)]
enum What {
    /// Print the entries in force, in the order that decides who is whose default identity
    List,
    /// Print one identity: its entries, the SVIDs of it that are valid, and the callers that have it now
    Show {
        /// A SPIFFE ID, or a template as its entry writes it
        #[arg(value_name = "SPIFFE-ID")]
        spiffe_id: String,
    },
    /// Show what a new text of the entries file would change, and which callers would gain or lose an identity
    ///
    /// Nothing is changed. A caller is a process with an open stream; whoever asks later is not known yet.
    Plan {
        /// The new text; `-` reads standard input [default: the entries file as it lies there now]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Put a new text of the entries file in place, and wait until it is in force
    ///
    /// The text is checked first, and what it changes is shown. The file keeps its owner and mode, and where it is a
    /// symbolic link, what that leads to is replaced. A file that somebody else changed meanwhile is left alone.
    Apply(Apply),
}

#[derive(clap::Args)]
struct Apply {
    /// The new text; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let socket = authority::socket(args.admin_socket.as_deref(), &args.config, "--admin-socket")?;
    match args.what {
        What::List => {
            let told = ask(&socket, &Request::EntryList)?;
            print::entries(&told, ui);
            Ok(Exit::Done)
        }
        What::Show { spiffe_id } => {
            let told = ask(&socket, &Request::EntryShow { spiffe_id })?;
            print::identity(&told, ui);
            Ok(Exit::Done)
        }
        What::Plan { file } => {
            let plan = match file {
                Some(file) => planned(&socket, &file, &read(&file)?)?,
                None => {
                    let told = ask(&socket, &Request::EntryList)?;
                    let file = PathBuf::from(text(&told, "file"));
                    planned(&socket, &file, &read(&file)?)?
                }
            };
            Ok(print::plan(&plan, ui))
        }
        What::Apply(apply) => run_apply(&socket, &apply, ui),
    }
}

fn planned(socket: &Path, name: &Path, text: &str) -> Result<Value, Failure> {
    let request = Request::EntryPlan {
        name: Some(name.to_owned()),
        text: text.to_owned(),
    };
    ask(socket, &request)
}

fn read(file: &Path) -> Result<String, Failure> {
    let bad = |error: io::Error| {
        Failure::new(format!("{}: {error}", file.display()))
            .hint("name the new text of the entries file; `-` reads standard input")
            .exit(Exit::BadFile)
    };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(MOST + 1).read_to_string(&mut text)
    } else {
        let open = std::fs::File::open(file).map_err(bad)?;
        open.take(MOST + 1).read_to_string(&mut text)
    };
    read.map_err(bad)?;
    if text.len() as u64 > MOST {
        return Err(bad(io::Error::other(format!(
            "it is larger than {} MiB",
            MOST >> 20
        ))));
    }
    Ok(text)
}

fn run_apply(socket: &Path, apply: &Apply, ui: &Ui) -> Result<Exit, Failure> {
    let new = read(&apply.file)?;
    let told = ask(socket, &Request::EntryList)?;
    let target = replace::Target::look(Path::new(text(&told, "file")))?;
    // It must be the authority's file that is replaced, not another of that name (a container's, a mount's).
    let before = settled(socket, target.digest())?;
    let plan = planned(socket, &apply.file, &new)?;
    if !list(&plan, "problems").is_empty() {
        return Ok(print::plan(&plan, ui));
    }
    if text(&plan, "digest") == target.digest() {
        return Ok(finished(&plan, &before, false, ui));
    }
    if apply.dry_run {
        return Ok(print::plan(&plan, ui));
    }
    if !ui.is_json() {
        print::plan(&plan, ui);
    }
    if !apply.yes && !confirmed(&apply.file, ui)? {
        return Err(Failure::new("nothing was changed"));
    }
    target.replace(&new)?;
    let after = settled(socket, text(&plan, "digest"))?;
    Ok(finished(&plan, &after, true, ui))
}

fn settled(socket: &Path, digest: &str) -> Result<Value, Failure> {
    let digest = digest.to_owned();
    ask(socket, &Request::EntrySettled { digest })
}

/// Says what came of it.
fn finished(plan: &Value, settled: &Value, changed: bool, ui: &Ui) -> Exit {
    let in_force = is(settled, "in_force");
    if ui.is_json() {
        let problems = list(settled, "problems");
        ui.json(&json!({"applied": changed, "in_force": in_force, "problems": problems, "plan": plan}));
    } else if in_force {
        let word = if changed { "in force" } else { "in force already" };
        ui.line(format!("{}: {}", text(plan, "file"), ui.paint("32", word)));
    } else {
        print::problems(settled, ui);
        ui.line("the authority refuses the file that lies there now: the entries before stay in force");
    }
    if in_force { Exit::Done } else { Exit::No }
}

fn confirmed(file: &Path, ui: &Ui) -> Result<bool, Failure> {
    let can_ask = io::stdin().is_terminal() && !ui.is_json() && file != Path::new("-");
    if !can_ask {
        return Err(
            Failure::new("nobody can be asked whether to go on: nothing was changed")
                .hint("say --yes, or --dry-run to see what it would change")
                .exit(Exit::Usage),
        );
    }
    let mut err = io::stderr().lock();
    // Who cannot see the question does not say yes to it.
    let _closed = err.write_all(b"apply this? [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    io::stdin()
        .lock()
        .take(64)
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("the answer cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
