//! The parts of the mesh as processes: certificate authority, sidecars, applications, provider. Names and actions enter,
//! running or ended processes leave. A part that ended by itself is not started again: the demo shows what is.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::client::{self, Answer, Request, Security};
use super::cluster::Cluster;
use super::control::Action;
use super::idp::Secrets;
use super::pods::{APP_PORT, IDP_PORT, Pod, Role, meshed};
use super::{exec, failed, files, sidecar_init};
use crate::ui::Failure;

/// How long a part may take to end by itself before it is killed.
const ENDING: Duration = Duration::from_secs(10);
/// How long a part may take to be ready.
const STARTING: Duration = Duration::from_secs(20);
/// How long the provider's keys are waited for.
const LEARNING: Duration = Duration::from_secs(5);
/// How often readiness is asked for.
const ASKING: Duration = Duration::from_millis(20);
/// The port on which a sidecar says whether it is ready.
const HEALTH_PORT: u16 = 15021;

/// All parts.
pub struct Parts {
    cluster: Arc<Cluster>,
    secrets: Secrets,
    parts: BTreeMap<String, Part>,
}

struct Part {
    kind: Kind,
    child: Option<Child>,
}

#[derive(Clone, Copy)]
enum Kind {
    Authority,
    Provider,
    Sidecar(&'static Pod),
    Application(&'static Pod, Option<&'static str>),
}

/// The names of all parts.
pub fn names() -> Vec<String> {
    kinds().into_iter().map(|(name, _)| name).collect()
}

fn kinds() -> Vec<(String, Kind)> {
    let mut kinds = vec![
        ("ca".to_owned(), Kind::Authority),
        ("idp".to_owned(), Kind::Provider),
    ];
    for pod in meshed() {
        let Role::Service { next } = pod.role else {
            continue;
        };
        kinds.push((pod.name.to_owned(), Kind::Sidecar(pod)));
        kinds.push((format!("app:{}", pod.name), Kind::Application(pod, next)));
    }
    kinds
}

impl Parts {
    /// All parts, none of them started.
    pub fn new(cluster: Arc<Cluster>, secrets: Secrets) -> Self {
        let parts = kinds()
            .into_iter()
            .map(|(name, kind)| (name, Part { kind, child: None }))
            .collect();
        Self {
            cluster,
            secrets,
            parts,
        }
    }

    /// Starts everything, and returns when all of it is ready.
    pub async fn start_all(&mut self) -> Result<(), Failure> {
        // The provider before those who ask it for keys, sockets before those who ask for identity.
        for first in ["idp", "ca"] {
            self.start(first).await?;
        }
        for first in ["idp", "ca"] {
            self.ready(first).await?;
        }
        let others: Vec<_> = self
            .parts
            .keys()
            .filter(|name| !["idp", "ca"].contains(&name.as_str()))
            .cloned()
            .collect();
        for name in &others {
            self.start(name).await?;
        }
        for name in &others {
            self.ready(name).await?;
        }
        self.keys_known().await;
        Ok(())
    }

    /// Waits until the sidecars know the provider's keys. A sidecar is ready before, and answers 503 to tokens until then;
    /// that is right, and is not what the story is about. A provider that cannot be reached is no reason to end.
    async fn keys_known(&self) {
        let deadline = Instant::now() + LEARNING;
        for pod in meshed() {
            let socket = files::pod_folder(pod.name).join("admin.sock");
            while Instant::now() < deadline && !client::ask(&socket, "/issuers").await.is_ok_and(all_ready) {
                sleep(ASKING).await;
            }
        }
    }

    /// Does something to one part.
    pub async fn act(&mut self, action: Action, name: &str) -> Result<(), Failure> {
        match action {
            Action::Start => self.start(name).await,
            Action::Stop => self.stop(name).await,
            Action::Restart => {
                self.stop(name).await?;
                self.start(name).await
            }
            Action::Kill => {
                self.signal(name, Signal::SIGKILL)?;
                self.stop(name).await
            }
            Action::Freeze => self.signal(name, Signal::SIGSTOP),
            Action::Thaw => self.signal(name, Signal::SIGCONT),
        }
    }

    /// Takes note of parts that have ended, so that the kernel can let them go.
    pub fn collect(&mut self) {
        let _those_that_run = self.pids();
    }

    /// The process of each running part.
    pub fn pids(&mut self) -> BTreeMap<String, u32> {
        let alive = |part: &mut Part| {
            let child = part.child.as_mut()?;
            if child.try_wait().ok()?.is_some() {
                None
            } else {
                child.id()
            }
        };
        self.parts
            .iter_mut()
            .filter_map(|(name, part)| Some((name.clone(), alive(part)?)))
            .collect()
    }

    fn part(&mut self, name: &str) -> Result<&mut Part, Failure> {
        let names = self.parts.keys().cloned().collect::<Vec<_>>().join(", ");
        self.parts
            .get_mut(name)
            .ok_or_else(|| Failure::new(format!("no part `{name}`; there are {names}")))
    }

