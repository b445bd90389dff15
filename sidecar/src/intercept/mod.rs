//! Where connections come in: a port enters, accepted connections with the destination that the application or the
//! peer meant leave. A connection that was not redirected, or whose destination is one of our own listeners, never gets
//! a value that the next stage accepts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Where a listener can be reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Loopback only: where `REDIRECT` sends packets of the `OUTPUT` chain.
    Loopback,
    /// Every address of the pod.
    Anywhere,
}

/// A redirected connection.
#[derive(Debug)]
pub struct Accepted {
    /// The connection itself.
    pub stream: TcpStream,
    /// Who opened it.
    pub peer: SocketAddr,
    /// Where it was meant to go before the redirect.
    pub original: SocketAddr,
}

/// Why a connection is not taken further.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// It came straight to the listener: there is no destination to decide about.
    #[error("the connection was not redirected")]
    NotRedirected,
    /// It was meant for one of our own listeners: following it would loop, or reach around the mesh.
    #[error("the destination {0} is one of the sidecar's own listeners")]
    OwnListener(SocketAddr),
    /// The system refused to say.
    #[error("the original destination cannot be read: {0}")]
    System(#[from] io::Error),
}

labels!(InterceptError {
    Self::NotRedirected => "not_redirected",
    Self::OwnListener(_) => "own_listener",
    Self::System(_) => "original_destination",
});

/// Binds `port` on both address families, as far as the pod has them.
///
/// # Errors
/// When no family can be bound, or one fails for another reason than that the pod lacks it: half a redirect would lead
/// half the traffic nowhere without anyone being told.
pub fn bind(port: u16, reach: Reach) -> io::Result<Vec<TcpListener>> {
    let addresses = match reach {
        Reach::Loopback => [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        Reach::Anywhere => [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ],
    };
    let mut bound = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(address, port);
        match bind_one(address) {
            Ok(listener) => bound.push(listener),
            Err(error) if family_absent(&error) => {
                tracing::info!(%address, "not listening: the pod has no such address family");
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("{address}: {error}"))),
        }
    }
    if bound.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("no address to listen on port {port}"),
        ));
    }
    Ok(bound)
}

/// Binds one address; the unspecified IPv6 address takes both families.
///
/// # Errors
/// The system's.
pub fn bind_at(address: SocketAddr) -> io::Result<TcpListener> {
    match open(address, false) {
        // A pod without IPv6: the default of `[::]` means "everywhere".
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && family_absent(&error) => open(
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()),
            false,
        ),
        bound => bound,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    // One socket a family: a dual-stack socket reports IPv4 peers in mapped form and needs the other family's option.
    open(address, true)
}

fn open(address: SocketAddr, one_family: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(one_family)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn family_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

/// Finds out where a redirected connection was meant to go.
///
/// # Errors
/// [`InterceptError::NotRedirected`] without a NAT entry, or when the entry names the listener itself;
/// [`InterceptError::OwnListener`] when `own_ports` holds the destination's port and the destination is this pod.
pub fn accepted(stream: TcpStream, peer: SocketAddr, own_ports: &[u16]) -> Result<Accepted, InterceptError> {
    let local = canonical(stream.local_addr()?);
    let original = original_destination(&stream, local)?;
    if original == local {
        return Err(InterceptError::NotRedirected);
    }
    if own_ports.contains(&original.port()) && is_here(original.ip(), local.ip()) {
        return Err(InterceptError::OwnListener(original));
    }
    Ok(Accepted {
        stream,
        peer: canonical(peer),
        original,
    })
}

fn original_destination(stream: &TcpStream, local: SocketAddr) -> Result<SocketAddr, InterceptError> {
    let socket = SockRef::from(stream);
    let read = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    match read {
        Ok(address) => address
            .as_socket()
            .map(canonical)
            .ok_or(InterceptError::NotRedirected),
        // ENOENT: no connection tracking entry; ENOPROTOOPT: no NAT in this kernel or namespace at all.
        Err(error)
            if matches!(error.raw_os_error(), Some(code) if code == nix::errno::Errno::ENOENT as i32
            || code == nix::errno::Errno::ENOPROTOOPT as i32) =>
        {
            Err(InterceptError::NotRedirected)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a destination is this pod: `REDIRECT` in `PREROUTING` delivers to the incoming interface's own address,
/// in `OUTPUT` to loopback, where the destination is another host's unless it is ours or loopback by name.
fn is_here(destination: IpAddr, local: IpAddr) -> bool {
    destination == local
        || destination.is_loopback()
        || destination.is_unspecified()
        || is_own_address(destination)
}

/// Whether an address belongs to an interface of this network namespace.
pub fn is_own_address(address: IpAddr) -> bool {
    own_addresses().contains(&address)
}

/// The addresses of this network namespace's interfaces, loopback left out.
pub fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let ip = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            (!ip.is_loopback()).then_some(ip)
        })
        .collect()
}

/// Addresses of others that this network namespace reaches without a router, made up from its own addresses and prefixes.
/// Whether anyone has them is not known.
pub fn neighbours() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let (address, mask) = (interface.address?, interface.netmask?);
            let pair = match (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                (Some(address), Some(mask)) => (address.ip().into(), mask.ip().into()),
                _ => (
                    address.as_sockaddr_in6()?.ip().into(),
                    mask.as_sockaddr_in6()?.ip().into(),
                ),
            };
            neighbour(pair.0, pair.1)
        })
        .collect()
}

