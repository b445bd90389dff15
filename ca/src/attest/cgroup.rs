//! Where in the tree of control groups a process is, and what follows from it: the unit of the system manager, the
//! container. The kernel tells the place; who made it is told by the way to it. Whoever is given a group as his own
//! makes any names below it, so a name counts only above that: the unit is the first that is no slice, and a container
//! is believed where the system manager or root made its group: everything above it is root's, and root's alone to write.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::process::Process;
use crate::registration::{Cgroup, Fact, UNITS, is_container_id, is_unit_name, is_users_manager};

/// What container runtimes put before the id.
const RUNTIMES: [&str; 7] = [
    "docker-",
    "libpod-",
    "cri-containerd-",
    "crio-",
    "nerdctl-",
    "containerd-",
    "lxc-",
];

/// Reads it; the process ran all the while.
pub fn read(process: &Process) -> Result<Cgroup, String> {
    let dir = super::executable::open(process)?;
    let text = super::process::read_small(&dir, "cgroup").map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::SRCH) => {
                "the process is gone, or this kernel has no control groups".to_owned()
            }
            _ => format!("its control group cannot be read: {error}"),
        }
    })?;
    let (mut found, told_by) = parse(&text)?;
    if let Fact::Proven(id) = &found.container
        && let Err(reason) = made_by_root(&found.path, id, &told_by)
    {
        found.container = Fact::Unproven(reason.into());
    }
    process.check().map_err(|gone| gone.to_string())?;
    Ok(found)
}

/// A hierarchy of control groups that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    Unified,
    Systemd,
}

/// Whether nobody but root could have made the group of a container. One hierarchy is enough: where two tell the same
/// place, who is not root had to make it in both.
fn made_by_root(path: &str, id: &Arc<str>, told_by: &[Hierarchy]) -> Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo cannot be read: {error}"))?;
    let above = above(path, id);
    let mut refused = format!(
        "the control groups of this machine are not mounted for the authority, so it cannot see who made {path}"
    );
    for hierarchy in told_by {
        for root in mounted(&mounts, *hierarchy) {
            match owned_by_root(&root, &above) {
                Ok(()) => return Ok(()),
                Err(reason) => refused = format!("its control group {path} proves no container: {reason}"),
            }
        }
    }
    Err(refused)
}

/// The groups that the one of the container lies in.
fn above<'a>(path: &'a str, container: &Arc<str>) -> Vec<&'a str> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let is_other = |part: &&str| container_of(part).as_ref() != Some(container);
    parts.take_while(is_other).collect()
}

/// Where a hierarchy is mounted whole: proc(5), `/proc/PID/mountinfo`.
fn mounted(mounts: &str, hierarchy: Hierarchy) -> Vec<PathBuf> {
    let one = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let mut fields = source.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let is_it = match hierarchy {
            Hierarchy::Unified => kind == "cgroup2",
            Hierarchy::Systemd => kind == "cgroup" && options.split(',').any(|one| one == "name=systemd"),
        };
        // A place whose name has blanks is written in another way; nobody mounts it there.
        (is_it && root == "/" && !place.contains('\\')).then(|| place.into())
    };
    mounts.lines().filter_map(one).collect()
}

/// Whoever owns a group, or may write to it, makes whatever groups it likes in it.
fn owned_by_root(root: &Path, above: &[&str]) -> Result<(), String> {
    let mut dir = root.to_owned();
    for part in std::iter::once(&"").chain(above) {
        if !part.is_empty() {
            dir.push(part);
        }
        let place = dir.display();
        let found = std::fs::symlink_metadata(&dir).map_err(|error| format!("{place}: {error}"))?;
        if found.uid() != 0 {
            return Err(format!(
                "{place} belongs to uid {}, who makes whatever groups it likes below",
                found.uid()
            ));
        }
        if found.mode() & 0o022 != 0 {
            return Err(format!(
                "{place} may be written by others than root (mode {:04o}), who make whatever groups they like below",
                found.mode() & 0o7777
            ));
        }
    }
    Ok(())
}

/// cgroups(7), `/proc/PID/cgroup`: version 2 (`0::PATH`), or version 1 with the hierarchy of systemd, perhaps both. With
/// it the hierarchies that tell this place.
fn parse(text: &[u8]) -> Result<(Cgroup, Vec<Hierarchy>), String> {
    let text =
        std::str::from_utf8(text).map_err(|_| "the name of its control group is not text".to_owned())?;
    let mut unified = None;
    let mut systemd = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        match (fields.next(), fields.next(), fields.next()) {
            (Some("0"), Some(""), Some(path)) => unified = Some(path),
            (Some(_), Some("name=systemd"), Some(path)) => systemd = Some(path),
            _ => {}
        }
    }
    let (path, told_by) = match (unified, systemd) {
        (Some(path), None) => (path, vec![Hierarchy::Unified]),
        (None, Some(path)) => (path, vec![Hierarchy::Systemd]),
        (Some(one), Some(other)) if one == other => (one, vec![Hierarchy::Unified, Hierarchy::Systemd]),
        // Version 1 alone: the kernel shows everybody at the root of version 2.
        (Some("/"), Some(path)) => (path, vec![Hierarchy::Systemd]),
        (Some(one), Some(other)) => {
            return Err(format!(
                "its control groups disagree: {one} in version 2, {other} in the hierarchy of systemd"
            ));
        }
        (None, None) => return Err("it is in no control group of version 2 or of systemd".to_owned()),
    };
    Ok((at(path)?, told_by))
}

