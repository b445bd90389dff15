//! Tokens that were verified: the digest of a token enters, the user it stands for leaves. Keyed by SHA-256 of the whole
//! token, so that no bearer token is kept and no two tokens can meet; bounded in number and bytes; the oldest goes
//! first. What an entry is worth now is the caller's to say. There is no memory of tokens that were refused: attackers
//! send a new one each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use hopguard_jose::Times;

use super::issuer::Issuer;
use super::options::CacheLimits;
use super::user::{ClaimValue, VerifiedUser};

/// The number of parts that are locked apart.
const SHARDS: usize = 64;
/// What an entry costs beside its texts, in bytes: itself, its places in map and queue, the allocator's share.
const ENTRY_BYTES: usize = 640;

/// SHA-256 of a whole token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        let hash = digest(&SHA256, token.as_bytes());
        bytes
            .iter_mut()
            .zip(hash.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    fn shard(&self) -> usize {
        let [first, ..] = self.0;
        usize::from(first) % SHARDS
    }
}

/// What is known of a token.
pub(super) struct Entry {
    pub(super) user: Arc<VerifiedUser>,
    pub(super) issuer: Arc<Issuer>,
    pub(super) times: Times,
    pub(super) rests: Rests,
}

/// What the proof of a token rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rests {
    /// Keys of this generation.
    Keys(u64),
    /// An answer of its issuer, which is believed until this second.
    Answer { until: i64 },
}

impl Entry {
    /// Whether it rests on configuration, keys and answers that are in force at `now` (Unix seconds).
    pub(super) fn alive(&self, now: i64) -> bool {
        let proven = match self.rests {
            Rests::Keys(generation) => self.issuer.keys.in_use(generation, now),
            Rests::Answer { until } => now < until,
        };
        proven && !self.issuer.retired()
    }
}

/// The cache.
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// Of one shard.
    limits: CacheLimits,
}

#[derive(Default)]
struct Shard {
    map: HashMap<Digest, (Arc<Entry>, usize)>,
    /// The keys of `map`, each once, oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(limits: CacheLimits) -> Self {
        let limits = CacheLimits {
            entries: limits.entries.div_ceil(SHARDS),
            bytes: limits.bytes.div_ceil(SHARDS),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            limits,
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Entry>> {
        let shard = self.shard(digest)?;
        shard.map.get(digest).map(|(entry, _)| Arc::clone(entry))
    }

    /// The user that an issuer's answer proved, while that is believed at `now` (Unix seconds).
    pub(super) fn answered(&self, digest: &Digest, now: i64) -> Option<Arc<VerifiedUser>> {
        let entry = self.get(digest)?;
        let holds = entry.alive(now) && entry.issuer.check(&entry.times, now).is_ok();
        holds.then(|| Arc::clone(&entry.user))
    }

    pub(super) fn put(&self, digest: Digest, entry: Entry) {
        let size = size(&entry.user);
        let Some(mut shard) = self.shard(&digest) else {
            return;
        };
        match shard.map.insert(digest, (Arc::new(entry), size)) {
            Some((_, old)) => shard.bytes -= old,
            None => shard.order.push_back(digest),
        }
        shard.bytes += size;
        while shard.map.len() > self.limits.entries || shard.bytes > self.limits.bytes {
            let Some(oldest) = shard.order.pop_front() else {
                break;
            };
            if let Some((_, freed)) = shard.map.remove(&oldest) {
                shard.bytes -= freed;
            }
        }
    }

    /// Drops every entry that `keep` does not want.
    pub(super) fn sweep(&self, keep: impl Fn(&Entry) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { map, order, bytes } = &mut *shard;
            map.retain(|_, (entry, size)| {
                let kept = keep(entry);
                if !kept {
                    *bytes -= *size;
                }
                kept
            });
            order.retain(|digest| map.contains_key(digest));
            map.shrink_to(order.len() * 2);
        }
    }

    /// The number of entries and their bytes, about.
    pub(super) fn usage(&self) -> (usize, usize) {
        self.shards
            .iter()
            .map(lock)
            .fold((0, 0), |(entries, bytes), shard| {
                (entries + shard.map.len(), bytes + shard.bytes)
            })
    }

    fn shard(&self, digest: &Digest) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(digest.shard()).map(lock)
    }
}

