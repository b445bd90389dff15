//! The mesh while a part of it is away: without the authority what is held goes on and nothing new begins, without the
//! provider known keys go on and nothing is taken for proven that is not; when the part is back, so is everything else.

#![cfg(test)]

use std::time::{Duration, SystemTime};

use hopguard_tests::{Load, Mesh, Options, Probe, eventually, folder, succeeded};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Web may read at orders for anyone who signed in, and one page for nobody in particular; orders may read at payments.
const POLICY: &str = r#"@id("web-reads-orders")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context has user };

@id("web-reads-headers")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/web",
  action == Action::"GET",
  resource == Service::"shop/orders"
)
when { context.path == "/headers" };

@id("orders-reads-payments")
permit(
  principal == Workload::"spiffe://mesh.local/ns/shop/sa/orders",
  action == Action::"GET",
  resource == Service::"shop/payments"
);
"#;

fn mesh(svid_ttl: Option<&str>) -> Mesh {
    let dir = folder(&[("policies/life.cedar", POLICY)]);
    Mesh::start(&Options {
        dir: Some(dir.path().to_path_buf()),
        svid_ttl: svid_ttl.map(str::to_owned),
        ..Options::default()
    })
    .unwrap()
}

fn bearer(mesh: &Mesh, flaw: &str) -> String {
    format!("authorization: Bearer {}", mesh.token("alice", flaw).unwrap())
}

/// From when to when the SVID is valid that the sidecar of `pod` holds, in Unix seconds; an error says why it holds none.
fn svid(mesh: &Mesh, pod: &str) -> Result<u64, String> {
    let identity = mesh.admin(pod, "identity")?;
    identity["not_after"].as_u64().ok_or_else(|| identity.to_string())
}

/// Waits until the sidecar of `pod` holds an SVID that ends later than `than`.
fn renewed(mesh: &Mesh, pod: &str, than: u64) -> u64 {
    eventually(PATIENCE, || match svid(mesh, pod) {
        Ok(until) if until > than => Ok(until),
        other => Err(format!("{other:?}: {}", mesh.log(pod))),
    })
    .unwrap()
}

/// What `/readyz` of a sidecar says: the status, and the body.
fn readiness(mesh: &Mesh, pod: &str) -> Result<(u64, Value), String> {
    let line = [
        "curl",
        "-sS",
        "-w",
        "\n%{http_code}",
        "http://localhost:15021/readyz",
    ];
    let said = succeeded(mesh.exec(pod, &line)?)?;
    let (body, status) = said.trim().rsplit_once('\n').ok_or(said.clone())?;
    let body = serde_json::from_str(body).map_err(|e| format!("{e}: {said}"))?;
    Ok((status.parse().map_err(|_| said.clone())?, body))
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A load of 16 connections from web to orders.
fn load(mesh: &Mesh, seconds: &str, header: &str) -> Load {
    let url = "http://orders:8080/";
    let arguments = [
        "--url",
        url,
        "--connections",
        "16",
        "--seconds",
        seconds,
        "--header",
        header,
    ];
    Load::start(mesh, "web", &arguments).unwrap()
}

/// `n` requests with this header, all at the same time, each over a connection of its own.
fn at_once(mesh: &Mesh, pod: &str, url: &str, (header, n): (&str, &str)) -> hopguard_tests::Counted {
    let arguments = [
        "--url",
        url,
        "--connections",
        n,
        "--requests",
        n,
        "--header",
        header,
    ];
    Load::start(mesh, pod, &arguments)
        .unwrap()
        .finish(PATIENCE)
        .unwrap()
}

/// The status of one request.
fn status(mesh: &Mesh, pod: &str, url: &str, header: &str) -> String {
    let line = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        header,
        url,
    ];
    String::from_utf8(mesh.exec(pod, &line).unwrap().stdout).unwrap()
}

