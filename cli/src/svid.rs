//! `hopguard svid inspect|fetch`: what an SVID says, which rules it breaks, and what a Workload API would give this
//! process. Private keys are written to files of mode 0600 when asked for, and never shown.

mod profile;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hopguard_sidecar::identity::{self, Description, Fetched, IdentityError, describe};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::ui::{Exit, Failure, Ui, printable};

/// A chain is a few KiB.
const MAX_INPUT: u64 = 1 << 20;
const MAX_CHAIN: usize = 64;

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
    Inspect(Inspect),
    /// Fetch what a SPIFFE Workload API gives this process
    Fetch(Fetch),
}

#[derive(clap::Args)]
struct Inspect {
    /// A chain, leaf first, as PEM or DER; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(clap::Args)]
struct Fetch {
    /// The Workload API
    #[arg(
        long,
        value_name = "unix:///PATH|tcp://IP:PORT",
        env = "SPIFFE_ENDPOINT_SOCKET"
    )]
    socket: String,
    /// Also write svid.N.pem, svid.N.key (mode 0600) and bundle.N.pem into this folder
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// How long to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    match args.what {
        What::Inspect(inspect) => inspect_file(&inspect.file, ui),
        What::Fetch(fetch) => fetch_all(&fetch, ui),
    }
}

