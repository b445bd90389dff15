//! What `hopguard iptables` leaves in the kernel's rules: whole or not at all, and nothing of others touched.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::ns::{command, hopguard, hopguard_ok, in_namespace, run, saved, told};
use hopguard_tests::hopguard_bin;

/// Rules of other programs: their own chains, jumps where ours go, a look-alike, a policy.
const FOREIGN: &str = "*nat
:DOCKER_OUTPUT - [0:0]
:HOPGUARD_OTHER - [0:0]
-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
-A OUTPUT -p tcp -m tcp --dport 53 -j DOCKER_OUTPUT
-A OUTPUT -p tcp -m comment --comment \"-j HOPGUARD_OUTPUT is \\\"not\\\" this\" -j HOPGUARD_OTHER
-A DOCKER_OUTPUT -p tcp -j REDIRECT --to-ports 5353
COMMIT
*filter
:INPUT DROP [0:0]
:THEIRS - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -j THEIRS
-A OUTPUT ! -o lo -p udp -m udp --dport 123 -j ACCEPT
-A THEIRS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*mangle
-A POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
";

fn add_foreign(backend: &str) {
    let infix = if backend == "auto" {
        String::new()
    } else {
        format!("{backend}-")
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("foreign");
    fs::write(&file, FOREIGN).unwrap();
    for family in ["iptables", "ip6tables"] {
        run(
            "sh",
            &["-c", &format!("{family}-{infix}restore < {}", file.display())],
        );
    }
}

/// The implementations that this kernel and this machine have.
fn backends() -> Vec<&'static str> {
    let usable = |backend: &&str| {
        let program = format!("ip6tables-{backend}");
        command("sh")
            .args(["-c", &format!("{program} -t nat -S")])
            .output()
            .unwrap()
            .status
            .success()
    };
    let found: Vec<&str> = ["nft", "legacy"].into_iter().filter(usable).collect();
    assert!(!found.is_empty(), "no iptables works here");
    found
}

#[test]
fn undo_leaves_what_was_there_before_and_nothing_else() {
    in_namespace(
        "rules::undo_leaves_what_was_there_before_and_nothing_else",
        || {
            for backend in backends() {
                add_foreign(backend);
                let before = saved(backend);
                let intents: [&[&str]; 3] = [
                    &["--mark", "1337"],
                    &[
                        "--uid",
                        "0",
                        "--inbound-ports",
                        "8080,9000-9010",
                        "--udp",
                        "reject",
                    ],
                    &[
                        "--gid",
                        "0",
                        "--mark",
                        "7",
                        "--exclude-outbound-cidrs",
                        "10.0.0.0/8,fd00::/8",
                        "--guard",
                        "off",
                    ],
                ];
                for intent in intents {
                    let flags = [intent, &["--backend", backend]].concat();
                    hopguard_ok(&[&["apply"], &flags[..]].concat());
                    let once = saved(backend);
                    assert_ne!(once, before);
                    hopguard_ok(&[&["apply"], &flags[..]].concat());
                    assert_eq!(saved(backend), once, "applied twice with {backend}");
                    hopguard_ok(&[&["check"], &flags[..]].concat());
                }
                // The last intent replaced the others: one undo takes all away.
                hopguard_ok(&["undo", "--backend", backend]);
                assert_eq!(saved(backend), before, "undone with {backend}");
                hopguard_ok(&["undo", "--backend", backend]);
                assert_eq!(saved(backend), before, "undone twice with {backend}");
            }
        },
    );
}

#[test]
fn undo_where_nothing_was_applied_changes_nothing() {
    in_namespace("rules::undo_where_nothing_was_applied_changes_nothing", || {
        let before = saved("auto");
        let out = hopguard_ok(&["undo"]);
        assert!(out.contains("nothing of hopguard's was there"), "{out}");
        assert_eq!(saved("auto"), before);
    });
}

#[test]
fn an_intent_in_a_file_is_the_same_as_in_flags() {
    in_namespace("rules::an_intent_in_a_file_is_the_same_as_in_flags", || {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("redirect.toml");
        let text = "inbound_ports = [8080]\nudp = \"reject\"\n[own]\nmark = 1337\n";
        fs::write(&file, text).unwrap();
        hopguard_ok(&["apply", "--config", file.to_str().unwrap()]);
        hopguard_ok(&[
            "check",
            "--mark",
            "0x539",
            "--inbound-ports",
            "8080",
            "--udp",
            "reject",
        ]);
        assert_eq!(
            hopguard(&["check", "--mark", "0x539", "--inbound-ports", "8080"]).0,
            1
        );
    });
}

