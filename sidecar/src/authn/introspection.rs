//! Asking an issuer what a token means (RFC 7662): a token enters, a user or a refusal leaves. One question for a token,
//! however many requests carry it; a bounded number of questions at once and of fruitless ones a second, so that made-up
//! tokens cannot flood the issuer; what it refused is remembered for a few seconds. No answer is never a yes.

mod answer;
mod ask;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hopguard_jose::TokenError;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use super::cache::{Cache, Digest, Entry, Rests};
use super::counts::FetchCounts;
use super::error::{FetchError, Rejection};
use super::issuer::Issuer;
use super::unix;
use super::user::VerifiedUser;
pub(super) use answer::{Answer, No, read};
pub(super) use ask::Asker;

/// Questions to one issuer at the same time.
const AT_ONCE: usize = 16;
/// Questions that are open or were fruitless of late; past them a token that is not known yet gets 503.
const ALLOWANCE: u32 = 256;
/// How many of them are forgotten each second.
const FORGOTTEN_A_SECOND: u32 = 16;
/// How long a token that was refused is refused without a question, in seconds.
const REFUSED_FOR: i64 = 5;
/// The same for a token of which the issuer said nothing.
const UNKNOWN_FOR: i64 = 1;
/// The most tokens of which that is remembered; the oldest is forgotten first.
const MAX_REFUSED: usize = 4096;

/// What a token turned out to be.
type Outcome = Result<Arc<VerifiedUser>, Rejection>;

/// An issuer that can be asked.
pub(super) struct Introspector {
    asker: Asker,
    room: Semaphore,
    book: Mutex<Book>,
    pub(super) counts: FetchCounts,
}

/// A token that the cache does not know.
pub(super) struct Question<'a> {
    pub(super) issuer: &'a Arc<Issuer>,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) token: &'a str,
    pub(super) digest: Digest,
    pub(super) now: SystemTime,
    /// The longest that it waits.
    pub(super) wait: Duration,
}

impl Introspector {
    pub(super) fn new(asker: Asker) -> Self {
        Self {
            asker,
            room: Semaphore::new(AT_ONCE),
            book: Mutex::default(),
            counts: FetchCounts::default(),
        }
    }

    /// Why the last question got no answer, if it did not.
    pub(super) fn last_error(&self) -> Option<String> {
        self.book().last_error.clone()
    }

    /// The user of a token, and whether that was known without a question. Questions are asked on `home`, so that they do not
    /// end with the request that caused them, nor delay others.
    pub(super) async fn user(self: &Arc<Self>, question: Question<'_>, home: &Handle) -> (Outcome, bool) {
        let Question { issuer, wait, .. } = question;
        let alias = Arc::clone(&issuer.alias);
        let mut flight = match self.admit(&question) {
            Admission::Known(outcome) => return (outcome, true),
            Admission::Full => {
                let why = "more of its tokens are unknown at once than may be asked for";
                return (Err(unavailable(&alias, why)), false);
            }
            Admission::Join(flight) => flight,
            Admission::Start(landing, flight) => {
                let flying = Arc::clone(self).fly(Flight::of(&question), landing);
                home.spawn(flying);
                flight
            }
        };
        let landed = tokio::time::timeout(wait, flight.wait_for(Option::is_some)).await;
        let outcome = match landed {
            Ok(Ok(outcome)) => outcome.clone(),
            // Whoever asked is gone: we end.
            Ok(Err(_)) => None,
            Err(_) => Some(Err(unavailable(&alias, "it does not answer in time"))),
        };
        let ended = || Err(unavailable(&alias, "nobody is left to ask it"));
        (outcome.unwrap_or_else(ended), false)
    }

