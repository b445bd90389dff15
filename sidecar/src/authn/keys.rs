//! Where the keys of an issuer come from, as the rest of the room sees it: fetched, handed in, or nowhere because each
//! token is asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bundles::Bundles;
use super::source::{Held, KeySource, Report};

/// The keys of an issuer.
pub(super) enum Keys {
    /// Fetched from its provider.
    Fetched(Arc<KeySource>),
    /// The JWT bundle of this trust domain.
    Bundle(Arc<Bundles>, String),
    /// It needs none.
    Unneeded,
}

impl Keys {
    /// The keys, unless there are none or they are past their hard limit at `now` (Unix seconds).
    pub(super) fn usable(&self, now: i64) -> Result<Arc<Held>, String> {
        match self {
            Self::Fetched(source) => source.usable(now).map_err(str::to_owned),
            Self::Bundle(bundles, domain) => bundles.usable(domain, now),
            Self::Unneeded => Err("it has no keys, since each of its tokens is asked for".to_owned()),
        }
    }

    /// Whether keys of this generation are still the ones in use at `now`.
    pub(super) fn in_use(&self, generation: u64, now: i64) -> bool {
        match self {
            Self::Fetched(source) => source.in_use(generation, now),
            Self::Bundle(..) => self.usable(now).is_ok_and(|held| held.generation == generation),
            Self::Unneeded => false,
        }
    }

    pub(super) fn held(&self) -> Option<Arc<Held>> {
        match self {
            Self::Fetched(source) => source.held(),
            Self::Bundle(bundles, domain) => bundles.held(domain),
            Self::Unneeded => None,
        }
    }

    pub(super) fn report(&self) -> Report {
        match self {
            Self::Fetched(source) => source.report(),
            Self::Bundle(bundles, _) => bundles.report(),
            Self::Unneeded => Report {
                last_error: None,
                next: None,
            },
        }
    }

    /// Asks for newer keys on behalf of a token, where they can be asked for. See [`KeySource::ask`].
    pub(super) async fn ask(&self, kid: Option<&str>, now: SystemTime, wait: Duration) -> bool {
        match self {
            Self::Fetched(source) => source.ask(kid, now, wait).await,
            // They are pushed as soon as they change.
            Self::Bundle(..) | Self::Unneeded => false,
        }
    }

    /// Notes that the newest keys have no such `kid`.
    pub(super) fn missed(&self, kid: &str, now: SystemTime) {
        if let Self::Fetched(source) = self {
            source.missed(kid, now);
        }
    }

    /// The source, where they are fetched.
    pub(super) fn source(&self) -> Option<&Arc<KeySource>> {
        match self {
            Self::Fetched(source) => Some(source),
            Self::Bundle(..) | Self::Unneeded => None,
        }
    }
}
