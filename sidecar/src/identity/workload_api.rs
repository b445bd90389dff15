//! The client of the SPIFFE Workload API: an endpoint enters, identities leave for as long as the program runs. The stream
//! is held open; when it ends it is opened again at once, or after a while when the answer says so (Workload Endpoint 6).
//! What is held is dropped only when the API denies it, no longer offers it, or it expires: never because the socket is gone.

use std::time::{Duration, SystemTime};

use spiffe::SpiffeId;
use std::sync::Arc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tower::service_fn;

use super::backoff::{Backoff, dice};
use super::endpoint::Endpoint;
use super::message::{Fetched, Message};
use super::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::proto::{X509svidRequest, X509svidResponse};
use super::{Identity, IdentityError};

/// The largest message that is read.
const MAX_MESSAGE: usize = 4 << 20;
/// How long the first message may take: the standard says at once.
pub(super) const FIRST_MESSAGE: Duration = Duration::from_secs(30);
/// A stream that lived this long and ended is opened again without a wait.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// With less than this left of the SVID the next one is asked for more often.
const URGENT: Duration = Duration::from_secs(60);
/// The longest wait between two looks at the clock for an SVID that nobody renews.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// What the sidecar knows about itself.
#[derive(Clone, Debug)]
pub enum IdentityState {
    /// None yet.
    Waiting {
        /// For the log and readiness.
        reason: String,
    },
    /// Here it is; comes again at each rotation and bundle change.
    Ready(Arc<Identity>),
    /// There was one and it must not be used any more.
    Lost {
        /// For the log and readiness.
        reason: String,
    },
}

/// Which SVID, when the Workload API offers several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The default identity: the first.
    First,
    /// This one.
    Id(SpiffeId),
    /// The first that is one of these.
    OneOf(Vec<SpiffeId>),
    /// The first with this hint.
    Hint(String),
}

/// Where and what to fetch.
#[derive(Clone, Debug)]
pub struct WorkloadApiOptions {
    /// `unix:///absolute/path` or `tcp://IP:port`.
    pub endpoint: String,
    /// Which SVID.
    pub pick: Pick,
}

/// Keeps the identity current and reports each change to `on`. Returns only when it can never succeed: the endpoint is
/// not one.
pub async fn watch(options: WorkloadApiOptions, on: impl FnMut(IdentityState) + Send) -> IdentityError {
    watch_at(options, Pace::default(), on).await
}

/// Fetches one message: every SVID that this process is entitled to.
///
/// # Errors
/// The endpoint, the answer or its content is not what it should be, or nothing came within `limit`.
pub async fn fetch(endpoint: &str, limit: Duration) -> Result<Vec<Fetched>, IdentityError> {
    let parsed = Endpoint::parse(endpoint)?;
    let once = async {
        let mut stream = open(endpoint, parsed).await?;
        let first = stream
            .message()
            .await
            .map_err(|status| refused(endpoint, &status))?;
        first.ok_or_else(|| unreachable(endpoint, "the stream ended without a message"))
    };
    let silent = |_| IdentityError::Silent {
        endpoint: endpoint.to_owned(),
        seconds: limit.as_secs(),
    };
    let mut message = Message::check(timeout(limit, once).await.map_err(silent)??)?;
    let offers = message.offers().count();
    (0..offers)
        .map(|at| message.take(at, &[], SystemTime::now()))
        .collect()
}

/// The waits between two attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) unavailable: Backoff,
    /// The same while traffic stands still for want of an identity, or soon will.
    pub(super) urgent: Backoff,
    pub(super) denied: Backoff,
    /// After an answer that no retry can change, until someone upgrades the other side.
    pub(super) hopeless: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let first = Duration::from_millis(250);
        Self {
            unavailable: Backoff::new(first, Duration::from_secs(10)),
            urgent: Backoff::new(first, Duration::from_secs(1)),
            denied: Backoff::new(first, Duration::from_secs(5)),
            hopeless: Duration::from_secs(30),
        }
    }
}

pub(super) async fn watch_at(
    options: WorkloadApiOptions,
    pace: Pace,
    on: impl FnMut(IdentityState) + Send,
) -> IdentityError {
    let endpoint = match Endpoint::parse(&options.endpoint) {
        Ok(endpoint) => endpoint,
        Err(error) => return error,
    };
    let mut watcher = Watcher {
        options,
        endpoint,
        pace,
        held: None,
        said: None,
        on,
    };
    loop {
        let began = Instant::now();
        let ended = watcher.follow().await;
        let wait = watcher.after(&ended, began.elapsed());
        watcher.rest(wait).await;
    }
}

