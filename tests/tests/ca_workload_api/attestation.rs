//! Who gets what: the kernel's word counts, the caller's does not, and what cannot be proven is refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use hopguard_tests::hopguard;

use crate::support::*;

const NOBODY: u32 = 65_534;

fn path_of(path: &Path) -> String {
    format!("unix:path:{}", path.display())
}

fn hash_of(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("unix:sha256:{}", text.split_whitespace().next().unwrap())
}

/// What the kernel runs when the tests' python is started.
fn interpreter() -> PathBuf {
    python().canonicalize().unwrap()
}

#[test]
fn an_entry_for_another_uid_is_none_for_us() {
    let other = format!("unix:uid:{}", nix_uid() + 1);
    let authority = Authority::start(&entry("a", &[other]));
    for method in ["FetchX509SVID", "FetchX509Bundles"] {
        assert_eq!(
            first(&authority, &["--method", method])["status"],
            "PERMISSION_DENIED",
            "{method}"
        );
    }
    authority.logged(&["permission denied", "\"uid\":", "no entry matches"]);
    let error = Client::start(&["fetch", &authority.endpoint()]).next();
    assert!(
        error["error"].as_str().unwrap().contains("FetchX509SvidError"),
        "{error}"
    );
}

#[test]
fn no_entry_at_all_grants_nothing() {
    let authority = Authority::start("");
    assert_eq!(first(&authority, &[])["status"], "PERMISSION_DENIED");
}

#[test]
fn a_process_of_another_uid_gets_permission_denied_and_its_own_identity_by_its_own_entry() {
    if !is_root() {
        eprintln!(
            "only root can run a client of another uid: `an_entry_for_another_uid_is_none_for_us` stands for it"
        );
        return;
    }
    let authority = Authority::start(&for_us("root"));
    let nobody = NOBODY.to_string();
    assert_eq!(
        first(&authority, &["--uid", &nobody])["status"],
        "PERMISSION_DENIED"
    );
    assert_eq!(first(&authority, &[])["ids"][0], "spiffe://mesh.local/root");

    let uid = entry("nobody", &[format!("unix:uid:{NOBODY}")]);
    let gid = entry("gid", &[format!("unix:gid:{NOBODY}")]);
    authority.write_entries(&(for_us("root") + &uid + &gid));
    authority.logged(&["entries are in force", "\"entries\":3"]);
    let ids = serde_json::json!(["spiffe://mesh.local/nobody", "spiffe://mesh.local/gid"]);
    assert_eq!(first(&authority, &["--uid", &nobody])["ids"], ids);
}

#[test]
fn path_and_hash_of_the_executable_match_or_do_not() {
    let (path, hash) = (path_of(&interpreter()), hash_of(&interpreter()));
    let both = entry("both", &[path.clone(), hash.clone()]);
    let other_path = entry(
        "other-path",
        &[path_of(Path::new("/usr/bin/other")), hash.clone()],
    );
    let other_hash = entry("other-hash", &[path, format!("unix:sha256:{}", "0".repeat(64))]);
    let authority = Authority::start(&(other_path + &other_hash + &both + &entry("hash", &[hash])));
    let ids = serde_json::json!(["spiffe://mesh.local/both", "spiffe://mesh.local/hash"]);
    assert_eq!(first(&authority, &[])["ids"], ids);
}

