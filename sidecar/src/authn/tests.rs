//! The room against a real https provider: what operators complain of when it goes wrong (key rotation, outages at the
//! wrong moment, bad answers), and what attackers try.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::source::Trigger;
use super::testing::*;
use super::*;

fn reason(result: &Result<std::sync::Arc<VerifiedUser>, Rejection>) -> &'static str {
    result.as_ref().map_or_else(Rejection::label, |_| "ok")
}

/// The number of checks with this outcome.
fn counted(authn: &Authenticator, alias: &str, result: &str, cached: bool) -> u64 {
    let counters = authn.counters();
    let hits = counters.tokens.iter();
    hits.filter(|c| &*c.alias == alias && c.result == result && c.cached == cached)
        .map(|c| c.count)
        .sum()
}

fn fetched(authn: &Authenticator, result: &str) -> u64 {
    authn
        .counters()
        .fetches
        .iter()
        .filter(|c| c.result == result)
        .map(|c| c.count)
        .sum()
}

/// An authenticator that holds the keys of the provider.
async fn ready(idp: &Idp) -> std::sync::Arc<Authenticator> {
    let authn = authenticator(&[idp.options()]);
    refresh(&authn).await;
    assert_eq!(authn.status(SystemTime::now())[0].state, IssuerState::Ready);
    authn
}

async fn refresh(authn: &Authenticator) {
    authn
        .source("corp")
        .refresh(Trigger::Due, SystemTime::now())
        .await;
}

mod bundles;
mod introspection;
mod issuers;
mod keys;
mod tokens;
