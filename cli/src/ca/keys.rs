//! `hopguard ca keys`: the keys of an authority that does not run, encrypted or decrypted.

use std::path::PathBuf;

use hopguard_ca::keys::{Form, PassphraseSource};
use hopguard_ca::server::convert_keys;

use crate::ui::{Exit, Failure, Ui};

/// Shown by `--help`.
pub const EXAMPLES: &str = "\
The authority must not run. Each key is replaced in one step, after it was read back; the command may be run again.

Examples:
  umask 077; head -c 32 /dev/urandom | base64 > /etc/hopguard/key-passphrase
  hopguard ca keys encrypt ca.toml      # after key_passphrase_file = \"/etc/hopguard/key-passphrase\" in ca.toml
  hopguard ca keys decrypt ca.toml      # then take key_passphrase_file out of ca.toml";

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Put every key under the passphrase
    Encrypt(Which),
    /// Write every key as plain PKCS#8 again
    Decrypt(Which),
}

#[derive(clap::Args)]
struct Which {
    /// The authority's configuration
    #[arg(value_name = "FILE", default_value = "ca.toml")]
    file: PathBuf,
    /// The passphrase, where ca.toml does not name it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let (which, form) = match args.what {
        What::Encrypt(which) => (which, Form::Sealed),
        What::Decrypt(which) => (which, Form::Plain),
    };
    let config = super::load(&which.file)?;
    let given = which.passphrase_file.map(PassphraseSource::File);
    let Some(passphrase) = given.or_else(|| config.key_passphrase.clone()) else {
        return Err(Failure::new("there is no passphrase")
            .hint("name its file by `key_passphrase_file` in ca.toml, or by --passphrase-file")
            .exit(Exit::BadFile));
    };
    let changed = convert_keys(&config, &passphrase, form).map_err(super::failure)?;
    let word = if form == Form::Sealed {
        "encrypted"
    } else {
        "decrypted"
    };
    if ui.is_json() {
        ui.json(&serde_json::json!({ word: changed }));
    } else if changed.is_empty() {
        ui.line(format!("every key is {word} already"));
    } else {
        for name in &changed {
            ui.line(format!("{name} is {word}"));
        }
    }
    match (form, &config.key_passphrase) {
        (Form::Sealed, None) => {
            ui.note("the authority starts with `key_passphrase_file` in ca.toml from now on")
        }
        (Form::Plain, Some(_)) => {
            ui.note("take `key_passphrase_file` out of ca.toml before the authority starts")
        }
        _ => {}
    }
    Ok(Exit::Done)
}
