//! `hopguard doctor`: looks at this machine as the sidecar, the authority and the redirect will, and tells what keeps them
//! from working, each with what to do. It changes nothing.

mod machine;
mod ports;
mod redirect;
mod remote;
mod report;
mod settings;

use std::path::PathBuf;

use report::{Check, Group, State};
use settings::Settings;

use crate::ui::{Exit, Failure, Ui};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The sidecar's configuration: its ports, mark, Workload API and issuers are looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The redirect's settings: what is in place is compared with them, rule by rule
    #[arg(long, value_name = "FILE")]
    redirect: Option<PathBuf>,
}

/// Looks, and tells. Exit code 1 when something is ×.
///
/// # Errors
/// Never: what cannot be looked at is a finding.
pub fn run(args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let (settings, files) = settings(&args);
    let mut groups = Vec::new();
    groups.extend(files);
    groups.push(machine::group(&settings));
    groups.push(redirect::group(&settings, args.redirect.as_deref()));
    groups.push(ports::group(&settings));
    groups.extend(remote::groups(&settings));
    let failed = groups
        .iter()
        .flat_map(|group| &group.checks)
        .any(|check| check.state == State::Fail);
    report::show(&groups, ui);
    Ok(if failed { Exit::No } else { Exit::Done })
}

/// The sidecar's settings; the defaults where there are none, or none that can be read.
fn settings(args: &Args) -> (Settings, Option<Group>) {
    let Some(path) = &args.config else {
        return (Settings::default(), None);
    };
    match Settings::read(path) {
        Ok(settings) => {
            let check = Check::ok("settings", path.display().to_string());
            (settings, Some(Group::new("files", vec![check])))
        }
        Err(problems) => {
            let hint = format!(
                "hopguard config check {} shows them with their lines",
                path.display()
            );
            let checks = problems
                .into_iter()
                .map(|problem| Check::fail("settings", problem, hint.clone()));
            (Settings::default(), Some(Group::new("files", checks.collect())))
        }
    }
}
