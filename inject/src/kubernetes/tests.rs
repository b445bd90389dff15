use super::*;

fn settings() -> Settings {
    Settings {
        image: "hopguard:1".to_owned(),
        redirect_image: "hopguard-redirect:1".to_owned(),
        uid: 1337,
        namespace: "default".to_owned(),
        config: "hopguard".to_owned(),
        workload_api: "csi:csi.spiffe.io".parse().unwrap(),
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec:\n  containers:\n  - name: web\n    image: nginx\n";

fn injected(text: &str) -> (String, Report) {
    let (out, report) = inject(text, &settings()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (twice, _) = inject(&out, &settings()).unwrap();
    assert_eq!(twice, out, "twice is once");
    let (back, _) = uninject(&out).unwrap();
    assert_eq!(back, rewritten(text).unwrap());
    (out, report)
}

fn refused(text: &str) -> Vec<crate::Refusal> {
    match inject(text, &settings()) {
        Err(InjectError::Refused(refusals)) => refusals,
        other => panic!("{text}\n{other:?}"),
    }
}

fn one(text: &str) -> Node {
    read(text).unwrap().remove(0).root
}

/// The same pod with more in its `spec` or its one container.
fn with(spec: &str, container: &str) -> String {
    let mut text = POD.to_owned();
    for line in container.lines() {
        text += &format!("    {line}\n");
    }
    for line in spec.lines() {
        text += &format!("  {line}\n");
    }
    text
}

#[test]
fn the_redirect_comes_first_then_the_sidecar_then_what_was_there() {
    let (out, report) = injected(&with("initContainers: [{name: migrate, image: m}]", ""));
    let pod = one(&out);
    let names = pod.at(&["spec", "initContainers"]).unwrap().items().iter();
    let names: Vec<_> = names.map(|one| one.text_at(&["name"]).unwrap()).collect();
    assert_eq!(names, ["hopguard-redirect", "hopguard-sidecar", "migrate"]);
    assert_eq!(report.changed[0].service, "shop/web");
    let sidecar = &pod.at(&["spec", "initContainers"]).unwrap().items()[1];
    assert_eq!(sidecar.text_at(&["restartPolicy"]), Some("Always"));
    assert_eq!(
        sidecar.at(&["command"]).unwrap(),
        &Node::strings([
            "hopguard",
            "sidecar",
            "--config",
            "/etc/hopguard/sidecar.toml",
            "--service",
            "shop/web"
        ])
    );
    assert!(
        report.notes.iter().any(|note| note.contains("`privileged`")),
        "{report:?}"
    );
}

#[test]
fn annotations_of_the_pod_win_over_those_of_its_owner() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  annotations: {hopguard.dev/service: a/b, hopguard.dev/uid: '20001'}\nspec:\n  template:\n    metadata:\n      annotations: {hopguard.dev/service: c/d, hopguard.dev/exclude-inbound-ports: '9100'}\n    spec: {containers: [{name: x, image: y}]}\n";
    let (out, report) = injected(text);
    assert_eq!(
        (report.changed[0].service.as_str(), report.changed[0].uid),
        ("c/d", 20001)
    );
    assert!(
        out.contains("- \"--exclude-inbound-ports=9100\"") && out.contains("- \"--uid=20001\""),
        "{out}"
    );
    assert!(out.contains("runAsUser: 20001"));
}

#[test]
fn an_opt_out_leaves_it_alone_and_takes_out_what_was_there() {
    let out = text_of("hopguard.dev/inject: 'false'");
    let (same, report) = inject(&out, &settings()).unwrap();
    assert_eq!(same, rewritten(&out).unwrap());
    assert_eq!((report.changed.len(), report.left.len()), (0, 1));
    let (injected, _) = injected(&text_of("hopguard.dev/inject: 'true'"));
    let turned = injected.replace("hopguard.dev/inject: \"true\"", "hopguard.dev/inject: \"false\"");
    assert_ne!(turned, injected);
    let (clean, _) = inject(&turned, &settings()).unwrap();
    assert_eq!(clean, rewritten(&out).unwrap());
}

fn text_of(annotation: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations: {{{annotation}}}\nspec: {{containers: [{{name: x, image: y}}]}}\n"
    )
}

/// More of a `spec`, more of its container, and where that is refused.
const UNPROTECTED: &[(&str, &str, &str)] = &[
    ("hostNetwork: true", "", "spec.hostNetwork"),
    ("hostNetwork: yes", "", "spec.hostNetwork"),
    ("hostPID: true", "", "spec.hostPID"),
    ("shareProcessNamespace: true", "", "spec.shareProcessNamespace"),
    ("os: {name: windows}", "", "spec.os.name"),
    (
        "securityContext: {runAsUser: 1337}",
        "",
        "spec.containers[0].securityContext.runAsUser",
    ),
    (
        "",
        "securityContext: {runAsUser: 1337}",
        "spec.containers[0].securityContext.runAsUser",
    ),
    (
        "",
        "securityContext: {privileged: true}",
        "spec.containers[0].securityContext.privileged",
    ),
    (
        "",
        "securityContext: {capabilities: {add: [cap_net_admin]}}",
        "spec.containers[0].securityContext.capabilities.add",
    ),
    (
        "",
        "ports: [{containerPort: 80}, {containerPort: 15006}]",
        "spec.containers[0].ports[1].containerPort",
    ),
    (
        "",
        "lifecycle: {preStop: {httpGet: {port: 80}}}",
        "spec.containers[0].lifecycle.preStop.httpGet",
    ),
    (
        "",
        "livenessProbe: {httpGet: {port: http}}",
        "spec.containers[0].livenessProbe.httpGet.port",
    ),
    (
        "",
        "livenessProbe: {httpGet: {port: 15021}}",
        "spec.containers[0].livenessProbe.httpGet.port",
    ),
    (
        "",
        "livenessProbe: {httpGet: {port: 80, scheme: HTTPS}}",
        "spec.containers[0].livenessProbe.httpGet.scheme",
    ),
    (
        "initContainers: [{name: hopguard-sidecar}]",
        "",
        "spec.initContainers[0].name",
    ),
    ("volumes: [{name: hopguard-run}]", "", "spec.volumes[0].name"),
    ("volumes: {}", "", "spec.volumes"),
];

#[test]
fn what_would_not_be_protected_is_refused_with_its_place() {
    for &(spec, container, path) in UNPROTECTED {
        let refusals = refused(&with(spec, container));
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(
            (
                refusals[0].path.as_str(),
                refusals[0].workload.as_str(),
                refusals[0].line
            ),
            (path, "Pod/web", 1)
        );
    }
    injected(&with(
        "hostNetwork: false\nsecurityContext: {runAsUser: 1337}",
        "securityContext: {runAsUser: 5}",
    ));
}

#[test]
fn one_that_is_refused_keeps_all_from_being_written_and_all_reasons_are_told() {
    let text = format!(
        "{POD}---\n{}---\n{}",
        with("hostNetwork: true", ""),
        with("hostPID: true", "ports: [{containerPort: 15001}]")
    );
    let refusals = refused(&text);
    let lines: Vec<_> = refusals.iter().map(|refusal| refusal.line).collect();
    assert_eq!(lines, [9, 18, 18]);
}

#[test]
fn wrong_annotations_are_refused() {
    for annotation in [
        "hopguard.dev/inject: maybe",
        "hopguard.dev/service: Web",
        "hopguard.dev/uid: root",
        "hopguard.dev/uid: '0'",
        "hopguard.dev/udp: '--guard off'",
        "hopguard.dev/inbound-ports: ''",
        "hopguard.dev/inbound-prots: '80'",
    ] {
        assert_eq!(refused(&text_of(annotation)).len(), 1, "{annotation}");
    }
}

#[test]
fn probes_lead_to_the_sidecar_and_exec_stays() {
    let container = "ports: [{name: http, containerPort: 8080}]\nlivenessProbe: {httpGet: {path: '/a$(B)', port: http, httpHeaders: [{name: X, value: 'y'}]}, periodSeconds: 3}\nreadinessProbe: {tcpSocket: {port: 6379}, timeoutSeconds: 4}\nstartupProbe: {grpc: {port: 9000, service: s}}";
    let init = "initContainers:\n- {name: agent, image: a, restartPolicy: Always, readinessProbe: {exec: {command: [x]}}, livenessProbe: {httpGet: {port: 1, host: example.org}}}";
    let (out, _) = injected(&with(init, container));
    let pod = one(&out);
    let web = &pod.at(&["spec", "containers"]).unwrap().items()[0];
    let live = web.get("livenessProbe").unwrap();
    assert_eq!(live.text_at(&["httpGet", "path"]), Some("/app-health/web/livez"));
    assert_eq!(live.text_at(&["httpGet", "port"]), Some("15022"));
    assert_eq!(live.text_at(&["periodSeconds"]), Some("3"));
    assert!(live.at(&["httpGet", "httpHeaders"]).is_none());
    for probe in ["readinessProbe", "startupProbe"] {
        let map = web.get(probe).unwrap();
        assert!(map.get("tcpSocket").is_none() && map.get("grpc").is_none());
        assert_eq!(map.text_at(&["httpGet", "port"]), Some("15022"));
    }
    let sidecar = &pod.at(&["spec", "initContainers"]).unwrap().items()[1];
    let value = sidecar.at(&["env"]).unwrap().items()[1]
        .text_at(&["value"])
        .unwrap();
    assert!(!value.contains('$'), "{value}");
    let said: serde_json::Value = serde_json::from_str(value).unwrap();
    assert_eq!(
        said,
        serde_json::json!({
            "/app-health/web/livez": {"http": {"port": 8080, "path": "/a$(B)", "headers": [["X", "y"]]}, "timeout_seconds": 1},
            "/app-health/web/readyz": {"tcp": {"port": 6379}, "timeout_seconds": 4},
            "/app-health/web/startupz": {"grpc": {"port": 9000, "service": "s"}, "timeout_seconds": 1},
        })
    );
    let agent = &pod.at(&["spec", "initContainers"]).unwrap().items()[2];
    assert_eq!(
        agent.text_at(&["livenessProbe", "httpGet", "host"]),
        Some("example.org")
    );
    // A probe that was changed since is the user's.
    let (back, _) = uninject(&out.replace("/app-health/web/livez\n", "/mine\n")).unwrap();
    assert!(back.contains("/mine") && !back.contains("app-health"), "{back}");
}

#[test]
fn the_port_of_the_relay_is_open_only_where_the_sidecar_holds_it() {
    let (without, _) = injected(&with("", "livenessProbe: {exec: {command: [x]}}"));
    assert!(
        !without.contains("15022") && !without.contains("HOPGUARD_APP_PROBES"),
        "{without}"
    );
    let (relayed, _) = injected(&with("", "livenessProbe: {tcpSocket: {port: 80}}"));
    assert!(
        relayed.contains("--sidecar-ports=15008,15020,15021,15022"),
        "{relayed}"
    );
}

#[test]
fn what_was_absent_null_or_empty_is_so_again() {
    for (metadata, rest) in [
        ("", ""),
        ("metadata:\n", ""),
        ("metadata: {}\n", ""),
        ("metadata: {annotations: null}\n", ""),
        (
            "metadata: {annotations: {}, labels: {a: b}}\n",
            "  volumes: []\n  initContainers: null\n",
        ),
        (
            "metadata: {annotations: {a: b}}\n",
            "  volumes: null\n  initContainers: []\n",
        ),
    ] {
        let template: String = format!("{metadata}spec:\n  containers: [{{name: x, image: y}}]\n{rest}")
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
        let text = format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: a}}\nspec:\n  template:\n{template}"
        );
        let (out, _) = inject(&text, &settings()).unwrap();
        let (back, _) = uninject(&out).unwrap();
        let same = rewritten(&text).unwrap().replace(": ~", ": null");
        assert_eq!(back, same);
    }
}

