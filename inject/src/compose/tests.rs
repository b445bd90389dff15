use super::*;

fn settings() -> Settings {
    Settings {
        image: "hopguard:1".to_owned(),
        redirect_image: "hopguard-redirect:1".to_owned(),
        uid: 1337,
        namespace: "shop".to_owned(),
        config: "./hopguard".to_owned(),
        workload_api: "hostPath:/run/hopguard/workload.sock".parse().unwrap(),
    }
}

fn injected(text: &str) -> (Node, Report) {
    let (out, report) =
        inject(text, "compose.yaml", &settings()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(inject(text, "compose.yaml", &settings()).unwrap().0, out);
    assert_eq!(inject(&out, "compose.hopguard.yaml", &settings()).unwrap().0, out);
    assert!(is_injected(&out).unwrap() && !is_injected(text).unwrap());
    (read(&out).unwrap().remove(0).root, report)
}

fn refused(text: &str) -> Vec<crate::Refusal> {
    match inject(text, "compose.yaml", &settings()) {
        Err(InjectError::Refused(refusals)) => refusals,
        other => panic!("{text}\n{other:?}"),
    }
}

const SHOP: &str = "services:\n  web:\n    image: nginx\n    container_name: front\n    hostname: www\n    ports: ['80:80']\n    networks: {a: {aliases: [w]}, b: }\n    extra_hosts: ['x:1.2.3.4']\n    dns: 9.9.9.9\n    links: ['db:database', 'old']\n    depends_on: [db]\n    sysctls: {net.core.somaxconn: 1, kernel.shm_rmid_forced: 0}\n    profiles: [p]\n    volumes: [x:/y]\n  db: {image: postgres, depends_on: {web: {condition: service_healthy}}}\n  old: {image: o, labels: ['hopguard.dev/inject=false'], links: [db]}\nnetworks: {a: , b: }\nvolumes: {x: {}}\n";

#[test]
fn a_service_becomes_four_and_its_network_goes_to_the_holder() {
    let (root, _) = injected(SHOP);
    let web = root.at(&["services", "web"]).unwrap();
    let holder = root.at(&["services", "web-hopguard-net"]).unwrap();
    for key in ["hostname", "ports", "extra_hosts", "dns", "networks", "links"] {
        assert!(web.get(key).is_none() && holder.get(key).is_some(), "{key}");
    }
    assert_eq!(
        holder.at(&["links"]).unwrap(),
        &Node::strings(["db-hopguard-net:database", "old"])
    );
    assert_eq!(
        holder.at(&["networks", "a", "aliases"]).unwrap(),
        &Node::strings(["w", "web", "front"])
    );
    assert_eq!(
        holder.at(&["networks", "b", "aliases"]).unwrap(),
        &Node::strings(["web", "front"])
    );
    assert!(holder.at(&["sysctls", "net.core.somaxconn"]).is_some());
    assert!(holder.at(&["sysctls", "kernel.shm_rmid_forced"]).is_none());
    assert!(web.at(&["sysctls", "kernel.shm_rmid_forced"]).is_some());
    assert_eq!(web.text_at(&["container_name"]), Some("front"));
    assert!(web.get("volumes").is_some());
    assert_eq!(web.text_at(&["network_mode"]), Some("service:web-hopguard-net"));
    assert_eq!(
        web.text_at(&["depends_on", "db", "condition"]),
        Some("service_started")
    );
    assert_eq!(
        web.text_at(&["depends_on", "web-hopguard-redirect", "condition"]),
        Some("service_completed_successfully")
    );
    assert_eq!(
        web.text_at(&["depends_on", "web-hopguard", "condition"]),
        Some("service_started")
    );
    for part in ["web-hopguard-net", "web-hopguard-redirect", "web-hopguard"] {
        assert_eq!(
            root.at(&["services", part, "profiles"]).unwrap(),
            &Node::strings(["p"])
        );
    }
}

#[test]
fn services_beside_it_find_it_and_the_authority_can_tell_its_sidecar() {
    let (root, report) = injected(SHOP);
    let db = root.at(&["services", "db-hopguard-net", "networks", "default", "aliases"]);
    assert_eq!(db.unwrap(), &Node::strings(["db"]));
    assert_eq!(
        root.text_at(&["services", "db", "depends_on", "web", "condition"]),
        Some("service_healthy")
    );
    let old = root.at(&["services", "old"]).unwrap();
    assert_eq!(
        old.at(&["links"]).unwrap(),
        &Node::strings(["db-hopguard-net:db"])
    );
    assert!(old.get("network_mode").is_none());
    assert_eq!((report.changed.len(), report.left.len()), (2, 1));
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("container:cgroup:/hopguard.shop.web.slice")),
        "{report:?}"
    );
}

