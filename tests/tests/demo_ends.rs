//! However a demo ends, nothing of it stays: no process, no namespace, no mount, no link, no socket, no file.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use hopguard_tests::{Mesh, Options, eventually, hopguard_bin, output_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);

/// The namespaces of a process, as the kernel names them.
fn namespaces(pid: u32) -> BTreeSet<String> {
    let kinds = ["user", "net", "pid", "mnt", "ipc", "uts"];
    kinds
        .iter()
        .filter_map(|kind| {
            fs::read_link(format!("/proc/{pid}/ns/{kind}"))
                .ok()?
                .into_os_string()
                .into_string()
                .ok()
        })
        .collect()
}

fn processes() -> Vec<u32> {
    let names = fs::read_dir("/proc").unwrap().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Everything that the mesh has and the host has not.
fn own_namespaces(mesh: &Mesh) -> BTreeSet<String> {
    let host = namespaces(std::process::id());
    let mut own = BTreeSet::new();
    let pods = mesh.ready["pods"]
        .as_object()
        .unwrap()
        .values()
        .map(|pod| pod["pid"].as_u64());
    for pid in pods.chain([mesh.ready["init"].as_u64()]) {
        own.extend(namespaces(pid.unwrap().try_into().unwrap()));
    }
    let own: BTreeSet<_> = own.difference(&host).cloned().collect();
    // Six pods and the network between them: each its own network, mounts and names, all one user namespace.
    assert!(own.len() > 20, "{own:?}");
    own
}

fn users_of(namespaces_of_mesh: &BTreeSet<String>) -> Result<(), String> {
    for pid in processes() {
        if !namespaces(pid).is_disjoint(namespaces_of_mesh) && !has_ended(pid) {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .unwrap_or_default()
                .replace('\0', " ");
            return Err(format!("{pid} is still there: {command}"));
        }
    }
    Ok(())
}

/// Ended, and only not yet collected: that is up to the first process of the machine when whoever started it was killed.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn host_knows_nothing(mesh_name: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("hopguard-demo"), "{mounts}");
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!links.contains("to-web") && !links.contains("mesh:"), "{links}");
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.contains(mesh_name), "{mesh_name} is still listened for");
    for path in ["/run/hopguard/pods", "/run/hopguard/mesh"] {
        assert!(!fs::exists(path).unwrap(), "{path}");
    }
}

fn ends_by(signal: Signal) {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let own = own_namespaces(&mesh);
    assert!(
        users_of(&own).is_err(),
        "the check finds nothing even while the mesh runs"
    );
    host_has_socket(&mesh.name);
    kill(Pid::from_raw(mesh.outermost().try_into().unwrap()), signal).unwrap();
    eventually(PATIENCE, || users_of(&own)).unwrap();
    let name = mesh.name.clone();
    assert!(mesh.end().is_ok());
    host_knows_nothing(&name);
}

fn host_has_socket(name: &str) {
    assert!(fs::read_to_string("/proc/net/unix").unwrap().contains(name));
}

#[test]
fn a_ctrl_c_leaves_nothing() {
    ends_by(Signal::SIGINT);
}

#[test]
fn a_sigterm_leaves_nothing() {
    ends_by(Signal::SIGTERM);
}

#[test]
fn killing_the_outermost_process_leaves_nothing() {
    ends_by(Signal::SIGKILL);
}

#[test]
fn closing_its_input_ends_a_bare_mesh_well() {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let (own, name) = (own_namespaces(&mesh), mesh.name.clone());
    assert_eq!(mesh.end().unwrap(), Some(0));
    users_of(&own).unwrap();
    host_knows_nothing(&name);
}

#[test]
fn a_command_in_a_pod_ends_with_the_mesh() {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let mut command = mesh.command("web", &["sh", "-c", "echo there; exec cat"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut running = hopguard_tests::Guard(command.spawn().unwrap());
    let mut there = [0; 6];
    std::io::Read::read_exact(running.0.stdout.as_mut().unwrap(), &mut there).unwrap();
    drop(mesh);
    let status = eventually(PATIENCE, || running.0.try_wait().unwrap().ok_or("still running")).unwrap();
    assert!(!status.success());
}

#[test]
fn a_kernel_that_forbids_namespaces_is_told_with_the_way_on() {
    // The limit is one of each user namespace: this one has its own, and the host's stays as it is.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {} demo --once",
        hopguard_bin().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--", "sh", "-c", &script]);
    let output = output_within(PATIENCE, command).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("user.max_user_namespaces is 0 here") && said.contains("sysctl user.max"),
        "{said}"
    );
}