fn at(path: &str) -> Result<Cgroup, String> {
    let below = path
        .strip_prefix('/')
        .ok_or_else(|| format!("`{}` is not the path of a control group", path.escape_debug()))?;
    let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(format!(
            "its control group {path} is outside of those that the authority sees: run the authority in the cgroup \
             namespace of the machine"
        ));
    }
    if path.ends_with(" (deleted)") {
        return Err("its control group was removed".to_owned());
    }
    let is_slice = |part: &&&str| part.ends_with(".slice") && is_unit_name(part);
    let slices: Vec<Arc<str>> = parts
        .iter()
        .take_while(is_slice)
        .map(|part| unescaped(part))
        .collect();
    let rest = parts.get(slices.len()..).unwrap_or_default();
    Ok(Cgroup {
        path: path.into(),
        unit: unit(path, rest),
        container: container(path, rest),
        slices,
    })
}

/// systemd puts `_` before names that the kernel would take for its own.
fn unescaped(part: &str) -> Arc<str> {
    part.strip_prefix('_').unwrap_or(part).into()
}

fn is_unit(part: &str) -> bool {
    is_unit_name(part)
        && UNITS
            .iter()
            .any(|suffix| part.len() > suffix.len() && part.ends_with(suffix))
}

/// `rest` is the path without its leading slices.
fn unit(path: &str, rest: &[&str]) -> Fact<Arc<str>> {
    match rest.first() {
        Some(first) if is_unit(first) => Fact::Proven(unescaped(first)),
        _ => Fact::Absent(format!("its control group {path} is in no unit of the system manager").into()),
    }
}

fn container(path: &str, rest: &[&str]) -> Fact<Arc<str>> {
    let none = || Fact::Absent(format!("its control group {path} is in no container").into());
    let Some(first) = rest.first() else {
        return none();
    };
    if is_unit(first) {
        // A container that the system manager was asked for is a scope of its own.
        if let Some(id) = first.strip_suffix(".scope").and_then(id) {
            return Fact::Proven(id);
        }
        if rest.iter().skip(1).any(|part| container_of(part).is_some()) {
            let owner = if is_users_manager(first) {
                "its user"
            } else {
                "the unit"
            };
            let reason = format!(
                "its control group {path} is below {first}, where {owner} makes whatever groups it likes"
            );
            return Fact::Unproven(reason.into());
        }
        return none();
    }
    // The outermost: what is inside of a container was made there.
    let found = rest.iter().find_map(|part| container_of(part));
    found.map_or_else(none, Fact::Proven)
}

/// Whose group a part of the path is, with or without the system manager.
fn container_of(part: &str) -> Option<Arc<str>> {
    id(part.strip_suffix(".scope").unwrap_or(part))
}

