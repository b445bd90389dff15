//! Why an intent is refused: a contradiction enters, words for people leave, with what to do about it.

use ipnet::IpNet;

use super::{MAX_ENTRIES, PortRange};

/// Why an intent is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// Nothing tells the sidecar's own packets.
    #[error("nothing tells the sidecar's own traffic: its connections would be redirected to itself")]
    NoOwn,
    /// Mark 0 is what unmarked packets carry.
    #[error("mark 0 is what every unmarked packet carries: all traffic would pass by the sidecar")]
    ZeroMark,
    /// The kernel's "no id".
    #[error("{0} is no user or group id")]
    BadId(u32),
    /// Port 0.
    #[error("port 0 in `{0}`")]
    ZeroPort(&'static str),
    /// One port in two settings that exclude each other.
    #[error("port {port} of `{setting}` is also in `{list}` ({range})")]
    Clash {
        /// The first setting.
        setting: &'static str,
        /// The port in both.
        port: u16,
        /// The second setting.
        list: &'static str,
        /// The entry of the second setting.
        range: PortRange,
    },
    /// Lists too long.
    #[error(
        "the lists of ports, networks, users and groups have {0} entries, at most {MAX_ENTRIES} are allowed"
    )]
    TooMany(usize),
    /// A network that is the whole family.
    #[error("`exclude_outbound_cidrs` has {0}, which is every address: nothing would be redirected")]
    Everything(IpNet),
    /// Networks that together leave no address of a family over.
    #[error("`exclude_outbound_cidrs` leaves no {0} address over: nothing would be redirected")]
    EveryAddress(&'static str),
    /// Ports that together leave none over.
    #[error("`{0}` leaves no port over: nothing would be redirected")]
    EveryPort(&'static str),
    /// Not a port, not a range.
    #[error("`{0}` is no port or range of ports")]
    BadPorts(String),
}

impl IntentError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoOwn => "name the sidecar's mark, uid or gid: --mark 1337, or `mark = 1337` in [own]",
            Self::ZeroMark => "use another mark, the same as `mark` in the sidecar's [traffic]: 1337",
            Self::BadId(_) => "give the number that `id -u` or `id -g` prints for the sidecar's user",
            Self::ZeroPort(_) => "ports are 1 to 65535",
            Self::Clash { .. } => "remove the port from one of the two",
            Self::TooMany(_) => "use ranges: \"9000-9010\"",
            Self::Everything(_) => "leave the redirect out (hopguard iptables undo) or name the networks",
            Self::EveryAddress(_) => {
                "name the networks that are to be left alone; to have no redirect at all: hopguard iptables undo"
            }
            Self::EveryPort("exclude_inbound_ports") => {
                "name the ports that are to be left alone; to redirect nothing inbound: inbound_ports = \"none\""
            }
            Self::EveryPort(_) => {
                "name the ports that are to be left alone; to have no redirect at all: hopguard iptables undo"
            }
            Self::BadPorts(_) => "write 8080 or 9000-9010, or the word `all` for inbound ports",
        }
    }
}
