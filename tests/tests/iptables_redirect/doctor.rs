//! What `hopguard doctor` says of a redirect that stands, one that does not, and ports that are taken.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use hopguard_tests::{Guard, eventually, hopguard_bin};
use serde_json::Value;

use crate::ns::{DEADLINE, command, hopguard_ok, in_namespace, run, told};

/// The exit code and each finding as `group/name: state`, with the whole answer.
fn doctor(args: &[&str]) -> (i32, Vec<String>, String) {
    let bin = hopguard_bin();
    let (code, out, err) = told(
        command(bin.to_str().unwrap())
            .args(["doctor", "-o", "json"])
            .args(args),
    );
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(answer["healthy"], Value::Bool(code == 0), "{out}");
    let mut found = Vec::new();
    for group in answer["groups"].as_array().unwrap() {
        for check in group["checks"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            found.push(format!(
                "{}/{}: {}",
                text(&group["name"]),
                text(&check["name"]),
                text(&check["state"])
            ));
            assert!(
                check["state"] == "ok" || check["hint"].is_string(),
                "no hint: {check}"
            );
        }
    }
    (code, found, out)
}

/// A sidecar's files in `dir`; the path of `sidecar.toml`.
fn files(dir: &std::path::Path, more: &str) -> String {
    let mesh = "trust_domain = \"mesh.local\"\n[[service]]\nname = \"shop/orders\"\naddresses = [\"10.77.0.1\"]\n\
        spiffe_ids = [\"spiffe://mesh.local/ns/shop/sa/orders\"]\n[[service.port]]\nport = 8080\n";
    fs::write(dir.join("mesh.toml"), mesh).unwrap();
    fs::create_dir_all(dir.join("policies")).unwrap();
    let file = dir.join("sidecar.toml");
    let text = format!("service = \"shop/orders\"\nmesh = \"mesh.toml\"\npolicies = \"policies\"\n{more}");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn has(found: &[String], line: &str) -> bool {
    found.iter().any(|other| other == line)
}

#[test]
fn a_redirect_that_stands_is_told_from_one_that_does_not() {
    in_namespace(
        "doctor::a_redirect_that_stands_is_told_from_one_that_does_not",
        || {
            let dir = tempfile::tempdir().unwrap();
            let sidecar = &files(
                dir.path(),
                "[identity]\nworkload_api = \"tcp://127.0.0.1:1\"\n[traffic]\nmark = 1337\n",
            );
            let redirect = dir.path().join("redirect.toml");
            fs::write(&redirect, "[own]\nmark = 1337\n").unwrap();
            let redirect = redirect.to_str().unwrap();

            let (_, found, out) = doctor(&[]);
            assert!(
                has(&found, "redirect/IPv4 rules: warn") && has(&found, "redirect/IPv6 rules: warn"),
                "{out}"
            );
            let (code, found, _) = doctor(&["--redirect", redirect]);
            assert!(code == 1 && has(&found, "redirect/rules: fail"), "{found:?}");

            hopguard_ok(&["apply", "--mark", "1337"]);
            let (_, found, out) = doctor(&["--config", sidecar]);
            assert!(
                has(&found, "redirect/IPv4 rules: ok") && has(&found, "redirect/IPv6 rules: ok"),
                "{out}"
            );
            let (_, found, out) = doctor(&["--redirect", redirect]);
            assert!(has(&found, "redirect/rules: ok"), "{out}");

            // For another sidecar; half; behind a foreign rule.
            hopguard_ok(&["apply", "--mark", "7"]);
            let (code, found, out) = doctor(&["--config", sidecar]);
            assert!(
                code == 1 && has(&found, "redirect/IPv4 rules: fail") && out.contains("mark 1337"),
                "{out}"
            );
            hopguard_ok(&["apply", "--mark", "1337"]);
            run("ip6tables", &["-t", "nat", "-I", "OUTPUT", "-j", "ACCEPT"]);
            let (code, found, out) = doctor(&[]);
            assert!(
                code == 1 && has(&found, "redirect/IPv6 rules: fail") && out.contains("come before"),
                "{out}"
            );
            hopguard_ok(&["undo"]);
            hopguard_ok(&["apply", "--mark", "1337", "--family", "ipv4"]);
            let (code, found, out) = doctor(&[]);
            assert!(
                code == 1 && has(&found, "redirect/IPv6 rules: fail") && out.contains("passes by"),
                "{out}"
            );
        },
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_its_holder() {
    in_namespace("doctor::a_port_that_is_taken_is_told_with_its_holder", || {
        let (code, found, out) = doctor(&[]);
        assert!(code == 0 && has(&found, "ports/15008 (HBONE): ok"), "{out}");
        let _taken = TcpListener::bind("[::]:15008").unwrap();
        let (code, found, out) = doctor(&[]);
        assert!(code == 1 && has(&found, "ports/15008 (HBONE): fail"), "{found:?}");
        assert!(out.contains(&format!("pid {}", std::process::id())), "{out}");
    });
}

#[test]
fn without_privilege_it_says_what_it_cannot_see() {
    in_namespace("doctor::without_privilege_it_says_what_it_cannot_see", || {
        let (code, out, err) = told(
            command("setpriv")
                .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
                .arg(hopguard_bin())
                .arg("doctor"),
        );
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("\u{203c} privilege: no CAP_NET_ADMIN"), "{out}");
        assert!(out.contains("\u{203c} IPv4 rules: cannot be looked at"), "{out}");
    });
}

#[test]
fn a_socket_that_is_not_there_and_settings_that_are_no_settings_fail() {
    in_namespace(
        "doctor::a_socket_that_is_not_there_and_settings_that_are_no_settings_fail",
        || {
            let dir = tempfile::tempdir().unwrap();
            let file = files(
                dir.path(),
                "[identity]\nworkload_api = \"unix:///nonexistent/workload.sock\"\n",
            );
            let (code, found, out) = doctor(&["--config", &file]);
            assert!(code == 1 && has(&found, "identity/Workload API: fail"), "{out}");
            fs::write(&file, "[identity\n").unwrap();
            let (code, found, out) = doctor(&["--config", &file]);
            assert!(
                code == 1 && has(&found, "files/settings: fail") && out.contains("sidecar.toml:1"),
                "{out}"
            );
        },
    );
}

/// An OpenID provider with one key (the one of RFC 7517, appendix A.1), as long as the test runs.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let issuer = url.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = String::new();
            BufReader::new(&stream).read_line(&mut asked).unwrap();
            let body = if asked.contains("/.well-known/openid-configuration") {
                format!("{{\"issuer\":\"{issuer}\",\"jwks_uri\":\"{issuer}/keys\"}}")
            } else {
                "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"1\",\"use\":\"sig\",\"alg\":\"ES256\",\
                  \"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\
                  \"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}]}"
                    .to_owned()
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
            let _gone = stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes());
        }
    });
    url
}

