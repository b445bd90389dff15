//! The listeners. Each connection is bounded: a place, a handshake and a head in time, a life; it gets pages of [`Site`] and
//! nothing else. The pages are made anew when the trust changes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::certificate::{self, Shown, Validity};
use super::site::{Plan, Site};
use super::turnstile::{Turnstile, Who};
use super::{EndpointError, OpenId, Options, Plain, Profile, WebFiles};
use crate::authority::Trust;
use crate::workload::{Bound, Issuer, Socket};

/// A handshake, and then each head, idle time before it included, must be there by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// No connection is longer than this: what is fetched are some KiB.
const LIFE: Duration = Duration::from_secs(60);
/// After an accept that failed (no descriptors left), so that it does not spin.
const BREATHER: Duration = Duration::from_millis(100);
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// Everything that is served, listening.
pub struct Endpoint {
    doors: Vec<Door>,
    places: Vec<String>,
    issuer: Arc<dyn Issuer>,
    keeper: Option<Keeper>,
}

/// A listener and what is behind it.
struct Door {
    listener: Listener,
    tls: Option<TlsAcceptor>,
    plan: Plan,
    site: Arc<ArcSwap<Site>>,
    /// Connections at once.
    places: u32,
}

enum Listener {
    Tcp(TcpListener),
    Unix(Bound),
}

/// Who keeps the certificate current.
struct Keeper {
    shown: Arc<Shown>,
    kept: Kept,
}

/// What its certificate is kept by.
enum Kept {
    /// Files that are looked at.
    Files(WebFiles),
    /// An SVID of our own that is renewed.
    Own(SpiffeId, Validity),
}

impl Endpoint {
    /// Binds every listener, and has every page ready. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub async fn bind(options: &Options, issuer: Arc<dyn Issuer>) -> Result<Self, EndpointError> {
        let trust = issuer.trust().borrow().clone();
        let room = (&*trust, options.connections.0);
        let mut endpoint = Self {
            doors: Vec::new(),
            places: Vec::new(),
            issuer: issuer.clone(),
            keeper: None,
        };
        if let Some(bundle) = &options.bundle {
            let keeper = Keeper::new(&bundle.profile, issuer.as_ref(), SystemTime::now()).await?;
            let tls = TlsAcceptor::from(Arc::new(keeper.shown.config()?));
            endpoint.keeper = Some(keeper);
            let plan = Plan::of_tls(bundle, options.openid.as_ref());
            let (listener, bound) = tcp(bundle.listen).await?;
            endpoint.places.push(format!("https://{bound}{}", bundle.path));
            endpoint.doors.push(Door::new(listener, Some(tls), plan, room)?);
        }
        if let Some(
            openid @ OpenId {
                plain: Some(plain),
                path,
                ..
            },
        ) = &options.openid
        {
            let listener = match plain {
                Plain::Loopback(address) => {
                    let (listener, bound) = tcp(*address).await?;
                    endpoint.places.push(format!("http://{bound}{path}"));
                    listener
                }
                Plain::Unix(path) => {
                    endpoint.places.push(format!("unix://{}", path.display()));
                    Listener::Unix(Bound::new(&socket(path.clone()))?)
                }
            };
            endpoint
                .doors
                .push(Door::new(listener, None, Plan::of_plain(openid), room)?);
        }
        Ok(endpoint)
    }

    /// Where it listens, as URLs.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    /// Serves until `closing`.
    pub async fn serve(self, mut closing: watch::Receiver<bool>) {
        let mut work = JoinSet::new();
        let mut shelves = Vec::new();
        for door in self.doors {
            shelves.push((door.plan.clone(), door.site.clone()));
            work.spawn(door.serve());
        }
        work.spawn(refresh(shelves, self.issuer.trust()));
        if let Some(Keeper { shown, kept }) = self.keeper {
            match kept {
                Kept::Files(files) => work.spawn(shown.follow(files)),
                Kept::Own(id, validity) => work.spawn(shown.renew(id, self.issuer, validity)),
            };
        }
        // The answer holds a lock, and what comes waits.
        let _closing_or_gone = closing.wait_for(|closing| *closing).await.map(drop);
        work.shutdown().await;
    }
}

