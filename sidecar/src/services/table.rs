//! The lookup by address: services and resolved names enter, an immutable index leaves. It never blocks and never
//! resolves anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use spiffe::SpiffeId;

use super::{Port, Service};

/// What the declared DNS names resolve to. Names without an answer are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved(BTreeMap<String, Vec<IpAddr>>);

impl Resolved {
    /// Replaces the answer for `host`; IPv4-mapped addresses become IPv4.
    pub fn set(&mut self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        let set: BTreeSet<IpAddr> = addresses.into_iter().map(|ip| ip.to_canonical()).collect();
        self.0.insert(host.to_owned(), set.into_iter().collect());
    }

    /// The answer for `host`.
    pub fn get(&self, host: &str) -> &[IpAddr] {
        self.0.get(host).map_or(&[], Vec::as_slice)
    }

    /// Forgets every host that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|host, _| keep(host));
    }

    /// Hosts and their answers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        self.0
            .iter()
            .map(|(host, addresses)| (host.as_str(), addresses.as_slice()))
    }
}

/// Why a set of services makes no table. The fault is the operator's: configuration or DNS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// Two services claim one address and port, and differ in what must be proven or spoken there.
    #[error(
        "`{first}` and `{second}` are both at {address}, with different SPIFFE IDs or protocols{}: a connection there could not know whom to expect",
        via.as_ref().map(|host| format!(" (through the name `{host}`)")).unwrap_or_default()
    )]
    Conflict {
        /// The address and port.
        address: SocketAddr,
        /// The service that was there first, in the order of declaration.
        first: Arc<str>,
        /// The other one.
        second: Arc<str>,
        /// The DNS name that led to it, when one did.
        via: Option<String>,
    },
    /// Two services have one name.
    #[error("the service `{0}` is declared twice")]
    Duplicate(Arc<str>),
}

impl ServicesError {
    /// The service that is to be changed: the one that came second.
    #[must_use]
    pub fn service(&self) -> &str {
        match self {
            Self::Conflict { second, .. } => second,
            Self::Duplicate(name) => name,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Conflict { via: None, .. } => {
                "give each an address or a port of its own in the mesh file, or the same `spiffe_ids` and `protocol`"
            }
            Self::Conflict { via: Some(_), .. } => {
                "ask DNS (or /etc/hosts) where the name leads; give each service an address or a port of its own, or the same \
                 `spiffe_ids` and `protocol` in the mesh file"
            }
            Self::Duplicate(_) => "rename one of the two in the mesh file",
        }
    }
}

/// What is at an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The service.
    pub service: Arc<Service>,
    /// The port of it.
    pub port: Port,
}

/// The immutable table that workers read.
#[derive(Clone, Debug, Default)]
pub struct Table {
    by_address: HashMap<(IpAddr, u16), Found>,
    by_name: BTreeMap<Arc<str>, Arc<Service>>,
}

impl Table {
    /// Builds the table.
    ///
    /// # Errors
    /// [`ServicesError`]: the table would be ambiguous.
    pub fn new(services: Vec<Service>, resolved: &Resolved) -> Result<Self, ServicesError> {
        let mut table = Self::default();
        for service in services {
            let service = Arc::new(service);
            let name = Arc::clone(&service.name);
            if table
                .by_name
                .insert(Arc::clone(&name), Arc::clone(&service))
                .is_some()
            {
                return Err(ServicesError::Duplicate(name));
            }
            for address in &service.addresses {
                table.claim(&service, *address, None)?;
            }
            for host in &service.hosts {
                for address in resolved.get(host) {
                    table.claim(&service, *address, Some(host))?;
                }
            }
        }
        Ok(table)
    }

