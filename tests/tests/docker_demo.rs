//! The demo as containers, where a Docker engine is at hand: images made here, the whole story, and what must not happen when a
//! part is missing. Each test has a Compose project of its own and takes it away again; where no engine answers it says so.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use hopguard_tests::{eventually, hopguard_bin, output_within};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(300);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether this user may ask an engine and has Compose.
fn engine() -> bool {
    let answers = |command: &mut Command| {
        let run = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        run.status().is_ok_and(|status| status.success())
    };
    let there = answers(Command::new("docker").arg("version"))
        && answers(Command::new("docker-compose").arg("version"));
    if !there {
        eprintln!("SKIPPED: no Docker engine with docker-compose answers this user");
    }
    there
}

/// Images of the binary under test, made once and removed at the end of this process.
fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let tag = format!("test-{}", std::process::id());
        let mut make = Command::new(repository().join("docker/image.sh"));
        make.env("TAG", &tag).env("BINARY", hopguard_bin());
        good(&output_within(PATIENCE, make).unwrap());
        Images { tag }
    })
}

struct Images {
    tag: String,
}

impl Images {
    fn name(&self) -> String {
        format!("hopguard:{}", self.tag)
    }
}

fn good(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A copy of the example, with a Compose project of its own that goes with this value.
struct Project {
    dir: tempfile::TempDir,
    name: String,
}

impl Project {
    fn new(what: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut copy = Command::new("cp");
        copy.arg("-r")
            .arg(repository().join("examples/docker-compose"))
            .arg(dir.path());
        good(&output_within(PATIENCE, copy).unwrap());
        let name = format!("hopguard-{what}-{}", std::process::id());
        Self { dir, name }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("docker-compose")
    }

    fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.folder().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    fn in_folder(&self, mut command: Command, arguments: &[&str]) -> Output {
        let images = images();
        command
            .args(arguments)
            .env("HOPGUARD_IMAGE", images.name())
            .env("HOPGUARD_CA_UID", rustix::process::getuid().as_raw().to_string())
            .env(
                "HOPGUARD_REDIRECT_IMAGE",
                format!("hopguard-redirect:{}", images.tag),
            )
            .current_dir(self.folder())
            .stdin(Stdio::null());
        output_within(PATIENCE, command).unwrap()
    }

    fn story(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.folder().join("story.py"));
        command.args(["--project", &self.name]);
        self.in_folder(command, arguments)
    }

    fn compose(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker-compose");
        command.args(["-p", &self.name]);
        self.in_folder(command, arguments)
    }

    /// The state of the container of a service: `created`, `running`, `exited`; empty when there is none.
    fn state(&self, service: &str, format: &str) -> String {
        let name = format!("{}_{service}_1", self.name);
        let mut command = Command::new("docker");
        command.args(["inspect", "-f", format, &name]);
        let output = output_within(PATIENCE, command).unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What a call from outside of the mesh comes to.
    fn call(&self, network: &str, url: &str) -> Value {
        let images = images();
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--rm",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--user",
            "10001",
            "--network",
            network,
        ]);
        command.args([&images.name(), "demo", "call", "GET", url]);
        command.stdin(Stdio::null());
        let output = output_within(PATIENCE, command).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _gone = self.compose(&["down", "--volumes", "--remove-orphans", "-t", "1"]);
    }
}

/// Everything of one process: the images are removed after the last test, so all tests are one.
#[test]
fn containers() {
    if !engine() {
        return;
    }
    the_story_is_told_twice_and_nothing_stays();
    a_failed_redirect_keeps_the_application_from_starting();
    without_an_authority_nothing_passes();
    another_container_with_the_right_uid_gets_no_identity();
    the_image_has_no_shell_and_its_own_uid();
    let images = images();
    for name in [
        "hopguard",
        "hopguard-redirect",
        "hopguard-base",
        "hopguard-redirect-base",
    ] {
        let mut remove = Command::new("docker");
        remove.args(["image", "rm", "-f", &format!("{name}:{}", images.tag)]);
        good(&output_within(PATIENCE, remove).unwrap());
    }
}

fn the_story_is_told_twice_and_nothing_stays() {
    let project = Project::new("story");
    for _ in 0..2 {
        let output = project.story(&["--once", "--json"]);
        let told: Value = serde_json::from_str(&good(&output)).unwrap();
        assert_eq!(told["ok"], true, "{told:#}");
        assert_eq!(told["scenarios"].as_array().unwrap().len(), 7);
        for (kind, list) in [
            ("container", &["ps", "-aq"][..]),
            ("network", &["network", "ls", "-q"]),
            ("volume", &["volume", "ls", "-q"]),
        ] {
            let mut command = Command::new("docker");
            command
                .args(list)
                .args(["--filter", &format!("name={}", project.name)]);
            assert_eq!(good(&output_within(PATIENCE, command).unwrap()), "", "{kind}");
        }
    }
}

