//! The room's story: a token and the time enter, a user leaves. The one file that knows the order of cache, issuer, keys
//! and refetch.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hopguard_jose::{MAX_TOKEN_BYTES, Times, Token, TokenError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::bundles::{Bundles, JwtBundles};
use super::cache::{Cache, Digest, Entry, Rests};
use super::counts::{Counters, TokenCounts};
use super::error::{AuthnError, Rejection};
use super::generations::Generations;
use super::introspection::Question;
use super::issuer::Issuer;
use super::issuers::{Building, Issuers, unknown_issuer};
use super::options::{AuthnOptions, IssuerOptions};
use super::source::{Held, KeySource, Trigger};
use super::status::IssuerStatus;
use super::trust::Roots;
use super::unix;
use super::user::VerifiedUser;

/// How often dead entries leave the cache, and a key task that ended is started anew.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Verifies user tokens of the configured issuers.
pub struct Authenticator {
    options: AuthnOptions,
    issuers: ArcSwap<Issuers>,
    cache: Arc<Cache>,
    /// The JWT bundles of the Workload API.
    bundles: Arc<Bundles>,
    /// Where issuers are asked about tokens: beside the requests, not among them.
    home: OnceLock<Handle>,
    generations: Arc<Generations>,
    /// Tokens of which no issuer could be told.
    strays: TokenCounts,
    sources: watch::Sender<Vec<Arc<KeySource>>>,
    /// Held while the configuration changes.
    changing: Mutex<()>,
}

/// Issuers that were found usable and are not in force yet.
pub struct Prepared {
    issuers: Issuers,
    /// Nobody has asked them for keys so far.
    untried: Vec<Arc<KeySource>>,
}

impl Prepared {
    /// Gets the keys of sources that are new, for at most `patience`, so that no token must be turned away for want of them
    /// once this is in force. What does not come in that time comes later.
    pub async fn with_keys(&self, patience: Duration) {
        let now = SystemTime::now();
        let mut fetching = JoinSet::new();
        for source in self.untried.iter().map(Arc::clone) {
            fetching.spawn(async move { source.refresh(Trigger::Due, now).await });
        }
        // Dropped, the fetches end.
        let _late = tokio::time::timeout(patience, fetching.join_all()).await;
    }
}

impl Authenticator {
    /// Makes an authenticator for these issuers; [`Self::run`] gets their keys.
    ///
    /// # Errors
    /// [`AuthnError`] when an issuer cannot be used as configured.
    pub fn new(issuers: Vec<IssuerOptions>, options: AuthnOptions) -> Result<Arc<Self>, AuthnError> {
        let this = Self {
            cache: Arc::new(Cache::new(options.cache)),
            bundles: Arc::default(),
            home: OnceLock::new(),
            options,
            issuers: ArcSwap::default(),
            generations: Arc::default(),
            strays: TokenCounts::default(),
            sources: watch::Sender::new(Vec::new()),
            changing: Mutex::new(()),
        };
        this.reconfigure(issuers)?;
        Ok(Arc::new(this))
    }

    /// Puts these issuers in force, all or (on error) none. An issuer that is as it was keeps its keys and its verified
    /// tokens; one that changed loses its tokens, and keeps its keys as long as where they come from is the same.
    ///
    /// # Errors
    /// [`AuthnError`] when an issuer cannot be used as configured.
    pub fn reconfigure(&self, issuers: Vec<IssuerOptions>) -> Result<(), AuthnError> {
        self.commit(self.prepare(issuers)?);
        Ok(())
    }

    /// Checks these issuers, and makes them ready for [`Self::commit`]; what is in force stays so.
    ///
    /// # Errors
    /// As [`Self::reconfigure`].
    pub fn prepare(&self, issuers: Vec<IssuerOptions>) -> Result<Prepared, AuthnError> {
        let old = self.issuers.load_full();
        let new = Building {
            options: &self.options,
            bundles: &self.bundles,
            generations: &self.generations,
            old: &old,
            roots: Roots::default(),
        }
        .all(issuers)?;
        let sources = new.order.iter().filter_map(|(_, issuer)| issuer.keys.source());
        let known = |source: &Arc<KeySource>| {
            let mut had = old.order.iter().filter_map(|(_, had)| had.keys.source());
            had.any(|had| Arc::ptr_eq(had, source))
        };
        Ok(Prepared {
            untried: sources.filter(|source| !known(source)).map(Arc::clone).collect(),
            issuers: new,
        })
    }

