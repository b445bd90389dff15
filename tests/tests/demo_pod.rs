//! What an application in a pod can do, and what it cannot: it is confined by the kernel, not by good manners. And what the
//! commands that speak to a demo do.

#![cfg(test)]

use std::io;
use std::sync::LazyLock;

use hopguard_tests::{Mesh, Options, hopguard, succeeded};

static MESH: LazyLock<Mesh> = LazyLock::new(|| Mesh::start(&Options::default()).unwrap());

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_application_has_no_capability_and_cannot_get_one() {
    let status = succeeded(MESH.exec("web", &["cat", "/proc/self/status"]).unwrap()).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000\n")),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
}

#[test]
fn an_application_cannot_flush_or_change_the_rules() {
    for program in ["iptables", "ip6tables"] {
        let flushed = MESH.exec("web", &[program, "-t", "nat", "-F"]).unwrap();
        assert!(!flushed.status.success(), "{program} flushed the rules");
        let rules = succeeded(MESH.exec_root("web", &[program, "-t", "nat", "-S"]).unwrap()).unwrap();
        assert!(rules.contains("REDIRECT"), "{program}: {rules}");
    }
}

#[test]
fn an_application_cannot_mark_its_packets_and_root_could() {
    // The same program as both: this test binary, whose ignored test tries.
    let this = std::env::current_exe().unwrap();
    let line = [
        this.to_str().unwrap(),
        "--ignored",
        "--exact",
        "try_to_mark",
        "--nocapture",
    ];
    let application = succeeded(MESH.exec("web", &line).unwrap()).unwrap();
    assert!(application.contains("marking: PermissionDenied"), "{application}");
    let root = succeeded(MESH.exec_root("web", &line).unwrap()).unwrap();
    assert!(root.contains("marking: done"), "{root}");
}

#[test]
#[ignore = "not a test: runs in a pod, for the test above"]
fn try_to_mark() {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    match socket.set_mark(1337) {
        Ok(()) => println!("marking: done"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("marking: PermissionDenied")
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_application_finds_nothing_of_who_started_the_demo() {
    // The first process of its namespace is of the same user: what that holds, the application can open.
    let environment = MESH.exec("web", &["cat", "/proc/1/environ"]).unwrap();
    assert_eq!(text(&environment.stdout), "", "{}", text(&environment.stderr));
    let held = succeeded(
        MESH.exec("web", &["readlink", "/proc/1/fd/0", "/proc/1/fd/2"])
            .unwrap(),
    )
    .unwrap();
    assert_eq!(held, "/dev/null\n/dev/null\n");
}

#[test]
fn an_application_sees_no_socket_key_or_file_of_the_mesh() {
    let found = MESH
        .exec(
            "web",
            &[
                "find", "/run", "/tmp", "-name", "*.sock", "-o", "-name", "*.toml", "-o", "-name", "hopguard",
            ],
        )
        .unwrap();
    // A build below /tmp is seen there, so that commands of this binary can run; nothing of it is the mesh's.
    let built = hopguard_tests::hopguard_bin();
    let own = built.parent().unwrap().to_str().unwrap();
    let of_the_mesh: Vec<&str> = std::str::from_utf8(&found.stdout)
        .unwrap()
        .lines()
        .filter(|path| !path.starts_with(own))
        .collect();
    assert!(
        of_the_mesh.iter().all(|path| own.starts_with(path)),
        "{of_the_mesh:?} {}",
        text(&found.stderr)
    );
    // They are there, only not for the application.
    assert!(MESH.file("workload/web/workload.sock").exists());
    assert!(MESH.file("pods/web/sidecar.toml").exists());
}

#[test]
fn an_application_sees_no_process_but_its_own() {
    let seen = succeeded(
        MESH.exec("web", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])
            .unwrap(),
    )
    .unwrap();
    assert!(
        seen.contains("demo app web") && seen.contains("pod-pause"),
        "{seen}"
    );
    for other in ["sidecar", "ca serve", "demo init", "demo idp"] {
        assert!(!seen.contains(other), "{seen}");
    }
}

#[test]
fn nothing_is_written_to_the_host() {
    let root = MESH
        .exec_root(
            "web",
            &["sh", "-c", "touch /var/tmp/hopguard-was-here /hopguard-was-here"],
        )
        .unwrap();
    assert!(!root.status.success());
    assert!(
        text(&root.stderr).contains("Read-only file system"),
        "{}",
        text(&root.stderr)
    );
    succeeded(MESH.exec("web", &["touch", "/tmp/in-memory"]).unwrap()).unwrap();
    assert!(!std::fs::exists("/tmp/in-memory").unwrap());
}

#[test]
fn a_command_ends_as_it_ends() {
    let output = MESH.exec("orders", &["sh", "-c", "hostname; exit 37"]).unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(37), "orders\n")
    );
    let killed = MESH.exec("orders", &["sh", "-c", "kill -TERM $$"]).unwrap();
    assert_eq!(killed.status.code(), Some(128 + 15));
}

#[test]
fn a_part_can_be_stopped_and_started() {
    let mesh = Mesh::start(&Options::default()).unwrap();
    let before = mesh.pid("app:orders").unwrap();
    mesh.ctl("stop", "app:orders").unwrap();
    assert_eq!(mesh.pid("app:orders"), None);
    mesh.ctl("start", "app:orders").unwrap();
    let after = mesh.pid("app:orders").unwrap();
    assert_ne!(before, after);
    let wrong = mesh.ctl("stop", "nothing").unwrap_err();
    assert!(wrong.contains("app:payments"), "{wrong}");
}

#[test]
fn two_meshes_stand_side_by_side_and_a_name_is_taken_once() {
    let other = Mesh::start(&Options::default()).unwrap();
    assert_ne!(other.name, MESH.name);
    let again = hopguard()
        .args(["demo", "up", "--bare", "--name", &MESH.name])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("runs already"),
        "{}",
        text(&again.stderr)
    );
}

#[test]
fn a_demo_that_does_not_run_is_not_found() {
    let output = hopguard()
        .args(["demo", "exec", "--name", "never-started", "web", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("hint"), "{}", text(&output.stderr));
}
