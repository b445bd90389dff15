//! Who lives in the demo's network: the pods, their addresses and what runs in each. Names enter, addresses and roles
//! leave; it starts nothing.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The mark by which the redirect tells a sidecar's own traffic.
pub const MARK: u32 = 1337;
/// The port of every application.
pub const APP_PORT: u16 = 8080;
/// The port on which every application greets and echoes raw TCP (it speaks first).
pub const OPAQUE_PORT: u16 = 9090;
/// The port of the OpenID provider.
pub const IDP_PORT: u16 = 8443;

/// What runs in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An application behind a sidecar; it calls `next` when it is ordered from.
    Service {
        /// The next hop of an order.
        next: Option<&'static str>,
    },
    /// The OpenID provider: no sidecar, no identity.
    Provider,
    /// Nothing: a machine without identity and sidecar.
    Outside,
}

/// One pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its host name.
    pub name: &'static str,
    /// What runs in it.
    pub role: Role,
    number: (u8, u16),
}

/// All pods of the demo.
pub const PODS: &[Pod] = &[
    service("web", (11, 0x11), Some("http://orders:8080/order")),
    service("orders", (12, 0x12), Some("http://payments:8080/charge")),
    service("payments", (13, 0x13), None),
    Pod {
        name: "idp",
        role: Role::Provider,
        number: (14, 0x14),
    },
    Pod {
        name: "stranger",
        role: Role::Outside,
        number: (15, 0x15),
    },
    Pod {
        name: "laptop",
        role: Role::Outside,
        number: (16, 0x16),
    },
];

const fn service(name: &'static str, number: (u8, u16), next: Option<&'static str>) -> Pod {
    Pod {
        name,
        role: Role::Service { next },
        number,
    }
}

/// Which address families the demo's network has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4 addresses.
    pub v4: bool,
    /// IPv6 addresses.
    pub v6: bool,
}

impl Pod {
    /// The pod of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PODS.iter().find(|pod| pod.name == name)
    }

    /// Whether a sidecar runs in it.
    pub fn meshed(&self) -> bool {
        matches!(self.role, Role::Service { .. })
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number.0)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.1)
    }

    /// The address by which the demo itself calls it.
    pub fn address(&self, families: Families) -> IpAddr {
        if families.v4 {
            self.v4().into()
        } else {
            self.v6().into()
        }
    }

    /// Whether `address` is one of its own.
    pub fn owns(&self, address: IpAddr) -> bool {
        address == IpAddr::from(self.v4()) || address == IpAddr::from(self.v6())
    }
}

/// The pods that carry a sidecar.
pub fn meshed() -> impl Iterator<Item = &'static Pod> {
    PODS.iter().filter(|pod| pod.meshed())
}

impl Families {
    /// The loopback address.
    pub fn loopback(self) -> IpAddr {
        if self.v4 {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        }
    }

    /// `/etc/hosts` of every pod.
    pub fn hosts_file(self) -> String {
        let mut text = String::new();
        let mut line = |address: IpAddr, names: &str| {
            let _in_memory = writeln!(text, "{address} {names}");
        };
        if self.v4 {
            line(Ipv4Addr::LOCALHOST.into(), "localhost");
        }
        if self.v6 {
            line(Ipv6Addr::LOCALHOST.into(), "localhost");
        }
        for pod in PODS {
            let names = if pod.meshed() {
                format!("{0} {0}.shop", pod.name)
            } else {
                pod.name.to_owned()
            };
            if self.v4 {
                line(pod.v4().into(), &names);
            }
            if self.v6 {
                line(pod.v6().into(), &names);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_one_family_names_no_address_of_the_other() {
        let six = Families { v4: false, v6: true }.hosts_file();
        assert!(six.contains("fd77::13 payments payments.shop\n"), "{six}");
        assert!(!six.contains("10.77") && !six.contains("127.0"), "{six}");
        let four = Families { v4: true, v6: false }.hosts_file();
        assert!(four.contains("10.77.0.14 idp\n"), "{four}");
        assert!(!four.contains("::"), "{four}");
    }

    #[test]
    fn addresses_tell_pods_apart() {
        for pod in PODS {
            let owners = PODS
                .iter()
                .filter(|other| other.owns(pod.v4().into()) || other.owns(pod.v6().into()));
            assert_eq!(owners.count(), 1, "{}", pod.name);
        }
    }
}
