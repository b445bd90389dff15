//! The sidecar's ports: free, or held by hopguard. Reads `/proc`; opens no port.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::report::{Check, Group};
use super::settings::Settings;

/// What listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    /// This program.
    Hopguard(u32),
    /// Another one.
    Other(u32, String),
    /// A process that this user may not look at.
    Unseen,
}

/// Looks at the ports.
pub fn group(settings: &Settings) -> Group {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let listening: BTreeMap<u16, u64> = tables.iter().flat_map(|table| listening(table)).collect();
    let wanted: Vec<u64> = settings
        .ports
        .iter()
        .filter_map(|(port, _)| listening.get(port))
        .copied()
        .filter(|inode| *inode != 0)
        .collect();
    let holders = if wanted.is_empty() {
        BTreeMap::new()
    } else {
        holders(Path::new("/proc"), &wanted)
    };
    let checks = settings.ports.iter().map(|(port, what)| {
        let holder = listening
            .get(port)
            .map(|inode| holders.get(inode).cloned().unwrap_or(Holder::Unseen));
        check(*port, what, holder)
    });
    Group::new("ports", checks.collect())
}

fn check(port: u16, what: &str, holder: Option<Holder>) -> Check {
    let name = format!("{port} ({what})");
    match holder {
        None => Check::ok(name, "free"),
        Some(Holder::Hopguard(pid)) => Check::ok(name, format!("held by hopguard (pid {pid})")),
        Some(Holder::Other(pid, program)) => Check::fail(
            name,
            format!("held by `{program}` (pid {pid})"),
            "stop it, or move the sidecar's port (and tell the redirect)",
        ),
        Some(Holder::Unseen) => Check::warn(
            name,
            "held by a process that this user may not look at",
            format!("as root: ss -ltnp 'sport = :{port}'"),
        ),
    }
}

/// The listening ports of a table as the kernel prints it (proc_pid_net(5)), with the inode of each socket.
fn listening(table: &str) -> Vec<(u16, u64)> {
    const LISTEN: &str = "0A";
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (_, port) = local.rsplit_once(':')?;
        let listens = *state == LISTEN;
        listens.then_some((u16::from_str_radix(port, 16).ok()?, inode.parse().ok()?))
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// The processes that hold the sockets.
fn holders(proc: &Path, inodes: &[u64]) -> BTreeMap<u64, Holder> {
    let mut found = BTreeMap::new();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let open = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let sockets = open.filter_map(|fd| socket_inode(&fs::read_link(fd.path()).ok()?));
        for inode in sockets.filter(|inode| inodes.contains(inode)) {
            found.entry(inode).or_insert_with(|| holder(&process.path(), pid));
        }
    }
    found
}

fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

fn holder(process: &Path, pid: u32) -> Holder {
    let comm = fs::read_to_string(process.join("comm"))
        .unwrap_or_default()
        .trim()
        .to_owned();
    let program = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let exe = fs::read_link(process.join("exe"))
        .ok()
        .and_then(|path| program(&path));
    // An executable that was replaced shows as `hopguard (deleted)`.
    let ours = exe
        .as_deref()
        .is_some_and(|exe| exe == "hopguard" || exe == "hopguard (deleted)");
    if ours {
        Holder::Hopguard(pid)
    } else {
        Holder::Other(pid, exe.unwrap_or(comm))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

    #[test]
    fn listening_ports_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n   \
            1: 0100007F:3A9E 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n";
        assert_eq!(listening(table), [(15001, 4711)]);
        assert_eq!(listening(""), []);
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = Settings {
            ports: vec![(port, "test")],
            ..Settings::default()
        };
        let found = group(&settings);
        let pid = std::process::id();
        assert_eq!(found.checks[0].state, State::Fail);
        assert!(
            found.checks[0].detail.ends_with(&format!("(pid {pid})")),
            "{}",
            found.checks[0].detail
        );
        drop(listener);
        assert_eq!(group(&settings).checks[0].state, State::Ok);
    }
}
