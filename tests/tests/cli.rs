//! The command line as a stranger meets it: what it prints, how it ends, and what it does not let happen.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use hopguard_tests::{Guard, Mesh, Options, eventually, hopguard, output_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

static MESH: LazyLock<Mesh> = LazyLock::new(|| Mesh::start(&Options::default()).unwrap());

fn run(args: &[&str]) -> Output {
    let mut command = hopguard();
    command.args(args).stdin(Stdio::null());
    output_within(PATIENCE, command).unwrap()
}

fn fed(args: &[&str], input: &str) -> Output {
    let mut command = hopguard();
    command.args(args).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What it refuses unread breaks the pipe.
    let _refused = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An error in JSON: exactly these three fields, and a hint that is null or says something.
fn as_json(output: &Output, args: &[&str]) -> Value {
    // What a long-running verb logs stands before it.
    let text = err(output);
    let text = text.trim_end().rsplit('\n').next().unwrap();
    let said: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
    let mut keys: Vec<&str> = said.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["error", "exit", "hint"], "{args:?}");
    assert_ne!(said["hint"], "", "{args:?}");
    assert_eq!(
        said["exit"].as_i64(),
        output.status.code().map(i64::from),
        "{args:?}"
    );
    said
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// The first files, and some more.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Self { dir };
        let made = run(&["config", "init", files.path("first").to_str().unwrap()]);
        assert!(made.status.success(), "{}", err(&made));
        files.write("own.toml", "[own]\nmark = 7\n");
        files.write("nobody.toml", "udp = \"leave\"\n");
        files.write("svid.pem", &svid(|_| {}).0);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn of(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
}

/// A chain of a leaf and its authority as PEM.
fn svid(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, rcgen::KeyPair) {
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyPair, KeyUsagePurpose, SanType,
    };
    let now = std::time::SystemTime::now();
    let params = |id: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        params
    };
    let mut above = params("spiffe://mesh.test");
    above.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    above.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut leaf = params("spiffe://mesh.test/a");
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut leaf);
    let (key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = above.self_signed(&key).unwrap().pem();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(above, key)).unwrap().pem();
    (leaf + &root, leaf_key)
}

// --- what the pod's root can do -------------------------------------------------------------------------------------

#[test]
fn the_root_of_a_pod_cannot_write_the_host() {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: what the root of the host could write is SKIPPED, the rest is not");
    }
    // Seen from a pod where it is, so it is what could be written there.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let victim = folder.join(format!("hopguard-was-here-{}", std::process::id()));
    let touch = format!("touch {}", victim.display());
    for pod in ["web", "fabric"] {
        for attempt in [
            touch.clone(),
            format!("mount -o remount,rw,bind / && {touch}"),
            format!("mount -o remount,rw / && {touch}"),
            format!("mount --bind / /tmp && mount -o remount,rw,bind /tmp && {touch}"),
            format!("umount -l {} && {touch}", folder.display()),
            "umount /dev".to_owned(),
            "mount -t tmpfs none /mnt".to_owned(),
            // A user namespace of its own gives every capability in it, and locks the mounts that it was given.
            format!("unshare -Urm sh -c 'mount -o remount,rw,bind / && {touch}'"),
            "unshare -Urm sh -c 'umount /dev; test -b /dev/sda -o -b /dev/vda -o -b /dev/nvme0n1'".to_owned(),
            "mknod /tmp/disk b 8 0".to_owned(),
            // For the kernel he is the root of the host, who needs no capability for these.
            "test -w /proc/sysrq-trigger".to_owned(),
            "test -w /proc/sys/kernel/core_pattern".to_owned(),
            "test -w /sys/kernel".to_owned(),
            "test -n \"$(find /dev -type b)\"".to_owned(),
            "test -e /dev/kmsg -o -e /dev/mem".to_owned(),
        ] {
            let tried = MESH.exec_root(pod, &["sh", "-c", &attempt]).unwrap();
            assert!(!tried.status.success(), "{pod}: `{attempt}` went through");
            assert!(!victim.exists(), "{pod}: `{attempt}` wrote the host");
        }
        let status = MESH.exec_root(pod, &["cat", "/proc/self/status"]).unwrap();
        // CAP_NET_ADMIN (12) and CAP_NET_RAW (13).
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(
                out(&status).contains(&format!("{set}:\t0000000000003000\n")),
                "{}",
                out(&status)
            );
        }
        assert!(out(&status).contains("NoNewPrivs:\t1\n"), "{}", out(&status));
    }
    // What he is there for.
    let rules = MESH.exec_root("web", &["iptables", "-t", "nat", "-S"]).unwrap();
    assert!(out(&rules).contains("REDIRECT"), "{}", err(&rules));
    let link = MESH
        .exec_root("web", &["ip", "link", "set", "eth0", "alias", "seen"])
        .unwrap();
    assert!(link.status.success(), "{}", err(&link));
    let devices =
        "echo x > /dev/null && head -c 1 /dev/urandom > /dev/full; test $? -ne 0 && test -c /dev/ptmx";
    let devices = MESH.exec("web", &["sh", "-c", devices]).unwrap();
    assert!(devices.status.success(), "{}", err(&devices));
    let help = out(&run(&["demo", "exec", "--help"]));
    assert!(
        help.contains("CAP_NET_ADMIN") && help.contains("cannot mount"),
        "{help}"
    );
}