fn a_failed_redirect_keeps_the_application_from_starting() {
    let project = Project::new("noredirect");
    project.change(
        "docker-compose.yml",
        "cap_add: [NET_ADMIN, NET_RAW]",
        "cap_add: []",
    );
    let output = project.compose(&["up", "-d", "web"]);
    assert!(!output.status.success());
    assert_ne!(project.state("web-redirect", "{{.State.ExitCode}}"), "0");
    assert_ne!(project.state("web", "{{.State.Status}}"), "running");
    assert_ne!(project.state("web-sidecar", "{{.State.Status}}"), "running");
}

/// The sidecar is there, the redirect too, but no authority: neither outward nor inward does a request pass.
fn without_an_authority_nothing_passes() {
    let project = Project::new("noca");
    project.change("docker-compose.yml", "\"ca\", \"serve\"", "\"pause\", \"serve\"");
    project.change(
        "docker-compose.yml",
        "{condition: service_healthy}",
        "{condition: service_started}",
    );
    project.change(
        "docker-compose.yml",
        "[\"pause\", \"serve\", \"--config\", \"/etc/hopguard/ca.toml\"]",
        "[\"pause\"]",
    );
    good(&project.compose(&["up", "-d"]));
    let up = |service: &str| project.state(service, "{{.State.Status}}") == "running";
    eventually(Duration::from_secs(60), || {
        if up("web") && up("payments") {
            Ok(())
        } else {
            Err("the applications do not run")
        }
    })
    .unwrap();
    let inside = format!("container:{}_web-net_1", project.name);
    let count = "http://127.0.0.1:8080/count";
    eventually(
        Duration::from_secs(60),
        || match project.call(&inside, count)["status"].as_u64() {
            Some(200) => Ok(()),
            _ => Err("the application of web does not answer"),
        },
    )
    .unwrap();
    let out = project.call(&inside, "http://payments:8080/bytes/1");
    assert_ne!(out["status"], 200, "{out}");
    let outside = format!("{}_mesh", project.name);
    for url in ["http://payments:8080/bytes/1", "http://web:8080/bytes/1"] {
        let came = project.call(&outside, url);
        assert_ne!(came["status"], 200, "{url}: {came}");
    }
    let within = format!("container:{}_payments-net_1", project.name);
    let said = project.call(&within, count);
    assert_eq!(said["body"]["count"], 0, "{said}");
    // A sidecar that was killed: what is redirected finds nobody.
    let mut kill = Command::new("docker");
    kill.args(["kill", &format!("{}_payments-sidecar_1", project.name)]);
    good(&output_within(PATIENCE, kill).unwrap());
    assert_ne!(
        project.call(&outside, "http://payments:8080/bytes/1")["status"],
        200
    );
    assert_eq!(project.call(&within, count)["body"]["count"], 0);
}

fn another_container_with_the_right_uid_gets_no_identity() {
    let project = Project::new("neighbour");
    good(&project.compose(&["up", "-d", "ca"]));
    let images = images();
    let fetch = |parent: &str| {
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--rm",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--user",
            "10015",
            "--network",
            "none",
        ]);
        command.args(["--cgroup-parent", parent]);
        command.args([
            "-v",
            &format!("{}_workload:/run/hopguard/workload:ro", project.name),
            &images.name(),
        ]);
        command.args([
            "svid",
            "fetch",
            "-o",
            "json",
            "--socket",
            "unix:///run/hopguard/workload/workload.sock",
        ]);
        command.stdin(Stdio::null());
        output_within(PATIENCE, command).unwrap()
    };
    let parent = |of: &str| {
        if systemd() {
            format!("hopguarddemo-{of}.slice")
        } else {
            format!("/hopguarddemo/{of}")
        }
    };
    let right = eventually(Duration::from_secs(30), || {
        let output = fetch(&parent("web"));
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    })
    .unwrap();
    assert!(right.contains("spiffe://mesh.local/ns/shop/sa/web"), "{right}");
    assert!(!right.contains("/sa/orders"), "{right}");
    let elsewhere = fetch(&parent("elsewhere"));
    assert!(!elsewhere.status.success());
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(
        said.contains("no identity") || said.contains("PermissionDenied"),
        "{said}"
    );
}

fn systemd() -> bool {
    let mut info = Command::new("docker");
    info.args(["info", "-f", "{{.CgroupDriver}}"]);
    good(&output_within(PATIENCE, info).unwrap()).trim() == "systemd"
}

fn the_image_has_no_shell_and_its_own_uid() {
    let mut inspect = Command::new("docker");
    inspect.args([
        "image",
        "inspect",
        "-f",
        "{{.Config.User}} {{.Config.Entrypoint}}",
        &images().name(),
    ]);
    let said = good(&output_within(PATIENCE, inspect).unwrap());
    assert_eq!(said.trim(), "10015:10015 [/usr/local/bin/hopguard]");
    let mut shell = Command::new("docker");
    shell.args([
        "run",
        "--rm",
        "--entrypoint",
        "/bin/sh",
        &images().name(),
        "-c",
        "true",
    ]);
    assert!(!output_within(PATIENCE, shell).unwrap().status.success());
}
