//! What processes of the demo see of the file system: paths enter, mounts in the own mount namespace leave. Nothing that it
//! does is seen outside of that namespace.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::failed;
use crate::ui::{Exit, Failure};

const NONE: Option<&str> = None;
/// The devices that any program expects, and no other.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What of `/proc` is the kernel's and not a process's. For the kernel, uid 0 in here may be the root of the host, who needs
/// no capability to write there.
const OF_THE_KERNEL: [&str; 6] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi"];

/// Cuts this mount namespace off from the one it was copied from.
pub fn detach() -> Result<(), Failure> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(failed("making the mounts private"))
}

/// Whether the network's settings, which each pod has of its own, may be changed through a `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkSettings {
    /// By whoever may: while the network is made.
    Writable,
    /// By nobody.
    ReadOnly,
}

/// `/proc` of the process namespace that this process lives in. The kernel's own settings are not to be written through it.
pub fn proc(network: NetworkSettings) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE).map_err(|error| {
        Failure::new(format!("mounting /proc: {error}")).hint(
            "in a container whose /proc is masked this is not possible (Docker: `--security-opt systempaths=unconfined`)",
        )
    })?;
    for name in OF_THE_KERNEL {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind_read_only(&path, &path)?;
        }
    }
    if network == NetworkSettings::Writable {
        let net = Path::new("/proc/sys/net");
        bind(net, net)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(NONE, net, NONE, flags | MsFlags::MS_NOEXEC, NONE)
            .map_err(failed("making the network's settings writable"))?;
    }
    Ok(())
}

/// A `/dev` with the devices that any program expects, terminals of its own, and nothing of the machine: its disks belong to
/// its root, whom uid 0 in here may be.
pub fn devices() -> Result<(), Failure> {
    let making = || failed::<std::io::Error>("making /dev");
    // Held open, because their paths lead nowhere once something is mounted over them. Without a controlling terminal
    // `tty` can be named, but not opened.
    let open = |name: &str| {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_PATH.bits());
        Some((name.to_owned(), options.open(Path::new("/dev").join(name)).ok()?))
    };
    let held: Vec<_> = DEVICES.into_iter().filter_map(open).collect();
    memory("/dev", 1)?;
    for (name, device) in held {
        let path = Path::new("/dev").join(name);
        fs::write(&path, "").map_err(making())?;
        bind(Path::new(&format!("/proc/self/fd/{}", device.as_raw_fd())), &path)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, Path::new("/dev").join(name)).map_err(making())?;
    }
    for folder in ["/dev/shm", "/dev/pts"] {
        fs::create_dir(folder).map_err(making())?;
    }
    memory("/dev/shm", 16)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .map_err(failed("making terminals"))
}

/// An empty file system in memory at `target`, of at most `megabytes`.
pub fn memory(target: &str, megabytes: u32) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode=0755,size={megabytes}m");
    mount(
        Some("hopguard-demo"),
        target,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(failed(&format!("mounting a tmpfs at {target}")))
}

/// The same, with the folder of this very program still seen where it was, if `target` would hide it: a build below `/tmp`
/// must find itself and what stands beside it.
pub fn memory_around_program(target: &str, megabytes: u32) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(failed("finding this program"))?;
    let folder = program
        .parent()
        .filter(|folder| folder.starts_with(target) && folder.is_dir());
    let Some(folder) = folder else {
        return memory(target, megabytes);
    };
    // Held open, because its path leads nowhere once something is mounted over it.
    let held = fs::File::open(folder).map_err(failed("opening this program's folder"))?;
    memory(target, megabytes)?;
    fs::create_dir_all(folder).map_err(failed("making this program's folder"))?;
    bind_read_only(Path::new(&format!("/proc/self/fd/{}", held.as_raw_fd())), folder)
}

/// Takes the tmpfs of the demo at `target` out of this mount namespace.
pub fn forget(target: &str) -> Result<(), Failure> {
    umount2(target, MntFlags::MNT_DETACH).map_err(failed(&format!("unmounting {target}")))
}

/// `source` seen at `target` too.
pub fn bind(source: &Path, target: &Path) -> Result<(), Failure> {
    mount(
        Some(source),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .map_err(failed(&format!(
        "binding {} to {}",
        source.display(),
        target.display()
    )))
}

/// The same, not to be written through `target`.
pub fn bind_read_only(source: &Path, target: &Path) -> Result<(), Failure> {
    bind(source, target)?;
    let flags =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, target, NONE, flags, NONE).map_err(failed(&format!("making {} read-only", target.display())))
}

/// Makes every mount of the host read-only and without devices in this mount namespace, so that even a program run by
/// `demo exec` leaves nothing behind. Only who has `CAP_SYS_ADMIN` could take that back; see
/// [`super::privileges::Keep`]. Must follow [`devices`].
pub fn host_read_only() -> Result<(), Failure> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(failed("reading the mounts"))?;
    for (path, flags) in table.lines().filter_map(read_only_line) {
        if path.starts_with("/dev") {
            continue;
        }
        match mount(NONE, &path, NONE, flags, NONE) {
            Ok(()) => {}
            // What is covered by another mount, or not to be found by us, cannot be reached and need not be.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR) if path != Path::new("/") => {
            }
            Err(error) => {
                return Err(
                    Failure::new(format!("making {} read-only: {error}", path.display()))
                        .hint(
                            "what runs in the demo could write there: unmount it, or run the demo elsewhere",
                        )
                        .exit(Exit::NotHere),
                );
            }
        }
    }
    Ok(())
}

/// Mount point of a line of `mountinfo` and the flags that keep it as it is, but read-only and without devices (a flag that
/// the host set is locked in a user namespace, so it must be repeated).
fn read_only_line(line: &str) -> Option<(PathBuf, MsFlags)> {
    let mut fields = line.split(' ');
    let path = unescape(fields.nth(4)?);
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    for option in fields.next()?.split(',') {
        flags |= match option {
            "nosuid" => MsFlags::MS_NOSUID,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        };
    }
    Some((PathBuf::from(path), flags))
}

/// proc(5): space, tab, newline and backslash are written in octal.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |text, (escaped, plain)| {
            text.replace(escaped, plain)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_keeps_its_flags_when_made_read_only() {
        let line = r"36 35 98:0 /mnt1 /mnt/two\040words rw,nosuid,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let (path, flags) = read_only_line(line).unwrap();
        assert_eq!(path, Path::new("/mnt/two words"));
        assert!(flags.contains(
            MsFlags::MS_NOSUID
                | MsFlags::MS_NOATIME
                | MsFlags::MS_RDONLY
                | MsFlags::MS_BIND
                | MsFlags::MS_NODEV
        ));
        assert!(!flags.contains(MsFlags::MS_NOEXEC));
    }
}
