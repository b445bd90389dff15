use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::intent::RawOwn;
use crate::model::intents;

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

fn cidrs(list: &str) -> Vec<IpNet> {
    list.split(',').map(|p| p.parse().unwrap()).collect()
}

fn listed(list: &str) -> RawIntent {
    RawIntent {
        inbound_ports: InboundPorts::List(ports(list)),
        ..marked()
    }
}

fn golden_intents() -> Vec<(&'static str, RawIntent)> {
    vec![
        ("mark", marked()),
        (
            "uid-and-gid",
            RawIntent {
                own: RawOwn {
                    mark: None,
                    uids: vec![1337, 1338],
                    gids: vec![1337],
                },
                ..marked()
            },
        ),
        ("inbound-list", listed("8080,9000-9010")),
        (
            "inbound-none",
            RawIntent {
                inbound_ports: InboundPorts::List(vec![]),
                ..marked()
            },
        ),
        (
            "excluded",
            RawIntent {
                exclude_inbound_ports: ports("22,9100-9110"),
                exclude_outbound_ports: ports("5432"),
                exclude_outbound_cidrs: cidrs("169.254.169.254/32,10.0.0.0/8,fd00:ec2::254/128"),
                ..marked()
            },
        ),
        (
            "udp-reject",
            RawIntent {
                udp: Udp::Reject,
                exclude_outbound_ports: ports("123"),
                ..marked()
            },
        ),
        (
            "no-guard",
            RawIntent {
                guard: false,
                ..marked()
            },
        ),
        (
            "other-ports",
            RawIntent {
                outbound_port: 4140,
                inbound_port: 4143,
                sidecar_ports: vec![4144],
                ..marked()
            },
        ),
    ]
}

/// The rules as they are written, for a number of intents. `UPDATE_GOLDEN=1` writes them anew: read the difference.
#[test]
fn the_rules_are_the_golden_ones() {
    for (name, intent) in golden_intents() {
        let plan = plan(&intent.parse().unwrap());
        let mut text = String::new();
        for family in &plan.families {
            let _infallible = write!(text, "# {}\n{}", family.family.name(), family.text());
        }
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("testdata")
            .join(format!("{name}.golden"));
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|set| set == "1") {
            fs::write(&path, &text).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text, golden, "{name}: read the difference, then UPDATE_GOLDEN=1");
    }
}

/// A packet that opens a connection, as a hook sees it.
#[derive(Clone, Debug)]
struct Packet {
    udp: bool,
    inbound: bool,
    loopback_device: bool,
    dest: IpAddr,
    dest_is_local: bool,
    port: u16,
    mark: u32,
    uid: u32,
    gid: u32,
    established: bool,
    forwarded: bool,
}

impl Packet {
    fn satisfies(&self, wanted: &Match) -> bool {
        match wanted {
            Match::Dest(net) => net.contains(&self.dest),
            Match::InLoopback => self.inbound && self.loopback_device,
            Match::InOutside => self.inbound && !self.loopback_device,
            Match::OutOutside => !self.inbound && !self.loopback_device,
            Match::OutLoopback => !self.inbound && self.loopback_device,
            Match::Tcp => !self.udp,
            Match::Udp => self.udp,
            Match::TcpTo(ports) => !self.udp && ports.contains(self.port),
            Match::TcpNotTo(port) => !self.udp && self.port != *port,
            Match::UdpTo(ports) => self.udp && ports.contains(self.port),
            Match::Mark(mark) => self.mark == *mark,
            Match::Uid(uid) => self.uid == *uid,
            Match::Gid(gid) => self.gid == *gid,
            Match::DestLocal => self.dest_is_local,
            Match::NotEstablished => !self.established,
            Match::SourceLocal => !self.forwarded,
        }
    }

