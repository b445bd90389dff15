//! What the documents tell people to type is what the binary takes, and the first files work as they are described.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use hopguard_tests::hopguard;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn documents() -> Vec<PathBuf> {
    let mut all = vec![root().join("README.md")];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            all.push(path);
        }
    }
    all
}

/// Every `hopguard ...` line of a fenced block.
fn commands(document: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced && let Some(at) = line.find("hopguard ") {
            let before = line[..at].trim();
            // Behind `setpriv ... hopguard sidecar` and the like stands a command too; prose and paths do not count.
            if before.is_empty() || before.starts_with("setpriv") && line.contains("hopguard sidecar") {
                let start = line
                    .rfind("hopguard sidecar")
                    .filter(|_| !before.is_empty())
                    .unwrap_or(at);
                found.push(line[start..].to_owned());
            }
        }
    }
    found
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_documented_command_is_one() {
    let mut count = 0;
    for path in documents() {
        for line in commands(&fs::read_to_string(&path).unwrap()) {
            let words: Vec<&str> = line
                .split_whitespace()
                .skip(1)
                .take_while(|word| !word.starts_with('#') && !["&", "|", ">", "&&", "--"].contains(word))
                // The user that the documents make is not on every machine.
                .map(|word| {
                    if word == "hopguard" {
                        "root"
                    } else {
                        word.trim_matches(['"', '\''])
                    }
                })
                .collect();
            // With `--help` at its end a command does nothing, but what stands before it must be known.
            let output = hopguard().args(&words).arg("--help").output().unwrap();
            assert!(
                output.status.success(),
                "{}: `{line}`: {}",
                path.display(),
                text(&output)
            );
            count += 1;
        }
    }
    assert!(count > 10, "only {count} commands were found");
}

#[test]
fn the_first_files_pass_every_check() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("first");
    let run = |args: &[&str]| hopguard().args(args).output().unwrap();
    let folder = into.to_str().unwrap();
    let made = run(&["config", "init", folder]);
    assert!(made.status.success(), "{}", text(&made));
    let file = |name: &str| into.join(name).to_str().unwrap().to_owned();
    let (mesh, sidecar, ca, entries) = (
        file("mesh.toml"),
        file("sidecar.toml"),
        file("ca.toml"),
        file("entries.toml"),
    );
    let checked = run(&["config", "check", &mesh, &sidecar, &ca, &entries]);
    assert!(checked.status.success(), "{}", text(&checked));
    let policies = run(&["policy", "check", "--mesh", &mesh, &file("policies")]);
    assert!(policies.status.success(), "{}", text(&policies));
    let again = run(&["config", "init", folder]);
    assert!(!again.status.success(), "files that were there were written over");
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("](") {
            let target: String = text[at + 2..].chars().take_while(|c| *c != ')').collect();
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(
                path.parent().unwrap().join(file).exists(),
                "{}: {target}",
                path.display()
            );
        }
    }
}
