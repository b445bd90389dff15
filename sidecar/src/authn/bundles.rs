//! The JWT bundles of trust domains: what the Workload API says enters, the keys of one trust domain leave. The keys of two
//! trust domains never meet (SPIFFE Workload API section 4.6), and nothing but the Workload API changes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use hopguard_jose::{KeyPolicy, KeySet};

use super::generations::Generations;
use super::source::{Held, MAX_STALE, Report};
use super::unix;

/// What the Workload API says of JWT bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtBundles {
    /// All of them: trust domain to its JWK Set. One that is not among them is not trusted any more.
    All(BTreeMap<String, Vec<u8>>),
    /// Nothing at present, for this reason; what was said last goes on for at most a day.
    Silent(String),
    /// That this workload gets none, for this reason.
    Denied(String),
}

/// The bundles in use.
#[derive(Default)]
pub(super) struct Bundles {
    state: ArcSwap<State>,
    writing: Mutex<()>,
}

#[derive(Clone, Default)]
struct State {
    by_domain: BTreeMap<String, Arc<Held>>,
    trouble: Option<String>,
    /// Unix seconds since when nothing came; `None` while the Workload API speaks to us.
    silent_since: Option<i64>,
}

impl Bundles {
    /// Takes what the Workload API said. Keys that did not change keep their generation.
    pub(super) fn take(&self, said: JwtBundles, generations: &Generations, now: SystemTime) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.state.load_full();
        let mut state = State::clone(&old);
        match said {
            JwtBundles::All(documents) => state.replace(&documents, generations, unix(now)),
            JwtBundles::Silent(reason) => {
                state.silent_since.get_or_insert(unix(now));
                state.trouble = Some(reason);
            }
            JwtBundles::Denied(reason) => {
                state.by_domain.clear();
                state.trouble = Some(reason);
            }
        }
        let changed = state.generations() != old.generations();
        self.state.store(Arc::new(state));
        if changed {
            generations.announce();
        }
    }

    /// The keys of a trust domain, unless there are none at `now` (Unix seconds).
    pub(super) fn usable(&self, domain: &str, now: i64) -> Result<Arc<Held>, String> {
        let state = self.state.load();
        let why = |trouble: &Option<String>| match trouble {
            Some(trouble) => format!(": {trouble}"),
            None => String::new(),
        };
        let held = state.by_domain.get(domain).ok_or_else(|| {
            format!(
                "the Workload API gave no JWT bundle of {domain}{}",
                why(&state.trouble)
            )
        })?;
        if state
            .silent_since
            .is_some_and(|since| now.saturating_sub(since) > MAX_STALE)
        {
            return Err(format!(
                "its JWT bundle is older than 24 h{}",
                why(&state.trouble)
            ));
        }
        Ok(Arc::clone(held))
    }

    pub(super) fn held(&self, domain: &str) -> Option<Arc<Held>> {
        self.state.load().by_domain.get(domain).map(Arc::clone)
    }

    pub(super) fn report(&self) -> Report {
        Report {
            last_error: self.state.load().trouble.clone(),
            next: None,
        }
    }
}

impl State {
    fn replace(&mut self, documents: &BTreeMap<String, Vec<u8>>, generations: &Generations, now: i64) {
        let old = std::mem::take(&mut self.by_domain);
        (self.trouble, self.silent_since) = (None, None);
        for (domain, document) in documents {
            let had = old.get(domain);
            let held = match KeySet::parse(document, &KeyPolicy::WORKLOAD_API) {
                // A bundle without a key means that nobody is trusted (SPIFFE Trust Domain and Bundle, section 4.1.3).
                Ok(keys) => {
                    let same = had.filter(|held| held.keys == keys);
                    let generation = same.map_or_else(|| generations.next(), |held| held.generation);
                    Some(Arc::new(Held {
                        keys,
                        generation,
                        fetched_at: now,
                    }))
                }
                Err(problem) => {
                    let trouble = format!("the JWT bundle of {domain} cannot be used: {problem}");
                    tracing::warn!(kept = had.is_some(), "{trouble}");
                    self.trouble.get_or_insert(trouble);
                    // A bad answer never replaces good keys.
                    had.cloned()
                }
            };
            if let Some(held) = held {
                self.by_domain.insert(domain.clone(), held);
            }
        }
    }

    fn generations(&self) -> Vec<(&str, u64)> {
        let held = self.by_domain.iter();
        held.map(|(domain, held)| (domain.as_str(), held.generation))
            .collect()
    }
}
