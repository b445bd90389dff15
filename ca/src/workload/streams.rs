//! Which streams are open, whose they are, and what each was sent: with it the authority knows whom a rotation would hurt,
//! how long the mesh lives without it, and operators whom a change would reach. It decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use spiffe::SpiffeId;

use crate::attest::Peer;
use crate::authority::Svid;

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// X.509-SVIDs with their bundle.
    Svids,
    /// X.509 bundles alone.
    Bundles,
    /// JWT bundles.
    JwtBundles,
}

/// One SVID that was sent on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Its serial number.
    pub serial: String,
    /// Who signed it.
    pub authority: String,
    /// The bundle of its record (the one in force when it was signed).
    pub bundle: u64,
    /// Its end.
    pub not_after: SystemTime,
}

/// Whose a stream is, and what he may have.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub peer: Peer,
    /// Since when the stream is open.
    pub since: SystemTime,
    /// What he may have, as it was decided last; the first is his default identity.
    pub ids: Vec<SpiffeId>,
}

/// One open stream.
#[derive(Clone, Debug)]
pub struct Open {
    /// Whose it is.
    pub caller: Caller,
    /// What it carries; nothing before its first message.
    pub carries: Option<Carries>,
    /// Sequence number of the bundle that it was sent last.
    pub sent: u64,
    /// Every SVID that was sent on it and has not ended.
    pub handed: Vec<Handed>,
    /// The identity that it loses first when nothing is renewed, and when.
    pub first_out: Option<(String, SystemTime)>,
}

/// All open streams.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By numbers that grow: the eldest is the first.
    streams: BTreeMap<u64, Open>,
}

/// The place of one stream among them, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    streams: Arc<Streams>,
    number: u64,
}

impl Streams {
    /// A place for a stream of this caller that opens.
    pub fn enter(self: &Arc<Self>, peer: Peer, now: SystemTime) -> Ticket {
        let mut state = self.lock();
        let number = state.next;
        state.next = number.wrapping_add(1);
        state.streams.insert(
            number,
            Open {
                caller: Caller {
                    peer,
                    since: now,
                    ids: Vec::new(),
                },
                carries: None,
                sent: 0,
                handed: Vec::new(),
                first_out: None,
            },
        );
        Ticket {
            streams: self.clone(),
            number,
        }
    }

    /// Looks at each of them; nobody opens, ends or sends meanwhile, so it must be short.
    pub fn each(&self, mut look: impl FnMut(&Open)) {
        for open in self.lock().streams.values() {
            look(open);
        }
    }

