//! The trust root of a mesh of two real sidecars under load, and of a thousand workloads beside them, replaced from end to end.

use std::time::Duration;

use hopguard_tests::{Load, Mesh, Options, eventually, folder, hopguard_bin, succeeded};
use serde_json::Value;

use crate::support::Streams;

const PATIENCE: Duration = Duration::from_secs(120);
const WORKLOADS: usize = 1000;
const CONFIG: &str = "/run/hopguard/ca/ca.toml";

const POLICY: &str = r#"
@id("web-reads-orders")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };
"#;

/// As the demo has it, with short lives and room for a thousand more.
fn ca_toml() -> String {
    let socket = |name: &str| {
        format!(
            "[[workload_api]]\nsocket = \"/run/hopguard/workload/{name}/workload.sock\"\nname = \"{name}\"\nmode = \"0600\"\n"
        )
    };
    format!(
        "trust_domain = \"mesh.local\"\ndata_dir = \"/run/hopguard/ca/data\"\nentries = \"entries.toml\"\n\
         svid_ttl = \"30s\"\nrefresh_hint = \"1s\"\n{}{}{}\
         [limits]\nconnections_per_uid = 3000\ncalls_per_second = 5000\ncall_burst = 10000\n",
        socket("web"),
        socket("orders"),
        socket("payments")
    )
}

fn status(mesh: &Mesh) -> Value {
    let program = hopguard_bin();
    let line = [
        program.to_str().unwrap(),
        "-o",
        "json",
        "ca",
        "status",
        "--config",
        CONFIG,
    ];
    let said = succeeded(mesh.exec_root("fabric", &line).unwrap()).unwrap();
    serde_json::from_str(&said).unwrap()
}

#[test]
fn the_root_is_rotated_under_load_with_a_thousand_streams_and_no_request_is_lost() {
    let dir = folder(&[("policies/rotation.cedar", POLICY), ("ca.toml", &ca_toml())]);
    let mesh = Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        ..Options::default()
    })
    .unwrap();
    let program = hopguard_bin().with_file_name("hopguard-streams");
    let socket = "/run/hopguard/workload/web/workload.sock";
    let count = WORKLOADS.to_string();
    let line = [program.to_str().unwrap(), socket, &count, "5"];
    let streams = Streams::start(mesh.root_command("fabric", &line));
    streams.all_hold(WORKLOADS + 5);
    let old = status(&mesh)["authorities"][0]["id"].as_str().unwrap().to_owned();

    let header = format!("authorization: Bearer {}", mesh.token("alice", "none").unwrap());
    let seconds = 75;
    let mut load = Load::start(
        &mesh,
        "web",
        &[
            "--url",
            "http://orders:8080/",
            "--connections",
            "64",
            "--seconds",
            &seconds.to_string(),
            "--header",
            &header,
        ],
    )
    .unwrap();
    let hopguard = hopguard_bin();
    let rotate = [
        hopguard.to_str().unwrap(),
        "-o",
        "json",
        "ca",
        "rotate",
        "--config",
        CONFIG,
    ];
    let mut operator = mesh.root_command("fabric", &rotate);
    operator
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let begun = std::time::Instant::now();
    let operator = operator.spawn().unwrap();
    let dump = mesh.file("dump");
    for (state, of) in [("prepared", 2), ("retired", 2)] {
        eventually(PATIENCE, || {
            let status = status(&mesh);
            let there = !crate::support::ids(&status, "x509", state).is_empty();
            if there { Ok(()) } else { Err(status.to_string()) }
        })
        .unwrap();
        assert!(load.runs(), "the load ended before {state}");
        streams.openssl_accepts(&dump, "/run/hopguard/dump");
        let bundles = streams.told()["bundles"].clone();
        let most = bundles
            .as_object()
            .unwrap()
            .keys()
            .map(|key| key.split(',').count())
            .max();
        assert_eq!(most, Some(of), "{state}: {bundles}");
    }
    let done = operator.wait_with_output().unwrap();
    let took = begun.elapsed();
    assert!(done.status.success(), "{done:?}");
    let running = load.runs();
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["removed"], serde_json::json!([old]), "{answer}");
    assert_eq!(answer["broke"], serde_json::json!([]));
    let new = answer["active"].as_str().unwrap().to_owned();
    eventually(PATIENCE, || {
        let told = streams.told();
        let bundles: Vec<_> = told["bundles"].as_object().unwrap().keys().collect();
        if bundles == [&new] {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .unwrap();
    streams.openssl_accepts(&dump, "/run/hopguard/dump");

    let counted = load.finish(Duration::from_secs(seconds) + PATIENCE).unwrap();
    let sent = counted.all_good().unwrap();
    assert!(running, "the load ended before the rotation did, after {took:?}");
    let told = streams.told();
    assert_eq!(told["breaks"], 0, "a stream was cut: {told}");
    println!(
        "rotated in {took:?}: {sent} requests, none lost; {} messages to {WORKLOADS} streams, {} checks of a chain against a bundle",
        told["messages"], told["checks"]
    );
}
