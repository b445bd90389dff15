//! The pods, running: their namespaces, and what may be done in them from here. Families of addresses enter; pods, their
//! answers and processes in them leave. It ends with the process namespace that it lives in.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::client::{Answer, Refused, Request, send};
use super::namespaces::Namespaces;
use super::pods::{Families, PODS, Pod};
use super::{fabric, failed, pod_init};
use crate::ui::Failure;

/// The name by which the network between the pods is joined.
pub const FABRIC: &str = "fabric";

/// The running pods.
pub struct Cluster {
    /// Which addresses they have.
    pub families: Families,
    pods: BTreeMap<&'static str, Running>,
    fabric: Arc<Namespaces>,
}

struct Running {
    namespaces: Arc<Namespaces>,
    first_process: u32,
}

/// The processes that hold the pods: they end with this value, and it notices when one ends before.
pub struct Watched {
    ended: JoinSet<&'static str>,
}

impl Watched {
    /// Waits until a pod has ended, which none does by itself: its application is gone and its network with it.
    pub async fn died(&mut self) -> Failure {
        let pod = match self.ended.join_next().await {
            Some(Ok(pod)) => pod,
            // Nothing to wait for, or a task that was taken away: then all is ending.
            Some(Err(_)) | None => return std::future::pending().await,
        };
        Failure::new(format!(
            "the pod `{pod}` has ended: its first process was killed, so its application and its network are gone"
        ))
        .hint("the demo ends with it; start it again, and stop single parts with `hopguard demo ctl stop PART`")
    }

    fn watch(&mut self, pod: &'static str, mut holder: Child, stdin: ChildStdin) {
        self.ended.spawn(async move {
            // Its answer says nothing: whatever it is, the pod is no more.
            let _however = holder.wait().await;
            drop(stdin);
            pod
        });
    }
}

/// A pod whose namespaces exist.
struct Starting {
    pod: &'static Pod,
    holder: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Cluster {
    /// Makes the network and every pod.
    pub async fn up(families: Families) -> Result<(Self, Watched), Failure> {
        fabric::bridge(families)?;
        let mut starting = PODS
            .iter()
            .map(|pod| start(pod, families))
            .collect::<Result<Vec<_>, _>>()?;
        for pod in &mut starting {
            pod.says("unshared").await?;
        }
        let ends: Vec<_> = starting
            .iter()
            .map(|s| (s.pod, s.holder.id().unwrap_or_default()))
            .collect();
        fabric::cables(&ends)?;
        for pod in &mut starting {
            pod.stdin
                .write_all(b"go\n")
                .await
                .map_err(failed("speaking to a pod"))?;
        }
        let mut watched = Watched {
            ended: JoinSet::new(),
        };
        let mut pods = BTreeMap::new();
        for pod in starting {
            pods.insert(pod.pod.name, pod.ready(&mut watched).await?);
        }
        let fabric = Namespaces::of(1).map_err(failed("opening the network's namespaces"))?;
        let cluster = Self {
            families,
            pods,
            fabric: Arc::new(fabric),
        };
        Ok((cluster, watched))
    }

    /// The namespaces of a pod, or of the network between them.
    pub fn namespaces(&self, name: &str) -> Result<&Arc<Namespaces>, Failure> {
        if name == FABRIC {
            return Ok(&self.fabric);
        }
        self.running(name).map(|pod| &pod.namespaces)
    }

    /// The first process of a pod.
    pub fn first_process(&self, name: &str) -> Result<u32, Failure> {
        self.running(name).map(|pod| pod.first_process)
    }

    fn running(&self, name: &str) -> Result<&Running, Failure> {
        let names = || PODS.iter().map(|pod| pod.name).collect::<Vec<_>>().join(", ");
        self.pods
            .get(name)
            .ok_or_else(|| Failure::new(format!("no pod `{name}`; there are {}", names())))
    }

    /// Sends one request from within a pod's network.
    pub async fn call(&self, pod: &str, request: Request) -> Result<Answer, Refused> {
        let nowhere = |failure: Failure| Refused {
            at: "connect",
            said: failure.message,
        };
        let namespaces = Arc::clone(self.namespaces(pod).map_err(nowhere)?);
        let (reply, answer) = oneshot::channel();
        // Sockets belong to the network of the thread that makes them.
        let there = move || {
            let outcome = namespaces.join_network().map_err(nowhere).and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime
                    .map_err(|e| Refused {
                        at: "connect",
                        said: e.to_string(),
                    })?
                    .block_on(send(request))
            });
            let _caller_is_gone = reply.send(outcome);
        };
        thread::Builder::new().spawn(there).map_err(|e| Refused {
            at: "connect",
            said: e.to_string(),
        })?;
        answer.await.unwrap_or(Err(Refused {
            at: "connect",
            said: "the caller ended".to_owned(),
        }))
    }

    /// Starts a command as a process of the pod's application view: its network, files and process namespace.
    pub fn spawn_in(&self, pod: &str, mut command: Command) -> Result<Child, Failure> {
        let namespaces = Arc::clone(self.namespaces(pod)?);
        let runtime = Handle::current();
        // Namespaces are those of a thread: this one goes there, starts the child, and ends.
        let there = thread::spawn(move || {
            namespaces.join_as_thread()?;
            let _entered = runtime.enter();
            command.spawn().map_err(failed("starting a process in a pod"))
        });
        there
            .join()
            .unwrap_or_else(|_| Err(Failure::new("the thread that starts processes failed")))
    }
}

fn start(pod: &'static Pod, families: Families) -> Result<Starting, Failure> {
    let mut holder = Command::new("/proc/self/exe")
        .arg0("hopguard")
        .args(pod_init::Args::line(pod, families))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed(&format!("starting the pod {}", pod.name)))?;
    let (Some(stdin), Some(stdout)) = (holder.stdin.take(), holder.stdout.take()) else {
        return Err(Failure::new("a pod has no pipes"));
    };
    Ok(Starting {
        pod,
        holder,
        stdin,
        lines: BufReader::new(stdout).lines(),
    })
}

impl Starting {
    async fn says(&mut self, expected: &str) -> Result<String, Failure> {
        let line = self
            .lines
            .next_line()
            .await
            .map_err(failed("listening to a pod"))?
            .unwrap_or_default();
        match line.strip_prefix(expected) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(Failure::new(format!("the pod {} did not start", self.pod.name))),
        }
    }

    async fn ready(mut self, watched: &mut Watched) -> Result<Running, Failure> {
        let first_process = self
            .says("ready")
            .await?
            .parse()
            .map_err(failed("reading a process number"))?;
        let namespaces = Namespaces::of(first_process).map_err(failed("opening a pod's namespaces"))?;
        watched.watch(self.pod.name, self.holder, self.stdin);
        Ok(Running {
            namespaces: Arc::new(namespaces),
            first_process,
        })
    }
}
