//! Units and control groups of the real kernel. Only who may make control groups can show them; these tests say so
//! elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::*;

/// A control group that is removed at the end, in every hierarchy that counts.
struct Group {
    dirs: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

/// Where version 2 and the hierarchy of systemd are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let counts = |fields: &[&str]| match fields.get(2) {
        Some(&"cgroup2") => true,
        Some(&"cgroup") => fields[3].split(',').any(|option| option == "name=systemd"),
        _ => false,
    };
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| counts(fields))
        .map(|fields| fields[1].into())
        .collect()
}

impl Group {
    /// Makes it, or says why this machine cannot show it.
    fn make(path: &str) -> Option<Self> {
        let mut group = Self {
            dirs: Vec::new(),
            made: Vec::new(),
        };
        for root in hierarchies() {
            let mut dir = root;
            for part in path.split('/').filter(|part| !part.is_empty()) {
                dir.push(part);
                match std::fs::create_dir(&dir) {
                    Ok(()) => group.made.push(dir.clone()),
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        eprintln!(
                            "{}: {error}: control groups cannot be made here: skipped",
                            dir.display()
                        );
                        return None;
                    }
                }
            }
            group.dirs.push(dir);
        }
        if group.dirs.is_empty() {
            eprintln!("no control groups are mounted here: skipped");
            return None;
        }
        Some(group)
    }

    fn take(&self, pid: u32) {
        self.dirs.iter().for_each(|dir| move_into(dir, pid));
    }
}

fn move_into(dir: &Path, pid: u32) {
    std::fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
}

/// Back to where the tests are.
fn move_home(pid: u32) {
    for root in hierarchies() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, name, path) = (fields.next()?, fields.next()?, fields.next()?);
            let unified = root.join("cgroup.controllers").exists();
            (unified == (number == "0") && (unified || name == "name=systemd")).then(|| path.to_owned())
        });
        move_into(&root.join(path.unwrap().trim_start_matches('/')), pid);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in self.made.iter().rev() {
            // A process that was killed leaves its group some moments later.
            let _left = hopguard_tests::eventually(DEADLINE, || std::fs::remove_dir(dir));
        }
    }
}

/// A client that waits in a control group before it connects.
fn client_in(group: &Group, authority: &Authority) -> Client {
    let procs: Vec<String> = group
        .dirs
        .iter()
        .map(|dir| format!("echo $$ > {}/cgroup.procs", dir.display()))
        .collect();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{} && exec \"$0\" \"$@\"", procs.join(" && "))])
        .arg(python());
    let endpoint = authority.endpoint();
    Client::of(
        command,
        &[
            "raw",
            &endpoint,
            "--header",
            "workload.spiffe.io=true",
            "--timeout",
            "120",
        ],
    )
}

fn unique(name: &str) -> String {
    format!("hg-{name}-{}", std::process::id())
}

#[test]
fn a_unit_is_an_identity_and_who_leaves_it_loses_it() {
    let unit = format!("{}.service", unique("unit"));
    let Some(group) = Group::make(&format!("/system.slice/{unit}")) else {
        return;
    };
    let id = format!("container:cgroup:/system.slice/{unit}");
    let entries = entry("by-unit", &[format!("systemd:unit:{unit}")])
        + &entry("by-slice", &["systemd:slice:system.slice".to_owned()])
        + &entry("by-group", &[id])
        + &entry("other", &[format!("systemd:unit:x{unit}")])
        + "[[entry]]\nspiffe_id = \"spiffe://mesh.local/unit/{systemd.id}\"\n";
    let authority = Authority::start(&entries);
    assert_eq!(
        first(&authority, &[])["status"],
        "PERMISSION_DENIED",
        "we are in no such unit"
    );
    let client = client_in(&group, &authority);
    let ids = ["by-unit", "by-slice", "by-group", &format!("unit/{unit}")];
    let ids: Vec<String> = ids
        .iter()
        .map(|path| format!("spiffe://mesh.local/{path}"))
        .collect();
    assert_eq!(client.next()["ids"], json!(ids));
    let (_, told) = authority.ask_json(&["why", &client.pid().to_string()]);
    let facts = told["facts"].as_array().unwrap();
    assert!(
        facts
            .iter()
            .any(|fact| fact["name"] == "unit" && fact["value"] == json!(unit)),
        "{told}"
    );

    move_home(client.pid());
    // Any change of the entries makes the authority look again; it would do so within a minute anyway.
    authority.write_entries(&(entries + &entry("x", &["unix:uid:4242".to_owned()])));
    let end = client.next();
    assert_eq!(end["status"], "PERMISSION_DENIED", "{end}");
}

