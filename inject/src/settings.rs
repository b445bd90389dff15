//! What is put beside each workload, as the command line and the workload itself say it.

use crate::problem::Judge;

/// What is the same for all workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image that holds the binary.
    pub image: String,
    /// The image that also holds iptables.
    pub redirect_image: String,
    /// The user that sidecars run as.
    pub uid: u32,
    /// The first part of the names of services where the workload has no namespace.
    pub namespace: String,
    /// Where the sidecar's files are: a ConfigMap, or a folder beside the Compose file.
    pub config: String,
    /// Where identities come from.
    pub workload_api: WorkloadApi,
}

/// Where the socket of the SPIFFE Workload API comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadApi {
    /// A CSI driver mounts its folder.
    Csi {
        /// The driver.
        driver: String,
        /// The name of the socket in the folder.
        socket: String,
    },
    /// It lies in a folder of the machine.
    HostPath {
        /// The folder.
        folder: String,
        /// The name of the socket in it.
        socket: String,
    },
}

/// A setting that is none. The fault is the user's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl std::str::FromStr for WorkloadApi {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let wrong = |message: &str| Err(SettingsError(message.to_owned()));
        let fits = |text: &str, also: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        if let Some(rest) = text.strip_prefix("csi:") {
            let (driver, socket) = rest.split_once(':').unwrap_or((rest, "spire-agent.sock"));
            if !fits(driver, ".-") || !fits(socket, "._-") || socket.starts_with('.') {
                return wrong(
                    "a CSI driver is given as `csi:NAME` or `csi:NAME:SOCKET`, as in csi:csi.spiffe.io:agent.sock",
                );
            }
            return Ok(Self::Csi {
                driver: driver.to_owned(),
                socket: socket.to_owned(),
            });
        }
        let Some(path) = text.strip_prefix("hostPath:") else {
            return wrong("give `csi:DRIVER` or `hostPath:/FOLDER/SOCKET`");
        };
        let Some((folder, socket)) = path.rsplit_once('/') else {
            return wrong("the path of a socket starts with `/`");
        };
        let safe = fits(path, "/._-") && path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !safe || folder.trim_matches('/').is_empty() || socket.is_empty() {
            return wrong(
                "the socket must lie in a folder of its own, which is mounted whole: hostPath:/run/hopguard/workload.sock",
            );
        }
        Ok(Self::HostPath {
            folder: folder.to_owned(),
            socket: socket.to_owned(),
        })
    }
}

impl WorkloadApi {
    /// The address of the socket inside of the sidecar.
    pub(crate) fn endpoint(&self) -> String {
        let (Self::Csi { socket, .. } | Self::HostPath { socket, .. }) = self;
        format!("unix://{SOCKET_FOLDER}/{socket}")
    }
}

/// Where the folder of the socket is mounted in a sidecar.
pub(crate) const SOCKET_FOLDER: &str = "/run/workload-api";
/// Where the sidecar's files are mounted.
pub(crate) const CONFIG_FOLDER: &str = "/etc/hopguard";
/// The folder of the administration socket, which the sidecar may write.
pub(crate) const RUN_FOLDER: &str = "/run/hopguard";
/// The port at which the sidecar relays the application's probes.
pub(crate) const PROBE_PORT: u16 = 15022;
/// The sidecar's health port.
pub(crate) const HEALTH_PORT: u16 = 15021;
/// Ports of the sidecar, which no application may have.
pub(crate) const OWN_PORTS: [u16; 7] = [15001, 15006, 15008, 15020, HEALTH_PORT, PROBE_PORT, 15024];

/// Annotations and labels.
pub(crate) const PREFIX: &str = "hopguard.dev/";

/// What a workload says of itself: its service, its sidecar's user and how it is redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub(crate) service: String,
    pub(crate) uid: u32,
    arguments: Vec<String>,
}

/// The settings that are arguments of `hopguard iptables apply`.
const ARGUMENTS: [&str; 5] = [
    "inbound-ports",
    "exclude-inbound-ports",
    "exclude-outbound-ports",
    "exclude-outbound-cidrs",
    "udp",
];
const OTHERS: [&str; 5] = ["inject", "service", "uid", "injected", "restore"];

