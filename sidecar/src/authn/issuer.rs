//! An issuer that may be used: [`IssuerOptions`] enter, an [`Issuer`] leaves that cannot be misconfigured, or the reason
//! why not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hopguard_jose::{Algorithms, Recipient, Rules, Times, Token, TokenError, TokenTypes, Verified};

use super::access::is_access_token;
use super::claim_path::ClaimPath;
use super::counts::TokenCounts;
use super::error::AuthnError;
use super::introspection::{self, Answer, Introspector, No};
use super::keys::Keys;
use super::opaque::is_prefix;
use super::options::{IntrospectionOptions, IssuerKind, IssuerOptions};
use super::source::Held;
use super::trust::TrustId;
use super::user::{Mapping, Proof, VerifiedUser};
use crate::identity::parse_id;

const MAX_LEEWAY: Duration = Duration::from_secs(60);
/// The longest that an answer of an issuer may be believed.
const MAX_BELIEVED: Duration = Duration::from_secs(3600);

/// An issuer of user tokens.
pub(super) struct Issuer {
    pub(super) alias: Arc<str>,
    pub(super) issuer: Arc<str>,
    pub(super) keys: Keys,
    /// Who is asked about its opaque tokens.
    pub(super) introspector: Option<Arc<Introspector>>,
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
        (keys, introspector): (Keys, Option<Arc<Introspector>>),
        counts: Arc<TokenCounts>,
        since: u64,
    ) -> Self {
        Self {
            alias: Arc::from(options.alias.as_str()),
            issuer: Arc::from(options.issuer.as_str()),
            keys,
            introspector,
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
        if self.options.kind == IssuerKind::JwtSvid {
            self.is_spiffe_id(&verified.claims.subject)?;
        } else {
            is_access_token(&verified.claims.all)?;
        }
        let times = verified.claims.times;
        let proof = Proof {
            kid: verified.kid,
            key: Some(verified.key),
            due: None,
        };
        Ok((
            self.mapping
                .user(self.who(), (verified.claims, proof), self.since)?,
            times,
        ))
    }

    /// SPIFFE JWT-SVID section 3.1: `sub` is the ID of a workload, and of the trust domain whose keys were used.
    fn is_spiffe_id(&self, subject: &str) -> Result<(), TokenError> {
        let id =
            parse_id(subject).map_err(|_| TokenError::Claim("sub is not the SPIFFE ID of a workload"))?;
        if id.trust_domain().id_string() == *self.issuer {
            Ok(())
        } else {
            Err(Recipient::Issuer.into())
        }
    }

    /// What an answer of its introspection endpoint says at `now` (Unix seconds).
    pub(super) fn answered(&self, body: &[u8], now: i64) -> Result<Answer, No> {
        match &self.options.introspection {
            Some(options) => introspection::read(body, &self.rules, options, now),
            None => Err(No::Inactive),
        }
    }

    /// The user that an answer tells of.
    pub(super) fn introspected(&self, answer: Answer) -> Result<VerifiedUser, TokenError> {
        let proof = Proof {
            due: answer.due,
            ..Proof::default()
        };
        self.mapping.user(self.who(), (answer.claims, proof), self.since)
    }

    /// Whether its JWTs are asked for too.
    pub(super) fn asks_for_every_token(&self) -> bool {
        asks_for_every_token(&self.options)
    }

    fn who(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.alias), Arc::clone(&self.issuer))
    }

    /// Whether a token of these times is still valid at `now` (Unix seconds).
    pub(super) fn check(&self, times: &Times, now: i64) -> Result<(), TokenError> {
        Ok(times.check(now, self.rules.leeway)?)
    }

    /// By how many seconds clocks may differ.
    pub(super) const fn leeway(&self) -> i64 {
        self.rules.leeway
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// Whether an issuer's JWTs are asked for too, so that it needs no keys.
pub(super) fn asks_for_every_token(options: &IssuerOptions) -> bool {
    options
        .introspection
        .as_ref()
        .is_some_and(|introspection| introspection.every_token)
}

/// What tokens of an issuer must be.
pub(super) fn rules(options: &IssuerOptions) -> Rules {
    let svid = options.kind == IssuerKind::JwtSvid;
    let allowed: Algorithms = options.algorithms.iter().copied().collect();
    Rules {
        // SPIFFE JWT-SVID section 2.1: the nine, and no EdDSA; section 2.3: `JWT` or `JOSE`, if anything.
        algorithms: if svid {
            let both = allowed.iter().filter(|a| Algorithms::JWT_SVID.contains(*a));
            both.collect()
        } else {
            allowed
        },
        types: if svid {
            TokenTypes::svid()
        } else {
            TokenTypes::user()
        },
        // The keys of a JWT-SVID tell whose it is.
        issuer: (!svid).then(|| options.issuer.clone()),
        audiences: options.audiences.clone(),
        leeway: i64::try_from(options.leeway.min(MAX_LEEWAY).as_secs()).unwrap_or(0),
    }
}

fn check_introspection(options: &IntrospectionOptions) -> Result<(), &'static str> {
    if options.client_id.is_empty() || options.client_id.len() > 256 {
        return Err("introspection.client_id must have 1 to 256 characters");
    }
    if options.cache < Duration::from_secs(1) || options.cache > MAX_BELIEVED {
        return Err("introspection.cache must be 1 s to 1 h");
    }
    match &options.token_prefix {
        Some(prefix) if !is_prefix(prefix) => Err(
            "introspection.token_prefix is empty, longer than 64 characters, cannot begin a bearer token, or could begin a JWT",
        ),
        _ => Ok(()),
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
    if options.kind == IssuerKind::JwtSvid && options.introspection.is_some() {
        return fail("JWT-SVIDs prove themselves: introspection is not for them");
    }
    if let Some(Err(problem)) = options.introspection.as_ref().map(check_introspection) {
        return fail(problem);
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
        .any(ClaimPath::is_empty)
    {
        return fail("an empty claim path");
    }
    Ok(())
}
