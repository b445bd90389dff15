//! What the user wants of the redirect: the raw words of a file or of flags enter, an [`Intent`] that cannot be wrong
//! leaves. It knows nothing of rules.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod cover;
mod error;

pub use error::IntentError;

/// The most entries that all lists may have together. Each becomes a rule that every new connection walks past; and in a
/// user namespace the kernel takes no more than some 400 rules in one transaction (its limit for a socket's send buffer).
pub const MAX_ENTRIES: usize = 256;

/// Where redirected outbound connections arrive, as in Istio.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where redirected inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// The listeners of the sidecar that are reached directly: HBONE, metrics, health.
pub const SIDECAR_PORTS: [u16; 3] = [15008, 15020, 15021];

/// The redirect as a file (`redirect.toml`) or flags say it, not yet checked as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawIntent {
    /// Which inbound TCP ports are redirected: `"all"`, or a list of ports and ranges (`[8080, "9000-9010"]`).
    pub inbound_ports: InboundPorts,
    /// Inbound ports left alone besides the sidecar's own.
    pub exclude_inbound_ports: Vec<PortRange>,
    /// The sidecar's own listeners that peers reach directly; never redirected.
    pub sidecar_ports: Vec<u16>,
    /// Destination ports (TCP, and UDP when that is rejected) left alone.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Destination networks left alone, IPv4 or IPv6.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// What happens to the application's outbound UDP.
    pub udp: Udp,
    /// Whether TCP that should have been redirected and was not is dropped (table filter).
    pub guard: bool,
    /// The sidecar's listener for redirected outbound connections.
    pub outbound_port: u16,
    /// The sidecar's listener for redirected inbound connections.
    pub inbound_port: u16,
    /// For which of IPv4 and IPv6.
    pub families: Families,
    /// How the sidecar's own traffic is told from the application's.
    pub own: RawOwn,
}

/// How the sidecar's own traffic is told: what matches any of these is the sidecar's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawOwn {
    /// `SO_MARK` of the sidecar's sockets.
    pub mark: Option<u32>,
    /// Numeric users that the sidecar runs as.
    pub uids: Vec<u32>,
    /// Numeric primary groups that the sidecar runs as.
    pub gids: Vec<u32>,
}

impl Default for RawIntent {
    fn default() -> Self {
        Self {
            inbound_ports: InboundPorts::All,
            exclude_inbound_ports: Vec::new(),
            sidecar_ports: SIDECAR_PORTS.to_vec(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            udp: Udp::Leave,
            guard: true,
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            families: Families::Auto,
            own: RawOwn::default(),
        }
    }
}

/// A checked [`RawIntent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Intent(RawIntent);

impl Intent {
    /// The settings, all consistent.
    pub fn get(&self) -> &RawIntent {
        &self.0
    }
}

impl RawIntent {
    /// Checks the settings as a whole.
    ///
    /// # Errors
    /// The first contradiction found, with the setting's name.
    pub fn parse(mut self) -> Result<Intent, IntentError> {
        self.check_own()?;
        self.check_sizes()?;
        self.check_ports()?;
        for cidr in &mut self.exclude_outbound_cidrs {
            *cidr = cidr.trunc();
            if cidr.prefix_len() == 0 {
                return Err(IntentError::Everything(*cidr));
            }
        }
        self.check_cover()?;
        Ok(Intent(self))
    }

    /// Exclusions that leave nothing over are a redirect that looks like one and is none.
    fn check_cover(&self) -> Result<(), IntentError> {
        if let Some(family) = cover::every_address(&self.exclude_outbound_cidrs) {
            return Err(IntentError::EveryAddress(family));
        }
        if cover::every_port(&self.exclude_outbound_ports) {
            return Err(IntentError::EveryPort("exclude_outbound_ports"));
        }
        // What is never redirected anyway leaves nothing over either.
        let own = self
            .sidecar_ports
            .iter()
            .chain([&self.inbound_port, &self.outbound_port]);
        let mut inbound: Vec<PortRange> = own.map(|port| PortRange::one(*port)).collect();
        inbound.extend(&self.exclude_inbound_ports);
        if self.inbound_ports == InboundPorts::All && cover::every_port(&inbound) {
            return Err(IntentError::EveryPort("exclude_inbound_ports"));
        }
        Ok(())
    }