/// The authority, with one socket in `dir` and one entry for whoever asks there.
fn authority(dir: &std::path::Path, id: &str) -> Guard {
    let socket = dir.join("workload.sock");
    let entries = format!("[[entry]]\nspiffe_id = \"{id}\"\nselectors = [\"socket:orders\"]\n");
    fs::write(dir.join("entries.toml"), entries).unwrap();
    let text = format!(
        "trust_domain = \"mesh.local\"\ndata_dir = \"data\"\nentries = \"entries.toml\"\n\
         [[workload_api]]\nsocket = \"{}\"\nname = \"orders\"\n",
        socket.display()
    );
    fs::write(dir.join("ca.toml"), text).unwrap();
    let bin = hopguard_bin();
    let started = command(bin.to_str().unwrap())
        .args(["ca", "serve", "--config"])
        .arg(dir.join("ca.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let guard = Guard(started);
    eventually(DEADLINE, || UnixStream::connect(&socket)).unwrap();
    guard
}

#[test]
fn the_svid_and_the_issuers_keys_are_looked_at() {
    in_namespace("doctor::the_svid_and_the_issuers_keys_are_looked_at", || {
        let dir = tempfile::tempdir().unwrap();
        let id = "spiffe://mesh.local/ns/shop/sa/orders";
        let socket = dir.path().join("workload.sock");
        let identity = format!(
            "[identity]\nworkload_api = \"unix://{}\"\n[traffic]\nmark = 1337\n",
            socket.display()
        );
        let sidecar = files(dir.path(), &identity);
        let mut mesh = fs::read_to_string(dir.path().join("mesh.toml")).unwrap();
        for (alias, url) in [("corp", provider()), ("gone", "http://127.0.0.1:1".to_owned())] {
            mesh += &format!(
                "[[issuer]]\nalias = \"{alias}\"\nissuer = \"{url}\"\naudiences = [\"shop\"]\nallow_http_loopback = true\n"
            );
        }
        fs::write(dir.path().join("mesh.toml"), mesh).unwrap();

        let (code, found, out) = doctor(&["--config", &sidecar]);
        assert!(
            code == 1 && has(&found, "identity/Workload API: fail"),
            "no authority yet: {out}"
        );
        let authority_for = authority(dir.path(), id);
        let (code, found, out) = doctor(&["--config", &sidecar]);
        assert!(
            has(&found, "identity/Workload API: ok") && has(&found, &format!("identity/{id}: ok")),
            "{out}"
        );
        assert!(
            has(&found, "issuers/corp: ok") && out.contains("serves 1 key"),
            "{out}"
        );
        assert!(code == 1 && has(&found, "issuers/gone: fail"), "{out}");

        // An SVID that is not this service's is none for the sidecar.
        drop(authority_for);
        fs::remove_file(&socket).unwrap();
        let _other = authority(dir.path(), "spiffe://mesh.local/ns/shop/sa/web");
        let (code, found, out) = doctor(&["--config", &sidecar]);
        assert!(
            code == 1 && has(&found, "identity/the sidecar's SVID: fail"),
            "{out}"
        );
    });
}
