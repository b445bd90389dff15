//! One HTTP/2 connection: each of its streams is a request of its own, read, decided, forwarded, ended and recorded as one of
//! HTTP/1.1 is, beside the others. What ends one stream leaves the others alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use h2::Reason;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::caller::{Allowed, Asked, No, added, passed_on};
use super::decided::decided;
use super::ended::{Bounds, End, ended};
use super::spelled::settle;
use super::tell_request::{Out, RequestStory};
use super::{Context, Secured, time_until};
use crate::authz;
use crate::detect::may_be_http2;
use crate::forward::http1::{Exchange, ExchangeFailure};
use crate::forward::http2::{
    CLIENT_TASKS, Client, Http1App, Incoming, Links, Outgoing, Stream, Times, To, answer, grpc_status,
    is_grpc, to_http1, to_http2,
};
use crate::forward::{Buffered, ConnectFailure, ErrorAnswer, Progress, connect_app};
use crate::observe::{ConnectionMeter, RequestMeter, decision_id};
use crate::request::{Glimpse, Refusal, read_http2};
use crate::services::AppProtocol;
use crate::snapshot::Snapshot;

/// What the streams of one connection share.
struct Connection {
    ctx: Arc<Context>,
    secured: Secured,
    meter: Mutex<RequestMeter>,
    open: ConnectionMeter,
    /// Connections to an application of HTTP/2.
    links: Links,
    /// Connections to an application of HTTP/1.1, kept for the next streams.
    kept: Mutex<Vec<Http1App>>,
}

/// Connections to the application that are kept for one client.
const KEPT: usize = 16;
/// What of a refused request's body is read, so that the client sees the answer alone.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);
/// How long streams may take to notice that their client has gone.
const LEAVING: Duration = Duration::from_secs(5);
/// How long what is idle may take to end, once it was told to.
const GOODBYE: Duration = Duration::from_secs(2);
/// Streams end by themselves when the SVIDs do, with a record; the connection under them a moment later.
const AFTER_STREAMS: Duration = Duration::from_millis(500);
/// How often a request is tried when the application takes nothing of it.
const TRIES: usize = 3;

/// Whether the client begins with the preface of HTTP/2. Reads as much as tells it, `until` then, and takes nothing.
pub(super) async fn is_http2<S: AsyncRead + Unpin>(client: &mut Buffered<S>, until: Instant) -> bool {
    let looking = async {
        loop {
            match may_be_http2(client.data()) {
                Some(told) => return told,
                None if matches!(client.fill().await, Ok(1..)) => {}
                None => return false,
            }
        }
    };
    timeout_at(until, looking).await.unwrap_or(false)
}

/// Serves the connection until it ends. Its preface is to be whole `until` then.
pub(super) async fn serve<S>(
    ctx: &Arc<Context>,
    secured: &Secured,
    (client, until): (Buffered<S>, Instant),
    (open, meter): (ConnectionMeter, RequestMeter),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let options = &ctx.options;
    let valid_until = secured.validity.hard + AFTER_STREAMS;
    let within = until.saturating_duration_since(Instant::now());
    let beginning = Client::begin(client, &options.limits, within, valid_until);
    let client = match beginning.await {
        Ok(client) => client,
        Err(end) => return tracing::debug!(peer = %secured.src, %end, "no HTTP/2 connection"),
    };
    let connection = Arc::new(Connection {
        ctx: Arc::clone(ctx),
        secured: secured.clone(),
        meter: Mutex::new(meter),
        open,
        links: Links::default(),
        kept: Mutex::default(),
    });
    let mut streams = JoinSet::new();
    run(&connection, client, &mut streams).await;
    // Without their client they end by themselves, each with its record.
    let leaving = async { while streams.join_next().await.is_some() {} };
    let _late = timeout(LEAVING, leaving).await;
}

/// How a stream ended, as far as its connection cares: whether its client left before the answer, and when it began.
type Ended = (bool, Instant);

