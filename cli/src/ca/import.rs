//! `hopguard ca csr` and `hopguard ca import`: an authority under the organisation's root.

use std::path::PathBuf;
use std::time::Duration;

use hopguard_ca::admin::Request;

use super::ask::{Which, ask, moment, number, text};
use crate::ui::{Exit, Failure, Ui};

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_CHAIN: u64 = 64 << 10;

/// Shown by `ca csr --help`.
pub const CSR_EXAMPLES: &str = "\
The key is made in data_dir and never leaves it. Until its certificate was imported, the same key is asked for again.

Examples:
  hopguard ca csr > hopguard.csr
  openssl req -in hopguard.csr -noout -text -verify";

/// Shown by `ca import --help`.
pub const IMPORT_EXAMPLES: &str = "\
The chain is PEM: the certificate that was signed, what lies between, and the organisation's root. It becomes a prepared \
authority, is published at once, and signs as soon as that breaks nobody (`hopguard ca status`).

Examples:
  hopguard ca import chain.pem";

/// Arguments of `csr`.
#[derive(clap::Args)]
pub struct Csr {
    #[command(flatten)]
    which: Which,
}

/// Arguments of `import`.
#[derive(clap::Args)]
pub struct Import {
    #[command(flatten)]
    which: Which,
    /// The chain, PEM
    #[arg(value_name = "CHAIN")]
    chain: PathBuf,
}

/// Prints the request.
pub fn csr(args: &Csr, ui: &Ui) -> Result<Exit, Failure> {
    let done = ask(&args.which, &Request::Csr, Some(PATIENCE), |_| ())?;
    if ui.is_json() {
        ui.json(&done);
    } else {
        ui.line(text(&done, "csr").trim_end());
    }
    Ok(Exit::Done)
}

/// Hands the chain over.
pub fn import(args: &Import, ui: &Ui) -> Result<Exit, Failure> {
    let wrong = |what: String| Failure::new(format!("{}: {what}", args.chain.display())).exit(Exit::BadFile);
    let found = std::fs::metadata(&args.chain).map_err(|error| wrong(error.to_string()))?;
    if !found.is_file() || found.len() > MAX_CHAIN {
        return Err(wrong(format!(
            "it is not a plain file of at most {MAX_CHAIN} bytes"
        )));
    }
    let pem = std::fs::read_to_string(&args.chain).map_err(|error| wrong(error.to_string()))?;
    let done = ask(&args.which, &Request::Import { pem }, Some(PATIENCE), |_| ())?;
    if ui.is_json() {
        ui.json(&done);
    } else {
        let until = number(&done, "not_after").map(moment).unwrap_or_default();
        ui.line(format!(
            "{} is prepared and in the bundle, until {until}; it signs as soon as that breaks nobody",
            text(&done, "prepared")
        ));
    }
    Ok(Exit::Done)
}
