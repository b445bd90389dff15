//! What others must answer: the Workload API with an SVID, each issuer with its keys. They are asked once, as the sidecar
//! would ask, each with a deadline, all at the same time.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hopguard_sidecar::authn::{IssuerKind, IssuerOptions, IssuerState, probe};
use hopguard_sidecar::dial::DialOptions;
use hopguard_sidecar::identity::{Fetched, IdentityError, fetch};

use super::machine::may_mark;
use super::report::{Check, Group};
use super::settings::{Settings, Wanted};

/// How long anybody is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most SVIDs that are told one by one.
const MAX_SVIDS: usize = 10;

/// Asks them.
pub fn groups(settings: &Settings) -> Vec<Group> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        let check = Check::fail(
            "network",
            "no event loop can be made here",
            "look at the limits of this process",
        );
        return vec![Group::new("identity", vec![check])];
    };
    runtime.block_on(async {
        let (identity, issuers) = tokio::join!(identity(settings), issuers(settings));
        std::iter::once(Group::new("identity", identity))
            .chain(issuers)
            .collect()
    })
}

async fn identity(settings: &Settings) -> Vec<Check> {
    const NAME: &str = "Workload API";
    let Some(endpoint) = settings.workload_api.as_deref() else {
        let hint =
            "set `workload_api` in [identity], or SPIFFE_ENDPOINT_SOCKET=unix:///run/hopguard/workload.sock";
        return vec![if settings.configured {
            Check::fail(NAME, "no endpoint is configured", hint)
        } else {
            Check::warn(NAME, "no endpoint is configured", hint)
        }];
    };
    if let Some(failed) = socket(endpoint) {
        return vec![failed];
    }
    match fetch(endpoint, PATIENCE).await {
        Err(error) => vec![unanswered(NAME, &error)],
        Ok(svids) => {
            let now = SystemTime::now();
            let mut checks = vec![Check::ok(NAME, format!("{endpoint} answers"))];
            checks.extend(svids.iter().take(MAX_SVIDS).map(|svid| lifetime(svid, now)));
            checks.extend(settings.wanted.as_ref().and_then(|wanted| fits(&svids, wanted)));
            checks
        }
    }
}

/// What keeps a unix socket from being asked; told apart because the remedies differ.
fn socket(endpoint: &str) -> Option<Check> {
    const NAME: &str = "Workload API";
    let path = endpoint.strip_prefix("unix:")?;
    // `unix:///a`, `unix:/a`
    let path = path.strip_prefix("//").unwrap_or(path);
    let start = "start the authority (hopguard ca serve) or a SPIRE agent, or correct the path";
    match std::fs::metadata(Path::new(path)) {
        Err(error) => Some(Check::fail(NAME, format!("{path}: {error}"), start)),
        Ok(file) if !file.file_type().is_socket() => {
            Some(Check::fail(NAME, format!("{path} is no socket"), start))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Some(Check::fail(
                NAME,
                format!("{path}: this user may not connect"),
                "run as the sidecar's user, or set `mode` of the [[workload_api]] in ca.toml",
            )),
            Err(error) => Some(Check::fail(
                NAME,
                format!("{path}: nobody answers ({error})"),
                start,
            )),
        },
    }
}

fn unanswered(name: &str, error: &IdentityError) -> Check {
    let hint = match error {
        IdentityError::Refused { .. } => {
            "the authority has no entry for this process: run as the sidecar's user, or add its uid to entries.toml"
        }
        IdentityError::Endpoint { .. } => "write unix:///absolute/path or tcp://IP:port",
        _ => "look at the authority's log",
    };
    Check::fail(name, error.to_string(), hint)
}

fn lifetime(svid: &Fetched, now: SystemTime) -> Check {
    let identity = &svid.identity;
    let name = identity.id.to_string();
    let renew = "the authority renews at half life: look at its log, and at its clock and this one";
    let (from, to) = (identity.not_before, identity.not_after);
    if let Ok(early) = from.duration_since(now) {
        return Check::fail(
            name,
            format!("valid only in {}: the clocks differ", human(early)),
            renew,
        );
    }
    let Ok(left) = to.duration_since(now) else {
        return Check::fail(name, "expired", renew);
    };
    let whole = to.duration_since(from).unwrap_or_default();
    let detail = format!("{} left of {}", human(left), human(whole));
    if left < whole / 5 {
        Check::warn(name, detail, renew)
    } else {
        Check::ok(name, detail)
    }
}