    fn admit(self: &Arc<Self>, question: &Question<'_>) -> Admission {
        let now = unix(question.now);
        let mut book = self.book();
        if let Some(flight) = book.flights.get(&question.digest) {
            return Admission::Join(flight.clone());
        }
        // An answer may have come since the cache was looked into; while the book is held none can.
        if let Some(user) = question.cache.answered(&question.digest, now) {
            return Admission::Known(Ok(user));
        }
        if let Some(refusal) = book.refused(&question.digest, now) {
            return Admission::Known(Err(refusal));
        }
        if !book.allowance.take(now) {
            return Admission::Full;
        }
        let (landing, flight) = watch::channel(None);
        book.flights.insert(question.digest, flight.clone());
        let landing = Landing {
            introspector: Arc::clone(self),
            digest: question.digest,
            told: landing,
        };
        Admission::Start(landing, flight)
    }

    /// One question, from its turn to what it brought.
    async fn fly(self: Arc<Self>, flight: Flight, landing: Landing) {
        let Flight { issuer, now, .. } = &flight;
        let answered = match tokio::time::timeout(flight.wait, self.room.acquire()).await {
            Ok(Ok(_turn)) => self.asker.ask(&flight.token).await.map_err(No::from),
            _ => Err(No::Fault("too many are asked for already".to_owned(), "busy")),
        };
        let now = unix(*now);
        let outcome = match answered.and_then(|body| issuer.answered(&body, now)) {
            Ok(answer) => match flight.keep(answer) {
                Ok(user) => {
                    self.counts.add("ok");
                    Ok(user)
                }
                Err(refusal) => Err(self.refused(&issuer.alias, No::Token(refusal))),
            },
            Err(no) => Err(self.refused(&issuer.alias, no)),
        };
        landing.tell(outcome, now);
    }

    fn refused(&self, alias: &str, no: No) -> Rejection {
        let (label, rejection) = match no {
            No::Inactive => ("inactive", inactive()),
            No::Token(refusal) => ("refused", refusal.into()),
            No::Fault(why, label) => {
                tracing::warn!(issuer = alias, "a token could not be introspected: {why}");
                self.book().last_error = Some(why.clone());
                (label, unavailable(alias, &why))
            }
        };
        self.counts.add(label);
        rejection
    }

    /// Held for a look or a note only, never across a question.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(alias: &str, why: &str) -> Rejection {
    Rejection::Unavailable {
        alias: alias.to_owned(),
        detail: format!("issuer `{alias}` cannot be asked for the token: {why}"),
    }
}

impl From<FetchError> for No {
    fn from(error: FetchError) -> Self {
        Self::Fault(error.to_string(), error.fault.label())
    }
}

fn inactive() -> Rejection {
    Rejection::Invalid {
        reason: "inactive",
        detail: "the token's issuer says that it is not active".to_owned(),
    }
}

/// What becomes of a token.
enum Admission {
    /// It is known by now.
    Known(Outcome),
    /// Somebody asks already.
    Join(watch::Receiver<Option<Outcome>>),
    /// It is asked for.
    Start(Landing, watch::Receiver<Option<Outcome>>),
    /// It must not be asked for now.
    Full,
}

/// A question under way.
struct Flight {
    issuer: Arc<Issuer>,
    cache: Arc<Cache>,
    token: Zeroizing<String>,
    digest: Digest,
    now: SystemTime,
    wait: Duration,
}

impl Flight {
    fn of(question: &Question<'_>) -> Self {
        Self {
            issuer: Arc::clone(question.issuer),
            cache: Arc::clone(question.cache),
            token: Zeroizing::new(question.token.to_owned()),
            digest: question.digest,
            now: question.now,
            wait: question.wait,
        }
    }

    fn keep(&self, answer: Answer) -> Result<Arc<VerifiedUser>, TokenError> {
        let (times, until) = (answer.claims.times, answer.until);
        let user = Arc::new(self.issuer.introspected(answer)?);
        self.cache.put(
            self.digest,
            Entry {
                user: Arc::clone(&user),
                issuer: Arc::clone(&self.issuer),
                times,
                rests: Rests::Answer { until },
            },
        );
        Ok(user)
    }
}

/// The end of a question. However it comes, the token can be asked for again after it.
struct Landing {
    introspector: Arc<Introspector>,
    digest: Digest,
    told: watch::Sender<Option<Outcome>>,
}

