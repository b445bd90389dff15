//! Which authority the verbs of `hopguard ca` ask; and times, as they are said to people.

use std::path::PathBuf;
use std::time::Duration;

use hopguard_ca::admin::Request;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authority::{self, ask_with};
pub use crate::authority::{list, text};
use crate::ui::Failure;

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
    let socket = authority::socket(which.socket.as_deref(), &which.config, "--socket")?;
    ask_with(&socket, request, patience, progress)
}

/// A number that was answered.
pub fn number(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
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
