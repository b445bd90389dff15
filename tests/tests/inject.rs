//! `hopguard inject` and `uninject` over files as people have them: twice is once, out is what was there, what comes out is
//! what Kubernetes and Compose take; and probes that work beside ports that refuse plaintext.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use hopguard_tests::{Guard, eventually, hopguard_bin, output_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn shapes(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(source("shapes").join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(hopguard_bin());
    command.args(args).current_dir(dir).stdin(Stdio::null());
    output_within(PATIENCE, command).unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The python of tests/python/setup.sh.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let done = Command::new("sh")
            .arg(source("python/setup.sh"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        PathBuf::from(String::from_utf8(done.stdout).unwrap().trim())
    })
}

#[test]
fn there_are_twenty_shapes() {
    assert!(shapes("kubernetes").len() + shapes("compose").len() >= 20);
}

#[test]
fn manifests_twice_are_once_and_taken_out_are_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let there = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for shape in shapes("kubernetes") {
        let shape = shape.to_str().unwrap();
        let once = ok(dir.path(), &["inject", "kubernetes", shape]);
        assert!(once.contains("hopguard-redirect"), "{shape}");
        fs::write(there("once.yaml"), &once).unwrap();
        assert_eq!(
            ok(dir.path(), &["inject", "kubernetes", "once.yaml"]),
            once,
            "{shape}"
        );
        fs::write(
            there("back.yaml"),
            ok(dir.path(), &["uninject", "kubernetes", "once.yaml"]),
        )
        .unwrap();
        let said = Command::new(python())
            .args([
                source("python/same.py").to_str().unwrap(),
                shape,
                &there("back.yaml"),
            ])
            .output()
            .unwrap();
        assert!(said.status.success(), "{shape}: {}", err(&said));
    }
}

#[test]
fn manifests_fit_the_published_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (number, shape) in shapes("kubernetes").iter().enumerate() {
        let socket = if number % 2 == 0 {
            "csi:csi.spiffe.io"
        } else {
            "hostPath:/run/hopguard/workload.sock"
        };
        let made = ok(
            dir.path(),
            &[
                "inject",
                "kubernetes",
                "--workload-api",
                socket,
                shape.to_str().unwrap(),
            ],
        );
        let file = dir.path().join(format!("{number}.yaml"));
        fs::write(&file, made).unwrap();
        files.push(file);
    }
    files.push(source("../examples/kubernetes/ca.yaml"));
    let validate = |files: &[PathBuf]| {
        Command::new(python())
            .arg(source("python/manifests.py"))
            .args(files)
            .output()
            .unwrap()
    };
    let output = validate(&files);
    assert!(output.status.success(), "{}", err(&output));
    let versions = String::from_utf8(output.stdout).unwrap();
    assert!(versions.starts_with("1.29 1.30"), "{versions}");
    // It can fail.
    let broken = dir.path().join("broken.yaml");
    let text = fs::read_to_string(&files[0]).unwrap();
    fs::write(
        &broken,
        text.replace("restartPolicy: Always", "restartPolicies: Always"),
    )
    .unwrap();
    assert_eq!(validate(&[broken]).status.code(), Some(1));
}

#[test]
fn the_example_of_an_authority_holds_files_that_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(source("../examples/kubernetes/ca.yaml")).unwrap();
    for name in ["ca.toml", "entries.toml"] {
        let (_, rest) = text.split_once(&format!("  {name}: |\n")).unwrap();
        let body: String = rest
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with("    "))
            .map(|line| format!("{}\n", line.trim_start()))
            .collect();
        // The folders are those of the pod.
        let here = dir.path().to_str().unwrap();
        let body = body
            .replace("/var/lib/hopguard", here)
            .replace("/run/hopguard", here);
        assert!(name != "ca.toml" || body.matches(here).count() == 2, "{body}");
        fs::write(dir.path().join(name), body).unwrap();
    }
    ok(dir.path(), &["config", "check", "ca.toml", "entries.toml"]);
}

/// The shapes of Compose in a folder of their own, with what they name.
fn compose_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for shape in shapes("compose") {
        fs::copy(&shape, dir.path().join(shape.file_name().unwrap())).unwrap();
    }
    for folder in ["hopguard", "healthchecks", "vote"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("admin.txt"), "").unwrap();
    dir
}

