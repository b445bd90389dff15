//! A test of the tests: a control that no setting can turn off is taken out of a copy of the sources, the copy is built, and
//! the scenario that stands for the control must fail (`demo_without_controls.rs` has those that configuration can take out). A scenario that passes without its control proves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hopguard_tests::output_within;
use serde_json::Value;

struct Mutant {
    control: &'static str,
    /// Of the seven scenarios, those that must fail without it.
    caught_by: &'static [u64],
    file: &'static str,
    /// Stands exactly once in the file.
    original: &'static str,
    replacement: &'static str,
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        control: "a peer's chain leads to a root of its trust domain",
        caught_by: &[4],
        file: "sidecar/src/tls/verify.rs",
        original: ".map_err(|e| why(&e, domain))?;",
        replacement: ".map_err(|e| why(&e, domain)).ok();",
    },
    Mutant {
        control: "a token's signature verifies",
        caught_by: &[6],
        file: "jose/src/jws.rs",
        original: ".map_err(|_| TokenError::Signature)?;",
        replacement: ".map_err(|_| TokenError::Signature).ok();",
    },
    Mutant {
        control: "what binds a token is asked for after the cache",
        caught_by: &[7],
        file: "sidecar/src/flow/token.rs",
        original: "bound(&verified.binding, &place, asked.secured, key).map_err(unbound)?;",
        replacement: "bound(&verified.binding, &place, asked.secured, key).map_err(unbound).ok();",
    },
];

/// Building a copy on a busy machine.
const BUILDING: Duration = Duration::from_secs(900);
/// Telling the story.
const TELLING: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// A copy of what is built, with a target folder that starts from what this workspace built of other people's crates.
struct Copy {
    dir: tempfile::TempDir,
    target: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let built = hopguard_tests::hopguard_bin().parent().unwrap().to_path_buf();
        let target = built.parent().unwrap().join("mutants");
        let debug = target.join("debug");
        let _none_yet = fs::remove_dir_all(&target);
        fs::create_dir_all(&debug).unwrap();
        for part in ["deps", "build", ".fingerprint"] {
            // Hard links: the crates of others are the same, and cargo replaces files, it does not write into them.
            run(Command::new("cp").arg("-al").arg(built.join(part)).arg(&debug));
        }
        let dir = tempfile::tempdir().unwrap();
        let sources = [
            "Cargo.toml",
            "Cargo.lock",
            "rust-toolchain.toml",
            "cli",
            "sidecar",
            "ca",
            "iptables",
            "inject",
            "jose",
            "tests",
            "examples",
        ];
        for source in sources {
            run(Command::new("cp")
                .arg("-a")
                .arg(root().join(source))
                .arg(dir.path()));
        }
        Self { dir, target }
    }

    fn hopguard(&self) -> PathBuf {
        self.target.join("debug/hopguard")
    }

    fn build(&self) {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--locked", "-p", "hopguard"])
            .current_dir(self.dir.path())
            .env("CARGO_TARGET_DIR", &self.target)
            // The mutants leave things unused; that is their nature.
            .env("RUSTFLAGS", std::env::var("RUSTFLAGS").unwrap_or_default());
        let built = output_within(BUILDING, cargo).unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
    }

    /// Which scenarios failed, in the story that the copy tells.
    fn failed_scenarios(&self) -> Vec<u64> {
        let mut story = Command::new(self.hopguard());
        let name = format!("mutant-{}", std::process::id());
        story
            .args(["demo", "--once", "-o", "json", "--name", &name])
            .stdin(Stdio::null());
        let told = output_within(TELLING, story).unwrap();
        let text = String::from_utf8_lossy(&told.stdout);
        let report: Value = text
            .lines()
            .find_map(|line| serde_json::from_str(line).ok())
            .unwrap_or_else(|| {
                panic!("no report; stderr: {}", String::from_utf8_lossy(&told.stderr));
            });
        let scenarios = report["scenarios"].as_array().unwrap();
        assert_eq!(scenarios.len(), 7);
        scenarios
            .iter()
            .filter(|scenario| scenario["ok"] == Value::Bool(false))
            .map(|scenario| scenario["id"].as_u64().unwrap())
            .collect()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _left_for_the_next_run = fs::remove_dir_all(&self.target);
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn each_control_that_is_taken_out_makes_its_scenario_fail() {
    let copy = Copy::new();
    copy.build();
    assert_eq!(
        copy.failed_scenarios(),
        [0; 0],
        "the copy itself must tell the story as the original does"
    );
    for mutant in MUTANTS {
        let file = copy.dir.path().join(mutant.file);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(
            text.matches(mutant.original).count(),
            1,
            "{}: the control has moved",
            mutant.control
        );
        fs::write(&file, text.replace(mutant.original, mutant.replacement)).unwrap();
        copy.build();
        let failed = copy.failed_scenarios();
        for scenario in mutant.caught_by {
            assert!(
                failed.contains(scenario),
                "without \"{}\" scenario {scenario} passed; failed: {failed:?}",
                mutant.control
            );
        }
        fs::write(&file, text).unwrap();
    }
}