/// The roots that the authority gives out, asked for at the socket of web.
fn roots(mesh: &Mesh) -> String {
    let hopguard = hopguard_tests::hopguard_bin();
    let line = format!(
        "mkdir -p /tmp/roots && {} svid fetch --socket unix:///run/hopguard/workload/web/workload.sock \
         --write /tmp/roots >&2 && cat /tmp/roots/bundle.0.pem",
        hopguard.display()
    );
    let roots = succeeded(mesh.exec_root("fabric", &["sh", "-c", &line]).unwrap()).unwrap();
    assert!(roots.contains("BEGIN CERTIFICATE"), "{roots}");
    roots
}

/// What the provider has counted: requests for its `jwks`, for its `discovery`, for `tokens`.
fn asked_for_keys(mesh: &Mesh) -> u64 {
    let line = ["curl", "-sSk", "https://localhost:8443/count"];
    let said = succeeded(mesh.exec("idp", &line).unwrap()).unwrap();
    serde_json::from_str::<Value>(&said).unwrap()["jwks"]
        .as_u64()
        .unwrap()
}

/// Tells the provider something.
fn post(mesh: &Mesh, path: &str, form: &str) {
    let url = format!("https://localhost:8443/{path}");
    succeeded(mesh.exec("idp", &["curl", "-sSkf", "-d", form, &url]).unwrap()).unwrap();
}

/// The log of a sidecar since its latest start.
fn latest_log(mesh: &Mesh, pod: &str) -> String {
    let log = mesh.log(pod);
    log.rsplit("the sidecar is listening").next().unwrap().to_owned()
}

#[test]
fn without_the_authority_what_is_held_goes_on_and_is_renewed_when_it_is_back() {
    let mesh = mesh(Some("20s"));
    let before = roots(&mesh);
    let held = ["web", "orders"].map(|pod| svid(&mesh, pod).unwrap());
    let load = load(&mesh, "20", &bearer(&mesh, "none"));
    mesh.ctl("stop", "ca").unwrap();
    // The renewal, which comes at half of 20 s give or take one, is missed.
    eventually(PATIENCE, || {
        let left = held[0].min(held[1]).saturating_sub(unix_now());
        if left <= 8 {
            Ok(())
        } else {
            Err(format!("{left} s left"))
        }
    })
    .unwrap();
    assert_eq!(["web", "orders"].map(|pod| svid(&mesh, pod).unwrap()), held);
    mesh.ctl("start", "ca").unwrap();
    let renewed = [renewed(&mesh, "web", held[0]), renewed(&mesh, "orders", held[1])];
    assert!(unix_now() <= held[0].min(held[1]), "too late to tell");
    let sent = load.finish(PATIENCE).unwrap().all_good().unwrap();
    assert_eq!(roots(&mesh), before);
    for pod in ["web", "orders"] {
        assert!(mesh.log(pod).contains("\"kept\":true"), "{}", mesh.log(pod));
    }
    println!("{sent} requests; SVIDs held until {held:?}, then {renewed:?}");
}

