//! `hopguard explain`: the id of a refusal enters, and why it was refused leaves, from the sidecar that made it; or a
//! record from a log, with the mesh file and the policies, when that sidecar is gone.

mod print;
mod record;

use std::path::{Path, PathBuf};

use hopguard_sidecar::config;
use hopguard_sidecar::tools::Explained;

use crate::admin;
use crate::ui::{Exit, Failure, Ui};

pub use print::{decision, explained, fact, hint};
pub use record::problems;

/// Where a sidecar's administration socket is unless its file says otherwise.
const SOCKET: &str = "/run/hopguard/admin.sock";

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 explained, 1 no such id, 2 usage, 3 a file is wrong, 4 the sidecar cannot be asked."
)]
pub struct Args {
    /// The id: `id` in the body, `x-hopguard-id` in the header, `request_id` in the record
    #[arg(required_unless_present = "record")]
    id: Option<String>,
    /// The administration socket of the sidecar that refused [default: the one of --config, else
    /// /run/hopguard/admin.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "record")]
    socket: Option<PathBuf>,
    /// The sidecar's configuration, for its socket
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "socket"])]
    config: Option<PathBuf>,
    /// Explain a record of a log instead, without the sidecar; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// With --record: the mesh file
    #[arg(long, value_name = "FILE", default_value = "mesh.toml", requires = "record")]
    mesh: PathBuf,
    /// With --record: the policy folder
    #[arg(long, value_name = "DIR", default_value = "policies", requires = "record")]
    policies: PathBuf,
}

/// Runs the verb.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let explained = match &args.record {
        Some(record) => record::explain(record, args.id.as_deref(), (&args.mesh, &args.policies))?,
        None => {
            let socket = socket(&args)?;
            by_id(&socket, args.id.as_deref().unwrap_or_default())?
        }
    };
    print::explained(&explained, ui);
    Ok(Exit::Done)
}

fn socket(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    let Some(file) = &args.config else {
        return Ok(PathBuf::from(SOCKET));
    };
    match config::load_sidecar(file) {
        Ok(sidecar) => Ok(sidecar.admin),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(Failure::new(lines.join("\n")).exit(Exit::BadFile))
        }
    }
}

/// Asks the sidecar behind a socket.
pub fn by_id(socket: &Path, id: &str) -> Result<Explained, Failure> {
    if id.is_empty()
        || !id
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
    {
        return Err(Failure::new(format!("`{}` is no id", id.escape_debug()))
            .hint("it is the `id` of the body, `x-hopguard-id` of the header, or `request_id` of the record")
            .exit(Exit::Usage));
    }
    let (status, json) = admin::ask(socket, &format!("explain/{id}"))?;
    if status == 200 {
        return serde_json::from_value(json)
            .map_err(|error| Failure::new(format!("the sidecar is of another version: {error}")));
    }
    let kept = |field: &str| {
        json.pointer(&format!("/kept/{field}"))
            .and_then(serde_json::Value::as_u64)
    };
    let (most, seconds) = (
        kept("most").unwrap_or_default(),
        kept("seconds").unwrap_or_default(),
    );
    let ids = match most {
        0 => "it keeps none (`admin.denials = 0`)".to_owned(),
        most => format!(
            "a sidecar keeps the latest {most} refusals, for at most {} minutes, and forgets them when it ends",
            seconds / 60
        ),
    };
    Err(Failure::new(format!(
        "no refusal `{id}` is known to the sidecar at {}: {ids}",
        socket.display()
    ))
    .hint(format!(
        "its record is in the log of the sidecar that refused: `grep {id} LOG | hopguard explain --record - --mesh FILE \
         --policies DIR`"
    )))
}
