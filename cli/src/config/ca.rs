//! The files of the certificate authority, checked by its own code: a path enters, its problems leave in the form that all
//! files share.

use std::path::Path;

use hopguard_sidecar::config::ConfigProblem;

/// Checks a `ca.toml` (with the entries that it names) or an entries file.
pub(super) fn check(path: &Path, text: &str) -> Result<(), Vec<ConfigProblem>> {
    hopguard_ca::config::check_file(path).map_err(|problems| {
        problems
            .into_iter()
            .map(|problem| {
                let text = (problem.file == path).then_some(text);
                let place = (problem.line, problem.column);
                ConfigProblem::at(&problem.file, text, place, problem.message, problem.hint)
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_files_of_the_authority_pass_its_own_check() {
        let examples = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/local"));
        for name in ["ca.toml", "entries.toml"] {
            let path = examples.join(name);
            let text = std::fs::read_to_string(&path).unwrap();
            let checked = check(&path, &text);
            assert!(checked.is_ok(), "{:?}", checked.err());
        }
    }

    #[test]
    fn its_problems_keep_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries.toml");
        let text = "[[entry]]\nspiffe_id = \"x\"\nselectors = [\"unix:uid:1\"]\n";
        std::fs::write(&path, text).unwrap();
        let problems = check(&path, text).unwrap_err();
        assert_eq!(
            (problems[0].file.as_path(), problems[0].line),
            (path.as_path(), 2)
        );
    }
}