fn second(name: &str) -> String {
    let (stem, ending) = name.rsplit_once('.').unwrap();
    format!("{stem}.hopguard.{ending}")
}

#[test]
fn a_second_compose_file_comes_and_goes_and_the_first_is_never_touched() {
    let folder = compose_folder();
    let dir = folder.path();
    for shape in shapes("compose") {
        let name = shape.file_name().unwrap().to_str().unwrap();
        let original = fs::read(&shape).unwrap();
        let beside = second(name);
        let difference = ok(dir, &["inject", "compose", "--dry-run", name]);
        assert!(
            difference.contains("+  ") && !dir.join(&beside).exists(),
            "{difference}"
        );
        assert_eq!(ok(dir, &["inject", "compose", name]).trim(), beside);
        let once = fs::read_to_string(dir.join(&beside)).unwrap();
        ok(dir, &["inject", "compose", name]);
        ok(dir, &["inject", "compose", &beside]);
        assert_eq!(fs::read_to_string(dir.join(&beside)).unwrap(), once, "{name}");
        assert!(once.contains("service_completed_successfully"), "{name}");
        ok(
            dir,
            &[
                "uninject",
                "compose",
                if name.len() % 2 == 0 { name } else { &beside },
            ],
        );
        assert!(!dir.join(&beside).exists(), "{name}");
        ok(dir, &["uninject", "compose", name]);
        assert_eq!(fs::read(dir.join(name)).unwrap(), original, "{name}");
    }
}

#[test]
fn compose_takes_what_was_made() {
    if !Command::new("docker-compose")
        .arg("version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: there is no docker-compose here");
        return;
    }
    let folder = compose_folder();
    let dir = folder.path();
    for shape in shapes("compose") {
        let name = shape.file_name().unwrap().to_str().unwrap();
        ok(dir, &["inject", "compose", name]);
        let checked = |name: &str| {
            let mut command = Command::new("docker-compose");
            command.args(["-f", name, "config", "-q"]).current_dir(dir);
            output_within(PATIENCE, command).unwrap()
        };
        for name in [name, &second(name)] {
            let output = checked(name);
            assert!(output.status.success(), "{name}: {}", err(&output));
        }
    }
    fs::write(dir.join("broken.yaml"), "services: {a: {image: b, prots: []}}").unwrap();
    let mut command = Command::new("docker-compose");
    command
        .args(["-f", "broken.yaml", "config", "-q"])
        .current_dir(dir);
    assert!(!output_within(PATIENCE, command).unwrap().status.success());
}

#[test]
fn the_usual_file_is_found_and_what_would_be_left_out_is_not_left_out_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(run(dir.path(), &["inject", "compose"]).status.code(), Some(2));
    fs::write(at("docker-compose.yml"), "services: {web: {image: x}}\n").unwrap();
    assert_eq!(
        ok(dir.path(), &["inject", "compose"]).trim(),
        "docker-compose.hopguard.yml"
    );
    fs::write(at("docker-compose.override.yml"), "services: {db: {image: y}}\n").unwrap();
    let refused = run(dir.path(), &["inject", "compose"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        err(&refused).contains("docker-compose config"),
        "{}",
        err(&refused)
    );
    ok(dir.path(), &["inject", "compose", "docker-compose.yml"]);
    ok(dir.path(), &["uninject", "compose"]);
    assert!(!at("docker-compose.hopguard.yml").exists());
}

#[test]
fn a_file_of_somebody_else_is_neither_overwritten_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("compose.yaml"), "services: {web: {image: x}}\n").unwrap();
    for theirs in ["services: {mine: {image: y}}\n", "not yaml: [\n", "precious"] {
        fs::write(at("compose.hopguard.yaml"), theirs).unwrap();
        for verb in ["inject", "uninject"] {
            let refused = run(dir.path(), &[verb, "compose"]);
            assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
        }
        assert_eq!(fs::read_to_string(at("compose.hopguard.yaml")).unwrap(), theirs);
    }
    fs::remove_file(at("compose.hopguard.yaml")).unwrap();
    std::os::unix::fs::symlink("elsewhere", at("compose.hopguard.yaml")).unwrap();
    assert!(!run(dir.path(), &["inject", "compose"]).status.success());
    assert!(!at("elsewhere").exists());
}