    /// Puts what was prepared in force.
    pub fn commit(&self, prepared: Prepared) {
        let new = prepared.issuers;
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.issuers.load_full();
        let kept = |issuer: &Arc<Issuer>| new.order.iter().any(|(_, now)| Arc::ptr_eq(now, issuer));
        let gone: Vec<_> = old.order.iter().filter(|(_, issuer)| !kept(issuer)).collect();
        let changed = !gone.is_empty() || new.order.len() != old.order.len();
        let sources = new
            .order
            .iter()
            .filter_map(|(_, issuer)| issuer.keys.source().map(Arc::clone))
            .collect();
        self.issuers.store(Arc::new(new));
        // After the store: whoever still verifies by the old ones leaves an entry that is dead already.
        gone.iter().for_each(|(_, issuer)| issuer.retire());
        if changed {
            self.generations.announce();
        }
        self.sources.send_replace(sources);
    }

    /// Takes what the Workload API says of JWT bundles.
    pub fn set_bundles(&self, said: JwtBundles, now: SystemTime) {
        self.bundles.take(said, &self.generations, now);
    }

    /// Gets the keys of all issuers and keeps them fresh, each issuer for itself, for ever. Runs on the control runtime.
    pub async fn run(self: Arc<Self>) {
        let _once = self.home.set(Handle::current());
        let mut changes = self.sources.subscribe();
        let mut tasks = JoinSet::new();
        let mut running: Vec<(Arc<KeySource>, AbortHandle)> = Vec::new();
        loop {
            let wanted = changes.borrow_and_update().clone();
            running.retain(|(source, task)| {
                let keep = !task.is_finished() && wanted.iter().any(|other| Arc::ptr_eq(source, other));
                if !keep {
                    task.abort();
                }
                keep
            });
            for source in wanted {
                if !running.iter().any(|(other, _)| Arc::ptr_eq(&source, other)) {
                    let task = Arc::clone(&source);
                    running.push((source, tasks.spawn(async move { task.run().await })));
                }
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(HOUSEKEEPING) => self.sweep(SystemTime::now()),
            }
        }
    }