#[test]
fn only_known_kinds_of_known_groups_are_touched_and_others_that_hold_pods_are_named() {
    let text = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: r}\nspec: {template: {spec: {containers: [{name: x, image: y}]}}}\n---\napiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: j}\nspec: {tasks: [{template: {spec: {containers: [{name: x, image: y}]}}}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n";
    let (out, report) = inject(text, &settings()).unwrap();
    assert_eq!(out, rewritten(text).unwrap());
    let left: Vec<_> = report.left.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(left, ["Rollout/r", "Job/j"]);
    assert!(report.notes.is_empty());
}

#[test]
fn other_settings_make_it_anew() {
    let (out, _) = injected(POD);
    let mut other = settings();
    other.image = "hopguard:2".to_owned();
    let (newer, _) = inject(&out, &other).unwrap();
    assert_eq!(newer, inject(POD, &other).unwrap().0);
}

#[test]
fn what_is_no_manifest_is_told() {
    for text in ["- a\n", "just text\n", "services: {web: {image: x}}\n", "a: [\n"] {
        assert!(
            !matches!(inject(text, &settings()), Ok(_) | Err(InjectError::Refused(_))),
            "{text}"
        );
    }
    assert_eq!(
        refused("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")[0].path,
        "spec"
    );
    assert_eq!(inject("", &settings()).unwrap().0, "");
}

#[test]
fn an_annotation_that_cannot_be_read_is_no_reason_to_guess() {
    let (out, _) = injected(POD);
    let broken = out.replace("hopguard.dev/restore: |", "hopguard.dev/other: |");
    assert!(inject(&broken, &settings()).is_err() && uninject(&broken).is_err());
}
