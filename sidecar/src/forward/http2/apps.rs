//! What each application speaks, and the HTTP/2 connections to it: an address enters, a place in a connection leaves, or
//! the word that it speaks HTTP/1.1. Found out once by asking; forgotten when it fails or after a while. Connections are
//! shared by all clients, since every request carries its own proof of who asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Mutex as Turn;
use tokio::time::{Instant, timeout};

use super::settings::{
    APP_CONNECTIONS, APP_STREAMS, CERTAIN, PLACE, PROBE, REMEMBER_HTTP1, REMEMBER_SILENCE, client,
};
use super::sniff::Sniffed;
use crate::dial::DialOptions;
use crate::forward::{ConnectFailure, connect_app};
use crate::request::Limits;

/// All applications that were asked. A pod has few; more addresses than this are attempts.
#[derive(Default)]
pub struct Apps(Mutex<HashMap<SocketAddr, Arc<Turn<App>>>>);

/// More applications than a pod has.
const MOST_APPS: usize = 256;

/// One application.
#[derive(Default)]
struct App {
    /// Until then it is taken to speak HTTP/1.1.
    http1_until: Option<Instant>,
    connections: Vec<Connection>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    /// Streams that hold a place.
    active: Arc<AtomicUsize>,
    driver: tokio::task::JoinHandle<()>,
}

/// A place for one stream in a connection to an application.
pub struct Lease {
    pub(super) sender: SendRequest<Bytes>,
    active: Arc<AtomicUsize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What looking found.
enum Found {
    Http2(Connection),
    Other,
    Silence,
}

impl Apps {
    /// A place in an HTTP/2 connection to `addr`; `None`: it speaks HTTP/1.1. `certain`: it is declared to speak HTTP/2.
    ///
    /// # Errors
    /// There is no connection to it, it does not speak what it is declared to, or takes no more streams.
    pub async fn place(
        &self,
        addr: SocketAddr,
        certain: bool,
        (dial, limits): (&DialOptions, &Limits),
    ) -> Result<Option<Lease>, ConnectFailure> {
        let app = self.app(addr);
        let deadline = Instant::now() + PLACE;
        while Instant::now() < deadline {
            let Some(lease) = lease(&app, addr, certain, (dial, limits)).await? else {
                return Ok(None);
            };
            match timeout(PLACE, lease.sender.clone().ready()).await {
                Err(_) => break,
                Ok(Ok(sender)) => {
                    let mut lease = lease;
                    lease.sender = sender;
                    return Ok(Some(lease));
                }
                // The application has ended it meanwhile: another one.
                Ok(Err(_)) => {}
            }
        }
        Err(ConnectFailure::Busy { addr })
    }

    /// What was found out of `addr` holds no more: it may be another application now.
    pub async fn forget(&self, addr: SocketAddr) {
        self.app(addr).lock().await.http1_until = None;
    }

    fn app(&self, addr: SocketAddr) -> Arc<Turn<App>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_APPS && !known.contains_key(&addr) {
            known.clear();
        }
        Arc::clone(known.entry(addr).or_default())
    }
}

/// One at a time asks, the others wait for what it finds.
async fn lease(
    app: &Turn<App>,
    addr: SocketAddr,
    certain: bool,
    (dial, limits): (&DialOptions, &Limits),
) -> Result<Option<Lease>, ConnectFailure> {
    let mut app = app.lock().await;
    app.prune();
    if let Some(lease) = app.free() {
        return Ok(Some(lease));
    }
    if app.connections.is_empty() && !certain && app.http1_until.is_some_and(|until| Instant::now() < until) {
        return Ok(None);
    }
    if app.connections.len() < APP_CONNECTIONS {
        let patience = if certain { CERTAIN } else { PROBE };
        let found = look(addr, patience, (dial, limits)).await?;
        let remember = match found {
            Found::Http2(connection) => {
                app.http1_until = None;
                app.connections.push(connection);
                return Ok(app.free());
            }
            _ if certain => return Err(ConnectFailure::NotHttp2 { addr }),
            Found::Other => REMEMBER_HTTP1,
            Found::Silence => REMEMBER_SILENCE,
        };
        app.http1_until = Some(Instant::now() + remember);
        if app.connections.is_empty() {
            return Ok(None);
        }
    }
    app.least().map(Some).ok_or(ConnectFailure::Busy { addr })
}

impl App {
    /// Lets go of what has ended, and of idle connections but one.
    fn prune(&mut self) {
        let mut idle = 0_usize;
        self.connections.retain(|connection| {
            let used = connection.active.load(Ordering::Acquire) > 0;
            idle = idle.saturating_add(usize::from(!used));
            !connection.driver.is_finished() && (used || idle <= 1)
        });
    }

    /// A place in the first connection that has one.
    fn free(&self) -> Option<Lease> {
        let mut connections = self.connections.iter();
        connections
            .find(|connection| {
                let most = connection.sender.current_max_send_streams().min(APP_STREAMS);
                connection.active.load(Ordering::Acquire) < most
            })
            .map(Connection::lease)
    }

    /// A place to wait for, in the connection that has the fewest streams.
    fn least(&self) -> Option<Lease> {
        let active = |connection: &&Connection| connection.active.load(Ordering::Acquire);
        self.connections.iter().min_by_key(active).map(Connection::lease)
    }
}

impl Connection {
    fn lease(&self) -> Lease {
        self.active.fetch_add(1, Ordering::AcqRel);
        Lease {
            sender: self.sender.clone(),
            active: Arc::clone(&self.active),
        }
    }
}

/// Connects and speaks HTTP/2: either the application answers in it, or it is something else.
async fn look(
    addr: SocketAddr,
    patience: std::time::Duration,
    (dial, limits): (&DialOptions, &Limits),
) -> Result<Found, ConnectFailure> {
    let stream = connect_app(addr, dial).await?;
    let (stream, heard) = Sniffed::new(stream);
    let Ok((sender, connection)) = client(limits).handshake::<_, Bytes>(stream).await else {
        return Ok(Found::Other);
    };
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%addr, %error, "HTTP/2 connection to the application ended");
        }
    });
    let found = match timeout(patience, heard).await {
        Ok(Ok(true)) => {
            let active = Arc::default();
            return Ok(Found::Http2(Connection {
                sender,
                active,
                driver,
            }));
        }
        Ok(_) => Found::Other,
        Err(_) => Found::Silence,
    };
    driver.abort();
    Ok(found)
}
