//! `hopguard ca`: runs the certificate authority until SIGTERM or SIGINT (`serve`; what leaves on stdout is the sockets,
//! once they listen, and the log goes to stderr), and asks a running one (the other verbs, one file each).

pub mod ask;
mod audit;
mod backup;
mod import;
mod keys;
mod restore;
mod revoke;
mod rotate;
mod status;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hopguard_ca::config::Config;
use hopguard_ca::server::{Blame, CaError};
use tokio::signal::unix::{SignalKind, signal};

use crate::process::{raise_descriptors, start_log};
use crate::ui::{Exit, Failure, Ui};

/// The control side is small: two workers at the most, and one where there is one core.
const WORKERS: usize = 2;
/// How long readings that hang may keep the process at its end.
const LAST_READERS: Duration = Duration::from_millis(500);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Serve the SPIFFE Workload API on unix sockets
    Serve(Serve),
    /// Copy state and private keys into one file, while the authority runs or not
    Backup(backup::Backup),
    /// Make an empty data directory what a backup holds
    Restore(restore::Restore),
    /// Check an audit log
    Audit(audit::Audit),
    /// Say what is in force, and how long the mesh lives if the authority dies now
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// Replace the signing authority (X.509) or key (JWT), and wait wherever a step would break somebody
    #[command(after_help = rotate::EXAMPLES)]
    Rotate(rotate::Args),
    /// Take an identity, a certificate or an authority back
    #[command(after_help = revoke::EXAMPLES)]
    Revoke(revoke::Args),
    /// Print a request for an authority that the organisation's root is to sign
    #[command(after_help = import::CSR_EXAMPLES)]
    Csr(import::Csr),
    /// Take in the authority that the organisation's root signed
    #[command(after_help = import::IMPORT_EXAMPLES)]
    Import(import::Import),
    /// Encrypt or decrypt the keys on the disk, while the authority does not run
    #[command(after_help = keys::EXAMPLES)]
    Keys(keys::Args),
}

#[derive(clap::Args)]
struct Serve {
    /// The authority's configuration (also as `--config FILE`)
    #[arg(value_name = "FILE", default_value = "ca.toml")]
    file: PathBuf,
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "file")]
    config: Option<PathBuf>,
    /// What is logged to stderr (tracing's filter syntax)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HOPGUARD_LOG")]
    log: String,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.what {
        What::Serve(args) => serve(args, ui),
        What::Backup(args) => backup::run(&args, ui),
        What::Restore(args) => restore::run(&args, ui),
        What::Audit(args) => audit::run(&args, ui),
        What::Status(args) => status::run(&args, ui),
        What::Rotate(args) => rotate::run(&args, ui),
        What::Revoke(args) => revoke::run(args, ui),
        What::Csr(args) => import::csr(&args, ui),
        What::Import(args) => import::import(&args, ui),
        What::Keys(args) => keys::run(args, ui),
    }
}

/// For verbs that do one thing and end.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))
}

fn serve(serve: Serve, ui: &Ui) -> Result<Exit, Failure> {
    let mut config = load(&serve.config.unwrap_or(serve.file))?;
    start_log(&serve.log)?;
    let (wanted, limit) = (config.descriptors(), raise_descriptors());
    if limit < wanted {
        config = config.within(limit);
        tracing::warn!(
            connections = config.limits.connections,
            connections_per_uid = config.limits.connections_per_uid,
            endpoint_connections = config.endpoint.connections.0,
            "the process may open {limit} files, and all connections together need {wanted}: it takes fewer (hint: raise LimitNOFILE)"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS),
        )
        .thread_name("hopguard-ca")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    let outcome = runtime.block_on(serve_until_told(config, ui));
    runtime.shutdown_timeout(LAST_READERS);
    outcome.map(|()| Exit::Done)
}

fn load(file: &Path) -> Result<Config, Failure> {
    hopguard_ca::config::load(file).map_err(|problems| failure(CaError::Files(problems)))
}

async fn serve_until_told(config: Config, ui: &Ui) -> Result<(), Failure> {
    let cannot = |error| Failure::new(format!("signals cannot be handled: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let started = tokio::select! {
        started = hopguard_ca::server::start(config) => started,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let running = started.map_err(failure)?;
    for socket in running.sockets() {
        if ui.is_json() {
            ui.json(&serde_json::json!({"socket": format!("unix://{}", socket.display())}));
        } else {
            ui.line(format!("unix://{}", socket.display()));
        }
    }
    for url in running.endpoint() {
        if ui.is_json() {
            ui.json(&serde_json::json!({"endpoint": url}));
        } else {
            ui.line(url);
        }
    }
    let mut moved = signal(SignalKind::hangup()).map_err(cannot)?;
    let audit = running.audit();
    tokio::spawn(async move {
        while moved.recv().await.is_some() {
            tracing::info!("the audit log is opened by its name again");
            audit.reopen().await;
        }
    });
    let told = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    running.run(told).await.map_err(failure)
}

fn failure(error: CaError) -> Failure {
    let exit = match error.blame() {
        Blame::Config => Exit::BadFile,
        Blame::User => Exit::NotHere,
        Blame::Us => Exit::No,
    };
    Failure::new(error.to_string()).hint(error.hint()).exit(exit)
}