#[test]
fn a_refusal_names_file_place_and_reason_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.yaml");
    fs::write(
        &file,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: true, containers: [{name: a, image: b}]}\n",
    )
    .unwrap();
    let refused = run(dir.path(), &["inject", "kubernetes", "app.yaml"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(
        err(&refused).contains("app.yaml: line 1: Pod/a: spec.hostNetwork: it uses the machine's network"),
        "{}",
        err(&refused)
    );
    fs::write(&file, "a: [\n").unwrap();
    let wrong = run(dir.path(), &["inject", "kubernetes", "app.yaml"]);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(err(&wrong).contains("app.yaml:"), "{}", err(&wrong));
    fs::write(&file, "services: {web: {image: x, network_mode: host}}").unwrap();
    let refused = run(dir.path(), &["inject", "compose", "app.yaml"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains("app.yaml: web: services.web.network_mode: `host`"),
        "{}",
        err(&refused)
    );
    assert!(!dir.path().join("app.hopguard.yaml").exists());
    assert_eq!(
        run(dir.path(), &["inject", "kubernetes", "none.yaml"])
            .status
            .code(),
        Some(3)
    );
    assert_eq!(
        run(dir.path(), &["inject", "k8s", "--uid", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn results_are_one_document_of_json_when_asked() {
    let folder = compose_folder();
    let dir = folder.path();
    let json = |args: &[&str]| serde_json::from_str::<Value>(&ok(dir, args)).unwrap();
    let shape = shapes("kubernetes")
        .into_iter()
        .find(|path| path.ends_with("optout.yaml"))
        .unwrap();
    let shape = shape.to_str().unwrap();
    let said = json(&["-o", "json", "inject", "kubernetes", shape]);
    assert_eq!(said["changed"][0]["service"], "shop/api");
    assert_eq!(said["left"][0]["workload"], "DaemonSet/node-exporter");
    assert_eq!(said["manifests"], ok(dir, &["inject", "kubernetes", shape]));
    assert!(said["notes"].to_string().contains("privileged"));
    let said = json(&["-o", "json", "inject", "kubernetes", "--dry-run", shape]);
    assert!(
        said["difference"]
            .as_str()
            .unwrap()
            .starts_with("--- before\n+++ after\n")
    );
    let said = json(&["-o", "json", "inject", "compose", "optout.yaml"]);
    assert_eq!(
        (&said["file"], &said["changed"][0]["uid"]),
        (&"optout.hopguard.yaml".into(), &20001.into())
    );
    let said = json(&["-o", "json", "uninject", "compose", "optout.yaml"]);
    assert_eq!(said["removed"], true);
}

/// A pod and, in another network namespace, whoever asks it: `from` runs a command there.
const POD: &str = r#"
set -u
ip link set lo up
ip link add pod type veth peer name node
unshare -n sleep infinity & node=$!
until [ "$(readlink /proc/$node/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do kill -0 $node || exit 97; done
ip link set node netns $node
from() { nsenter -t $node -n "$@"; }
ip addr add 10.9.0.1/24 dev pod && ip link set pod up
from sh -c 'ip link set lo up; ip addr add 10.9.0.2/24 dev node; ip link set node up'
asked() { from curl -s -m 10 -o /dev/null -w '%{http_code}' "http://10.9.0.1:$1" || true; echo; }
"$H" config init d >/dev/null 2>&1
sed -i "s/unix:uid:[0-9]*/unix:uid:$(id -u)/" d/entries.toml
sed -i 's/"192.0.2.10"/"10.9.0.1"/' d/mesh.toml
sed -i '/^service = /d' d/sidecar.toml
printf '\n[traffic]\nmark = 7\n' >> d/sidecar.toml
"$H" ca serve d/ca.toml >ca.out 2>ca.err &
"$P" "$APPLICATION" > app.out 2>app.err & app=$!
until [ -s ca.out ] && [ -s app.out ]; do kill -0 $app || { cat app.err >&2; exit 98; }; sleep 0.05; done
"$H" iptables apply --mark 7 --sidecar-ports 15008,15020,15021,15022 >/dev/null 2>&1 || exit 96
"$H" sidecar --config d/sidecar.toml --service default/hello > records 2>sidecar.err &
"$H" wait --timeout 60 2>wait.err || { cat wait.err sidecar.err >&2; exit 95; }
"#;

#[test]
fn probes_of_every_kind_work_from_outside_while_plaintext_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // As they are injected, so that both halves are proven to fit.
    let file = dir.path().join("pod.yaml");
    fs::write(
        &file,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: hello}\nspec:\n  containers:\n  - name: web\n    image: x\n    livenessProbe: {httpGet: {path: '/healthz?full=1', port: 8080, httpHeaders: [{name: X-Probe, value: 'yes'}]}}\n    readinessProbe: {tcpSocket: {port: 6379}}\n    startupProbe: {grpc: {port: 9090, service: shop}}\n  - name: ill\n    image: x\n    livenessProbe: {httpGet: {path: /ill, port: 8080}}\n    readinessProbe: {tcpSocket: {port: 6380}}\n    startupProbe: {grpc: {port: 9090, service: nobody}}\n",
    )
    .unwrap();
    let made = ok(dir.path(), &["inject", "kubernetes", "pod.yaml"]);
    let (_, rest) = made.split_once("HOPGUARD_APP_PROBES\n      value: ").unwrap();
    let probes: String = serde_json::from_str(rest.lines().next().unwrap()).unwrap();

    let text = format!(
        r#"{POD}
        for p in web/livez web/readyz web/startupz ill/livez ill/readyz ill/startupz; do echo "$p $(asked 15022/app-health/$p)"; done
        from curl -s -m 10 http://10.9.0.1:15022/app-health/web/livez
        for p in "" healthz "healthz?full=1" app-health app-health/ app-health/web/ app-health/web/livez/x; do echo "/$p $(asked "15022/$p")"; done
        echo "health $(asked 15021/readyz)"
        [ "$(asked '8080/healthz?full=1')" = 200 ] && echo "plaintext passed" || echo "plaintext refused"
        from "$P" -c 'import socket; s = socket.create_connection(("10.9.0.1", 6379), 10); s.settimeout(10); print("tcp passed" if s.recv(1) else "tcp refused")' 2>/dev/null || echo "tcp refused"
        kill -9 $app; wait $app 2>/dev/null
        for p in web/livez web/readyz web/startupz; do echo "$p $(asked 15022/app-health/$p)"; done"#
    );
    let mut command = Command::new("unshare");
    command
        .args([
            "-Urn",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-c",
        ])
        .arg(text)
        .env("H", hopguard_bin())
        .env("P", python())
        .env("APPLICATION", source("python/application.py"))
        .env("HOPGUARD_APP_PROBES", probes)
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()),
        )
        .env("XTABLES_LOCKFILE", dir.path().join("xtables.lock"))
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .current_dir(dir.path())
        .stdin(Stdio::null());
    let output = output_within(PATIENCE, command).unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = "ready
web/livez 200
web/readyz 200
web/startupz 200
ill/livez 503
ill/readyz 503
ill/startupz 503
{\"well\":true}
/ 404
/healthz 404
/healthz?full=1 404
/app-health 404
/app-health/ 404
/app-health/web/ 404
/app-health/web/livez/x 404
health 200
plaintext refused
tcp refused
web/livez 503
web/readyz 503
web/startupz 503
";
    assert_eq!(out, wanted, "{}", err(&output));
}

#[test]
fn a_holder_holds_until_it_is_told_to_end_and_never_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Guard(
        Command::new(hopguard_bin())
            .args(["pause", "--once", "held"])
            .current_dir(dir.path())
            .spawn()
            .unwrap(),
    );
    // Its signals wait by then.
    eventually(PATIENCE, || {
        if dir.path().join("held").exists() {
            Ok(())
        } else {
            Err("it has not begun")
        }
    })
    .unwrap();
    assert!(child.0.try_wait().unwrap().is_none());
    kill(Pid::from_raw(child.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let again = run(dir.path(), &["pause", "--once", "held"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("started before"), "{}", err(&again));
}
