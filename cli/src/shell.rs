//! `hopguard completions` and `hopguard man`: the command line as it is declared enters, completions for a shell or manual
//! pages leave. There is no second description that could differ.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Command, ValueEnum};
use clap_complete::Shell;
use serde_json::json;

use crate::ui::{Exit, Failure, Ui};

/// The shells that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

/// Arguments of `hopguard completions`.
#[derive(clap::Args)]
#[command(after_help = "\
bash: hopguard completions bash > /etc/bash_completion.d/hopguard
zsh:  hopguard completions zsh > \"${fpath[1]}/_hopguard\"
fish: hopguard completions fish > ~/.config/fish/completions/hopguard.fish")]
pub struct Completions {
    shell: Kind,
}

/// Arguments of `hopguard man`.
#[derive(clap::Args)]
#[command(after_help = "\
Example: hopguard man --dir /usr/local/share/man/man1")]
pub struct Man {
    /// Write the pages of all verbs into this folder, instead of printing that of `hopguard`
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the completions of the command line `whole`.
pub fn completions(args: &Completions, mut whole: Command, ui: &Ui) -> Result<Exit, Failure> {
    let (shell, name) = match args.shell {
        Kind::Bash => (Shell::Bash, "bash"),
        Kind::Zsh => (Shell::Zsh, "zsh"),
        Kind::Fish => (Shell::Fish, "fish"),
    };
    // Gives the global flags to the verbs below.
    whole.build();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&whole), "hopguard", &mut script);
    let script = String::from_utf8_lossy(&script);
    if ui.is_json() {
        ui.json(&json!({"shell": name, "script": script}));
    } else {
        ui.line(script.trim_end());
    }
    Ok(Exit::Done)
}

/// Prints the manual page of `hopguard`, or writes those of all verbs.
pub fn man(args: &Man, whole: Command, ui: &Ui) -> Result<Exit, Failure> {
    let Some(dir) = &args.dir else {
        let page = page(&whole)?;
        if ui.is_json() {
            ui.json(&json!({"page": page}));
        } else {
            ui.line(page.trim_end());
        }
        return Ok(Exit::Done);
    };
    let mut written = Vec::new();
    let mut whole = whole.disable_help_subcommand(true);
    // Gives the names and the global flags to the verbs below.
    whole.build();
    write_all(&whole, dir, &mut written)?;
    if ui.is_json() {
        ui.json(&json!({"written": written}));
    } else {
        for path in &written {
            ui.line(path.display().to_string());
        }
    }
    Ok(Exit::Done)
}

/// The command line without what is not for people: completion would offer it.
fn visible(command: &Command) -> Command {
    // Each command gets its own help and version.
    let automatic = |action: &ArgAction| {
        matches!(
            action,
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        )
    };
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !automatic(argument.get_action()));
    // `help` repeats all verbs, those too.
    let shown = |verb: &&Command| !verb.is_hide_set() && verb.get_name() != "help";
    let verbs = command.get_subcommands().filter(shown);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    Command::new(command.get_name().to_owned())
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(arguments.cloned())
        .subcommands(verbs.map(visible))
}

fn write_all(command: &Command, dir: &Path, written: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let path = dir.join(clap_mangen::Man::new(command.clone()).get_filename());
    std::fs::write(&path, page(command)?).map_err(|error| {
        Failure::new(format!("`{}` cannot be written: {error}", path.display()))
            .hint("the folder must exist and be writable for this user")
    })?;
    written.push(path);
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs
        .into_iter()
        .try_for_each(|verb| write_all(verb, dir, written))
}

fn page(command: &Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::new(format!("the page cannot be made: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
