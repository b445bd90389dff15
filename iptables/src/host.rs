//! What this machine has: reads `/proc` and looks for programs. It starts none.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::rules::Family;

/// Which of the two implementations of iptables is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The machine's own choice: `iptables-save`, `iptables-restore`.
    #[default]
    Auto,
    /// `iptables-nft-save`, `iptables-nft-restore`.
    Nft,
    /// `iptables-legacy-save`, `iptables-legacy-restore`.
    Legacy,
}

impl Backend {
    /// A program's name: `iptables-save`, `ip6tables-legacy-restore`; `what` may be empty.
    pub fn program(self, family: Family, what: &str) -> String {
        let infix = match self {
            Self::Auto => "",
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        };
        let dash = if what.is_empty() { "" } else { "-" };
        format!("{}{infix}{dash}{what}", family.program())
    }
}

/// Whether this network namespace has IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// It has, or may have at any moment: the redirect must cover it.
    Present,
    /// The kernel has it and every interface has it switched off; whoever may configure the network can switch it on.
    Off,
    /// The kernel has none.
    Absent,
}

impl Ipv6 {
    /// Reads it from `/proc`. What cannot be read counts as present.
    pub fn here() -> Self {
        Self::read(Path::new("/proc"))
    }

    /// The same from another folder than `/proc`.
    pub fn read(proc: &Path) -> Self {
        match fs::read_to_string(proc.join("net/if_inet6")) {
            // The file is there exactly when the kernel speaks IPv6; without /proc nothing is known.
            Err(error) if error.kind() == io::ErrorKind::NotFound && proc.join("net/dev").exists() => {
                return Self::Absent;
            }
            Ok(addresses) if addresses.trim().is_empty() => {}
            _ => return Self::Present,
        }
        let conf = proc.join("sys/net/ipv6/conf");
        let Ok(interfaces) = fs::read_dir(&conf) else {
            return Self::Present;
        };
        let off =
            |folder: PathBuf| fs::read_to_string(folder.join("disable_ipv6")).is_ok_and(|v| v.trim() == "1");
        let mut any = false;
        for interface in interfaces {
            match interface {
                Ok(interface) if off(interface.path()) => any = true,
                _ => return Self::Present,
            }
        }
        if any { Self::Off } else { Self::Present }
    }
}

/// A program in `PATH`, or in `/usr/sbin` or `/sbin`, where an ordinary user's `PATH` does not look.
pub fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let folders = path
        .map(|path| std::env::split_paths(path).collect::<Vec<_>>())
        .unwrap_or_default();
    let fixed = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    // An empty or relative entry would run whatever lies in the working directory.
    let folders = folders
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .chain(fixed);
    folders
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process has `CAP_NET_ADMIN` in effect, in its own user namespace. What cannot be read counts as yes: the
/// kernel decides anyway.
pub fn may_administer_network() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return true;
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_none_or(|bits| bits & (1 << CAP_NET_ADMIN) != 0)
}

/// Whether `id` exists in a user namespace whose `/proc/self/uid_map` (or `gid_map`) is `map`; a rule for one that does not
/// is refused by the kernel with "Invalid argument".
pub fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (inside, _, count) = (
            numbers.next().flatten(),
            numbers.next().flatten(),
            numbers.next().flatten(),
        );
        inside
            .zip(count)
            .is_some_and(|(inside, count)| (inside..inside.saturating_add(count)).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(if_inet6: Option<&str>, disabled: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/dev"), "").unwrap();
        if let Some(text) = if_inet6 {
            fs::write(dir.path().join("net/if_inet6"), text).unwrap();
        }
        for (interface, value) in disabled {
            let folder = dir.path().join("sys/net/ipv6/conf").join(interface);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("disable_ipv6"), value).unwrap();
        }
        dir
    }

    #[test]
    fn ipv6_counts_as_present_unless_it_surely_is_not() {
        let address = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let off = [("all", "1\n"), ("default", "1\n"), ("lo", "1\n")];
        let half = [("all", "1\n"), ("default", "0\n")];
        for (if_inet6, disabled, expected) in [
            (Some(address), &off[..], Ipv6::Present),
            (Some(""), &off[..], Ipv6::Off),
            (Some(""), &half[..], Ipv6::Present),
            (Some(""), &[][..], Ipv6::Present),
            (None, &[][..], Ipv6::Absent),
        ] {
            assert_eq!(
                Ipv6::read(proc(if_inet6, disabled).path()),
                expected,
                "{if_inet6:?} {disabled:?}"
            );
        }
        assert_eq!(
            Ipv6::read(Path::new("/nonexistent")),
            Ipv6::Present,
            "nothing known"
        );
    }

    #[test]
    fn programs_are_found_outside_path_but_not_in_the_working_directory() {
        assert!(find("sh", None).is_some());
        assert!(find("sh", Some(OsStr::new("::."))).unwrap().is_absolute());
        assert_eq!(find("no-such-program-here", Some(OsStr::new("/usr/bin"))), None);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sh"), "not executable").unwrap();
        assert_ne!(
            find("sh", Some(dir.path().as_os_str())).unwrap(),
            dir.path().join("sh")
        );
    }

    #[test]
    fn ids_are_looked_up_in_the_map() {
        let whole = "         0          0 4294967295\n";
        assert!(is_mapped(whole, 1337));
        assert!(!is_mapped("         0       1000          1\n", 1337));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 1337));
        assert!(!is_mapped("", 0));
    }
}