impl Redirect {
    /// Reads what a workload says under [`PREFIX`]; `said` answers by key, `keys` are all that it has there.
    pub(crate) fn read<'a>(
        said: impl Fn(&str) -> Option<&'a str>,
        keys: &[&str],
        (default_service, settings): (Option<String>, &Settings),
        judge: &mut Judge,
    ) -> Option<Self> {
        for key in keys {
            if !ARGUMENTS.contains(key) && !OTHERS.contains(key) {
                let known = [&OTHERS[..3], &ARGUMENTS[..]].concat().join("`, `");
                judge.refuse(
                    format!("{PREFIX}{key}"),
                    format!("not known; there are `{known}`"),
                );
            }
        }
        let service = match said("service").map(str::to_owned).or(default_service) {
            Some(service) if is_service(&service) => Some(service),
            Some(service) => {
                judge.refuse(
                    format!("{PREFIX}service"),
                    format!("`{service}` is no name of a service: `namespace/name`, in lower case"),
                );
                None
            }
            None => {
                judge.refuse(
                    format!("{PREFIX}service"),
                    "it has no name: say which service of mesh.toml it is",
                );
                None
            }
        };
        let uid = uid(said("uid"), settings.uid, judge);
        let mut arguments = Vec::new();
        for name in ARGUMENTS {
            let Some(value) = said(name) else { continue };
            let well = !value.is_empty()
                && value.len() <= 4096
                && value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ",-.:/".contains(c));
            if well {
                arguments.push(format!("--{name}={value}"));
            } else {
                judge.refuse(
                    format!("{PREFIX}{name}"),
                    format!("`{value}` is no value of `hopguard iptables apply --{name}`"),
                );
            }
        }
        Some(Self {
            service: service?,
            uid: uid?,
            arguments,
        })
    }

    /// The command of the redirect step. The relay's port is left open only where the sidecar holds it: else the application
    /// could listen there, past the mesh.
    pub(crate) fn command(&self, relays: bool) -> Vec<String> {
        let mut command: Vec<String> = ["hopguard", "iptables", "apply"].map(str::to_owned).into();
        command.push(format!("--uid={}", self.uid));
        if relays {
            let ports = [15008, 15020, HEALTH_PORT, PROBE_PORT].map(|port: u16| port.to_string());
            command.push(format!("--sidecar-ports={}", ports.join(",")));
        }
        command.extend(self.arguments.iter().cloned());
        command
    }

    /// The command of the sidecar.
    pub(crate) fn sidecar(&self) -> Vec<String> {
        let file = format!("{CONFIG_FOLDER}/sidecar.toml");
        [
            "hopguard",
            "sidecar",
            "--config",
            &file,
            "--service",
            &self.service,
        ]
        .map(str::to_owned)
        .into()
    }
}

fn uid(said: Option<&str>, default: u32, judge: &mut Judge) -> Option<u32> {
    let uid = match said {
        None => Some(default),
        Some(text) => text.parse().ok().filter(|uid| (1..u32::MAX).contains(uid)),
    };
    if uid.is_none() {
        judge.refuse(format!("{PREFIX}uid"), "a user is a number above 0");
    }
    uid
}

/// `namespace/name`, as the mesh file has them.
pub(crate) fn is_service(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    matches!(text.split_once('/'), Some((namespace, name)) if part(namespace) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_comes_from_a_driver_or_a_folder_of_its_own() {
        let endpoint = |text: &str| text.parse::<WorkloadApi>().map(|api| api.endpoint()).ok();
        assert_eq!(
            endpoint("csi:csi.spiffe.io").as_deref(),
            Some("unix:///run/workload-api/spire-agent.sock")
        );
        assert_eq!(
            endpoint("csi:a.b:c.sock").as_deref(),
            Some("unix:///run/workload-api/c.sock")
        );
        assert_eq!(
            endpoint("hostPath:/run/hopguard/workload.sock").as_deref(),
            Some("unix:///run/workload-api/workload.sock")
        );
        for wrong in [
            "",
            "csi:",
            "csi:a/b",
            "csi:a:../x",
            "csi:a:..",
            "hostPath:",
            "hostPath:x",
            "hostPath:/x",
            "hostPath:/x/",
            "hostPath://x",
            "hostPath:/a/../b/c",
            "hostPath:/a b/c",
            "/run/x/y",
            "hostPath:a/b/c",
        ] {
            assert_eq!(endpoint(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn services_are_named_as_in_the_mesh_file() {
        for well in ["shop/web", "a/b-c", "default/app1"] {
            assert!(is_service(well), "{well}");
        }
        for wrong in [
            "", "web", "/web", "shop/", "Shop/web", "a/b/c", "a/-b", "a/b c", "a/b\n", "a/b_c", "a.b/c",
        ] {
            assert!(!is_service(wrong), "{wrong}");
        }
    }
}
