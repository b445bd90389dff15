//! What is put into a pod: the redirect step, the sidecar, their volumes.

use crate::settings::{
    CONFIG_FOLDER, HEALTH_PORT, PROBE_PORT, RUN_FOLDER, Redirect, SOCKET_FOLDER, Settings, WorkloadApi,
};
use crate::yaml::Node;

pub(super) const REDIRECT: &str = "hopguard-redirect";
pub(super) const SIDECAR: &str = "hopguard-sidecar";
const CONFIG: &str = "hopguard-config";
const RUN: &str = "hopguard-run";
const SOCKET: &str = "hopguard-workload-api";

/// Whether a container or volume of this name is ours.
pub(super) fn is_ours(name: &str) -> bool {
    [REDIRECT, SIDECAR, CONFIG, RUN, SOCKET].contains(&name)
}

/// The step that puts the redirect in place, before anything else of the pod runs.
pub(super) fn redirect(redirect: &Redirect, settings: &Settings, relays: bool) -> Node {
    Node::map([
        ("name", Node::string(REDIRECT)),
        ("image", Node::string(&settings.redirect_image)),
        ("command", Node::strings(redirect.command(relays))),
        ("resources", resources()),
        (
            "securityContext",
            Node::map([
                ("runAsNonRoot", Node::truth(false)),
                ("runAsUser", Node::number(0)),
                ("runAsGroup", Node::number(0)),
                ("privileged", Node::truth(false)),
                ("allowPrivilegeEscalation", Node::truth(false)),
                ("readOnlyRootFilesystem", Node::truth(true)),
                (
                    "capabilities",
                    Node::map([
                        ("drop", Node::strings(["ALL"])),
                        ("add", Node::strings(["NET_ADMIN"])),
                    ]),
                ),
                (
                    "seccompProfile",
                    Node::map([("type", Node::string("RuntimeDefault"))]),
                ),
            ]),
        ),
    ])
}

/// The sidecar: it starts before the application, and ends after it.
pub(super) fn sidecar(redirect: &Redirect, settings: &Settings, probes: Option<String>) -> Node {
    let variable =
        |name: &str, value: String| Node::map([("name", Node::string(name)), ("value", Node::string(value))]);
    let mut env = vec![variable(
        "SPIFFE_ENDPOINT_SOCKET",
        settings.workload_api.endpoint(),
    )];
    env.extend(probes.map(|probes| variable("HOPGUARD_APP_PROBES", probes)));
    let mount = |name: &str, path: &str, read_only: bool| {
        Node::map([
            ("name", Node::string(name)),
            ("mountPath", Node::string(path)),
            ("readOnly", Node::truth(read_only)),
        ])
    };
    Node::map([
        ("name", Node::string(SIDECAR)),
        ("image", Node::string(&settings.image)),
        ("restartPolicy", Node::string("Always")),
        ("command", Node::strings(redirect.sidecar())),
        ("env", Node::list(env)),
        // The pod's next container starts when this one has its identity, its policies and its redirect.
        ("startupProbe", probe("/readyz", 1, 600)),
        ("readinessProbe", probe("/readyz", 5, 2)),
        ("livenessProbe", probe("/healthz", 10, 6)),
        ("resources", resources()),
        ("securityContext", restricted(redirect.uid)),
        (
            "volumeMounts",
            Node::list([
                mount(CONFIG, CONFIG_FOLDER, true),
                mount(SOCKET, SOCKET_FOLDER, true),
                mount(RUN, RUN_FOLDER, false),
            ]),
        ),
    ])
}

/// What Pod Security's restricted profile asks for, and more.
fn restricted(uid: u32) -> Node {
    Node::map([
        ("runAsNonRoot", Node::truth(true)),
        ("runAsUser", Node::number(uid)),
        ("runAsGroup", Node::number(uid)),
        ("privileged", Node::truth(false)),
        ("allowPrivilegeEscalation", Node::truth(false)),
        ("readOnlyRootFilesystem", Node::truth(true)),
        ("capabilities", Node::map([("drop", Node::strings(["ALL"]))])),
        (
            "seccompProfile",
            Node::map([("type", Node::string("RuntimeDefault"))]),
        ),
    ])
}

fn probe(path: &str, period: u32, failures: u32) -> Node {
    Node::map([
        (
            "httpGet",
            Node::map([
                ("path", Node::string(path)),
                ("port", Node::number(u32::from(HEALTH_PORT))),
            ]),
        ),
        ("periodSeconds", Node::number(period)),
        ("timeoutSeconds", Node::number(3)),
        ("failureThreshold", Node::number(failures)),
    ])
}

/// Asked for, so that autoscaling by utilisation goes on; no limit, since what is right depends on the traffic.
fn resources() -> Node {
    Node::map([(
        "requests",
        Node::map([("cpu", Node::string("10m")), ("memory", Node::string("32Mi"))]),
    )])
}

/// The volumes of the sidecar.
pub(super) fn volumes(settings: &Settings) -> [Node; 3] {
    let named =
        |name: &str, kind: &str, source: Node| Node::map([("name", Node::string(name)), (kind, source)]);
    let socket = match &settings.workload_api {
        WorkloadApi::Csi { driver, .. } => named(
            SOCKET,
            "csi",
            Node::map([("driver", Node::string(driver)), ("readOnly", Node::truth(true))]),
        ),
        WorkloadApi::HostPath { folder, .. } => named(
            SOCKET,
            "hostPath",
            Node::map([
                ("path", Node::string(folder)),
                ("type", Node::string("Directory")),
            ]),
        ),
    };
    [
        named(
            CONFIG,
            "configMap",
            Node::map([("name", Node::string(&settings.config))]),
        ),
        socket,
        named(
            RUN,
            "emptyDir",
            Node::map([
                ("medium", Node::string("Memory")),
                ("sizeLimit", Node::string("1Mi")),
            ]),
        ),
    ]
}

/// What the operator must provide.
pub(super) fn notes(settings: &Settings) -> Vec<String> {
    let socket = match &settings.workload_api {
        WorkloadApi::Csi { .. } => "",
        WorkloadApi::HostPath { .. } => ", and mount a folder of the node",
    };
    vec![
        format!(
            "Pod Security: the pods need the level `privileged`, because their init container {REDIRECT} has NET_ADMIN{socket}; {SIDECAR} itself passes `restricted`"
        ),
        "native sidecars (initContainers with restartPolicy: Always) need Kubernetes 1.29 or newer"
            .to_owned(),
        format!(
            "each namespace needs the ConfigMap `{}` with sidecar.toml (policies = \".\"), mesh.toml and the *.cedar files",
            settings.config
        ),
    ]
}

/// The path at which the sidecar relays a probe, and the handler that asks there.
pub(super) fn relayed(container: &str, name: &str) -> (String, Node) {
    let path = format!("/app-health/{container}/{name}");
    let handler = Node::map([
        ("path", Node::string(&path)),
        ("port", Node::number(u32::from(PROBE_PORT))),
    ]);
    (path, handler)
}
