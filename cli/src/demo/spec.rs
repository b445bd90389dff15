//! What a demo shall be: arguments enter, one value that travels to the first process of the namespaces leaves. It starts
//! nothing; it reads only the folder that `--dir` names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failed;
use super::pods::{Families, meshed};
use crate::ui::{Exit, Failure};

/// Everything that the first process of the namespaces must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The demo's name: `demo exec` finds it by that.
    pub name: String,
    /// How the program was called: commands to try begin with it.
    pub program: String,
    /// Address families of its network.
    pub families: Families,
    /// What it does once it is up.
    pub mode: Mode,
    /// Values that replace those of the templates.
    pub set: Vec<Assignment>,
    /// Files that replace whole templates, by path relative to the configuration's root.
    pub files: BTreeMap<PathBuf, String>,
}

/// What a demo does once it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Tells the story; ends after it, or stays.
    Story {
        /// Whether it ends after the story.
        once: bool,
    },
    /// Says that it is ready and stays.
    Bare,
}

/// `FILE:PATH=VALUE`: one value of one configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// `mesh`, `ca`, `entries`, `sidecar` (all of them) or `sidecar.POD`.
    pub file: String,
    /// Keys and indices, outermost first.
    pub path: Vec<String>,
    /// The value, in TOML.
    pub value: String,
}

/// Arguments of `hopguard demo`.
#[derive(clap::Args)]
pub struct TellArgs {
    /// End after the last scenario; exit code 0 only if each went as it must
    #[arg(long)]
    once: bool,
    /// The demo's name, by which `demo exec` finds it [default: demo; with --once one that nobody else has]
    #[arg(long, value_parser = valid_name)]
    name: Option<String>,
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    overrides: OverrideArgs,
}

/// Arguments of `hopguard demo up`.
#[derive(clap::Args)]
pub struct UpArgs {
    /// Tell no story, which this verb never does
    #[arg(long, hide = true)]
    bare: bool,
    /// The demo's name, by which `demo exec` finds it
    #[arg(long, default_value = DEFAULT_NAME, value_parser = valid_name)]
    name: String,
    #[command(flatten)]
    family: FamilyArgs,
    #[command(flatten)]
    overrides: OverrideArgs,
}

#[derive(clap::Args)]
struct OverrideArgs {
    /// A folder whose files replace those of the demo: mesh.toml, ca.toml, entries.toml, sidecar-POD.toml, policies/
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The life of an SVID, such as 5s
    #[arg(long, value_name = "DURATION", value_parser = svid_ttl)]
    svid_ttl: Option<String>,
    /// Replace one value: mesh:service.2.port.0.mode="permissive", ca:svid_ttl="5s", sidecar.web:limits.headers=10
    #[arg(long, value_name = "FILE:PATH=VALUE", value_parser = assignment)]
    set: Vec<Assignment>,
}

#[derive(clap::Args)]
struct FamilyArgs {
    /// A network without any IPv4 address
    #[arg(long, conflicts_with = "ipv4_only")]
    ipv6_only: bool,
    /// A network without any IPv6 address
    #[arg(long)]
    ipv4_only: bool,
}

/// The name of a demo that was given none.
pub const DEFAULT_NAME: &str = "demo";

impl TellArgs {
    /// A demo that tells the story. One that ends by itself needs no name to be found by.
    pub fn into_spec(self) -> Result<Spec, Failure> {
        let unnamed = || {
            if self.once {
                format!("once-{}", std::process::id())
            } else {
                DEFAULT_NAME.to_owned()
            }
        };
        let name = self.name.unwrap_or_else(unnamed);
        self.overrides
            .into_spec(name, &self.family, Mode::Story { once: self.once })
    }
}

impl UpArgs {
    /// A demo that tells nothing.
    pub fn into_spec(self) -> Result<Spec, Failure> {
        let _it_is_always_so = self.bare;
        self.overrides.into_spec(self.name, &self.family, Mode::Bare)
    }
}

