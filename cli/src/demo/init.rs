//! The first process of the demo's process namespace: a specification enters, a mesh that lives as long as it does leaves,
//! and its end ends every process of the demo.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use nix::sys::prctl::set_name;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::client::{Request, Security};
use super::cluster::Cluster;
use super::control::{self, Job, PodStatus, Reply, Status};
use super::parts::Parts;
use super::pods::{IDP_PORT, PODS, Pod};
use super::spec::{Mode, Spec};
use super::{failed, files, idp, launch, message, mounts, story};
use crate::ui::{Exit, Failure, Ui};

/// The folders that get a file system of their own, in memory.
const IN_MEMORY: [(&str, u32); 2] = [("/run", 512), ("/tmp", 256)];

/// Brings the mesh up, tells the story or says that it is ready, and stays until told to end.
pub fn run(ui: &Ui) -> Result<Exit, Failure> {
    let control = message::from_stdin().map_err(failed("taking the control socket"))?;
    launch::die_with_parent(&control)?;
    set_name(c"hopguard-demo").map_err(failed("naming the process"))?;
    let (spec, fds): (Spec, Vec<OwnedFd>) = message::receive(&control)
        .map_err(failed("hearing what to do"))?
        .ok_or_else(|| Failure::new("the demo ended while it was starting"))?;
    let listener = fds
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("the demo has no socket to listen on"))?;
    file_system(&spec)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting"))?;
    let ended = runtime.block_on(live(&spec, UnixListener::from(listener), control, ui));
    runtime.shutdown_background();
    ended
}

/// Nothing that happens in here is written outside of memory.
fn file_system(spec: &Spec) -> Result<(), Failure> {
    mounts::detach()?;
    mounts::devices()?;
    mounts::host_read_only()?;
    mounts::proc(mounts::NetworkSettings::Writable)?;
    for (path, megabytes) in IN_MEMORY {
        mounts::memory_around_program(path, megabytes)?;
    }
    std::env::set_current_dir("/").map_err(failed("leaving the folder"))?;
    files::name_service(spec)
}

async fn live(spec: &Spec, listener: UnixListener, control: UnixStream, ui: &Ui) -> Result<Exit, Failure> {
    let told_to_end = end_of(&control)?;
    tokio::select! {
        ended = mesh(spec, listener, &control, ui) => ended,
        _ = told_to_end => Ok(Exit::Done),
    }
}

/// Resolves when the outermost process closes its end, or is gone.
fn end_of(control: &UnixStream) -> Result<oneshot::Receiver<()>, Failure> {
    let control = control
        .try_clone()
        .map_err(failed("watching the control socket"))?;
    let (ended, end) = oneshot::channel();
    let watch = move || {
        while let Ok(Some(_)) = message::receive::<Value>(&control) {}
        let _over_already = ended.send(());
    };
    std::thread::Builder::new()
        .name("end".to_owned())
        .spawn(watch)
        .map_err(failed("starting a thread"))?;
    Ok(end)
}

async fn mesh(spec: &Spec, listener: UnixListener, control: &UnixStream, ui: &Ui) -> Result<Exit, Failure> {
    let (provider_ca, secrets) = idp::secrets()?;
    files::write_all(spec, &provider_ca)?;
    let (cluster, mut watched) = Cluster::up(spec.families).await?;
    let cluster = Arc::new(cluster);
    let mut mesh = Mesh {
        spec,
        parts: Parts::new(Arc::clone(&cluster), secrets),
        cluster: Arc::clone(&cluster),
        provider_ca,
    };
    tokio::select! {
        started = mesh.parts.start_all() => started?,
        died = watched.died() => return Err(died),
    }
    let (jobs, wanted) = mpsc::channel(16);
    control::serve(listener, jobs)?;
    if spec.mode == Mode::Bare {
        message::send(control, &mesh.status(), &[]).map_err(failed("saying that the demo is ready"))?;
        return tokio::select! {
            failure = mesh.serve(wanted) => Err(failure),
            died = watched.died() => Err(died),
        };
    }
    let provider_ca = mesh.provider_ca.clone();
    let story = story::tell(spec, &cluster, &provider_ca, ui);
    tokio::select! {
        failure = mesh.serve(wanted) => Err(failure),
        died = watched.died() => Err(died),
        told = story => told,
    }
}

