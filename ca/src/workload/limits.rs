//! How much one caller may take, so that no caller starves another: connections and calls are counted for each uid, and
//! connections in all. It knows no sockets; time is an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::{Audit, Event};

/// The limits of the Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: u32,
    /// Connections of one uid.
    pub connections_per_uid: u32,
    /// Streams open at once on one connection.
    pub streams_per_connection: u32,
    /// Connections and calls a second of one uid, in the long run.
    pub calls_per_second: u32,
    /// Connections and calls of one uid at once.
    pub call_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_uid: 1024,
            streams_per_connection: 32,
            calls_per_second: 200,
            call_burst: 2000,
        }
    }
}

/// Descriptors that are not for callers.
const OWN_DESCRIPTORS: u64 = 256;

impl Limits {
    /// The descriptors that these limits need: each connection takes one, its process another.
    pub fn descriptors(&self) -> u64 {
        u64::from(self.connections) * 2 + OWN_DESCRIPTORS
    }

    /// The same within so many descriptors: who comes when there are none left is refused, instead of keeping all others out,
    /// and no uid can take all of them.
    pub fn within(&self, descriptors: u64) -> Self {
        let most = descriptors.saturating_sub(OWN_DESCRIPTORS) / 2;
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        if self.connections <= most {
            return self.clone();
        }
        Self {
            connections: most,
            connections_per_uid: self.connections_per_uid.min((most / 4).max(1)),
            ..self.clone()
        }
    }
}

/// Which limit a caller ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// Too many connections in all.
    #[error("too many connections")]
    Connections,
    /// Too many connections of this uid.
    #[error("too many connections of this uid")]
    ConnectionsOfUid,
    /// Too many calls of this uid.
    #[error("too many calls of this uid")]
    Calls,
}

/// One log line of a kind in this time, for each uid; the rest is counted.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// Uids remembered without a connection.
const REMEMBERED: usize = 4096;

/// Who has how much.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    audit: Audit,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: u32,
    uids: HashMap<u32, Uid>,
}

#[derive(Debug)]
struct Uid {
    connections: u32,
    tokens: f64,
    at: Instant,
    logged: Option<Instant>,
    unlogged: u64,
}

/// A connection that was admitted, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    uid: u32,
}

