//! The Workload API as a gRPC service behind the gate: a session for each call. The calls of the WIT
//! profile are not built, and answer Unimplemented as every unknown call does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use spiffe::SpiffeId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::beside;
use super::connection::Caller;
use super::gate::Gate;
use super::issuer::Issuer;
use super::limits::{Admission, Limits};
use super::listener::Bound;
use super::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use super::session::Session;
use super::streams::Streams;
use super::validate::Validator;
use crate::attest::{AttestError, Inspector};
use crate::audit::{Audit, Event};
use crate::registration::Entries;

/// Requests are a few hundred bytes at most.
const MAX_REQUEST: usize = 64 << 10;
const MAX_HEADERS: u32 = 8 << 10;
/// What a client may send before somebody reads it, for each connection and each call.
const CONNECTION_WINDOW: u32 = 128 << 10;
const STREAM_WINDOW: u32 = 64 << 10;
/// A call whose request has not come by then is answered without it.
const REQUEST: Duration = Duration::from_secs(10);
/// A client that does not answer a ping for this long is cut.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);
const RESETS: usize = 20;
/// Time for clients to read their last message when the authority ends.
const GOODBYE: Duration = Duration::from_secs(3);
/// Connections that were admitted and not yet taken up.
const HANDOVER: usize = 64;

/// What all streams share.
pub struct Shared {
    pub(super) issuer: Arc<dyn Issuer>,
    pub(super) entries: watch::Receiver<Arc<Entries>>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) inspector: Inspector,
    pub(super) admission: Arc<Admission>,
    pub(super) audit: Audit,
    pub(super) streams: Arc<Streams>,
    pub(super) validator: Validator,
}

impl Shared {
    /// An API that hands out what `issuer` signs to whom `entries` name, until `closing` turns true; each time after it
    /// was written to `audit`.
    pub fn new(
        issuer: Arc<dyn Issuer>,
        entries: watch::Receiver<Arc<Entries>>,
        closing: watch::Receiver<bool>,
        limits: Limits,
        audit: Audit,
    ) -> Arc<Self> {
        let (inspector, admission) = (Inspector::new(), Admission::audited(limits, audit.clone()));
        Arc::new(Self {
            issuer,
            entries,
            closing,
            inspector,
            admission,
            audit,
            streams: Arc::default(),
            validator: Validator::default(),
        })
    }

    /// Reads what has to be read about processes, within the same bounds for all.
    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// Whether an identity is revoked, so that nobody gets it, whatever entries say.
    pub fn revoked(&self, id: &SpiffeId) -> bool {
        self.issuer.revoked(id)
    }

    /// The streams that are open.
    pub fn streams(&self) -> Arc<Streams> {
        self.streams.clone()
    }
}

/// Serves the API on these sockets until it is closed, and returns within some seconds then.
///
/// # Errors
/// When the server cannot run at all.
pub async fn serve(shared: Arc<Shared>, sockets: Vec<Bound>) -> Result<(), tonic::transport::Error> {
    let (sender, connections) = mpsc::channel(HANDOVER);
    for socket in sockets {
        tokio::spawn(socket.accept(shared.admission.clone(), sender.clone(), shared.closing.clone()));
    }
    drop(sender);
    let closed = |mut closing: watch::Receiver<bool>| async move {
        let _closing_or_gone = closing.wait_for(|closing| *closing).await;
    };
    let until = closed(shared.closing.clone());
    let goodbye = async {
        closed(shared.closing.clone()).await;
        tokio::time::sleep(GOODBYE).await;
    };
    let service = SpiffeWorkloadApiServer::new(Api {
        shared: shared.clone(),
    })
    .max_decoding_message_size(MAX_REQUEST);
    let routes = beside::add(Routes::new(service), shared.closing.clone());
    let serving = Server::builder()
        .max_concurrent_streams(shared.admission.limits().streams_per_connection)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .timeout(REQUEST)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .serve_with_incoming_shutdown(
            Gate::new(routes.prepare(), shared.admission.clone()),
            ReceiverStream::new(connections).map(Ok::<_, std::convert::Infallible>),
            until,
        );
    tokio::select! {
        served = serving => served,
        // A client that does not read keeps its connection open; it has had its time.
        () = goodbye => Ok(()),
    }
}

struct Api {
    shared: Arc<Shared>,
}

impl Api {
    /// A session of whoever called; what kept the call from being attested is its refusal.
    fn session<T>(&self, request: &Request<T>) -> Result<Session, Status> {
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or_else(|| Status::permission_denied("nobody called"))?;
        match &caller.peer {
            Ok(peer) => Ok(Session::new(self.shared.clone(), peer.clone())),
            Err(reason) => {
                let uid = caller.uid;
                if let Some(unlogged) = self.shared.admission.may_log(uid, Instant::now()) {
                    self.shared.audit.tell(&Event {
                        uid: Some(uid),
                        untold: unlogged,
                        ..Event::new("call", "refused").because(reason)
                    });
                    tracing::warn!(uid, %reason, unlogged, hint = hint(reason), "permission denied");
                }
                Err(Status::permission_denied(reason.to_string()))
            }
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Messages<X509svidResponse>>, Status> {
        let session = self.session(&request)?;
        Ok(Response::new(Messages::new(session, |mut session| {
            Box::pin(async move {
                let message = session.identities().await;
                (session, message)
            })
        })))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Messages<X509BundlesResponse>>, Status> {
        let session = self.session(&request)?;
        Ok(Response::new(Messages::new(session, |mut session| {
            Box::pin(async move {
                let message = session.bundles().await;
                (session, message)
            })
        })))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let mut session = self.session(&request)?;
        session.jwt_svids(request.into_inner()).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Messages<JwtBundlesResponse>>, Status> {
        let session = self.session(&request)?;
        Ok(Response::new(Messages::new(session, |mut session| {
            Box::pin(async move {
                let message = session.jwt_bundles().await;
                (session, message)
            })
        })))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let mut session = self.session(&request)?;
        session.validated(request.into_inner()).await.map(Response::new)
    }
}

/// How operators learn more; who is gone cannot be asked about.
fn hint(reason: &AttestError) -> Option<&'static str> {
    match reason {
        AttestError::Invisible => {
            Some("run the authority in the PID namespace of its callers, or in one above")
        }
        AttestError::Gone(_)
        | AttestError::Kernel(_)
        | AttestError::Unmapped(_)
        | AttestError::Replaced(_) => None,
    }
}

type Step<T> = Pin<Box<dyn Future<Output = (Session, Result<T, Status>)> + Send>>;

/// The messages of a session, each made when it is asked for: a client that does not read gets nothing stale.
struct Messages<T> {
    next: fn(Session) -> Step<T>,
    step: Option<Step<T>>,
}

impl<T> Messages<T> {
    fn new(session: Session, next: fn(Session) -> Step<T>) -> Self {
        Self {
            next,
            step: Some(next(session)),
        }
    }
}

impl<T> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(step) = &mut this.step else {
            return Poll::Ready(None);
        };
        let (session, message) = ready!(step.as_mut().poll(cx));
        // A status ends the stream.
        this.step = message.is_ok().then(|| (this.next)(session));
        Poll::Ready(Some(message))
    }
}
