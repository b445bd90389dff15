//! `hopguard bundle`: what a trust domain is trusted by. From a Workload API, a file or a bundle endpoint it enters, as a
//! summary that can be compared on another way, or in one of four forms, it leaves.

pub mod document;
mod fetch;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hopguard_sidecar::identity::{self, IdentityError};
use serde_json::Value;
use spiffe::TrustDomain;

use crate::ca::ask::{list, number, text};
use crate::svid::fetch::{refused, runtime};
use crate::svid::{files, inspect};
use crate::ui::{Exit, Failure, Ui, printable};
use document::{Bundle, fingerprint};

const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Show a bundle: of a file, or of the trust domain of this process, as its Workload API gives it
    #[command(after_help = "\
Examples: hopguard bundle show --socket unix:///run/hopguard/workload.sock
          hopguard bundle show --socket unix:///run/hopguard/workload.sock --format spiffe > mesh.local.json
          hopguard bundle show other.json --format pem")]
    Show(Show),
    /// Fetch a bundle from the bundle endpoint of a trust domain
    #[command(after_help = "\
Examples: hopguard bundle fetch --url https://id.example.org/ --profile https_web --write example.org.json
          hopguard bundle fetch --url https://10.0.0.7:8443/ --profile https_spiffe \\
            --server-id spiffe://example.org/hopguard/bundle-endpoint --bootstrap example.org.json --write example.org.json")]
    Fetch(Fetch),
    /// Check a bundle by the rules of the SPIFFE standards, and its roots by fingerprints got on another way (exit 1 if not)
    #[command(after_help = "\
Example: hopguard bundle verify example.org.json --trust-domain example.org --fingerprint 3D:07:...:9A")]
    Verify(Verify),
}

/// The forms of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A SPIFFE bundle document.
    Spiffe,
    /// The X.509 roots, PEM.
    Pem,
    /// The X.509 roots, DER, one behind the other.
    Der,
    /// The keys of JWT-SVIDs, a JWK Set for any JWT library.
    Jwks,
}

