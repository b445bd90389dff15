//! What is put beside a service: the holder of its network, the redirect step and the sidecar.

use crate::settings::{CONFIG_FOLDER, RUN_FOLDER, Redirect, SOCKET_FOLDER, Settings, WorkloadApi};
use crate::yaml::Node;

/// The service that owns the network namespace.
pub(super) fn holder(name: &str) -> String {
    format!("{name}-hopguard-net")
}

/// The service that puts the redirect in place.
pub(super) fn redirect_name(name: &str) -> String {
    format!("{name}-hopguard-redirect")
}

/// The sidecar.
pub(super) fn sidecar_name(name: &str) -> String {
    format!("{name}-hopguard")
}

pub(super) fn names(name: &str) -> [String; 3] {
    [holder(name), redirect_name(name), sidecar_name(name)]
}

/// The control group of a sidecar: by it the authority tells one from another. `-` would be a level of its own to systemd.
fn slice(redirect: &Redirect) -> String {
    format!(
        "hopguard.{}.slice",
        redirect.service.replace('-', "_").replace('/', ".")
    )
}

/// How the authority knows the sidecar of a service.
pub(super) fn entry(name: &str, redirect: &Redirect) -> String {
    format!(
        "{name} is {}; its selectors in entries.toml: [\"unix:uid:{}\", \"container:cgroup:/{}\"]",
        redirect.service,
        redirect.uid,
        slice(redirect)
    )
}

/// The holder without its network. A network namespace that is new has no redirect, so it is never started twice: a second
/// start ends, and with it all that would join.
pub(super) fn holding(settings: &Settings) -> [(&'static str, Node); 7] {
    [
        ("image", Node::string(&settings.image)),
        ("entrypoint", Node::strings(["hopguard"])),
        ("command", Node::strings(["pause", "--once", "/.hopguard-held"])),
        // Only root may write there; of what root may do, nothing is left.
        ("user", Node::string("0:0")),
        ("cap_drop", Node::strings(["ALL"])),
        ("security_opt", Node::strings(["no-new-privileges:true"])),
        ("restart", Node::string("no")),
    ]
}

pub(super) fn redirect(name: &str, redirect: &Redirect, settings: &Settings) -> Node {
    let command = redirect.command(false).into_iter().skip(1);
    Node::map([
        ("image", Node::string(&settings.redirect_image)),
        ("entrypoint", Node::strings(["hopguard"])),
        ("command", Node::strings(command)),
        ("network_mode", joined(name)),
        ("user", Node::string("0:0")),
        ("read_only", Node::truth(true)),
        ("cap_drop", Node::strings(["ALL"])),
        ("cap_add", Node::strings(["NET_ADMIN"])),
        ("security_opt", Node::strings(["no-new-privileges:true"])),
        ("restart", Node::string("no")),
        ("depends_on", after([(&holder(name), "service_started")])),
    ])
}

pub(super) fn sidecar(name: &str, redirect: &Redirect, settings: &Settings) -> Node {
    let (WorkloadApi::HostPath { folder, .. } | WorkloadApi::Csi { driver: folder, .. }) =
        &settings.workload_api;
    // The long form, so that a folder that is not there is an error and not made.
    let mount = |from: &str, to: &str| {
        Node::map([
            ("type", Node::string("bind")),
            ("source", Node::string(from)),
            ("target", Node::string(to)),
            ("read_only", Node::truth(true)),
        ])
    };
    let uid = redirect.uid;
    Node::map([
        ("image", Node::string(&settings.image)),
        ("entrypoint", Node::strings(["hopguard"])),
        ("command", Node::strings(redirect.sidecar().into_iter().skip(1))),
        ("network_mode", joined(name)),
        ("cgroup_parent", Node::string(slice(redirect))),
        ("user", Node::string(format!("{uid}:{uid}"))),
        ("read_only", Node::truth(true)),
        ("cap_drop", Node::strings(["ALL"])),
        ("security_opt", Node::strings(["no-new-privileges:true"])),
        (
            "tmpfs",
            Node::strings([format!("{RUN_FOLDER}:uid={uid},gid={uid},mode=0700,size=1m")]),
        ),
        (
            "environment",
            Node::map([(
                "SPIFFE_ENDPOINT_SOCKET",
                Node::string(settings.workload_api.endpoint()),
            )]),
        ),
        (
            "volumes",
            Node::list([
                mount(&settings.config, CONFIG_FOLDER),
                mount(folder, SOCKET_FOLDER),
            ]),
        ),
        (
            "healthcheck",
            Node::map([
                (
                    "test",
                    Node::strings(["CMD", "hopguard", "wait", "--timeout", "1"]),
                ),
                ("interval", Node::string("10s")),
                ("timeout", Node::string("5s")),
            ]),
        ),
        ("restart", Node::string("unless-stopped")),
        (
            "depends_on",
            after([(&redirect_name(name), "service_completed_successfully")]),
        ),
    ])
}

/// In the network namespace of the holder.
pub(super) fn joined(name: &str) -> Node {
    Node::string(format!("service:{}", holder(name)))
}

fn after<const N: usize>(others: [(&str, &str); N]) -> Node {
    Node::map(others.map(|(name, condition)| (name, Node::map([("condition", Node::string(condition))]))))
}
