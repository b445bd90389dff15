//! Policies, services and issuers that change while the mesh runs: a good change decides within a second, a bad one is refused
//! with its place and what to do, and the one before goes on deciding; with a load running no request is lost.

#![cfg(test)]

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hopguard_tests::{Guard, Load, Mesh, Options, Probe, eventually, folder, output_within, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// What the issue allows a good change.
const SOON: Duration = Duration::from_secs(1);

/// Web may read at orders, and orders at payments, for anyone who signed in; orders may speak to the ledger.
const POLICY: &str = r#"@id("web-reads-orders")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };

@id("orders-reads-payments")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"GET",
  resource == Service::"shop/payments"
)
when { context has user };

@id("orders-writes-the-ledger")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"connect",
  resource == Service::"shop/payments"
);
"#;

/// Web may read one page for nobody in particular.
const OPEN: &str = r#"@id("web-reads-headers")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context.path == "/headers" };
"#;

const OPEN_FILE: &str = "mesh/policies/open.cedar";
const MESH_FILE: &str = "mesh/mesh.toml";

fn mesh() -> Mesh {
    let dir = folder(&[("policies/life.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap()
}

fn bearer(mesh: &Mesh) -> String {
    format!("authorization: Bearer {}", mesh.token("alice", "none").unwrap())
}

/// Asks orders from web, again and again, as nobody.
fn open_page(mesh: &Mesh) -> Probe {
    Probe::start(mesh, "web", &["--url", "http://orders:8080/headers"]).unwrap()
}

/// Asks orders from web, again and again, for alice.
fn for_alice(mesh: &Mesh) -> Probe {
    let arguments = ["--url", "http://orders:8080/", "--header", &bearer(mesh)];
    Probe::start(mesh, "web", &arguments).unwrap()
}

/// A load from web to orders, for alice.
fn load(mesh: &Mesh, seconds: &str) -> Load {
    let arguments = [
        "--url",
        "http://orders:8080/",
        "--connections",
        "16",
        "--seconds",
        seconds,
        "--header",
        &bearer(mesh),
    ];
    Load::start(mesh, "web", &arguments).unwrap()
}

/// Waits until the sidecar of `pod` refuses a set, with all of these in its words; returns them.
fn refused(mesh: &Mesh, pod: &str, parts: &[&str]) -> String {
    eventually(PATIENCE, || {
        let policy = mesh.admin(pod, "policy")?;
        let words = policy["refused"].as_str().unwrap_or_default();
        if !words.is_empty() && parts.iter().all(|part| words.contains(part)) {
            Ok(words.to_owned())
        } else {
            Err(format!("{parts:?}: {policy}"))
        }
    })
    .unwrap()
}

/// Waits until the sidecar of `pod` refuses nothing.
fn taken(mesh: &Mesh, pod: &str) {
    eventually(PATIENCE, || {
        let policy = mesh.admin(pod, "policy")?;
        if policy["refused"].is_null() {
            Ok(())
        } else {
            Err(policy.to_string())
        }
    })
    .unwrap();
}

/// The mesh file with `from` replaced.
fn mesh_file_with(mesh: &Mesh, from: &str, to: &str) -> String {
    let text = fs::read_to_string(mesh.file(MESH_FILE)).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    text.replace(from, to)
}

/// The part of the mesh file that declares the issuer.
fn without_issuer(mesh: &Mesh) -> String {
    let text = fs::read_to_string(mesh.file(MESH_FILE)).unwrap();
    text.split("[[issuer]]").next().unwrap().to_owned()
}

/// Flips a rule back and forth; how long each flip took to be seen by a caller.
fn flips(mesh: &Mesh, probe: &Probe) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..3 {
        for answer in ["200", "401"] {
            let began = SystemTime::now();
            match answer {
                "200" => mesh.put(OPEN_FILE, OPEN).unwrap(),
                _ => fs::remove_file(mesh.file(OPEN_FILE)).unwrap(),
            }
            let seen = probe.until(answer, PATIENCE).unwrap();
            took.push(seen.duration_since(began).unwrap_or_default());
        }
    }
    took
}

/// One slow change may be the machine's; half of them are the sidecar's.
fn mostly_soon(mut took: Vec<Duration>) {
    println!("changes were in force after {took:?}");
    took.sort_unstable();
    assert!(took[took.len() / 2] < SOON, "{took:?}");
}

#[test]
fn a_policy_is_in_force_within_a_second_and_gone_within_one() {
    let mesh = mesh();
    let probe = open_page(&mesh);
    probe.until("401", PATIENCE).unwrap();
    mostly_soon(flips(&mesh, &probe));
}

#[test]
fn under_load_changes_are_as_fast_and_no_request_is_lost() {
    let mesh = mesh();
    let probe = open_page(&mesh);
    probe.until("401", PATIENCE).unwrap();
    let before = mesh.counted("orders").unwrap();
    let mut load = load(&mesh, "20");
    mostly_soon(flips(&mesh, &probe));
    mesh.put("mesh/policies/bad.cedar", "permit(").unwrap();
    refused(&mesh, "orders", &["bad.cedar:1:"]);
    fs::remove_file(mesh.file("mesh/policies/bad.cedar")).unwrap();
    taken(&mesh, "orders");
    // The issuer whose tokens the load carries: another audience, then another bundle of roots (the same one twice).
    let more = mesh_file_with(&mesh, "[\"shop\"]", "[\"shop\", \"market\"]");
    changed(&mesh, MESH_FILE, &more);
    let roots = fs::read_to_string(mesh.file("mesh/idp-ca.pem")).unwrap();
    mesh.put("mesh/idp-ca.pem", &format!("# once more\n{roots}{roots}"))
        .unwrap();
    // A service more, and its name in a rule.
    let more = format!(
        "{more}\n[[service]]\nname = \"shop/stock\"\nspiffe_ids = [\"spiffe://mesh.local/ns/shop/sa/stock\"]\n"
    );
    changed(&mesh, MESH_FILE, &more);
    assert!(load.runs(), "the load ended before the changes did");
    let counted = load.finish(PATIENCE).unwrap();
    let sent = counted.all_good().unwrap();
    let asked_by_probe = mesh.counted("orders").unwrap() - before - sent;
    assert!(asked_by_probe >= 3, "{asked_by_probe}");
}

/// Puts a good file in the place of another, and waits until orders decides by it.
fn changed(mesh: &Mesh, path: &str, text: &str) {
    let of = || {
        mesh.admin("orders", "config")
            .map(|config| config["mesh"]["hash"].to_string())
    };
    let before = of().unwrap();
    mesh.put(path, text).unwrap();
    eventually(PATIENCE, || match of() {
        Ok(now) if now != before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

#[test]
fn bad_policies_are_refused_with_place_and_hint() {
    let mesh = mesh();
    mesh.put(OPEN_FILE, OPEN).unwrap();
    let probe = open_page(&mesh);
    probe.until("200", PATIENCE).unwrap();
    let open = probe.seen().last().unwrap().clone();
    let at_orders =
        "@id(\"x\")\npermit(principal, action == Action::\"GET\", resource == Service::\"shop/orders\")\n";
    let bad = [
        (
            "permit(principal, action, resource\n".to_owned(),
            "bad.cedar:1:",
            "expected",
        ),
        (
            at_orders.replace("shop/orders", "shop/ordrs") + ";",
            "bad.cedar:2:",
            "hint: did you mean `shop/orders`?",
        ),
        (
            at_orders.to_owned() + "when { context.pathh == \"/\" };",
            "bad.cedar:3:",
            "hint: did you mean `path`?",
        ),
        (
            at_orders.to_owned() + "when { context has user && context.user in Role::\"corp|boss\" };",
            "bad.cedar:3:",
            "hint: there are: clerk",
        ),
        (OPEN.to_owned(), ".cedar:1:", "is there twice"),
        (
            at_orders.replace("@id(\"x\")\n", "") + ";",
            "bad.cedar:1:",
            "hint: write `@id(",
        ),
    ];
    let version = mesh.admin("orders", "policy").unwrap()["version"].clone();
    for (text, place, hint) in &bad {
        mesh.put("mesh/policies/bad.cedar", text).unwrap();
        let words = refused(&mesh, "orders", &[place, hint]);
        assert_eq!(words.matches("hint: ").count(), 1, "{words}");
        let log = mesh.log("orders");
        let last = log.lines().rfind(|line| line.contains("refused")).unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(
            (&last["level"], &last["trouble"]),
            (&"ERROR".into(), &words.into()),
            "{last}"
        );
    }
    let status = mesh.admin("orders", "status").unwrap();
    assert_eq!(status["policy"]["version"], version, "{status}");
    // It serves, and says that something is wrong, but not to everyone what.
    let readiness = &status["readiness"];
    assert_eq!(readiness["ready"], true, "{status}");
    assert!(
        readiness["reasons"][0].as_str().unwrap().contains("refused")
            && !readiness.to_string().contains("cedar"),
        "{status}"
    );
    fs::remove_file(mesh.file("mesh/policies/bad.cedar")).unwrap();
    taken(&mesh, "orders");
    // A set that cannot be read at all is no set either.
    let (there, away) = (mesh.file("mesh/policies"), mesh.file("mesh/away"));
    fs::rename(&there, &away).unwrap();
    refused(&mesh, "orders", &["policies: cannot be read", "hint: "]);
    fs::rename(&away, &there).unwrap();
    taken(&mesh, "orders");
    let seen = probe.seen();
    assert_eq!(
        seen.last(),
        Some(&open),
        "the old set did not go on deciding: {seen:?}"
    );
}

#[test]
fn a_bad_mesh_file_is_refused_and_so_is_none() {
    let mesh = mesh();
    let probe = for_alice(&mesh);
    probe.until("200", PATIENCE).unwrap();
    let good = fs::read_to_string(mesh.file(MESH_FILE)).unwrap();
    let change = |from, to| mesh_file_with(&mesh, from, to);
    let line = |text: &str, part: &str| {
        let at = format!("{text}\n").find(part).unwrap();
        format!("mesh.toml:{}:", text[..at].matches('\n').count() + 1)
    };
    let bad = [
        (
            change("[[issuer]]", "[[isuer]]"),
            "[[isuer]]",
            "hint: did you mean `issuer`?",
        ),
        (
            change("\"public\"", "\"publik\""),
            "publik",
            "hint: did you mean \"public\"?",
        ),
        (
            change("[\"payments\", \"payments.shop\"]", "[\"orders\"]"),
            "shop/payments",
            "hint: a connection there",
        ),
        (
            change("https://idp", "http://idp"),
            "http://idp",
            "hint: use https",
        ),
        (
            change("idp-ca.pem", "nothing.pem"),
            "nothing.pem",
            "hint: check the path",
        ),
        (
            good.split("/orders\"").next().unwrap().to_owned(),
            "name = \"shop\n",
            "hint: see https://toml.io",
        ),
    ];
    for (text, part, hint) in &bad {
        mesh.put(MESH_FILE, text).unwrap();
        refused(&mesh, "orders", &[&line(text, part), hint]);
        let log = mesh.log("orders");
        assert!(log.contains(&hint.replace('"', "\\\"")), "{hint}: {log}");
    }
    fs::remove_file(mesh.file(MESH_FILE)).unwrap();
    refused(&mesh, "orders", &["mesh.toml: cannot be read"]);
    fs::create_dir(mesh.file(MESH_FILE)).unwrap();
    refused(&mesh, "orders", &["mesh.toml: is not a regular file", "hint: "]);
    fs::remove_dir(mesh.file(MESH_FILE)).unwrap();
    mesh.put(MESH_FILE, &good).unwrap();
    taken(&mesh, "orders");
    let roots = fs::read_to_string(mesh.file("mesh/idp-ca.pem")).unwrap();
    mesh.put("mesh/idp-ca.pem", "no certificate\n").unwrap();
    refused(
        &mesh,
        "orders",
        &[&line(&good, "idp-ca.pem"), "holds no certificate", "hint: "],
    );
    mesh.put("mesh/idp-ca.pem", &roots).unwrap();
    taken(&mesh, "orders");
    assert_eq!(
        probe.seen().len(),
        1,
        "the old file did not go on deciding: {:?}",
        probe.seen()
    );
}

/// How many files the sidecar of a pod may open; `more` sets it.
fn descriptors(mesh: &Mesh, pod: &str, more: &[&str]) -> String {
    let pid = mesh.pid(pod).unwrap().to_string();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid]).args(more);
    succeeded(output_within(PATIENCE, command).unwrap())
        .unwrap()
        .trim()
        .to_owned()
}

/// A process that may open no file for a while has not seen bad files: it says so, and reads them when it can.
#[test]
fn files_that_cannot_be_read_for_now_are_read_again() {
    let mesh = mesh();
    let before = descriptors(
        &mesh,
        "orders",
        &["--nofile", "--output", "SOFT", "--noheadings", "--raw"],
    );
    descriptors(&mesh, "orders", &["--nofile=3:"]);
    mesh.put(OPEN_FILE, OPEN).unwrap();
    eventually(PATIENCE, || {
        let log = mesh.log("orders");
        if log.contains("files cannot be read for now") && log.contains("LimitNOFILE") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .unwrap();
    descriptors(&mesh, "orders", &[&format!("--nofile={before}:")]);
    let probe = open_page(&mesh);
    probe.until("200", PATIENCE).unwrap();
    let log = mesh.log("orders");
    assert!(log.contains("files can be read again"), "{log}");
    assert!(!log.contains("were refused"), "{log}");
    taken(&mesh, "orders");
}

#[test]
fn half_a_file_is_never_in_force() {
    let mesh = mesh();
    let probe = open_page(&mesh);
    // Both halves are sets of their own; the first one alone lets nobody read.
    let (first, second) = (POLICY.to_owned(), OPEN.to_owned());
    let path = mesh.file("mesh/policies/life.cedar");
    fs::write(&path, first.clone() + &second).unwrap();
    probe.until("200", PATIENCE).unwrap();
    let version = || mesh.admin("orders", "policy").unwrap()["version"].clone();
    let mut fair_rounds = 0;
    for round in 0..12 {
        let (before, seen) = (version(), probe.seen().len());
        // The round before ended with a look of the sidecar: this one begins at another time after it.
        std::thread::park_timeout(Duration::from_millis(round * 17));
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(first.as_bytes()).unwrap();
        let began = Instant::now();
        std::thread::park_timeout(Duration::from_millis(120));
        file.write_all(format!("// round {round}\n{second}").as_bytes())
            .unwrap();
        drop(file);
        // A file that stands still for long is taken for whole: then the machine was too slow for this round.
        let fair = began.elapsed() < Duration::from_millis(145);
        eventually(PATIENCE, || {
            if version() == before {
                Err("the whole is not in force")
            } else {
                Ok(())
            }
        })
        .unwrap();
        if fair {
            fair_rounds += 1;
            assert_eq!(probe.seen().len(), seen, "half was in force: {:?}", probe.seen());
        }
        probe.until("200", PATIENCE).unwrap();
    }
    assert!(fair_rounds > 0);
}

#[test]
fn a_policy_that_goes_ends_what_it_had_let_in() {
    let mesh = mesh();
    let held = Probe::start(&mesh, "orders", &["--hold", "payments:9090"]).unwrap();
    held.until("open", PATIENCE).unwrap();
    let began = SystemTime::now();
    let less = POLICY.split("@id(\"orders-writes").next().unwrap();
    mesh.put("mesh/policies/life.cedar", less).unwrap();
    let ended = held.until("reset", PATIENCE).unwrap();
    println!(
        "ended {:?} after the change",
        ended.duration_since(began).unwrap_or_default()
    );
    let record = eventually(PATIENCE, || {
        let records = mesh.records("payments");
        let cut = records
            .into_iter()
            .find(|record| record["tcp"]["close"] == "denied_after_change");
        cut.ok_or_else(|| format!("{:?}", mesh.records("payments")))
    })
    .unwrap();
    assert_eq!(
        (&record["kind"], &record["dst"]["port"]),
        (&"connection".into(), &9090.into()),
        "{record}"
    );
    assert_eq!(record["decision"]["verdict"], "deny", "{record}");
    assert!(record["tcp"]["bytes_in"].as_u64() > Some(0), "{record}");
    assert_eq!(
        record["src"]["spiffe_id"], "spiffe://mesh.local/ns/shop/sa/orders",
        "{record}"
    );
}

#[test]
fn an_issuer_that_goes_takes_its_users_with_it() {
    let mesh = mesh();
    let mut slow = slow_request(&mesh);
    let probe = for_alice(&mesh);
    probe.until("200", PATIENCE).unwrap();
    let with = fs::read_to_string(mesh.file(MESH_FILE)).unwrap();
    let without = without_issuer(&mesh);
    let mut took = Vec::new();
    for (text, answer) in [
        (&without, "401"),
        (&with, "200"),
        (&without, "401"),
        (&with, "200"),
    ] {
        let began = SystemTime::now();
        mesh.put(MESH_FILE, text).unwrap();
        let seen = probe.until(answer, PATIENCE).unwrap();
        took.push(seen.duration_since(began).unwrap_or_default());
    }
    mostly_soon(took);
    // What a user of it had asked for is not answered any more.
    let mut said = String::new();
    slow.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "000");
    let records = mesh.records("orders");
    let with_reason = |reason: &str| {
        let of = |record: &&Value| record["error"] == reason || record["decision"]["reason"] == reason;
        records.iter().filter(of).count()
    };
    assert_eq!(with_reason("token_revoked"), 1, "{}", mesh.log("orders"));
    assert!(with_reason("unknown_issuer") > 0, "{}", mesh.log("orders"));
}

/// The mesh's first request, of alice, which takes a minute and has reached the application. Says its status at its end,
/// `000` when it was cut.
fn slow_request(mesh: &Mesh) -> Guard {
    let (header, url) = (bearer(mesh), "http://orders:8080/slow/60000");
    let line = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        &header,
        url,
    ];
    let child = Guard(mesh.command("web", &line).stdout(Stdio::piped()).spawn().unwrap());
    eventually(PATIENCE, || match mesh.counted("orders") {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    child
}

#[test]
fn a_service_that_must_prove_another_identity_is_not_called() {
    let mesh = mesh();
    let arguments = ["--url", "http://payments:8080/", "--header", &bearer(&mesh)];
    let probe = Probe::start(&mesh, "orders", &arguments).unwrap();
    probe.until("200", PATIENCE).unwrap();
    let held = Probe::start(&mesh, "orders", &["--hold", "payments:9090"]).unwrap();
    held.until("open", PATIENCE).unwrap();
    let good = fs::read_to_string(mesh.file(MESH_FILE)).unwrap();
    let began = SystemTime::now();
    mesh.put(MESH_FILE, &mesh_file_with(&mesh, "sa/payments\"", "sa/till\""))
        .unwrap();
    let seen = probe.until("502", PATIENCE).unwrap();
    println!(
        "not called any more after {:?}",
        seen.duration_since(began).unwrap_or_default()
    );
    // What was open to it ends, too.
    held.until("reset", PATIENCE).unwrap();
    let counted = mesh.counted("payments").unwrap();
    eventually(PATIENCE, || {
        let records = mesh.records("orders");
        let count = |of: &dyn Fn(&Value) -> bool| records.iter().filter(|record| of(record)).count();
        let refused = count(&|record| record["decision"]["reason"] == "peer_untrusted");
        let cut =
            count(&|record| record["dst"]["port"] == 9090 && record["tcp"]["close"] == "peer_not_expected");
        if refused > 10 && cut == 1 {
            Ok(())
        } else {
            Err(format!("{refused} refused, {cut} cut: {records:?}"))
        }
    })
    .unwrap();
    assert_eq!(mesh.counted("payments").unwrap(), counted);
    mesh.put(MESH_FILE, &good).unwrap();
    probe.until("200", PATIENCE).unwrap();
}

#[test]
fn a_port_that_becomes_strict_takes_nothing_more_of_what_came_without_identity() {
    let policy =
        "@id(\"anyone\")\npermit(principal, action == Action::\"GET\", resource == Service::\"shop/web\");";
    let dir = folder(&[("policies/web.cedar", policy)]);
    let mesh = Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap();
    let url = ["--url", "http://web:8080/headers"];
    let probe = Probe::start(&mesh, "laptop", &url).unwrap();
    probe.until("200", PATIENCE).unwrap();
    let before = mesh.counted("web").unwrap();
    let kept = [
        &url[..],
        &["--connections", "1", "--pause-ms", "20", "--seconds", "8"],
    ]
    .concat();
    let mut kept = Load::start(&mesh, "laptop", &kept).unwrap();
    eventually(PATIENCE, || {
        let asked = mesh.counted("web")? - before;
        if asked > 20 {
            Ok(())
        } else {
            Err(format!("{asked} requests"))
        }
    })
    .unwrap();
    mesh.put(MESH_FILE, &mesh_file_with(&mesh, "\"public\"", "\"strict\""))
        .unwrap();
    probe.until("none", PATIENCE).unwrap();
    assert!(kept.runs(), "the load ended before the change came in force");
    let counted = kept.finish(PATIENCE).unwrap();
    if counted.number("connections_opened") > 1 {
        // The change met a request on its way, which is cut like all that is open; no connection after it is taken.
        let sums = counted.with_status(200) + counted.with_status(403) + counted.number("failed");
        assert_eq!(sums, counted.number("sent"), "{counted:?}");
        assert!(
            counted.with_status(200) > 0 && counted.number("failed") > 0,
            "{counted:?}"
        );
        return;
    }
    assert!(
        counted.with_status(200) > 0 && counted.with_status(403) > 0,
        "{counted:?}"
    );
    assert_eq!(
        counted.with_status(200) + counted.with_status(403),
        counted.number("sent"),
        "{counted:?}"
    );
    let record = mesh
        .records("web")
        .into_iter()
        .rfind(|record| record["http"]["status"] == 403)
        .unwrap();
    assert_eq!(record["decision"]["reason"], "port_changed", "{record}");
}
