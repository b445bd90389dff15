//! How long to wait before the Workload API is asked again (Workload Endpoint 6): twice as long each time, with jitter,
//! up to a limit, and from the start again after a success. It never waits itself.

use std::time::Duration;

/// The pace of one kind of failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait; `dice` from 0 to 255 takes away up to half of it, so that a fleet does not come back as one.
    pub(super) fn next(&mut self, dice: u8) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let full = self.first.saturating_mul(doubled).min(self.limit);
        full.saturating_sub(full.mul_f64(f64::from(dice) / 512.0))
    }
}

/// A throw of the dice for [`Backoff::next`].
pub(super) fn dice() -> u8 {
    let mut byte = [0];
    // Without randomness there is merely no jitter.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    byte.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_limit_and_starts_again() {
        let mut pace = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| pace.next(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        pace.reset();
        assert_eq!(pace.next(0).as_millis(), 100);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        for dice in 0..=u8::MAX {
            let wait = Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next(dice);
            assert!(
                wait > Duration::from_millis(500) && wait <= Duration::from_secs(1),
                "{dice}: {wait:?}"
            );
        }
    }
}