struct Watcher<F> {
    options: WorkloadApiOptions,
    endpoint: Endpoint,
    pace: Pace,
    held: Option<Arc<Identity>>,
    /// Why nothing came the last time: the same is not said again.
    said: Option<String>,
    on: F,
}

impl<F: FnMut(IdentityState) + Send> Watcher<F> {
    /// One stream, from opening to its end.
    async fn follow(&mut self) -> IdentityError {
        let name = self.options.endpoint.clone();
        let silent = || IdentityError::Silent {
            endpoint: name.clone(),
            seconds: FIRST_MESSAGE.as_secs(),
        };
        let mut stream = match timeout(FIRST_MESSAGE, open(&name, self.endpoint.clone())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return error,
            Err(_) => return silent(),
        };
        let mut first = true;
        let limit = Instant::now() + FIRST_MESSAGE;
        loop {
            let next = tokio::select! {
                next = stream.message() => next,
                () = sleep_until(limit), if first => return silent(),
                () = until_check(self.held.as_deref()) => {
                    self.drop_expired();
                    continue;
                }
            };
            match next {
                Ok(Some(raw)) => self.message(raw),
                Ok(None) => return unreachable(&name, "the stream ended"),
                Err(status) => return refused(&name, &status),
            }
            first = false;
        }
    }

    /// Takes a message in, or says why it is discarded and keeps what is held.
    fn message(&mut self, raw: X509svidResponse) {
        self.pace.unavailable.reset();
        self.pace.urgent.reset();
        self.pace.denied.reset();
        let mut message = match Message::check(raw) {
            Ok(message) => message,
            Err(error) => return self.discarded(&error),
        };
        let Some(at) = choose(&self.options.pick, message.offers()) else {
            let offered: Vec<_> = message.offers().map(|(id, _)| id.to_owned()).collect();
            return self.lose(format!(
                "the Workload API offers {}, not {}",
                offered.join(", "),
                self.options.pick
            ));
        };
        let before = self.held.as_ref().map(|held| Arc::clone(&held.bundles));
        let before = before.as_ref().map_or(&[][..], |bundles| bundles.crls());
        match message.take(at, before, SystemTime::now()) {
            Ok(fetched) => {
                self.said = None;
                self.hold(fetched.identity);
            }
            Err(error) => self.discarded(&error),
        }
    }

    fn hold(&mut self, identity: Identity) {
        if self.held.as_ref().is_some_and(|held| held.same_as(&identity)) {
            return;
        }
        let identity = Arc::new(identity);
        self.held = Some(Arc::clone(&identity));
        (self.on)(IdentityState::Ready(identity));
    }

    fn discarded(&mut self, error: &IdentityError) {
        let reason = error.to_string();
        if self.held.is_some() && self.is_news(&reason) {
            tracing::warn!(%error, kept = true, "Workload API message discarded");
        }
        self.wait_for(reason);
    }

    fn lose(&mut self, reason: String) {
        if self.held.take().is_some() {
            (self.on)(IdentityState::Lost {
                reason: reason.clone(),
            });
            self.said = Some(reason);
        } else {
            self.wait_for(reason);
        }
    }

    /// Whether this was not the reason the last time.
    fn is_news(&self, reason: &str) -> bool {
        self.said.as_deref() != Some(reason)
    }

    /// Reports why there is still nothing; says nothing while something is held, and nothing twice.
    fn wait_for(&mut self, reason: String) {
        if self.held.is_none() && self.is_news(&reason) {
            (self.on)(IdentityState::Waiting {
                reason: reason.clone(),
            });
        }
        self.said = Some(reason);
    }

    fn drop_expired(&mut self) {
        let now = SystemTime::now();
        if self.held.as_ref().is_some_and(|held| held.not_after <= now) {
            self.lose("the SVID expired and the Workload API sent no new one".into());
        }
    }

