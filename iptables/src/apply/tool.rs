//! One program of iptables: found once, run with a deadline, its output bounded, its complaint kept.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::{Cause, Options};
use crate::host::{find, may_administer_network};
use crate::rules::Family;
use crate::state::Ruleset;

/// The most that is read from a program; no machine has that many rules.
const MAX_OUTPUT: u64 = 64 * 1024 * 1024;
/// The most of a complaint that is shown.
const MAX_SAID: usize = 600;

/// A program, found.
#[derive(Clone, Debug)]
pub struct Tool {
    path: PathBuf,
    timeout: Duration,
}

impl Tool {
    /// Looks for `iptables-WHAT` of a family and implementation.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find(family: Family, what: &str, options: &Options) -> Result<Self, Cause> {
        let program = options.backend.program(family, what);
        let path = find(&program, options.path.as_deref()).ok_or(Cause::Missing { program })?;
        Ok(Self {
            path,
            timeout: options.timeout,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it as `iptables-save` and reads the rules.
    ///
    /// # Errors
    /// It fails, or prints what is not understood.
    pub fn rules(&self) -> Result<Ruleset, Cause> {
        let text = self.run(&[], None)?;
        Ruleset::parse(&text).map_err(|bad| Cause::Unreadable {
            program: self.path.clone(),
            bad,
        })
    }

    /// Runs it with `input` and returns what it prints.
    ///
    /// # Errors
    /// It cannot be started, does not end in time, or fails.
    pub fn run(&self, args: &[&str], input: Option<&str>) -> Result<String, Cause> {
        let failed = |error| Cause::Start {
            program: self.path.clone(),
            error,
        };
        let mut child = Command::new(&self.path)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        feed(&mut child, input);
        let deadline = Instant::now() + self.timeout;
        let (Some(out), Some(err)) = (until(&out, deadline), until(&err, deadline)) else {
            let _already_gone = child.kill();
            let _reaped = child.wait();
            return Err(Cause::TimedOut {
                program: self.path.clone(),
                seconds: self.timeout.as_secs(),
            });
        };
        // Both ends closed: it ends now.
        let status = child.wait().map_err(failed)?;
        let said = complaint(&err.map_err(failed)?);
        if !status.success() {
            let program = self.path.clone();
            let refused = ["Permission denied", "Operation not permitted"]
                .iter()
                .any(|words| said.contains(words));
            // iptables-legacy only says that it cannot initialize a table.
            let refused = refused || !may_administer_network();
            return Err(if refused {
                Cause::NotPermitted { program, said }
            } else {
                Cause::Failed {
                    program,
                    status,
                    said,
                }
            });
        }
        Ok(String::from_utf8_lossy(&out.map_err(failed)?).into_owned())
    }
}

/// Reads a pipe to its end on a thread of its own, so that a program that fills one pipe is not stuck on the other.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT).read_to_end(&mut bytes));
        let _given_up = send.send(read.map(|_| bytes));
    });
    receive
}

/// Writes the input on a thread of its own; a program that stops reading says why by its status.
fn feed(child: &mut Child, input: Option<&str>) {
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        let input = input.to_owned();
        thread::spawn(move || pipe.write_all(input.as_bytes()));
    }
}

fn until<T>(receive: &Receiver<T>, deadline: Instant) -> Option<T> {
    receive
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .ok()
}

fn complaint(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .join(" / ")
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SAID)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(body: &str) -> (tempfile::TempDir, Tool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (
            dir,
            Tool {
                path,
                timeout: Duration::from_secs(20),
            },
        )
    }

    #[test]
    fn what_goes_in_and_out_may_be_larger_than_a_pipe() {
        let (_dir, tool) = script("cat; cat /dev/zero | head -c 200000 >&2");
        let input = "x".repeat(300_000);
        assert_eq!(tool.run(&[], Some(&input)).unwrap(), input);
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let (_dir, mut tool) = script("exec tail -f /dev/null");
        tool.timeout = Duration::from_millis(200);
        assert!(matches!(tool.run(&[], None), Err(Cause::TimedOut { .. })));
    }

    #[test]
    fn refusals_of_the_kernel_are_told_from_failures() {
        let (_dir, tool) = script("echo 'x: Permission denied (you must be root)' >&2; exit 4");
        assert!(matches!(tool.run(&[], None), Err(Cause::NotPermitted { .. })));
        let (_dir, tool) = script("echo 'line 3 failed' >&2; exit 1");
        match tool.run(&[], Some("text")) {
            Err(Cause::Failed { said, .. }) => assert_eq!(said, "line 3 failed"),
            Err(Cause::NotPermitted { .. }) => assert!(!may_administer_network()),
            other => panic!("{other:?}"),
        }
        let (_dir, tool) = script("echo hello");
        assert!(matches!(tool.rules(), Err(Cause::Unreadable { .. })));
    }
}