#[derive(clap::Args)]
struct Show {
    /// A SPIFFE bundle document, or roots as PEM or DER; `-` reads stdin [default: the Workload API is asked]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The Workload API
    #[arg(
        long,
        value_name = "unix:///PATH|tcp://IP:PORT",
        env = "SPIFFE_ENDPOINT_SOCKET"
    )]
    socket: Option<String>,
    /// Of a trust domain that it federates with, instead of its own
    #[arg(long, value_name = "TRUST-DOMAIN", conflicts_with = "file")]
    trust_domain: Option<String>,
    /// Write the bundle itself to stdout instead
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(clap::Args)]
struct Fetch {
    #[command(flatten)]
    from: fetch::From,
    /// Write the bundle itself to stdout instead of a summary
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Also write the SPIFFE bundle document into this file, unless a newer one, or one of others, is in it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Verify {
    /// A SPIFFE bundle document, or roots as PEM or DER; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its roots must be of this trust domain; one that does not say so must be known by its --fingerprint
    #[arg(long, value_name = "TRUST-DOMAIN")]
    trust_domain: Option<String>,
    /// SHA-256 of a root, hexadecimal; the roots must be exactly those that are given
    #[arg(long, value_name = "SHA256")]
    fingerprint: Vec<String>,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.what {
        What::Show(show) => {
            let bundle = match (&show.file, &show.socket) {
                (Some(file), _) => Bundle::open(file)?,
                (None, Some(socket)) => of_workload_api(socket, show.trust_domain.as_deref(), ui)?,
                (None, None) => {
                    return Err(Failure::new("name a file, or a Workload API by --socket")
                        .hint("SPIFFE_ENDPOINT_SOCKET=unix:///run/hopguard/workload.sock")
                        .exit(Exit::Usage));
                }
            };
            tell(&bundle, show.format, ui)
        }
        What::Fetch(fetch) => {
            let bundle = fetch.from.fetch()?;
            if let Some(file) = &fetch.write {
                keep(&bundle, file, ui)?;
            }
            tell(&bundle, fetch.format, ui)
        }
        What::Verify(verify) => check(&verify, ui),
    }
}

fn domain(text: &str) -> Result<TrustDomain, Failure> {
    TrustDomain::new(text).map_err(|error| {
        Failure::new(format!("`{text}` is not a trust domain: {error}"))
            .hint("write example.org")
            .exit(Exit::Usage)
    })
}

fn of_workload_api(socket: &str, wanted: Option<&str>, ui: &Ui) -> Result<Bundle, Failure> {
    let wanted = wanted.map(domain).transpose()?;
    let runtime = runtime()?;
    let fetched = runtime
        .block_on(identity::fetch(socket, PATIENCE))
        .map_err(|error| refused(&error))?;
    let none = || Failure::new("the Workload API gives no bundle");
    let identity = &fetched.first().ok_or_else(none)?.identity;
    let domain = wanted.unwrap_or_else(|| identity.id.trust_domain().clone());
    let roots = identity.bundles.of(&domain).unwrap_or_default();
    let keys = match runtime.block_on(identity::fetch_jwt_bundles(socket, PATIENCE)) {
        Ok(bundles) => bundles.get(&domain.id_string()).cloned(),
        Err(error @ IdentityError::Refused { .. }) => {
            ui.note(format!("note: no keys of JWT-SVIDs: {error}"));
            None
        }
        Err(error) => return Err(refused(&error)),
    };
    if roots.is_empty() && keys.is_none() {
        return Err(Failure::new(format!(
            "the Workload API gives no bundle of {domain}"
        )));
    }
    Bundle::of(roots, keys.as_deref())
        .map_err(|problem| Failure::new(format!("the JWT bundle of {domain}: {problem}")))
}

/// The file is the bootstrap of the next time: it never goes back (S-59).
fn keep(bundle: &Bundle, file: &std::path::Path, ui: &Ui) -> Result<(), Failure> {
    let bad = |problem: String| Failure::new(format!("`{}`: {problem}", file.display())).exit(Exit::NotHere);
    let there = file.try_exists().map_err(|error| bad(error.to_string()))?;
    if there {
        let before = Bundle::open(file)?;
        if let Some((problem, hint)) = before.is_followed_by(bundle).err() {
            return Err(bad(format!("{problem}: nothing was written"))
                .hint(format!("{hint}; remove the file if that is meant"))
                .exit(Exit::No));
        }
    }
    if bundle.sequence.is_none() {
        ui.note("note: the endpoint gives no `spiffe_sequence`, so nobody can see whether an older bundle comes back");
    }
    let document = bundle.to_spiffe().map_err(bad)?;
    files::replace(file, 0o644, format!("{document}\n").as_bytes())
        .map_err(|error| bad(error.to_string()))?;
    ui.note(format!("written: {}", file.display()));
    Ok(())
}

fn tell(bundle: &Bundle, format: Option<Format>, ui: &Ui) -> Result<Exit, Failure> {
    let certificates: Vec<_> = bundle.roots.iter().map(|root| root.certificate.clone()).collect();
    match format {
        None => show(&bundle.summary(SystemTime::now()), ui),
        Some(Format::Spiffe) => ui.json(&bundle.to_spiffe().map_err(Failure::new)?),
        Some(Format::Jwks) => ui.json(&bundle.to_jwks()),
        Some(Format::Pem) => ui.line(files::certificates(&certificates).trim_end()),
        Some(Format::Der) => {
            let der: Vec<u8> = certificates.iter().flat_map(|one| one.to_vec()).collect();
            let written = std::io::stdout().lock().write_all(&der);
            written.map_err(|error| Failure::new(format!("standard output cannot be written: {error}")))?;
        }
    }
    Ok(Exit::Done)
}

fn check(verify: &Verify, ui: &Ui) -> Result<Exit, Failure> {
    let wanted = verify.trust_domain.as_deref().map(domain).transpose()?;
    let prints = verify
        .fingerprint
        .iter()
        .map(|text| print(text))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let mut bundle = Bundle::open(&verify.file)?;
    let mut problems = Vec::new();
    if bundle.is_empty() {
        problems.push("it holds no key that can be used: nobody is trusted with it".to_owned());
    }
    if let Some(wanted) = &wanted {
        problems.extend(bundle.not_of(wanted, !prints.is_empty()));
    }
    let found: BTreeSet<String> = bundle
        .roots
        .iter()
        .map(|root| fingerprint(&root.certificate))
        .collect();
    if !prints.is_empty() && prints != found {
        problems.push("its roots are not those of the fingerprints".to_owned());
    }
    bundle.problems.extend(problems);
    let summary = bundle.summary(SystemTime::now());
    let ended = list(&summary, "x509_roots")
        .iter()
        .filter(|root| number(root, "expires_in_seconds").is_none_or(|left| left < 0));
    let ended = ended.map(|root| format!("the root {} has ended", text(root, "sha256")));
    bundle.problems.extend(ended.collect::<Vec<_>>());
    show(&bundle.summary(SystemTime::now()), ui);
    Ok(if bundle.problems.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}

/// A fingerprint in the one form in which they are compared.
fn print(text: &str) -> Result<String, Failure> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    match hex::decode(&digits) {
        Ok(bytes) if bytes.len() == 32 => {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            Ok(bytes.join(":"))
        }
        _ => Err(Failure::new(format!("`{text}` is not a SHA-256 fingerprint"))
            .hint("64 hexadecimal digits, with or without colons, as `hopguard bundle show` writes them")
            .exit(Exit::Usage)),
    }
}

fn show(summary: &Value, ui: &Ui) {
    if ui.is_json() {
        ui.json(summary);
        return;
    }
    let unknown = Some(text(summary, "trust_domain"))
        .filter(|name| !name.is_empty())
        .unwrap_or("(its roots do not say)");
    ui.line(ui.paint("1", &printable(unknown)));
    let whole = |key: &str| {
        summary
            .get(key)
            .filter(|value| !value.is_null())
            .map(Value::to_string)
    };
    for (name, value) in [
        ("sequence", whole("sequence")),
        ("refresh", whole("refresh_hint").map(|hint| format!("{hint} s"))),
    ] {
        if let Some(value) = value {
            ui.line(format!("  {name:<11} {value}"));
        }
    }
    for root in list(summary, "x509_roots") {
        let left = number(root, "expires_in_seconds").unwrap_or_default();
        let left = if left < 0 {
            "ended".to_owned()
        } else {
            format!("{} left", inspect::span(left.unsigned_abs()))
        };
        ui.line(format!("  root        {}", text(root, "sha256")));
        ui.line(format!(
            "              {}, until {} ({left})",
            text(root, "key"),
            text(root, "not_after")
        ));
    }
    for key in list(summary, "jwt_keys") {
        ui.line(format!("  JWT key     {}", printable(text(key, "kid"))));
    }
    for (name, colour, of) in [("problem", "31", "problems"), ("ignored", "33", "ignored")] {
        for one in list(summary, of).iter().filter_map(Value::as_str) {
            ui.line(format!("  {}     {}", ui.paint(colour, name), printable(one)));
        }
    }
}