fn drift(args: &[&str]) -> (i32, Vec<Value>) {
    let (code, out, err) = hopguard(&[args, &["-o", "json"]].concat());
    let json: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(json["in_place"], Value::Bool(code == 0));
    (code, json["drift"].as_array().unwrap().clone())
}

/// What somebody does to our rules, and how it is told: family, kind, chain.
const EDITS: [(&str, &str, &str, &str); 5] = [
    (
        "iptables -t nat -D HOPGUARD_OUTPUT 1",
        "ipv4",
        "rule_missing",
        "HOPGUARD_OUTPUT",
    ),
    (
        "ip6tables -t nat -I HOPGUARD_OUTPUT 2 -d fd99::/64 -j ACCEPT",
        "ipv6",
        "rule_extra",
        "HOPGUARD_OUTPUT",
    ),
    (
        "iptables -t nat -I OUTPUT -p tcp -j ACCEPT",
        "ipv4",
        "jump_not_first",
        "OUTPUT",
    ),
    (
        "ip6tables -t nat -F PREROUTING",
        "ipv6",
        "jump_missing",
        "PREROUTING",
    ),
    (
        "iptables -t nat -R HOPGUARD_OUTPUT 1 -m mark --mark 1 -j RETURN",
        "ipv4",
        "rule_changed",
        "HOPGUARD_OUTPUT",
    ),
];

#[test]
fn a_flushed_an_added_and_a_changed_rule_are_found_and_put_right() {
    in_namespace(
        "rules::a_flushed_an_added_and_a_changed_rule_are_found_and_put_right",
        || {
            let check = ["check", "--mark", "1337"];
            hopguard_ok(&["apply", "--mark", "1337"]);
            for (edit, family, kind, chain) in EDITS {
                assert_eq!(drift(&check), (0, vec![]));
                let edit: Vec<&str> = edit.split(' ').collect();
                run(edit[0], &edit[1..]);
                let (code, found) = drift(&check);
                assert_eq!((code, found.len()), (1, 1), "{edit:?}: {found:?}");
                let words = ["family", "kind", "chain"].map(|key| found[0][key].as_str().unwrap().to_owned());
                assert_eq!(words, [family, kind, chain]);
                hopguard_ok(&["apply", "--mark", "1337"]);
            }
            assert_eq!(drift(&check), (0, vec![]));
            let (code, found) = drift(&["check", "--mark", "1338"]);
            assert_eq!(code, 1);
            assert!(
                found.iter().all(|drift| drift["kind"] == "rule_changed"),
                "{found:?}"
            );
        },
    );
}

/// A folder with a program that fails, to be put before the others.
fn broken(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(
        &path,
        "#!/bin/sh\ncat >/dev/null\necho \"$0: the kernel says no\" >&2\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn hopguard_with(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let path = format!(
        "{}:{}:/usr/sbin:/sbin",
        dir.display(),
        std::env::var("PATH").unwrap()
    );
    told(
        command(hopguard_bin().to_str().unwrap())
            .arg("iptables")
            .args(args)
            .env("PATH", path),
    )
}

#[test]
fn ipv6_that_fails_takes_ipv4_back() {
    in_namespace("rules::ipv6_that_fails_takes_ipv4_back", || {
        add_foreign("auto");
        let dir = broken("ip6tables-restore");
        let before = saved("auto");
        let (code, out, err) = hopguard_with(dir.path(), &["apply", "--mark", "1337"]);
        assert_eq!(code, 1, "{out}{err}");
        assert!(
            err.contains("the kernel says no") && err.contains("everything is as it was before"),
            "{err}"
        );
        assert_eq!(saved("auto"), before, "nothing left behind");

        // A redirect that was in place stays in place.
        hopguard_ok(&["apply", "--mark", "1337", "--udp", "reject"]);
        let before = saved("auto");
        assert_eq!(hopguard_with(dir.path(), &["apply", "--mark", "7"]).0, 1);
        assert_eq!(saved("auto"), before, "the earlier redirect is back");
        hopguard_ok(&["check", "--mark", "1337", "--udp", "reject"]);
    });
}

#[test]
fn ipv6_that_cannot_be_read_fails_before_anything_is_changed() {
    in_namespace(
        "rules::ipv6_that_cannot_be_read_fails_before_anything_is_changed",
        || {
            let dir = broken("ip6tables-save");
            let before = saved("auto");
            let (code, _, err) = hopguard_with(dir.path(), &["apply", "--mark", "1337"]);
            assert_eq!(code, 1);
            assert!(err.contains("nothing was changed"), "{err}");
            assert_eq!(saved("auto"), before);
            assert_eq!(
                hopguard_with(dir.path(), &["check", "--mark", "1337"]).0,
                1,
                "a check that cannot look is no yes"
            );
            assert_eq!(
                hopguard_with(dir.path(), &["undo"]).0,
                1,
                "an undo that cannot look is no yes"
            );
        },
    );
}

