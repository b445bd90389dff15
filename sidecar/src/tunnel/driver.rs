//! What keeps a tunnel going besides HTTP/2 itself: the PING that finds a dead peer, and the end that the SVIDs set. Both
//! are polled by the task of the connection, after the connection. This is the edge where the tunnel reads the clocks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use h2::{Ping, PingPong};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use super::life::{End, Life};
use super::settings::{PING_EVERY, PONG_WITHIN};

/// The longest time between two looks at the wall clock, which may be set while a timer runs.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// Everything that can end a tunnel from outside the protocol.
pub struct Warden {
    keepalive: Option<Keepalive>,
    valid_until: SystemTime,
    expiry: Pin<Box<Sleep>>,
    bell: mpsc::Receiver<()>,
    life: Arc<Life>,
}

impl Warden {
    /// Of a connection that pings by `pings`, counts what it hears in `life`, and ends at `valid_until` at the latest.
    pub fn new(
        pings: Option<PingPong>,
        valid_until: SystemTime,
        life: &Arc<Life>,
        bell: mpsc::Receiver<()>,
    ) -> Self {
        Self {
            keepalive: pings.map(|pings| Keepalive::new(pings, Arc::clone(life))),
            valid_until,
            expiry: Box::pin(sleep(left(valid_until))),
            bell,
            life: Arc::clone(life),
        }
    }

    /// Ready when the tunnel must end now.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while let Poll::Ready(Some(())) = self.bell.poll_recv(cx) {
            if let Some(end) = self.life.ended() {
                return Poll::Ready(end.clone());
            }
            if self.life.was_doubted()
                && let Some(keepalive) = &mut self.keepalive
            {
                keepalive.hurry();
            }
        }
        while self.expiry.as_mut().poll(cx).is_ready() {
            let left = left(self.valid_until);
            if left.is_zero() {
                return Poll::Ready(End::Expired);
            }
            self.expiry.as_mut().reset(Instant::now() + left);
        }
        match &mut self.keepalive {
            Some(keepalive) => keepalive.poll_dead(cx).map(|()| End::Silent),
            None => Poll::Pending,
        }
    }
}

fn left(valid_until: SystemTime) -> Duration {
    valid_until
        .duration_since(SystemTime::now())
        .unwrap_or_default()
        .min(CLOCK_CHECK)
}

/// Sends a PING now and then, or at once when asked.
struct Keepalive {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    /// What was heard when the outstanding PING left.
    sent: Option<u64>,
    life: Arc<Life>,
}

impl Keepalive {
    fn new(pings: PingPong, life: Arc<Life>) -> Self {
        Self {
            pings,
            timer: Box::pin(sleep(PING_EVERY)),
            sent: None,
            life,
        }
    }

    fn hurry(&mut self) {
        if self.sent.is_none() {
            self.timer.as_mut().reset(Instant::now());
        }
    }

    /// Ready when the peer is to be taken for dead.
    fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(heard) = self.sent else {
                ready!(self.timer.as_mut().poll(cx));
                // It can only fail when the connection is ending, which its own poll reports.
                let sent = self.pings.send_ping(Ping::opaque()).is_ok();
                self.sent = sent.then(|| self.life.heard());
                let next = if sent { PONG_WITHIN } else { PING_EVERY };
                self.timer.as_mut().reset(Instant::now() + next);
                continue;
            };
            if self.pings.poll_pong(cx).is_ready() {
                self.sent = None;
                self.timer.as_mut().reset(Instant::now() + PING_EVERY);
                continue;
            }
            ready!(self.timer.as_mut().poll(cx));
            let now_heard = self.life.heard();
            if now_heard == heard {
                return Poll::Ready(());
            }
            // The answer waits behind bulk, but the peer is there.
            self.sent = Some(now_heard);
            self.timer.as_mut().reset(Instant::now() + PONG_WITHIN);
        }
    }
}
