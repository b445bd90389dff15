//! Whether a list of exclusions leaves anything over: ports or networks enter, the answer leaves.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::PortRange;

/// The addresses of IPv4 that a host can have: without "this network", loopback, multicast and what is reserved.
const V4: [(u128, u128); 2] = [
    (v4(1, 0), v4(126, u32::MAX >> 8)),
    (v4(128, 0), v4(223, u32::MAX >> 8)),
];

/// The same of IPv6: what is given out (2000::/3), and what is local to a site (fc00::/7).
const V6: [(u128, u128); 2] = [
    (0x2000_u128 << 112, (0x4000_u128 << 112) - 1),
    (0xfc00_u128 << 112, (0xfe00_u128 << 112) - 1),
];

/// An IPv4 address as a number: its first byte, and the other three as one number.
const fn v4(first: u32, rest: u32) -> u128 {
    ((first << 24) | rest) as u128
}

/// The family of which every address that a host can have is in `nets`.
pub(super) fn every_address(nets: &[IpNet]) -> Option<&'static str> {
    let number4 = |ip: Ipv4Addr| u128::from(u32::from(ip));
    let number6 = |ip: Ipv6Addr| u128::from(ip);
    let (mut of4, mut of6) = (Vec::new(), Vec::new());
    for net in nets {
        match net {
            IpNet::V4(net) => of4.push((number4(net.network()), number4(net.broadcast()))),
            IpNet::V6(net) => of6.push((number6(net.network()), number6(net.broadcast()))),
        }
    }
    if covered(&V4, of4) {
        Some("IPv4")
    } else if covered(&V6, of6) {
        Some("IPv6")
    } else {
        None
    }
}

/// Whether `ranges` hold every port.
pub(super) fn every_port(ranges: &[PortRange]) -> bool {
    let ranges = ranges
        .iter()
        .map(|range| (u128::from(range.first()), u128::from(range.last())))
        .collect();
    covered(&[(1, u128::from(u16::MAX))], ranges)
}

/// Whether each of `wanted` lies in the union of `ranges`; both ends belong to a range.
fn covered(wanted: &[(u128, u128)], mut ranges: Vec<(u128, u128)>) -> bool {
    ranges.sort_unstable();
    wanted.iter().all(|(first, last)| {
        // The lowest number that no range has held so far.
        let mut open = *first;
        for (from, to) in &ranges {
            if *from > open {
                break;
            }
            if *to >= open {
                if *to >= *last {
                    return true;
                }
                open = to.saturating_add(1);
            }
        }
        false
    })
}
