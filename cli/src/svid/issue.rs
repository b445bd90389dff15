//! `hopguard svid issue`: an operator, who may reach the administration socket, has the authority issue an SVID.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hopguard_ca::admin::Request;
use hopguard_ca::config::svid_ttl;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::files::{certificates, guarded, key_pem, replace};
use super::id;
use super::inspect::{examined, show};
use crate::ca::ask::{Which, ask, list, text};
use crate::ui::{Exit, Failure, Ui};

pub const AFTER_HELP: &str = "\
Examples: hopguard svid issue spiffe://mesh.local/ops/alice --write . --ttl 15m
          hopguard svid issue spiffe://mesh.local/ops/alice --jwt --audience billing
No entry is asked: whoever may reach the authority's administration socket may be anybody. It is recorded and told in
the authority's log, and ends as SVIDs of workloads do: `svid_ttl` and `jwt_svid_ttl` are the most. For a program
that stays, use `svid watch`.";

const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Issue {
    /// Whose SVID
    #[arg(value_name = "SPIFFE-ID")]
    id: String,
    #[command(flatten)]
    which: Which,
    /// Where svid.pem, svid.key and bundle.pem are written, all of mode 0600
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "jwt",
        conflicts_with = "jwt"
    )]
    write: Option<PathBuf>,
    /// Its life, at most the `svid_ttl` or `jwt_svid_ttl` of the authority [default: that]
    #[arg(long, value_name = "DURATION", value_parser = svid_ttl)]
    ttl: Option<Duration>,
    /// A JWT-SVID instead, to stdout
    #[arg(long, requires = "audience")]
    jwt: bool,
    /// Whom the JWT-SVID is for; may be repeated, but whoever gets the token can show it to every other one
    #[arg(long, value_name = "AUDIENCE", requires = "jwt")]
    audience: Vec<String>,
}

/// Runs it.
pub fn run(issue: &Issue, ui: &Ui) -> Result<Exit, Failure> {
    let request = Request::IssueSvid {
        spiffe_id: id(&issue.id)?.to_string(),
        ttl: issue.ttl.map(|ttl| ttl.as_secs()),
        audience: issue.audience.clone(),
    };
    let dir = issue.write.as_deref().map(writable).transpose()?;
    let answer = ask(&issue.which, &request, Some(PATIENCE), |_| ())?;
    match dir {
        None => token(&answer, ui),
        Some(dir) => written(&answer, dir, ui),
    }
}

/// Looked at before anything is issued.
fn writable(dir: &Path) -> Result<&Path, Failure> {
    let kept = dir.join("..data").symlink_metadata().is_ok();
    let problem = match (dir.is_dir(), kept) {
        (true, false) => return secured(dir),
        (true, true) => "is kept by `svid watch`",
        (false, _) => "is not a folder",
    };
    Err(Failure::new(format!("`{}` {problem}", dir.display()))
        .hint("name another folder, which exists")
        .exit(Exit::NotHere))
}

fn secured(dir: &Path) -> Result<&Path, Failure> {
    let found = std::fs::metadata(dir).map_err(|error| error.to_string());
    found
        .and_then(|found| guarded(dir, &found))
        .map(|()| dir)
        .map_err(|problem| {
            Failure::new(problem)
                .hint("name a folder that only this user can write, below one that others cannot change")
                .exit(Exit::NotHere)
        })
}

fn token(answer: &Value, ui: &Ui) -> Result<Exit, Failure> {
    let token = text(answer, "token");
    if token.is_empty() {
        return Err(strange());
    }
    if ui.is_json() {
        ui.json(answer);
    } else {
        ui.line(token);
    }
    Ok(Exit::Done)
}

fn written(answer: &Value, dir: &Path, ui: &Ui) -> Result<Exit, Failure> {
    let der = |key: &str| {
        let all = list(answer, key)
            .iter()
            .map(|one| STANDARD.decode(one.as_str()?).ok());
        let all: Option<Vec<_>> = all.map(|one| one.map(CertificateDer::from)).collect();
        all.filter(|all| !all.is_empty()).ok_or_else(strange)
    };
    let (chain, roots) = (der("chain")?, der("bundle")?);
    let key = STANDARD.decode(text(answer, "key")).map_err(|_| strange())?;
    let key = Zeroizing::new(key);
    let key = key_pem(&key);
    let files = [
        ("svid.key", key.as_str()),
        ("svid.pem", &certificates(&chain)),
        ("bundle.pem", &certificates(&roots)),
    ];
    let mut paths = Vec::with_capacity(files.len());
    for (name, text) in files {
        let path = dir.join(name);
        replace(&path, 0o600, text.as_bytes()).map_err(|error| {
            Failure::new(format!("`{}`: {error}", path.display()))
                .hint("the folder must be writable for this user")
                .exit(Exit::NotHere)
        })?;
        paths.push(path);
    }
    let said = examined(&chain);
    if ui.is_json() {
        ui.json(&json!({"svid": said, "files": paths}));
    } else {
        show(&said, None, ui);
        for path in paths {
            ui.line(format!("  written     {}", path.display()));
        }
    }
    Ok(Exit::Done)
}

fn strange() -> Failure {
    Failure::new("the authority's answer is not understood")
        .hint("use the command line of the authority's own version")
}
