//! The clients behind one face: a question is a JSON value, and so is its answer (tests/python/conformance.py says which).

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use hopguard_tests::Guard;
use serde_json::Value;

use crate::client_crate::Crate;
use crate::support::{DEADLINE, python, source};

/// A client, by the name of what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// PyPI `spiffe`.
    Spiffe,
    /// PyPI `spiffe-defakto`.
    Defakto,
    /// `grpcio`, with messages by reflection.
    Raw,
    /// crates.io `spiffe`.
    Crate,
}

pub const ALL: [Client; 4] = [Client::Spiffe, Client::Defakto, Client::Raw, Client::Crate];

/// Somebody who asks.
pub trait Driver {
    fn ask(&mut self, question: &Value) -> Value;
}

impl Client {
    pub fn connect(self, endpoint: &str) -> Box<dyn Driver> {
        match self {
            Self::Crate => Box::new(Crate::connect(endpoint)),
            _ => Box::new(Python::start(self, endpoint, &[])),
        }
    }

    /// The messages of a stream (`x509` or `jwt`) as they come, and at last how it ended.
    pub fn watch(self, endpoint: &str, what: &str) -> Watch {
        match self {
            Self::Crate => Watch {
                lines: Crate::watch(endpoint, what),
                _watching: None,
            },
            _ => {
                let python = Python::start(self, endpoint, &[what]);
                Watch {
                    lines: python.lines,
                    _watching: Some((python._process, python.stdin)),
                }
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Defakto => "defakto",
            Self::Raw => "raw",
            Self::Crate => "crate",
        }
    }
}

/// A stream that somebody follows.
pub struct Watch {
    lines: Receiver<Value>,
    _watching: Option<(Guard, ChildStdin)>,
}

impl Watch {
    pub fn next(&self) -> Value {
        next(&self.lines)
    }
}

struct Python {
    _process: Guard,
    lines: Receiver<Value>,
    stdin: ChildStdin,
}

impl Python {
    fn start(client: Client, endpoint: &str, more: &[&str]) -> Self {
        let mut child = Command::new(python())
            .arg(source("python/conformance.py"))
            .args([client.name(), endpoint])
            .args(more)
            .env("GRPC_VERBOSITY", "NONE")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self {
            _process: Guard(child),
            lines,
            stdin,
        }
    }
}

impl Driver for Python {
    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.stdin, "{question}").unwrap();
        next(&self.lines)
    }
}

fn next(lines: &Receiver<Value>) -> Value {
    match lines.recv_timeout(DEADLINE) {
        Ok(said) => said,
        Err(RecvTimeoutError::Timeout) => panic!("the client says nothing for {DEADLINE:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("the client ended"),
    }
}
