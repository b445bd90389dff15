//! The process as the kernel sees it: `/proc/self` enters, the customary `process_*` values leave.

use std::fs;

/// Clock ticks in a second as `/proc` counts them: `USER_HZ`, 100 on every architecture that Rust's Linux targets share.
const TICKS: f64 = 100.0;

/// What `/proc/self` says; what cannot be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    /// Unix seconds.
    pub(super) start_time: Option<f64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Self {
            cpu_seconds: read("stat").as_deref().and_then(cpu_seconds),
            resident_bytes: read("status").as_deref().and_then(resident_bytes),
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                // The folder itself is one of them while it is read.
                .map(|entries| (entries.count() as u64).saturating_sub(1)),
            max_fds: read("limits").as_deref().and_then(max_fds),
            start_time: start_time(
                read("stat").as_deref(),
                fs::read_to_string("/proc/stat").ok().as_deref(),
            ),
        }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)). The second, the name, may hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS)
}

/// Field 22, ticks since the machine was started, and when that was: `btime` of `/proc/stat`.
fn start_time(stat: Option<&str>, machine: Option<&str>) -> Option<f64> {
    let (_, after) = stat?.rsplit_once(')')?;
    let ticks: f64 = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let booted = machine?.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(booted.trim().parse::<f64>().ok()? + ticks / TICKS)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_them() {
        let now = Process::now();
        assert!(now.cpu_seconds.unwrap() >= 0.0);
        assert!(now.resident_bytes.unwrap() > 100_000);
        assert!(now.open_fds.unwrap() >= 3);
        assert!(now.max_fds.unwrap() >= now.open_fds.unwrap());
        let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = seconds - now.start_time.unwrap();
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        let long = "7 (a) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 1250 0 0";
        assert_eq!(start_time(Some(long), Some("cpu 1\nbtime 1000\n")), Some(1012.5));
        assert_eq!(cpu_seconds("garbage"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(
            max_fds("Max open files            1024   4096  files\n"),
            Some(1024)
        );
    }
}
