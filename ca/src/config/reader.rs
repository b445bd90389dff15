//! Single values of ca.toml, checked: each complaint has its place and a remedy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spiffe::TrustDomain;
use toml::Spanned;

use super::{RawLimits, RawSocket};
use crate::audit::Target;
use crate::keys::PassphraseSource;
use crate::problem::Problem;
use crate::registration::{Host, Selector, is_segment};
use crate::workload::{Limits, Socket};

const SVID_TTL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(24 * 3600));
const SVID_TTL_BOUNDS: &str = "`svid_ttl` must be between 2s and 24h";
/// An authority must outlive what it signs, and a century is enough.
const MAX_CA_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A duration with its bounds, and what is said when it is outside.
pub struct Bounds {
    default: Duration,
    least: Duration,
    most: Duration,
    message: &'static str,
    hint: &'static str,
}

/// Life of a JWT-SVID.
pub const JWT_SVID_TTL: Bounds = Bounds {
    default: Duration::from_secs(300),
    least: Duration::from_secs(10),
    most: Duration::from_secs(24 * 3600),
    message: "`jwt_svid_ttl` must be between 10s and 24h",
    hint: "\"5m\" suits a token that is fetched when it is needed",
};

/// Life of a JWT signing key.
pub const JWT_KEY_TTL: Bounds = Bounds {
    default: Duration::from_secs(30 * 24 * 3600),
    least: Duration::from_secs(10),
    most: Duration::from_secs(10 * 365 * 24 * 3600),
    message: "`jwt_key_ttl` must be between 10s and 3650d",
    hint: "\"30d\" suits most meshes: a key that is replaced often is worth less to a thief",
};

/// Refresh hint of the bundle.
pub const REFRESH_HINT: Bounds = Bounds {
    default: Duration::from_secs(300),
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 3600),
    message: "`refresh_hint` must be between 1s and 24h",
    hint: "\"5m\" is what those do who are told nothing",
};

/// Reads values, and collects what is wrong.
pub struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    pub problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            problems: Vec::new(),
        }
    }

    pub fn complain<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.problems
            .push(Problem::at(self.path, self.text, at.span().start, message).hint(hint));
    }

    pub fn trust_domain(&mut self, raw: &Spanned<String>) -> Option<TrustDomain> {
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

    pub fn file(&mut self, raw: &Spanned<PathBuf>) -> PathBuf {
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

    /// A file, or standard error by its name.
    pub fn audit(&mut self, raw: &Spanned<PathBuf>) -> Target {
        if raw.get_ref().as_os_str() == "stderr" {
            return Target::Stderr;
        }
        Target::File(self.file(raw))
    }

    pub fn svid_ttl(&mut self, raw: Option<&Spanned<String>>) -> Duration {
        let ttl = self.duration(raw, Duration::from_secs(3600));
        if let Some(raw) = raw
            && (ttl < SVID_TTL.0 || ttl > SVID_TTL.1)
        {
            self.complain(raw, SVID_TTL_BOUNDS, "\"1h\" suits most meshes");
        }
        ttl
    }

    pub fn passphrase(
        &mut self,
        file: Option<&Spanned<PathBuf>>,
        credential: Option<&Spanned<String>>,
    ) -> Option<PassphraseSource> {
        if let (Some(_), Some(second)) = (file, credential) {
            self.complain(
                second,
                "there are two passphrases",
                "keep `key_passphrase_file` or `key_passphrase_credential`",
            );
        }
        if let Some(raw) = credential {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let name = raw.get_ref();
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                let message = format!("`{name}` is no name of a credential");
                self.complain(
                    raw,
                    message,
                    "name it as LoadCredential= of the systemd unit does",
                );
            }
            return Some(PassphraseSource::Credential(name.clone()));
        }
        file.map(|path| PassphraseSource::File(self.file(path)))
    }

    pub fn ca_ttl(&mut self, raw: Option<&Spanned<String>>, svid_ttl: Duration) -> Duration {
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

    pub fn within(&mut self, raw: Option<&Spanned<String>>, bounds: &Bounds) -> Duration {
        let value = self.duration(raw, bounds.default);
        if let Some(raw) = raw
            && (value < bounds.least || value > bounds.most)
        {
            self.complain(raw, bounds.message, bounds.hint);
        }
        value
    }

    pub fn duration(&mut self, raw: Option<&Spanned<String>>, default: Duration) -> Duration {
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

    /// The name of this machine: what is written, else what the system has.
    pub fn host(&mut self, raw: Option<&Spanned<String>>) -> Host {
        if let Some(raw) = raw {
            let name = raw.get_ref();
            if !is_segment(name) {
                let message = format!("`{name}` cannot be a part of a SPIFFE ID");
                self.complain(raw, message, "only letters, digits, `.`, `-` and `_` can");
            }
            return Host::Name(name.as_str().into());
        }
        match nix::unistd::gethostname() {
            Ok(name) => match name.to_str().filter(|name| is_segment(name)) {
                Some(name) => Host::Name(name.into()),
                None => {
                    let name = name.to_string_lossy().escape_debug().to_string();
                    Host::Unusable(
                        format!("the machine's name `{name}` cannot be a part of a SPIFFE ID").into(),
                    )
                }
            },
            Err(error) => Host::Unusable(format!("the machine's name cannot be read: {error}").into()),
        }
    }

    pub fn sockets(&mut self, raw: &[Spanned<RawSocket>]) -> Vec<Socket> {
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

    pub fn socket(&mut self, raw: &RawSocket) -> Socket {
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

    pub fn limits(&mut self, raw: &RawLimits) -> Limits {
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

    pub fn limit(&mut self, raw: Option<&Spanned<u32>>, default: u32) -> u32 {
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
pub fn duration(text: &str) -> Option<Duration> {
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