    /// What a chain makes of it; `Return` when no rule takes it.
    fn through(&self, plan: &FamilyPlan, own: Own) -> Verdict {
        let Some(chain) = plan.chains.iter().find(|chain| chain.own == own) else {
            return Verdict::Return;
        };
        let takes = |rule: &&Rule| rule.matches.iter().all(|wanted| self.satisfies(wanted));
        if !takes(&&chain.jump) {
            return Verdict::Return;
        }
        chain
            .rules
            .iter()
            .find(takes)
            .map_or(Verdict::Return, |rule| rule.verdict)
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![
        1_u16..,
        Just(PROBE_PORT),
        Just(53),
        Just(15001),
        Just(15006),
        Just(15008),
        Just(15021),
        1_u16..200
    ];
    let dest = prop_oneof![
        any::<u32>().prop_map(|ip| IpAddr::V4(ip.into())),
        Just(IpAddr::from([127, 0, 0, 1])),
        Just(IpAddr::from([127, 0, 0, 2])),
    ];
    (
        any::<[bool; 6]>(),
        dest,
        port,
        prop_oneof![Just(0), any::<u32>()],
        any::<(u32, u32)>(),
    )
        .prop_map(
            |(
                [
                    udp,
                    inbound,
                    loopback_device,
                    dest_is_local,
                    established,
                    forwarded,
                ],
                dest,
                port,
                mark,
                (uid, gid),
            )| Packet {
                udp,
                inbound,
                loopback_device,
                dest,
                dest_is_local,
                port,
                mark,
                uid,
                gid,
                established,
                forwarded,
            },
        )
}

/// Intents and packets that have something to do with each other: half of the packets carry what the intent names.
fn cases() -> impl Strategy<Value = (Intent, Packet)> {
    (intents(), packets(), any::<(bool, bool, bool)>()).prop_map(
        |(intent, mut packet, (own, excluded, listed))| {
            let raw = intent.get();
            if own {
                packet.mark = raw.own.mark.unwrap_or(packet.mark);
                packet.uid = raw.own.uids.first().copied().unwrap_or(packet.uid);
            }
            let range = if excluded {
                raw.exclude_inbound_ports.first()
            } else {
                raw.exclude_outbound_ports.first()
            };
            if excluded {
                packet.port = range.map_or(packet.port, |range| range.last());
            }
            if let (true, InboundPorts::List(list)) = (listed, &raw.inbound_ports) {
                packet.port = list.first().map_or(packet.port, |range| range.first());
            }
            (intent, packet)
        },
    )
}

/// What the intent says of a packet, in its own words and without a rule.
struct Said {
    own: bool,
    excluded_out: bool,
    inbound_wanted: bool,
}

fn said(intent: &Intent, packet: &Packet) -> Said {
    let raw = intent.get();
    let any = |ranges: &[PortRange]| ranges.iter().any(|range| range.contains(packet.port));
    Said {
        own: raw.own.mark == Some(packet.mark)
            || raw.own.uids.contains(&packet.uid)
            || raw.own.gids.contains(&packet.gid),
        excluded_out: any(&raw.exclude_outbound_ports)
            || raw
                .exclude_outbound_cidrs
                .iter()
                .any(|net| net.contains(&packet.dest)),
        inbound_wanted: match &raw.inbound_ports {
            _ if packet.port == raw.outbound_port => true,
            InboundPorts::All => {
                !any(&raw.exclude_inbound_ports) && !raw.sidecar_ports.contains(&packet.port)
            }
            InboundPorts::List(list) => any(list),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Outbound: the sidecar's own, what stays on this machine and what is excluded pass; all else is redirected. In
    /// particular a packet for 127/8 that leaves by another device than `lo` is redirected.
    #[test]
    fn outbound_connections_go_where_the_intent_says((intent, packet) in cases()) {
        let packet = Packet { udp: false, inbound: false, ..packet };
        let said = said(&intent, &packet);
        // A socket that only its user or group tells can knock, and is then redirected as an application's would be.
        let knocks = packet.port == PROBE_PORT && intent.get().own.mark != Some(packet.mark);
        let passes = (said.own && !knocks) || packet.loopback_device || said.excluded_out;
        let expected = if passes { Verdict::Return } else { Verdict::Redirect(intent.get().outbound_port) };
        prop_assert_eq!(packet.through(&plan(&intent).families[0], NAT_OUT), expected);
    }

    /// A new connection that leaves this machine by a device is the sidecar's, excluded, passed on for others, or dropped.
    #[test]
    fn the_guard_drops_what_escaped_the_redirect((intent, packet) in cases()) {
        let packet = Packet { udp: false, inbound: false, ..packet };
        let said = said(&intent, &packet);
        let passes = said.own || packet.loopback_device || said.excluded_out || packet.established || packet.forwarded;
        let expected = if passes || !intent.get().guard { Verdict::Return } else { Verdict::Drop };
        prop_assert_eq!(packet.through(&plan(&intent).families[0], GUARD_OUT), expected);
    }

    /// Inbound: what the intent names goes to the sidecar when it is for this machine, all else is left alone; a peer never
    /// reaches the outbound listener.
    #[test]
    fn inbound_connections_go_where_the_intent_says((intent, packet) in cases()) {
        let packet = Packet { udp: false, inbound: true, ..packet };
        let redirected = said(&intent, &packet).inbound_wanted && !packet.loopback_device && packet.dest_is_local;
        let expected = if redirected { Verdict::Redirect(intent.get().inbound_port) } else { Verdict::Return };
        prop_assert_eq!(packet.through(&plan(&intent).families[0], NAT_IN), expected);
    }

    /// A connection that was to be redirected and arrives at the application's port all the same is dropped.
    #[test]
    fn the_guard_keeps_peers_from_the_application((intent, packet) in cases()) {
        let packet = Packet { udp: false, inbound: true, ..packet };
        let raw = intent.get();
        let wanted = said(&intent, &packet).inbound_wanted && packet.port != raw.inbound_port;
        let dropped = raw.guard && wanted && !packet.loopback_device && !packet.established;
        let expected = if dropped { Verdict::Drop } else { Verdict::Return };
        prop_assert_eq!(packet.through(&plan(&intent).families[0], GUARD_IN), expected);
    }

    #[test]
    fn udp_is_rejected_only_when_asked((intent, packet) in cases()) {
        let packet = Packet { udp: true, inbound: false, ..packet };
        let plan = &plan(&intent).families[0];
        let said = said(&intent, &packet);
        let passes = said.own || packet.loopback_device || said.excluded_out || packet.port == 53;
        let rejects = intent.get().udp == Udp::Reject && !passes;
        prop_assert_eq!(packet.through(plan, UDP_OUT), if rejects { Verdict::Reject } else { Verdict::Return });
        for own in [NAT_OUT, NAT_IN, GUARD_OUT, GUARD_IN] {
            prop_assert_eq!(packet.through(plan, own), Verdict::Return, "UDP is no business of {}", own.chain);
        }
    }

    /// Each family names its own networks and no other's.
    #[test]
    fn networks_are_in_the_rules_of_their_family(intent in intents()) {
        for family in plan(&intent).families {
            for chain in &family.chains {
                for rule in &chain.rules {
                    for part in &rule.matches {
                        if let Match::Dest(net) = part {
                            prop_assert!(family.family.has(net));
                        }
                    }
                }
            }
        }
    }
}