    async fn start(&mut self, name: &str) -> Result<(), Failure> {
        let kind = self.part(name)?.kind;
        if self.pids().contains_key(name) {
            return Err(Failure::new(format!("{name} runs already")));
        }
        let mut child = match kind {
            Kind::Authority => spawn_here(
                name,
                &confined("nothing", &["ca", "serve", "--config", files::CA_CONFIG]),
            )?,
            Kind::Sidecar(pod) => {
                let first = self.cluster.first_process(pod.name)?;
                spawn_here(name, &sidecar_init::Args::line(pod, first))?
            }
            Kind::Provider => self.spawn_there(name, "idp", &["demo", "idp"])?,
            Kind::Application(pod, next) => {
                let mut line = vec!["demo", "app", pod.name];
                line.extend(next.into_iter().flat_map(|url| ["--next", url]));
                self.spawn_there(name, pod.name, &line)?
            }
        };
        if let (Kind::Provider, Some(mut stdin)) = (kind, child.stdin.take()) {
            let secrets =
                serde_json::to_vec(&self.secrets).map_err(failed("writing the provider's secrets"))?;
            stdin
                .write_all(&secrets)
                .await
                .map_err(failed("handing over the provider's secrets"))?;
        }
        self.part(name)?.child = Some(child);
        Ok(())
    }

    fn spawn_there(&self, name: &str, pod: &str, line: &[&str]) -> Result<Child, Failure> {
        self.cluster
            .spawn_in(pod, command(name, &confined("nothing", line))?)
    }

    async fn stop(&mut self, name: &str) -> Result<(), Failure> {
        let Some(mut child) = self.part(name)?.child.take() else {
            return Ok(());
        };
        if let Some(pid) = child.id() {
            // It may have ended meanwhile.
            let _gone = kill(pid_of(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
            child.kill().await.map_err(failed(&format!("ending {name}")))?;
        }
        Ok(())
    }

    fn signal(&mut self, name: &str, signal: Signal) -> Result<(), Failure> {
        let pid = self.part(name)?.child.as_ref().and_then(Child::id);
        let pid = pid.ok_or_else(|| Failure::new(format!("{name} does not run")))?;
        kill(pid_of(pid), signal).map_err(failed(&format!("signalling {name}")))
    }

    async fn ready(&mut self, name: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + STARTING;
        loop {
            let Err(reason) = self.is_ready(name).await else {
                return Ok(());
            };
            let ended = !self.pids().contains_key(name);
            if ended || Instant::now() >= deadline {
                let what = if ended {
                    "ended".to_owned()
                } else {
                    format!("was not ready in time ({reason})")
                };
                return Err(Failure::new(format!("{name} {what}: {}", last_words(name))));
            }
            sleep(ASKING).await;
        }
    }

    /// Whether a part is ready; if not, what it said.
    async fn is_ready(&mut self, name: &str) -> Result<(), String> {
        let (pod, port, path, security) = match self.part(name).map_err(|failure| failure.message)?.kind {
            Kind::Authority => {
                let listening = meshed().all(|pod| files::workload_socket(pod.name).exists());
                return if listening {
                    Ok(())
                } else {
                    Err("it does not listen".to_owned())
                };
            }
            Kind::Provider => ("idp", IDP_PORT, "/count", Security::Anonymous),
            Kind::Sidecar(pod) => (pod.name, HEALTH_PORT, "/readyz", Security::Plain),
            Kind::Application(pod, _) => (pod.name, APP_PORT, "/count", Security::Plain),
        };
        let to = (self.cluster.families.loopback(), port).into();
        let request = Request {
            security,
            ..Request::get(to, path)
        };
        match self.cluster.call(pod, request).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(String::from_utf8_lossy(&answer.body).trim().to_owned()),
            Err(refused) => Err(refused.to_string()),
        }
    }
}

/// The line that runs `line` of this binary without the privileges that `keep` does not name.
fn confined(keep: &str, line: &[&str]) -> Vec<String> {
    let before = ["demo", "run-as", "--keep", keep, "--", "/proc/self/exe"];
    before.iter().chain(line).map(|word| (*word).to_owned()).collect()
}

fn spawn_here(name: &str, line: &[String]) -> Result<Child, Failure> {
    command(name, line)?
        .spawn()
        .map_err(failed(&format!("starting {name}")))
}

fn command(name: &str, line: &[String]) -> Result<Command, Failure> {
    let path = files::log(name);
    let opening = format!("opening {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed(&opening))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(failed(&opening))?;
    let both = log.try_clone().map_err(failed(&opening))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("hopguard")
        .args(line)
        .env_clear()
        .envs(exec::environment())
        .current_dir("/")
        .stdin(if name == "idp" {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(log)
        .stderr(both)
        .kill_on_drop(true);
    Ok(command)
}

fn all_ready(answer: Answer) -> bool {
    let issuers: Vec<Value> = match serde_json::from_slice(&answer.body) {
        Ok(issuers) => issuers,
        Err(_) => return false,
    };
    issuers
        .iter()
        .all(|issuer| issuer.get("state").and_then(Value::as_str) == Some("ready"))
}

/// The end of what a part wrote.
fn last_words(name: &str) -> String {
    let text = fs::read_to_string(files::log(name)).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    let words = lines.into_iter().rev().collect::<Vec<_>>().join(" / ");
    if words.is_empty() {
        "it wrote nothing".to_owned()
    } else {
        words
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}
