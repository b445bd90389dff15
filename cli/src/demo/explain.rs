//! `hopguard demo explain`: the id of a refusal enters; the sidecars of a running demo are asked one after the other, and
//! the one that refused explains it.

use std::path::Path;

use super::control::{Reply, Request, ask};
use super::host_pids;
use super::spec::DEFAULT_NAME;
use crate::explain::{by_id, explained};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The demo's name
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// The id: in the body, in the header `x-hopguard-id`, and `request_id` in the record
    id: String,
}

/// Explains a refusal of any of the demo's sidecars.
pub fn run(args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let answer = ask(&args.name, &Request::Status)?;
    let Reply::Status(status) = answer.reply else {
        return Err(Failure::new("the demo answered something else"));
    };
    let status = status.seen_from_host(&host_pids::below(answer.outer));
    let mut last = None;
    for pod in status.pods.keys() {
        let socket = Path::new(&status.root).join("pods").join(pod).join("admin.sock");
        if !socket.exists() {
            continue;
        }
        match by_id(&socket, &args.id) {
            Ok(found) => {
                explained(&found, ui);
                return Ok(Exit::Done);
            }
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new("no sidecar of the demo can be asked").exit(Exit::NotHere)))
}