    /// Whose they are, the eldest first.
    pub fn callers(&self) -> Vec<Caller> {
        self.lock()
            .streams
            .values()
            .map(|open| open.caller.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// What the caller may have now.
    pub fn may_have<'a>(&self, ids: impl Iterator<Item = &'a SpiffeId>) {
        if let Some(open) = self.streams.lock().streams.get_mut(&self.number) {
            open.caller.ids = ids.cloned().collect();
        }
    }

    /// What was sent last says the same as this bundle: nothing goes out.
    pub fn holds(&self, bundle: u64) {
        if let Some(open) = self.streams.lock().streams.get_mut(&self.number) {
            open.sent = bundle;
        }
    }

    /// A message goes out now: this bundle, and these SVIDs as the whole state of the stream.
    pub fn sent<'a>(
        &self,
        carries: Carries,
        bundle: u64,
        svids: impl Iterator<Item = &'a Arc<Svid>>,
        now: SystemTime,
    ) {
        let mut state = self.streams.lock();
        let Some(open) = state.streams.get_mut(&self.number) else {
            return;
        };
        open.carries = Some(carries);
        open.sent = bundle;
        open.first_out = None;
        let before = std::mem::take(&mut open.handed);
        for svid in svids {
            if open
                .first_out
                .as_ref()
                .is_none_or(|(_, first)| svid.not_after < *first)
            {
                open.first_out = Some((svid.id.to_string(), svid.not_after));
            }
            open.handed.push(Handed {
                serial: svid.serial.clone(),
                authority: svid.authority.clone(),
                bundle: svid.bundle,
                not_after: svid.not_after,
            });
        }
        // What an earlier message brought lives on with the workload, which has this bundle now.
        let now_too = open.handed.len();
        for one in before {
            let again = open
                .handed
                .iter()
                .take(now_too)
                .any(|handed| handed.serial == one.serial);
            if !again && one.not_after >= now {
                open.handed.push(one);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.streams.lock().streams.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use tokio::net::UnixStream;
    use zeroize::Zeroizing;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn svid(serial: &str, bundle: u64, end: u64) -> Arc<Svid> {
        Arc::new(Svid {
            id: SpiffeId::new(format!("spiffe://td/{serial}")).unwrap(),
            chain: Vec::new(),
            key: Zeroizing::new(Vec::new()),
            serial: serial.into(),
            authority: "1".into(),
            bundle,
            issued_at: at(0),
            not_after: at(end),
        })
    }

    fn enter(streams: &Arc<Streams>) -> Ticket {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        streams.enter(Peer::of(&ours, "default".into()).unwrap(), at(7))
    }

    fn all(streams: &Streams) -> Vec<Open> {
        let mut all = Vec::new();
        streams.each(|open| all.push(open.clone()));
        all
    }

    #[tokio::test]
    async fn a_caller_is_told_from_the_beginning_of_its_stream_to_the_end() {
        let streams = Arc::new(Streams::default());
        let tickets: Vec<Ticket> = (0..3).map(|_| enter(&streams)).collect();
        let id = SpiffeId::new("spiffe://td/a").unwrap();
        tickets[1].may_have([&id].into_iter());
        let callers = streams.callers();
        let had: Vec<usize> = callers.iter().map(|caller| caller.ids.len()).collect();
        assert_eq!(had, [0, 1, 0]);
        assert!(callers.iter().all(|caller| caller.since == at(7)));
        tickets[1].may_have(std::iter::empty());
        assert!(streams.callers().iter().all(|caller| caller.ids.is_empty()));
        drop(tickets);
        assert!(streams.callers().is_empty());
    }

    #[tokio::test]
    async fn what_was_sent_stays_with_the_stream_until_it_ends() {
        let streams = Arc::new(Streams::default());
        let ticket = enter(&streams);
        assert_eq!(all(&streams)[0].carries, None);
        let (first, second) = (svid("1", 4, 100), svid("2", 5, 200));
        ticket.sent(Carries::Svids, 4, [&first].into_iter(), at(0));
        ticket.sent(Carries::Svids, 5, [&second].into_iter(), at(50));
        let serials = |open: &Open| {
            open.handed
                .iter()
                .map(|one| one.serial.clone())
                .collect::<Vec<_>>()
        };
        let open = all(&streams).remove(0);
        assert_eq!(
            (open.sent, serials(&open)),
            (5, vec!["2".to_owned(), "1".to_owned()])
        );
        assert_eq!(open.first_out, Some(("spiffe://td/2".to_owned(), at(200))));
        ticket.sent(Carries::Svids, 6, [&second].into_iter(), at(101));
        assert_eq!(
            serials(&all(&streams)[0]),
            ["2"],
            "once, and without what has ended"
        );
        ticket.holds(7);
        assert_eq!(all(&streams)[0].sent, 7);
        drop(ticket);
        assert!(all(&streams).is_empty());
    }

    #[tokio::test]
    async fn the_identity_that_ends_first_is_told() {
        let streams = Arc::new(Streams::default());
        let ticket = enter(&streams);
        let (first, second) = (svid("1", 4, 100), svid("2", 4, 90));
        ticket.sent(Carries::Svids, 4, [&first, &second].into_iter(), at(0));
        assert_eq!(
            all(&streams)[0].first_out,
            Some(("spiffe://td/2".to_owned(), at(90)))
        );
    }
}