/// The running mesh, as callers see it.
struct Mesh<'a> {
    spec: &'a Spec,
    cluster: Arc<Cluster>,
    parts: Parts,
    provider_ca: String,
}

impl Mesh<'_> {
    /// Does what callers want, one after the other, until nobody can want anything any more.
    async fn serve(&mut self, mut wanted: mpsc::Receiver<Job>) -> Failure {
        let mut children = match signal(SignalKind::child()) {
            Ok(children) => children,
            Err(error) => return Failure::new(format!("watching processes: {error}")),
        };
        loop {
            let job = tokio::select! {
                job = wanted.recv() => job,
                // The first process of a pod that was killed is not gone before everything in its process namespace is
                // collected, and the application there is a child of this process.
                Some(()) = children.recv() => {
                    self.parts.collect();
                    continue;
                }
            };
            let Some(job) = job else {
                return Failure::new("the demo's socket is closed");
            };
            let answer = self.answer(job.request).await;
            let answer = answer.unwrap_or_else(|failure| {
                (
                    Reply::Failed {
                        message: failure.message,
                    },
                    None,
                )
            });
            let _caller_is_gone = job.answer.send(answer);
        }
    }

    async fn answer(
        &mut self,
        request: control::Request,
    ) -> Result<(Reply, Option<Arc<super::namespaces::Namespaces>>), Failure> {
        Ok(match request {
            control::Request::Join { pod } => {
                (Reply::Joined, Some(Arc::clone(self.cluster.namespaces(&pod)?)))
            }
            control::Request::Part { action, name } => {
                self.parts.act(action, &name).await?;
                (Reply::Done, None)
            }
            control::Request::Token { user, flaw, claims } => (
                Reply::Token(
                    token(
                        &self.cluster,
                        &self.provider_ca,
                        (&user, &flaw),
                        claims.as_deref(),
                    )
                    .await?,
                ),
                None,
            ),
            control::Request::Status => (Reply::Status(Box::new(self.status())), None),
        })
    }

    fn status(&mut self) -> Status {
        let families = self.cluster.families;
        let addresses = |pod: &Pod| {
            let four = families.v4.then(|| pod.v4().into());
            four.into_iter()
                .chain(families.v6.then(|| pod.v6().into()))
                .collect()
        };
        let pods = PODS.iter().map(|pod| {
            let pid = self.cluster.first_process(pod.name).unwrap_or_default();
            (
                pod.name.to_owned(),
                PodStatus {
                    addresses: addresses(pod),
                    pid,
                },
            )
        });
        Status {
            ready: true,
            name: self.spec.name.clone(),
            init: 1,
            root: String::new(),
            pods: pods.collect::<BTreeMap<_, _>>(),
            pids: self.parts.pids(),
        }
    }
}

/// A token of the demo's provider, asked for from the laptop.
/// `claims` is JSON whose members replace those of the token.
pub async fn token(
    cluster: &Cluster,
    provider_ca: &str,
    (user, flaw): (&str, &str),
    claims: Option<&str>,
) -> Result<String, Failure> {
    let provider = Pod::named("idp").ok_or_else(|| Failure::new("the demo has no provider"))?;
    let request = Request {
        method: Method::POST,
        to: (provider.address(cluster.families), IDP_PORT).into(),
        host: "idp".to_owned(),
        path: "/token".to_owned(),
        headers: vec![("content-type", "application/x-www-form-urlencoded".to_owned())],
        body: claims.map_or_else(
            || format!("user={user}&flaw={flaw}"),
            |claims| {
                format!(
                    "user={user}&flaw={flaw}&claims={}",
                    URL_SAFE_NO_PAD.encode(claims)
                )
            },
        ),
        security: Security::Trusting(provider_ca.to_owned()),
    };
    let answer = cluster
        .call("laptop", request)
        .await
        .map_err(failed("asking the provider for a token"))?;
    let said: Value =
        serde_json::from_slice(&answer.body).map_err(failed("reading the provider's answer"))?;
    match said.get("access_token").and_then(Value::as_str) {
        Some(token) => Ok(token.to_owned()),
        None => Err(Failure::new(format!("the provider gave no token: {said}"))),
    }
}
