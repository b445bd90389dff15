//! What the parser of the command line has to say: its words enter, they leave in the shape that all results and errors
//! have, in JSON too, and a help that could not be written is no success.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Error;
use clap::error::ErrorKind;

use crate::ui::{Exit, Failure, Output, Ui, may_color};

/// Says it, and how the process ends.
pub fn tell(error: &Error, arguments: impl Iterator<Item = OsString>) -> Exit {
    let ui = Ui::new(wanted(arguments));
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            if ui.is_json() {
                let name = if error.kind() == ErrorKind::DisplayHelp {
                    "help"
                } else {
                    "version"
                };
                ui.json(&serde_json::json!({ name: text.to_string().trim_end() }));
            } else if ui.color() {
                ui.line(text.ansi().to_string().trim_end());
            } else {
                ui.line(text.to_string().trim_end());
            }
            ui.ended(Exit::Done)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !ui.is_json() => {
            let text = error.render();
            let color = may_color() && std::io::stderr().is_terminal();
            let text = if color {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            ui.note(text.trim_end());
            Exit::Usage
        }
        _ => {
            ui.failure(&failure(error));
            Exit::Usage
        }
    }
}

/// The parser's message without its label, and its tips or else its usage as the hint.
fn failure(error: &Error) -> Failure {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::new("a subcommand is missing")
            .hint("see `hopguard --help`, or `--help` behind the verb")
            .exit(Exit::Usage);
    }
    let text = error.render().to_string();
    let mut message = String::new();
    let (mut tips, mut usage) = (Vec::new(), None);
    for (at, part) in text.trim().split("\n\n").enumerate() {
        // Lines of one paragraph belong together: a list of values, or what is missing.
        let words = part.split_whitespace().collect::<Vec<_>>().join(" ");
        if at == 0 {
            message = words.strip_prefix("error: ").unwrap_or(&words).to_owned();
        } else if let Some(line) = words.strip_prefix("Usage: ") {
            usage = Some(format!("usage: {line}"));
        } else if words.starts_with("tip: ") {
            tips.push(words.replace("tip: ", ""));
        }
    }
    let hint = if tips.is_empty() {
        usage.unwrap_or_else(|| "see `--help` behind the verb".to_owned())
    } else {
        tips.join("; ")
    };
    Failure::new(message).hint(hint).exit(Exit::Usage)
}

/// What `-o` asks for, also where the rest of the line cannot be parsed.
fn wanted(arguments: impl Iterator<Item = OsString>) -> Output {
    let mut words = arguments
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .take_while(|word| word != "--");
    while let Some(word) = words.next() {
        let value = match word.as_str() {
            "-o" | "--output" => words.next().unwrap_or_default(),
            word => word
                .strip_prefix("--output=")
                .or_else(|| word.strip_prefix("-o="))
                .or_else(|| word.strip_prefix("-o"))
                .unwrap_or_default()
                .to_owned(),
        };
        if value == "json" {
            return Output::Json;
        }
    }
    Output::Text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_errors_is_found_on_a_line_that_cannot_be_parsed() {
        let output = |line: &str| {
            let words = std::iter::once("hopguard").chain(line.split_whitespace());
            wanted(words.map(OsString::from))
        };
        for json in [
            "-o json x",
            "x -ojson",
            "x -o=json",
            "--output json",
            "svid --output=json y",
        ] {
            assert_eq!(output(json), Output::Json, "{json}");
        }
        for text in ["", "x json", "-o text json", "demo exec web -- x -o json", "-o"] {
            assert_eq!(output(text), Output::Text, "{text}");
        }
    }

    #[test]
    fn a_message_is_one_line_without_its_label() {
        let command = clap::Command::new("x").arg(
            clap::Arg::new("form")
                .long("form")
                .value_parser(["round", "square"]),
        );
        let error = command
            .try_get_matches_from(["x", "--form", "rounde"])
            .unwrap_err();
        let failure = failure(&error);
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(
            failure.message,
            "invalid value 'rounde' for '--form <form>' [possible values: round, square]"
        );
        assert!(
            failure.hint.as_deref().unwrap().contains("'round'"),
            "{failure:?}"
        );
    }
}
