//! What every call passes before any service sees it: it is gRPC; a call of the Workload API has the security header
//! (S-36); its uid may call now. So no service, and no method that we do not have, is a way around the limits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, Service};
use tonic::{Code, Status};

use super::connection::Caller;
use super::limits::{Admission, Shed};
use crate::audit::Event;

const WORKLOAD_API: &str = "/SpiffeWorkloadAPI/";
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// A client of reflection may ask again and again in one call: as many bytes as an ordinary question has are charged
/// as a call.
const QUESTION: usize = 64;

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// Services behind the gate.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    services: S,
    admission: Arc<Admission>,
}

impl<S> Gate<S> {
    pub fn new(services: S, admission: Arc<Admission>) -> Self {
        Self { services, admission }
    }

    /// Lets a call through, or says why not.
    fn admit(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let workload_api = request.uri().path().starts_with(WORKLOAD_API);
        if workload_api && !security_header(&request) {
            return Err(Status::invalid_argument(
                "security header missing from request: `workload.spiffe.io: true`",
            ));
        }
        let caller = request.extensions().get::<Caller>();
        let uid = caller
            .map(|caller| caller.uid)
            .ok_or_else(|| Status::permission_denied("nobody called"))?;
        charge(&self.admission, uid, 1)?;
        if workload_api {
            return Ok(request);
        }
        let admission = self.admission.clone();
        Ok(request.map(|body| Body::new(Metered { body, admission, uid })))
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !is_grpc(&request) {
            // As a gRPC server answers a browser, a probe or a proxy (gRPC over HTTP/2, "Requests").
            let mut refused = Response::new(Body::empty());
            *refused.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(async { Ok(refused) });
        }
        match self.admit(request) {
            Ok(request) => Box::pin(self.services.call(request)),
            Err(status) => {
                let refused = status.into_http();
                Box::pin(async { Ok(refused) })
            }
        }
    }
}

/// `application/grpc`, alone or with a format (`+proto`) or parameters (`;`).
fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Exactly one value, and exactly `true` (S-36).
fn security_header<B>(request: &Request<B>) -> bool {
    let mut values = request.headers().get_all(SECURITY_HEADER).iter();
    matches!((values.next(), values.next()), (Some(value), None) if value.as_bytes() == b"true")
}

fn charge(admission: &Admission, uid: u32, calls: usize) -> Result<(), Status> {
    let now = Instant::now();
    let shed = (0..calls).try_for_each(|_| admission.call(uid, now));
    shed.map_err(|shed: Shed| {
        if let Some(unlogged) = admission.may_log(uid, now) {
            tracing::warn!(uid, reason = %shed, unlogged, "call refused");
            admission.tell(&Event {
                uid: Some(uid),
                untold: unlogged,
                ..Event::new("call", "refused").because(&shed)
            });
        }
        Status::new(Code::Unavailable, shed.to_string())
    })
}

/// What a caller sends in a call that may go on for ever, charged as it comes.
struct Metered {
    body: Body,
    admission: Arc<Admission>,
    uid: u32,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if let Err(status) = charge(&this.admission, this.uid, length.div_ceil(QUESTION)) {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    use super::super::limits::Limits;
    use super::*;

    fn admission(calls: u32) -> Arc<Admission> {
        Admission::new(Limits {
            calls_per_second: 1,
            call_burst: calls,
            ..Limits::default()
        })
    }

    fn metered(bytes: usize, admission: &Arc<Admission>) -> Metered {
        let body = Full::new(Bytes::from(vec![0; bytes])).map_err(|never: Infallible| match never {});
        Metered {
            body: Body::new(body),
            admission: admission.clone(),
            uid: 7,
        }
    }

    #[tokio::test]
    async fn a_call_that_goes_on_is_charged_for_what_it_sends() {
        let admission = admission(5);
        assert!(metered(4 * QUESTION, &admission).collect().await.is_ok());
        let status = metered(2 * QUESTION, &admission).collect().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "one was left, two are charged");
    }

    #[test]
    fn the_header_is_asked_for_by_the_workload_api_alone_and_the_limit_by_all() {
        let admission = admission(3);
        let gate = Gate::new((), admission);
        let ask = |path: &str, header: &[&str]| {
            let mut request = Request::builder().uri(path);
            for value in header {
                request = request.header(SECURITY_HEADER, *value);
            }
            let mut request = request.body(Body::empty()).unwrap();
            let peer = Err(crate::attest::AttestError::Invisible);
            request.extensions_mut().insert(Caller { uid: 7, peer });
            gate.admit(request).map(|_| ()).map_err(|status| status.code())
        };
        for values in [
            &[][..],
            &["false"],
            &["True"],
            &["true,true"],
            &["true", "true"],
            &[""],
        ] {
            assert_eq!(
                ask("/SpiffeWorkloadAPI/FetchX509SVID", values),
                Err(Code::InvalidArgument),
                "{values:?}"
            );
        }
        assert_eq!(
            ask("/SpiffeWorkloadAPI/NoSuchMethod", &[]),
            Err(Code::InvalidArgument)
        );
        assert_eq!(
            ask("/SpiffeWorkloadAPI/FetchX509SVID", &["true"]),
            Ok(()),
            "refusals cost no call"
        );
        assert_eq!(ask("/grpc.health.v1.Health/Check", &[]), Ok(()));
        assert_eq!(ask("/no.such.Service/Method", &[]), Ok(()));
        for path in [
            "/SpiffeWorkloadAPI/NoSuchMethod",
            "/grpc.health.v1.Health/Check",
            "/no.such.Service/Method",
        ] {
            assert_eq!(ask(path, &["true"]), Err(Code::Unavailable), "{path}");
        }
    }
}
