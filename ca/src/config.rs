//! ca.toml: TOML -> raw -> typed, strict. Paths in it are relative to it. It fills each room's options; no room takes
//! the configuration whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use spiffe::TrustDomain;
use toml::Spanned;

use crate::problem::Problem;
use crate::registration::{self, Scope, Selector};
use crate::workload::{Limits, Socket};

const MAX_FILE: u64 = 1 << 20;
const SVID_TTL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(24 * 3600));
const SVID_TTL_BOUNDS: &str = "`svid_ttl` must be between 2s and 24h";
/// An authority must outlive what it signs, and a century is enough.
const MAX_CA_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that the authority speaks for.
    pub trust_domain: TrustDomain,
    /// Where keys and state are kept.
    pub data_dir: PathBuf,
    /// The entries file.
    pub entries: PathBuf,
    /// Life of an SVID.
    pub svid_ttl: Duration,
    /// Life of a new root.
    pub ca_ttl: Duration,
    /// The Workload API's sockets; at least one.
    pub sockets: Vec<Socket>,
    /// The Workload API's limits.
    pub limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    trust_domain: Spanned<String>,
    data_dir: Spanned<PathBuf>,
    entries: Spanned<PathBuf>,
    svid_ttl: Option<Spanned<String>>,
    ca_ttl: Option<Spanned<String>>,
    #[serde(default)]
    workload_api: Vec<Spanned<RawSocket>>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSocket {
    socket: Spanned<PathBuf>,
    name: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connections: Option<Spanned<u32>>,
    connections_per_uid: Option<Spanned<u32>>,
    streams_per_connection: Option<Spanned<u32>>,
    calls_per_second: Option<Spanned<u32>>,
    call_burst: Option<Spanned<u32>>,
}

/// Reads and checks ca.toml (not the entries file that it names).
///
/// # Errors
/// All that is wrong in it.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = read(path)?;
    parse(path, &text)
}

/// Checks a file of the authority, whichever of the two it is: ca.toml (with the entries file that it names) or an
/// entries file on its own (then without knowing trust domain and sockets).
///
/// # Errors
/// All that is wrong, with places.
pub fn check_file(path: &Path) -> Result<(), Vec<Problem>> {
    let text = read(path)?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|error| vec![Problem::toml(path, &text, &error).hint("this is not TOML")])?;
    if table.contains_key("entry") {
        return registration::load(path, &Scope::default()).map(|_| ());
    }
    if ["data_dir", "workload_api", "entries", "svid_ttl"]
        .iter()
        .any(|key| table.contains_key(*key))
    {
        let config = parse(path, &text)?;
        let mut problems = here(path, &text, &config);
        let sockets = config.sockets.iter().map(|socket| socket.name.clone()).collect();
        let scope = Scope {
            trust_domain: Some(config.trust_domain),
            sockets: Some(sockets),
        };
        if let Err(of_entries) = registration::load(&config.entries, &scope) {
            problems.extend(of_entries);
        }
        return if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        };
    }
    Err(vec![Problem::whole(path, "this is neither a ca.toml nor an entries file").hint(
        "a ca.toml has `trust_domain`, `data_dir`, `entries` and [[workload_api]]; an entries file has [[entry]]",
    )])
}

/// What the machine must have for the paths of a good file. Serving finds it out by itself.
fn here(path: &Path, text: &str, config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let raw: Option<Raw> = toml::from_str(text).ok();
    let places = raw.iter().flat_map(|raw| &raw.workload_api);
    for (socket, place) in config.sockets.iter().zip(places) {
        if let Err(error) = socket.check() {
            let at = place.get_ref().socket.span().start;
            problems.push(Problem::at(path, text, at, error.to_string()).hint(error.hint()));
        }
    }
    let parent = config.data_dir.parent().unwrap_or(Path::new("/"));
    let fault = if !parent.is_dir() {
        Some("is in no directory that exists")
    } else if config.data_dir.exists() && !config.data_dir.is_dir() {
        Some("is not a directory")
    } else {
        None
    };
    if let (Some(fault), Some(raw)) = (fault, &raw) {
        let message = format!("`data_dir` {} {fault}", config.data_dir.display());
        let problem = Problem::at(path, text, raw.data_dir.span().start, message);
        problems.push(problem.hint(format!(
            "the authority makes it, but not what is above: mkdir -p {}",
            parent.display()
        )));
    }
    problems
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    let problem = |message: String| {
        let hint = "name the file that was meant; `hopguard config init DIR` writes a first set";
        vec![Problem::whole(path, message).hint(hint)]
    };
    let found = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(problem(format!(
            "it is not a plain file of at most {MAX_FILE} bytes"
        )));
    }
    std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))
}

