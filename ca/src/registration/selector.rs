//! One condition of an entry, and how it is written: `unix:uid:1000`, `unix:user:orders`, `unix:gid:1000`,
//! `unix:group:shop`, `unix:path:/usr/bin/orders`, `unix:sha256:HEX`, `systemd:unit:orders.service`,
//! `systemd:slice:shop.slice`, `container:cgroup:/shop/orders`, `container:id:HEX`, `socket:NAME`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A condition that the kernel can prove about a caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Effective uid when it connected.
    Uid(u32),
    /// Effective gid when it connected (not a supplementary group).
    Gid(u32),
    /// The name that this machine gives that uid now.
    User(Arc<str>),
    /// The name that this machine gives that gid now.
    Group(Arc<str>),
    /// Path of the executable that runs.
    Path(PathBuf),
    /// SHA-256 of the executable that runs.
    Sha256([u8; 32]),
    /// The name of the Workload API socket that it came through.
    Socket(Arc<str>),
    /// The unit of the system manager that it runs in.
    Unit(Arc<str>),
    /// A slice of the system manager that its unit is in.
    Slice(Arc<str>),
    /// Where in the tree of control groups it is: there or below.
    Cgroup(Arc<str>),
    /// The id of the container that it runs in.
    Container(Arc<str>),
}

/// What a unit that holds processes ends with.
pub const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The kind is not one of ours.
    #[error("unknown selector `{0}`")]
    Unknown(String),
    /// Not a number of 32 bits.
    #[error("`{0}` is not a number between 0 and 4294967294")]
    Number(String),
    /// Not an absolute, normal path.
    #[error("`{0}` is not an absolute path without `.`, `..`, `//` or a trailing `/`")]
    Path(String),
    /// Not 64 hexadecimal digits.
    #[error("`{0}` is not a SHA-256 in 64 hexadecimal digits")]
    Hash(String),
    /// Not the name of a socket.
    #[error("`{0}` is not the name of a socket")]
    Socket(String),
    /// Not the name of a user or a group.
    #[error("`{0}` is not the name of a user or a group")]
    Name(String),
    /// Not the name of a unit.
    #[error("`{0}` is not the full name of a unit that runs processes")]
    Unit(String),
    /// Not the name of a slice.
    #[error("`{0}` is not the full name of a slice")]
    Slice(String),
    /// Not a place in the tree of control groups.
    #[error("`{0}` is not the path of a control group without `.`, `..`, `//` or a trailing `/`")]
    Cgroup(String),
    /// A place whose owner is a user.
    #[error("`{0}` is below a user's own service manager, where that user makes whatever groups he likes")]
    OfAUser(String),
    /// Not the id of a container.
    #[error("`{0}` is not the id of a container in 64 hexadecimal digits")]
    Container(String),
}

