//! How many connections there may be, in all and from one address: nobody who only connects keeps others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Places of one door, where the process may open that many files.
pub const CONNECTIONS: u32 = 512;
const OF_ONE: u32 = 32;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A proxy of this machine, through which all others come.
    Proxy,
    /// Somebody of this machine, where others come by the same door.
    Local,
    /// An address.
    Remote(IpAddr),
}

impl Who {
    /// Who connects to a door for everybody.
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Local,
            // Who has one address of IPv6 has the 2^64 beside it.
            IpAddr::V6(v6) => Self::Remote(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
            v4 => Self::Remote(v4),
        }
    }
}

/// Counts who is in.
#[derive(Debug)]
pub struct Turnstile {
    places: u32,
    inside: Mutex<HashMap<Who, u32>>,
}

/// Somebody who is in, until it is dropped.
#[derive(Debug)]
pub struct Inside {
    turnstile: Arc<Turnstile>,
    who: Who,
}

impl Turnstile {
    /// With so many places.
    pub fn new(places: u32) -> Arc<Self> {
        Arc::new(Self {
            places,
            inside: Mutex::default(),
        })
    }

    /// Lets a connection in, unless there are too many.
    pub fn enter(self: &Arc<Self>, who: Who) -> Option<Inside> {
        let most = match who {
            Who::Proxy => self.places,
            // A proxy that passes TLS on needs many; whoever has an account here does not get all.
            Who::Local => (self.places / 2).max(1),
            Who::Remote(_) => OF_ONE.min((self.places / 4).max(1)),
        };
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = inside.values().sum();
        let count = inside.get(&who).copied().unwrap_or_default();
        if all >= self.places || count >= most {
            return None;
        }
        inside.insert(who, count + 1);
        Some(Inside {
            turnstile: self.clone(),
            who,
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut inside = self
            .turnstile
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inside.get_mut(&self.who) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inside.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Who {
        Who::at(address.parse().unwrap())
    }

    fn fill(turnstile: &Arc<Turnstile>, who: Who) -> Vec<Inside> {
        (0..2 * CONNECTIONS)
            .filter_map(|_| turnstile.enter(who))
            .collect()
    }

    #[test]
    fn one_address_cannot_take_all_places_and_all_places_are_bounded() {
        let turnstile = Turnstile::new(CONNECTIONS);
        let one = at("2001:db8::1");
        let beside = at("2001:db8::ffff:1");
        let mut inside = fill(&turnstile, one);
        assert_eq!(inside.len(), 32);
        assert!(turnstile.enter(one).is_none() && turnstile.enter(beside).is_none());
        assert!(turnstile.enter(at("2001:db8:0:1::1")).is_some());
        assert!(turnstile.enter(at("::ffff:192.0.2.1")).is_some());
        inside.pop();
        assert!(turnstile.enter(beside).is_some(), "a place is free again");
        drop(inside);
        let proxy = fill(&turnstile, Who::Proxy);
        assert_eq!(proxy.len(), 512);
        assert!(turnstile.enter(one).is_none());
        drop(proxy);
        assert!(turnstile.inside.lock().unwrap().is_empty());
    }

    #[test]
    fn this_machine_cannot_take_all_places_of_a_door_for_everybody() {
        for loopback in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(at(loopback), Who::Local, "{loopback}");
        }
        let turnstile = Turnstile::new(CONNECTIONS);
        let local = fill(&turnstile, Who::Local);
        assert_eq!(local.len(), 256);
        assert_eq!(fill(&turnstile, at("192.0.2.1")).len(), 32);
        let small = Turnstile::new(1);
        assert_eq!(fill(&small, Who::Local).len(), 1);
        assert_eq!(fill(&small, at("192.0.2.1")).len(), 1);
    }
}