impl Admission {
    #[cfg(test)]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::audited(limits, Audit::none())
    }

    /// Limits whose refusals are told to an audit log.
    pub fn audited(limits: Limits, audit: Audit) -> Arc<Self> {
        Arc::new(Self {
            limits,
            audit,
            state: Mutex::default(),
        })
    }

    /// Tells of a refusal which may be logged.
    pub fn tell(&self, event: &Event) {
        let _no_room = self.audit.tell(event);
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Admits a connection of a uid.
    pub fn connect(self: &Arc<Self>, uid: u32, now: Instant) -> Result<Permit, Shed> {
        let mut state = self.lock();
        if state.connections >= self.limits.connections {
            return Err(Shed::Connections);
        }
        let one = self.uid(&mut state, uid, now);
        if one.connections >= self.limits.connections_per_uid {
            return Err(Shed::ConnectionsOfUid);
        }
        one.spend()?;
        one.connections += 1;
        state.connections += 1;
        Ok(Permit {
            admission: self.clone(),
            uid,
        })
    }

    /// Admits a call of a uid.
    pub fn call(&self, uid: u32, now: Instant) -> Result<(), Shed> {
        let mut state = self.lock();
        self.uid(&mut state, uid, now).spend()
    }

    /// Whether a refusal of this uid may be logged now; if so, how many were not since the last.
    pub fn may_log(&self, uid: u32, now: Instant) -> Option<u64> {
        let mut state = self.lock();
        let one = self.uid(&mut state, uid, now);
        if one
            .logged
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_EVERY)
        {
            one.unlogged = one.unlogged.saturating_add(1);
            return None;
        }
        one.logged = Some(now);
        Some(std::mem::take(&mut one.unlogged))
    }

    fn uid<'a>(&self, state: &'a mut State, uid: u32, now: Instant) -> &'a mut Uid {
        let burst = f64::from(self.limits.call_burst);
        let rate = f64::from(self.limits.calls_per_second);
        if state.uids.len() > REMEMBERED && !state.uids.contains_key(&uid) {
            // Who has nothing open and a full purse is as good as new.
            state.uids.retain(|_, one| {
                one.refill(now, rate, burst);
                one.connections > 0 || one.tokens < burst
            });
        }
        let one = state.uids.entry(uid).or_insert_with(|| Uid {
            connections: 0,
            tokens: burst,
            at: now,
            logged: None,
            unlogged: 0,
        });
        one.refill(now, rate, burst);
        one
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uid {
    fn refill(&mut self, now: Instant, rate: f64, burst: f64) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(burst);
        self.at = self.at.max(now);
    }

    fn spend(&mut self) -> Result<(), Shed> {
        if self.tokens < 1.0 {
            return Err(Shed::Calls);
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.connections = state.connections.saturating_sub(1);
        if let Some(one) = state.uids.get_mut(&self.uid) {
            one.connections = one.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        Admission::new(Limits {
            connections: 3,
            connections_per_uid: 2,
            streams_per_connection: 1,
            calls_per_second: 10,
            call_burst: 5,
        })
    }

    #[test]
    fn limits_shrink_to_what_the_process_may_open() {
        let limits = Limits::default();
        assert_eq!(limits.within(limits.descriptors()), limits);
        let small = limits.within(1024);
        assert_eq!((small.connections, small.connections_per_uid), (384, 96));
        assert!(small.descriptors() <= 1024);
        let none = limits.within(0);
        assert_eq!((none.connections, none.connections_per_uid), (1, 1));
        assert_eq!(small.calls_per_second, limits.calls_per_second);
    }

    #[test]
    fn one_uid_cannot_take_the_connections_of_another() {
        let (admission, now) = (admission(), Instant::now());
        let first = admission.connect(1, now).unwrap();
        let _second = admission.connect(1, now).unwrap();
        assert_eq!(admission.connect(1, now).unwrap_err(), Shed::ConnectionsOfUid);
        let _other = admission.connect(2, now).unwrap();
        assert_eq!(admission.connect(3, now).unwrap_err(), Shed::Connections);
        drop(first);
        let _again = admission.connect(1, now).unwrap();
    }

    #[test]
    fn calls_of_one_uid_are_slowed_and_those_of_another_are_not() {
        let (admission, now) = (admission(), Instant::now());
        for _ in 0..5 {
            admission.call(1, now).unwrap();
        }
        assert_eq!(admission.call(1, now), Err(Shed::Calls));
        admission.call(2, now).unwrap();
        let later = now + Duration::from_millis(100);
        admission.call(1, later).unwrap();
        assert_eq!(admission.call(1, later), Err(Shed::Calls), "ten a second");
        assert_eq!(
            admission.connect(1, later).unwrap_err(),
            Shed::Calls,
            "connecting anew is no way around"
        );
    }

    #[test]
    fn many_uids_are_forgotten_but_not_those_that_are_slowed() {
        let (admission, now) = (admission(), Instant::now());
        for _ in 0..5 {
            admission.call(0, now).unwrap();
        }
        for uid in 1..6000 {
            let _none = admission.may_log(uid, now);
        }
        assert!(admission.lock().uids.len() <= REMEMBERED + 1);
        assert_eq!(admission.call(0, now), Err(Shed::Calls));
    }

    #[test]
    fn refusals_are_logged_once_a_second_and_counted() {
        let (admission, now) = (admission(), Instant::now());
        assert_eq!(admission.may_log(1, now), Some(0));
        assert_eq!(admission.may_log(1, now), None);
        assert_eq!(admission.may_log(1, now + LOG_EVERY / 2), None);
        assert_eq!(admission.may_log(2, now), Some(0));
        assert_eq!(admission.may_log(1, now + LOG_EVERY), Some(2));
    }
}
