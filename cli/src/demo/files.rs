//! The demo's configuration: templates, and what a test replaces in them, enter; files below one tmpfs leave. It writes
//! nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::pods::meshed;
use super::spec::{Assignment, Spec};
use super::{failed, mounts};
use crate::ui::{Exit, Failure};

/// Where the demo keeps its files; a sidecar sees its pod's folder there.
pub const ROOT: &str = "/run/hopguard";
/// What all sidecars share: `mesh.toml`, the policies, the provider's CA.
pub const SHARED: &str = "/run/hopguard/mesh";
/// A sidecar's configuration, as the sidecar sees it.
pub const SIDECAR_CONFIG: &str = "/run/hopguard/sidecar.toml";
/// The certificate authority's configuration.
pub const CA_CONFIG: &str = "/run/hopguard/ca/ca.toml";

const MESH: &str = include_str!("files/mesh.toml");
const SIDECAR: &str = include_str!("files/sidecar.toml");
const CA: &str = include_str!("files/ca.toml");
const ENTRIES: &str = include_str!("files/entries.toml");
const POLICIES: &str = include_str!("files/policies/shop.cedar");

/// The folder that the sidecar of `pod` sees as [`ROOT`].
pub fn pod_folder(pod: &str) -> PathBuf {
    Path::new(ROOT).join("pods").join(pod)
}

/// The folder of the Workload API socket of `pod`.
pub fn socket_folder(pod: &str) -> PathBuf {
    Path::new(ROOT).join("workload").join(pod)
}

/// The Workload API socket of `pod`.
pub fn workload_socket(pod: &str) -> PathBuf {
    socket_folder(pod).join("workload.sock")
}

/// The records of the sidecar of `pod`.
pub fn records(pod: &str) -> PathBuf {
    pod_folder(pod).join("records.jsonl")
}

/// Where a part (`ca`, `idp`, `web`, `app:web`) writes its own words.
pub fn log(part: &str) -> PathBuf {
    let (folder, file) = match part.strip_prefix("app:") {
        Some(pod) => (pod_folder(pod), "app.log".to_owned()),
        None if part == "ca" || part == "idp" => (Path::new(ROOT).join("ca"), format!("{part}.log")),
        None => (pod_folder(part), "sidecar.log".to_owned()),
    };
    folder.join(file)
}

/// Writes all configuration. `provider_ca` is the PEM that the issuer's `ca_file` names.
pub fn write_all(spec: &Spec, provider_ca: &str) -> Result<(), Failure> {
    for pod in meshed() {
        for folder in [
            socket_folder(pod.name),
            pod_folder(pod.name).join("workload"),
            pod_folder(pod.name).join("mesh"),
        ] {
            make_folder(&folder)?;
        }
    }
    let mut files = configuration(spec)?;
    files.insert(Path::new(SHARED).join("idp-ca.pem"), provider_ca.to_owned());
    for (path, text) in files {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        fs::write(&path, text).map_err(failed(&format!("writing {}", path.display())))?;
    }
    Ok(())
}

