//! The machine: kernel, namespaces, privilege, clock, limits. Facts are read here and judged by functions that take them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::report::{Check, Group};
use super::settings::Settings;

const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

/// Looks at the machine.
pub fn group(settings: &Settings) -> Group {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let built = std::env::current_exe()
        .and_then(fs::metadata)
        .and_then(|file| file.modified())
        .ok();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Group::new(
        "machine",
        vec![
            kernel(&release),
            namespaces(&Namespaces::here()),
            privilege(effective_capabilities(), settings),
            clock(SystemTime::now(), built, synchronized()),
            open_files(limit.current, limit.maximum, settings.connections),
        ],
    )
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        None => Check::warn(
            "kernel",
            format!("`{release}` is no version"),
            "hopguard runs on Linux",
        ),
        Some(version) if version < (6, 5) => Check::warn(
            "kernel",
            format!("{release} is older than 6.5"),
            "works; the authority tells processes by their start time there instead of by pidfd (SO_PEERPIDFD)",
        ),
        Some(_) => Check::ok("kernel", release),
    }
}

/// What decides whether an ordinary user may make a user namespace.
#[derive(Clone, Debug, Default)]
struct Namespaces {
    root: bool,
    /// Making one succeeded; `None` when it was not tried.
    made: Option<bool>,
    /// `user.max_user_namespaces`.
    most: Option<String>,
    /// `kernel.unprivileged_userns_clone` (Debian and relatives).
    clone: Option<String>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu).
    apparmor: Option<String>,
}

impl Namespaces {
    fn here() -> Self {
        let try_one = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        Self {
            root: nix::unistd::geteuid().is_root(),
            made: try_one.ok().map(|status| status.success()),
            most: read("/proc/sys/user/max_user_namespaces"),
            clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }
}

fn namespaces(facts: &Namespaces) -> Check {
    const NAME: &str = "user namespaces";
    let hint = if facts.most.as_deref() == Some("0") {
        "sysctl -w user.max_user_namespaces=10000, or run `hopguard demo` as root"
    } else if facts.clone.as_deref() == Some("0") {
        "sysctl -w kernel.unprivileged_userns_clone=1, or run `hopguard demo` as root"
    } else if facts.apparmor.as_deref() == Some("1") {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or an AppArmor profile that grants `userns`), or run \
         `hopguard demo` as root"
    } else {
        "in a container its seccomp profile forbids them: run outside, or as root with --privileged"
    };
    match (facts.made, facts.root) {
        (Some(true), _) => Check::ok(NAME, "allowed"),
        (Some(false), true) => Check::ok(NAME, "not allowed, and not needed as root"),
        (Some(false), false) => {
            Check::warn(NAME, "not allowed: `hopguard demo` cannot run as this user", hint)
        }
        (None, _) if facts.most.as_deref() == Some("0") || facts.clone.as_deref() == Some("0") => {
            Check::warn(
                NAME,
                "switched off: `hopguard demo` cannot run as an ordinary user",
                hint,
            )
        }
        (None, _) => Check::warn(
            NAME,
            "not tried: `unshare` is not installed",
            "apt-get install util-linux",
        ),
    }
}

fn privilege(capabilities: Option<u64>, settings: &Settings) -> Check {
    const NAME: &str = "privilege";
    let Some(bits) = capabilities else {
        return Check::warn(NAME, "/proc/self/status cannot be read", "mount /proc");
    };
    let has = |capability: u32| bits & (1 << capability) != 0;
    if has(NET_ADMIN) {
        return Check::ok(NAME, "CAP_NET_ADMIN: rules can be changed and sockets marked");
    }
    let how = "run as root, or give it: setpriv --ambient-caps +net_admin, `cap_add: [NET_ADMIN]` in a container, \
        AmbientCapabilities=CAP_NET_ADMIN in a unit";
    match settings.mark {
        Some(_) if has(NET_RAW) => Check::warn(
            NAME,
            "CAP_NET_RAW alone: sockets can be marked, rules not changed",
            how,
        ),
        Some(mark) => Check::warn(
            NAME,
            format!(
                "no CAP_NET_ADMIN as this user: the sidecar cannot set its mark {mark}, nor can rules be changed"
            ),
            how,
        ),
        None => Check::warn(
            NAME,
            "no CAP_NET_ADMIN as this user: rules cannot be changed or looked at",
            how,
        ),
    }
}