    /// What the end of a stream means, and how long to wait before the next.
    fn after(&mut self, ended: &IdentityError, lived: Duration) -> Duration {
        let code = match ended {
            IdentityError::Refused { code, .. } => *code,
            _ => Code::Unavailable,
        };
        match code {
            Code::PermissionDenied => {
                self.lose(ended.to_string());
                self.pace.denied.next(dice())
            }
            Code::InvalidArgument | Code::Unimplemented => {
                let reason = ended.to_string();
                if self.is_news(&reason) {
                    tracing::error!(error = %ended, retry = ?self.pace.hopeless, "no retry helps until the Workload API is changed");
                }
                self.wait_for(reason);
                self.pace.hopeless
            }
            _ => {
                let reason = ended.to_string();
                // Without one, whoever hears that we wait says so.
                if self.held.is_some() && self.is_news(&reason) {
                    tracing::warn!(error = %ended, kept = true, "Workload API stream ended");
                }
                self.wait_for(reason);
                if lived >= SETTLED {
                    Duration::ZERO
                } else if self.is_urgent(SystemTime::now()) {
                    self.pace.urgent.next(dice())
                } else {
                    self.pace.unavailable.next(dice())
                }
            }
        }
    }

    fn is_urgent(&self, now: SystemTime) -> bool {
        self.held
            .as_ref()
            .is_none_or(|held| held.not_after.duration_since(now).unwrap_or_default() < URGENT)
    }

    /// Waits, and drops what expires meanwhile.
    async fn rest(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            self.drop_expired();
            tokio::select! {
                () = sleep_until(end) => return,
                () = until_check(self.held.as_deref()) => {}
            }
        }
    }
}

/// Until the held SVID may have expired. Looked at often, because the wall clock can be set while we wait.
async fn until_check(held: Option<&Identity>) {
    let Some(held) = held else {
        return std::future::pending().await;
    };
    let left = held
        .not_after
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    sleep(left.min(CLOCK_CHECK)).await;
}

fn choose<'a>(pick: &Pick, mut offers: impl Iterator<Item = (&'a str, &'a str)>) -> Option<usize> {
    match pick {
        Pick::First => offers.next().map(|_| 0),
        Pick::Id(id) => {
            let id = id.to_string();
            offers.position(|(offered, _)| offered == id)
        }
        Pick::OneOf(ids) => {
            let ids: Vec<_> = ids.iter().map(SpiffeId::to_string).collect();
            offers.position(|(offered, _)| ids.iter().any(|id| id == offered))
        }
        Pick::Hint(hint) => offers.position(|(_, offered)| offered == hint),
    }
}

impl std::fmt::Display for Pick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("anything"),
            Self::Id(id) => write!(f, "{id}"),
            Self::OneOf(ids) => {
                let ids: Vec<_> = ids.iter().map(SpiffeId::to_string).collect();
                write!(f, "any of {}", ids.join(", "))
            }
            Self::Hint(hint) => write!(f, "one with the hint `{hint}`"),
        }
    }
}

async fn open(name: &str, endpoint: Endpoint) -> Result<tonic::Streaming<X509svidResponse>, IdentityError> {
    let answer = client(name, endpoint)
        .await?
        .fetch_x509svid(asking(X509svidRequest {}))
        .await
        .map_err(|status| refused(name, &status))?;
    Ok(answer.into_inner())
}

/// A connection to the Workload API.
pub(super) async fn client(
    name: &str,
    endpoint: Endpoint,
) -> Result<SpiffeWorkloadApiClient<Channel>, IdentityError> {
    let connector = service_fn(move |_: Uri| endpoint.clone().connect());
    // The address is never resolved: it becomes `:authority`, which has no meaning on this socket.
    let channel = Channel::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|e| unreachable(name, &deepest(&e)))?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

/// A request with the header that keeps browsers and proxies from asking for others (Workload Endpoint 3).
pub(super) fn asking<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

pub(super) fn refused(endpoint: &str, status: &tonic::Status) -> IdentityError {
    let detail = status
        .message()
        .chars()
        .filter(|c| !c.is_control())
        .take(256)
        .collect();
    IdentityError::Refused {
        endpoint: endpoint.to_owned(),
        code: status.code(),
        detail,
    }
}

pub(super) fn unreachable(endpoint: &str, detail: &str) -> IdentityError {
    IdentityError::Unreachable {
        endpoint: endpoint.to_owned(),
        detail: detail.to_owned(),
    }
}

/// The cause that says most: tonic's own words are "transport error".
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