#[test]
fn ipv4_that_fails_leaves_nothing_either() {
    in_namespace("rules::ipv4_that_fails_leaves_nothing_either", || {
        let before = saved("auto");
        let dir = broken("iptables-restore");
        let (code, _, err) = hopguard_with(dir.path(), &["apply", "--mark", "1337"]);
        assert_eq!(code, 1, "{err}");
        assert_eq!(saved("auto"), before);
    });
}

#[test]
fn where_ipv6_is_switched_off_it_is_tried_and_told() {
    in_namespace("rules::where_ipv6_is_switched_off_it_is_tried_and_told", || {
        for folder in fs::read_dir("/proc/sys/net/ipv6/conf").unwrap() {
            fs::write(folder.unwrap().path().join("disable_ipv6"), "1").unwrap();
        }
        let dir = broken("ip6tables-restore");
        let (code, out, err) = hopguard_with(dir.path(), &["apply", "--mark", "1337"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(
            out.contains("IPv6  skipped (IPv6 is switched off on every interface here"),
            "{out}"
        );
        let (code, out, _) = hopguard(&["check", "--mark", "1337"]);
        assert!(
            code == 0 && out.contains("IPv6  skipped"),
            "as apply left it: {out}"
        );
        // Where it can be done, it is done: the switch may be turned.
        let out = hopguard_ok(&["apply", "--mark", "1337"]);
        assert!(out.contains("IPv6  applied"), "{out}");
        // Once an interface has it, failing is failing.
        fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap();
        let (code, ..) = hopguard_with(dir.path(), &["apply", "--mark", "7"]);
        assert_eq!(code, 1);
        hopguard_ok(&["check", "--mark", "1337"]);
    });
}

#[test]
fn several_at_once_end_with_one_redirect() {
    in_namespace("rules::several_at_once_end_with_one_redirect", || {
        let flags = ["apply", "--mark", "1337"];
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| hopguard(&flags))).collect();
            for one in all {
                let (code, out, err) = one.join().unwrap();
                assert_eq!(code, 0, "{out}{err}");
            }
        });
        hopguard_ok(&["check", "--mark", "1337"]);
        let jumps = saved("auto")
            .lines()
            .filter(|line| line.starts_with("-A OUTPUT -p tcp -j HOPGUARD_OUTPUT"))
            .count();
        assert_eq!(jumps, 2, "one for each family");
    });
}

#[test]
fn a_rule_of_others_that_leads_to_ours_is_named_and_not_removed() {
    in_namespace(
        "rules::a_rule_of_others_that_leads_to_ours_is_named_and_not_removed",
        || {
            hopguard_ok(&["apply", "--mark", "1337"]);
            run("iptables", &["-t", "nat", "-N", "THEIRS"]);
            run(
                "iptables",
                &["-t", "nat", "-A", "THEIRS", "-p", "tcp", "-j", "HOPGUARD_OUTPUT"],
            );
            let before = saved("auto");
            let (code, _, err) = hopguard(&["undo"]);
            assert_eq!(code, 1);
            assert!(
                err.contains("iptables -t nat -D THEIRS -p tcp -j HOPGUARD_OUTPUT"),
                "{err}"
            );
            assert_eq!(saved("auto"), before);
            let (code, found) = drift(&["check", "--mark", "1337"]);
            assert_eq!((code, found[0]["kind"].as_str()), (1, Some("jump_extra")));
        },
    );
}

