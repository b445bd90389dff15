//! The harness of the tests: a deadline instead of a sleep, processes that end with their guard, and the real binary.

mod anyone;
mod attacker;
pub mod frames;
mod load;
mod mesh;
mod probe;
mod rig;
mod svid;
mod wire;

pub use anyone::Anyone;
pub use attacker::{Flight, Shot, Until, Via, Who, shoot};
pub use load::{Counted, Load};
pub use mesh::{Mesh, Options, output_within, succeeded};
pub use probe::{Probe, Seen};
pub use rig::{Echo, KEYS_PORT, Sender, Sight};
pub use wire::{Answer, answers};

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Calls `probe` until it returns a value, at most for `deadline`; returns its last error past that.
///
/// # Errors
/// The last error of `probe`, with the time waited.
pub fn eventually<T, E: std::fmt::Display>(
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(format!("not within {deadline:?}: {error}"));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
        }
    }
}

/// The hopguard binary under test: `HOPGUARD_BIN`, else the one built beside the tests.
pub fn hopguard_bin() -> PathBuf {
    if let Some(path) = std::env::var_os("HOPGUARD_BIN") {
        return PathBuf::from(path);
    }
    // target/debug/deps/test-xyz -> target/debug/hopguard
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("hopguard")
}

/// A command that runs the binary under test.
pub fn hopguard() -> Command {
    Command::new(hopguard_bin())
}

/// A folder of these files, for [`Options::dir`]; it is gone when the value is dropped.
///
/// # Panics
/// The files cannot be written.
pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        let above = path.parent().expect("a path below the folder");
        std::fs::create_dir_all(above).expect("a folder");
        std::fs::write(&path, text).expect("a file");
    }
    folder
}

/// A child process that does not outlive its test.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}
