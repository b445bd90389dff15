//! One condition of an entry, and how it is written: `unix:uid:1000`, `unix:gid:1000`, `unix:path:/usr/bin/orders`,
//! `unix:sha256:HEX`, `socket:NAME`.

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
    /// Path of the executable that runs.
    Path(PathBuf),
    /// SHA-256 of the executable that runs.
    Sha256([u8; 32]),
    /// The name of the Workload API socket that it came through.
    Socket(Arc<str>),
}

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
}

impl SelectorError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unknown(_) => {
                "known are unix:uid:N, unix:gid:N, unix:path:/ABSOLUTE, unix:sha256:HEX and socket:NAME"
            }
            Self::Number(_) => "write the number itself (`id -u NAME` prints it)",
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
        if let Some(value) = text.strip_prefix("unix:uid:") {
            return number(value).map(Self::Uid);
        }
        if let Some(value) = text.strip_prefix("unix:gid:") {
            return number(value).map(Self::Gid);
        }
        if let Some(value) = text.strip_prefix("unix:path:") {
            return path(value).map(Self::Path);
        }
        if let Some(value) = text.strip_prefix("unix:sha256:") {
            return hash(value).map(Self::Sha256);
        }
        if let Some(value) = text.strip_prefix("socket:") {
            return socket_name(value).map(Self::Socket);
        }
        Err(SelectorError::Unknown(text.to_owned()))
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
        for text in [
            "unix:uid:0",
            "unix:gid:4294967294",
            "unix:path:/usr/bin/a b",
            &hash,
            "socket:orders-1.x_y",
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_exactly_a_selector_is_refused() {
        let short = format!("unix:sha256:{}", "ab".repeat(31));
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
            "unix:user:root",
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert!(!error.hint().is_empty());
        }
    }
}