#[test]
fn past_the_end_of_its_svid_nothing_passes_until_there_is_another() {
    let mesh = mesh(Some("8s"));
    let probe = Probe::start(&mesh, "web", &["--url", "http://orders:8080/headers"]).unwrap();
    probe.until("200", PATIENCE).unwrap();
    mesh.ctl("stop", "ca").unwrap();
    let until = ["web", "orders"].map(|pod| svid(&mesh, pod).unwrap());
    let refused = probe.until("503", PATIENCE).unwrap();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(until[0].min(until[1]));
    assert!(refused > end - Duration::from_secs(2), "{refused:?}, {until:?}");
    for pod in ["web", "orders"] {
        // That it expired, or what the latest try to get another one met.
        let reasons = [
            "no identity: the SVID expired and the Workload API sent no new one",
            "no identity: cannot reach the Workload API",
        ];
        let told = |body: &Value| {
            let said = body["reasons"][0].as_str().unwrap_or_default().to_owned();
            reasons.iter().any(|reason| said.starts_with(reason))
        };
        eventually(PATIENCE, || match readiness(&mesh, pod)? {
            (503, body) if told(&body) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
        assert!(
            mesh.log(pod)
                .contains("the identity is lost: no mesh traffic passes")
        );
    }
    let counted = mesh.counted("orders").unwrap();
    let told = mesh.records("web").len();
    eventually(PATIENCE, || {
        if mesh.records("web").len() > told + 5 {
            Ok(())
        } else {
            Err("no further request")
        }
    })
    .unwrap();
    assert_eq!(mesh.counted("orders").unwrap(), counted);
    mesh.ctl("start", "ca").unwrap();
    let back = SystemTime::now();
    let seen = probe.until("200", PATIENCE).unwrap();
    println!("back after {:?}", seen.duration_since(back).unwrap_or_default());
    for pod in ["web", "orders"] {
        assert_eq!(readiness(&mesh, pod).unwrap().0, 200);
    }
    let last = mesh
        .records("web")
        .into_iter()
        .rfind(|record| record["decision"]["verdict"] == "deny")
        .unwrap();
    assert!(last["error"].is_string(), "{last}");
}

#[test]
fn a_sidecar_that_starts_without_the_authority_lets_nothing_through() {
    let mesh = mesh(None);
    mesh.ctl("stop", "ca").unwrap();
    mesh.ctl("restart", "orders").unwrap();
    let (status_code, body) = eventually(PATIENCE, || {
        let (status, body) = readiness(&mesh, "orders")?;
        let reasons = body["reasons"].to_string();
        // The redirect, which is looked for at the same time, has been seen by then.
        if reasons.contains("Workload API") && !reasons.contains("redirect") {
            Ok((status, body))
        } else {
            Err(reasons)
        }
    })
    .unwrap();
    assert_eq!((status_code, &body["ready"]), (503, &false.into()), "{body}");
    let reasons = body["reasons"].as_array().unwrap();
    assert!(
        reasons.len() == 1
            && reasons[0]
                .as_str()
                .unwrap()
                .starts_with("no identity: cannot reach the Workload API at unix:"),
        "{body}"
    );
    let live = ["curl", "-sSf", "http://localhost:15021/healthz"];
    succeeded(mesh.exec("orders", &live).unwrap()).unwrap();

    // In, out, and from someone who has no identity either.
    let alice = bearer(&mesh, "none");
    assert_eq!(status(&mesh, "web", "http://orders:8080/", &alice), "503");
    assert_eq!(status(&mesh, "orders", "http://payments:8080/", &alice), "503");
    for url in [
        "http://orders:8080/headers",
        "http://orders:15008/",
        "http://orders:15006/",
        "https://orders:8080/",
    ] {
        assert_eq!(status(&mesh, "stranger", url, &alice), "000", "{url}");
    }
    assert_eq!(
        [mesh.counted("orders").unwrap(), mesh.counted("payments").unwrap()],
        [0, 0]
    );
    let records = mesh.records("orders");
    let refused = |direction: &str| {
        records
            .iter()
            .any(|record| record["direction"] == direction && record["decision"]["reason"] == "no_identity")
    };
    assert!(refused("outbound") && refused("inbound"), "{records:?}");
    let log = latest_log(&mesh, "orders");
    let said: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["message"] == "waiting for an identity: no mesh traffic passes")
        .collect();
    // Once, however often it was asked for.
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0]["reason"].as_str().unwrap().contains("workload.sock"),
        "{log}"
    );

    mesh.ctl("start", "ca").unwrap();
    eventually(PATIENCE, || match readiness(&mesh, "orders")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    eventually(PATIENCE, || {
        match status(&mesh, "web", "http://orders:8080/", &alice) {
            status if status == "200" => Ok(()),
            other => Err(other),
        }
    })
    .unwrap();
    assert_eq!(status(&mesh, "orders", "http://payments:8080/", &alice), "200");
}

