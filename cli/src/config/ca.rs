//! The files of the certificate authority, for which this build has no reader: a path enters, a problem that says so
//! leaves. It takes no file for good.

use std::path::Path;

use hopguard_sidecar::config::ConfigProblem;

/// Refuses.
pub(super) fn check(path: &Path, _text: &str) -> Result<(), Vec<ConfigProblem>> {
    Err(vec![ConfigProblem::whole(
        path,
        "cannot be checked: this build has no certificate authority",
        "check it with a build that has one",
    )])
}
