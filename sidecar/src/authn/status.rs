//! What operators see of an issuer: its keys, their age, and why they are not newer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::error::AuthnError;
use super::http::Client;
use super::issuer::{self, Issuer};
use super::keys::Keys;
use super::options::{IssuerKind, IssuerOptions};
use super::provider::Provider;
use super::trust::Roots;
use super::unix;
use crate::dial::DialOptions;

/// An issuer and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IssuerStatus {
    /// Its alias.
    pub alias: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// What its tokens meet.
    pub state: IssuerState,
    /// How many of its keys are usable.
    pub keys: usize,
    /// The ids of those that have one.
    pub kids: Vec<String>,
    /// The keys that are not used, as `kid: reason`.
    pub ignored: Vec<String>,
    /// When they were last fetched, in Unix seconds.
    pub fetched_at: Option<i64>,
    /// How long ago that was, in seconds.
    pub age: Option<u64>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// Of its keys: changes when they do.
    pub generation: u64,
    /// When they are fetched next, in Unix seconds.
    pub next_refresh: Option<i64>,
}

/// What the tokens of an issuer meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerState {
    /// No keys yet: 503.
    Waiting,
    /// Good keys, and the last attempt succeeded.
    Ready,
    /// Good keys, but the last attempt failed.
    Stale,
    /// Keys past their hard limit: 503.
    Expired,
    /// It has no keys: each token is asked for.
    Introspected,
}

impl IssuerStatus {
    pub(super) fn of(issuer: &Issuer, now: SystemTime) -> Self {
        let held = issuer.keys.held();
        let mut report = issuer.keys.report();
        if let Some(introspector) = &issuer.introspector {
            report.last_error = report.last_error.or_else(|| introspector.last_error());
        }
        let usable = issuer.keys.usable(unix(now));
        let state = match (&held, usable, &report.last_error) {
            _ if matches!(issuer.keys, Keys::Unneeded) => IssuerState::Introspected,
            (None, ..) => IssuerState::Waiting,
            (Some(_), Err(_), _) => IssuerState::Expired,
            (Some(_), Ok(_), Some(_)) => IssuerState::Stale,
            (Some(_), Ok(_), None) => IssuerState::Ready,
        };
        let keys = held.as_ref().map(|held| &held.keys);
        let ignored = keys.map(|keys| keys.ignored()).unwrap_or_default().iter();
        let fetched_at = held.as_ref().map(|held| held.fetched_at);
        Self {
            alias: issuer.alias.to_string(),
            issuer: issuer.issuer.to_string(),
            state,
            keys: keys.map_or(0, |keys| keys.len()),
            kids: keys
                .map(|keys| keys.kids().map(str::to_owned).collect())
                .unwrap_or_default(),
            ignored: ignored
                .map(|key| format!("{}: {}", key.kid.as_deref().unwrap_or("(no kid)"), key.reason))
                .collect(),
            fetched_at,
            age: fetched_at.map(|at| unix(now).saturating_sub(at).try_into().unwrap_or(0)),
            last_error: report.last_error,
            generation: held.as_ref().map_or(0, |held| held.generation),
            next_refresh: report.next.map(unix),
        }
    }
}

/// Asks an issuer for its keys once, as the sidecar would, for whoever diagnoses.
///
/// # Errors
/// [`AuthnError::Fetch`] when the provider does not answer as it must, else what is wrong with the options.
pub async fn probe(options: &IssuerOptions, dial: DialOptions) -> Result<IssuerStatus, AuthnError> {
    issuer::check(options)?;
    let (_, trust) = Roots::default().trust(options)?;
    let client = Client {
        trust,
        dial,
        timeout: Duration::from_secs(10),
    };
    if options.kind == IssuerKind::JwtSvid {
        return Ok(IssuerStatus::of(
            &bare(options, Keys::Bundle(Arc::default(), String::new())),
            SystemTime::now(),
        ));
    }
    if issuer::asks_for_every_token(options) {
        Provider::introspection(options, endpoint(options), client)?
            .locate()
            .await?;
        return Ok(IssuerStatus::of(
            &bare(options, Keys::Unneeded),
            SystemTime::now(),
        ));
    }
    let provider = Provider::new(options, client)?;
    let at = provider.locate().await?;
    let (keys, lifetime) = provider.keys(&at).await?;
    let source = super::source::KeySource::new(provider, Arc::default());
    let now = SystemTime::now();
    source.take(at, keys, lifetime, now);
    let issuer = bare(options, Keys::Fetched(Arc::new(source)));
    Ok(IssuerStatus::of(&issuer, now))
}

/// An issuer that is looked at only.
fn bare(options: &IssuerOptions, keys: Keys) -> Issuer {
    Issuer::new(options.clone(), (keys, None), Arc::default(), 0)
}

fn endpoint(options: &IssuerOptions) -> Option<&str> {
    options.introspection.as_ref()?.endpoint.as_deref()
}
