//! Revoking through real sidecars under load: the revoked one loses what is open and gets nothing new within seconds, also
//! where a thief uses its SVID, and nobody else loses a request.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hopguard_tests::{
    Guard, Load, Mesh, Options, Probe, eventually, folder, hopguard, hopguard_bin, output_within,
};
use serde_json::Value;

use super::{PATIENCE, done};

const WEB: &str = "spiffe://mesh.local/ns/shop/sa/web";
/// The bound of the promise.
const SOON: Duration = Duration::from_secs(5);
const PAYMENTS: &str = "10.77.0.13";

const POLICY: &str = r#"
@id("reads-orders")
permit(principal == Workload::"spiffe://mesh.local/ns/shop/sa/web", action == Action::"GET", resource == Service::"shop/orders");

@id("reads-payments")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"GET",
  resource == Service::"shop/payments"
);

@id("orders-ledger")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"connect",
  resource == Service::"shop/payments"
);

@id("web-ledger")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"connect",
  resource == Service::"shop/payments"
);
"#;

fn mesh() -> Mesh {
    let dir = folder(&[("policies/life.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap()
}

fn revoke(mesh: &Mesh, arguments: &[&str]) -> Value {
    let mut command = hopguard();
    command.args(["-o", "json", "ca", "revoke"]).args(arguments);
    command.arg("--socket").arg(mesh.file("ca/data/admin.sock"));
    done(output_within(PATIENCE, command).unwrap())
}

fn load(mesh: &Mesh, pod: &str, url: &str, connections: &str) -> Load {
    let arguments = ["--url", url, "--connections", connections, "--seconds", "12"];
    Load::start(mesh, pod, &arguments).unwrap()
}

/// A thief with the SVID of web in a pod without a sidecar: holds an opaque stream at payments until it is cut.
fn thief(mesh: &Mesh, svid: &str) -> Guard {
    let program = hopguard_bin().with_file_name("hopguard-hbone");
    let (to, authority) = (format!("{PAYMENTS}:15008"), format!("{PAYMENTS}:9090"));
    let line = [
        program.to_str().unwrap(),
        "--svid",
        svid,
        "--to",
        &to,
        "--authority",
        &authority,
        "--say",
        "hello\\n",
    ];
    let mut command: Command = mesh.command("stranger", &line);
    Guard(command.stdout(Stdio::null()).spawn().unwrap())
}

fn count(mesh: &Mesh, pod: &str, which: impl Fn(&Value) -> bool) -> usize {
    mesh.records(pod).iter().filter(|record| which(record)).count()
}

#[test]
fn a_revoked_identity_loses_open_and_new_connections_and_nobody_else_loses_anything() {
    let mesh = mesh();
    let svid = mesh.svid("web", "stranger").unwrap();
    let tunnel = |what: &str| mesh.tunnel("stranger", &svid, &format!("{PAYMENTS}:15008"), &[what]);
    let connect = format!("CONNECT {PAYMENTS}:9090 hello");
    let before = tunnel(&connect).unwrap();
    assert_eq!(before[0]["status"], 200, "{before:?}");

    let others = load(&mesh, "orders", "http://payments:8080/", "32");
    let webs = load(&mesh, "web", "http://orders:8080/", "32");
    let stays = Probe::start(&mesh, "orders", &["--hold", "payments:9090"]).unwrap();
    let goes = Probe::start(&mesh, "web", &["--hold", "payments:9090"]).unwrap();
    let asks = Probe::start(&mesh, "web", &["--url", "http://orders:8080/"]).unwrap();
    let mut thief = thief(&mesh, &svid);
    stays.until("open", PATIENCE).unwrap();
    goes.until("open", PATIENCE).unwrap();
    asks.until("200", PATIENCE).unwrap();
    eventually(PATIENCE, || match mesh.counted("payments") {
        Ok(served) if served > 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(
        matches!(thief.0.try_wait(), Ok(None)),
        "the thief's stream is open"
    );

    let began = Instant::now();
    let revoked = revoke(&mesh, &["--id", WEB, "--reason", "stolen"]);
    assert!(revoked["svids"].as_u64() >= Some(2), "{revoked}");
    let left = || SOON.saturating_sub(began.elapsed());
    goes.until("reset", left()).unwrap();
    let open = began.elapsed();
    eventually(left(), || match thief.0.try_wait() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("the thief's stream is open: {other:?}")),
    })
    .unwrap();
    eventually(left(), || match tunnel(&connect) {
        Ok(answer) if answer[0]["status"] == 200 => Err(format!("the thief gets in: {answer:?}")),
        _refused => Ok(()),
    })
    .unwrap();
    eventually(left(), || match asks.seen().last() {
        Some(last) if last.answer != "200" => Ok(()),
        last => Err(format!("{last:?}")),
    })
    .unwrap();
    println!(
        "open connections were cut after {open:?}, all else after {:?}",
        began.elapsed()
    );

    let others = others.finish(PATIENCE).unwrap();
    println!("{} requests of others, none lost", others.all_good().unwrap());
    assert_eq!(stays.seen().last().unwrap().answer, "open");
    let webs = webs.finish(PATIENCE).unwrap();
    assert!(
        webs.with_status(200) > 0 && webs.with_status(200) < webs.number("sent"),
        "{webs:?}"
    );
    told(&mesh);
    back(&mesh, &tunnel, &connect);
}

/// The records say that it was revoked: of what was open, and of what was refused.
fn told(mesh: &Mesh) {
    let of_web = |record: &Value| record["src"]["spiffe_id"] == WEB;
    eventually(PATIENCE, || {
        let cut = count(mesh, "payments", |record| {
            of_web(record) && record["tcp"]["close"] == "revoked"
        });
        let refused = count(mesh, "payments", |record| {
            record["decision"]["reason"] == "revoked"
        });
        if cut > 0 && refused > 0 {
            Ok(())
        } else {
            Err(format!(
                "{cut} cut, {refused} refused: {:?}",
                mesh.records("payments").iter().rev().take(20).collect::<Vec<_>>()
            ))
        }
    })
    .unwrap();
}

/// Lifted, the workload is in the mesh again; the stolen SVID is not.
fn back(mesh: &Mesh, tunnel: &dyn Fn(&str) -> Result<Vec<Value>, String>, connect: &str) {
    revoke(mesh, &["--id", WEB, "--lift"]);
    let again = Probe::start(mesh, "web", &["--url", "http://orders:8080/"]).unwrap();
    again.until("200", PATIENCE).unwrap();
    let again = tunnel(connect);
    let refused = again.as_ref().map_or(true, |answer| answer[0]["status"] != 200);
    assert!(refused, "what was taken back stays so: {again:?}");
}

#[test]
fn a_sidecar_does_not_speak_to_a_server_that_was_revoked() {
    let mesh = mesh();
    let holds = Probe::start(&mesh, "orders", &["--hold", "payments:9090"]).unwrap();
    let asks = Probe::start(&mesh, "orders", &["--url", "http://payments:8080/"]).unwrap();
    holds.until("open", PATIENCE).unwrap();
    asks.until("200", PATIENCE).unwrap();
    // The server's sidecar is deaf to the news: it goes on with what it has.
    mesh.ctl("freeze", "payments").unwrap();
    revoke(&mesh, &["--id", "spiffe://mesh.local/ns/shop/sa/payments"]);
    holds.until("reset", SOON).unwrap();
    mesh.ctl("thaw", "payments").unwrap();
    eventually(SOON, || match asks.seen().last() {
        Some(last) if last.answer != "200" => Ok(()),
        last => Err(format!("{last:?}")),
    })
    .unwrap();
    eventually(PATIENCE, || {
        let cut = count(&mesh, "orders", |record| {
            record["direction"] == "outbound" && record["tcp"]["close"] == "revoked"
        });
        if cut > 0 {
            Ok(())
        } else {
            Err(format!("{:?}", mesh.records("orders")))
        }
    })
    .unwrap();
}
