//! `hopguard svid inspect`, and how every verb shows an SVID.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hopguard_sidecar::identity::{Description, describe};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::files::{chain, read};
use super::profile;
use crate::ui::{Exit, Failure, Ui, printable};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Inspect {
    /// A chain, leaf first, as PEM or DER; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs it.
pub fn run(inspect: &Inspect, ui: &Ui) -> Result<Exit, Failure> {
    let chain = chain_of(&inspect.file)?;
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

/// The chain in a file.
pub fn chain_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bad = |problem: String| {
        Failure::new(format!("`{}`: {problem}", file.display()))
            .hint("an X.509-SVID is a certificate chain, leaf first, as PEM or DER")
            .exit(Exit::BadFile)
    };
    let bytes = read(file).map_err(|error| bad(error.to_string()))?;
    chain(&bytes).map_err(bad)
}

/// What the chain says, and every rule of the profile that it breaks.
pub fn examined(chain: &[CertificateDer<'_>]) -> Description {
    let now = SystemTime::now();
    let mut said = describe(chain, now);
    said.problems = profile::problems(chain, now);
    said.problems.extend(unlinked(chain));
    said
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

/// Shows it.
pub fn show(said: &Description, hint: Option<&str>, ui: &Ui) {
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

/// A length of time in few words.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
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
}