#[test]
fn a_group_below_a_users_manager_is_no_unit_of_the_system() {
    let unit = format!("{}.service", unique("spoof"));
    let manager = "user@4242.service";
    let Some(group) = Group::make(&format!(
        "/user.slice/user-4242.slice/{manager}/system.slice/{unit}"
    )) else {
        return;
    };
    let authority = Authority::start(
        &(entry("spoofed", &[format!("systemd:unit:{unit}")])
            + &entry("slice", &["systemd:slice:system.slice".to_owned()])
            + &entry("manager", &[format!("systemd:unit:{manager}")])
            + "[[entry]]\nspiffe_id = \"spiffe://mesh.local/unit/{systemd.id}\"\n"),
    );
    let client = client_in(&group, &authority);
    assert_eq!(client.next()["ids"], json!(["spiffe://mesh.local/manager"]));
    authority.logged(&[
        "an entry is refused",
        "{systemd.id}",
        "cannot be a part of a SPIFFE ID",
    ]);
}

#[test]
fn a_container_is_known_by_its_id_and_not_by_a_group_that_a_unit_made() {
    let id = hex::encode([u8::try_from(std::process::id() % 251).unwrap(); 32]);
    let parent = unique("docker");
    let (Some(root), Some(nested)) = (
        Group::make(&format!("/{parent}/{id}")),
        Group::make(&format!("/system.slice/{parent}.service/docker/{id}")),
    ) else {
        return;
    };
    let entries = entry("by-id", &[format!("container:id:{id}")])
        + &entry("by-parent", &[format!("container:cgroup:/{parent}")])
        + &entry(
            "by-part",
            &[format!("container:cgroup:/{}", &parent[..parent.len() - 1])],
        )
        + "[[entry]]\nspiffe_id = \"spiffe://mesh.local/container/{container.id}\"\n";
    let authority = Authority::start(&entries);
    let client = client_in(&root, &authority);
    let by_template = format!("spiffe://mesh.local/container/{id}");
    let ids = json!([
        "spiffe://mesh.local/by-id",
        "spiffe://mesh.local/by-parent",
        by_template
    ]);
    assert_eq!(client.next()["ids"], ids);
    let client = client_in(&nested, &authority);
    assert_eq!(client.next()["status"], "PERMISSION_DENIED");
    authority.logged(&["an entry is refused", "makes whatever groups it likes"]);
}

#[test]
fn a_container_below_a_group_that_was_given_away_is_not_known() {
    let id = hex::encode([u8::try_from(std::process::id() % 249).unwrap(); 32]);
    let Some(group) = Group::make(&format!("/{}/{id}", unique("given"))) else {
        return;
    };
    // As a machine does it that delegates a subtree: its new owner makes and names what is below.
    for dir in &group.dirs {
        if let Err(error) = std::os::unix::fs::chown(dir.parent().unwrap(), Some(4242), None) {
            eprintln!(
                "{}: {error}: nobody can be given a group here: skipped",
                dir.display()
            );
            return;
        }
    }
    let authority = Authority::start(&(entry("by-id", &[format!("container:id:{id}")]) + &for_us("b")));
    let client = client_in(&group, &authority);
    assert_eq!(client.next()["ids"], json!(["spiffe://mesh.local/b"]));
    authority.logged(&[
        "an entry is refused",
        "spiffe://mesh.local/by-id",
        "uid 4242, who makes whatever groups it likes",
    ]);
}

#[test]
fn what_is_outside_of_the_authoritys_control_groups_is_refused() {
    let Some(group) = Group::make(&format!("/{}", unique("ca"))) else {
        return;
    };
    let mut authority = Authority::files(
        &(entry("a", &["container:cgroup:/x".to_owned()]) + &for_us("b")),
        "1h",
        "",
    );
    // An authority in a container with control groups of its own.
    let procs: Vec<String> = group
        .dirs
        .iter()
        .map(|dir| format!("echo $$ > {}/cgroup.procs", dir.display()))
        .collect();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{} && exec unshare --cgroup \"$0\" \"$@\"", procs.join(" && ")),
        ])
        .arg(hopguard_tests::hopguard_bin());
    authority.run(command);
    assert_eq!(first(&authority, &[])["ids"], json!(["spiffe://mesh.local/b"]));
    authority.logged(&[
        "an entry is refused",
        "spiffe://mesh.local/a",
        "outside of those that the authority sees",
    ]);
    authority.kill_9();
}

#[test]
fn hierarchies_that_disagree_prove_nothing() {
    let Some(group) = Group::make(&format!("/{}", unique("half"))) else {
        return;
    };
    if group.dirs.len() < 2 {
        eprintln!("there is one hierarchy here: skipped");
        return;
    }
    let authority = Authority::start(&(entry("a", &["container:cgroup:/x".to_owned()]) + &for_us("b")));
    let client = call(&authority, &["--timeout", "120"]);
    client.next();
    // In version 2 only.
    let dir = group
        .dirs
        .iter()
        .find(|dir| dir.join("cgroup.events").exists())
        .unwrap();
    move_into(dir, client.pid());
    authority.write_entries(&(entry("a", &["container:cgroup:/x".to_owned()]) + &for_us("c")));
    client.next();
    authority.logged(&["an entry is refused", "disagree"]);
    group.take(client.pid());
}
