//! An issuer that may be used: [`IssuerOptions`] enter, an [`Issuer`] leaves that cannot be misconfigured, or the reason
//! why not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hopguard_jose::{Algorithms, Rules, Times, Token, TokenError, TokenTypes, Verified};

use super::counts::TokenCounts;
use super::error::AuthnError;
use super::options::IssuerOptions;
use super::source::{Held, KeySource};
use super::trust::TrustId;
use super::user::{Mapping, VerifiedUser};

const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// An issuer of user tokens.
pub(super) struct Issuer {
    pub(super) alias: Arc<str>,
    pub(super) issuer: Arc<str>,
    pub(super) source: Arc<KeySource>,
    pub(super) counts: Arc<TokenCounts>,
    pub(super) options: IssuerOptions,
    /// The generation in which this configuration came in force.
    pub(super) since: u64,
    rules: Rules,
    mapping: Mapping,
    /// Its configuration is no longer in force.
    retired: AtomicBool,
}

/// What a key source is: issuers that agree in it share it, and keep its keys when the rest of them changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceId {
    issuer: String,
    jwks_uri: Option<String>,
    plain_loopback: bool,
    trust: TrustId,
}

impl SourceId {
    pub(super) fn new(options: &IssuerOptions, trust: TrustId) -> Self {
        Self {
            issuer: options.issuer.clone(),
            jwks_uri: options.jwks_uri.clone(),
            plain_loopback: options.allow_http_loopback,
            trust,
        }
    }
}

impl Issuer {
    pub(super) fn new(
        options: IssuerOptions,
        source: Arc<KeySource>,
        counts: Arc<TokenCounts>,
        since: u64,
    ) -> Self {
        Self {
            alias: Arc::from(options.alias.as_str()),
            issuer: Arc::from(options.issuer.as_str()),
            source,
            counts,
            mapping: Mapping::new(&options),
            rules: rules(&options),
            since,
            options,
            retired: AtomicBool::new(false),
        }
    }

    /// The user that `token` proves with these keys at `now` (Unix seconds).
    pub(super) fn verify(
        &self,
        token: Token<'_>,
        held: &Held,
        now: i64,
    ) -> Result<(VerifiedUser, Times), TokenError> {
        let verified: Verified = token.verify(&held.keys, &self.rules, now)?;
        let times = verified.claims.times;
        let who = (Arc::clone(&self.alias), Arc::clone(&self.issuer));
        Ok((self.mapping.user(who, verified, self.since), times))
    }

    /// Whether a token of these times is still valid at `now` (Unix seconds).
    pub(super) fn check(&self, times: &Times, now: i64) -> Result<(), TokenError> {
        Ok(times.check(now, self.rules.leeway)?)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// What tokens of an issuer must be.
pub(super) fn rules(options: &IssuerOptions) -> Rules {
    Rules {
        algorithms: options.algorithms.iter().copied().collect(),
        types: TokenTypes::user(),
        issuer: Some(options.issuer.clone()),
        audiences: options.audiences.clone(),
        leeway: i64::try_from(options.leeway.min(MAX_LEEWAY).as_secs()).unwrap_or(0),
    }
}

/// Refuses what cannot be meant.
pub(super) fn check(options: &IssuerOptions) -> Result<(), AuthnError> {
    let alias = &options.alias;
    let fail = |problem: &str| {
        Err(AuthnError::Option {
            alias: alias.clone(),
            problem: problem.to_owned(),
        })
    };
    if alias.is_empty() || alias.len() > 64 || alias.contains('|') || alias.chars().any(char::is_control) {
        return fail("its alias must have 1 to 64 characters, without `|`");
    }
    if options.issuer.is_empty() {
        return fail("issuer is empty");
    }
    if options.audiences.is_empty() || options.audiences.iter().any(String::is_empty) {
        return fail(
            "audiences must name at least one, and none may be empty: a token for anybody is for nobody",
        );
    }
    let algorithms: Algorithms = options.algorithms.iter().copied().collect();
    if algorithms.is_empty() {
        return fail("algorithms is empty, so no token could ever be accepted");
    }
    if options.leeway > MAX_LEEWAY {
        return fail("leeway is more than 60 s");
    }
    let names: Vec<&str> = options.claims.iter().map(|claim| claim.name.as_str()).collect();
    let twice = |name: &&str| names.iter().filter(|other| *other == name).count() > 1;
    if names.iter().any(|name| name.is_empty() || twice(name)) {
        return fail("a claim without a name, or two of one name");
    }
    if options
        .roles
        .iter()
        .chain(options.claims.iter().map(|claim| &claim.path))
        .any(String::is_empty)
    {
        return fail("an empty claim path");
    }
    Ok(())
}