impl SelectorError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unknown(_) => {
                "known are unix:uid:N, unix:gid:N, unix:user:NAME, unix:group:NAME, unix:path:/ABSOLUTE, \
                 unix:sha256:HEX, systemd:unit:NAME.service, systemd:slice:NAME.slice, container:cgroup:/PATH, \
                 container:id:HEX and socket:NAME"
            }
            Self::Number(_) => "write the number itself (`id -u NAME` prints it)",
            Self::Name(_) => {
                "write it as `id -un` or `id -gn` prints it; a number goes with unix:uid: or unix:gid:"
            }
            Self::Unit(_) => "write it whole, like orders.service (`systemctl status PID` prints it)",
            Self::Slice(_) => "write it whole, like shop.slice (`systemctl status PID` prints it)",
            Self::Cgroup(_) => "write the path that /proc/PID/cgroup shows, or the start of it",
            Self::OfAUser(_) => "name the user instead (unix:user:NAME), or a unit of the system manager",
            Self::Container(_) => "write it whole: `docker inspect --format {{.Id}} NAME` prints it",
            Self::Path(_) => "write the path as `readlink /proc/PID/exe` prints it",
            Self::Hash(_) => "`sha256sum FILE` prints it",
            Self::Socket(_) => {
                "write the `name` of a [[workload_api]] of ca.toml: letters, digits, `.`, `_` and `-`"
            }
        }
    }
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// When it is not written as one.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if let Some(name) = text.strip_prefix("socket:") {
            return socket_name(name).map(Self::Socket);
        }
        let mut parts = text.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("unix"), Some("uid"), Some(value)) => number(value).map(Self::Uid),
            (Some("unix"), Some("gid"), Some(value)) => number(value).map(Self::Gid),
            (Some("unix"), Some("user"), Some(value)) => account(value).map(Self::User),
            (Some("unix"), Some("group"), Some(value)) => account(value).map(Self::Group),
            (Some("unix"), Some("path"), Some(value)) => path(value).map(Self::Path),
            (Some("unix"), Some("sha256"), Some(value)) => hash(value).map(Self::Sha256),
            (Some("systemd"), Some("unit"), Some(value)) => unit(value).map(Self::Unit),
            (Some("systemd"), Some("slice"), Some(value)) => slice(value).map(Self::Slice),
            (Some("container"), Some("cgroup"), Some(value)) => cgroup(value).map(Self::Cgroup),
            (Some("container"), Some("id"), Some(value)) => container(value).map(Self::Container),
            _ => Err(SelectorError::Unknown(text.to_owned())),
        }
    }

    /// Whether two selectors state the same kind of thing, so that with different values no caller has both.
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Path(path) => write!(f, "unix:path:{}", path.display()),
            Self::Sha256(hash) => write!(f, "unix:sha256:{}", hex::encode(hash)),
            Self::Socket(name) => write!(f, "socket:{name}"),
            Self::User(name) => write!(f, "unix:user:{name}"),
            Self::Group(name) => write!(f, "unix:group:{name}"),
            Self::Unit(name) => write!(f, "systemd:unit:{name}"),
            Self::Slice(name) => write!(f, "systemd:slice:{name}"),
            Self::Cgroup(path) => write!(f, "container:cgroup:{path}"),
            Self::Container(id) => write!(f, "container:id:{id}"),
        }
    }
}

/// Only digits: no sign, no blank. The last number means "none" to the kernel.
fn number(text: &str) -> Result<u32, SelectorError> {
    let error = || SelectorError::Number(text.to_owned());
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    match text.parse() {
        Ok(u32::MAX) | Err(_) => Err(error()),
        Ok(number) => Ok(number),
    }
}

fn path(text: &str) -> Result<PathBuf, SelectorError> {
    let normal = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    match text.strip_prefix('/') {
        Some(rest) if rest.split('/').all(normal) && !text.contains('\0') => Ok(PathBuf::from(text)),
        _ => Err(SelectorError::Path(text.to_owned())),
    }
}

/// A name as passwd and group may have it. Not a number: those that look like one are read as one by half of the tools.
fn account(text: &str) -> Result<Arc<str>, SelectorError> {
    let strange = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | ',');
    let number = text.bytes().all(|b| b.is_ascii_digit());
    if text.is_empty() || text.len() > 256 || number || text.chars().any(strange) {
        return Err(SelectorError::Name(text.to_owned()));
    }
    Ok(text.into())
}

/// Whether a text is spelt as names of units are.
pub fn is_unit_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    text.len() <= 255 && !text.starts_with('.') && text.bytes().all(allowed)
}

fn unit(text: &str) -> Result<Arc<str>, SelectorError> {
    if !is_unit_name(text) || !UNITS.iter().any(|suffix| text.ends_with(suffix)) {
        return Err(SelectorError::Unit(text.to_owned()));
    }
    Ok(text.into())
}

fn slice(text: &str) -> Result<Arc<str>, SelectorError> {
    if !is_unit_name(text) || !text.ends_with(".slice") {
        return Err(SelectorError::Slice(text.to_owned()));
    }
    Ok(text.into())
}

