//! Who is told of a change, and how: a command that is run, or a signal to the process of a pid file. Neither goes through a
//! shell.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open, pidfd_send_signal};
use tokio::process::Command;
use tokio::time::timeout;

/// A command that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_PID: u64 = 32;

/// Signals by which programs read their files again, or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Signal {
    Hup,
    Usr1,
    Usr2,
    Term,
}

impl Signal {
    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Hup => rustix::process::Signal::HUP,
            Self::Usr1 => rustix::process::Signal::USR1,
            Self::Usr2 => rustix::process::Signal::USR2,
            Self::Term => rustix::process::Signal::TERM,
        }
    }
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nobody.
    Nobody,
    /// A program and its arguments.
    Command(Vec<String>),
    /// The process that a file names.
    Signal(Signal, PathBuf),
}

impl Change {
    /// Tells it; what is answered is what was done, in words.
    pub async fn tell(&self, dir: &Path) -> Result<&'static str, String> {
        match self {
            Self::Nobody => Ok("nobody is told"),
            Self::Command(words) => run(words, dir).await.map(|()| "the command was run"),
            Self::Signal(signal, file) => send(*signal, file),
        }
    }
}

async fn run(words: &[String], dir: &Path) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("the command is empty")?;
    let said = |error: std::io::Error| format!("`{program}`: {error}");
    // Our results go to stdout; what a program says is none.
    let out = std::io::stderr().as_fd().try_clone_to_owned().map_err(said)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("HOPGUARD_SVID_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::from(out))
        .kill_on_drop(true)
        .spawn()
        .map_err(said)?;
    let status = timeout(PATIENCE, child.wait())
        .await
        .map_err(|_| format!("`{program}` did not end within {} s", PATIENCE.as_secs()))?
        .map_err(said)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{program}`: {status}"))
    }
}

fn send(signal: Signal, file: &Path) -> Result<&'static str, String> {
    const NOT_RUNNING: &str = "nothing runs that could be told; it will read the files when it starts";
    let Some(pid) = pid(file)? else {
        return Ok(NOT_RUNNING);
    };
    let failed = |error: rustix::io::Errno| {
        format!(
            "process {} of `{}`: {error}",
            pid.as_raw_nonzero(),
            file.display()
        )
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(NOT_RUNNING),
        process => process.map_err(failed)?,
    };
    // Held now; if the file still names it, it is not a stranger who got the number of one that ended meanwhile.
    if self::pid(file)? != Some(pid) {
        return Err(format!("`{}` changed while it was read", file.display()));
    }
    match pidfd_send_signal(&process, signal.number()) {
        Err(rustix::io::Errno::SRCH) => Ok(NOT_RUNNING),
        sent => sent.map(|()| "the signal was sent").map_err(failed),
    }
}

/// The process that a pid file names; none where there is no file.
fn pid(file: &Path) -> Result<Option<Pid>, String> {
    let place = file.display();
    let opened = match File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| format!("`{place}`: {error}"))?,
    };
    let found = opened.metadata().map_err(|error| format!("`{place}`: {error}"))?;
    if found.mode() & 0o022 != 0 || ![0, geteuid().as_raw()].contains(&found.uid()) {
        return Err(format!("`{place}`: other users could name any process in it"));
    }
    let mut text = String::new();
    opened
        .take(MAX_PID)
        .read_to_string(&mut text)
        .map_err(|error| format!("`{place}`: {error}"))?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw);
    pid.map(Some)
        .ok_or_else(|| format!("`{place}` holds no process id"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_command_is_run_without_a_shell_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = |words: &[&str]| Change::Command(words.iter().map(|word| (*word).to_owned()).collect());
        let made = dir.path().join("$HOME; x");
        let touch = run(&["touch", made.to_str().unwrap()]);
        touch.tell(dir.path()).await.unwrap();
        assert!(made.exists());
        run(&["sh", "-c", "touch \"$HOPGUARD_SVID_DIR\"/told"])
            .tell(dir.path())
            .await
            .unwrap();
        assert!(dir.path().join("told").exists());
        let failed = run(&["sh", "-c", "exit 3"]).tell(dir.path()).await.unwrap_err();
        assert!(failed.contains("exit status: 3"), "{failed}");
        assert!(run(&["/no/such"]).tell(dir.path()).await.is_err());
        assert!(run(&[]).tell(dir.path()).await.is_err());
    }

    #[tokio::test]
    async fn a_pid_file_is_believed_when_only_its_owner_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let change = Change::Signal(Signal::Term, file.clone());
        assert!(change.tell(dir.path()).await.unwrap().contains("nothing runs"));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for bad in ["", "x", "0", "1", "-5", "99999999999999"] {
            std::fs::write(&file, bad).unwrap();
            assert!(change.tell(dir.path()).await.is_err(), "{bad}");
        }
        std::fs::write(&file, format!("{}\n", child.id())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(change.tell(dir.path()).await.unwrap_err().contains("other users"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(change.tell(dir.path()).await.unwrap(), "the signal was sent");
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
        assert!(
            change.tell(dir.path()).await.unwrap().contains("nothing runs"),
            "it was reaped"
        );
    }
}
