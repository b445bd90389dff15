//! More that must not pass: tokens with every flaw, paths with two readings, a sidecar without policies, tunnels to where they
//! do not lead, a redirect that is missing, and a public port whose clients are told apart.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hopguard_tests::{Mesh, Options, eventually, folder, hopguard_bin, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
@id("users-may-look")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action in Action::"http", resource == Service::"shop/orders")
when { context has user };
@id("users-may-look-in-public")
permit(principal, action == Action::"GET", resource == Service::"shop/web")
when { context.path == "/headers" && context has user };
@id("peers-may-look")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders", action in Action::"http", resource == Service::"shop/payments");
"#;

/// Who counts what the application of orders saw must be alone with it.
static ORDERS: Mutex<()> = Mutex::new(());

/// For what changes nothing in it.
static MESH: LazyLock<Mesh> = LazyLock::new(mesh);

fn mesh() -> Mesh {
    let dir = folder(&[("policies/more.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// curl in a pod: status line, headers and body, or curl's own words.
fn curl(mesh: &Mesh, pod: &str, more: &[&str]) -> String {
    let line: Vec<&str> = ["curl", "-sSi", "--path-as-is", "--max-time", "20"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    text(&mesh.exec(pod, &line).unwrap())
}

fn bearer(mesh: &Mesh) -> String {
    format!("Authorization: Bearer {}", mesh.token("alice", "none").unwrap())
}

/// A record of `pod` of which `is_it` holds.
fn told(mesh: &Mesh, pod: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, || {
        let found = mesh.records(pod).into_iter().rev().find(|record| is_it(record));
        found.ok_or("no such record")
    })
    .unwrap()
}

fn readiness(mesh: &Mesh, pod: &str) -> String {
    let line = [
        "curl",
        "-sS",
        "--max-time",
        "10",
        "-w",
        " %{http_code}",
        "http://localhost:15021/readyz",
    ];
    text(&mesh.exec(pod, &line).unwrap())
}

/// Waits for a status of readiness with a word in its reasons.
fn ready(mesh: &Mesh, pod: &str, status: &str, word: &str) {
    eventually(PATIENCE, || {
        let said = readiness(mesh, pod);
        if said.ends_with(status) && said.contains(word) {
            Ok(())
        } else {
            Err(said)
        }
    })
    .unwrap();
}

/// A token whose header or claims are written anew: nobody has the key, so its signature stays the old one.
fn altered(token: &str, header: impl Fn(&str) -> String, claims: impl Fn(&str) -> String) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let read = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let write = |text: String| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        write(header(&read(parts[0]))),
        write(claims(&read(parts[1]))),
        parts[2]
    )
}

#[test]
fn no_flaw_of_a_token_is_overlooked_or_taken_for_no_token() {
    let _alone = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let good = MESH.token("alice", "none").unwrap();
    let same = |text: &str| text.to_owned();
    let url = "http://orders:8080/headers";
    let passes = curl(
        &MESH,
        "web",
        &["-H", &format!("Authorization: Bearer {good}"), url],
    );
    assert!(passes.starts_with("HTTP/1.1 200 "), "{passes}");
    let before = MESH.counted("orders").unwrap();
    let mut bad: Vec<(String, Vec<String>)> = Vec::new();
    for flaw in [
        "alg_none",
        "wrong_key",
        "expired",
        "not_yet",
        "wrong_audience",
        "wrong_issuer",
        "unknown_kid",
    ] {
        let token = MESH.token("alice", flaw).unwrap();
        bad.push((flaw.to_owned(), vec![format!("Authorization: Bearer {token}")]));
    }
    let critical = altered(&good, |h| h.replacen('{', r#"{"crit":["x"],"x":1,"#, 1), same);
    let twice = altered(&good, same, |c| c.replacen('{', r#"{"sub":"root","#, 1));
    let one = |what: &str, header: String| (what.to_owned(), vec![header]);
    bad.push(one("crit", format!("Authorization: Bearer {critical}")));
    bad.push(one("a claim twice", format!("Authorization: Bearer {twice}")));
    bad.push(one("malformed", "Authorization: Bearer one.two".to_owned()));
    bad.push(one(
        "not a token",
        "Authorization: Bearer <not a token>".to_owned(),
    ));
    bad.push(one(
        "oversized",
        format!("Authorization: Bearer {}.{}", good, "A".repeat(20_000)),
    ));
    bad.push(one("another scheme", format!("Authorization: Token {good}")));
    bad.push((
        "two headers".to_owned(),
        vec![format!("Authorization: Bearer {good}"); 2],
    ));
    assert!(bad.len() >= 13);
    for (what, headers) in &bad {
        let mut line: Vec<&str> = headers
            .iter()
            .flat_map(|header| ["-H", header.as_str()])
            .collect();
        line.push(url);
        let answer = curl(&MESH, "web", &line);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{what}: {answer}");
        assert!(
            answer.to_lowercase().contains("www-authenticate: bearer"),
            "{what}: {answer}"
        );
        let body: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
        let (code, detail) = (body["error"].as_str().unwrap(), body["reason"].as_str().unwrap());
        assert_ne!(code, "user_required", "{what}: taken for no token: {answer}");
        assert!(
            detail != code && detail.contains(' '),
            "{what}: `{detail}` is no sentence"
        );
        assert!(!answer.contains(&good), "{what}: the token is in the answer");
    }
    assert_eq!(
        MESH.counted("orders").unwrap(),
        before,
        "the application saw one of them"
    );
}

#[test]
fn a_path_with_two_readings_is_refused() {
    let _alone = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let bearer = bearer(&MESH);
    let before = MESH.counted("orders").unwrap();
    for path in [
        "/public/../admin",
        "/public/./admin",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public%2fadmin",
        "/public%2Fadmin",
        "/public%5cadmin",
        "/public\\admin",
        "/public%00",
        "/public%zz",
        "/public%2",
        "/public%252e%252e/admin/..",
    ] {
        let answer = curl(
            &MESH,
            "web",
            &["-H", &bearer, &format!("http://orders:8080{path}")],
        );
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    assert_eq!(
        MESH.counted("orders").unwrap(),
        before,
        "the application saw one of them"
    );
}

#[test]
fn a_tunnel_is_no_relay_over_ipv6_and_says_what_is_wrong() {
    let bin = hopguard_bin().with_file_name("hopguard-hbone");
    let svid = MESH.svid("orders", "stranger").unwrap();
    let ask = |authority: &str| {
        let say = "GET /headers HTTP/1.1\\r\\nHost: payments\\r\\nConnection: close\\r\\n\\r\\n";
        let line = [
            bin.to_str().unwrap(),
            "--svid",
            &svid,
            "--to",
            "[fd77::13]:15008",
            "--authority",
            authority,
            "--say",
            say,
        ];
        text(&MESH.exec("stranger", &line).unwrap())
    };
    let good = ask("[fd77::13]:8080");
    assert!(good.starts_with("200\nHTTP/1.1 200 "), "{good}");
    let before = MESH.counted("payments").unwrap();
    for (authority, why) in [
        (
            "10.77.0.13:8080",
            "is not the address fd77::13 that the tunnel came to",
        ),
        (
            "[fd77::12]:8080",
            "is not the address fd77::13 that the tunnel came to",
        ),
        (
            "[::1]:8080",
            "is not the address fd77::13 that the tunnel came to",
        ),
        (
            "[::ffff:10.77.0.13]:8080",
            "is not the address fd77::13 that the tunnel came to",
        ),
        ("[fd77::13]:15001", "port 15001 is one of the sidecar's own"),
        ("[fd77::13]:15006", "port 15006 is one of the sidecar's own"),
        ("[fd77::13]:15008", "port 15008 is one of the sidecar's own"),
        ("[fd77::13]:15020", "port 15020 is one of the sidecar's own"),
        ("[fd77::13]:15021", "port 15021 is one of the sidecar's own"),
        (
            "[fd77::13]:22",
            "no service port 22 is declared for shop/payments",
        ),
    ] {
        assert_eq!(ask(authority).trim(), "400", "{authority}");
        told(&MESH, "payments", |record| {
            record["decision"]["reason"] == "no_relay"
                && record["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(why))
        });
    }
    assert_eq!(MESH.counted("payments").unwrap(), before);
}

#[test]
fn a_refused_opaque_call_is_recorded_with_the_reason_of_the_peer() {
    let script = "import socket\ns = socket.create_connection(('payments', 9090), 10)\ns.settimeout(20)\n\
        try:\n  print('got', s.recv(10))\nexcept ConnectionResetError:\n  print('reset')";
    let said = text(&MESH.exec("web", &["python3", "-c", script]).unwrap());
    assert_eq!(
        said.trim(),
        "reset",
        "the client said nothing, and was not waited for"
    );
    let record = told(&MESH, "web", |record| record["decision"]["reason"] == "refused");
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("its policy does not allow it (no_rule)") && !detail.contains("401"),
        "{record}"
    );
}

#[test]
fn a_body_that_ends_early_is_answered_and_recorded() {
    let _alone = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let script = format!(
        "import socket\ns = socket.create_connection(('orders', 8080), 10)\ns.settimeout(20)\n\
         s.sendall(b'POST /sink HTTP/1.1\\r\\nHost: orders\\r\\n{}\\r\\nContent-Length: 100\\r\\n\\r\\nhalf')\n\
         s.shutdown(socket.SHUT_WR)\nprint(s.recv(4096).decode())",
        bearer(&MESH)
    );
    let said = text(&MESH.exec("web", &["python3", "-c", &script]).unwrap());
    assert!(
        said.starts_with("HTTP/1.1 400 ") && said.contains("request_truncated"),
        "{said}"
    );
    told(&MESH, "orders", |record| {
        record["error"] == "request_truncated" && record["http"]["status"] == 400
    });
}

#[test]
fn without_a_policy_folder_or_with_an_empty_one_everything_is_denied() {
    let mesh = mesh();
    let line = ["-H", &bearer(&mesh), "http://orders:8080/headers"];
    let answers = |mesh: &Mesh, status: &str| {
        eventually(PATIENCE, || {
            let answer = curl(mesh, "web", &line);
            if answer.starts_with(status) {
                Ok(answer)
            } else {
                Err(answer)
            }
        })
        .unwrap()
    };
    answers(&mesh, "HTTP/1.1 200 ");
    // Emptied while it runs: that is a good set, and it allows nothing.
    for file in fs::read_dir(mesh.file("mesh/policies")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    answers(&mesh, "HTTP/1.1 403 ");
    let before = mesh.counted("orders").unwrap();
    let warned = mesh.log("orders");
    let warned = warned
        .lines()
        .find(|line| line.contains("holds no policy"))
        .unwrap();
    assert!(warned.contains("WARN"), "{warned}");
    // Gone when it starts.
    fs::remove_dir(mesh.file("mesh/policies")).unwrap();
    let _not_ready = mesh.ctl("restart", "orders");
    ready(&mesh, "orders", "503", "no policy set could be loaded");
    let denied = answers(&mesh, "HTTP/1.1 403 ");
    assert!(denied.contains("no_policies"), "{denied}");
    assert_eq!(mesh.counted("orders").unwrap(), before);
}

#[test]
fn another_trust_domain_is_not_taken_while_the_sidecar_runs() {
    let mesh = mesh();
    let file = fs::read_to_string(mesh.file("mesh/mesh.toml")).unwrap();
    let other = file.replacen(
        "trust_domain = \"mesh.local\"",
        "trust_domain = \"other.local\"",
        1,
    );
    assert_ne!(file, other);
    let line = 1 + other
        .lines()
        .position(|line| line.starts_with("trust_domain"))
        .unwrap();
    mesh.put("mesh/mesh.toml", &other).unwrap();
    let refused = eventually(PATIENCE, || {
        let policy = mesh.admin("orders", "policy")?;
        let words = policy["refused"].as_str().map(str::to_owned);
        words.ok_or_else(|| policy.to_string())
    })
    .unwrap();
    for part in [
        &format!("mesh.toml:{line}:"),
        "`mesh.local` to `other.local`",
        "restart",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    let answer = curl(
        &mesh,
        "web",
        &["-H", &bearer(&mesh), "http://orders:8080/headers"],
    );
    assert!(
        answer.starts_with("HTTP/1.1 200 "),
        "what was in force stays: {answer}"
    );
    mesh.put("mesh/mesh.toml", &file).unwrap();
    eventually(PATIENCE, || {
        let policy = mesh.admin("orders", "policy")?;
        if policy["refused"].is_null() {
            Ok(())
        } else {
            Err(policy.to_string())
        }
    })
    .unwrap();
}

/// Both families' program, one after the other, as the root of a pod.
fn iptables(mesh: &Mesh, pod: &str, arguments: &[&str]) {
    for program in ["iptables", "ip6tables"] {
        let line: Vec<&str> = [program].into_iter().chain(arguments.iter().copied()).collect();
        succeeded(mesh.exec_root(pod, &line).unwrap()).unwrap();
    }
}

#[test]
fn a_sidecar_told_by_its_user_sees_whether_the_redirect_is_there() {
    // No mark: its sockets are its user's, which the redirect lets pass.
    let unmarked = "service = \"shop/orders\"\nmesh = \"mesh/mesh.toml\"\npolicies = \"mesh/policies\"\n\
        [identity]\nworkload_api = \"unix:///run/hopguard/workload/workload.sock\"\n\
        [admin]\nsocket = \"/run/hopguard/admin.sock\"\n[log]\noutput = \"/run/hopguard/records.jsonl\"\n";
    let dir = folder(&[("sidecar-orders.toml", unmarked)]);
    let mesh = Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap();
    let bin = hopguard_bin();
    let uid = succeeded(mesh.exec_root("orders", &["id", "-u"]).unwrap()).unwrap();
    let apply = [bin.to_str().unwrap(), "iptables", "apply", "--uid", uid.trim()];
    let applied = || succeeded(mesh.exec_root("orders", &apply).unwrap()).unwrap();
    applied();
    let rules = succeeded(
        mesh.exec_root("orders", &["iptables", "-t", "nat", "-S", "HOPGUARD_OUTPUT"])
            .unwrap(),
    );
    let rules = rules.unwrap();
    assert!(
        rules.contains("--uid-owner") && !rules.contains("--mark"),
        "{rules}"
    );
    for _ in 0..2 {
        iptables(&mesh, "orders", &["-t", "nat", "-F", "OUTPUT"]);
        ready(&mesh, "orders", "503", "redirect is not in place");
        applied();
        ready(&mesh, "orders", "200", "\"ready\":true");
    }
}

#[test]
fn without_the_inbound_redirect_nothing_passes_in_the_clear() {
    let mesh = mesh();
    let plainly = |mesh: &Mesh| {
        let url = "http://10.77.0.12:8080/headers";
        let line = ["curl", "-sSi", "--connect-timeout", "5", "--max-time", "10", url];
        text(&mesh.exec("stranger", &line).unwrap())
    };
    let before = mesh.counted("orders").unwrap();
    iptables(&mesh, "orders", &["-t", "nat", "-F", "PREROUTING"]);
    let refused = plainly(&mesh);
    assert!(!refused.contains("HTTP/1.1"), "{refused}");
    assert_eq!(mesh.counted("orders").unwrap(), before, "the application saw it");
    // Mesh peers come by the tunnel's port, which needs no redirect.
    let peer = curl(
        &mesh,
        "web",
        &["-H", &bearer(&mesh), "http://orders:8080/headers"],
    );
    assert!(peer.starts_with("HTTP/1.1 200 "), "{peer}");
    // It is the guard that held it: without it the application answers.
    iptables(&mesh, "orders", &["-t", "mangle", "-F", "INPUT"]);
    let passed = plainly(&mesh);
    assert!(
        passed.starts_with("HTTP/1.1 200 "),
        "the control of the control: {passed}"
    );
}

/// A certificate for `web.shop` and its key, PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["web.shop".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Puts a certificate and its key where the sidecar of web looks for them.
fn show(mesh: &Mesh, (certificate, key): (&str, &str)) {
    for (name, text) in [("pods/web/public.key", key), ("pods/web/public.pem", certificate)] {
        let aside = mesh.file(format!("{name}.new"));
        fs::write(&aside, text).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&aside, mesh.file(name)).unwrap();
    }
}

#[test]
fn a_public_port_serves_peers_and_browsers_by_the_same_policies() {
    let mesh = mesh();
    let bearer = bearer(&mesh);
    let (browser, svid) = ("stranger", mesh.svid("orders", "stranger").unwrap());
    let (cert, key) = (format!("{svid}/svid.0.pem"), format!("{svid}/svid.0.key"));
    let by_name = [
        "--resolve",
        "web.shop:8080:10.77.0.11",
        "https://web.shop:8080/headers",
    ];
    let as_browser = |ca: &str, more: &[&str]| {
        let path = mesh.lay(browser, "public-ca.pem", ca).unwrap();
        let line: Vec<&str> = ["--http1.1", "--cacert", &path]
            .into_iter()
            .chain(more.iter().copied())
            .chain(by_name)
            .collect();
        curl(&mesh, browser, &line)
    };
    let as_peer = |more: &[&str]| {
        let line = [
            "-k",
            "--http1.1",
            "--cert",
            &cert,
            "--key",
            &key,
            "https://10.77.0.11:8080/headers",
        ];
        let line: Vec<&str> = line.into_iter().chain(more.iter().copied()).collect();
        curl(&mesh, browser, &line)
    };
    let (first, second) = (certificate(), certificate());

    // Without a certificate of its own, TLS is for mesh peers: a browser is refused, by name and without.
    let none = as_browser(&first.0, &["-k", "-H", &bearer]);
    assert!(!none.contains("HTTP/1.1"), "{none}");
    told(&mesh, "web", |record| {
        record["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("inbound.public_certificate"))
    });
    assert!(as_peer(&["-H", &bearer]).starts_with("HTTP/1.1 200 "));

    show(&mesh, (&first.0, &first.1));
    let settings = mesh.file("pods/web/sidecar.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let inbound = "[inbound]\npublic_certificate = \"public.pem\"\npublic_key = \"public.key\"\n";
    fs::write(&settings, format!("{text}\n{inbound}")).unwrap();
    mesh.ctl("restart", "web").unwrap();
    ready(&mesh, "web", "200", "\"ready\":true");

    // One route, one set of policies: the user is needed, whoever brings the token and however.
    let by_tunnel = |more: &[&str]| {
        let line: Vec<&str> = ["http://web:8080/headers"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        curl(&mesh, "orders", &line)
    };
    for (who, with, without) in [
        (
            "browser",
            as_browser(&first.0, &["-H", &bearer]),
            as_browser(&first.0, &[]),
        ),
        ("peer", as_peer(&["-H", &bearer]), as_peer(&[])),
        ("tunnel", by_tunnel(&["-H", &bearer]), by_tunnel(&[])),
    ] {
        assert!(with.starts_with("HTTP/1.1 200 "), "{who}: {with}");
        assert!(without.starts_with("HTTP/1.1 401 "), "{who}: {without}");
        let proven = with.contains("URI=spiffe://mesh.local/ns/shop/sa/orders");
        assert_eq!(proven, who != "browser", "{who}: {with}");
        assert!(
            with.contains("x-hopguard-user") && with.contains("alice"),
            "{who}: {with}"
        );
    }
    // Nobody who names nobody gets our SVID shown and is then served as nobody.
    let nobody = curl(
        &mesh,
        browser,
        &["-k", "-H", &bearer, "https://10.77.0.11:8080/headers"],
    );
    assert!(!nobody.contains("HTTP/1.1"), "{nobody}");

    // Another pair is shown soon, a bad one never.
    show(&mesh, (&second.0, &second.1));
    let until_shown = |ca: &str| {
        eventually(PATIENCE, || {
            let answer = as_browser(ca, &["-H", &bearer]);
            if answer.starts_with("HTTP/1.1 200 ") {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .unwrap();
    };
    until_shown(&second.0);
    for (bad, why) in [
        ((first.0.as_str(), second.1.as_str()), "public.key"),
        (("no certificate", second.1.as_str()), "public.pem"),
    ] {
        show(&mesh, bad);
        let refused = eventually(PATIENCE, || {
            let status = mesh.admin("web", "status")?;
            let words = status["public_certificate"]["refused"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if words.contains(why) && words.contains("hint") {
                Ok(words)
            } else {
                Err(status.to_string())
            }
        })
        .unwrap();
        assert!(!refused.contains("BEGIN"), "{refused}");
        until_shown(&second.0);
    }
    assert!(
        mesh.log("web").contains("the one before stays"),
        "{}",
        mesh.log("web")
    );
    show(&mesh, (&first.0, &first.1));
    until_shown(&first.0);
    let status = mesh.admin("web", "status").unwrap();
    assert!(status["public_certificate"]["refused"].is_null(), "{status}");
}
