//! `hopguard svid`: SVIDs for people. What one says and which rules it breaks, whether it is trusted, what a Workload API gives
//! this process, once or kept current in files, and one that an operator asks the authority for. Private keys are written to
//! files of mode 0600 when asked for, and never shown.

mod change;
pub mod fetch;
pub mod files;
pub mod inspect;
mod issue;
mod profile;
mod set;
mod verify;
mod watch;

use hopguard_sidecar::identity::parse_id;
use spiffe::SpiffeId;

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Say what an X.509-SVID holds and which rules it breaks (exit 1 if any); whether it is trusted is not asked
    #[command(after_help = "\
Examples: hopguard svid inspect svid.0.pem
          openssl s_client -connect HOST:15008 -showcerts </dev/null | hopguard svid inspect -")]
    Inspect(inspect::Inspect),
    /// Fetch what a SPIFFE Workload API gives this process
    #[command(after_help = "\
Examples: hopguard svid fetch --socket unix:///run/hopguard/workload.sock --write /run/myapp
          hopguard svid fetch --jwt --audience billing | hopguard token inspect")]
    Fetch(fetch::Fetch),
    /// Keep an SVID, its key and the bundle current in files, and tell a program of each change
    #[command(after_help = watch::AFTER_HELP)]
    Watch(watch::Watch),
    /// Prove an SVID against a bundle: chain, profile, trust, time (exit 1 if it is not to be trusted)
    #[command(after_help = "\
Examples: hopguard svid verify svid.pem --bundle bundle.pem --id spiffe://mesh.local/ns/shop/sa/web
          hopguard svid fetch --jwt --audience billing | hopguard svid verify - --jwt --audience billing --bundle bundle.json")]
    Verify(verify::Verify),
    /// Have the authority issue an SVID to you, its operator: any identity of its trust domain, for as long as workloads get it
    #[command(after_help = issue::AFTER_HELP)]
    Issue(issue::Issue),
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.what {
        What::Inspect(inspect) => inspect::run(&inspect, ui),
        What::Fetch(fetch) => fetch::run(&fetch, ui),
        What::Watch(watch) => watch::run(&watch, ui),
        What::Verify(verify) => verify::run(&verify, ui),
        What::Issue(issue) => issue::run(&issue, ui),
    }
}

/// A SPIFFE ID of the command line.
pub fn id(text: &str) -> Result<SpiffeId, Failure> {
    parse_id(text).map_err(|error| {
        Failure::new(format!("`{text}`: {error}"))
            .hint("write spiffe://TRUST-DOMAIN/PATH")
            .exit(Exit::Usage)
    })
}
