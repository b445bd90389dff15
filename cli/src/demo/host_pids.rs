//! Process numbers: those of the demo's process namespace enter, those of the host leave. It only reads `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// One process, as `/proc/PID/status` tells it.
struct Process {
    pid: u32,
    parent: u32,
    /// Its number in each process namespace, outermost first.
    numbers: Vec<u32>,
}

/// What each descendant of `ancestor` that lives in a process namespace below ours is called there, and here.
pub fn below(ancestor: u32) -> BTreeMap<u32, u32> {
    let mut processes: Vec<_> = all().collect();
    processes.sort_by_key(|process| process.pid);
    let mut family = BTreeSet::from([ancestor]);
    // Numbers wrap, so a child may have a smaller one than its parent: repeat until nothing is added.
    loop {
        let before = family.len();
        family.extend(
            processes
                .iter()
                .filter(|p| family.contains(&p.parent))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            break;
        }
    }
    let inner = |p: &Process| p.numbers.get(1).map(|inner| (*inner, p.pid));
    processes
        .iter()
        .filter(|p| family.contains(&p.pid))
        .filter_map(inner)
        .collect()
}

fn all() -> impl Iterator<Item = Process> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| read(pid, &fs::read_to_string(format!("/proc/{pid}/status")).ok()?))
}

fn read(pid: u32, status: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    Some(Process {
        pid,
        parent: field("PPid:")?.trim().parse().ok()?,
        numbers: field("NSpid:")?
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_tells_parent_and_numbers() {
        let process = read(40, "Name:\tx\nPid:\t40\nPPid:\t7\nNSpid:\t40\t12\t1\n").unwrap();
        assert_eq!((process.pid, process.parent), (40, 7));
        assert_eq!(process.numbers, [40, 12, 1]);
        assert!(read(1, "Name: x\n").is_none());
    }
}