    fn claim(
        &mut self,
        service: &Arc<Service>,
        ip: IpAddr,
        via: Option<&String>,
    ) -> Result<(), ServicesError> {
        let ip = ip.to_canonical();
        for port in &service.ports {
            let found = Found {
                service: Arc::clone(service),
                port: *port,
            };
            match self.by_address.get(&(ip, port.port)) {
                None => {
                    self.by_address.insert((ip, port.port), found);
                }
                Some(old) if old.expects_the_same(&found) => {}
                Some(old) => {
                    return Err(ServicesError::Conflict {
                        address: SocketAddr::new(ip, port.port),
                        first: Arc::clone(&old.service.name),
                        second: Arc::clone(&service.name),
                        via: via.cloned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The service at an address and port. An IPv4-mapped IPv6 address is read as the IPv4 address that it is.
    pub fn find(&self, addr: SocketAddr) -> Option<Found> {
        self.by_address
            .get(&(addr.ip().to_canonical(), addr.port()))
            .cloned()
    }

    /// The service of this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Service>> {
        self.by_name.get(name).cloned()
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_name.values()
    }

    /// Whether both answer alike.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.by_address == other.by_address && self.by_name == other.by_name
    }

    /// The addresses at which a service is known now, in order.
    pub fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let set: BTreeSet<IpAddr> = self
            .by_address
            .iter()
            .filter(|(_, found)| &*found.service.name == name)
            .map(|((ip, _), _)| *ip)
            .collect();
        set.into_iter().collect()
    }
}

impl Found {
    fn expects_the_same(&self, other: &Self) -> bool {
        let ids = |found: &Self| -> BTreeSet<String> {
            found.service.spiffe_ids.iter().map(SpiffeId::to_string).collect()
        };
        self.port.protocol == other.port.protocol && ids(self) == ids(other)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AppProtocol, Mode, Protocol};
    use super::*;

    fn service(name: &str, hosts: &[&str], addresses: &[&str], ids: &[&str]) -> Service {
        Service {
            name: name.into(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            spiffe_ids: ids.iter().map(|id| SpiffeId::new(*id).unwrap()).collect(),
            ports: vec![Port {
                port: 8080,
                protocol: Protocol::Http,
                mode: Mode::Strict,
                app: AppProtocol::Auto,
            }],
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const A: &str = "spiffe://mesh.local/ns/shop/sa/a";
    const B: &str = "spiffe://mesh.local/ns/shop/sa/b";

    #[test]
    fn finds_by_fixed_and_by_resolved_address_and_by_nothing_else() {
        let mut resolved = Resolved::default();
        resolved.set("b", ["10.0.0.2".parse().unwrap()]);
        let table = Table::new(
            vec![
                service("shop/a", &[], &["10.0.0.1", "fd00::1"], &[A]),
                service("shop/b", &["b"], &[], &[B]),
            ],
            &resolved,
        )
        .unwrap();
        assert_eq!(&*table.find(at("10.0.0.1:8080")).unwrap().service.name, "shop/a");
        assert_eq!(&*table.find(at("[fd00::1]:8080")).unwrap().service.name, "shop/a");
        assert_eq!(&*table.find(at("10.0.0.2:8080")).unwrap().service.name, "shop/b");
        assert_eq!(table.find(at("10.0.0.1:8081")), None);
        assert_eq!(table.find(at("10.0.0.3:8080")), None);
        assert!(table.by_name("shop/a").is_some());
        assert!(table.by_name("shop/A").is_none());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_is() {
        let mut resolved = Resolved::default();
        resolved.set("b", ["::ffff:10.0.0.2".parse().unwrap()]);
        let table = Table::new(
            vec![
                service("shop/a", &[], &["::ffff:10.0.0.1"], &[A]),
                service("shop/b", &["b"], &[], &[B]),
            ],
            &resolved,
        )
        .unwrap();
        assert!(table.find(at("10.0.0.1:8080")).is_some());
        assert!(table.find(at("[::ffff:10.0.0.1]:8080")).is_some());
        assert!(table.find(at("10.0.0.2:8080")).is_some());
        assert_eq!(
            table.addresses_of("shop/b"),
            ["10.0.0.2".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn one_address_and_port_with_two_identities_is_an_error_that_names_both() {
        let mut resolved = Resolved::default();
        resolved.set("b", ["::ffff:10.0.0.1".parse().unwrap()]);
        let error = Table::new(
            vec![
                service("shop/a", &[], &["10.0.0.1"], &[A]),
                service("shop/b", &["b"], &[], &[B]),
            ],
            &resolved,
        )
        .unwrap_err();
        let text = error.to_string();
        for part in ["shop/a", "shop/b", "10.0.0.1:8080", "through the name `b`"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_same_identities_in_another_order_do_not_conflict_and_another_port_does_not_either() {
        let mut other_port = service("shop/c", &[], &["10.0.0.1"], &[B]);
        other_port.ports[0].port = 9090;
        let table = Table::new(
            vec![
                service("shop/a", &[], &["10.0.0.1"], &[A, B]),
                service("shop/b", &[], &["10.0.0.1"], &[B, A]),
                other_port,
            ],
            &Resolved::default(),
        )
        .unwrap();
        assert_eq!(&*table.find(at("10.0.0.1:8080")).unwrap().service.name, "shop/a");
        assert_eq!(&*table.find(at("10.0.0.1:9090")).unwrap().service.name, "shop/c");
    }

    #[test]
    fn a_subset_of_identities_is_another_identity_set() {
        let services = vec![
            service("shop/a", &[], &["10.0.0.1"], &[A, B]),
            service("shop/b", &[], &["10.0.0.1"], &[A]),
        ];
        assert!(matches!(
            Table::new(services, &Resolved::default()),
            Err(ServicesError::Conflict { .. })
        ));
    }

    #[test]
    fn two_protocols_at_one_port_conflict_and_two_services_of_one_name_do() {
        let mut opaque = service("shop/b", &[], &["10.0.0.1"], &[A]);
        opaque.ports[0].protocol = Protocol::Opaque;
        let a = service("shop/a", &[], &["10.0.0.1"], &[A]);
        assert!(Table::new(vec![a.clone(), opaque], &Resolved::default()).is_err());
        assert_eq!(
            Table::new(vec![a.clone(), a], &Resolved::default()).unwrap_err(),
            ServicesError::Duplicate("shop/a".into())
        );
    }
}