fn parse(path: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let raw: Raw = toml::from_str(text).map_err(|error| {
        vec![Problem::toml(path, text, &error).hint("the configuration reference lists the keys of ca.toml")]
    })?;
    let mut reader = Reader {
        path,
        text,
        problems: Vec::new(),
    };
    let trust_domain = reader.trust_domain(&raw.trust_domain);
    let svid_ttl = reader.svid_ttl(raw.svid_ttl.as_ref());
    let ca_ttl = reader.ca_ttl(raw.ca_ttl.as_ref(), svid_ttl);
    let sockets = reader.sockets(&raw.workload_api);
    let limits = reader.limits(&raw.limits);
    let (data_dir, entries) = (reader.file(&raw.data_dir), reader.file(&raw.entries));
    match trust_domain {
        Some(trust_domain) if reader.problems.is_empty() => Ok(Config {
            trust_domain,
            data_dir,
            entries,
            svid_ttl,
            ca_ttl,
            sockets,
            limits,
        }),
        _ => Err(reader.problems),
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn complain<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.problems
            .push(Problem::at(self.path, self.text, at.span().start, message).hint(hint));
    }

    fn trust_domain(&mut self, raw: &Spanned<String>) -> Option<TrustDomain> {
        match TrustDomain::new(raw.get_ref()) {
            Ok(domain) if domain.as_str() == raw.get_ref() => Some(domain),
            Ok(domain) => {
                self.complain(
                    raw,
                    format!("`{}` is not in its one form", raw.get_ref()),
                    format!("write \"{domain}\""),
                );
                None
            }
            Err(error) => {
                let message = format!("`{}` is not a trust domain: {error}", raw.get_ref());
                self.complain(
                    raw,
                    message,
                    "write a name like \"mesh.local\": a-z, 0-9, `.`, `-`, `_`",
                );
                None
            }
        }
    }

    fn file(&mut self, raw: &Spanned<PathBuf>) -> PathBuf {
        if raw.get_ref().as_os_str().is_empty() {
            self.complain(
                raw,
                "the path is empty",
                "name a file, relative to this one or absolute",
            );
        }
        if raw.get_ref().to_str().is_some_and(|path| path.contains("://")) {
            self.complain(
                raw,
                format!("`{}` is a URL, and a path is meant", raw.get_ref().display()),
                "write /run/hopguard/workload.sock, without unix://; clients name it with unix://",
            );
        }
        // Absolute, because clients and logs name it from elsewhere.
        let base = std::path::absolute(self.path).unwrap_or_else(|_| self.path.to_owned());
        base.parent().unwrap_or(Path::new("/")).join(raw.get_ref())
    }

    fn svid_ttl(&mut self, raw: Option<&Spanned<String>>) -> Duration {
        let ttl = self.duration(raw, Duration::from_secs(3600));
        if let Some(raw) = raw
            && (ttl < SVID_TTL.0 || ttl > SVID_TTL.1)
        {
            self.complain(raw, SVID_TTL_BOUNDS, "\"1h\" suits most meshes");
        }
        ttl
    }

    fn ca_ttl(&mut self, raw: Option<&Spanned<String>>, svid_ttl: Duration) -> Duration {
        let ttl = self.duration(raw, Duration::from_secs(87_600 * 3600));
        if let Some(raw) = raw
            && (ttl < svid_ttl * 2 || ttl > MAX_CA_TTL)
        {
            self.complain(
                raw,
                "`ca_ttl` must be at least twice `svid_ttl`, and at most 100 years",
                "write \"87600h\" for ten years",
            );
        }
        ttl
    }

    fn duration(&mut self, raw: Option<&Spanned<String>>, default: Duration) -> Duration {
        let Some(raw) = raw else { return default };
        duration(raw.get_ref()).unwrap_or_else(|| {
            let message = format!("`{}` is not a duration", raw.get_ref());
            self.complain(
                raw,
                message,
                "write a whole number and ms, s, m, h or d, like \"90s\"",
            );
            default
        })
    }

    fn sockets(&mut self, raw: &[Spanned<RawSocket>]) -> Vec<Socket> {
        if raw.is_empty() {
            let problem = Problem::whole(
                self.path,
                "there is no [[workload_api]]: nobody could reach the authority",
            );
            self.problems
                .push(problem.hint("add [[workload_api]] with socket = \"/run/hopguard/workload.sock\""));
        }
        let mut names = BTreeMap::new();
        let mut paths = BTreeMap::new();
        let mut sockets = Vec::with_capacity(raw.len());
        for one in raw {
            let socket = self.socket(one.get_ref());
            if names.insert(socket.name.clone(), ()).is_some() {
                let message = format!("two sockets have the name `{}`", socket.name);
                self.complain(one, message, "give each [[workload_api]] a `name` of its own");
            }
            if paths.insert(socket.path.clone(), ()).is_some() {
                self.complain(
                    one,
                    format!("two sockets are at `{}`", socket.path.display()),
                    "give each its own path",
                );
            }
            sockets.push(socket);
        }
        sockets
    }

    fn socket(&mut self, raw: &RawSocket) -> Socket {
        let name = raw
            .name
            .as_ref()
            .map_or("default", |name| name.get_ref().as_str());
        let name: Arc<str> = match (Selector::parse(&format!("socket:{name}")), &raw.name) {
            (Ok(Selector::Socket(name)), _) => name,
            (refused, Some(at)) => {
                let hint = refused.err().map_or("", |error| error.hint());
                self.complain(at, format!("`{name}` is not a name for a socket"), hint);
                name.into()
            }
            (_, None) => name.into(),
        };
        let mode = match &raw.mode {
            None => 0o666,
            Some(text) => mode(text.get_ref()).unwrap_or_else(|| {
                let message = format!("`{}` is not a mode for a socket", text.get_ref());
                self.complain(
                    text,
                    message,
                    "write it in octal, like \"0666\"; only read and write bits count",
                );
                0
            }),
        };
        Socket {
            name,
            path: self.file(&raw.socket),
            mode,
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let default = Limits::default();
        let limits = Limits {
            connections: self.limit(raw.connections.as_ref(), default.connections),
            connections_per_uid: self.limit(raw.connections_per_uid.as_ref(), default.connections_per_uid),
            streams_per_connection: self.limit(
                raw.streams_per_connection.as_ref(),
                default.streams_per_connection,
            ),
            calls_per_second: self.limit(raw.calls_per_second.as_ref(), default.calls_per_second),
            call_burst: self.limit(raw.call_burst.as_ref(), default.call_burst),
        };
        if let Some(raw) = raw.connections_per_uid.as_ref()
            && limits.connections_per_uid > limits.connections
        {
            self.complain(
                raw,
                "`connections_per_uid` is more than `connections`",
                "one uid could starve all others",
            );
        }
        limits
    }

    fn limit(&mut self, raw: Option<&Spanned<u32>>, default: u32) -> u32 {
        match raw {
            None => default,
            Some(raw) => {
                if *raw.get_ref() == 0 {
                    self.complain(
                        raw,
                        "a limit of 0 would refuse everyone",
                        format!("the default is {default}"),
                    );
                }
                *raw.get_ref()
            }
        }
    }
}

/// Reads a life of an SVID as ca.toml has it, for whoever writes one into such a file.
///
/// # Errors
/// What is wrong with it.
pub fn svid_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text).ok_or_else(|| {
        format!("`{text}` is not a duration: write a whole number and ms, s, m, h or d, like 90s")
    })?;
    if ttl < SVID_TTL.0 || ttl > SVID_TTL.1 {
        return Err(SVID_TTL_BOUNDS.to_owned());
    }
    Ok(ttl)
}

/// A whole number and a unit, nothing else.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(24 * 3600),
        _ => None,
    }
}

/// Three octal digits, perhaps after a 0; no bits to execute, nothing that keeps the owner out.
fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('0').unwrap_or(text);
    if digits.len() != 3 {
        return None;
    }
    let mode = u32::from_str_radix(digits, 8).ok()?;
    (mode & 0o111 == 0 && mode & 0o600 == 0o600).then_some(mode)
}

#[cfg(test)]
mod tests;
