//! What others must answer: the Workload API's socket. It sends nothing.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::report::{Check, Group};
use super::settings::Settings;

/// Looks at what others serve.
pub fn groups(settings: &Settings) -> Vec<Group> {
    vec![Group::new(
        "identity",
        vec![socket(settings.workload_api.as_deref())],
    )]
}

fn socket(endpoint: Option<&str>) -> Check {
    const NAME: &str = "Workload API";
    let Some(endpoint) = endpoint else {
        let hint =
            "set `workload_api` in [identity], or SPIFFE_ENDPOINT_SOCKET=unix:///run/hopguard/workload.sock";
        return Check::warn(NAME, "no endpoint is configured", hint);
    };
    let Some(path) = endpoint.strip_prefix("unix://") else {
        return Check::ok(NAME, format!("{endpoint} (not tried)"));
    };
    let start = "start the authority (hopguard ca serve) or a SPIRE agent, and look at the path";
    match std::fs::symlink_metadata(Path::new(path)) {
        Err(error) => Check::fail(NAME, format!("{path}: {error}"), start),
        Ok(file) if !file.file_type().is_socket() => Check::fail(NAME, format!("{path} is no socket"), start),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Check::ok(NAME, format!("{path} accepts connections")),
            Err(error) => Check::fail(NAME, format!("{path}: {error}"), start),
        },
    }
}