#[test]
fn without_the_provider_known_keys_go_on() {
    let mesh = mesh(None);
    let (alice, unknown) = (bearer(&mesh, "none"), bearer(&mesh, "unknown_kid"));
    assert_eq!(status(&mesh, "web", "http://orders:8080/", &alice), "200");
    // Orders asks again for the sake of the kid that it does not know; no key at all is no answer.
    let asked = asked_for_keys(&mesh);
    post(&mesh, "behave", "jwks=empty");
    assert_eq!(status(&mesh, "web", "http://orders:8080/", &unknown), "401");
    assert_eq!(asked_for_keys(&mesh), asked + 1);
    mesh.ctl("stop", "idp").unwrap();
    let load = load(&mesh, "5", &alice);
    // Payments asks, and nobody answers.
    assert_eq!(status(&mesh, "orders", "http://payments:8080/", &unknown), "401");
    assert_eq!(status(&mesh, "orders", "http://payments:8080/", &alice), "200");
    load.finish(PATIENCE).unwrap().all_good().unwrap();
    for pod in ["orders", "payments"] {
        let issuers = mesh.admin(pod, "issuers").unwrap();
        assert_eq!(
            (&issuers[0]["keys"], issuers[0]["last_error"].is_string()),
            (&1.into(), true),
            "{issuers}"
        );
        assert!(
            latest_log(&mesh, pod).contains("issuer keys not fetched"),
            "{}",
            mesh.log(pod)
        );
    }
}

#[test]
fn an_unknown_key_is_asked_for_once_however_many_want_it() {
    let mesh = mesh(None);
    let unknown = bearer(&mesh, "unknown_kid");
    post(&mesh, "rotate", "");
    let rotated = bearer(&mesh, "none");
    let asked = asked_for_keys(&mesh);
    // A new key: all of them wait for the one answer, and are good.
    let counted = at_once(&mesh, "web", "http://orders:8080/", (&rotated, "64"));
    assert_eq!(counted.all_good().unwrap(), 64);
    assert_eq!(asked_for_keys(&mesh), asked + 1);
    // A key that nobody has, at a sidecar that has not asked so far.
    let counted = at_once(&mesh, "orders", "http://payments:8080/", (&unknown, "64"));
    assert_eq!(
        (counted.with_status(401), counted.number("failed")),
        (64, 0),
        "{counted:?}"
    );
    assert_eq!(asked_for_keys(&mesh), asked + 2);
    // It is known by now that nobody has it.
    let counted = at_once(&mesh, "orders", "http://payments:8080/", (&unknown, "64"));
    assert_eq!(counted.with_status(401), 64, "{counted:?}");
    assert_eq!(asked_for_keys(&mesh), asked + 2);
    assert_eq!(mesh.counted("payments").unwrap(), 0);
}

#[test]
fn a_sidecar_that_starts_without_the_provider_believes_nobody_until_it_is_back() {
    let mesh = mesh(None);
    let alice = bearer(&mesh, "none");
    mesh.ctl("stop", "idp").unwrap();
    mesh.ctl("restart", "orders").unwrap();
    eventually(PATIENCE, || match readiness(&mesh, "orders")? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let as_alice = Probe::start(
        &mesh,
        "web",
        &["--url", "http://orders:8080/", "--header", &alice],
    )
    .unwrap();
    as_alice.until("503", PATIENCE).unwrap();
    // Also where the rule asks for no user: a token that cannot be judged is not the same as none.
    assert_eq!(status(&mesh, "web", "http://orders:8080/headers", &alice), "503");
    assert_eq!(
        status(&mesh, "web", "http://orders:8080/headers", "x-nothing: at-all"),
        "200"
    );
    assert_eq!(
        status(&mesh, "web", "http://orders:8080/", "x-nothing: at-all"),
        "401"
    );
    let record = mesh
        .records("orders")
        .into_iter()
        .rfind(|record| record["http"]["status"] == 503)
        .unwrap();
    assert_eq!(record["decision"]["reason"], "issuer_unavailable", "{record}");
    let issuers = mesh.admin("orders", "issuers").unwrap();
    assert!(
        issuers[0]["last_error"].is_string() && issuers[0]["keys"] == 0,
        "{issuers}"
    );
    mesh.ctl("start", "idp").unwrap();
    let back = SystemTime::now();
    let seen = as_alice.until("200", PATIENCE).unwrap();
    println!("back after {:?}", seen.duration_since(back).unwrap_or_default());
    assert!(
        as_alice
            .seen()
            .iter()
            .all(|seen| seen.answer == "503" || seen.at == as_alice.seen().last().unwrap().at)
    );
}
