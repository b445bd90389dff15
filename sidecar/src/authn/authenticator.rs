//! The room's story: a token and the time enter, a user leaves. The one file that knows the order of cache, issuer, keys
//! and refetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hopguard_jose::{MAX_TOKEN_BYTES, Times, Token, TokenError};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::cache::{Cache, Digest, Entry};
use super::counts::{Counters, TokenCounts};
use super::error::{AuthnError, Rejection};
use super::generations::Generations;
use super::http::Client;
use super::issuer::{self, Issuer, SourceId};
use super::options::{AuthnOptions, IssuerOptions};
use super::provider::Provider;
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
    cache: Cache,
    generations: Arc<Generations>,
    /// Tokens of which no issuer could be told.
    strays: TokenCounts,
    sources: watch::Sender<Vec<Arc<KeySource>>>,
    /// Held while the configuration changes.
    changing: Mutex<()>,
}

/// The issuers in force.
#[derive(Default)]
struct Issuers {
    by_name: HashMap<String, Arc<Issuer>>,
    /// As configured.
    order: Vec<(SourceId, Arc<Issuer>)>,
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
            cache: Cache::new(options.cache),
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
        let mut roots = Roots::default();
        let mut new = Issuers::default();
        for options in issuers {
            let fail = |problem: &str| {
                Err(AuthnError::Option {
                    alias: options.alias.clone(),
                    problem: problem.to_owned(),
                })
            };
            if new.order.iter().any(|(_, other)| *other.alias == options.alias) {
                return fail("another issuer has the same alias");
            }
            if new.by_name.contains_key(&options.issuer) {
                return fail("another entry is of the same issuer, and a token could be of either");
            }
            let (id, issuer) = self.issuer(options, &old, &mut roots)?;
            new.by_name.insert(issuer.issuer.to_string(), Arc::clone(&issuer));
            new.order.push((id, issuer));
        }
        let sources = new.order.iter().map(|(_, issuer)| &issuer.source);
        let known =
            |source: &Arc<KeySource>| old.order.iter().any(|(_, had)| Arc::ptr_eq(&had.source, source));
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
            .map(|(_, issuer)| Arc::clone(&issuer.source))
            .collect();
        self.issuers.store(Arc::new(new));
        // After the store: whoever still verifies by the old ones leaves an entry that is dead already.
        gone.iter().for_each(|(_, issuer)| issuer.retire());
        if changed {
            self.generations.announce();
        }
        self.sources.send_replace(sources);
    }

    /// The issuer for these options: the same as before if nothing changed, else a new one, with the keys of before if
    /// they come from the same place.
    fn issuer(
        &self,
        options: IssuerOptions,
        old: &Issuers,
        roots: &mut Roots,
    ) -> Result<(SourceId, Arc<Issuer>), AuthnError> {
        issuer::check(&options)?;
        let (trust_id, trust) = roots.trust(&options)?;
        let id = SourceId::new(&options, trust_id);
        let same_source = old.order.iter().find(|(known, _)| *known == id);
        let same_alias = old
            .order
            .iter()
            .find(|(_, issuer)| *issuer.alias == options.alias);
        if let (Some((_, by_source)), Some((_, by_alias))) = (same_source, same_alias)
            && Arc::ptr_eq(by_source, by_alias)
            && by_source.options == options
        {
            return Ok((id, Arc::clone(by_source)));
        }
        let source = match same_source {
            Some((_, issuer)) => Arc::clone(&issuer.source),
            None => {
                let client = Client {
                    trust,
                    dial: self.options.dial.clone(),
                    timeout: self.options.fetch_timeout,
                };
                let provider = Provider::new(&options, client)?;
                Arc::new(KeySource::new(provider, Arc::clone(&self.generations)))
            }
        };
        let counts = same_alias
            .map(|(_, issuer)| Arc::clone(&issuer.counts))
            .unwrap_or_default();
        Ok((
            id,
            Arc::new(Issuer::new(options, source, counts, self.generations.next())),
        ))
    }

    /// Gets the keys of all issuers and keeps them fresh, each issuer for itself, for ever. Runs on the control runtime.
    pub async fn run(self: Arc<Self>) {
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
        let (issuer, result) = self.examine(token, digest, now).await;
        let counts = issuer.as_ref().map_or(&self.strays, |issuer| &issuer.counts);
        counts.add(result.as_ref().map_or_else(Rejection::label, |_| "ok"), false);
        result
    }

    /// What the cache says, if it may still say it.
    fn known(&self, digest: &Digest, now: i64) -> Option<Result<Arc<VerifiedUser>, Rejection>> {
        let entry = self.cache.get(digest)?;
        if !alive(&entry, now) {
            return None;
        }
        let checked = entry.issuer.check(&entry.times, now);
        let result = checked.as_ref().map_or_else(|refusal| refusal.label(), |()| "ok");
        entry.issuer.counts.add(result, true);
        Some(checked.map(|()| Arc::clone(&entry.user)).map_err(Rejection::from))
    }

    /// Verifies a token that the cache does not know.
    async fn examine(
        &self,
        text: &str,
        digest: Digest,
        now: SystemTime,
    ) -> (Option<Arc<Issuer>>, Result<Arc<VerifiedUser>, Rejection>) {
        let token = match Token::parse(text) {
            Ok(token) => token,
            Err(refusal) => return (None, Err(refusal.into())),
        };
        let issuer = match token.issuer() {
            Ok(named) => self.issuers.load().by_name.get(named).cloned(),
            Err(refusal) => return (None, Err(refusal.into())),
        };
        let Some(issuer) = issuer else {
            return (None, Err(unknown_issuer()));
        };
        let kid = token.kid().map(str::to_owned);
        let result = match self.attempt(&issuer, token, digest, now) {
            Err(Refused::Token(refusal)) if newer_keys_may_help(refusal, kid.as_deref()) => {
                self.with_newer_keys(&issuer, text, kid.as_deref(), now).await
            }
            first => first,
        };
        (Some(issuer), result.map_err(Rejection::from))
    }

    /// Waits for newer keys, where they may be asked for, and tries again.
    async fn with_newer_keys(
        &self,
        issuer: &Arc<Issuer>,
        text: &str,
        kid: Option<&str>,
        now: SystemTime,
    ) -> Result<Arc<VerifiedUser>, Refused> {
        let fetched = issuer.source.ask(kid, now, self.options.refetch_wait).await;
        let token = Token::parse(text).map_err(Refused::Token)?;
        let again = self.attempt(issuer, token, Digest::of(text), now);
        if let (true, Err(Refused::Token(TokenError::UnknownKid)), Some(kid)) = (fetched, &again, kid) {
            issuer.source.missed(kid, now);
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
                keys: held.generation,
            },
        );
        Ok(user)
    }

    /// Whether what was proven by a token still holds at `now`, for what stays open past the request that carried it. The
    /// key must still be one of its issuer's, and the issuer's configuration the same; a token that is presented anew
    /// would be judged by the new one.
    ///
    /// # Errors
    /// [`Rejection`], with `expired`, `no_key`, `unknown_issuer` or `issuer_changed`.
    pub fn recheck(&self, user: &VerifiedUser, now: SystemTime) -> Result<(), Rejection> {
        let now = unix(now);
        let issuer = self.issuers.load().by_name.get(&*user.issuer).cloned();
        let issuer = issuer.ok_or_else(unknown_issuer)?;
        if issuer.since != user.generation {
            let detail = "the token's issuer has been configured anew since it was verified".to_owned();
            return Err(Rejection::Invalid {
                reason: ISSUER_CHANGED,
                detail,
            });
        }
        let held = usable(&issuer, now)?;
        if !held.keys.thumbprints().any(|key| key == user.key) {
            return Err(TokenError::NoKey("its key is no longer one of the issuer's").into());
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
        let leeway = self.issuers.load().by_name.get(&*user.issuer).map(|issuer| issuer.leeway());
        user.exp.saturating_add(leeway.unwrap_or(0))
    }

    /// Drops cached tokens that can never be used again.
    fn sweep(&self, now: SystemTime) {
        let now = unix(now);
        self.cache
            .sweep(|entry| alive(entry, now) && entry.issuer.check(&entry.times, now).is_ok());
    }

    /// The source of keys of an issuer.
    #[cfg(test)]
    pub(super) fn source(&self, alias: &str) -> Arc<KeySource> {
        let issuers = self.issuers.load();
        let found = issuers.order.iter().find(|(_, issuer)| &*issuer.alias == alias);
        Arc::clone(&found.expect("a configured issuer").1.source)
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
            cache_entries,
            cache_bytes,
        };
        self.strays.snapshot(&Arc::from(""), &mut counters.tokens);
        for (_, issuer) in &self.issuers.load().order {
            issuer.counts.snapshot(&issuer.alias, &mut counters.tokens);
            issuer
                .source
                .counts
                .snapshot(&issuer.alias, &mut counters.fetches);
        }
        counters
    }
}

/// The reason of a user that was verified under another configuration of its issuer than the one in force: its token would
/// be judged anew, and may well be good.
pub const ISSUER_CHANGED: &str = "issuer_changed";

fn unknown_issuer() -> Rejection {
    Rejection::Invalid {
        reason: "unknown_issuer",
        detail: "the token's issuer is not one of the configured issuers".to_owned(),
    }
}

/// The keys of an issuer, or that nobody can say.
fn usable(issuer: &Issuer, now: i64) -> Result<Arc<Held>, Rejection> {
    issuer.source.usable(now).map_err(|why| Rejection::Unavailable {
        alias: issuer.alias.to_string(),
        detail: format!("issuer `{}` cannot be judged: {why}", issuer.alias),
    })
}

/// Whether an entry rests on configuration and keys that are in force.
fn alive(entry: &Entry, now: i64) -> bool {
    !entry.issuer.retired() && entry.issuer.source.in_use(entry.keys, now)
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
