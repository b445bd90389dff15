//! A running authority, asked over its administration socket: a request enters, its answer leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hopguard_ca::admin::{self, AdminError, Request};
use hopguard_ca::server::CaError;
use serde_json::Value;

use crate::ui::{Exit, Failure};

/// How long an answer may take: readings of hostile processes are cut after seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The administration socket: the one that is named by `flag`, else that of the configuration.
pub fn socket(named: Option<&Path>, config: &Path, flag: &str) -> Result<PathBuf, Failure> {
    if let Some(socket) = named {
        return Ok(socket.to_owned());
    }
    let config = hopguard_ca::config::load(config).map_err(|problems| {
        let error = CaError::Files(problems);
        let hint = format!("{} (or name the administration socket by {flag})", error.hint());
        Failure::new(error.to_string()).hint(hint).exit(Exit::BadFile)
    })?;
    Ok(config.admin_socket)
}

/// Asks; without `patience` as long as it takes.
pub fn ask_with(
    socket: &Path,
    request: &Request,
    patience: Option<Duration>,
    progress: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    runtime
        .block_on(admin::ask(socket, request, patience, progress))
        .map_err(failure)
}

/// Asks for what is answered at once.
pub fn ask(socket: &Path, request: &Request) -> Result<Value, Failure> {
    ask_with(socket, request, Some(PATIENCE), |_| ())
}

fn failure(error: AdminError) -> Failure {
    let message = error.to_string();
    match error {
        AdminError::Refused(refused) => Failure::new(message).hint(refused.hint),
        AdminError::Unreachable { source, .. } => {
            let hint = match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "is the authority running? name its file by --config, or its administration socket (--help)"
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

/// A text of an answer; empty when there is none.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A list of an answer.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A number of an answer.
pub fn number(value: &Value, key: &str) -> i64 {
    value.get(key).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether an answer says yes.
pub fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// A list of texts of an answer, in one line.
pub fn joined(value: &Value, key: &str) -> String {
    let texts: Vec<&str> = list(value, key).iter().filter_map(Value::as_str).collect();
    texts.join(", ")
}