#[test]
fn an_executable_that_was_replaced_loses_its_identity() {
    let authority = Authority::files("", "1h", "");
    let program = authority.dir.path().canonicalize().unwrap().join("orders");
    std::fs::copy(interpreter(), &program).unwrap();
    let entries = entry("orders", &[path_of(&program)]);
    std::fs::write(authority.path("entries.toml"), &entries).unwrap();
    let mut authority = authority;
    authority.run(hopguard());

    // A copy of python finds its library by these.
    let packages = Command::new(python())
        .args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        .output();
    let packages = String::from_utf8(packages.unwrap().stdout).unwrap();
    let home = Command::new(python())
        .args(["-c", "import sys; print(sys.base_prefix)"])
        .output();
    let home = String::from_utf8(home.unwrap().stdout).unwrap();
    let mut command = Command::new(&program);
    command
        .env("PYTHONHOME", home.trim())
        .env("PYTHONPATH", packages.trim());
    let endpoint = authority.endpoint();
    let client = Client::of(
        command,
        &[
            "raw",
            &endpoint,
            "--header",
            "workload.spiffe.io=true",
            "--timeout",
            "60",
        ],
    );
    let said = client.next();
    assert_eq!(said["ids"][0], "spiffe://mesh.local/orders", "{said}");

    std::fs::copy("/bin/true", authority.path("other")).unwrap();
    std::fs::rename(authority.path("other"), &program).unwrap();
    // Any change of the entries makes the authority look again; it would do so within a minute anyway.
    authority.write_entries(&(entries + &entry("x", &["unix:uid:4242".to_owned()])));
    let end = client.next();
    assert_eq!(end["status"], "PERMISSION_DENIED", "{end}");
    authority.logged(&["an entry is refused", "removed"]);
}

#[test]
fn an_executable_that_we_may_not_see_is_refused_and_not_skipped() {
    if !is_root() {
        eprintln!(
            "only root can make a client that is hidden from the authority; the room's own tests cover the reasons"
        );
        return;
    }
    let nobody = format!("unix:uid:{NOBODY}");
    let mut authority = Authority::files("", "1h", "");
    let hidden = entry("path", &[nobody.clone(), path_of(&interpreter())])
        + &entry("hash", &[nobody.clone(), hash_of(&interpreter())]);
    std::fs::write(
        authority.path("entries.toml"),
        hidden.clone() + &entry("uid", &[nobody]),
    )
    .unwrap();
    // Root, but without the capability to look into another uid's process.
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
        .arg(hopguard_tests::hopguard_bin());
    authority.run(command);
    let uid = NOBODY.to_string();
    assert_eq!(
        first(&authority, &["--uid", &uid])["ids"],
        serde_json::json!(["spiffe://mesh.local/uid"])
    );
    authority.logged(&[
        "an entry is refused",
        "spiffe://mesh.local/path",
        "CAP_SYS_PTRACE",
    ]);
    authority.logged(&[
        "an entry is refused",
        "spiffe://mesh.local/hash",
        "CAP_SYS_PTRACE",
    ]);
    authority.write_entries(&hidden);
    authority.logged(&["entries are in force", "\"entries\":2"]);
    assert_eq!(first(&authority, &["--uid", &uid])["status"], "PERMISSION_DENIED");
}

#[test]
fn a_path_of_another_mount_namespace_is_refused() {
    let unshared = || {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !is_root() {
            command.args(["--user", "--map-current-user"]);
        }
        command
    };
    if !unshared()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("this machine forbids mount namespaces to this user");
        return;
    }
    let entries = entry("path", &[path_of(&interpreter())]) + &entry("hash", &[hash_of(&interpreter())]);
    let authority = Authority::start(&entries);
    let mut command = unshared();
    command.arg(python());
    let endpoint = authority.endpoint();
    let header = "workload.spiffe.io=true";
    let said = Client::of(command, &["raw", &endpoint, "--header", header, "--first"]).next();
    // What is hashed is what runs, wherever it lies.
    assert_eq!(
        said["ids"],
        serde_json::json!(["spiffe://mesh.local/hash"]),
        "{said}"
    );
    authority.logged(&[
        "an entry is refused",
        "spiffe://mesh.local/path",
        "another mount namespace",
    ]);
}

