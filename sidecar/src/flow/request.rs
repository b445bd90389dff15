//! One HTTP connection, request by request: read once, the user's token checked, decided, forwarded, recorded. Nothing of
//! a request reaches the application before its decision allows it, and what reaches it is what was decided on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::caller::{Allowed, Asked, No, rewritten};
use super::decided::decided;
use super::ended::{Bounds, End, ended};
use super::spelled::settle;
use super::streams::{self, is_http2};
use super::tell::Story;
use super::tell_request::{Out, RequestStory};
use super::{Abort, Context, Secured, Via, time_until};
use crate::authz;
use crate::forward::http1::{
    Exchange, HeadFailure, HeadTimes, Outgoing, Times, discard_body, exchange, finish, read_head,
};
use crate::forward::{Buffered, ConnectFailure, ErrorAnswer, Progress, abort, connect_app, error_response};
use crate::observe::{ConnectionMeter, Direction, RequestMeter, decision_id};
use crate::request::{Glimpse, Head};
use crate::services::AppProtocol;
use crate::snapshot::Snapshot;

/// One HTTP connection: the client, the application's kept connection, and the meters.
struct Connection<'c, S> {
    ctx: &'c Arc<Context>,
    secured: &'c Secured,
    client: Buffered<S>,
    upstream: Option<Buffered<TcpStream>>,
    meter: RequestMeter,
    /// When it ends, of the times at which idle connections do: from 0 to 1.
    share: f64,
}

/// How an answer leaves the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It can carry another request.
    Keep,
    /// It ends in order.
    Close,
    /// It ends so that nobody takes what was sent for whole.
    Abort,
}

/// Whether a request has begun.
enum Begun {
    Yes,
    /// The time is over, and nothing came.
    Silent,
    /// None will come.
    Over,
}

/// How long the first bytes may take. On the redirected port they were there before the connection came here, or its
/// handshake was; in a tunnel nobody has waited for them yet.
fn first_bytes(ctx: &Context, secured: &Secured) -> Duration {
    match secured.via {
        Via::Hbone => ctx.options.detect_timeout,
        Via::Mtls | Via::ServerTls | Via::Plaintext => ctx.options.idle_timeout,
    }
}