#[test]
fn a_pod_whose_first_process_is_killed_ends_the_demo() {
    let name = format!("killed-{}", std::process::id());
    let child = hopguard()
        .args(["demo", "up", "--bare", "--name", &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Guard(child);
    let mut line = String::new();
    let mut stdout = BufReader::new(demo.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let pid = i32::try_from(ready["pods"]["orders"]["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let status = eventually(PATIENCE, || match demo.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        _ => Err("the demo did not notice"),
    });
    assert_eq!(status.unwrap().code(), Some(1));
    let mut said = String::new();
    let mut stderr = demo.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("the pod `orders` has ended"), "{said}");
}

/// Started by a service, or with `&` from a script: there is no input, and so nobody who could close it.
#[test]
fn a_demo_without_an_input_stays_until_it_is_told_to_end() {
    let name = format!("noinput-{}", std::process::id());
    let child = hopguard()
        .args(["demo", "up", "--name", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Guard(child);
    let mut line = String::new();
    let mut stdout = BufReader::new(demo.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"ready\":true"), "{line}");
    let running = run(&["demo", "ctl", "--name", &name]);
    assert!(running.status.success(), "{}", err(&running));
    let pid = i32::try_from(demo.0.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let status = eventually(PATIENCE, || match demo.0.try_wait() {
        Ok(Some(status)) => Ok(status),
        _ => Err("the demo did not end"),
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

// --- a result that cannot be written --------------------------------------------------------------------------------

/// Command lines that print something and succeed.
fn printing(files: &Files) -> Vec<Vec<String>> {
    let first = |name: &str| files.of(&format!("first/{name}"));
    let lines: Vec<Vec<String>> = [
        vec!["--help"],
        vec!["--version"],
        vec!["demo", "exec", "--help"],
        vec!["completions", "bash"],
        vec!["completions", "zsh"],
        vec!["completions", "fish"],
        vec!["man"],
        vec!["iptables", "print", "--mark", "7"],
        vec!["svid", "inspect", &files.of("svid.pem")],
        vec!["config", "check", &first("mesh.toml")],
        vec![
            "policy",
            "check",
            "--mesh",
            &first("mesh.toml"),
            &first("policies"),
        ],
        vec!["policy", "schema", "--mesh", &first("mesh.toml")],
        vec!["demo", "ctl", "--name", &MESH.name],
        vec!["demo", "token", "--name", &MESH.name, "alice"],
    ]
    .into_iter()
    .map(|line| line.into_iter().map(str::to_owned).collect())
    .collect();
    let json = lines
        .iter()
        .map(|line| [&["-o".to_owned(), "json".to_owned()][..], line].concat());
    lines.iter().cloned().chain(json).collect()
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let files = Files::new();
    for line in printing(&files) {
        let good = hopguard().args(&line).stdin(Stdio::null()).output().unwrap();
        assert!(
            good.status.success() && !good.stdout.is_empty(),
            "{line:?}: {}",
            err(&good)
        );
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = hopguard().args(&line).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}: {}", err(&output));
        assert!(
            err(&output).contains("standard output cannot be written: No space left"),
            "{line:?}: {}",
            err(&output)
        );
        if line.starts_with(&["-o".to_owned()]) {
            as_json(&output, &[]);
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_none() {
    let files = Files::new();
    for line in printing(&files) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = hopguard().args(&line).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line:?}: {}", err(&output));
        assert_eq!(err(&output).replace(&udp_note(&line), ""), "", "{line:?}");
    }
}

/// What `iptables print` explains beside its result.
fn udp_note(line: &[String]) -> String {
    if line.contains(&"iptables".to_owned()) && !line.contains(&"json".to_owned()) {
        "note: UDP is left alone: it passes by the sidecar (--udp reject: QUIC clients then fall back to TCP)\n".to_owned()
    } else {
        "-".to_owned()
    }
}

// --- exit codes -----------------------------------------------------------------------------------------------------

#[test]
fn a_wrong_command_line_ends_with_2_and_a_wrong_file_with_3() {
    let files = Files::new();
    let up = ["demo", "up", "--bare"];
    let with = |more: &[&str]| [&up[..], more].concat().into_iter().map(str::to_owned).collect();
    let words = |line: &[&str]| -> Vec<String> { line.iter().map(|word| (*word).to_owned()).collect() };
    let everything = [
        "iptables",
        "print",
        "--mark",
        "7",
        "--exclude-outbound-cidrs",
        "0.0.0.0/0",
    ];
    let own = files.of("own.toml");
    let cases: Vec<(i32, Vec<String>)> = vec![
        (2, words(&["nonsense"])),
        (2, words(&["--form"])),
        (2, words(&["svid"])),
        (2, words(&[])),
        (2, words(&["completions", "tcsh"])),
        (2, words(&["demo", "--name", "a b"])),
        (2, with(&["--name", "a/b"])),
        (2, with(&["--set", "mesh"])),
        (2, with(&["--set", "mash:a=1"])),
        (2, with(&["--set", "mesh:trust_domain=bare"])),
        (
            2,
            words(&["demo", "--once", "--set", "mesh:service.9.name=\"x\""]),
        ),
        (2, with(&["--svid-ttl", "1"])),
        (2, with(&["--svid-ttl", "1s"])),
        (3, with(&["--dir", "/nonexistent"])),
        (2, words(&["demo", "exec", "nowhere", "--", "true"])),
        (2, words(&["demo", "exec", "fabric", "--", "true"])),
        (2, words(&["demo", "token", "carol"])),
        (2, words(&["demo", "ctl", "stop", "nothing"])),
        (2, words(&everything)),
        (
            2,
            [
                words(&everything[..2]),
                words(&["--config", &own]),
                words(&everything[4..]),
            ]
            .concat(),
        ),
        (2, words(&["iptables", "print", "--mark", "0"])),
        (3, words(&["iptables", "print", "--config", "/nonexistent"])),
        (
            3,
            words(&["iptables", "print", "--config", &files.of("nobody.toml")]),
        ),
        (3, words(&["svid", "inspect", "/nonexistent"])),
        (3, words(&["svid", "inspect", "/dev/null"])),
        (3, words(&["svid", "inspect", &own])),
        (2, words(&["svid", "fetch", "--socket", "nonsense"])),
        (3, words(&["token", "inspect", "/nonexistent"])),
        (3, words(&["token", "inspect", &own])),
        (2, words(&["token", "inspect", "eyJhbGciOiJub25lIn0.e30.c2ln"])),
        (3, words(&["ca", "serve", "/nonexistent"])),
        (3, words(&["sidecar", "--config", "/nonexistent"])),
        (2, words(&["sidecar", "--log", "a=b=c"])),
    ];
    for (code, line) in cases {
        let args: Vec<&str> = line.iter().map(String::as_str).collect();
        let output = run(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", err(&output));
        assert!(output.stdout.is_empty(), "{args:?}: {}", out(&output));
        assert!(
            !err(&output).contains("c2ln"),
            "a token is repeated: {}",
            err(&output)
        );
        let json = [&["-o", "json"][..], &args].concat();
        let said = as_json(&run(&json), &json);
        assert_eq!(said["exit"], code, "{said}");
        if code == 2 {
            assert!(
                said["hint"].is_string() || args.contains(&"fetch"),
                "{args:?}: {said}"
            );
        }
    }
}

#[test]
fn a_command_in_a_pod_that_cannot_be_run_ends_as_in_a_shell() {
    for (program, code) in [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("/etc/hosts", 126),
    ] {
        for flags in [&[][..], &["--root"]] {
            let line = [
                &["demo", "exec", "--name", &MESH.name][..],
                flags,
                &["web", "--", program],
            ]
            .concat();
            let output = run(&line);
            assert_eq!(output.status.code(), Some(code), "{line:?}: {}", err(&output));
            assert!(
                err(&output).contains(program) && err(&output).contains("hint: "),
                "{}",
                err(&output)
            );
            let json = [&["-o", "json"][..], &line].concat();
            as_json(&run(&json), &json);
        }
    }
}

// --- certificates and tokens ----------------------------------------------------------------------------------------

#[test]
fn a_certificate_moves_no_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hostile.pem");
    let hostile = "spiffe://mesh.test/\u{1b}[2J\u{7}\r\nall is well";
    let (chain, _) = svid(|leaf| {
        leaf.subject_alt_names = vec![rcgen::SanType::URI(hostile.try_into().unwrap())];
    });
    fs::write(&file, chain).unwrap();
    for form in ["text", "json"] {
        let output = run(&["-o", form, "svid", "inspect", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let said = out(&output);
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(!said.contains(raw), "{said:?}");
        assert!(!said.contains("\nall is well"), "{said:?}");
        assert!(said.contains("[2J"), "it is shown, escaped: {said:?}");
    }
    // JSON means what the certificate says.
    let output = run(&["-o", "json", "svid", "inspect", file.to_str().unwrap()]);
    let said: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(said["spiffe_id"], hostile);
}

#[test]
fn a_weak_certificate_is_told_with_the_section_that_it_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("svid.pem");
    let inspected = |chain: &str| {
        fs::write(&file, chain).unwrap();
        let output = run(&["-o", "json", "svid", "inspect", file.to_str().unwrap()]);
        let said: Value = serde_json::from_str(&out(&output)).unwrap();
        let problems: Vec<String> = serde_json::from_value(said["problems"].clone()).unwrap();
        assert_eq!(
            output.status.code(),
            Some(i32::from(!problems.is_empty())),
            "{problems:?}"
        );
        problems
    };
    assert_eq!(inspected(&svid(|_| {}).0), Vec::<String>::new());
    let weak = inspected(
        &svid(|leaf| {
            leaf.key_usages.clear();
            leaf.extended_key_usages.truncate(1);
            leaf.is_ca = rcgen::IsCa::NoCa;
            leaf.not_after = (std::time::SystemTime::now() - Duration::from_secs(9)).into();
            leaf.subject_alt_names
                .push(rcgen::SanType::URI("https://mesh.test/".try_into().unwrap()));
        })
        .0,
    );
    for words in [
        "no key usage: all SVIDs have it, and critical (X509-SVID 4.3)",
        "without clientAuth",
        "no basicConstraints",
        "expired at",
        "2 URIs",
    ] {
        assert!(
            weak.iter().any(|problem| problem.contains(words)),
            "{words}: {weak:?}"
        );
    }
    assert!(
        weak.iter().all(|problem| problem.ends_with(')')),
        "each names its section: {weak:?}"
    );

    // rcgen makes no RSA keys.
    let key = dir.path().join("key.pem");
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:1024", "-noenc", "-days", "1", "-subj", "/", "-out",
        ])
        .arg(&file)
        .arg("-keyout")
        .arg(&key)
        .args(["-addext", "subjectAltName=critical,URI:spiffe://mesh.test/a"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", err(&made));
    let rsa = inspected(&fs::read_to_string(&file).unwrap());
    assert!(
        rsa.iter().any(|problem| problem.contains("RSA key of 1024 bits")),
        "{rsa:?}"
    );
    assert!(rsa.iter().any(|problem| problem.contains("cA = true")), "{rsa:?}");
}

#[test]
fn a_token_is_shown_without_its_signature_and_with_what_is_wrong() {
    let token = MESH.token("alice", "none").unwrap();
    let signature = token.rsplit('.').next().unwrap();
    for input in [token.clone(), format!("Bearer {token}\n")] {
        let shown = fed(&["token", "inspect"], &input);
        assert_eq!(shown.status.code(), Some(0), "{}{}", out(&shown), err(&shown));
        assert!(
            out(&shown).contains("\"alice\"") && out(&shown).contains("NOT verified"),
            "{}",
            out(&shown)
        );
        assert!(!out(&shown).contains(signature), "{}", out(&shown));
    }
    for (flaw, word) in [
        ("alg_none", "not signed"),
        ("expired", "expired at"),
        ("not_yet", "not valid before"),
    ] {
        let token = MESH.token("alice", flaw).unwrap();
        let shown = fed(&["-o", "json", "token", "inspect", "-"], &token);
        assert_eq!(shown.status.code(), Some(1), "{flaw}");
        let said: Value = serde_json::from_str(&out(&shown)).unwrap();
        assert!(said["problems"].to_string().contains(word), "{said}");
        assert_eq!(said["signature_verified"], false);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, &token).unwrap();
    assert_eq!(
        run(&["token", "inspect", file.to_str().unwrap()]).status.code(),
        Some(0)
    );
    let refused = fed(&["token", "inspect"], "not a token at all");
    assert_eq!(refused.status.code(), Some(3));
    assert!(!err(&refused).contains("not a token at all"), "{}", err(&refused));
}

#[test]
fn a_token_moves_no_cursor() {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = "{\"sub\":\"a\\u001b[2J\u{202e}\u{9b}2J\"}";
    let token = format!("{}.{}.eA", encode("{\"alg\":\"ES256\\u0007\"}"), encode(claims));
    for form in ["text", "json"] {
        let shown = fed(&["-o", form, "token", "inspect"], &token);
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out(&shown).contains(raw), "{:?}", out(&shown));
        assert!(out(&shown).contains("[2J"), "{:?}", out(&shown));
    }
}

// --- files, doctor, help --------------------------------------------------------------------------------------------

#[test]
fn a_redirect_file_is_checked_like_the_others() {
    let files = Files::new();
    let good = run(&["config", "check", &files.of("own.toml")]);
    assert_eq!(good.status.code(), Some(0), "{}", out(&good));
    assert!(out(&good).contains("redirect"), "{}", out(&good));
    let bad = run(&["-o", "json", "config", "check", &files.of("nobody.toml")]);
    assert_eq!(bad.status.code(), Some(3));
    let said: Value = serde_json::from_str(&out(&bad)).unwrap();
    assert_eq!(
        (said[0]["kind"].as_str(), said[0]["ok"].as_bool()),
        (Some("redirect"), Some(false))
    );
    assert!(said[0]["problems"][0]["hint"].is_string(), "{said}");
}

#[test]
fn bad_socket_paths_are_found_before_the_authority_runs() {
    let files = Files::new();
    let ca = files.of("first/ca.toml");
    let text = fs::read_to_string(&ca).unwrap();
    let long = format!("\"{}\"", "x".repeat(120));
    for socket in [
        "\"missing/w.sock\"",
        "\"unix:///run/w.sock\"",
        "\"policies\"",
        &long,
    ] {
        fs::write(&ca, text.replace("\"workload.sock\"", socket)).unwrap();
        let checked = run(&["config", "check", &ca]);
        assert_eq!(checked.status.code(), Some(3), "{socket}: {}", out(&checked));
        assert!(
            out(&checked).contains("ca.toml:11:10: ") && out(&checked).contains("hint: "),
            "{socket}: {}",
            out(&checked)
        );
    }
}

#[test]
fn the_doctor_says_what_the_clock_was_compared_with() {
    let looked = run(&["-o", "json", "doctor"]);
    let said: Value = serde_json::from_str(&out(&looked)).unwrap();
    let checks = said["groups"].as_array().unwrap().iter();
    let clock = checks
        .flat_map(|group| group["checks"].as_array().unwrap())
        .find(|check| check["name"] == "clock")
        .unwrap();
    let detail = clock["detail"].as_str().unwrap();
    assert!(
        detail.contains("as timedatectl says") || detail.contains("not checked against another clock"),
        "{detail}"
    );
}

/// The verbs of a help, one name each.
fn verbs(help: &str) -> Vec<String> {
    let lines = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "));
    let name = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    lines
        .filter_map(name)
        .filter(|name| !name.is_empty() && name != "help")
        .collect()
}

#[test]
fn every_verb_has_a_help_a_page_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    let written = run(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert!(written.status.success(), "{}", err(&written));
    let completions = ["bash", "zsh", "fish"].map(|shell| out(&run(&["completions", shell])));
    let mut left = vec![Vec::<String>::new()];
    let mut count = 0;
    while let Some(verb) = left.pop() {
        let words: Vec<&str> = verb.iter().map(String::as_str).collect();
        let help = run(&[&words[..], &["--help"]].concat());
        assert!(help.status.success(), "{words:?}");
        let help = out(&help);
        assert!(
            help.contains("--output <OUTPUT>"),
            "{words:?} takes no -o: {help}"
        );
        assert!(!help.contains('\u{1b}'), "colour in a pipe: {help:?}");
        let page = dir
            .path()
            .join([&["hopguard"][..], &words].concat().join("-") + ".1");
        let page = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(page.contains(".SH NAME"), "{words:?}");
        for below in verbs(&help) {
            for script in &completions {
                assert!(script.contains(&below), "`{below}` is not completed");
            }
            left.push([verb.clone(), vec![below]].concat());
        }
        count += 1;
    }
    assert!(count > 20, "only {count} verbs were found");
    assert!(out(&run(&["--help"])).contains("127  `run`, `demo exec`: there is no such command"));
    for script in &completions {
        for own in ["pod-init", "run-as", "sidecar-init", "pod-pause"] {
            assert!(!script.contains(own), "`{own}` is not for people");
        }
    }
    let mut bash = Command::new("bash");
    bash.arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut bash = bash.spawn().unwrap();
    bash.stdin
        .take()
        .unwrap()
        .write_all(completions[0].as_bytes())
        .unwrap();
    let parsed = bash.wait_with_output().unwrap();
    assert!(parsed.status.success(), "{}", err(&parsed));
}
