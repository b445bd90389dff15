//! The few settings of `sidecar.toml` that the doctor looks at. It checks nothing else of the file: that is
//! `hopguard config check`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What the doctor needs to know of a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a file was given: what would be no fault of a bare machine is one of a configured sidecar.
    pub configured: bool,
    /// The Workload API's endpoint; from the file, else from `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_api: Option<String>,
    /// `SO_MARK` of the sidecar's sockets.
    pub mark: Option<u32>,
    /// The ports that the sidecar listens on, with what each is for.
    pub ports: Vec<(u16, &'static str)>,
    /// Where redirected outbound connections arrive.
    pub outbound_port: u16,
    /// Where redirected inbound connections arrive.
    pub inbound_port: u16,
    /// The most connections at once.
    pub connections: u64,
    /// The mesh's file.
    pub mesh: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(&Table::new(), Path::new(""), false)
    }
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or is no TOML; with file, line and column.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.lines().count().max(1));
            format!("{}:{line}: {}", path.display(), error.message())
        })?;
        Ok(Self::of(&table, path.parent().unwrap_or(Path::new("")), true))
    }

    fn of(table: &Table, folder: &Path, configured: bool) -> Self {
        let get = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
        let port = |section, key, default| {
            get(section, key)
                .and_then(Value::as_integer)
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(default)
        };
        let listen = |section, default| {
            let listen = get(section, "listen")
                .and_then(Value::as_str)
                .and_then(|text| text.parse::<SocketAddr>().ok());
            listen.map_or(default, |address| address.port())
        };
        let (outbound_port, inbound_port) = (port("outbound", "port", 15001), port("inbound", "port", 15006));
        let from_file = get("identity", "workload_api")
            .and_then(Value::as_str)
            .map(str::to_owned);
        Self {
            configured,
            workload_api: from_file.or_else(|| std::env::var("SPIFFE_ENDPOINT_SOCKET").ok()),
            mark: get("traffic", "mark")
                .and_then(Value::as_integer)
                .and_then(|mark| u32::try_from(mark).ok()),
            ports: vec![
                (outbound_port, "outbound"),
                (inbound_port, "inbound"),
                (port("inbound", "hbone_port", 15008), "HBONE"),
                (listen("metrics", 15020), "metrics"),
                (listen("health", 15021), "health"),
            ],
            outbound_port,
            inbound_port,
            connections: get("limits", "connections")
                .and_then(Value::as_integer)
                .and_then(|count| u64::try_from(count).ok())
                .unwrap_or(20_000),
            mesh: table
                .get("mesh")
                .and_then(Value::as_str)
                .map(|mesh| folder.join(mesh)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_wins_over_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sidecar.toml");
        let text = "mesh = \"mesh.toml\"\n[identity]\nworkload_api = \"unix:///run/x.sock\"\n[outbound]\nport = 4140\n\
            [traffic]\nmark = 1337\n[health]\nlisten = \"[::]:4191\"\n";
        std::fs::write(&file, text).unwrap();
        let settings = Settings::read(&file).unwrap();
        assert_eq!(settings.workload_api.as_deref(), Some("unix:///run/x.sock"));
        assert_eq!(
            (settings.mark, settings.outbound_port, settings.inbound_port),
            (Some(1337), 4140, 15006)
        );
        assert_eq!(settings.ports.last(), Some(&(4191, "health")));
        assert_eq!(settings.mesh, Some(dir.path().join("mesh.toml")));
    }

    #[test]
    fn a_file_that_is_no_toml_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sidecar.toml");
        std::fs::write(&file, "mesh = \"mesh.toml\"\nmark = \n").unwrap();
        let problem = Settings::read(&file).unwrap_err();
        assert!(problem.contains("sidecar.toml:2:"), "{problem}");
    }
}