    fn check_own(&self) -> Result<(), IntentError> {
        let own = &self.own;
        if own.mark.is_none() && own.uids.is_empty() && own.gids.is_empty() {
            return Err(IntentError::NoOwn);
        }
        // A packet of a socket without SO_MARK carries mark 0: it would let every application pass.
        if own.mark == Some(0) {
            return Err(IntentError::ZeroMark);
        }
        // The kernel's "no id".
        match own.uids.iter().chain(&own.gids).find(|id| **id == u32::MAX) {
            Some(id) => Err(IntentError::BadId(*id)),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), IntentError> {
        let listed = match &self.inbound_ports {
            InboundPorts::All => 0,
            InboundPorts::List(ports) => ports.len(),
        };
        let count = listed
            + self.exclude_inbound_ports.len()
            + self.sidecar_ports.len()
            + self.exclude_outbound_ports.len()
            + self.exclude_outbound_cidrs.len()
            + self.own.uids.len()
            + self.own.gids.len();
        if count > MAX_ENTRIES {
            return Err(IntentError::TooMany(count));
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), IntentError> {
        for (setting, port) in [
            ("outbound_port", self.outbound_port),
            ("inbound_port", self.inbound_port),
        ] {
            if port == 0 {
                return Err(IntentError::ZeroPort(setting));
            }
            // Excluding a redirect target would leave it reachable from outside under its own name.
            let lists = [("exclude_inbound_ports", &self.exclude_inbound_ports)];
            for (list, ranges) in lists.iter().copied().chain(self.inbound_list()) {
                if let Some(range) = ranges.iter().find(|range| range.contains(port)) {
                    return Err(IntentError::Clash {
                        setting,
                        port,
                        list,
                        range: *range,
                    });
                }
            }
            if self.sidecar_ports.contains(&port) {
                return Err(IntentError::Clash {
                    setting,
                    port,
                    list: "sidecar_ports",
                    range: PortRange::one(port),
                });
            }
        }
        if self.outbound_port == self.inbound_port {
            return Err(IntentError::Clash {
                setting: "outbound_port",
                port: self.outbound_port,
                list: "inbound_port",
                range: PortRange::one(self.inbound_port),
            });
        }
        if self.sidecar_ports.contains(&0) {
            return Err(IntentError::ZeroPort("sidecar_ports"));
        }
        self.check_listed()
    }

    /// A port both redirected and left alone is a contradiction, not a priority.
    fn check_listed(&self) -> Result<(), IntentError> {
        let Some((list, ranges)) = self.inbound_list() else {
            return Ok(());
        };
        let sidecar = self
            .sidecar_ports
            .iter()
            .map(|port| ("sidecar_ports", PortRange::one(*port)));
        let excluded = self
            .exclude_inbound_ports
            .iter()
            .map(|range| ("exclude_inbound_ports", *range));
        for (setting, other) in sidecar.chain(excluded) {
            if let Some(range) = ranges.iter().find(|range| range.overlaps(other)) {
                return Err(IntentError::Clash {
                    setting,
                    port: other.first().max(range.first()),
                    list,
                    range: *range,
                });
            }
        }
        Ok(())
    }

    fn inbound_list(&self) -> Option<(&'static str, &Vec<PortRange>)> {
        match &self.inbound_ports {
            InboundPorts::All => None,
            InboundPorts::List(ports) => Some(("inbound_ports", ports)),
        }
    }
}

/// A port, or a range of ports with both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Just `port`.
    pub fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// `first` to `last`, both included; `None` when reversed or with port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = IntentError;

    fn from_str(text: &str) -> Result<Self, IntentError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok();
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| IntentError::BadPorts(text.to_owned()))
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port (8080) or a range of ports (\"9000-9010\")")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<PortRange, E> {
                u16::try_from(value)
                    .ok()
                    .and_then(|port| PortRange::new(port, port))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<PortRange, E> {
                u16::try_from(value)
                    .ok()
                    .and_then(|port| PortRange::new(port, port))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<PortRange, E> {
                value
                    .parse()
                    .map_err(|_bad| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Which inbound ports are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundPorts {
    /// Every port but the excluded ones.
    All,
    /// These alone; none when empty.
    List(Vec<PortRange>),
}

impl FromStr for InboundPorts {
    type Err = IntentError;

    fn from_str(text: &str) -> Result<Self, IntentError> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::List(Vec::new())),
            list => list
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map(Self::List),
        }
    }
}

impl Serialize for InboundPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::List(ports) => ports.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for InboundPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = InboundPorts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", \"none\" or a list of ports and ranges ([8080, \"9000-9010\"])")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<InboundPorts, E> {
                value
                    .parse()
                    .map_err(|_bad| E::invalid_value(de::Unexpected::Str(value), &self))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<InboundPorts, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(InboundPorts::List)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What happens to the application's outbound UDP, which is never redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Udp {
    /// It is not touched.
    Leave,
    /// Rejected with "port unreachable" (QUIC clients then fall back to TCP), but for loopback, DNS (port 53), what is
    /// excluded, and the sidecar's own.
    Reject,
}

/// For which of IPv4 and IPv6 the redirect is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4, and IPv6 where the machine has it.
    Auto,
    /// Both, whatever the machine says.
    Both,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked() -> RawIntent {
        RawIntent {
            own: RawOwn {
                mark: Some(1337),
                ..RawOwn::default()
            },
            ..RawIntent::default()
        }
    }

