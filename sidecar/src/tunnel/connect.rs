//! Making one tunnel as a client, and using it: an address and the IDs expected there enter, a proven tunnel leaves. A
//! tunnel is ready only when the peer has spoken: in TLS 1.3 a client learns only then that its certificate was accepted.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use rustls_pki_types::{CertificateDer, ServerName};
use spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::cork::{Cork, Uncork, cork};
use super::driver::Warden;
use super::life::{End, Life, Place, valid_until};
use super::pool::Target;
use super::stream::TunnelStream;
use super::{REASON_HEADER, TunnelError, settings};
use crate::dial::{self, DialOptions};
use crate::tls::{self, MeshTls, Peer, Session};

/// How long the TLS close of a tunnel that is cut may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// A tunnel to a proven peer.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) addr: SocketAddr,
    pub(super) peer: Arc<Peer>,
    pub(super) session: Arc<Session>,
    /// What the peer presented, for a look at it under later roots.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) valid_until: SystemTime,
    pub(super) life: Arc<Life>,
    sender: SendRequest<Bytes>,
}

/// A CONNECT that did not become a stream.
#[derive(Debug)]
pub(super) enum Miss {
    /// The peer answered or broke the stream: trying again would ask the same question twice.
    Final(TunnelError),
    /// The peer cannot have processed it, and the tunnel takes no more.
    Dead(TunnelError),
    /// The peer has not processed it; the tunnel is well, but full.
    Full(TunnelError),
}

impl Miss {
    pub(super) fn into_error(self) -> TunnelError {
        match self {
            Self::Final(error) | Self::Dead(error) | Self::Full(error) => error,
        }
    }
}

/// Connects, proves, and waits for the peer's first word.
pub(super) async fn connect(
    tls: &MeshTls,
    addr: SocketAddr,
    expected: &[SpiffeId],
    dial: &DialOptions,
    now: SystemTime,
) -> Result<Tunnel, TunnelError> {
    let broken = |e: tls::TlsError| TunnelError::Tls(Arc::new(e));
    let config = tls.client(expected).map_err(broken)?;
    let tcp = dial::connect(addr, dial)
        .await
        .map_err(|e| TunnelError::Connect {
            addr,
            kind: e.kind(),
            detail: e.to_string(),
        })?;
    let stream = TlsConnector::from(config)
        .connect(ServerName::from(addr.ip()), tcp)
        .await
        .map_err(|e| TunnelError::Handshake {
            addr,
            label: tls::label(&e),
            detail: tls::explain(&e),
        })?;
    let common = stream.get_ref().1;
    let session = tls::session(common).map_err(broken)?;
    let chain = common.peer_certificates().unwrap_or_default().to_vec();
    let peer = session
        .peer
        .clone()
        .ok_or_else(|| broken(tls::TlsError::Incomplete("a peer")))?;
    if session.alpn.as_deref().is_some_and(|alpn| alpn != b"h2") {
        return Err(broken(tls::TlsError::Incomplete("HTTP/2")));
    }

    let (life, bell) = Life::new();
    let (corked, uncork) = cork(stream, life.ear());
    let lost = |detail: String| TunnelError::Lost { addr, detail };
    let (sender, mut connection) = uncork
        .during(settings::client().handshake(corked))
        .await
        .map_err(|e| lost(e.to_string()))?;
    let valid_until = valid_until(tls.identity().not_after, peer.not_after, now);
    let warden = Warden::new(connection.ping_pong(), valid_until, &life, bell);
    let (spoke, first_word) = oneshot::channel();
    tokio::spawn(drive(connection, uncork, warden, Arc::clone(&life), spoke));
    if first_word.await.is_err() {
        let detail = life.ended().map_or_else(String::new, End::to_string);
        return Err(TunnelError::Handshake {
            addr,
            label: "refused_by_peer",
            detail,
        });
    }
    let (peer, session) = (Arc::new(peer), Arc::new(session));
    Ok(Tunnel {
        addr,
        peer,
        session,
        chain,
        valid_until,
        life,
        sender,
    })
}

