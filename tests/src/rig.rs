//! A pod whose application tells what it received, and a pod that sends what it is told to: with both, a test sees both sides of
//! a sidecar.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::attacker::{Flight, Shot};
use crate::{Guard, Mesh, eventually, hopguard_bin};

/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request as the application received it.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Which of its connections.
    pub connection: u64,
    /// The head, byte for byte.
    pub head: Vec<u8>,
    /// The body as it was on the wire.
    pub body: Vec<u8>,
    /// `whole`, or how it broke off.
    pub ended: String,
}

impl Sight {
    /// The request line.
    pub fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        text.split("\r\n").next().unwrap_or_default().to_owned()
    }

    /// Method and target.
    pub fn target(&self) -> (String, String) {
        let line = self.line();
        let mut words = line.split(' ').map(str::to_owned);
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// Every header line, the name as it came.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut rest = self.head.as_slice();
        while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
            let line = &rest[..at];
            rest = &rest[at + 2..];
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let name = String::from_utf8_lossy(&line[..colon]).into_owned();
                found.push((name, line[colon + 1..].trim_ascii().to_vec()));
            }
        }
        // The request line may hold a colon, and is no header.
        let first = self.line();
        if first.contains(':') && !found.is_empty() {
            found.remove(0);
        }
        found
    }

    /// The values of a header.
    pub fn values(&self, name: &str) -> Vec<String> {
        let own = |(known, value): (String, Vec<u8>)| {
            known
                .eq_ignore_ascii_case(name)
                .then(|| String::from_utf8_lossy(&value).into_owned())
        };
        self.headers().into_iter().filter_map(own).collect()
    }

    /// The body without its chunks.
    pub fn content(&self) -> Vec<u8> {
        if self.values("transfer-encoding").is_empty() {
            return self.body.clone();
        }
        let answer = [
            b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n",
            self.body.as_slice(),
        ]
        .concat();
        let found = crate::wire::answers(&answer, &["GET".to_owned()], false);
        found
            .first()
            .map(|answer| answer.body.clone())
            .unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Told {
    conn: Option<u64>,
    #[serde(default)]
    head: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    ended: String,
}

/// `hopguard-echo` in a pod, in the place of its application.
pub struct Echo {
    _child: Guard,
    keys: Mutex<ChildStdin>,
    sights: Arc<Mutex<Vec<Sight>>>,
}

/// The port of loopback on which [`Echo`] serves a key set.
pub const KEYS_PORT: u16 = 9999;

impl Echo {
    /// Takes the place of the application of `pod`.
    ///
    /// # Errors
    /// The application did not end, or this one did not start.
    pub fn start(mesh: &Mesh, pod: &str) -> Result<Self, String> {
        mesh.ctl("stop", &format!("app:{pod}"))?;
        let program = hopguard_bin().with_file_name("hopguard-echo");
        let program = program.to_str().ok_or("a path that is no text")?;
        let mut command = mesh.command(pod, &[program, "8080", &KEYS_PORT.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting {program}: {e}"))?;
        let keys = child.stdin.take().ok_or("no standard input")?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let sights: Arc<Mutex<Vec<Sight>>> = Arc::default();
        let filled = Arc::clone(&sights);
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || listen(stdout, &filled, &ready));
        is_ready
            .recv_timeout(PATIENCE)
            .map_err(|_| "the application does not listen".to_owned())?;
        Ok(Self {
            _child: Guard(child),
            keys: Mutex::new(keys),
            sights,
        })
    }

    /// Serves this key set from now on.
    ///
    /// # Errors
    /// The program has ended.
    pub fn keys(&self, document: &str) -> Result<(), String> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(keys, "{document}").map_err(|e| e.to_string())
    }

    /// Everything received so far.
    pub fn sights(&self) -> Vec<Sight> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what was received so far.
    pub fn clear(&self) {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for `count` requests whose head holds `mark`; takes them out.
    ///
    /// # Errors
    /// They did not come.
    pub fn take(&self, mark: &str, count: usize) -> Result<Vec<Sight>, String> {
        let marked = |sight: &Sight| holds(&sight.head, mark);
        eventually(PATIENCE, || {
            let mut sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
            if sights.iter().filter(|sight| marked(sight)).count() < count {
                return Err(format!("the application did not receive {mark}: {sights:?}"));
            }
            let (own, others) = sights.drain(..).partition(|sight| marked(sight));
            *sights = others;
            Ok(own)
        })
    }
}

fn holds(bytes: &[u8], mark: &str) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
}

fn listen(stdout: ChildStdout, sights: &Mutex<Vec<Sight>>, ready: &mpsc::Sender<()>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(told) = serde_json::from_str::<Told>(&line) else {
            continue;
        };
        let Some(connection) = told.conn else {
            let _test_is_over = ready.send(());
            continue;
        };
        let sight = Sight {
            connection,
            head: hex::decode(told.head).unwrap_or_default(),
            body: hex::decode(told.body).unwrap_or_default(),
            ended: told.ended,
        };
        sights.lock().unwrap_or_else(PoisonError::into_inner).push(sight);
    }
}

/// `hopguard-raw` in a pod.
pub struct Sender {
    _child: Guard,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Sender {
    /// Starts it in `pod`.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(mesh: &Mesh, pod: &str) -> Result<Self, String> {
        let program = hopguard_bin().with_file_name("hopguard-raw");
        let program = program.to_str().ok_or("a path that is no text")?;
        let mut child = mesh
            .command(pod, &[program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting {program}: {e}"))?;
        let stdin = child.stdin.take().ok_or("no standard input")?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            _child: Guard(child),
            pipes: Mutex::new((stdin, BufReader::new(stdout))),
        })
    }

    /// Sends one shot and waits for its end.
    ///
    /// # Errors
    /// The program has ended.
    pub fn shoot(&self, shot: &Shot) -> Result<Flight, String> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(shot).map_err(|e| e.to_string())?;
        writeln!(pipes.0, "{line}").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        pipes.1.read_line(&mut answer).map_err(|e| e.to_string())?;
        serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))
    }
}