fn id(part: &str) -> Option<Arc<str>> {
    let id = RUNTIMES
        .iter()
        .find_map(|runtime| part.strip_prefix(runtime))
        .unwrap_or(part);
    is_container_id(id).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_of(path: &str) -> Option<String> {
        match at(path).unwrap().unit {
            Fact::Proven(unit) => Some(unit.to_string()),
            Fact::Absent(_) => None,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn the_unit_is_the_first_that_is_no_slice() {
        for (path, unit) in [
            ("/system.slice/orders.service", Some("orders.service")),
            (
                "/system.slice/orders.service/worker/x.service",
                Some("orders.service"),
            ),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                Some("getty@tty1.service"),
            ),
            ("/init.scope", Some("init.scope")),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/system.slice", None),
            ("/", None),
            ("/docker/abc", None),
            ("/x/orders.service", None),
            ("/system.slice/x/orders.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/a b.service", None),
        ] {
            assert_eq!(unit_of(path).as_deref(), unit, "{path}");
        }
    }

    #[test]
    fn a_user_cannot_make_a_unit_of_the_system_manager() {
        let users = "/user.slice/user-1000.slice/user@1000.service";
        for below in [
            "orders.service",
            "app.slice/orders.service",
            "system.slice/orders.service",
            "../x",
        ] {
            let Ok(found) = at(&format!("{users}/{below}")) else {
                assert_eq!(below, "../x");
                continue;
            };
            assert_eq!(found.unit, Fact::Proven("user@1000.service".into()), "{below}");
            let slices: Vec<&str> = found.slices.iter().map(|slice| &**slice).collect();
            assert_eq!(slices, ["user.slice", "user-1000.slice"], "{below}");
        }
    }

    #[test]
    fn a_container_is_believed_where_root_or_the_system_manager_made_its_group() {
        let (id, other) = ("ab".repeat(32), "cd".repeat(32));
        let found = |path: &str| at(path).unwrap().container;
        for path in [
            format!("/docker/{id}"),
            format!("/docker/{id}/docker/{other}"),
            format!("/kubepods/burstable/pod1-2/{id}"),
            format!("/machine/libpod-{id}"),
            format!("/shop/orders/{id}/init.scope"),
            format!("/shop.slice/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/system.slice/docker-{id}.scope/docker/{other}"),
        ] {
            assert_eq!(found(&path), Fact::Proven(id.as_str().into()), "{path}");
        }
        for path in [
            format!("/user.slice/user-1000.slice/user@1000.service/docker/{id}"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container"),
            format!("/system.slice/ci.service/docker/{id}"),
            format!("/system.slice/docker-abcdef.scope/{id}"),
        ] {
            assert!(matches!(found(&path), Fact::Unproven(_)), "{path}");
        }
        let (short, capital) = (id.replacen('a', "", 1), id.to_uppercase());
        for path in [
            "/".to_owned(),
            "/system.slice/orders.service".to_owned(),
            format!("/docker/{short}"),
            format!("/docker/{capital}"),
            format!("/docker/x-{id}"),
        ] {
            assert!(matches!(found(&path), Fact::Absent(_)), "{path}");
        }
    }

    #[test]
    fn what_lies_above_a_container_must_be_roots() {
        let id: Arc<str> = "ab".repeat(32).into();
        assert_eq!(above(&format!("/shop/{id}/x/{id}"), &id), ["shop"]);
        assert_eq!(
            above(&format!("/m.slice/libpod-{id}.scope/container"), &id),
            ["m.slice"]
        );
        assert_eq!(above(&format!("/{id}"), &id), [""; 0]);

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("shop/orders")).unwrap();
        let mode = |path: &str, mode: u32| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(dir.path().join(path), mode).unwrap();
        };
        ["", "shop", "shop/orders"]
            .iter()
            .for_each(|path| mode(path, 0o755));
        let judged = |above: &[&str]| owned_by_root(dir.path(), above);
        if !rustix::process::geteuid().is_root() {
            assert!(judged(&["shop"]).unwrap_err().contains("belongs to uid"));
            return;
        }
        judged(&[]).unwrap();
        judged(&["shop", "orders"]).unwrap();
        assert!(judged(&["shop", "gone"]).is_err());
        mode("shop", 0o775);
        assert!(judged(&["shop", "orders"]).unwrap_err().contains("mode 0775"));
        mode("shop", 0o755);
        std::os::unix::fs::chown(dir.path().join("shop"), Some(4242), None).unwrap();
        assert!(judged(&["shop", "orders"]).unwrap_err().contains("uid 4242"));
        judged(&[]).unwrap();
    }

    #[test]
    fn only_a_hierarchy_that_is_mounted_whole_tells_owners() {
        let mounts = "25 1 0:23 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw\n\
                      26 25 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                      27 25 0:25 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,xattr,name=systemd\n\
                      28 25 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      29 25 0:24 /docker/x /mnt rw - cgroup2 cgroup2 rw\n\
                      30 25 0:24 / /m\\040x rw - cgroup2 cgroup2 rw\nrubbish\n";
        assert_eq!(
            mounted(mounts, Hierarchy::Unified),
            [Path::new("/sys/fs/cgroup/unified")]
        );
        assert_eq!(
            mounted(mounts, Hierarchy::Systemd),
            [Path::new("/sys/fs/cgroup/systemd")]
        );
        let told = |text: &str| parse(text.as_bytes()).unwrap().1;
        assert_eq!(told("0::/a\n"), [Hierarchy::Unified]);
        assert_eq!(told("1:name=systemd:/a\n0::/\n"), [Hierarchy::Systemd]);
        assert_eq!(
            told("1:name=systemd:/a\n0::/a\n"),
            [Hierarchy::Unified, Hierarchy::Systemd]
        );
    }

    #[test]
    fn version_two_and_the_hierarchy_of_systemd_must_agree() {
        let path = |text: &str| parse(text.as_bytes()).map(|(found, _)| found.path.to_string());
        for (text, wanted) in [
            ("0::/system.slice/a.service\n", "/system.slice/a.service"),
            ("9:name=systemd:/a.service\n8:pids:/x\n0::/\n", "/a.service"),
            ("1:name=systemd:/a.service\n0::/a.service\n", "/a.service"),
            ("1:name=systemd:/a.service\n", "/a.service"),
            ("4:memory:/b\n0::/a:b\n", "/a:b"),
        ] {
            assert_eq!(path(text).unwrap(), wanted);
        }
        for (text, word) in [
            (
                "1:name=systemd:/docker/x\n0::/system.slice/containerd.service\n",
                "disagree",
            ),
            ("1:name=systemd:/\n0::/a.service\n", "disagree"),
            ("4:memory:/b\n", "no control group"),
            ("", "no control group"),
            ("0::/../../system.slice/a.service\n", "outside"),
            ("0::/..\n", "outside"),
            ("0::/a.service (deleted)\n", "removed"),
            ("0::a\n", "not the path"),
        ] {
            let reason = path(text).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
        assert!(parse(b"0::/\xff\n").is_err());
    }
}