/// One of the last host addresses of the prefix; `None` where there is no other, or none by this address alone.
fn neighbour(own: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (own, mask) {
        (IpAddr::V4(own), IpAddr::V4(mask)) if !own.is_loopback() => {
            let (bits, mask) = (own.to_bits(), mask.to_bits());
            [!1, !2, !0]
                .iter()
                .map(|host: &u32| (bits & mask) | (host & !mask))
                .find(|other| *other != bits)
                .map(|other| Ipv4Addr::from_bits(other).into())
        }
        // A link-local address says nothing without its interface.
        (IpAddr::V6(own), IpAddr::V6(mask)) if !own.is_loopback() && !own.is_unicast_link_local() => {
            let (bits, mask) = (own.to_bits(), mask.to_bits());
            [0x686f_7067, 0x686f_7066]
                .iter()
                .map(|host: &u128| (bits & mask) | (host & !mask))
                .find(|other| *other != bits)
                .map(|other| Ipv6Addr::from_bits(other).into())
        }
        _ => None,
    }
}

/// An address in its plain form: IPv4 in IPv6 clothing is the IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_is_refused() {
        let listeners = bind(0, Reach::Loopback).unwrap();
        let listener = &listeners[0];
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        assert!(matches!(
            accepted(stream, peer, &[]),
            Err(InterceptError::NotRedirected)
        ));
    }

    #[test]
    fn an_own_listener_is_known_by_loopback_and_local_address() {
        let local: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(is_here(local, local));
        assert!(is_here("127.0.0.1".parse().unwrap(), local));
        assert!(is_here("::1".parse().unwrap(), local));
        assert!(!is_here("203.0.113.9".parse().unwrap(), local));
    }

    #[test]
    fn a_neighbour_is_another_in_the_same_prefix() {
        let of = |own: &str, mask: &str| {
            neighbour(own.parse().unwrap(), mask.parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(of("10.77.0.12", "255.255.255.0").as_deref(), Some("10.77.0.254"));
        assert_eq!(of("10.77.0.254", "255.255.255.0").as_deref(), Some("10.77.0.253"));
        assert_eq!(of("10.0.0.1", "255.255.255.252").as_deref(), Some("10.0.0.2"));
        assert_eq!(of("10.0.0.2", "255.255.255.252").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("10.0.0.0", "255.255.255.254").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("10.0.0.1", "255.255.255.255"), None);
        assert_eq!(of("127.0.0.1", "255.0.0.0"), None);
        let (prefix, host) = ("ffff:ffff:ffff:ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(of("fd77::12", prefix).as_deref(), Some("fd77::686f:7067"));
        assert_eq!(of("fd77::12", host), None);
        assert_eq!(of("fe80::1", prefix), None);
    }

    #[test]
    fn mapped_addresses_are_plain() {
        assert_eq!(
            canonical("[::ffff:10.0.0.1]:80".parse().unwrap()),
            "10.0.0.1:80".parse().unwrap()
        );
    }
}
