//! How many connections this process can hold: what the settings want enters, what its file descriptors allow leaves.

use rustix::process::{Resource, getrlimit};

/// What listeners, tunnels, the log and key fetches need beside the connections.
const RESERVED: u64 = 1024;
/// Each connection has two ends, and one more stands by for every two of them: streams of HTTP/2 have connections of their
/// own to an application of HTTP/1.1.
const OF_TWO: u64 = 5;

/// The connections that are taken at once: `wanted`, or fewer when the process may not open files for as many. A connection
/// that is closed at once tells more than one that is never accepted.
pub(super) fn affordable(wanted: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return wanted;
    };
    let taken = within(limit, wanted);
    if taken < wanted {
        let needed = u64::try_from(wanted)
            .unwrap_or(u64::MAX)
            .saturating_mul(OF_TWO)
            .div_ceil(2)
            .saturating_add(RESERVED);
        tracing::warn!(
            "{taken} connections are taken at once, not the {wanted} of `limits.connections`: the process may open {limit} \
             files (hint: raise its limit, LimitNOFILE={needed} under systemd, or set limits.connections = {taken})"
        );
    }
    taken
}

/// The connections to applications that streams of HTTP/2 may have together.
pub(super) fn for_streams(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(wanted, |limit| within(limit, wanted)) / 2
}

fn within(limit: u64, wanted: usize) -> usize {
    // Of a small limit most goes to connections all the same.
    let room = limit.saturating_sub(RESERVED.min(limit / 4)).saturating_mul(2) / OF_TWO;
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn no_more_is_taken_than_can_be_held() {
        assert_eq!(within(1_048_576, 20_000), 20_000);
        assert_eq!(within(51_024, 20_000), 20_000);
        assert_eq!(within(20_000, 20_000), 7_590);
        assert_eq!(within(1024, 20_000), 307);
        assert_eq!(within(1024, 100), 100);
        assert_eq!(within(0, 100), 1);
    }
}