impl Keeper {
    async fn new(profile: &Profile, issuer: &dyn Issuer, now: SystemTime) -> Result<Self, EndpointError> {
        let (first, kept) = match profile {
            Profile::Web(files) => {
                let key = certificate::read(files)?;
                if certificate::ends(&key).is_none_or(|end| end <= now) {
                    let file = files.certificate.display();
                    tracing::warn!(%file, "the bundle endpoint's certificate has ended: clients will refuse it");
                }
                (Some(key), Kept::Files(files.clone()))
            }
            Profile::Spiffe(id) => match certificate::own(id, issuer, now).await {
                Ok((key, validity)) => (Some(key), Kept::Own(id.clone(), validity)),
                // The authority must come up all the same: by it revocations reach workloads.
                Err(error @ EndpointError::Issue(_)) => {
                    tracing::error!(%id, %error, "the bundle endpoint has no SVID: nobody can fetch the bundle until it has one");
                    (None, Kept::Own(id.clone(), Validity::none(now)))
                }
                Err(other) => return Err(other),
            },
        };
        Ok(Self {
            shown: Shown::new(first),
            kept,
        })
    }
}

async fn tcp(listen: SocketAddr) -> Result<(Listener, SocketAddr), EndpointError> {
    let failed = |source| EndpointError::Listen {
        place: listen,
        source,
    };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((Listener::Tcp(listener), bound))
}

/// A proxy of another user must reach it; what it gives is public.
fn socket(path: PathBuf) -> Socket {
    Socket {
        name: "openid".into(),
        path,
        mode: 0o666,
    }
}

/// Makes the pages anew whenever the trust changes. A trust that no document can be made of leaves the pages as they are.
async fn refresh(shelves: Vec<(Plan, Arc<ArcSwap<Site>>)>, mut trust: watch::Receiver<Arc<Trust>>) {
    loop {
        let now = trust.borrow_and_update().clone();
        for (plan, site) in &shelves {
            match plan.site(&now) {
                Ok(made) => site.store(Arc::new(made)),
                Err(error) => tracing::error!(%error, "the served bundle stays as it was"),
            }
        }
        if trust.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

impl Door {
    fn new(
        listener: Listener,
        tls: Option<TlsAcceptor>,
        plan: Plan,
        (trust, places): (&Trust, u32),
    ) -> Result<Self, EndpointError> {
        let site = Arc::new(ArcSwap::from_pointee(plan.site(trust)?));
        Ok(Self {
            listener,
            tls,
            plan,
            site,
            places,
        })
    }

    async fn serve(self) {
        let turnstile = Turnstile::new(self.places);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.next() => accepted,
                Some(_ended) = connections.join_next() => continue,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(%error, "the endpoint could not accept a connection");
                    tokio::time::sleep(BREATHER).await;
                    continue;
                }
            };
            let who = match address {
                Some(address) if self.tls.is_some() => Who::at(address.ip()),
                // It never leaves the machine: who comes is its proxy, mostly.
                _ => Who::Proxy,
            };
            let Some(inside) = turnstile.enter(who) else {
                tracing::debug!(?address, "the endpoint has too many connections");
                continue;
            };
            let (tls, site) = (self.tls.clone(), self.site.clone());
            connections.spawn(async move {
                let _inside = inside;
                let _cut = timeout(LIFE, converse(stream, tls, site)).await;
            });
        }
    }
}

/// A stream of either kind of listener.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn next(&self) -> io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        match self {
            Self::Unix(bound) => Ok((Box::new(bound.next().await), None)),
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let _a_little_slower = stream.set_nodelay(true);
                Ok((Box::new(stream), Some(address)))
            }
        }
    }
}

async fn converse(stream: Box<dyn Stream>, tls: Option<TlsAcceptor>, site: Arc<ArcSwap<Site>>) {
    let Some(acceptor) = tls else {
        return exchange(stream, &site).await;
    };
    match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, &site).await,
        Ok(Err(error)) => tracing::debug!(%error, "a handshake with the bundle endpoint failed"),
        Err(_) => tracing::debug!("a handshake with the bundle endpoint took too long"),
    }
}

async fn exchange(stream: impl Stream, site: &ArcSwap<Site>) {
    let answer = |request: hyper::Request<Incoming>| {
        let answer = site
            .load()
            .answer(request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(answer) }
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the endpoint broke off");
    }
}