/// Held for a lookup or an insertion only. A panic elsewhere leaves nothing half done that could let a token through.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn size(user: &VerifiedUser) -> usize {
    let list = |texts: &[String]| {
        texts
            .iter()
            .map(|text| text.len() + size_of::<String>())
            .sum::<usize>()
    };
    let one = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let claims = user.claims.iter().map(|(name, value)| {
        name.len()
            + size_of::<(String, ClaimValue)>()
            + match value {
                ClaimValue::String(text) => text.len(),
                ClaimValue::Strings(texts) => list(texts),
                ClaimValue::Long(_) | ClaimValue::Bool(_) => 0,
            }
    });
    ENTRY_BYTES
        + user.subject.len()
        + bound(user)
        + [&user.audience, &user.scope, &user.roles, &user.amr, &user.actors]
            .into_iter()
            .map(|texts| list(texts))
            .sum::<usize>()
        + [&user.azp, &user.acr, &user.kid]
            .into_iter()
            .map(one)
            .sum::<usize>()
        + claims.sum::<usize>()
}

/// What the binding of a token costs.
fn bound(user: &VerifiedUser) -> usize {
    let named = user.binding.named.iter().map(|(_, values)| values);
    let texts = named.chain([&user.binding.callers]).flatten();
    texts.map(|text| text.len() + size_of::<String>()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::authn::testing;

    fn entry(subject: &str) -> Entry {
        static IDLE: LazyLock<Arc<Issuer>> = LazyLock::new(testing::idle_issuer);
        let user = VerifiedUser {
            subject: subject.to_owned(),
            ..testing::user()
        };
        Entry {
            user: Arc::new(user),
            issuer: Arc::clone(&IDLE),
            times: Times {
                exp: 10,
                nbf: None,
                iat: None,
            },
            rests: Rests::Keys(1),
        }
    }

    #[test]
    fn a_digest_is_that_of_the_whole_token() {
        let cache = Cache::new(CacheLimits::default());
        cache.put(Digest::of("a.b.c"), entry("alice"));
        assert_eq!(
            cache
                .get(&Digest::of("a.b.c"))
                .map(|e| e.user.subject.clone())
                .as_deref(),
            Some("alice")
        );
        assert!(cache.get(&Digest::of("a.b.C")).is_none());
        assert!(cache.get(&Digest::of("a.b.")).is_none());
        assert!(cache.get(&Digest::of("")).is_none());
    }

    #[test]
    fn it_is_bounded_in_number_and_the_oldest_goes_first() {
        let cache = Cache::new(CacheLimits {
            entries: SHARDS * 4,
            bytes: usize::MAX,
        });
        let digests: Vec<Digest> = (0..10_000).map(|n| Digest::of(&n.to_string())).collect();
        for digest in &digests {
            cache.put(*digest, entry("x"));
        }
        assert_eq!(cache.usage().0, SHARDS * 4);
        assert!(cache.get(&digests[9_999]).is_some() && cache.get(&digests[0]).is_none());
        let off = Cache::new(CacheLimits {
            entries: 0,
            bytes: usize::MAX,
        });
        off.put(digests[0], entry("x"));
        assert!(off.get(&digests[0]).is_none());
        assert_eq!(off.usage(), (0, 0));
    }

    #[test]
    fn it_is_bounded_in_bytes() {
        let cache = Cache::new(CacheLimits {
            entries: 1_000_000,
            bytes: SHARDS * 20_000,
        });
        for n in 0..5_000 {
            cache.put(Digest::of(&n.to_string()), entry(&"s".repeat(4_000)));
        }
        let (entries, bytes) = cache.usage();
        assert!(
            bytes <= SHARDS * 20_000 && entries <= SHARDS * 4 && entries > SHARDS,
            "{entries} {bytes}"
        );
    }

    #[test]
    fn an_entry_put_again_is_counted_once() {
        let cache = Cache::new(CacheLimits {
            entries: SHARDS * 2,
            bytes: usize::MAX,
        });
        let digest = Digest::of("t");
        for _ in 0..100 {
            cache.put(digest, entry("alice"));
        }
        let (entries, bytes) = cache.usage();
        assert_eq!((entries, bytes), (1, size(&entry("alice").user)));
    }

    #[test]
    fn a_sweep_forgets_what_is_not_wanted() {
        let cache = Cache::new(CacheLimits::default());
        for n in 0..1_000 {
            cache.put(
                Digest::of(&n.to_string()),
                entry(if n % 2 == 0 { "keep" } else { "drop" }),
            );
        }
        cache.sweep(|entry| entry.user.subject == "keep");
        assert_eq!(cache.usage().0, 500);
        cache.sweep(|_| false);
        assert_eq!(cache.usage(), (0, 0));
    }
}