#[test]
fn labels_say_which_service_it_is_and_how_it_is_redirected() {
    let text = "services: {web: {image: x, labels: {hopguard.dev/service: a/b-c, hopguard.dev/uid: 20001, hopguard.dev/udp: reject}}}";
    let (root, _) = injected(text);
    let redirect = root
        .at(&["services", "web-hopguard-redirect", "command"])
        .unwrap();
    assert_eq!(
        redirect,
        &Node::strings(["iptables", "apply", "--uid=20001", "--udp=reject"])
    );
    let sidecar = root.at(&["services", "web-hopguard"]).unwrap();
    assert_eq!(sidecar.text_at(&["user"]), Some("20001:20001"));
    assert_eq!(sidecar.text_at(&["cgroup_parent"]), Some("hopguard.a.b_c.slice"));
    assert_eq!(sidecar.at(&["cap_drop"]).unwrap(), &Node::strings(["ALL"]));
    assert!(sidecar.get("cap_add").is_none());
}

#[test]
fn what_would_not_be_protected_is_refused_with_its_place() {
    for (more, path) in [
        ("network_mode: host", "services.web.network_mode"),
        ("network_mode: 'service:db'", "services.web.network_mode"),
        ("network_mode: 'container:x'", "services.web.network_mode"),
        ("network_mode: '${MODE}'", "services.web.network_mode"),
        ("privileged: true", "services.web.privileged"),
        ("pid: host", "services.web.pid"),
        ("cap_add: [NET_ADMIN]", "services.web.cap_add"),
        ("user: '1337:5'", "services.web.user"),
        ("user: 1337", "services.web.user"),
        ("ports: ['80:80', '8000:15000-15010']", "services.web.ports[1]"),
        ("expose: [15021]", "services.web.expose[0]"),
        ("scale: 2", "services.web"),
        ("deploy: {replicas: '${N}'}", "services.web"),
        ("deploy: {mode: global}", "services.web.deploy.mode"),
        ("extends: {file: a.yaml, service: b}", "services.web.extends"),
        ("networks: a", "services.web.networks"),
        (
            "labels: {hopguard.dev/inject: no}",
            "services.web.labels.hopguard.dev/inject",
        ),
        ("labels: [hopguard.dev/prots=80]", "hopguard.dev/prots"),
    ] {
        let refusals = refused(&format!(
            "services: {{web: {{image: x, {more}}}, db: {{image: y}}}}"
        ));
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(
            (refusals[0].path.as_str(), refusals[0].workload.as_str()),
            (path, "web")
        );
    }
    for (text, path) in [
        (
            "services: {web: {image: x}, web-hopguard: {image: y}}",
            "services.web-hopguard",
        ),
        ("services: {my_app: {image: x}}", "hopguard.dev/service"),
        ("services: {web: {image: x}}\ninclude: [a.yaml]", "include"),
        ("services: {web: }", "services.web"),
        (
            "services: {web: {image: x}, db: {image: x, labels: {hopguard.dev/service: shop/web}}}",
            "services.web",
        ),
        (
            "services: {web: {image: x}, spy: {image: y, network_mode: 'service:web', labels: {hopguard.dev/inject: 'false'}}}",
            "services.spy.network_mode",
        ),
    ] {
        assert_eq!(refused(text)[0].path, path, "{text}");
    }
}

#[test]
fn a_service_without_network_is_left_alone() {
    let (root, report) = injected("services: {job: {image: x, network_mode: none}, web: {image: y}}");
    assert_eq!(root.text_at(&["services", "job", "network_mode"]), Some("none"));
    assert_eq!(report.left[0].0, "job");
}

#[test]
fn what_is_no_compose_file_is_told() {
    for text in [
        "",
        "- a",
        "kind: Pod\napiVersion: v1",
        "a: 1",
        "services: {a: {image: b}}\n---\nservices: {}",
        "services: []",
    ] {
        let error = inject(text, "x", &settings()).unwrap_err();
        assert!(matches!(error, InjectError::NotThis(_)), "{text}: {error}");
    }
    let mut csi = settings();
    csi.workload_api = "csi:a".parse().unwrap();
    assert!(inject("services: {a: {image: b}}", "x", &csi).is_err());
}