    /// The user that `token` proves at `now`. A token with an unknown `kid` waits, bounded, for newer keys.
    ///
    /// # Errors
    /// [`Rejection`]: the request is answered 401 or 503, and goes nowhere.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<VerifiedUser>, Rejection> {
        if token.len() > MAX_TOKEN_BYTES {
            self.strays.add("oversized", false);
            return Err(TokenError::Oversized("over 8 KiB").into());
        }
        let digest = Digest::of(token);
        if let Some(known) = self.known(&digest, unix(now)) {
            return known;
        }
        let (issuer, result, cached) = self.examine(token, digest, now).await;
        let counts = issuer.as_ref().map_or(&self.strays, |issuer| &issuer.counts);
        counts.add(result.as_ref().map_or_else(Rejection::label, |_| "ok"), cached);
        result
    }

    /// What the cache says, if it may still say it.
    fn known(&self, digest: &Digest, now: i64) -> Option<Result<Arc<VerifiedUser>, Rejection>> {
        let entry = self.cache.get(digest)?;
        if !entry.alive(now) {
            return None;
        }
        let checked = entry.issuer.check(&entry.times, now);
        let result = checked.as_ref().map_or_else(|refusal| refusal.label(), |()| "ok");
        entry.issuer.counts.add(result, true);
        Some(checked.map(|()| Arc::clone(&entry.user)).map_err(Rejection::from))
    }

    /// Verifies a token that the cache does not know; also tells whether an earlier answer decided it.
    async fn examine(
        &self,
        text: &str,
        digest: Digest,
        now: SystemTime,
    ) -> (Option<Arc<Issuer>>, Result<Arc<VerifiedUser>, Rejection>, bool) {
        // Let go of before anything is waited for.
        let found = {
            let issuers = self.issuers.load();
            match (issuers.opaque.of(text), Token::parse(text)) {
                (Some(issuer), _) => Ok((Arc::clone(issuer), None)),
                (None, Err(refusal)) => Err(refusal.into()),
                (None, Ok(token)) => issuers.of(&token).map(|issuer| (Arc::clone(issuer), Some(token))),
            }
        };
        let (issuer, token) = match found {
            Ok(found) => found,
            Err(rejection) => return (None, Err(rejection), false),
        };
        let Some(token) = token.filter(|_| !issuer.asks_for_every_token()) else {
            let (result, cached) = self.introspect(&issuer, text, digest, now).await;
            return (Some(issuer), result, cached);
        };
        let kid = token.kid().map(str::to_owned);
        let result = match self.attempt(&issuer, token, digest, now) {
            Err(Refused::Token(refusal)) if newer_keys_may_help(refusal, kid.as_deref()) => {
                self.with_newer_keys(&issuer, text, kid.as_deref(), now).await
            }
            first => first,
        };
        (Some(issuer), result.map_err(Rejection::from), false)
    }

    /// Asks the issuer of a token what it means.
    async fn introspect(
        &self,
        issuer: &Arc<Issuer>,
        token: &str,
        digest: Digest,
        now: SystemTime,
    ) -> (Result<Arc<VerifiedUser>, Rejection>, bool) {
        let Some(introspector) = &issuer.introspector else {
            return (Err(unknown_issuer()), false);
        };
        let home = self.home.get().cloned().unwrap_or_else(Handle::current);
        let question = Question {
            issuer,
            cache: &self.cache,
            token,
            digest,
            now,
            wait: self.options.refetch_wait,
        };
        introspector.user(question, &home).await
    }

    /// Waits for newer keys, where they may be asked for, and tries again.
    async fn with_newer_keys(
        &self,
        issuer: &Arc<Issuer>,
        text: &str,
        kid: Option<&str>,
        now: SystemTime,
    ) -> Result<Arc<VerifiedUser>, Refused> {
        let fetched = issuer.keys.ask(kid, now, self.options.refetch_wait).await;
        let token = Token::parse(text).map_err(Refused::Token)?;
        let again = self.attempt(issuer, token, Digest::of(text), now);
        if let (true, Err(Refused::Token(TokenError::UnknownKid)), Some(kid)) = (fetched, &again, kid) {
            issuer.keys.missed(kid, now);
        }
        again
    }

    /// One try with the keys of this moment.
    fn attempt(
        &self,
        issuer: &Arc<Issuer>,
        token: Token<'_>,
        digest: Digest,
        now: SystemTime,
    ) -> Result<Arc<VerifiedUser>, Refused> {
        let now = unix(now);
        let held = usable(issuer, now).map_err(Refused::NoKeys)?;
        let (user, times) = issuer.verify(token, &held, now).map_err(Refused::Token)?;
        let user = Arc::new(user);
        self.cache.put(
            digest,
            Entry {
                user: Arc::clone(&user),
                issuer: Arc::clone(issuer),
                times,
                rests: Rests::Keys(held.generation),
            },
        );
        Ok(user)
    }

    /// Whether what was proven by a token still holds at `now`, for what stays open past the request that carried it. The
    /// key must still be one of its issuer's, and the issuer's configuration the same; a token that is presented anew
    /// would be judged by the new one.
    ///
    /// # Errors
    /// [`Rejection`], with `expired`, `no_key`, `unknown_issuer`, or one that is [`renewable`].
    pub fn recheck(&self, user: &VerifiedUser, now: SystemTime) -> Result<(), Rejection> {
        let now = unix(now);
        let issuer = self.issuers.load().of_alias(&user.alias).cloned();
        let issuer = issuer.ok_or_else(unknown_issuer)?;
        let again = |reason, detail: &str| {
            Err(Rejection::Invalid {
                reason,
                detail: detail.to_owned(),
            })
        };
        if issuer.since != user.generation {
            return again(
                ISSUER_CHANGED,
                "the token's issuer has been configured anew since it was verified",
            );
        }
        if user.due.is_some_and(|due| now >= due) {
            return again(INTROSPECTION_DUE, "the token's issuer must be asked again");
        }
        if let Some(key) = user.key {
            let held = usable(&issuer, now)?;
            if !held.keys.thumbprints().any(|other| other == key) {
                return Err(TokenError::NoKey("its key is no longer one of the issuer's").into());
            }
        }
        let times = Times {
            exp: user.exp,
            nbf: None,
            iat: None,
        };
        Ok(issuer.check(&times, now)?)
    }

    /// Until when something open for `user` may go on, in Unix seconds: the token's `exp`; or, when it was taken past that
    /// because clocks may differ, the end of that leeway.
    #[must_use]
    pub fn open_until(&self, user: &VerifiedUser, now: SystemTime) -> i64 {
        if unix(now) < user.exp {
            return user.exp;
        }
        let leeway = self
            .issuers
            .load()
            .by_name
            .get(&*user.issuer)
            .map(|issuer| issuer.leeway());
        user.exp.saturating_add(leeway.unwrap_or(0))
    }

    /// Drops cached tokens that can never be used again.
    fn sweep(&self, now: SystemTime) {
        let now = unix(now);
        self.cache
            .sweep(|entry| entry.alive(now) && entry.issuer.check(&entry.times, now).is_ok());
    }

    /// The source of keys of an issuer.
    #[cfg(test)]
    pub(super) fn source(&self, alias: &str) -> Arc<KeySource> {
        let issuers = self.issuers.load();
        let found = issuers.order.iter().find(|(_, issuer)| &*issuer.alias == alias);
        let source = found.expect("a configured issuer").1.keys.source();
        Arc::clone(source.expect("one with a provider"))
    }

    /// A number that changes whenever keys or issuers change: what is open and depends on a user is then decided again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generations.latest()
    }

    /// Tells of each change that [`Self::generation`] counts, once it is in force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generations.changes()
    }

    /// The issuers in the order of the configuration.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Vec<IssuerStatus> {
        self.issuers
            .load()
            .order
            .iter()
            .map(|(_, issuer)| IssuerStatus::of(issuer, now))
            .collect()
    }

    /// What was counted so far, for the issuers in force.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (cache_entries, cache_bytes) = self.cache.usage();
        let mut counters = Counters {
            tokens: Vec::new(),
            fetches: Vec::new(),
            introspections: Vec::new(),
            cache_entries,
            cache_bytes,
        };
        self.strays.snapshot(&Arc::from(""), &mut counters.tokens);
        for (_, issuer) in &self.issuers.load().order {
            issuer.counts.snapshot(&issuer.alias, &mut counters.tokens);
            if let Some(source) = issuer.keys.source() {
                source.counts.snapshot(&issuer.alias, &mut counters.fetches);
            }
            if let Some(introspector) = &issuer.introspector {
                introspector
                    .counts
                    .snapshot(&issuer.alias, &mut counters.introspections);
            }
        }
        counters
    }
}