/// Serves the connection until it ends.
pub(super) async fn serve<S>(ctx: &Arc<Context>, secured: &Secured, story: Story, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Abort,
{
    let open = ctx.open(Direction::Inbound, "http", secured.proven());
    let src = ctx.metrics.workload(secured.peer.as_ref().map(|peer| &peer.id));
    let own = ctx
        .current
        .load()
        .tls
        .as_ref()
        .ok()
        .map(|tls| tls.identity().id.clone());
    let meter = ctx.metrics.requests(src, ctx.metrics.workload(own.as_ref()));
    let mut connection = Connection {
        ctx,
        secured,
        client: Buffered::new(stream),
        upstream: None,
        meter,
        share: share(),
    };
    match connection.begins(first_bytes(ctx, secured)).await {
        Begun::Yes => {}
        Begun::Silent if secured.via == Via::Hbone => {
            connection.end(Then::Close).await;
            return story.refused(ctx, "detection_timeout", "the first bytes did not come in time");
        }
        Begun::Silent | Begun::Over => return connection.end(Then::Close).await,
    }
    // The time of the first head runs from its first byte, also while it may still become the preface of HTTP/2.
    let first = Instant::now() + ctx.options.head_timeout;
    if is_http2(&mut connection.client, first).await {
        let Connection { client, meter, .. } = connection;
        return streams::serve(ctx, secured, (client, first), (open, meter)).await;
    }
    let mut left = first.saturating_duration_since(Instant::now());
    let then = loop {
        let Some(head) = connection.next_head(left).await else {
            break Then::Close;
        };
        left = ctx.options.head_timeout;
        let asked = Asked::new(secured, head);
        match connection.one(&asked, &open).await {
            Then::Keep => {}
            then => break then,
        }
    };
    connection.end(then).await;
}

/// What a client may still send after its last answer, so that closing does not destroy the answer on its way.
const LINGER_BYTES: u64 = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// What of a refused request's body is read, so that the connection can carry the next one.
const DISCARD_BYTES: u64 = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Ends the connection.
    async fn end(self, then: Then)
    where
        S: Abort,
    {
        let Self {
            mut client, upstream, ..
        } = self;
        if then == Then::Abort {
            client.get_ref().abort();
            if let Some(upstream) = upstream {
                abort(upstream.get_ref());
            }
            return;
        }
        finish(&mut client, LINGER_BYTES, LINGER_TIME).await;
    }

    /// Waits for the first bytes of a request, for so long at most.
    async fn begins(&mut self, within: Duration) -> Begun {
        self.client.release();
        // Only between requests: one that has begun is answered.
        tokio::select! {
            biased;
            filled = self.client.fill() => if matches!(filled, Ok(1..)) { Begun::Yes } else { Begun::Over },
            () = tokio::time::sleep(within) => Begun::Silent,
            () = idle_end(self.ctx, self.secured, self.share) => Begun::Over,
            () = self.secured.fallen(self.ctx) => Begun::Over,
        }
    }

    /// The next request's head, in `within` from its first byte; `None` when the connection is over, which a refused head
    /// makes it.
    async fn next_head(&mut self, within: Duration) -> Option<Head> {
        let (ctx, secured) = (self.ctx, self.secured);
        let idle = ctx.options.idle_timeout;
        if self.client.data().is_empty() && !matches!(self.begins(idle).await, Begun::Yes) {
            return None;
        }
        let times = HeadTimes { idle, head: within };
        let (refusal, seen) = match read_head(&mut self.client, &ctx.options.limits, times).await {
            Ok(mut head) => match settle(ctx, &mut head) {
                Ok(()) => return Some(head),
                Err(refusal) => (refusal, Glimpse::of_head(&head)),
            },
            Err(HeadFailure::Refused(refusal)) => (refusal, Glimpse::of_bytes(self.client.data())),
            Err(_) => return None,
        };
        let id = decision_id();
        let no = No {
            status: refusal.status,
            code: refusal.code,
            detail: refusal.detail.clone(),
            extra: vec![],
        };
        self.say(&no, &id, true, false).await;
        RequestStory::unread(ctx, secured, seen).head_refused(self.out(), &refusal, &id);
        None
    }

    /// One request, from decision to record.
    async fn one(&mut self, asked: &Asked<'_>, open: &ConnectionMeter) -> Then {
        let ctx = self.ctx;
        let story = RequestStory::of(ctx, asked.secured, (&asked.head, &asked.trace, asked.started));
        let (story, allowed) = match decided(ctx, asked, story).await {
            Ok(allowed) => allowed,
            Err((story, no)) => return self.refuse(asked, story, no).await,
        };
        if asked.secured.port.app == AppProtocol::Http2 {
            let no = No {
                status: 505,
                code: "http2_only",
                detail: "the application behind this port speaks HTTP/2 only, and so must who calls it"
                    .to_owned(),
                extra: vec![],
            };
            return self.refuse(asked, story, no).await;
        }
        let progress = Progress::default();
        match self.forwarded(asked, &allowed, &progress).await {
            Ok(exchange) => {
                open.carried(exchange.request_bytes, exchange.response_bytes);
                self.after(asked, story, exchange).await
            }
            Err(Unforwarded::Cut(end)) => {
                let (up, down) = progress.counts();
                open.carried(up, down);
                story.cut(self.out(), (&end, &progress), &asked.id);
                Then::Abort
            }
            Err(Unforwarded::NoApp(error)) => {
                let detail = format!("the application does not answer: {error}");
                let no = No {
                    status: ConnectFailure::STATUS,
                    code: error.label(),
                    detail,
                    extra: vec![],
                };
                self.refuse(asked, story, no).await
            }
        }
    }

    /// What follows an exchange.
    async fn after(&mut self, asked: &Asked<'_>, story: RequestStory, exchange: Exchange) -> Then {
        if !exchange.upstream_reusable
            && let Some(upstream) = self.upstream.take()
            && exchange.failure.is_some()
        {
            // A body that broke off must not look whole to the application.
            abort(upstream.get_ref());
        }
        if let (Some(failure), false) = (&exchange.failure, exchange.response_started) {
            let (status, code, detail) = (failure.status(), failure.label(), failure.to_string());
            let Some(status) = status else {
                story.exchanged(self.out(), &exchange, &asked.id);
                return Then::Abort;
            };
            let no = No {
                status,
                code,
                detail,
                extra: vec![],
            };
            return self.refuse(asked, story, no).await;
        }
        story.exchanged(self.out(), &exchange, &asked.id);
        match exchange {
            Exchange { failure: Some(_), .. } => Then::Abort,
            Exchange {
                client_reusable: true,
                upgraded: false,
                ..
            } => Then::Keep,
            _ => Then::Close,
        }
    }

    async fn forwarded(
        &mut self,
        asked: &Asked<'_>,
        allowed: &Allowed,
        progress: &Progress,
    ) -> Result<Exchange, Unforwarded> {
        let (ctx, secured) = (self.ctx, self.secured);
        let bytes = rewritten(asked, allowed);
        let again = |snapshot: &Snapshot, user: Option<&authz::User>| {
            asked.decide(&snapshot.policies, SystemTime::now(), user, &allowed.read.headers)
        };
        let bounds = Bounds {
            decided: allowed.snapshot.generation,
            user: asked.user(&allowed.read),
        };
        let close = || ctx.drain.has_begun() || SystemTime::now() >= secured.validity.soft;
        let nonce = allowed
            .read
            .shown
            .nonce
            .as_deref()
            .map(|nonce| ("dpop-nonce", nonce));
        let exchanging = async {
            loop {
                let kept = self.upstream.take().and_then(still_open);
                let reused = kept.is_some();
                let app = match kept {
                    Some(app) => app,
                    None => Buffered::new(
                        connect_app(secured.app, &ctx.options.dial)
                            .await
                            .map_err(Unforwarded::NoApp)?,
                    ),
                };
                let app = self.upstream.insert(app);
                let outgoing = Outgoing {
                    head: &asked.head,
                    bytes: bytes.clone(),
                    response_add: nonce.as_slice(),
                    close: &close,
                    reused,
                    limits: &ctx.options.limits,
                    times: Times {
                        response: None,
                        body_idle: ctx.options.idle_timeout,
                        upgraded_idle: ctx.options.opaque_idle,
                    },
                    progress,
                };
                let done = exchange(&mut self.client, app, outgoing).await;
                if reused && done.retryable {
                    // A kept connection that the application had closed meanwhile: it processed nothing of this request.
                    self.upstream = None;
                    continue;
                }
                return Ok(done);
            }
        };
        tokio::select! {
            done = exchanging => done,
            end = ended(ctx, secured, bounds, again) => Err(Unforwarded::Cut(end)),
        }
    }

    /// Where records and counts of a request go.
    fn out(&mut self) -> Out<'_> {
        Out {
            ctx: self.ctx,
            meter: &mut self.meter,
        }
    }

    /// Answers for the application, with a record.
    async fn refuse(&mut self, asked: &Asked<'_>, story: RequestStory, no: No) -> Then {
        let ending = self.ctx.drain.has_begun() || SystemTime::now() >= asked.secured.validity.soft;
        // A body that is left unread would be taken for the next request.
        let framing = asked.head.framing;
        let clean = asked.head.keep_alive
            && !ending
            && !asked.head.expect_continue
            && discard_body(&mut self.client, framing, DISCARD_BYTES, DISCARD_TIME).await;
        let said = self
            .say(&no, &asked.id, !clean, asked.head.method == "HEAD")
            .await;
        story.answered(self.out(), &no, &asked.id);
        if said && clean { Then::Keep } else { Then::Close }
    }

    /// Writes an answer of ours.
    async fn say(&mut self, no: &No, id: &str, close: bool, to_head: bool) -> bool {
        let mut headers: Vec<(&str, &str)> = vec![("x-hopguard-id", id)];
        headers.extend(no.extra.iter().map(|(name, value)| (*name, value.as_str())));
        let bytes = error_response(&ErrorAnswer {
            status: no.status,
            code: no.code,
            detail: no.told(),
            id: Some(id),
            headers: &headers,
            close,
            to_head,
        });
        let telling = async {
            self.client.get_mut().write_all(&bytes).await?;
            self.client.get_mut().flush().await
        };
        matches!(
            tokio::time::timeout(Duration::from_secs(5), telling).await,
            Ok(Ok(()))
        )
    }
}

/// Resolves when an idle connection is to be closed. A drain does not close it at once: its client's next request may be on
/// its way, and is answered with the word that the connection ends; what is closed on it would be lost.
async fn idle_end(ctx: &Context, secured: &Secured, share: f64) {
    let drained = async {
        ctx.drain.beginning().await;
        let notice = DRAIN_NOTICE.min(ctx.options.drain_timeout / 4);
        tokio::time::sleep(notice.mul_f64(1.0 + 0.5 * share)).await;
    };
    tokio::select! {
        () = tokio::time::sleep(time_until(secured.validity.idle(share))) => {}
        () = drained => {}
    }
}

/// A number from 0 to 1.
fn share() -> f64 {
    let mut byte = [0];
    // Without randomness nothing is spread, and nothing else depends on it.
    let _dull = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    f64::from(byte) / 255.0
}

/// How long an idle connection waits, once the drain has begun, for a request that can be told.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);

/// A kept connection of the application, unless it has closed it or said something unasked.
fn still_open(mut app: Buffered<TcpStream>) -> Option<Buffered<TcpStream>> {
    app.is_quiet().then_some(app)
}

enum Unforwarded {
    Cut(End),
    NoApp(ConnectFailure),
}
