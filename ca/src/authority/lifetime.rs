//! When certificates begin, end and are renewed: arithmetic on times that are given. It reads no clock and draws no
//! random number.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Clocks of workloads may be behind ours by this much.
const BACKDATE_SVID: Duration = Duration::from_secs(10);
const BACKDATE_AUTHORITY: Duration = Duration::from_secs(3600);
/// Rotation happens at half life, give or take this part of it, so that what was issued together does not come back
/// together.
const JITTER: f64 = 0.1;

/// From when to when, in whole seconds, as certificates have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second of validity.
    pub not_before: SystemTime,
    /// Last second of validity.
    pub not_after: SystemTime,
}

impl Validity {
    /// For a root that is made now.
    pub fn of_authority(now: SystemTime, ttl: Duration) -> Self {
        let now = whole_seconds(now);
        Self {
            not_before: before(now, BACKDATE_AUTHORITY),
            not_after: whole_seconds(now + ttl),
        }
    }

    /// For an SVID that is issued now: backdated, and never past the authority's own end.
    pub fn of_svid(now: SystemTime, ttl: Duration, authority: &Self) -> Self {
        let now = whole_seconds(now);
        let not_before = before(now, backdate(ttl)).max(authority.not_before);
        Self {
            not_before,
            not_after: whole_seconds(now + ttl).min(authority.not_after),
        }
    }

    /// Whether a time is within, ends included (RFC 5280, 4.1.2.5).
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && whole_seconds(now) <= self.not_after
    }

    /// The start, for people.
    pub fn from(&self) -> String {
        text(self.not_before)
    }

    /// The end, for people.
    pub fn to(&self) -> String {
        text(self.not_after)
    }
}

/// How far an SVID's `notBefore` lies in the past: 10 s, but never more than half of a short life; whole seconds.
pub fn backdate(ttl: Duration) -> Duration {
    BACKDATE_SVID.min(Duration::from_secs(ttl.as_secs() / 2))
}

/// When to renew what was issued at `issued_at`: at half of its life, moved by up to 10 % of that half. `jitter` is the
/// caller's draw between -1 and 1; what is outside is taken as the nearest end, what is no number as 0.
pub fn rotate_at(issued_at: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let half = not_after.duration_since(issued_at).unwrap_or_default() / 2;
    let jitter = if jitter.is_nan() {
        0.0
    } else {
        jitter.clamp(-1.0, 1.0)
    };
    issued_at + half.mul_f64(1.0 + JITTER * jitter)
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn before(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_sub(by).unwrap_or(UNIX_EPOCH)
}

fn text(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_svid_is_backdated_and_lives_its_ttl_from_now() {
        let authority = Validity {
            not_before: at(0),
            not_after: at(1_000_000_000),
        };
        let validity = Validity::of_svid(at(100_000_900), HOUR, &authority);
        assert_eq!(
            validity,
            Validity {
                not_before: at(99_990_000),
                not_after: at(103_600_000)
            }
        );
        let short = Validity::of_svid(at(100_000_900), Duration::from_secs(2), &authority);
        assert_eq!(
            short,
            Validity {
                not_before: at(99_999_000),
                not_after: at(100_002_000)
            }
        );
    }

    #[test]
    fn every_life_has_whole_seconds() {
        let authority = Validity {
            not_before: at(0),
            not_after: at(1_000_000_000),
        };
        for ttl in [2000, 2500, 3000, 3999, 21_000] {
            let validity = Validity::of_svid(at(100_000_900), Duration::from_millis(ttl), &authority);
            for time in [validity.not_before, validity.not_after] {
                assert_eq!(time, whole_seconds(time), "{ttl}");
            }
            assert!(validity.not_before < at(100_000_000), "{ttl}");
        }
    }

    #[test]
    fn an_svid_never_leaves_its_authoritys_validity() {
        let authority = Validity {
            not_before: at(99_995_000),
            not_after: at(100_010_000),
        };
        let validity = Validity::of_svid(at(100_000_000), HOUR, &authority);
        assert_eq!(validity, authority);
    }

    #[test]
    fn both_ends_are_within() {
        let validity = Validity {
            not_before: at(1000),
            not_after: at(3000),
        };
        for (time, within) in [
            (999, false),
            (1000, true),
            (3000, true),
            (3999, true),
            (4000, false),
        ] {
            assert_eq!(validity.contains(at(time)), within, "{time}");
        }
    }

    #[test]
    fn rotation_is_at_half_life_give_or_take_a_tenth_of_it() {
        let half = |jitter| rotate_at(at(0), at(3_600_000), jitter);
        assert_eq!(half(0.0), at(1_800_000));
        assert_eq!(half(1.0), at(1_980_000));
        assert_eq!(half(-1.0), at(1_620_000));
        assert_eq!(half(9.0), half(1.0));
        assert_eq!(half(f64::NAN), half(0.0));
        assert_eq!(
            rotate_at(at(5000), at(4000), 1.0),
            at(5000),
            "what has ended is due at once"
        );
    }
}
