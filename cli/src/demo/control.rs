//! How a running demo is spoken to: an abstract unix socket in the host's network namespace, so that nothing is written to
//! the host. Requests of the user who started the demo enter; answers, and descriptors of a pod's namespaces, leave. It
//! listens to nobody else.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, geteuid};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::namespaces::Namespaces;
use super::{failed, message};
use crate::ui::{Exit, Failure};

/// Callers at once.
const CALLERS: usize = 32;
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a caller wants.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// The namespaces of a pod.
    Join {
        /// Its name, or `fabric`.
        pod: String,
    },
    /// Something done to a part.
    Part {
        /// What.
        action: Action,
        /// To which: `ca`, `idp`, `web`, `app:web`, ...
        name: String,
    },
    /// A token.
    Token {
        /// For whom.
        user: String,
        /// How it is forged; `none` for a good one.
        flaw: String,
        /// JSON whose members replace those of the token.
        claims: Option<String>,
    },
    /// What runs.
    Status,
}

/// What can be done to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Action {
    /// Start it.
    Start,
    /// SIGTERM; SIGKILL if it does not end in time.
    Stop,
    /// Stop and start.
    Restart,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: it is there and does not answer.
    Freeze,
    /// SIGCONT.
    Thaw,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Namespaces: their descriptors are beside this message.
    Joined,
    /// A token.
    Token(String),
    /// What runs.
    Status(Box<Status>),
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
    },
}

/// What runs. Process numbers are those of the demo's process namespace until [`Status::seen_from_host`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether the mesh is up.
    pub ready: bool,
    /// The demo's name.
    pub name: String,
    /// Its first process.
    pub init: u32,
    /// Where its files are found from the host: `/proc/PID/root` of the first process, then this path.
    pub root: String,
    /// The running parts.
    pub pids: BTreeMap<String, u32>,
    /// The pods.
    pub pods: BTreeMap<String, PodStatus>,
}

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its first process.
    pub pid: u32,
}

impl Status {
    /// The same with process numbers as the host sees them.
    pub fn seen_from_host(mut self, host: &BTreeMap<u32, u32>) -> Self {
        let seen = |pid: u32| host.get(&pid).copied().unwrap_or_default();
        self.init = seen(self.init);
        self.root = format!("/proc/{}/root{}", self.init, super::files::ROOT);
        self.pids.values_mut().for_each(|pid| *pid = seen(*pid));
        self.pods.values_mut().for_each(|pod| pod.pid = seen(pod.pid));
        self
    }
}

/// A request on its way to the demo's main loop.
pub struct Job {
    /// What is wanted.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<(Reply, Option<Arc<Namespaces>>)>,
}

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("hopguard-demo-{}-{name}", geteuid()))
}

/// Listens under the demo's name, in the network namespace of the caller.
pub fn listen(name: &str) -> Result<UnixListener, Failure> {
    address(name)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                Failure::new(format!("a demo named `{name}` runs already"))
                    .hint("end it, or give this one another --name")
            } else {
                Failure::new(format!("listening for `hopguard demo exec`: {error}"))
            }
        })
}

/// What the demo answered.
pub struct Answer {
    /// The answer.
    pub reply: Reply,
    /// Descriptors beside it.
    pub fds: Vec<OwnedFd>,
    /// The process in the host's namespaces that listens for the demo.
    pub outer: u32,
}

/// Asks the demo `name`.
pub fn ask(name: &str, request: &Request) -> Result<Answer, Failure> {
    let socket = address(name)
        .and_then(|address| UnixStream::connect_addr(&address))
        .map_err(|error| {
            Failure::new(format!("no demo named `{name}` runs for this user: {error}"))
                .hint("start one with `hopguard demo`, or name it with --name")
                .exit(Exit::NotHere)
        })?;
    // Abstract names are free for all: whoever has taken this one must be ourselves, or a stranger would hand us
    // namespaces of its own making.
    let peer = getsockopt(&socket, PeerCredentials).map_err(failed("looking at who listens"))?;
    if peer.uid() != geteuid().as_raw() {
        return Err(
            Failure::new(format!("the demo named `{name}` belongs to another user")).exit(Exit::NotHere),
        );
    }
    message::send(&socket, request, &[]).map_err(failed("asking the demo"))?;
    let (reply, fds) = message::receive(&socket)
        .map_err(failed("hearing the demo's answer"))?
        .ok_or_else(|| Failure::new("the demo ended without an answer"))?;
    match reply {
        Reply::Failed { message } => Err(Failure::new(message)),
        reply => Ok(Answer {
            reply,
            fds,
            outer: u32::try_from(peer.pid()).unwrap_or_default(),
        }),
    }
}

fn peer_is(socket: &UnixStream, uid: Uid) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == uid.as_raw())
}

/// Hands what callers want to the main loop, from a thread of its own.
pub fn serve(listener: UnixListener, jobs: mpsc::Sender<Job>) -> Result<(), Failure> {
    let callers = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for socket in listener.incoming().map_while(Result::ok) {
            // Here the user who started the demo is root, and every other user is nobody.
            if callers.load(SeqCst) >= CALLERS || !peer_is(&socket, geteuid()) {
                continue;
            }
            callers.fetch_add(1, SeqCst);
            let (jobs, counted) = (jobs.clone(), Arc::clone(&callers));
            let caller = move || {
                // A caller that is gone needs no answer.
                let _gone = answer(&socket, &jobs);
                counted.fetch_sub(1, SeqCst);
            };
            if thread::Builder::new()
                .name("caller".to_owned())
                .spawn(caller)
                .is_err()
            {
                callers.fetch_sub(1, SeqCst);
            }
        }
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(accept)
        .map_err(failed("listening for callers"))?;
    Ok(())
}

fn answer(socket: &UnixStream, jobs: &mpsc::Sender<Job>) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let Some((request, _)) = message::receive(socket)? else {
        return Ok(());
    };
    let (answer, answered) = oneshot::channel();
    let ended = || {
        (
            Reply::Failed {
                message: "the demo is ending".to_owned(),
            },
            None,
        )
    };
    let (reply, namespaces) = match jobs.blocking_send(Job { request, answer }) {
        Ok(()) => answered.blocking_recv().unwrap_or_else(|_| ended()),
        Err(_) => ended(),
    };
    let fds = namespaces.as_ref().map(|n| n.fds()).unwrap_or_default();
    message::send(socket, &reply, &fds)
}
