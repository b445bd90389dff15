//! A question that is asked again and again in a pod while the test changes something: what changed in the answers, and
//! when, leaves.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::{Guard, Mesh, eventually, hopguard_bin};

/// A running probe. Dropped, it ends.
pub struct Probe {
    _child: Guard,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// From this time on the answer was this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When the first such answer had come.
    pub at: SystemTime,
    /// The status, or `none`.
    pub answer: String,
}

impl Probe {
    /// Starts `hopguard-probe` in a pod as its application.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mesh: &Mesh, pod: &str, arguments: &[&str]) -> Result<Self, String> {
        let program = hopguard_bin().with_file_name("hopguard-probe");
        let mut line = vec![program.to_str().ok_or("a path that is no text")?];
        line.extend(arguments);
        let mut child = mesh
            .command(pod, &line)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting {line:?}: {e}"))?;
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let filled = Arc::clone(&seen);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                filled
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(read(&line));
            }
        });
        Ok(Self {
            _child: Guard(child),
            seen,
        })
    }

    /// Every change so far, the first answer included.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the latest answer is `answer`; returns since when it is.
    ///
    /// # Errors
    /// What was seen instead.
    pub fn until(&self, answer: &str, deadline: Duration) -> Result<SystemTime, String> {
        eventually(deadline, || {
            let seen = self.seen();
            match seen.last() {
                Some(last) if last.answer == answer => Ok(last.at),
                _ => Err(format!("no {answer}: {seen:?}")),
            }
        })
    }
}

fn read(line: &str) -> Option<Seen> {
    let (millis, answer) = line.split_once(' ')?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis.parse().ok()?);
    Some(Seen {
        at,
        answer: answer.to_owned(),
    })
}