/// Name service from files alone, for every process of the demo.
pub fn name_service(spec: &Spec) -> Result<(), Failure> {
    let folder = Path::new(ROOT).join("etc");
    make_folder(&folder)?;
    let sources =
        "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\nservices: files\n";
    let files = [
        ("hosts", spec.families.hosts_file()),
        ("resolv.conf", String::new()),
        ("nsswitch.conf", sources.to_owned()),
    ];
    for (name, text) in files {
        let ours = folder.join(name);
        fs::write(&ours, text).map_err(failed(&format!("writing {}", ours.display())))?;
        // A link may lead to a file that the demo's own /run hides: then there is nothing to cover.
        if let Ok(target) = Path::new("/etc").join(name).canonicalize() {
            mounts::bind_read_only(&ours, &target)?;
        } else if name == "hosts" {
            return Err(
                Failure::new("/etc/hosts does not exist: the demo covers it with its own")
                    .exit(Exit::NotHere),
            );
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(failed(&format!("making {}", path.display())))
}

/// Every file by its path, with what `spec` replaces.
fn configuration(spec: &Spec) -> Result<BTreeMap<PathBuf, String>, Failure> {
    let ca = Path::new(CA_CONFIG).with_file_name("");
    let mut files = BTreeMap::new();
    let mut add = |kind: &str, path: PathBuf, replacement: &str, template: String| {
        let text = spec
            .files
            .get(Path::new(replacement))
            .cloned()
            .unwrap_or(template);
        files.insert(path, assign(kind, text, &spec.set)?);
        Ok::<(), Failure>(())
    };
    add(
        "mesh",
        Path::new(SHARED).join("mesh.toml"),
        "mesh.toml",
        MESH.to_owned(),
    )?;
    add("ca", ca.join("ca.toml"), "ca.toml", CA.to_owned())?;
    add(
        "entries",
        ca.join("entries.toml"),
        "entries.toml",
        ENTRIES.to_owned(),
    )?;
    for pod in meshed() {
        let kind = format!("sidecar.{}", pod.name);
        let replacement = format!("sidecar-{}.toml", pod.name);
        let template = SIDECAR.replace("{pod}", pod.name);
        add(
            &kind,
            pod_folder(pod.name).join("sidecar.toml"),
            &replacement,
            template,
        )?;
    }
    add_shared(spec, &mut files);
    Ok(files)
}

/// The policies (a folder given replaces ours whole), and whatever else a test brings, beside `mesh.toml`.
fn add_shared(spec: &Spec, files: &mut BTreeMap<PathBuf, String>) {
    let own_policies = spec.files.keys().any(|path| path.starts_with("policies"));
    if !own_policies {
        files.insert(Path::new(SHARED).join("policies/shop.cedar"), POLICIES.to_owned());
    }
    for (path, text) in &spec.files {
        let known = path.to_str().is_some_and(|name| {
            ["mesh.toml", "ca.toml", "entries.toml"].contains(&name) || name.starts_with("sidecar-")
        });
        if !known {
            files.insert(Path::new(SHARED).join(path), text.clone());
        }
    }
}

/// `text` with the values that `set` gives to the file `kind`.
fn assign(kind: &str, text: String, set: &[Assignment]) -> Result<String, Failure> {
    let general = kind.split('.').next().unwrap_or(kind);
    let mut for_this = set
        .iter()
        .filter(|a| a.file == kind || a.file == general)
        .peekable();
    if for_this.peek().is_none() {
        return Ok(text);
    }
    let bad = |what: String| Failure::new(format!("--set for {kind}: {what}")).exit(Exit::Usage);
    let mut document: Table = text
        .parse()
        .map_err(|e| bad(format!("the file is not TOML: {e}")).exit(Exit::BadFile))?;
    for assignment in for_this {
        let wrapped: Table = format!("v = {}", assignment.value)
            .parse()
            .map_err(|e| bad(format!("`{}` is no TOML value: {e}", assignment.value)))?;
        let value = wrapped.get("v").cloned().unwrap_or(Value::Boolean(false));
        let Some((last, above)) = assignment.path.split_last() else {
            continue;
        };
        let mut place = Value::Table(std::mem::take(&mut document));
        let whole = put(&mut place, above, last, value);
        if let Value::Table(table) = place {
            document = table;
        }
        whole.ok_or_else(|| {
            bad(format!("no such place: {}", assignment.path.join(".")))
                .hint("keys and indices from 0, outermost first: service.2.port.0.mode")
        })?;
    }
    toml::to_string(&document).map_err(|e| bad(e.to_string()))
}

fn put(root: &mut Value, above: &[String], last: &str, value: Value) -> Option<()> {
    let mut place = root;
    for key in above {
        place = match place {
            Value::Table(table) => table.entry(key).or_insert_with(|| Value::Table(Table::new())),
            Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    match place {
        Value::Table(table) => {
            table.insert(last.to_owned(), value);
        }
        Value::Array(items) => *items.get_mut(last.parse::<usize>().ok()?)? = value,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(file: &str, path: &str, value: &str) -> Assignment {
        Assignment {
            file: file.into(),
            path: path.split('.').map(str::to_owned).collect(),
            value: value.into(),
        }
    }

    #[test]
    fn a_value_is_replaced_where_the_path_leads() {
        let text = assign(
            "mesh",
            MESH.to_owned(),
            &[set("mesh", "service.2.port.0.mode", "\"permissive\"")],
        )
        .unwrap();
        let table: Table = text.parse().unwrap();
        assert_eq!(
            table["service"][2]["port"][0]["mode"].as_str(),
            Some("permissive")
        );
        assert_eq!(table["service"][2]["name"].as_str(), Some("shop/payments"));
    }

    #[test]
    fn a_general_name_sets_every_sidecar_and_a_place_that_is_not_there_is_told() {
        let all = [set("sidecar", "limits.headers", "7")];
        assert!(
            assign("sidecar.web", "service = \"x\"\n".into(), &all)
                .unwrap()
                .contains("headers = 7")
        );
        assert!(assign("mesh", MESH.to_owned(), &all).unwrap() == MESH);
        assert!(assign("mesh", MESH.to_owned(), &[set("mesh", "service.9.name", "1")]).is_err());
    }
}