async fn run<S>(connection: &Arc<Connection>, mut client: Client<Buffered<S>>, streams: &mut JoinSet<Ended>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut told = false;
    let mut manners = Manners::default();
    let mut ending = std::pin::pin!(connection.ending());
    let mut idle = std::pin::pin!(sleep(connection.ctx.options.idle_timeout));
    loop {
        tokio::select! {
            biased;
            next = client.next() => match next {
                Ok(Some(incoming)) => connection.take(incoming, streams),
                Ok(None) => return,
                Err(end) => return tracing::debug!(%end, "HTTP/2 connection ended"),
            },
            Some(done) = streams.join_next(), if !streams.is_empty() => {
                if !manners.hold(done.ok()) {
                    return client.end(Reason::ENHANCE_YOUR_CALM).await;
                }
                let patience = if told { GOODBYE } else { connection.ctx.options.idle_timeout };
                idle.as_mut().reset(Instant::now() + patience);
            }
            () = &mut ending, if !told => {
                told = true;
                client.wind_down();
                idle.as_mut().reset(Instant::now() + GOODBYE);
            }
            () = &mut idle, if streams.is_empty() => {
                if told {
                    return client.end(Reason::NO_ERROR).await;
                }
                told = true;
                client.wind_down();
                idle.as_mut().reset(Instant::now() + GOODBYE);
            }
        }
    }
}

/// What a client does with its streams: one that opens them to reset them makes us work for nothing (CVE-2023-44487).
#[derive(Default)]
struct Manners {
    streams: u64,
    left: u64,
}

impl Manners {
    /// From so many streams on, the half of which its client has left at once, a connection is ended.
    const ENOUGH: u64 = 500;
    const AT_ONCE: Duration = Duration::from_secs(1);

    fn hold(&mut self, ended: Option<Ended>) -> bool {
        let left = ended.is_some_and(|(left, began)| left && began.elapsed() < Self::AT_ONCE);
        self.streams = self.streams.saturating_add(1);
        self.left = self.left.saturating_add(u64::from(left));
        self.streams < Self::ENOUGH || self.left.saturating_mul(2) < self.streams
    }
}

impl Connection {
    /// Resolves when the client is to come again on a new connection.
    async fn ending(&self) {
        tokio::select! {
            () = sleep(time_until(self.secured.validity.soft)) => {}
            () = self.ctx.drain.beginning() => {}
            () = self.secured.fallen(&self.ctx) => {}
        }
    }

    fn take(self: &Arc<Self>, mut incoming: Incoming, streams: &mut JoinSet<Ended>) {
        if streams.len() >= CLIENT_TASKS {
            return incoming.stream.reset(Reason::REFUSED_STREAM);
        }
        let (connection, began) = (Arc::clone(self), Instant::now());
        streams.spawn(async move { (connection.one(incoming).await, began) });
    }

    /// One request, from head to record. `true`: the client left before it had its answer.
    async fn one(&self, incoming: Incoming) -> bool {
        let Incoming { parts, mut stream } = incoming;
        let read = read_http2(&parts, stream.is_ended(), &self.ctx.options.limits);
        let head = match read.and_then(|mut head| settle(&self.ctx, &mut head).map(|()| head)) {
            Ok(head) => head,
            Err(refusal) => return self.unread(parts, &mut stream, &refusal).await,
        };
        drop(parts);
        let asked = Asked::new(&self.secured, head);
        let about = (&asked.head, &asked.trace, asked.started);
        let story = RequestStory::of(&self.ctx, &self.secured, about);
        let (story, allowed) = match decided(&self.ctx, &asked, story).await {
            Ok(allowed) => allowed,
            Err((story, no)) => return self.refuse(&asked, &mut stream, (story, no)).await,
        };
        let progress = Progress::default();
        match self.forwarded(&asked, &allowed, &mut stream, &progress).await {
            Ok(exchange) => self.after(&asked, &mut stream, (story, exchange)).await,
            Err(Unforwarded::Cut(end)) => {
                stream.reset(Reason::CANCEL);
                let (up, down) = progress.counts();
                self.open.carried(up, down);
                self.told(|out| story.cut(out, (&end, &progress), &asked.id));
                false
            }
            Err(Unforwarded::NoApp(error)) => {
                let no = No {
                    status: ConnectFailure::STATUS,
                    code: error.label(),
                    detail: format!("the application does not answer: {error}"),
                    extra: vec![],
                };
                self.refuse(&asked, &mut stream, (story, no)).await
            }
        }
    }