impl Landing {
    fn tell(self, outcome: Outcome, now: i64) {
        let mut book = self.introspector.book();
        match &outcome {
            Ok(_) => {
                book.allowance.give_back();
                book.last_error = None;
            }
            Err(refusal) => book.remember(self.digest, refusal, now),
        }
        drop(book);
        self.told.send_replace(Some(outcome));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.introspector.book().flights.remove(&self.digest);
    }
}

/// What is noted beside the cache.
#[derive(Default)]
struct Book {
    flights: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
    /// Tokens that got no user of late, and until when (Unix seconds) that is believed.
    refused: HashMap<Digest, (Rejection, i64)>,
    /// The keys of `refused`, each at least once, oldest first.
    order: VecDeque<Digest>,
    allowance: Allowance,
    last_error: Option<String>,
}

impl Book {
    fn refused(&self, digest: &Digest, now: i64) -> Option<Rejection> {
        let (refusal, until) = self.refused.get(digest)?;
        // Further off than ever noted: the clock went back.
        (now < *until && *until - now <= REFUSED_FOR).then(|| refusal.clone())
    }

    fn remember(&mut self, digest: Digest, refusal: &Rejection, now: i64) {
        let span = match refusal {
            Rejection::Invalid { .. } => REFUSED_FOR,
            Rejection::Unavailable { .. } => UNKNOWN_FOR,
        };
        self.refused.insert(digest, (refusal.clone(), now + span));
        self.order.push_back(digest);
        while self.order.len() > MAX_REFUSED {
            if let Some(oldest) = self.order.pop_front() {
                self.refused.remove(&oldest);
            }
        }
    }
}

/// How many questions may still be asked: an open one counts until it brought a user, a fruitless one until it is forgotten.
struct Allowance {
    left: u32,
    at: i64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            left: ALLOWANCE,
            at: 0,
        }
    }
}

impl Allowance {
    fn take(&mut self, now: i64) -> bool {
        let seconds = u32::try_from(now.saturating_sub(self.at)).unwrap_or(0);
        let back = self
            .left
            .saturating_add(FORGOTTEN_A_SECOND.saturating_mul(seconds));
        (self.left, self.at) = (back.min(ALLOWANCE), now);
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    fn give_back(&mut self) {
        self.left = (self.left + 1).min(ALLOWANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fruitless_questions_are_bounded_and_forgotten_slowly() {
        let mut allowance = Allowance::default();
        let taken = |allowance: &mut Allowance, now| (0..1_000).filter(|_| allowance.take(now)).count();
        assert_eq!(taken(&mut allowance, 100), 256);
        assert_eq!(taken(&mut allowance, 100), 0);
        assert_eq!(taken(&mut allowance, 101), 16);
        assert_eq!(taken(&mut allowance, 99), 0, "the clock went back");
        assert_eq!(taken(&mut allowance, 1_000_000), 256, "never more");
        allowance.give_back();
        assert_eq!(taken(&mut allowance, 1_000_000), 1);
    }

    #[test]
    fn what_was_refused_is_remembered_for_a_while_and_bounded() {
        let mut book = Book::default();
        let digest = |n: usize| Digest::of(&n.to_string());
        book.remember(digest(0), &inactive(), 100);
        book.remember(digest(1), &unavailable("corp", "x"), 100);
        assert_eq!(book.refused(&digest(0), 104), Some(inactive()));
        assert_eq!(book.refused(&digest(0), 105), None);
        assert_eq!(book.refused(&digest(0), 50), None, "the clock went back");
        assert!(book.refused(&digest(1), 100).is_some() && book.refused(&digest(1), 101).is_none());
        for n in 0..10_000 {
            book.remember(digest(n), &inactive(), 100);
        }
        assert!(book.refused.len() <= MAX_REFUSED && book.order.len() <= MAX_REFUSED);
        assert!(book.refused(&digest(9_999), 100).is_some());
    }
}
