//! What is done to a data directory that no authority works in.

use super::CaError;
use crate::config::Config;
use crate::datadir::DataDir;
use crate::keys::{Disk, Form, Passphrase, PassphraseSource};

/// Brings every key of the data directory into a form; answers the names of those that changed. It may be interrupted and
/// run again.
///
/// # Errors
/// When an authority runs there, the passphrase cannot be read or is wrong, or a key cannot be written.
pub fn convert_keys(
    config: &Config,
    passphrase: &PassphraseSource,
    form: Form,
) -> Result<Vec<String>, CaError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    let keys = Disk::with(data_dir.path(), Some(Passphrase::read(passphrase)?));
    // What an interrupted run left may be a key in the other form.
    keys.tidy()?;
    let names = keys.names()?;
    // All are looked at before one is changed: a wrong passphrase must not leave half of them.
    for name in &names {
        if keys.form(name)? == Form::Sealed {
            keys.load(name)?;
        }
    }
    let mut changed = Vec::new();
    for name in names {
        if keys.convert(&name, form)? {
            changed.push(name);
        }
    }
    Ok(changed)
}
