//! Counters for metrics: the outcome of a check enters, a snapshot leaves. The labels are a fixed list, so that no sender
//! of tokens can make new series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Every result of a token check: `ok`, ours, then those of [`hopguard_jose::TokenError::LABELS`].
const RESULTS: [&str; 17] = [
    "ok",
    "unavailable",
    "unknown_issuer",
    "inactive",
    "malformed",
    "oversized",
    "bad_header",
    "bad_alg",
    "unknown_kid",
    "no_key",
    "bad_sig",
    "expired",
    "not_yet_valid",
    "issued_in_future",
    "wrong_iss",
    "wrong_aud",
    "bad_claim",
];

/// What was counted so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Token checks, those that never happened left out.
    pub tokens: Vec<TokenCount>,
    /// Fetches of keys, those that never happened left out.
    pub fetches: Vec<FetchCount>,
    /// Questions to introspection endpoints, those that never happened left out.
    pub introspections: Vec<FetchCount>,
    /// Tokens in the cache.
    pub cache_entries: usize,
    /// Bytes of the cache, about.
    pub cache_bytes: usize,
}

/// A number of token checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// The issuer's alias; empty when no issuer could be told.
    pub alias: Arc<str>,
    /// `ok`, or the label of the [`super::Rejection`].
    pub result: &'static str,
    /// Whether the cache answered.
    pub cached: bool,
    /// How many.
    pub count: u64,
}

/// A number of key fetches, or of questions to an introspection endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchCount {
    /// The issuer's alias.
    pub alias: Arc<str>,
    /// `ok`, or the label of the [`super::FetchFault`]; of questions also `inactive`, and `refused` for an answer that proves no
    /// user.
    pub result: &'static str,
    /// How many.
    pub count: u64,
}

/// Token checks of one issuer.
#[derive(Default)]
pub(super) struct TokenCounts {
    cells: [[AtomicU64; 2]; RESULTS.len()],
}

impl TokenCounts {
    pub(super) fn add(&self, result: &'static str, cached: bool) {
        let row = RESULTS.iter().position(|known| *known == result);
        let cell = row.and_then(|row| self.cells.get(row)?.get(usize::from(cached)));
        if let Some(cell) = cell {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self, alias: &Arc<str>, into: &mut Vec<TokenCount>) {
        for (result, cells) in RESULTS.into_iter().zip(&self.cells) {
            for (cached, cell) in [false, true].into_iter().zip(cells) {
                let count = cell.load(Ordering::Relaxed);
                if count > 0 {
                    into.push(TokenCount {
                        alias: Arc::clone(alias),
                        result,
                        cached,
                        count,
                    });
                }
            }
        }
    }
}

/// Fetches of one source of keys.
#[derive(Default)]
pub(super) struct FetchCounts(Mutex<BTreeMap<&'static str, u64>>);

impl FetchCounts {
    pub(super) fn add(&self, result: &'static str) {
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(result)
            .or_default() += 1;
    }

    pub(super) fn snapshot(&self, alias: &Arc<str>, into: &mut Vec<FetchCount>) {
        for (result, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            into.push(FetchCount {
                alias: Arc::clone(alias),
                result,
                count: *count,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_a_token_error_is_counted() {
        for label in hopguard_jose::TokenError::LABELS {
            assert!(RESULTS.contains(&label), "{label}");
        }
        let counts = TokenCounts::default();
        for result in RESULTS {
            counts.add(result, false);
        }
        counts.add("ok", true);
        counts.add("made up", true);
        let mut seen = Vec::new();
        counts.snapshot(&Arc::from("corp"), &mut seen);
        assert_eq!(seen.len(), RESULTS.len() + 1);
        assert!(seen.iter().all(|count| count.count == 1));
    }
}
