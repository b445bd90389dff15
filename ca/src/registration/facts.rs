//! What is known about a caller, each with its proof or the reason why there is none.

use std::path::PathBuf;
use std::sync::Arc;

/// What is known about one property of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// Nobody needed it yet.
    Unasked,
    /// The kernel proves it.
    Proven(T),
    /// The kernel proves that the caller has no such thing, for this reason.
    Absent(Arc<str>),
    /// It could not be proven, for this reason.
    Unproven(Arc<str>),
}

impl<T> Fact<T> {
    /// The same with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        self.and_then(|value| Fact::Proven(change(value)))
    }

    /// What follows from the value, where there is one.
    pub fn and_then<U>(self, follow: impl FnOnce(T) -> Fact<U>) -> Fact<U> {
        match self {
            Self::Unasked => Fact::Unasked,
            Self::Proven(value) => follow(value),
            Self::Absent(reason) => Fact::Absent(reason),
            Self::Unproven(reason) => Fact::Unproven(reason),
        }
    }
}

/// Where in the tree of control groups a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The whole path.
    pub path: Arc<str>,
    /// The slices of the system manager that it is in, the outermost first.
    pub slices: Vec<Arc<str>>,
    /// The unit of the system manager.
    pub unit: Fact<Arc<str>>,
    /// The id of the container.
    pub container: Fact<Arc<str>>,
}

/// What is known about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Effective uid when it connected.
    pub uid: Fact<u32>,
    /// Effective gid when it connected.
    pub gid: Fact<u32>,
    /// The name of that uid on this machine now.
    pub user: Fact<Arc<str>>,
    /// The name of that gid on this machine now.
    pub group: Fact<Arc<str>>,
    /// The socket that it came through.
    pub socket: Arc<str>,
    /// Where in the tree of control groups it is.
    pub cgroup: Fact<Cgroup>,
    /// Path of its executable.
    pub path: Fact<PathBuf>,
    /// SHA-256 of its executable.
    pub sha256: Fact<[u8; 32]>,
}

impl Facts {
    /// What the connection alone proves.
    pub fn new(uid: Fact<u32>, gid: Fact<u32>, socket: Arc<str>) -> Self {
        Self {
            uid,
            gid,
            user: Fact::Unasked,
            group: Fact::Unasked,
            socket,
            cgroup: Fact::Unasked,
            path: Fact::Unasked,
            sha256: Fact::Unasked,
        }
    }

    /// The unit of the system manager.
    pub fn unit(&self) -> Fact<Arc<str>> {
        self.cgroup.clone().and_then(|cgroup| cgroup.unit)
    }

    /// The id of the container.
    pub fn container(&self) -> Fact<Arc<str>> {
        self.cgroup.clone().and_then(|cgroup| cgroup.container)
    }
}

/// A fact that somebody has to read before entries can be matched; the cheaper ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Its place in the tree of control groups.
    Cgroup,
    /// The name of its uid.
    User,
    /// The name of its gid.
    Group,
    /// The path of the executable.
    Path,
    /// The hash of the executable.
    Sha256,
}

impl Ask {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cgroup, Self::User, Self::Group, Self::Path, Self::Sha256];
}
