//! How many connections there may be, in all and from one address: nobody who only connects keeps others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

const CONNECTIONS: usize = 512;
const OF_ONE: usize = 32;

/// Counts who is in.
#[derive(Debug, Default)]
pub struct Turnstile {
    inside: Mutex<HashMap<IpAddr, usize>>,
}

/// Somebody who is in, until it is dropped.
#[derive(Debug)]
pub struct Inside {
    turnstile: Arc<Turnstile>,
    who: IpAddr,
}

impl Turnstile {
    /// Lets a connection in, unless there are too many. `address` is nobody's for a proxy of this machine.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Inside> {
        let who = address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = inside.values().sum();
        let count = inside.entry(who).or_default();
        if all >= CONNECTIONS || (address.is_some() && *count >= OF_ONE) {
            if *count == 0 {
                inside.remove(&who);
            }
            return None;
        }
        *count += 1;
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

/// Who has one address of IPv6 has the 2^64 beside it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_all_places_are_bounded() {
        let turnstile = Arc::new(Turnstile::default());
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let beside: IpAddr = "2001:db8::ffff:1".parse().unwrap();
        let mut inside: Vec<_> = (0..OF_ONE).filter_map(|_| turnstile.enter(Some(one))).collect();
        assert_eq!(inside.len(), OF_ONE);
        assert!(turnstile.enter(Some(one)).is_none() && turnstile.enter(Some(beside)).is_none());
        assert!(
            turnstile
                .enter(Some("2001:db8:0:1::1".parse().unwrap()))
                .is_some()
        );
        assert!(
            turnstile
                .enter(Some("::ffff:192.0.2.1".parse().unwrap()))
                .is_some()
        );
        inside.pop();
        assert!(turnstile.enter(Some(beside)).is_some(), "a place is free again");
        drop(inside);
        let proxy: Vec<_> = (0..CONNECTIONS + 5)
            .filter_map(|_| turnstile.enter(None))
            .collect();
        assert_eq!(proxy.len(), CONNECTIONS);
        assert!(turnstile.enter(Some(one)).is_none());
        drop(proxy);
        assert!(turnstile.inside.lock().unwrap().is_empty());
    }
}