impl OverrideArgs {
    fn into_spec(self, name: String, family: &FamilyArgs, mode: Mode) -> Result<Spec, Failure> {
        let ttl = self.svid_ttl.map(|ttl| Assignment {
            file: "ca".into(),
            path: vec!["svid_ttl".into()],
            value: format!("{ttl:?}"),
        });
        Ok(Spec {
            name,
            program: std::env::args().next().unwrap_or_else(|| "hopguard".to_owned()),
            families: family.families()?,
            mode,
            set: self.set.into_iter().chain(ttl).collect(),
            files: self
                .dir
                .as_deref()
                .map(read_folder)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

impl FamilyArgs {
    /// Both families, unless the arguments or the kernel say otherwise.
    fn families(&self) -> Result<Families, Failure> {
        let kernel_has_v6 = fs::exists("/proc/net/if_inet6").is_ok_and(|there| there);
        if self.ipv6_only && !kernel_has_v6 {
            return Err(Failure::new("this kernel has no IPv6").exit(Exit::NotHere));
        }
        Ok(Families {
            v4: !self.ipv6_only,
            v6: kernel_has_v6 && !self.ipv4_only,
        })
    }
}

/// A name that is safe to print and to bind, as a parser of arguments.
pub fn valid_name(name: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=48).contains(&name.len()) && name.chars().all(fine) {
        return Ok(name.to_owned());
    }
    Err("a demo's name is 1 to 48 letters, digits, - and _".to_owned())
}

/// As the authority will read it.
fn svid_ttl(text: &str) -> Result<String, String> {
    hopguard_ca::config::svid_ttl(text).map(|_| text.to_owned())
}

fn assignment(text: &str) -> Result<Assignment, String> {
    let wrong = || "must be FILE:PATH=VALUE, such as ca:svid_ttl=\"5s\"".to_owned();
    let (target, value) = text.split_once('=').ok_or_else(wrong)?;
    let (file, path) = target.split_once(':').ok_or_else(wrong)?;
    let sidecar = |pod: &str| meshed().any(|known| known.name == pod);
    if !["mesh", "ca", "entries", "sidecar"].contains(&file)
        && !file.strip_prefix("sidecar.").is_some_and(sidecar)
    {
        return Err(format!(
            "no file `{file}`; there are mesh, ca, entries, sidecar (all of them) and sidecar.POD"
        ));
    }
    if path.split('.').any(str::is_empty) {
        return Err(wrong());
    }
    format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .ok_or_else(|| format!("`{value}` is no TOML value; a text is written with its quotes"))?;
    Ok(Assignment {
        file: file.to_owned(),
        path: path.split('.').map(str::to_owned).collect(),
        value: value.to_owned(),
    })
}

/// The files of a folder and of its folders, at most two levels down.
fn read_folder(root: &Path) -> Result<BTreeMap<PathBuf, String>, Failure> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let here = root.join(&folder);
        let reading = || format!("reading {}", here.display());
        let bad = |failure: Failure| failure.exit(Exit::BadFile);
        for entry in fs::read_dir(&here).map_err(failed(&reading())).map_err(bad)? {
            let entry = entry.map_err(failed(&reading())).map_err(bad)?;
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() && folder.components().count() < 2 {
                folders.push(path);
            } else {
                let text = fs::read_to_string(entry.path())
                    .map_err(failed(&format!("reading {}", entry.path().display())))
                    .map_err(bad)?;
                files.insert(path, text);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_names_file_path_and_value() {
        let read = assignment(r#"mesh:service.2.port.0.mode="permissive""#).unwrap();
        assert_eq!(read.file, "mesh");
        assert_eq!(read.path, ["service", "2", "port", "0", "mode"]);
        assert_eq!(read.value, r#""permissive""#);
        for bad in [
            "mesh",
            "a=b",
            "mash:a=1",
            "sidecar.laptop:a=1",
            "mesh:a..b=1",
            "mesh:=1",
            "mesh:a=b",
            "mesh:a=1\nb=2",
        ] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
        assert!(assignment("sidecar.web:limits.headers=7").is_ok());
    }

    #[test]
    fn a_name_is_safe_to_print_and_to_bind() {
        assert!(valid_name("a-b_1").is_ok());
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(49)] {
            assert!(valid_name(bad).is_err(), "{bad}");
        }
    }
}