#[test]
fn the_socket_is_a_selector() {
    let second = "[[workload_api]]\nsocket = \"orders.sock\"\nname = \"orders\"\nmode = \"0600\"\n";
    let entries =
        entry("web", &["socket:default".to_owned()]) + &entry("orders", &["socket:orders".to_owned()]);
    let authority = Authority::with(&entries, "1h", second);
    let ids = |socket: &str| {
        let endpoint = format!("unix://{}", authority.path(socket).display());
        let header = "workload.spiffe.io=true";
        Client::start(&["raw", &endpoint, "--header", header, "--first"]).next()["ids"].clone()
    };
    assert_eq!(ids("w.sock"), serde_json::json!(["spiffe://mesh.local/web"]));
    assert_eq!(
        ids("orders.sock"),
        serde_json::json!(["spiffe://mesh.local/orders"])
    );
}

/// What a child gets through the connection of its parent (see tests/python/inherit.py).
fn inherited(authority: &Authority, mode: &str) -> String {
    let mut command = Command::new("python3");
    command
        .arg(source("python/inherit.py"))
        .arg(authority.path("w.sock"))
        .arg(mode);
    String::from_utf8(command.output().unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn who_holds_the_connection_of_a_process_that_ended_gets_nothing() {
    let authority = Authority::start(&for_us("a"));
    // The control: while the process that connected lives, its descriptor speaks for it.
    assert_eq!(inherited(&authority, "stay"), "1 open");
    authority.logged(&["SVID issued"]);
    assert_eq!(inherited(&authority, "leave"), "0 ended");
    // No entry changes and no rotation is due: the end of the process alone ends the stream.
    assert_eq!(inherited(&authority, "later"), "1 ended");
    let issued = authority.log().matches("SVID issued").count();
    assert_eq!(issued, 2, "{}", authority.log());
}

/// The authority in namespaces of its own, or nothing where this machine forbids them.
fn in_namespaces(entries: &str, namespaces: &[&str]) -> Option<Authority> {
    let unshared = || {
        let mut command = Command::new("unshare");
        command.args(["--fork", "--kill-child"]).args(namespaces);
        command
    };
    if !unshared()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("this machine forbids {namespaces:?} to this user");
        return None;
    }
    let mut authority = Authority::files(entries, "1h", "");
    let mut command = unshared();
    command.arg(hopguard_tests::hopguard_bin());
    authority.run(command);
    Some(authority)
}

#[test]
fn a_process_that_is_invisible_in_the_pid_namespace_is_denied() {
    let namespaces = ["--user", "--map-root-user", "--pid", "--mount-proc"];
    // Every selector of these would match, were the process not invisible.
    let entries = entry("uid", &["unix:uid:0".to_owned()]) + &entry("socket", &["socket:default".to_owned()]);
    let Some(authority) = in_namespaces(&entries, &namespaces) else {
        return;
    };
    let said = first(&authority, &[]);
    assert_eq!(said["status"], "PERMISSION_DENIED", "{said}");
    assert!(
        said["details"]
            .as_str()
            .unwrap()
            .contains("not visible in this PID namespace"),
        "{said}"
    );
    authority.logged(&["permission denied", "not visible"]);
}

#[test]
fn the_number_that_stands_for_unmapped_uids_is_nobody() {
    let namespaces = ["--user", "--map-root-user"];
    let overflow = entry("nobody", &[format!("unix:uid:{NOBODY}")]);
    let Some(authority) = in_namespaces(
        // What asks for no uid is no way around it.
        &(overflow
            + &entry("root", &["unix:uid:0".to_owned()])
            + &entry("any", &["socket:default".to_owned()])),
        &namespaces,
    ) else {
        return;
    };
    assert_eq!(
        first(&authority, &[])["ids"][0],
        "spiffe://mesh.local/root",
        "we are mapped"
    );
    if !is_root() {
        eprintln!("only root can run a client of an unmapped uid; the room's own tests cover the mapping");
        return;
    }
    // Seen from in there, both are uid 65534.
    for uid in ["1234", "65534"] {
        assert_eq!(
            first(&authority, &["--uid", uid])["status"],
            "PERMISSION_DENIED",
            "{uid}"
        );
    }
    authority.logged(&["permission denied", "not mapped in this user namespace"]);
}
