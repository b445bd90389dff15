//! A running authority, asked over its administration socket; and times, as they are said to people.

use std::path::PathBuf;
use std::time::Duration;

use hopguard_ca::admin::{self, AdminError, Request};
use hopguard_ca::server::CaError;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ui::{Exit, Failure};

/// Which authority.
#[derive(clap::Args)]
pub struct Which {
    /// The authority's configuration: its administration socket is named there
    #[arg(long, value_name = "FILE", default_value = "ca.toml")]
    config: PathBuf,
    /// The administration socket itself
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
}

/// Asks; without `patience` as long as it takes.
pub fn ask(
    which: &Which,
    request: &Request,
    patience: Option<Duration>,
    progress: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let socket = match &which.socket {
        Some(socket) => socket.clone(),
        None => {
            let config = hopguard_ca::config::load(&which.config);
            let config = config.map_err(|problems| {
                let error = CaError::Files(problems);
                Failure::new(error.to_string())
                    .hint(error.hint())
                    .exit(Exit::BadFile)
            })?;
            config.admin_socket
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    runtime
        .block_on(admin::ask(&socket, request, patience, progress))
        .map_err(failure)
}

fn failure(error: AdminError) -> Failure {
    let message = error.to_string();
    match error {
        AdminError::Refused(refused) => Failure::new(message).hint(refused.hint),
        AdminError::Unreachable { source, .. } => {
            let hint = match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "is the authority running? name its file by --config, or its socket by --socket"
                }
                std::io::ErrorKind::ConnectionRefused => "no authority listens there any more: start it",
                std::io::ErrorKind::PermissionDenied => {
                    "it answers only the user that the authority runs as, and root"
                }
                _ => "the authority's log says more",
            };
            Failure::new(message).hint(hint).exit(Exit::NotHere)
        }
        AdminError::Socket(_) | AdminError::Strange(_) => {
            Failure::new(message).hint("use the command line of the authority's own version")
        }
    }
}

/// A number that was answered.
pub fn number(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
}

/// A text that was answered; empty when it was not.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list that was answered.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A moment in seconds since 1970.
pub fn moment(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A length in seconds, in the unit that says it in few words.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