    fn ports(list: &str) -> Vec<PortRange> {
        list.split(',').map(|p| p.parse().unwrap()).collect()
    }

    #[test]
    fn own_traffic_must_be_told() {
        assert_eq!(RawIntent::default().parse(), Err(IntentError::NoOwn));
        let zero = RawIntent {
            own: RawOwn {
                mark: Some(0),
                ..RawOwn::default()
            },
            ..RawIntent::default()
        };
        assert_eq!(zero.parse(), Err(IntentError::ZeroMark));
        let none = RawIntent {
            own: RawOwn {
                uids: vec![u32::MAX],
                ..RawOwn::default()
            },
            ..RawIntent::default()
        };
        assert_eq!(none.parse(), Err(IntentError::BadId(u32::MAX)));
        marked().parse().unwrap();
    }

    #[test]
    fn the_redirect_targets_cannot_be_excluded_or_served() {
        for range in ["15001", "15000-15010", "15006"] {
            let excluded = RawIntent {
                exclude_inbound_ports: ports(range),
                ..marked()
            };
            assert!(
                matches!(excluded.parse(), Err(IntentError::Clash { .. })),
                "{range}"
            );
            let served = RawIntent {
                inbound_ports: InboundPorts::List(ports(range)),
                ..marked()
            };
            assert!(
                matches!(served.parse(), Err(IntentError::Clash { .. })),
                "{range}"
            );
        }
        let same = RawIntent {
            inbound_port: 15001,
            ..marked()
        };
        assert!(matches!(same.parse(), Err(IntentError::Clash { .. })));
        let own = RawIntent {
            sidecar_ports: vec![15006],
            ..marked()
        };
        assert!(matches!(own.parse(), Err(IntentError::Clash { .. })));
    }

    #[test]
    fn a_port_is_redirected_or_left_alone_not_both() {
        let both = RawIntent {
            inbound_ports: InboundPorts::List(ports("8000-8100")),
            exclude_inbound_ports: ports("8080"),
            ..marked()
        };
        assert_eq!(
            both.parse().unwrap_err().to_string(),
            "port 8080 of `exclude_inbound_ports` is also in `inbound_ports` (8000-8100)"
        );
        let sidecar = RawIntent {
            inbound_ports: InboundPorts::List(ports("15021")),
            ..marked()
        };
        assert!(matches!(
            sidecar.parse(),
            Err(IntentError::Clash {
                setting: "sidecar_ports",
                ..
            })
        ));
    }

    #[test]
    fn a_network_that_is_everything_is_refused() {
        for all in ["0.0.0.0/0", "::/0"] {
            let intent = RawIntent {
                exclude_outbound_cidrs: vec![all.parse().unwrap()],
                ..marked()
            };
            assert!(matches!(intent.parse(), Err(IntentError::Everything(_))), "{all}");
        }
        let host_bits = RawIntent {
            exclude_outbound_cidrs: vec!["10.1.2.3/8".parse().unwrap()],
            ..marked()
        };
        assert_eq!(
            host_bits.parse().unwrap().get().exclude_outbound_cidrs[0].to_string(),
            "10.0.0.0/8"
        );
    }