/// Whether the sidecar would find its SVID among those it gets.
fn fits(svids: &[Fetched], wanted: &Wanted) -> Option<Check> {
    let (found, what) = match wanted {
        Wanted::Ids(ids) => (
            svids
                .iter()
                .any(|svid| ids.contains(&svid.identity.id.to_string())),
            ids.join(" or "),
        ),
        Wanted::Hint(hint) => (
            svids.iter().any(|svid| svid.hint == *hint),
            format!("one with the hint `{hint}`"),
        ),
    };
    (!found).then(|| {
        Check::fail(
            "the sidecar's SVID",
            format!("this process gets none that the sidecar would take ({what})"),
            "run as the sidecar's user, or make an entry for it; see `spiffe_ids` of the service in mesh.toml",
        )
    })
}

async fn issuers(settings: &Settings) -> Option<Group> {
    if settings.issuers.is_empty() {
        return None;
    }
    // As the sidecar asks: past the redirect, where there is one.
    let dial = DialOptions {
        mark: settings.mark.filter(|_| may_mark()),
        timeout: PATIENCE,
    };
    let mut asked = tokio::task::JoinSet::new();
    for (index, options) in settings.issuers.iter().cloned().enumerate() {
        let dial = dial.clone();
        asked.spawn(async move { (index, issuer(&options, dial).await) });
    }
    let mut checks = Vec::new();
    while let Some(one) = asked.join_next().await {
        checks.extend(one.ok());
    }
    checks.sort_by_key(|(index, _)| *index);
    Some(Group::new(
        "issuers",
        checks.into_iter().map(|(_, check)| check).collect(),
    ))
}

async fn issuer(options: &IssuerOptions, dial: DialOptions) -> Check {
    let (marked, name) = (dial.mark.is_some(), options.alias.clone());
    if options.kind == IssuerKind::JwtSvid {
        let detail = format!("the keys of {} come from the Workload API", options.issuer);
        return Check::ok(name, detail);
    }
    match probe(options, dial).await {
        Ok(status) if status.state == IssuerState::Introspected => Check::ok(
            name,
            format!(
                "{} is asked for each token; its endpoint was found",
                status.issuer
            ),
        ),
        Ok(status) if status.keys == 0 => Check::fail(
            name,
            format!(
                "{} serves no usable key ({})",
                status.issuer,
                status.ignored.join(", ")
            ),
            "no token of this issuer can be verified: look at its JWKS and at `algorithms`",
        ),
        Ok(status) => {
            let keys = if status.keys == 1 { "key" } else { "keys" };
            Check::ok(name, format!("{} serves {} {keys}", status.issuer, status.keys))
        }
        Err(error) if marked => Check::fail(
            name,
            error.to_string(),
            "look at the URL, `ca_file`, DNS and the provider",
        ),
        Err(error) => Check::fail(
            name,
            error.to_string(),
            "look at the URL, `ca_file`, DNS and the provider; where there is a redirect, ask as the sidecar does: with its \
             user, or with CAP_NET_ADMIN for its mark",
        ),
    }
}

/// A duration as people say it: the two largest units.
fn human(duration: Duration) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    for (size, unit) in units {
        let count = left / size;
        left %= size;
        if count > 0 || (unit == "s" && parts.is_empty()) {
            parts.push(format!("{count}{unit}"));
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

    #[test]
    fn durations_are_said_in_two_units() {
        for (seconds, said) in [
            (0, "0s"),
            (59, "59s"),
            (3_600, "1h"),
            (3_661, "1h 1m"),
            (90_061, "1d 1h"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), said);
        }
    }

    #[test]
    fn a_socket_that_cannot_be_asked_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("unix://{}", dir.path().join(name).display());
        assert!(socket(&at("none")).unwrap().detail.contains("No such file"));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(socket(&at("file")).unwrap().detail.contains("is no socket"));
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert_eq!(socket(&at("socket")), None);
        drop(listener);
        let dead = socket(&at("socket")).unwrap();
        assert!(
            dead.state == State::Fail && dead.detail.contains("nobody answers"),
            "{dead:?}"
        );
        assert_eq!(socket("tcp://127.0.0.1:1"), None);
    }
}