    /// What follows an exchange.
    async fn after(
        &self,
        asked: &Asked<'_>,
        stream: &mut Stream,
        (story, exchange): (RequestStory, Exchange),
    ) -> bool {
        self.open.carried(exchange.request_bytes, exchange.response_bytes);
        let Some(failure) = &exchange.failure else {
            self.told(|out| story.exchanged(out, &exchange, &asked.id));
            return false;
        };
        if !exchange.response_started
            && let Some(status) = failure.status()
        {
            let no = No {
                status,
                code: failure.label(),
                detail: failure.to_string(),
                extra: vec![],
            };
            return self.refuse(asked, stream, (story, no)).await;
        }
        let left = matches!(failure, ExchangeFailure::ClientClosed);
        stream.reset(if left {
            Reason::CANCEL
        } else {
            Reason::INTERNAL_ERROR
        });
        self.told(|out| story.exchanged(out, &exchange, &asked.id));
        left && !exchange.response_started
    }

    async fn forwarded(
        &self,
        asked: &Asked<'_>,
        allowed: &Allowed,
        stream: &mut Stream,
        progress: &Progress,
    ) -> Result<Exchange, Unforwarded> {
        let (ctx, secured) = (&*self.ctx, &self.secured);
        let head = passed_on(asked, allowed);
        let nonce = &allowed.read.shown.nonce;
        let nonce = nonce.as_deref().map(|nonce| ("dpop-nonce", nonce));
        let add = added(asked, allowed);
        let add: Vec<(&str, &str)> = add.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let again = |snapshot: &Snapshot, user: Option<&authz::User>| {
            asked.decide(&snapshot.policies, SystemTime::now(), user, &allowed.read.headers)
        };
        let bounds = Bounds {
            decided: allowed.snapshot.generation,
            user: asked.user(&allowed.read),
        };
        let outgoing = Outgoing {
            head: &head,
            add: &add,
            response_add: nonce.as_slice(),
            limits: &ctx.options.limits,
            times: Times {
                body_idle: ctx.options.idle_timeout,
                quiet: ctx.options.opaque_idle,
            },
            progress,
        };
        // Outlives the exchange: when that is cut, the connection that it used must be aborted.
        let mut app = None;
        let done = tokio::select! {
            done = self.exchanged(stream, &mut app, &outgoing) => done.map_err(Unforwarded::NoApp),
            end = ended(ctx, secured, bounds, again) => Err(Unforwarded::Cut(end)),
        };
        match (app, &done) {
            (Some(app), Ok(exchange)) if exchange.upstream_reusable => self.keep(app),
            // A body that broke off must not look whole to the application.
            (Some(app), Ok(Exchange { failure: Some(_), .. }) | Err(_)) => app.abort(),
            _ => {}
        }
        if let Ok(Exchange {
            failure: Some(ExchangeFailure::UpstreamClosed(_)),
            ..
        })
        | Err(Unforwarded::NoApp(_)) = &done
        {
            ctx.apps.forget(secured.app);
        }
        done
    }

