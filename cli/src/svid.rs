//! Not built yet: the verb refuses, and does nothing.

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Refuses.
pub fn run(_args: Args, _ui: &Ui) -> Result<Exit, Failure> {
    Err(Failure::new("this verb is not built yet").exit(Exit::NotHere))
}
