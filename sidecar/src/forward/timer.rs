//! Deadlines inside a poll: an instant enters, and the task is woken when it has passed. Moving a deadline back, as every
//! byte moved does, costs nothing: the timer wakes at the old one, looks, and sleeps on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for changing deadlines. It is not made before the first deadline is asked for.
#[derive(Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready once `deadline` has passed.
    pub(super) fn poll_at(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// Notices when a counter has stood still for a time.
pub(super) struct IdleTimer {
    alarm: Alarm,
    idle: Duration,
    since: Instant,
    seen: u64,
}

impl IdleTimer {
    pub(super) fn new(idle: Duration) -> Self {
        Self {
            alarm: Alarm::default(),
            idle,
            since: Instant::now(),
            seen: 0,
        }
    }

    /// Ready when `count` has been the same for the idle time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, count: u64) -> Poll<()> {
        if self.seen != count {
            self.seen = count;
            self.since = Instant::now();
        }
        // A time so long that it cannot be added never passes.
        match self.since.checked_add(self.idle) {
            Some(deadline) => self.alarm.poll_at(cx, deadline),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_move_both_ways() {
        let (begun, mut alarm) = (Instant::now(), Alarm::default());
        let second = Duration::from_secs(1);
        let mut after = async |seconds: u32| poll_fn(|cx| alarm.poll_at(cx, begun + second * seconds)).await;
        // Given up before it passes, then nearer, then farther.
        assert!(tokio::time::timeout(second, after(50)).await.is_err());
        after(2).await;
        assert_eq!(begun.elapsed().as_secs(), 2);
        after(10).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        // One that has passed already.
        after(3).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}