    /// The exchange, with whatever the application speaks. What it takes nothing of is tried again.
    async fn exchanged(
        &self,
        stream: &mut Stream,
        kept: &mut Option<Http1App>,
        outgoing: &Outgoing<'_>,
    ) -> Result<Exchange, ConnectFailure> {
        let (options, addr) = (&self.ctx.options, self.secured.app);
        let mut tries = 0;
        loop {
            tries += 1;
            let lease = match self.secured.port.app {
                AppProtocol::Http1 => None,
                declared => {
                    let to = To {
                        apps: &self.ctx.apps,
                        addr,
                        certain: declared == AppProtocol::Http2,
                        dial: &options.dial,
                        limits: &options.limits,
                    };
                    self.links.place(&to).await?
                }
            };
            let exchange = match lease {
                Some(lease) => to_http2(stream, lease, outgoing).await,
                None => {
                    let app = match self.kept() {
                        Some(app) => app,
                        None => {
                            let slot = self.ctx.slots.take(self.secured.src.ip());
                            let slot = slot.ok_or(ConnectFailure::Busy { addr })?;
                            Http1App::new(connect_app(addr, &options.dial).await?, Some(slot))
                        }
                    };
                    to_http1(stream, kept.insert(app), outgoing).await
                }
            };
            if !exchange.retryable || tries >= TRIES {
                return Ok(exchange);
            }
        }
    }

    /// A kept connection, unless the application has closed it or said something unasked.
    fn kept(&self) -> Option<Http1App> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut app = kept.pop()?;
        app.is_quiet().then_some(app)
    }

    fn keep(&self, app: Http1App) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(app);
        }
    }

    /// A head that was refused.
    async fn unread(&self, parts: Parts, stream: &mut Stream, refusal: &Refusal) -> bool {
        let grpc = is_grpc(parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes));
        let seen = Glimpse::of_parts(&parts);
        drop(parts);
        let id = decision_id();
        let no = No {
            status: refusal.status,
            code: refusal.code,
            detail: refusal.detail.clone(),
            extra: vec![],
        };
        let told = say(stream, &no, &id, (grpc, false)).await;
        let story = RequestStory::unread(&self.ctx, &self.secured, seen);
        let story = story.by_grpc(grpc.then(|| grpc_status(no.status)));
        self.told(|out| story.head_refused(out, refusal, &id));
        !told
    }

    /// Answers for the application, with a record.
    async fn refuse(&self, asked: &Asked<'_>, stream: &mut Stream, (story, no): (RequestStory, No)) -> bool {
        let grpc = is_grpc(asked.head.header("content-type").next());
        let told = say(stream, &no, &asked.id, (grpc, asked.head.method == "HEAD")).await;
        let story = story.by_grpc(grpc.then(|| grpc_status(no.status)));
        self.told(|out| story.answered(out, &no, &asked.id));
        !told
    }

    fn told(&self, tell: impl FnOnce(Out<'_>)) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        tell(Out {
            ctx: &self.ctx,
            meter: &mut meter,
        });
    }
}

/// Writes an answer of ours; `false`: the client has gone.
async fn say(stream: &mut Stream, no: &No, id: &str, (grpc, to_head): (bool, bool)) -> bool {
    let mut headers: Vec<(&str, &str)> = vec![("x-hopguard-id", id)];
    headers.extend(no.extra.iter().map(|(name, value)| (*name, value.as_str())));
    let error = ErrorAnswer {
        status: no.status,
        code: no.code,
        detail: no.told(),
        id: Some(id),
        headers: &headers,
        close: false,
        to_head,
    };
    let answer = answer(&error, grpc);
    stream.answer(answer, DISCARD_BYTES, DISCARD_TIME).await
}

enum Unforwarded {
    Cut(End),
    NoApp(ConnectFailure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_leave_half_of_their_streams_at_once_are_sent_away() {
        let now = Instant::now();
        let (mut rude, mut polite) = (Manners::default(), Manners::default());
        let held = (0..10_000)
            .take_while(|at| rude.hold(Some((at % 2 == 0, now))))
            .count();
        assert_eq!(held, 499);
        assert!((0..10_000).all(|at| polite.hold(Some((at % 3 == 0, now)))));
    }
}
