//! The sidecar as a whole: its settings enter, every room is built, listeners open, and the process runs until it is asked
//! to end. It decides nothing about traffic.

mod build;
mod bundles;
mod descriptors;
mod identity;
mod listen;
mod probe;
mod public;
mod ready;
mod reload;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::admin::{AppProbes, Relay, serve_admin, serve_health, serve_keys, serve_metrics, serve_relay};
use crate::config::{ConfigProblem, Given, Loaded, load_given};
use crate::flow::{hbone, outbound, redirected};
use crate::intercept::{Reach, bind};
use crate::runtime::Runtimes;
use listen::{Accepting, accept};
use ready::State;

/// Why the sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its files are wrong.
    #[error("the configuration is wrong")]
    Config(Vec<ConfigProblem>),
    /// A setting that only shows when it is used: an unreadable key, an ambiguous table, an endpoint that is none.
    #[error("{what}: {detail}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A listener or thread could not be had.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ServerError {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    fn setting<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Setting {
            what,
            detail: error.to_string(),
        }
    }
}

/// How long both runtimes may take to let go at the very end.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// The port at which the application's probes are relayed: one that the redirect leaves alone, as it does the health port.
const PROBE_PORT: u16 = 15022;

/// Runs the sidecar of `file` until SIGTERM or SIGINT, and drains. `service` stands instead of the file's; `probes` are
/// relayed to the application.
///
/// # Errors
/// See [`ServerError`]; nothing was intercepted then.
pub fn run(file: &Path, service: Option<String>, probes: Option<AppProbes>) -> Result<(), ServerError> {
    let given = Given {
        service,
        probe_port: probes.as_ref().map(|_| PROBE_PORT),
    };
    let loaded = load_given(file, &given).map_err(ServerError::Config)?;
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtimes = Runtimes::start(workers).map_err(ServerError::system("starting threads"))?;
    let ended = runtimes.control(serve(loaded, probes, &runtimes));
    runtimes.stop(LAST_GRACE);
    ended
}

async fn serve(loaded: Loaded, probes: Option<AppProbes>, runtimes: &Runtimes) -> Result<(), ServerError> {
    // Asked for first: a signal that comes while we start must not be lost.
    let mut term = signal(SignalKind::terminate()).map_err(ServerError::system("SIGTERM"))?;
    let mut int = signal(SignalKind::interrupt()).map_err(ServerError::system("SIGINT"))?;
    let state = build::build(loaded)?;
    let control = background(&state)?;
    control_listeners(&state).await?;
    relay_probes(&state, probes)?;
    data_listeners(&state, runtimes)?;
    tracing::info!(service = %state.sidecar.service, "the sidecar is listening");
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: draining"),
        _ = int.recv() => tracing::info!("SIGINT: draining"),
        end = control => return Err(end),
    }
    state.draining();
    state.ctx.pool.retire_all();
    let wake = || state.ctx.current.touch();
    let cut = state.ctx.drain.run(state.sidecar.drain_timeout, wake).await;
    if cut > 0 {
        tracing::warn!(
            connections = cut,
            "cut: still open when the drain's time was over"
        );
    }
    state.ctx.journal.shutdown(Duration::from_secs(2));
    tracing::info!("drained");
    Ok(())
}

/// Starts what runs beside the traffic. The future resolves only when one of them can never succeed.
fn background(state: &Arc<State>) -> Result<impl Future<Output = ServerError> + use<>, ServerError> {
    let watching = identity::start(state)?;
    tokio::spawn(Arc::clone(&state.ctx.authn).run());
    tokio::spawn(bundles::keep(Arc::clone(state)));
    tokio::spawn(Arc::clone(&state.ctx.services).run());
    tokio::spawn(reload::watch(Arc::clone(state)));
    tokio::spawn(reload::follow_keys(Arc::clone(state)));
    tokio::spawn(probe::keep(Arc::clone(state)));
    tokio::spawn(public::watch(Arc::clone(state)));
    Ok(async move {
        match watching.await {
            Ok(error) => ServerError::Setting {
                what: "identity.workload_api",
                detail: error.to_string(),
            },
            Err(error) => ServerError::Setting {
                what: "the Workload API client",
                detail: error.to_string(),
            },
        }
    })
}

/// The keys of statements to the application, for it alone.
fn assertion_keys(state: &Arc<State>) -> Result<(), ServerError> {
    let Some(signer) = &state.ctx.assertion else {
        return Ok(());
    };
    let port = signer.options().port;
    let listeners = bind(port, Reach::Loopback).map_err(ServerError::system(format!("port {port}")))?;
    for listener in listeners {
        let signer = Arc::clone(signer);
        tokio::spawn(serve_keys(listener, move || signer.jwks()));
    }
    let signer = Arc::clone(signer);
    tokio::spawn(async move { signer.run().await });
    Ok(())
}

/// The application's probes, from those who cannot speak to it any more.
fn relay_probes(state: &Arc<State>, probes: Option<AppProbes>) -> Result<(), ServerError> {
    let (Some(probes), Some(port)) = (probes, state.sidecar.probe_port) else {
        return Ok(());
    };
    let relay = Arc::new(Relay::new(probes, state.sidecar.traffic.mark));
    for listener in bind(port, Reach::Anywhere).map_err(ServerError::system(format!("port {port}")))? {
        tokio::spawn(serve_relay(listener, Arc::clone(&relay)));
    }
    Ok(())
}

async fn control_listeners(state: &Arc<State>) -> Result<(), ServerError> {
    assertion_keys(state)?;
    let bind_at = |what: &'static str, address: std::net::SocketAddr| async move {
        crate::intercept::bind_at(address).map_err(ServerError::system(format!("{what} on {address}")))
    };
    let health = bind_at("health", state.sidecar.health).await?;
    let metrics = bind_at("metrics", state.sidecar.metrics).await?;
    let readiness: Arc<dyn crate::admin::AdminState> = Arc::<State>::clone(state);
    tokio::spawn(serve_health(health, Arc::clone(&readiness)));
    tokio::spawn(serve_metrics(metrics, Arc::clone(&state.ctx.metrics)));
    let socket =
        crate::admin::AdminSocket::bind(&state.sidecar.admin).map_err(|error| ServerError::Setting {
            what: "admin.socket",
            detail: format!("{error} (its folder must exist, and the user that the sidecar runs as must be able to write into it)"),
        })?;
    tokio::spawn(serve_admin(socket, readiness));
    Ok(())
}

fn data_listeners(state: &Arc<State>, runtimes: &Runtimes) -> Result<(), ServerError> {
    let data = runtimes.data();
    // Sockets register with the runtime that polls them.
    let _entered = data.enter();
    let room = Arc::new(Semaphore::new(descriptors::affordable(
        state.sidecar.limits.connections,
    )));
    let accepting = Accepting {
        ctx: Arc::clone(&state.ctx),
        data: data.clone(),
        room,
    };
    let (inbound, out) = (&state.sidecar.inbound, &state.sidecar.outbound);
    let listening = |port: u16, reach| bind(port, reach).map_err(ServerError::system(format!("port {port}")));
    for listener in listening(out.port, Reach::Loopback)? {
        data.spawn(accept(accepting.clone(), listener, outbound));
    }
    for listener in listening(inbound.port, Reach::Anywhere)? {
        data.spawn(accept(accepting.clone(), listener, redirected));
    }
    for listener in listening(inbound.hbone_port, Reach::Anywhere)? {
        data.spawn(accept(accepting.clone(), listener, hbone));
    }
    state.listening();
    Ok(())
}