/// The service that the system manager runs for a user, who makes the groups below it himself.
pub fn is_users_manager(unit: &str) -> bool {
    unit.starts_with("user@") && unit.ends_with(".service")
}

fn cgroup(text: &str) -> Result<Arc<str>, SelectorError> {
    let normal = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    let segments = text.strip_prefix('/').unwrap_or_default();
    if !segments.split('/').all(normal) || text.chars().any(char::is_control) {
        return Err(SelectorError::Cgroup(text.to_owned()));
    }
    let mut above = segments.split('/').rev().skip(1);
    if above.any(is_users_manager) {
        return Err(SelectorError::OfAUser(text.to_owned()));
    }
    Ok(text.into())
}

/// Whether a text is the whole id of a container.
pub fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn container(text: &str) -> Result<Arc<str>, SelectorError> {
    if !is_container_id(text) {
        return Err(SelectorError::Container(text.to_owned()));
    }
    Ok(text.into())
}

fn hash(text: &str) -> Result<[u8; 32], SelectorError> {
    let mut hash = [0; 32];
    match hex::decode_to_slice(text, &mut hash) {
        Ok(()) => Ok(hash),
        Err(_) => Err(SelectorError::Hash(text.to_owned())),
    }
}

fn socket_name(text: &str) -> Result<Arc<str>, SelectorError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err(SelectorError::Socket(text.to_owned()));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        let hash = format!("unix:sha256:{}", "ab".repeat(32));
        let container = format!("container:id:{}", "ab".repeat(32));
        for text in [
            "unix:uid:0",
            "unix:gid:4294967294",
            "unix:path:/usr/bin/a b",
            &hash,
            "socket:orders-1.x_y",
            "unix:user:orders",
            "unix:user:DOM\\orders",
            "unix:group:shop",
            "systemd:unit:orders.service",
            "systemd:unit:orders@1.service",
            "systemd:unit:a:b\\x2d.scope",
            "systemd:slice:shop.slice",
            "container:cgroup:/shop/orders",
            "container:cgroup:/kubepods.slice",
            "container:cgroup:/user.slice/user-1000.slice/user@1000.service",
            &container,
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_exactly_a_selector_is_refused() {
        let short = format!("unix:sha256:{}", "ab".repeat(31));
        let capital = format!("container:id:{}", "AB".repeat(32));
        for text in [
            "",
            "unix",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:+1",
            "unix:uid: 1",
            "unix:uid:1 ",
            "unix:uid:root",
            "unix:uid:4294967295",
            "unix:uid:4294967296",
            "Unix:uid:1",
            " unix:uid:1",
            "unix:path:usr",
            "unix:path:",
            "unix:path:/",
            "unix:path:/a/../b",
            "unix:path:/a//b",
            "unix:path:/a/",
            "unix:path:/a/.",
            &short,
            "unix:sha256:zz",
            "socket:",
            "socket:a b",
            "socket:a/b",
            "k8s:ns:x",
            "unix:user:",
            "unix:user:1000",
            "unix:user:a b",
            "unix:user:a:b",
            "unix:user:a/b",
            "unix:user:a\n",
            "unix:group:0",
            "unix:root:x",
            "systemd:unit:orders",
            "systemd:unit:.service/x.service",
            "systemd:unit:a b.service",
            "systemd:unit:shop.slice",
            "systemd:unit:",
            "systemd:slice:shop",
            "systemd:slice:orders.service",
            "systemd:id:orders.service",
            "container:cgroup:",
            "container:cgroup:/",
            "container:cgroup:shop",
            "container:cgroup:/shop/",
            "container:cgroup:/shop//orders",
            "container:cgroup:/../shop",
            "container:cgroup:/user.slice/user-1000.slice/user@1000.service/app.slice",
            "container:id:abc",
            "container:name:orders",
            &capital,
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert!(!error.hint().is_empty());
        }
    }
}
