//! A mesh for a test: the demo's pods, brought up by the real binary without its story. Options enter, a mesh that does not
//! outlive its test leaves. It makes no pod, file or configuration of its own.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::hopguard;

/// How long a mesh may take to come up, on a machine that builds and tests other things meanwhile.
const STARTING: Duration = Duration::from_secs(90);
/// How long a command in a pod may take.
const RUNNING: Duration = Duration::from_secs(60);

/// What a mesh shall be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A folder whose files replace those of the demo: `mesh.toml`, `ca.toml`, `entries.toml`, `sidecar-POD.toml`,
    /// `policies/*.cedar`; whatever else it holds is put beside `mesh.toml`.
    pub dir: Option<PathBuf>,
    /// The life of an SVID, such as `5s`.
    pub svid_ttl: Option<String>,
    /// Single values: `mesh:service.2.port.0.mode="permissive"`.
    pub set: Vec<String>,
    /// Further arguments: `--ipv6-only`, `--ipv4-only`.
    pub arguments: Vec<String>,
}

/// A running mesh.
pub struct Mesh {
    /// Its name: other commands find it by that.
    pub name: String,
    /// What it said when it was ready.
    pub ready: Value,
    child: Child,
    /// The mesh ends when this is closed.
    stdin: Option<ChildStdin>,
}

