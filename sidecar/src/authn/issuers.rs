//! The issuers in force, as a whole: options enter, issuers leave that no token can take for one another, or the first
//! problem. What did not change is handed on from the issuers before, with its keys and its answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hopguard_jose::Token;

use super::bundles::Bundles;
use super::error::{AuthnError, Rejection};
use super::generations::Generations;
use super::http::Client;
use super::introspection::{Asker, Introspector};
use super::issuer::{self, Issuer, SourceId};
use super::keys::Keys;
use super::opaque::Routes;
use super::options::{AuthnOptions, IssuerKind, IssuerOptions};
use super::provider::Provider;
use super::source::KeySource;
use super::trust::{Roots, TrustId};
use crate::identity::parse_id;

/// The longest that an issuer may take to say what a token means.
const LONGEST_QUESTION: Duration = Duration::from_secs(5);

/// The issuers in force.
#[derive(Default)]
pub(super) struct Issuers {
    pub(super) by_name: HashMap<String, Arc<Issuer>>,
    /// As configured.
    pub(super) order: Vec<(SourceId, Arc<Issuer>)>,
    /// Whose tokens are no JWTs.
    pub(super) opaque: Routes,
}

impl Issuers {
    pub(super) fn of_alias(&self, alias: &str) -> Option<&Arc<Issuer>> {
        let found = self.order.iter().find(|(_, issuer)| &*issuer.alias == alias);
        found.map(|(_, issuer)| issuer)
    }

    /// The issuer whose rules a JWT must obey: the one that it names, or, for a JWT-SVID, that of its subject's trust domain
    /// (SPIFFE Workload API section 4.6).
    pub(super) fn of(&self, token: &Token<'_>) -> Result<&Arc<Issuer>, Rejection> {
        let named = token.issuer();
        if let Some(issuer) = named.as_ref().ok().and_then(|named| self.by_name.get(*named)) {
            return Ok(issuer);
        }
        let domain = token
            .subject()
            .ok()
            .and_then(|subject| parse_id(subject).ok())
            .map(|id| id.trust_domain().id_string());
        let by_subject = domain.and_then(|domain| self.by_name.get(domain.as_str()));
        match by_subject {
            Some(issuer) if issuer.options.kind == IssuerKind::JwtSvid => Ok(issuer),
            _ => Err(named.err().map_or_else(unknown_issuer, Rejection::from)),
        }
    }
}

/// Issuers in the making.
pub(super) struct Building<'a> {
    pub(super) options: &'a AuthnOptions,
    pub(super) bundles: &'a Arc<Bundles>,
    pub(super) generations: &'a Arc<Generations>,
    pub(super) old: &'a Issuers,
    pub(super) roots: Roots,
}

impl Building<'_> {
    /// All of them, or the first problem.
    pub(super) fn all(mut self, issuers: Vec<IssuerOptions>) -> Result<Issuers, AuthnError> {
        let mut new = Issuers::default();
        for options in issuers {
            let fail = |problem: &str| {
                Err(AuthnError::Option {
                    alias: options.alias.clone(),
                    problem: problem.to_owned(),
                })
            };
            if new.of_alias(&options.alias).is_some() {
                return fail("another issuer has the same alias");
            }
            if new.by_name.contains_key(&options.issuer) {
                return fail("another entry is of the same issuer, and a token could be of either");
            }
            let (id, issuer) = self.issuer(options)?;
            new.opaque.add(&issuer)?;
            new.by_name.insert(issuer.issuer.to_string(), Arc::clone(&issuer));
            new.order.push((id, issuer));
        }
        Ok(new)
    }

    /// The issuer for these options: the same as before if nothing changed, else a new one, with the keys of before if
    /// they come from the same place.
    fn issuer(&mut self, options: IssuerOptions) -> Result<(SourceId, Arc<Issuer>), AuthnError> {
        issuer::check(&options)?;
        if options.kind == IssuerKind::JwtSvid {
            return Ok(self.svid_issuer(options));
        }
        let (trust_id, trust) = self.roots.trust(&options)?;
        let id = SourceId::new(&options, trust_id);
        let same_source = self.old.order.iter().find(|(known, _)| *known == id);
        let same_alias = self.old.of_alias(&options.alias);
        if let (Some((_, by_source)), Some(by_alias)) = (same_source, same_alias)
            && Arc::ptr_eq(by_source, by_alias)
            && by_source.options == options
        {
            return Ok((id, Arc::clone(by_source)));
        }
        let client = |trust, timeout: Duration| Client {
            trust,
            dial: self.options.dial.clone(),
            timeout,
        };
        let introspector = match &options.introspection {
            Some(introspection) => {
                let (_, trust) = self.roots.trust(&options)?;
                let client = client(trust, self.options.fetch_timeout.min(LONGEST_QUESTION));
                let asker = Asker::new(&options, introspection, client)?;
                Some(Arc::new(Introspector::new(asker)))
            }
            None => None,
        };
        let keys = match same_source.and_then(|(_, issuer)| issuer.keys.source()) {
            _ if issuer::asks_for_every_token(&options) => Keys::Unneeded,
            Some(source) => Keys::Fetched(Arc::clone(source)),
            None => {
                let provider = Provider::new(&options, client(trust, self.options.fetch_timeout))?;
                let source = KeySource::new(provider, Arc::clone(self.generations));
                Keys::Fetched(Arc::new(source))
            }
        };
        let counts = same_alias
            .map(|issuer| Arc::clone(&issuer.counts))
            .unwrap_or_default();
        let since = self.generations.next();
        Ok((
            id,
            Arc::new(Issuer::new(options, (keys, introspector), counts, since)),
        ))
    }

    /// The same for JWT-SVIDs, whose keys are those of the Workload API.
    fn svid_issuer(&self, options: IssuerOptions) -> (SourceId, Arc<Issuer>) {
        let id = SourceId::new(&options, TrustId::Public);
        let same_alias = self.old.of_alias(&options.alias);
        if let Some(issuer) = same_alias.filter(|issuer| issuer.options == options) {
            return (id, Arc::clone(issuer));
        }
        let counts = same_alias
            .map(|issuer| Arc::clone(&issuer.counts))
            .unwrap_or_default();
        let keys = Keys::Bundle(Arc::clone(self.bundles), options.issuer.clone());
        let since = self.generations.next();
        (id, Arc::new(Issuer::new(options, (keys, None), counts, since)))
    }
}

/// Of a token whose issuer is none of ours.
pub(super) fn unknown_issuer() -> Rejection {
    Rejection::Invalid {
        reason: "unknown_issuer",
        detail: "the token's issuer is not one of the configured issuers".to_owned(),
    }
}