/// The reason of a user that was verified under another configuration of its issuer than the one in force.
const ISSUER_CHANGED: &str = "issuer_changed";
/// The reason of a user whose issuer must be asked again.
const INTROSPECTION_DUE: &str = "introspection_due";

/// Whether a rejection of [`Authenticator::recheck`] says no more than that the token must be judged anew: it may well be
/// good.
#[must_use]
pub fn renewable(rejection: &Rejection) -> bool {
    [ISSUER_CHANGED, INTROSPECTION_DUE].contains(&rejection.label())
}

/// The keys of an issuer, or that nobody can say.
fn usable(issuer: &Issuer, now: i64) -> Result<Arc<Held>, Rejection> {
    issuer.keys.usable(now).map_err(|why| Rejection::Unavailable {
        alias: issuer.alias.to_string(),
        detail: format!("issuer `{}` cannot be judged: {why}", issuer.alias),
    })
}

/// Keys change before they are announced: a `kid` that we do not know, or a signature that the one nameless key did not
/// make, may be of newer ones.
fn newer_keys_may_help(refusal: TokenError, kid: Option<&str>) -> bool {
    refusal == TokenError::UnknownKid || (refusal == TokenError::Signature && kid.is_none())
}

/// Why a try gave no user.
enum Refused {
    Token(TokenError),
    NoKeys(Rejection),
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Token(refusal) => refusal.into(),
            Refused::NoKeys(unavailable) => unavailable,
        }
    }
}