/// The task of a tunnel, until its end.
async fn drive<IO: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<Cork<IO>, Bytes>,
    uncork: Uncork<IO>,
    mut warden: Warden,
    life: Arc<Life>,
    spoke: oneshot::Sender<()>,
) {
    let mut spoke = Some(spoke);
    let end = std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            let why = ended
                .err()
                .map_or_else(|| "the tunnel was closed".to_owned(), |e| e.to_string());
            return Poll::Ready(End::Connection(why));
        }
        if let Poll::Ready(Err(error)) = uncork.poll(cx) {
            return Poll::Ready(End::Connection(error.to_string()));
        }
        if life.heard() > 0
            && let Some(spoke) = spoke.take()
        {
            let _ = spoke.send(());
        }
        warden.poll(cx)
    })
    .await;
    // The streams must find the reason when the drop of the connection fails them.
    life.end(end);
    drop(connection);
    let _ = timeout(GOODBYE, uncork.shutdown()).await;
}

impl Tunnel {
    /// How many streams it takes at once: what the peer allows, and what we allow ourselves.
    pub(super) fn limit(&self, own: usize) -> usize {
        own.min(self.sender.current_max_send_streams())
    }

    /// Asks the peer for a stream; `patience` bounds how long a tunnel that may be dead is believed in.
    pub(super) async fn open(
        &self,
        target: &Target,
        place: Place,
        patience: Option<Duration>,
    ) -> Result<TunnelStream, Miss> {
        let request = request(target).map_err(Miss::Final)?;
        let heard = self.life.heard();
        let (answer, send) = self
            .sender
            .clone()
            .send_request(request, false)
            .map_err(|e| Miss::Dead(self.lost(&e)))?;
        let answer = match patience {
            Some(patience) => self.doubting(answer, heard, patience).await?,
            None => answer.await,
        };
        self.answered(answer, send, place)
    }

    /// Waits for an answer; a tunnel that stays silent, also when asked by a PING, is given up. It is not cut: only its own
    /// PING decides over the streams that are open in it.
    async fn doubting(
        &self,
        mut answer: ResponseFuture,
        heard: u64,
        patience: Duration,
    ) -> Result<Answer, Miss> {
        if let Ok(answer) = timeout(patience, &mut answer).await {
            return Ok(answer);
        }
        if self.life.heard() == heard {
            self.life.doubt();
            if let Ok(answer) = timeout(patience.saturating_mul(2), &mut answer).await {
                return Ok(answer);
            }
            if self.life.heard() == heard {
                let detail = "it was silent".to_owned();
                return Err(Miss::Dead(TunnelError::Lost {
                    addr: self.addr,
                    detail,
                }));
            }
        }
        Ok(answer.await)
    }

    fn answered(&self, answer: Answer, send: SendStream<Bytes>, place: Place) -> Result<TunnelStream, Miss> {
        let response = match answer {
            Ok(response) => response,
            Err(error) if error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) => {
                return Err(Miss::Full(self.lost(&error)));
            }
            Err(error) if error.is_reset() => return Err(Miss::Final(self.lost(&error))),
            // Before 200 no byte of the application was sent: whatever ended the tunnel, a new one may be asked.
            Err(error) => return Err(Miss::Dead(self.lost(&error))),
        };
        if response.status() != http::StatusCode::OK {
            return Err(Miss::Final(TunnelError::Refused {
                status: response.status().as_u16(),
                reason: reason(&response),
                peer: Arc::clone(&self.peer),
            }));
        }
        Ok(TunnelStream::new(
            send,
            response.into_body(),
            Arc::clone(&self.life),
            Some(place),
        ))
    }

    fn lost(&self, error: &h2::Error) -> TunnelError {
        let detail = self
            .life
            .ended()
            .map_or_else(|| error.to_string(), End::to_string);
        TunnelError::Lost {
            addr: self.addr,
            detail,
        }
    }
}

/// The peer's reason, as long as it looks like one: it is written to records.
fn reason(response: &http::Response<h2::RecvStream>) -> Option<Arc<str>> {
    let label = response.headers().get(REASON_HEADER)?.to_str().ok()?;
    let fits = (1..=64).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    fits.then(|| Arc::from(label))
}

type Answer = Result<http::Response<h2::RecvStream>, h2::Error>;

/// `CONNECT ip:port` and nothing but the headers of the target (RFC 9113 8.5).
fn request(target: &Target) -> Result<Request<()>, TunnelError> {
    let uri = Uri::try_from(target.authority.to_string()).map_err(|_| TunnelError::Header(":authority"))?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    for (name, value) in &target.headers {
        let bad = |_| TunnelError::Header(name);
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| TunnelError::Header(name))?;
        request
            .headers_mut()
            .append(key, HeaderValue::from_str(value).map_err(bad)?);
    }
    Ok(request)
}