    #[test]
    fn exclusions_that_leave_nothing_over_are_refused() {
        let excluding = |nets: &[&str]| RawIntent {
            exclude_outbound_cidrs: nets.iter().map(|net| net.parse().unwrap()).collect(),
            ..marked()
        };
        let refused: [(&[&str], &str); 6] = [
            (&["0.0.0.0/1", "128.0.0.0/1"], "IPv4"),
            (&["128.0.0.0/2", "0.0.0.0/2", "64.0.0.0/2", "192.0.0.0/3"], "IPv4"),
            (
                &[
                    "10.0.0.0/8",
                    "0.0.0.0/1",
                    "128.0.0.0/2",
                    "10.1.0.0/16",
                    "192.0.0.0/4",
                    "208.0.0.0/4",
                ],
                "IPv4",
            ),
            (&["::/1", "8000::/1"], "IPv6"),
            (&["2000::/3", "fc00::/7"], "IPv6"),
            (&["10.0.0.0/8", "::/2", "4000::/2", "8000::/1"], "IPv6"),
        ];
        for (nets, family) in refused {
            let error = excluding(nets).parse().unwrap_err();
            assert_eq!(error, IntentError::EveryAddress(family), "{nets:?}");
            assert!(error.to_string().contains("exclude_outbound_cidrs") && !error.hint().is_empty());
        }
        for some in [
            &["0.0.0.0/1"][..],
            &[
                "0.0.0.0/1",
                "128.0.0.0/2",
                "192.0.0.0/4",
                "208.0.0.0/5",
                "216.0.0.0/6",
                "220.0.0.0/7",
                "222.0.0.0/8",
            ],
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
            &["::/1"],
            &["2000::/3"],
        ] {
            excluding(some)
                .parse()
                .unwrap_or_else(|error| panic!("{some:?}: {error}"));
        }
    }

    #[test]
    fn ports_that_leave_nothing_over_are_refused() {
        for list in ["1-65535", "1-1024,1025-65535", "30000-65535,1-20000,20000-29999"] {
            let outbound = RawIntent {
                exclude_outbound_ports: ports(list),
                ..marked()
            };
            assert_eq!(
                outbound.parse(),
                Err(IntentError::EveryPort("exclude_outbound_ports")),
                "{list}"
            );
        }
        let but_one = RawIntent {
            exclude_outbound_ports: ports("1-442,444-65535"),
            ..marked()
        };
        but_one.parse().unwrap();
        // All but the redirect's own targets, which cannot be named.
        let inbound = |list: &str| RawIntent {
            exclude_inbound_ports: ports(list),
            ..marked()
        };
        let none_left = inbound("1-15000,15002-15005,15007-65535").parse();
        assert_eq!(none_left, Err(IntentError::EveryPort("exclude_inbound_ports")));
        assert_eq!(
            inbound("1-15000,15002-15005,15007,15009-15019,15022-65535").parse(),
            Err(IntentError::EveryPort("exclude_inbound_ports"))
        );
        inbound("1-8079,8081-15000").parse().unwrap();
    }

    #[test]
    fn lists_are_bounded_together() {
        let filled = |count: usize| RawIntent {
            exclude_inbound_ports: (0..count / 2).map(|_| PortRange::one(22)).collect(),
            own: RawOwn {
                uids: vec![1; count - count / 2],
                ..RawOwn::default()
            },
            sidecar_ports: vec![],
            ..marked()
        };
        filled(MAX_ENTRIES).parse().unwrap();
        assert_eq!(
            filled(MAX_ENTRIES + 1).parse(),
            Err(IntentError::TooMany(MAX_ENTRIES + 1))
        );
    }

    #[test]
    fn ports_are_read_strictly() {
        for bad in ["", "0", "65536", "9-8", "8080-", "-1", "http", "80,90", "0-10"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
        assert_eq!(
            "9000-9010".parse::<PortRange>().unwrap(),
            PortRange::new(9000, 9010).unwrap()
        );
        assert_eq!(
            "none".parse::<InboundPorts>().unwrap(),
            InboundPorts::List(vec![])
        );
        assert_eq!(
            "8080,9000-9010".parse::<InboundPorts>().unwrap(),
            InboundPorts::List(ports("8080,9000-9010"))
        );
        assert!("8080,all".parse::<InboundPorts>().is_err());
    }

    #[test]
    fn settings_survive_being_written_and_read() {
        let intent = RawIntent {
            inbound_ports: InboundPorts::List(ports("8080,9000-9010")),
            exclude_inbound_ports: ports("22"),
            exclude_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            udp: Udp::Reject,
            ..marked()
        };
        let json = serde_json::to_string(&intent).unwrap();
        assert_eq!(serde_json::from_str::<RawIntent>(&json).unwrap(), intent);
        assert!(serde_json::from_str::<RawIntent>("{\"inbound_port\": 1, \"typo\": 2}").is_err());
        assert!(serde_json::from_str::<RawIntent>("{\"inbound_ports\": [\"all\"]}").is_err());
    }
}
