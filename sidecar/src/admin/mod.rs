//! What operators and machines ask the sidecar itself: health, metrics, and dumps over a unix socket. Requests enter on the
//! control side only, JSON or metrics text leave. Nothing can be changed here. About users nothing is shown, but for a
//! refusal that is asked for by its id on the socket: there, what policies read of the user, as records show it.

mod relay;
mod serve;
mod socket;

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::observe::Metrics;

pub use relay::{AppProbes, AppProbesError, Relay};
use serve::{Answer, Bounds, serve, serve_route};
pub use socket::AdminSocket;

/// The sections that the administration socket shows, each as `GET /NAME`.
pub const SECTIONS: [&str; 7] = [
    "status", "config", "services", "policy", "issuers", "identity", "tunnels",
];

/// What the running sidecar says of itself.
pub trait AdminState: Send + Sync + 'static {
    /// One of [`SECTIONS`] as JSON, without secrets; `None` when there is nothing to say (yet). Must not block.
    fn section(&self, name: &str) -> Option<Value>;

    /// The refusal of this id, explained; or, in `Err`, how long such ids are kept. Must not block for long.
    ///
    /// # Errors
    /// No such id is kept.
    fn explain(&self, id: &str) -> Result<Value, Value>;

    /// Whether traffic can be served, and if not, why.
    fn readiness(&self) -> Readiness;
}

/// Whether traffic can be served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not, one sentence each; also what is wrong although it can.
    pub reasons: Vec<String>,
}

/// Why the administration socket cannot be opened. The fault is the machine's or the configuration's.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another process listens there.
    #[error("another process listens on `{}`", .0.display())]
    InUse(PathBuf),
    /// Something else is there, and is left alone.
    #[error("`{}` is there already, and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("`{}`: {source}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
}

/// Serves `/healthz` (the process lives) and `/readyz` (200, or 503 with the reasons) until it is dropped.
pub async fn serve_health(listener: TcpListener, state: Arc<dyn AdminState>) {
    serve(listener, Bounds::open(), move |path| match path {
        "/healthz" => Some(Answer::json(StatusCode::OK, &json!({"live": true}))),
        "/readyz" => {
            let readiness = state.readiness();
            let status = if readiness.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            Some(Answer::json(
                status,
                &json!({"ready": readiness.ready, "reasons": readiness.reasons}),
            ))
        }
        _ => None,
    })
    .await;
}

/// Serves `/metrics` until it is dropped.
pub async fn serve_metrics(listener: TcpListener, metrics: Arc<Metrics>) {
    serve(listener, Bounds::open(), move |path| {
        (path == "/metrics").then(|| Answer::open_metrics(metrics.encode()))
    })
    .await;
}

/// Relays the application's probes until it is dropped.
pub async fn serve_relay(listener: TcpListener, relay: Arc<Relay>) {
    serve_route(listener, Bounds::relay(), relay).await;
}

/// Serves a key set at `/.well-known/jwks.json` until it is dropped.
pub async fn serve_keys(listener: TcpListener, keys: impl Fn() -> Value + Send + Sync + 'static) {
    serve(listener, Bounds::open(), move |path| {
        (path == "/.well-known/jwks.json").then(|| Answer::json(StatusCode::OK, &keys()))
    })
    .await;
}

/// Serves the sections on the administration socket until it is dropped. Only the user that the sidecar runs as, and root,
/// are answered.
pub async fn serve_admin(socket: AdminSocket, state: Arc<dyn AdminState>) {
    serve(socket, Bounds::admin(), move |path| {
        let name = path.strip_prefix('/')?;
        if let Some(id) = name.strip_prefix("explain/") {
            return Some(match state.explain(id) {
                Ok(explained) => Answer::json(StatusCode::OK, &explained),
                Err(unknown) => Answer::json(StatusCode::NOT_FOUND, &unknown),
            });
        }
        if name.is_empty() {
            let sections = SECTIONS.iter().chain(&["explain/ID"]);
            let paths: Vec<String> = sections.map(|name| format!("/{name}")).collect();
            return Some(Answer::json(StatusCode::OK, &json!({"sections": paths})));
        }
        let name = SECTIONS.into_iter().find(|section| *section == name)?;
        Some(match state.section(name) {
            Some(section) => Answer::json(StatusCode::OK, &section),
            None => Answer::json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"error": "there is nothing to say yet"}),
            ),
        })
    })
    .await;
}

#[cfg(test)]
mod tests;
