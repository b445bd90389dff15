//! Which numeric ids prove something. In a user namespace the kernel shows every uid that is not mapped as one number
//! (the overflow uid, 65534): that number there is anybody, so it proves nothing.

use std::sync::Arc;

use crate::registration::Fact;

/// The ids that stand for "not mapped", when there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    overflow_uid: Option<u32>,
    overflow_gid: Option<u32>,
}

impl Ids {
    /// As this process's user namespace has it.
    pub fn of_this_process() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            overflow_uid: ambiguous(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid")),
            overflow_gid: ambiguous(&read("/proc/self/gid_map"), &read("/proc/sys/kernel/overflowgid")),
        }
    }

    /// What a peer's uid proves.
    pub fn uid(&self, uid: u32) -> Fact<u32> {
        fact(uid, self.overflow_uid, "uid")
    }

    /// What a peer's gid proves.
    pub fn gid(&self, gid: u32) -> Fact<u32> {
        fact(gid, self.overflow_gid, "gid")
    }
}

fn fact(id: u32, overflow: Option<u32>, kind: &str) -> Fact<u32> {
    if overflow == Some(id) {
        let reason = format!("{kind} {id} stands for every {kind} that is not mapped in this user namespace");
        return Fact::Unproven(Arc::from(reason));
    }
    Fact::Proven(id)
}

/// The overflow id, unless the map covers all ids, so that nothing overflows. What cannot be read is taken for the
/// kernel's default.
fn ambiguous(map: &str, overflow: &str) -> Option<u32> {
    let fields: Vec<&str> = map.split_whitespace().collect();
    if fields == ["0", "0", "4294967295"] {
        return None;
    }
    Some(overflow.trim().parse().unwrap_or(65_534))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_proven_where_all_are_mapped() {
        assert_eq!(ambiguous("         0          0 4294967295\n", "65534\n"), None);
    }

    #[test]
    fn the_overflow_id_proves_nothing_in_a_user_namespace() {
        for map in ["0 1000 1\n", "0 100000 65536\n", "0 0 4294967294\n", ""] {
            assert_eq!(ambiguous(map, "65534\n"), Some(65_534), "{map}");
        }
        assert_eq!(
            ambiguous("0 1000 1", ""),
            Some(65_534),
            "unreadable is the default"
        );
        let ids = Ids {
            overflow_uid: Some(65_534),
            overflow_gid: None,
        };
        assert!(matches!(ids.uid(65_534), Fact::Unproven(_)));
        assert_eq!(ids.uid(1000), Fact::Proven(1000));
        assert_eq!(ids.gid(65_534), Fact::Proven(65_534));
    }
}
