//! An authority of its own for each test, and the foreign client.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hopguard_tests::{Guard, eventually, hopguard};
use serde_json::Value;
use tempfile::TempDir;

/// Generous: the machine may be busy. What must be fast is measured where it is asserted.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn is_root() -> bool {
    nix_uid() == 0
}

pub fn nix_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// An entry for whoever runs the tests, or another selector.
pub fn entry(path: &str, selectors: &[String]) -> String {
    format!("[[entry]]\nspiffe_id = \"spiffe://mesh.local/{path}\"\nselectors = {selectors:?}\n")
}

pub fn for_us(path: &str) -> String {
    entry(path, &[format!("unix:uid:{}", nix_uid())])
}

/// A running authority in a directory of its own.
pub struct Authority {
    pub dir: TempDir,
    process: Option<Guard>,
}

impl Authority {
    pub fn start(entries: &str) -> Self {
        Self::with(entries, "1h", "")
    }

    /// With a life for SVIDs, and more lines for ca.toml.
    pub fn with(entries: &str, svid_ttl: &str, more: &str) -> Self {
        let mut authority = Self::files(entries, svid_ttl, more);
        authority.run(hopguard());
        authority
    }

    /// The files alone.
    pub fn files(entries: &str, svid_ttl: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Clients of other uids must reach the socket in it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("entries.toml"), entries).unwrap();
        let config = format!(
            "trust_domain = \"mesh.local\"\ndata_dir = \"data\"\nentries = \"entries.toml\"\nsvid_ttl = \"{svid_ttl}\"\n\
             [[workload_api]]\nsocket = \"w.sock\"\n{more}"
        );
        std::fs::write(dir.path().join("ca.toml"), config).unwrap();
        Self { dir, process: None }
    }

    /// Runs `command ca serve` and returns the socket that it announces, which listens then.
    pub fn run(&mut self, mut command: Command) -> String {
        let config = self.config_argument(&command);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut child = command
            .args(["ca", "serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the hopguard binary is built (cargo build -p hopguard)");
        let lines = lines(&mut child);
        let guard = Guard(child);
        let ready = lines.recv_timeout(DEADLINE).unwrap_or_default();
        assert!(ready.starts_with("unix:///"), "not ready: {}", self.log());
        self.process = Some(guard);
        ready
    }

    /// Relative where the command runs in the authority's own directory.
    fn config_argument(&self, command: &Command) -> PathBuf {
        match command.get_current_dir() {
            Some(_) => "ca.toml".into(),
            None => self.path("ca.toml"),
        }
    }

    /// A verb of the command line that asks this authority.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = hopguard();
        command.args(arguments).arg("--config").arg(self.path("ca.toml"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same, and the JSON that it answers.
    pub fn ask_json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.ask(&[&["-o", "json"], arguments].concat());
        let text = if output.stdout.is_empty() {
            &output.stderr
        } else {
            &output.stdout
        };
        let json = serde_json::from_slice(text);
        (
            output.status.code(),
            json.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path("w.sock").display())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for a line of the log that has all these words, and returns it.
    pub fn logged(&self, words: &[&str]) -> Value {
        let found = eventually(DEADLINE, || {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)));
            line.map(|line| serde_json::from_str(line).unwrap())
                .ok_or_else(|| format!("no {words:?} in\n{log}"))
        });
        found.unwrap()
    }

    pub fn write_entries(&self, entries: &str) {
        // As editors and `kubectl` do it: a new file takes the place of the old one.
        std::fs::write(self.path("entries.new"), entries).unwrap();
        std::fs::rename(self.path("entries.new"), self.path("entries.toml")).unwrap();
    }

    pub fn kill_9(&mut self) {
        // The guard kills with SIGKILL.
        self.process = None;
    }

    /// SIGTERM; how it ended, and after how long.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let mut guard = self.process.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(guard.0.id()).unwrap());
        let start = Instant::now();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = eventually(DEADLINE, || match guard.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err("it still runs"),
        });
        (ended.unwrap(), start.elapsed())
    }
}

/// The python of tests/python/setup.sh.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let setup = source("python/setup.sh");
        let done = Command::new("sh").arg(setup).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
    })
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A running foreign client.
pub struct Client {
    _process: Guard,
    lines: Receiver<String>,
    _stdin: Option<ChildStdin>,
}

impl Client {
    pub fn start(arguments: &[&str]) -> Self {
        Self::of(Command::new(python()), arguments)
    }

    /// With another python, or in front of it another program.
    pub fn of(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .arg(source("python/client.py"))
            .args(arguments)
            .env("GRPC_VERBOSITY", "NONE")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, stdin) = (lines(&mut child), child.stdin.take());
        Self {
            _process: Guard(child),
            lines,
            _stdin: stdin,
        }
    }

    pub fn pid(&self) -> u32 {
        self._process.0.id()
    }

    /// The next line that it says.
    pub fn next(&self) -> Value {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => serde_json::from_str(&line).unwrap(),
            Err(RecvTimeoutError::Timeout) => panic!("the client says nothing for {DEADLINE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the client ended"),
        }
    }

    /// Whether it says nothing for a while.
    pub fn silent_for(&self, time: Duration) -> bool {
        matches!(self.lines.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

const SECURITY_HEADER: &str = "workload.spiffe.io=true";

/// A bare call of FetchX509SVID that runs until it ends by itself.
pub fn call(authority: &Authority, arguments: &[&str]) -> Client {
    let endpoint = authority.endpoint();
    Client::start(&[&["raw", &endpoint, "--header", SECURITY_HEADER], arguments].concat())
}

/// The first message of such a call, or its status.
pub fn first(authority: &Authority, arguments: &[&str]) -> Value {
    call(authority, &[&["--first"], arguments].concat()).next()
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
