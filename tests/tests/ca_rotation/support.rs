//! An authority of its own for each test, its operators, and workloads that verify each other.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use hopguard_tests::{Guard, eventually, hopguard, hopguard_bin};
use serde_json::Value;
use tempfile::TempDir;

/// Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Authority {
    pub dir: TempDir,
    process: Option<Guard>,
}

impl Authority {
    /// With these keys in ca.toml; whoever runs the tests has an identity.
    pub fn start(keys: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid();
        let entry =
            format!("[[entry]]\nspiffe_id = \"spiffe://mesh.local/a\"\nselectors = [\"unix:uid:{uid}\"]\n");
        std::fs::write(dir.path().join("entries.toml"), entry).unwrap();
        let mut authority = Self { dir, process: None };
        authority.configure(keys);
        authority.run();
        authority
    }

    pub fn configure(&self, keys: &str) {
        let config = format!(
            "trust_domain = \"mesh.local\"\ndata_dir = \"data\"\nentries = \"entries.toml\"\n{keys}\n\
             [[workload_api]]\nsocket = \"w.sock\"\n\
             [limits]\nconnections_per_uid = 3000\ncalls_per_second = 5000\ncall_burst = 10000\n"
        );
        std::fs::write(self.path("ca.toml"), config).unwrap();
    }

    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut child = hopguard()
            .args(["ca", "serve"])
            .arg(self.path("ca.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = lines(&mut child);
        self.process = Some(Guard(child));
        let ready = lines.recv_timeout(DEADLINE).unwrap_or_default();
        assert!(ready.starts_with("unix:///"), "not ready: {}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A verb of `hopguard ca` on it.
    pub fn command(&self, verb: &[&str]) -> Command {
        let mut command = hopguard();
        command
            .args(["-o", "json", "ca"])
            .args(verb)
            .arg("--config")
            .arg(self.path("ca.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn ask(&self, verb: &[&str]) -> Output {
        self.command(verb).output().unwrap()
    }

    /// A verb that must succeed: its answer, and its progress.
    pub fn done(&self, verb: &[&str]) -> (Value, Vec<Value>) {
        let output = self.ask(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{verb:?}: {said}");
        let progress = said.lines().map(|line| serde_json::from_str(line).unwrap());
        (
            serde_json::from_slice(&output.stdout).unwrap(),
            progress.collect(),
        )
    }

    /// A verb that must be refused: what it says.
    pub fn refused(&self, verb: &[&str]) -> Value {
        let output = self.ask(verb);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty());
        serde_json::from_slice(&output.stderr).unwrap()
    }

    pub fn status(&self) -> Value {
        self.done(&["status"]).0
    }

    /// Ids of a kind in a state.
    pub fn ids(&self, kind: &str, state: &str) -> Vec<String> {
        ids(&self.status(), kind, state)
    }

    /// Names of the key files.
    pub fn key_files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path("data")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".p8")).collect();
        names.sort();
        names
    }

    pub fn streams(&self, count: usize, bundles: usize) -> Streams {
        let mut command = Command::new(hopguard_bin().with_file_name("hopguard-streams"));
        command
            .arg(self.path("w.sock"))
            .arg(count.to_string())
            .arg(bundles.to_string());
        let streams = Streams::start(command);
        streams.all_hold(count + bundles);
        streams
    }
}

pub fn ids(status: &Value, kind: &str, state: &str) -> Vec<String> {
    let all = status["authorities"].as_array().unwrap().iter();
    all.filter(|one| one["kind"] == kind && one["state"] == state)
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Workloads with open streams.
pub struct Streams {
    _process: Guard,
    stdin: std::cell::RefCell<ChildStdin>,
    lines: Receiver<String>,
}

impl Streams {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, stdin) = (lines(&mut child), child.stdin.take().unwrap());
        Self {
            _process: Guard(child),
            stdin: stdin.into(),
            lines,
        }
    }

    fn asked(&self, words: &str) -> Value {
        writeln!(self.stdin.borrow_mut(), "{words}").unwrap();
        let line = self.lines.recv_timeout(DEADLINE).expect("the streams answer");
        serde_json::from_str(&line).unwrap()
    }

    /// How it stands; nobody ever failed to verify somebody.
    pub fn told(&self) -> Value {
        let told = self.asked("tell");
        assert_eq!(told["failed"], 0, "{told}");
        told
    }

    /// How it stands, where somebody may be hurt.
    pub fn asked_without_judging(&self) -> Value {
        self.asked("tell")
    }

    pub fn all_hold(&self, count: usize) {
        eventually(DEADLINE, || {
            let told = self.told();
            if told["alive"] == count {
                Ok(())
            } else {
                Err(told.to_string())
            }
        })
        .unwrap();
    }

    /// openssl accepts every chain that somebody holds against every bundle that somebody holds. `folder` is how the
    /// streams see `ours`.
    pub fn openssl_accepts(&self, ours: &Path, folder: &str) {
        std::fs::create_dir_all(ours).unwrap();
        let dumped = self.asked(&format!("dump {folder}"));
        assert!(dumped["chains"].as_u64() > Some(0), "{dumped}");
        let files = |prefix: &str| -> Vec<PathBuf> {
            let all = std::fs::read_dir(ours)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            all.filter(|path| {
                path.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
            })
            .collect()
        };
        for bundle in files("bundle.") {
            let verified = Command::new("openssl")
                .args([
                    "verify",
                    "-x509_strict",
                    "-attime",
                    &dumped["at"].to_string(),
                    "-CAfile",
                ])
                .arg(&bundle)
                .args(files("chain."))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success(), "{}: {said}", bundle.display());
        }
        std::fs::remove_dir_all(ours).unwrap();
    }
}

pub fn lines(child: &mut Child) -> Receiver<String> {
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
