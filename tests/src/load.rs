//! A load that runs in a pod while the test does something to the mesh: `hopguard-load`'s arguments enter, what it counted
//! leaves. It judges nothing.

use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::{Guard, Mesh, hopguard_bin};

/// A running load. Dropped, it ends.
pub struct Load {
    child: Guard,
    said: mpsc::Receiver<String>,
}

/// What a load counted.
#[derive(Debug)]
pub struct Counted(pub Value);

impl Load {
    /// Starts `hopguard-load` in a pod as its application, past nothing: through the pod's sidecar.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mesh: &Mesh, pod: &str, arguments: &[&str]) -> Result<Self, String> {
        let program = hopguard_bin().with_file_name("hopguard-load");
        let mut line = vec![program.to_str().ok_or("a path that is no text")?];
        line.extend(arguments);
        let mut child: Child = mesh
            .command(pod, &line)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting {line:?}: {e}"))?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            let _test_is_over = sender.send(std::io::read_to_string(stdout).unwrap_or_default());
        });
        Ok(Self {
            child: Guard(child),
            said,
        })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.0.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It did not end within `deadline`, or said nothing that can be read.
    pub fn finish(self, deadline: Duration) -> Result<Counted, String> {
        let text = self
            .said
            .recv_timeout(deadline)
            .map_err(|_| format!("the load did not end within {deadline:?}"))?;
        serde_json::from_str(&text)
            .map(Counted)
            .map_err(|e| format!("{e}: {text}"))
    }
}

impl Counted {
    /// A number that it counted: `sent`, `answered`, `failed`, `connections_opened`.
    pub fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    /// How many answers had this status.
    pub fn with_status(&self, status: u16) -> u64 {
        let count = self.0.get("statuses").and_then(|all| all.get(status.to_string()));
        count.and_then(Value::as_u64).unwrap_or(0)
    }

    /// Everything that was sent was answered, with 200.
    ///
    /// # Errors
    /// What was lost or answered otherwise.
    pub fn all_good(&self) -> Result<u64, String> {
        let sent = self.number("sent");
        if sent > 0
            && self.number("failed") == 0
            && self.number("answered") == sent
            && self.with_status(200) == sent
        {
            Ok(sent)
        } else {
            Err(self.0.to_string())
        }
    }
}