fn inspect_file(file: &Path, ui: &Ui) -> Result<Exit, Failure> {
    let bad = |problem: String| {
        Failure::new(format!("`{}`: {problem}", file.display()))
            .hint("an X.509-SVID is a certificate chain, leaf first, as PEM or DER")
            .exit(Exit::BadFile)
    };
    let bytes = read(file).map_err(|error| bad(error.to_string()))?;
    let chain = chain(&bytes).map_err(bad)?;
    let said = examined(&chain);
    if ui.is_json() {
        ui.json(&said);
    } else {
        show(&said, None, ui);
    }
    Ok(if said.problems.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}

/// What the chain says, and every rule of the profile that it breaks.
fn examined(chain: &[CertificateDer<'_>]) -> Description {
    let now = SystemTime::now();
    let mut said = describe(chain, now);
    said.problems = profile::problems(chain, now);
    said.problems.extend(unlinked(chain));
    said
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?
            .take(MAX_INPUT + 1)
            .read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_INPUT {
        return Err(std::io::Error::other(format!(
            "it is larger than {MAX_INPUT} bytes"
        )));
    }
    Ok(bytes)
}

/// All certificates of a PEM file (other sections are passed over), or DER one after the other.
fn chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    let chain = if pem {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        read.map_err(|error| format!("bad PEM: {error}"))?
    } else {
        concatenated(bytes)?
    };
    match chain.len() {
        0 => Err("there is no certificate in it".to_owned()),
        count if count > MAX_CHAIN => Err(format!("more than {MAX_CHAIN} certificates are no chain")),
        _ => Ok(chain),
    }
}

fn concatenated(mut bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    while !bytes.is_empty() && chain.len() <= MAX_CHAIN {
        let (rest, _) =
            X509Certificate::from_der(bytes).map_err(|_| "neither PEM nor DER certificates".to_owned())?;
        let (one, _) = bytes.split_at(bytes.len() - rest.len());
        chain.push(CertificateDer::from(one.to_vec()));
        bytes = rest;
    }
    Ok(chain)
}

/// Certificates that the next one in the chain did not sign. (Whether the last one is trusted, the chain cannot say.)
fn unlinked(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let parsed: Vec<_> = chain
        .iter()
        .map(|der| X509Certificate::from_der(der).ok().map(|(_, one)| one))
        .collect();
    let pairs = parsed.iter().zip(parsed.iter().skip(1)).enumerate();
    let broken = pairs.filter(|(_, pair)| match pair {
        (Some(one), Some(above)) => {
            one.issuer() != above.subject() || one.verify_signature(Some(above.public_key())).is_err()
        }
        _ => false,
    });
    broken
        .map(|(at, _)| {
            format!(
                "certificate {at} of the chain is not signed by certificate {}",
                at + 1
            )
        })
        .collect()
}

fn fetch_all(fetch: &Fetch, ui: &Ui) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    let fetched = runtime
        .block_on(identity::fetch(&fetch.socket, Duration::from_secs(fetch.timeout)))
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

fn refused(error: &IdentityError) -> Failure {
    let (exit, hint) = match error {
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

fn show(said: &Description, hint: Option<&str>, ui: &Ui) {
    let left = if said.expires_in_seconds < 0 {
        format!("expired {} ago", span(said.expires_in_seconds.unsigned_abs()))
    } else {
        format!("{} left", span(said.expires_in_seconds.unsigned_abs()))
    };
    let id = if said.spiffe_id.is_empty() {
        "none"
    } else {
        &said.spiffe_id
    };
    ui.line(ui.paint("1", &printable(id)));
    for (name, value) in [
        ("hint", hint.unwrap_or_default().to_owned()),
        ("serial", said.serial.clone()),
        (
            "valid",
            format!("{} to {} ({left})", said.not_before, said.not_after),
        ),
        ("key", said.key.clone()),
        ("issuer", said.issuer.clone()),
        (
            "chain",
            format!(
                "{} certificate{}",
                said.chain_length,
                if said.chain_length == 1 { "" } else { "s" }
            ),
        ),
    ] {
        if !value.is_empty() {
            ui.line(format!("  {name:<11} {}", printable(&value)));
        }
    }
    for problem in &said.problems {
        ui.line(format!(
            "  {}     {}",
            ui.paint("31", "problem"),
            printable(problem)
        ));
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn write(dir: &Path, at: usize, fetched: &Fetched) -> Result<Vec<PathBuf>, String> {
    let identity = &fetched.identity;
    let roots = identity
        .bundles
        .of(identity.id.trust_domain())
        .unwrap_or_default();
    let files = [
        (format!("svid.{at}.pem"), 0o644, certificates(&identity.chain)),
        (
            format!("svid.{at}.key"),
            0o600,
            pem("PRIVATE KEY", identity.key.pkcs8().secret_pkcs8_der()),
        ),
        (format!("bundle.{at}.pem"), 0o644, certificates(roots)),
    ];
    let mut written = Vec::with_capacity(files.len());
    for (name, mode, text) in files {
        let path = dir.join(name);
        replace(&path, mode, text.as_bytes()).map_err(|error| format!("`{}`: {error}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// A new file takes the place of an old one whole, and has its mode from the start.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if done.is_err() {
        let _left = std::fs::remove_file(&temporary);
    }
    done
}

fn certificates(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// RFC 7468: 64 characters a line.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> (rcgen::CertificateParams, rcgen::KeyPair, CertificateDer<'static>) {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        (params, key, der)
    }

    #[test]
    fn a_chain_is_read_from_pem_and_from_der() {
        let (first, second) = (certificate("a").2, certificate("b").2);
        let both = vec![first.clone(), second.clone()];
        assert_eq!(
            chain(&[first.to_vec(), second.to_vec()].concat()),
            Ok(both.clone())
        );
        let text = format!(
            "note\n{}{}{}",
            pem("PRIVATE KEY", b"x"),
            pem("CERTIFICATE", &first),
            pem("CERTIFICATE", &second)
        );
        assert_eq!(chain(text.as_bytes()), Ok(both));
        for bad in [
            &b""[..],
            b"garbage",
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            assert!(chain(bad).is_err());
        }
        assert!(chain(&first.repeat(65)).is_err());
    }

    #[test]
    fn a_chain_whose_links_do_not_hold_is_told() {
        let (params, key, above) = certificate("ca");
        let issuer = rcgen::Issuer::new(params, key);
        let (leaf_params, leaf_key, stranger) = certificate("leaf");
        let leaf = leaf_params.signed_by(&leaf_key, &issuer).unwrap().der().clone();
        assert!(unlinked(&[leaf.clone(), above.clone()]).is_empty());
        assert_eq!(unlinked(&[leaf, stranger.clone(), above]).len(), 2);
        // The same name with another key.
        let impostor = certificate("leaf").2;
        assert_eq!(unlinked(&[stranger, impostor]).len(), 1);
    }

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem("CERTIFICATE", &[7; 100]);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(text.ends_with("\n-----END CERTIFICATE-----\n"));
    }
}