/// Whether the clock is kept by NTP: `None` when nobody here could be asked.
fn synchronized() -> Option<bool> {
    // As sd_booted(3): without systemd, timedatectl would wait for a bus that never answers.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    match String::from_utf8_lossy(&asked.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// The clock against what there is to compare it with: the day on which this program was built, and what the system says of
/// NTP. An SVID's validity is compared elsewhere, where one is had.
fn clock(now: SystemTime, built: Option<SystemTime>, synchronized: Option<bool>) -> Check {
    const NAME: &str = "clock";
    let hint = "set the clock (timedatectl set-ntp true): certificates and tokens are judged by it";
    let whole = time::OffsetDateTime::from(now).truncate_to_second();
    let now_text = whole.format(&time::format_description::well_known::Rfc3339);
    let now_text = now_text.unwrap_or_default();
    match (built, synchronized) {
        (Some(built), _) if now < built => {
            Check::fail(NAME, format!("{now_text} is before this program was built"), hint)
        }
        (Some(built), _) if now > built + Duration::from_secs(20 * 366 * 86_400) => Check::warn(
            NAME,
            format!("{now_text} is twenty years after this program was built"),
            hint,
        ),
        (_, Some(true)) => Check::ok(NAME, format!("{now_text}, kept by NTP as timedatectl says")),
        (_, Some(false)) => Check::warn(
            NAME,
            format!("{now_text}, not kept by NTP as timedatectl says"),
            hint,
        ),
        (_, None) => Check::ok(
            NAME,
            format!("{now_text}; not checked against another clock: there is no timedatectl to ask"),
        ),
    }
}

/// A redirected connection takes a descriptor on each side; streams of HTTP/2 may take half as many more.
fn open_files(soft: Option<u64>, hard: Option<u64>, connections: usize) -> Check {
    const NAME: &str = "open files";
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(5)
        .div_ceil(2)
        .saturating_add(1024);
    match (soft, hard) {
        (None, _) => Check::ok(NAME, "no limit"),
        (Some(soft), _) if soft >= wanted => Check::ok(NAME, format!("{soft}")),
        (Some(soft), hard) => {
            let most = hard.map_or_else(|| "none".to_owned(), |hard| hard.to_string());
            Check::warn(
                NAME,
                format!("{soft} (hard limit {most}), and {connections} connections take {wanted}"),
                format!("ulimit -n {wanted}, LimitNOFILE={wanted} in a unit, or fewer [limits] connections"),
            )
        }
    }
}

/// Whether this process may mark its sockets (socket(7): `CAP_NET_ADMIN`, since Linux 5.17 also `CAP_NET_RAW`).
pub fn may_mark() -> bool {
    effective_capabilities().is_some_and(|bits| bits & (1 << NET_ADMIN | 1 << NET_RAW) != 0)
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

    #[test]
    fn the_knob_that_forbids_namespaces_is_named() {
        let forbidden = Namespaces {
            made: Some(false),
            ..Namespaces::default()
        };
        let knob = |facts: Namespaces| namespaces(&facts).hint.unwrap();
        let zero = || Some("0".to_owned());
        assert!(
            knob(Namespaces {
                most: zero(),
                ..forbidden.clone()
            })
            .contains("user.max_user_namespaces")
        );
        assert!(
            knob(Namespaces {
                clone: zero(),
                ..forbidden.clone()
            })
            .contains("unprivileged_userns_clone=1")
        );
        let apparmor = Some("1".to_owned());
        assert!(
            knob(Namespaces {
                apparmor,
                ..forbidden.clone()
            })
            .contains("apparmor_restrict_unprivileged_userns=0")
        );
        assert!(knob(forbidden.clone()).contains("seccomp"));
        assert_eq!(
            namespaces(&Namespaces {
                root: true,
                ..forbidden
            })
            .state,
            State::Ok
        );
        assert_eq!(
            namespaces(&Namespaces {
                made: Some(true),
                ..Namespaces::default()
            })
            .state,
            State::Ok
        );
    }

    #[test]
    fn an_old_kernel_and_no_kernel_are_told() {
        for (release, state) in [
            ("6.18.44-fc", State::Ok),
            ("6.5.0", State::Ok),
            ("6.1.0-18-amd64", State::Warn),
            ("5.15", State::Warn),
            ("", State::Warn),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn a_clock_before_the_build_is_wrong() {
        let built = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        assert_eq!(
            clock(built + Duration::from_secs(1), Some(built), Some(true)).state,
            State::Ok
        );
        assert_eq!(
            clock(built - Duration::from_secs(1), Some(built), Some(true)).state,
            State::Fail
        );
        assert_eq!(
            clock(SystemTime::UNIX_EPOCH, Some(built), None).state,
            State::Fail
        );
        assert_eq!(
            clock(built + Duration::from_secs(30 * 366 * 86_400), Some(built), None).state,
            State::Warn
        );
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_told_and_so_is_what_was_not_checked() {
        let now = SystemTime::now();
        assert_eq!(clock(now, None, Some(false)).state, State::Warn);
        assert!(clock(now, None, Some(true)).detail.contains("kept by NTP"));
        assert!(
            clock(now, None, None)
                .detail
                .contains("not checked against another clock")
        );
    }

    #[test]
    fn privilege_is_told_with_the_mark_that_needs_it() {
        let marked = Settings {
            mark: Some(1337),
            ..Settings::default()
        };
        assert_eq!(privilege(Some(1 << NET_ADMIN), &marked).state, State::Ok);
        assert!(privilege(Some(0), &marked).detail.contains("1337"));
        assert!(
            privilege(Some(1 << NET_RAW), &marked)
                .detail
                .contains("CAP_NET_RAW alone")
        );
        assert_eq!(privilege(Some(0), &Settings::default()).state, State::Warn);
    }

    #[test]
    fn too_few_descriptors_are_told_with_the_number_wanted() {
        assert_eq!(open_files(None, None, 20_000).state, State::Ok);
        assert_eq!(open_files(Some(65_536), None, 20_000).state, State::Ok);
        let few = open_files(Some(1024), Some(4096), 20_000);
        assert!(few.hint.unwrap().contains("ulimit -n 51024"));
    }
}