impl Mesh {
    /// Brings a mesh up and waits until it is ready.
    ///
    /// # Errors
    /// It did not become ready; what it wrote is in the text.
    pub fn start(options: &Options) -> Result<Self, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), STARTED.fetch_add(1, Relaxed));
        let mut words = tempfile::tempfile().map_err(|e| format!("a file for its words: {e}"))?;
        let stderr = words
            .try_clone()
            .map_err(|e| format!("a file for its words: {e}"))?;
        let mut child = command(&name, options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| format!("starting hopguard: {e}"))?;
        let stdin = child.stdin.take();
        let line = first_line(&mut child);
        // From here on it ends with the value, also when it is not ready.
        let mut mesh = Self {
            name,
            ready: Value::Null,
            child,
            stdin,
        };
        mesh.ready = line
            .and_then(|line| serde_json::from_str(&line).map_err(|e| format!("{e}: {line}")))
            .map_err(|error| {
                let mut said = String::new();
                let _unreadable = words.rewind().and_then(|()| words.read_to_string(&mut said));
                format!("the mesh did not come up: {error}; it said: {said}")
            })?;
        Ok(mesh)
    }

    /// A command that runs in a pod as its application: no capability, the pod's network, files and processes.
    pub fn command(&self, pod: &str, line: &[&str]) -> Command {
        self.command_with(&[], pod, line)
    }

    /// The same as the pod's root.
    pub fn root_command(&self, pod: &str, line: &[&str]) -> Command {
        self.command_with(&["--root"], pod, line)
    }

    fn command_with(&self, flags: &[&str], pod: &str, line: &[&str]) -> Command {
        let mut command = hopguard();
        command
            .args(["demo", "exec", "--name", &self.name])
            .args(flags)
            .arg(pod)
            .arg("--")
            .args(line);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command in a pod as its application.
    ///
    /// # Errors
    /// It could not be run, or did not end in time. A command that fails is no error.
    pub fn exec(&self, pod: &str, line: &[&str]) -> Result<Output, String> {
        output_within(RUNNING, self.command(pod, line))
    }

    /// Runs a command in a pod as the pod's root.
    ///
    /// # Errors
    /// As [`Mesh::exec`].
    pub fn exec_root(&self, pod: &str, line: &[&str]) -> Result<Output, String> {
        output_within(RUNNING, self.root_command(pod, line))
    }

    /// Does `start`, `stop`, `restart`, `kill`, `freeze` or `thaw` to a part: `ca`, `idp`, `web`, `app:web`, ...
    ///
    /// # Errors
    /// The demo refused.
    pub fn ctl(&self, action: &str, part: &str) -> Result<(), String> {
        let mut command = hopguard();
        command.args(["demo", "ctl", "--name", &self.name, action, part]);
        succeeded(output_within(RUNNING, command)?).map(drop)
    }

    /// What runs now.
    ///
    /// # Errors
    /// The demo does not answer.
    pub fn status(&self) -> Result<Value, String> {
        let mut command = hopguard();
        command.args(["-o", "json", "demo", "ctl", "--name", &self.name]);
        let text = succeeded(output_within(RUNNING, command)?)?;
        serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
    }

    /// The process of a part, as the host numbers it.
    pub fn pid(&self, part: &str) -> Option<u32> {
        let status = self.status().ok()?;
        u32::try_from(status.get("pids")?.get(part)?.as_u64()?).ok()
    }

    /// The process that started the mesh: everything ends with it.
    pub fn outermost(&self) -> u32 {
        self.child.id()
    }

    /// A token of the demo's provider; `flaw` is `none` for a good one.
    ///
    /// # Errors
    /// The provider gave none.
    pub fn token(&self, user: &str, flaw: &str) -> Result<String, String> {
        let mut command = hopguard();
        command.args(["demo", "token", "--name", &self.name, user, "--flaw", flaw]);
        succeeded(output_within(RUNNING, command)?).map(|text| text.trim().to_owned())
    }

    /// A good token of the demo's provider with other claims: `claims` is a JSON object whose members replace those of the
    /// token; `null` takes one out.
    ///
    /// # Errors
    /// The provider gave none.
    pub fn token_with(&self, user: &str, claims: &Value) -> Result<String, String> {
        let mut command = hopguard();
        command.args([
            "demo",
            "token",
            "--name",
            &self.name,
            user,
            "--claims",
            &claims.to_string(),
        ]);
        succeeded(output_within(RUNNING, command)?).map(|text| text.trim().to_owned())
    }

    /// A file of the mesh, to be read or written from here: `mesh/mesh.toml`, `mesh/policies/shop.cedar`,
    /// `pods/web/sidecar.toml`, `ca/entries.toml`, ...
    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = self
            .ready
            .get("root")
            .and_then(Value::as_str)
            .unwrap_or("/nonexistent");
        Path::new(root).join(path)
    }

    /// The records that the sidecar of `pod` wrote so far.
    pub fn records(&self, pod: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file(format!("pods/{pod}/records.jsonl"))).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The same one after the other, for loads that leave more records than should be held at once.
    ///
    /// # Errors
    /// There are none to be read.
    pub fn each_record(&self, pod: &str, mut look: impl FnMut(&Value)) -> Result<(), String> {
        let path = self.file(format!("pods/{pod}/records.jsonl"));
        let file = fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            // The last one may be half written.
            if let Ok(record) = serde_json::from_str(&line) {
                look(&record);
            }
        }
        Ok(())
    }

    /// A section of the administration socket of `pod`'s sidecar: `status`, `policy`, `issuers`, ...
    ///
    /// # Errors
    /// The sidecar does not answer.
    pub fn admin(&self, pod: &str, section: &str) -> Result<Value, String> {
        let path = self.file(format!("pods/{pod}/admin.sock"));
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let mut socket = UnixStream::connect(&path).map_err(failed)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .map_err(failed)?;
        let request = format!("GET /{section} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).map_err(failed)?;
        let answer = io::read_to_string(socket).map_err(failed)?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body)
            .unwrap_or_default();
        serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))
    }

    /// Puts `text` in the place of a file of the mesh, whole or not at all, as deployment tools do.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, path: &str, text: &str) -> Result<(), String> {
        let path = self.file(path);
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let aside = path.with_file_name(format!(".{name}.new"));
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Lays a file into a folder of its own in `pod`, where the pod's commands find it; returns its path there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn lay(&self, pod: &str, name: &str, text: &str) -> Result<String, String> {
        let path = format!("/tmp/laid/{name}");
        let mut command = self.command(pod, &["sh", "-c", &format!("mkdir -p /tmp/laid && cat > {path}")]);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        }
        let status = child.wait().map_err(|e| e.to_string())?;
        if status.success() {
            Ok(path)
        } else {
            Err(format!("{path} in {pod}: {status}"))
        }
    }

    /// What a part wrote besides its records: a sidecar's own events, an application's errors.
    pub fn log(&self, part: &str) -> String {
        let path = match part.strip_prefix("app:") {
            Some(pod) => format!("pods/{pod}/app.log"),
            None if part == "ca" || part == "idp" => format!("ca/{part}.log"),
            None => format!("pods/{part}/sidecar.log"),
        };
        fs::read_to_string(self.file(path)).unwrap_or_default()
    }

    /// How many requests the application of `pod` has counted, asked for past its sidecar.
    ///
    /// # Errors
    /// The application does not answer.
    pub fn counted(&self, pod: &str) -> Result<u64, String> {
        let text = succeeded(self.exec(
            pod,
            &["curl", "-sS", "--max-time", "10", "http://localhost:8080/count"],
        )?)?;
        let said: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        said.get("count").and_then(Value::as_u64).ok_or(text)
    }

    /// Ends the mesh by closing its standard input and returns its exit code.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn end(mut self) -> Result<Option<i32>, String> {
        drop(self.stdin.take());
        crate::eventually(Duration::from_secs(20), || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Killing the outermost process ends all the others.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn command(name: &str, options: &Options) -> Command {
    let mut command = hopguard();
    command
        .args(["demo", "up", "--bare", "--name", name])
        .args(&options.arguments);
    if let Some(dir) = &options.dir {
        command.arg("--dir").arg(dir);
    }
    if let Some(ttl) = &options.svid_ttl {
        command.args(["--svid-ttl", ttl]);
    }
    for assignment in &options.set {
        command.args(["--set", assignment]);
    }
    command
}

fn first_line(child: &mut Child) -> Result<String, String> {
    let stdout = child.stdout.take().ok_or("it has no standard output")?;
    let (sender, line) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout)
            .read_line(&mut line)
            .map(|_| line)
            .map_err(|e| e.to_string());
        let _test_is_over = sender.send(read);
    });
    let line = line
        .recv_timeout(STARTING)
        .map_err(|_| format!("nothing in {STARTING:?}"))??;
    if line.is_empty() {
        Err("it ended".to_owned())
    } else {
        Ok(line)
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It could not be started, or did not end within `deadline`: it is then killed.
pub fn output_within(deadline: Duration, mut command: Command) -> Result<Output, String> {
    let what = format!("{command:?}");
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{what}: {e}"))?;
    let pid = child.id();
    let (sender, output) = mpsc::channel();
    thread::spawn(move || {
        let _too_late = sender.send(child.wait_with_output());
    });
    match output.recv_timeout(deadline) {
        Ok(output) => output.map_err(|e| format!("{what}: {e}")),
        Err(_) => {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            Err(format!("{what} did not end within {deadline:?}"))
        }
    }
}

/// The standard output of a command that must have succeeded.
///
/// # Errors
/// It failed; what it wrote is in the text.
pub fn succeeded(output: Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!(
        "{}: {stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}
