//! The redirect: programs, implementation, and whether the rules stand. It changes nothing.

use std::path::Path;

use hopguard_iptables::{self as redirect, Backend, Cause, Family, Intent, Ipv6, Options, Standing, Survey};

use super::report::{Check, Group};
use super::settings::Settings;

/// Looks at the redirect; compared with a file of settings when there is one.
pub fn group(settings: &Settings, file: Option<&Path>) -> Group {
    let options = Options::new(Backend::Auto);
    let ipv6 = Ipv6::here();
    let surveys = [Family::Ipv4, Family::Ipv6].map(|family| redirect::survey(family, &options));
    let mut checks: Vec<Check> = surveys.iter().map(|survey| program(survey, ipv6)).collect();
    match file {
        None => checks.extend(rules(&surveys, ipv6, settings)),
        Some(file) => checks.push(compared(file, &options)),
    }
    Group::new("redirect", checks)
}

fn program(survey: &Survey, ipv6: Ipv6) -> Check {
    let name = survey.family.program();
    match &survey.program {
        Ok((path, version)) => Check::ok(name, format!("{version}, {}", path.display())),
        Err(cause) if survey.family == Family::Ipv6 && ipv6 == Ipv6::Absent => {
            Check::ok(name, format!("{cause}; not needed: this kernel has no IPv6"))
        }
        Err(cause) => Check::fail(name, cause.to_string(), cause.hint()),
    }
}

fn rules(surveys: &[Survey], ipv6: Ipv6, settings: &Settings) -> Vec<Check> {
    let standing: Vec<(Family, Result<Standing, &Cause>)> = surveys
        .iter()
        .map(|survey| (survey.family, survey.state.as_ref().map(redirect::standing)))
        .collect();
    let some_stand = standing
        .iter()
        .any(|(_, found)| !matches!(found, Ok(Standing::Absent) | Err(_)));
    let judge = |(family, found): (Family, Result<Standing, &Cause>)| {
        let name = format!("{} rules", family.name());
        let needed = family == Family::Ipv4 || ipv6 == Ipv6::Present;
        match found {
            Err(Cause::Missing { .. }) => None,
            Err(cause @ Cause::NotPermitted { .. }) => Some(Check::warn(
                name,
                "cannot be looked at as this user",
                cause.hint(),
            )),
            Err(cause) => Some(Check::fail(name, cause.to_string(), cause.hint())),
            Ok(Standing::Broken(why)) => Some(Check::fail(
                name,
                why,
                "hopguard iptables apply, with the settings it was applied with",
            )),
            Ok(Standing::Stands {
                marks,
                outbound_port,
                inbound_port,
            }) => Some(stands(name, settings, &marks, outbound_port, inbound_port)),
            Ok(Standing::Absent) if some_stand && needed => Some(Check::fail(
                name,
                "not redirected, while the other family is: its traffic passes by the sidecar",
                "hopguard iptables apply, without --family",
            )),
            // A sidecar that is told by uid or gid cannot see this itself, and is ready all the same.
            Ok(Standing::Absent) if settings.configured && needed => Some(Check::fail(
                name,
                "no redirect in this network namespace: the application's traffic passes by the sidecar",
                match settings.mark {
                    Some(mark) => format!("hopguard iptables apply --mark {mark} (in the application's network namespace)"),
                    None => "hopguard iptables apply --uid USER, the user that runs the sidecar (in the application's network namespace)".to_owned(),
                },
            )),
            Ok(Standing::Absent) => Some(Check::warn(
                name,
                "no redirect in this network namespace",
                "hopguard iptables apply --mark 1337 (in the application's network namespace)",
            )),
        }
    };
    standing.into_iter().filter_map(judge).collect()
}

/// Whether the rules that stand are for this sidecar.
fn stands(
    name: String,
    settings: &Settings,
    marks: &[u32],
    outbound: Option<u16>,
    inbound: Option<u16>,
) -> Check {
    let again = "hopguard iptables apply, with this sidecar's mark and ports";
    if !settings.configured {
        return Check::ok(name, "in place (give --redirect FILE to compare each rule)");
    }
    if let Some(mark) = settings.mark.filter(|mark| !marks.contains(mark)) {
        let detail = format!(
            "they do not know the sidecar's mark {mark}: its own connections would be redirected to it"
        );
        return Check::fail(name, detail, again);
    }
    if outbound.is_some_and(|port| port != settings.outbound_port)
        || inbound.is_some_and(|port| port != settings.inbound_port)
    {
        return Check::fail(
            name,
            "they lead to other ports than this sidecar listens on",
            again,
        );
    }
    Check::ok(
        name,
        "in place, for this sidecar (give --redirect FILE to compare each rule)",
    )
}

fn compared(file: &Path, options: &Options) -> Check {
    const NAME: &str = "rules";
    let intent: Result<Intent, Check> = crate::iptables::read(file)
        .map_err(|failure| Check::fail(NAME, failure.message, failure.hint.unwrap_or_default()))
        .and_then(|raw| {
            raw.parse()
                .map_err(|error| Check::fail(NAME, error.to_string(), error.hint()))
        });
    let intent = match intent {
        Ok(intent) => intent,
        Err(check) => return check,
    };
    match redirect::check(&intent, options) {
        Ok(checked) if checked.drift.is_empty() => {
            Check::ok(NAME, format!("each rule is as {} says", file.display()))
        }
        Ok(checked) => {
            let first = checked.drift.first().map(ToString::to_string).unwrap_or_default();
            Check::fail(
                NAME,
                format!("{} differences, first: {first}", checked.drift.len()),
                format!(
                    "hopguard iptables check --config {0}; hopguard iptables apply --config {0}",
                    file.display()
                ),
            )
        }
        Err(error) if matches!(error.cause, Cause::NotPermitted { .. }) => {
            Check::warn(NAME, "cannot be looked at as this user", error.cause.hint())
        }
        Err(error) => Check::fail(NAME, error.cause.to_string(), error.cause.hint()),
    }
}
