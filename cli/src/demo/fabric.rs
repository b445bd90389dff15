//! The demo's network: a bridge, and a cable to every pod. Pods and process numbers enter, commands for `ip` leave and are
//! run; it never touches a network namespace but the one it is called in.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::failed;
use super::pods::{Families, Pod};
use crate::ui::{Exit, Failure};

/// The bridge, in the network namespace that no pod has.
pub fn bridge(families: Families) -> Result<(), Failure> {
    one_family(families)?;
    ip(&format!(
        "{}link add mesh type bridge mcast_snooping 0\nlink set mesh up\n",
        loopback(families)
    ))
}

/// A cable from the bridge to each pod, whose first process is `pid`.
pub fn cables(ends: &[(&Pod, u32)]) -> Result<(), Failure> {
    let mut batch = String::new();
    for (pod, pid) in ends {
        let name = pod.name;
        let _in_memory = write!(
            batch,
            "link add to-{name} type veth peer name eth0 netns {pid}\nlink set to-{name} master mesh up\n"
        );
    }
    ip(&batch)
}

/// The pod's own end, from inside the pod.
pub fn addresses(pod: &Pod, families: Families) -> Result<(), Failure> {
    one_family(families)?;
    ip(&pod_batch(pod, families))
}

fn pod_batch(pod: &Pod, families: Families) -> String {
    let mut batch = loopback(families);
    if families.v4 {
        let _in_memory = writeln!(batch, "addr add {}/24 dev eth0", pod.v4());
    }
    if families.v6 {
        // Without duplicate address detection, or the address could not be used for a second.
        let _in_memory = writeln!(batch, "addr add {}/64 dev eth0 nodad", pod.v6());
    }
    batch.push_str("link set eth0 up\n");
    // As every real pod has one: what goes anywhere at all must meet the redirect, and readiness probes that it does.
    if families.v4 {
        batch.push_str("route add 0.0.0.0/0 dev eth0\n");
    }
    if families.v6 {
        batch.push_str("route add ::/0 dev eth0\n");
    }
    batch
}

/// The kernel gives the loopback both families; the one that the demo shall not have is taken away.
fn loopback(families: Families) -> String {
    let up = "link set lo up\n";
    if families.v4 {
        up.to_owned()
    } else {
        format!("{up}addr del 127.0.0.1/8 dev lo\n")
    }
}

fn one_family(families: Families) -> Result<(), Failure> {
    if families.v6 {
        return Ok(());
    }
    for scope in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        // A kernel without IPv6 has no such file, and nothing to take away.
        if fs::exists(&path).is_ok_and(|there| there) {
            fs::write(&path, "1").map_err(failed(&format!("writing {path}")))?;
        }
    }
    Ok(())
}

fn ip(batch: &str) -> Result<(), Failure> {
    let program = "ip (Debian package iproute2)";
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(&format!("running {program}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(batch.as_bytes())
            .map_err(failed(&format!("writing to {program}")))?;
    }
    let output = child
        .wait_with_output()
        .map_err(failed(&format!("waiting for {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "ip could not build the demo's network: {}",
        String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
    ))
    .hint("the kernel needs the modules `bridge` and `veth`: as root, `modprobe -a bridge veth`")
    .exit(Exit::NotHere))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_only_the_families_asked_for() {
        let web = Pod::named("web").unwrap();
        let six = pod_batch(web, Families { v4: false, v6: true });
        assert_eq!(
            six,
            "link set lo up\naddr del 127.0.0.1/8 dev lo\naddr add fd77::11/64 dev eth0 nodad\nlink set eth0 up\nroute add ::/0 dev eth0\n"
        );
        let four = pod_batch(web, Families { v4: true, v6: false });
        assert_eq!(
            four,
            "link set lo up\naddr add 10.77.0.11/24 dev eth0\nlink set eth0 up\nroute add 0.0.0.0/0 dev eth0\n"
        );
    }
}