#[test]
fn one_family_alone_says_what_it_leaves_open() {
    in_namespace("rules::one_family_alone_says_what_it_leaves_open", || {
        let (code, out, err) = hopguard(&["apply", "--mark", "1337", "--family", "ipv4"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(err.contains("IPv6 is not redirected"), "{err}");
        assert!(run("ip6tables-save", &[]).find("HOPGUARD").is_none());
        assert_eq!(
            hopguard(&["check", "--mark", "1337"]).0,
            1,
            "for both it is incomplete"
        );
        assert_eq!(hopguard(&["check", "--mark", "1337", "--family", "ipv4"]).0, 0);
    });
}

#[test]
fn a_user_that_does_not_exist_here_is_named_before_anything_is_changed() {
    in_namespace(
        "rules::a_user_that_does_not_exist_here_is_named_before_anything_is_changed",
        || {
            let (code, _, err) = hopguard(&["apply", "--uid", "4242"]);
            assert_eq!(code, 4);
            assert!(
                err.contains("uid 4242 does not exist in this user namespace") && err.contains("--mark"),
                "{err}"
            );
            assert!(!saved("auto").contains("HOPGUARD"));
        },
    );
}

#[test]
fn without_privilege_it_is_refused_with_the_way_to_get_it() {
    in_namespace(
        "rules::without_privilege_it_is_refused_with_the_way_to_get_it",
        || {
            hopguard_ok(&["apply", "--mark", "1337"]);
            let before = saved("auto");
            for action in [
                &["apply", "--mark", "7"][..],
                &["undo"],
                &["check", "--mark", "1337"],
            ] {
                let (code, out, err) = told(
                    command("setpriv")
                        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
                        .arg(hopguard_bin())
                        .arg("iptables")
                        .args(action),
                );
                assert_eq!(code, 4, "{action:?}: {out}{err}");
                assert!(err.contains("CAP_NET_ADMIN"), "{err}");
            }
            assert_eq!(saved("auto"), before);
        },
    );
}

#[test]
fn printing_needs_no_privilege_and_prints_what_iptables_takes() {
    in_namespace(
        "rules::printing_needs_no_privilege_and_prints_what_iptables_takes",
        || {
            let dir = tempfile::tempdir().unwrap();
            let flags = [
                "--mark",
                "1337",
                "--udp",
                "reject",
                "--exclude-outbound-cidrs",
                "10.0.0.0/8,fd00::/8",
            ];
            for (family, program) in [("ipv4", "iptables"), ("ipv6", "ip6tables")] {
                let text = hopguard_ok(&[&["print"], &flags[..], &["--family", family]].concat());
                let file = dir.path().join(family);
                fs::write(&file, text).unwrap();
                run(
                    "sh",
                    &[
                        "-c",
                        &format!("{program}-restore --noflush --wait < {}", file.display()),
                    ],
                );
            }
            // What was printed is what is applied.
            hopguard_ok(&[&["check"], &flags[..]].concat());
        },
    );
}

/// The longest intent that is taken must fit into what the kernel takes at once, also in a user namespace.
#[test]
fn the_longest_intent_can_be_applied() {
    in_namespace("rules::the_longest_intent_can_be_applied", || {
        let ports =
            |range: std::ops::Range<u32>| range.map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        let (inbound, outbound) = (ports(1000..1120), ports(2000..2050));
        let cidrs: Vec<String> = (0..83)
            .map(|i| format!("fd00:{i:x}:1234:5678:9abc:def0:1234:0/120"))
            .collect();
        let cidrs = cidrs.join(",");
        // With the sidecar's three: 256.
        let flags = [
            "--mark",
            "1337",
            "--exclude-inbound-ports",
            &inbound,
            "--exclude-outbound-ports",
            &outbound,
            "--exclude-outbound-cidrs",
            &cidrs,
            "--udp",
            "reject",
        ];
        for backend in backends() {
            let with = |action| [&[action], &flags[..], &["--backend", backend]].concat();
            hopguard_ok(&with("apply"));
            hopguard_ok(&with("check"));
            hopguard_ok(&["undo", "--backend", backend]);
        }
        let (code, _, err) = hopguard(&[&["print"], &flags[..], &["--uid", "0"]].concat());
        assert!(code != 0 && err.contains("257 entries"), "{err}");
    });
}

#[test]
fn a_login_by_ssh_is_not_cut_unless_that_is_meant() {
    in_namespace("rules::a_login_by_ssh_is_not_cut_unless_that_is_meant", || {
        let daemon = TcpListener::bind("[::]:22").unwrap();
        hopguard_ok(&["apply", "--mark", "1337"]);
        hopguard_ok(&["undo"]);
        // Somebody logs in, here over loopback.
        let _session = TcpStream::connect("127.0.0.1:22").unwrap();
        let _accepted = daemon.accept().unwrap();
        let (code, _, err) = hopguard(&["apply", "--mark", "1337"]);
        assert!(code == 1 && err.contains("--exclude-inbound-ports 22"), "{err}");
        assert!(!saved("auto").contains("HOPGUARD"));
        hopguard_ok(&["apply", "--mark", "1337", "--inbound-ports", "8080"]);
        hopguard_ok(&["apply", "--mark", "1337", "--exclude-inbound-ports", "20-25"]);
        hopguard_ok(&["apply", "--mark", "1337", "--cut-ssh"]);
    });
}
