//! `hopguard svid fetch`: what a Workload API gives this process, once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hopguard_sidecar::identity::{self, Fetched, FetchedToken, IdentityError, Wanted};
use zeroize::Zeroizing;

use super::files::{certificates, key_pem, replace};
use super::id;
use super::inspect::{examined, show};
use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Fetch {
    /// The Workload API
    #[arg(
        long,
        value_name = "unix:///PATH|tcp://IP:PORT",
        env = "SPIFFE_ENDPOINT_SOCKET"
    )]
    socket: String,
    /// Also write svid.N.pem, svid.N.key (mode 0600) and bundle.N.pem into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "jwt")]
    write: Option<PathBuf>,
    /// JWT-SVIDs instead, one a line, for the audience
    #[arg(long, requires = "audience")]
    jwt: bool,
    /// Whom a JWT-SVID is for; may be repeated, but whoever gets the token can show it to every other one
    #[arg(long, value_name = "AUDIENCE", requires = "jwt")]
    audience: Vec<String>,
    /// The JWT-SVID of this identity alone
    #[arg(long, value_name = "SPIFFE-ID", requires = "jwt")]
    id: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// Runs it.
pub fn run(fetch: &Fetch, ui: &Ui) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let limit = Duration::from_secs(fetch.timeout);
    if fetch.jwt {
        let id = fetch.id.as_deref().map(id).transpose()?;
        let audience = fetch.audience.clone();
        let wanted = Wanted { audience, id };
        let asked = identity::fetch_tokens(&fetch.socket, &wanted, limit);
        let tokens = runtime.block_on(asked).map_err(|error| refused(&error))?;
        tokens.iter().for_each(|token| show_token(token, ui));
        return Ok(Exit::Done);
    }
    let fetched = runtime
        .block_on(identity::fetch(&fetch.socket, limit))
        .map_err(|error| refused(&error))?;
    for (at, one) in fetched.iter().enumerate() {
        let said = examined(&one.identity.chain);
        let written = match &fetch.write {
            Some(dir) => write(dir, at, one).map_err(|error| {
                Failure::new(error)
                    .exit(Exit::NotHere)
                    .hint("the folder must exist and be writable for this user")
            })?,
            None => Vec::new(),
        };
        if ui.is_json() {
            ui.json(&serde_json::json!({"svid": said, "hint": one.hint, "files": written}));
        } else {
            show(&said, Some(&one.hint), ui);
            for file in written {
                ui.line(format!("  written     {}", file.display()));
            }
        }
    }
    Ok(Exit::Done)
}

/// The token is the result: it goes to stdout, for a pipe.
fn show_token(fetched: &FetchedToken, ui: &Ui) {
    if ui.is_json() {
        let id = fetched.id.to_string();
        ui.json(&serde_json::json!({"spiffe_id": id, "hint": fetched.hint, "token": fetched.token.as_str()}));
    } else {
        ui.line(fetched.token.as_str());
    }
}

/// A runtime for one question.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))
}

/// Why a Workload API gives nothing.
pub fn refused(error: &IdentityError) -> Failure {
    let (exit, hint) = match error {
        IdentityError::Refused { detail, .. } if detail.contains("is revoked") => (
            Exit::No,
            "`hopguard ca revoke --list` says why; nobody gets it until that is lifted, whatever entries say",
        ),
        IdentityError::Refused { code, .. } if format!("{code:?}") == "PermissionDenied" => (
            Exit::No,
            "no entry grants an identity to this process: the authority's log says what was missing",
        ),
        IdentityError::Endpoint { .. } => (
            Exit::Usage,
            "set --socket or SPIFFE_ENDPOINT_SOCKET to unix:///PATH",
        ),
        _ => (
            Exit::NotHere,
            "is the authority running (`hopguard ca serve`), and may this user reach its socket?",
        ),
    };
    Failure::new(error.to_string()).exit(exit).hint(hint)
}

fn write(dir: &Path, at: usize, fetched: &Fetched) -> Result<Vec<PathBuf>, String> {
    let identity = &fetched.identity;
    let roots = identity
        .bundles
        .of(identity.id.trust_domain())
        .unwrap_or_default();
    let public = |certificates: String| Zeroizing::new(certificates);
    let files = [
        (
            format!("svid.{at}.pem"),
            0o644,
            public(certificates(&identity.chain)),
        ),
        (
            format!("svid.{at}.key"),
            0o600,
            key_pem(identity.key.pkcs8().secret_pkcs8_der()),
        ),
        (format!("bundle.{at}.pem"), 0o644, public(certificates(roots))),
    ];
    let mut written = Vec::with_capacity(files.len());
    for (name, mode, text) in files {
        let path = dir.join(name);
        replace(&path, mode, text.as_bytes()).map_err(|error| format!("`{}`: {error}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}
