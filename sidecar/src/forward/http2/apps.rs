//! What each application speaks, and the HTTP/2 connections to it: an address enters, a place in a connection leaves, or
//! the word that it speaks HTTP/1.1. Found out by asking; forgotten when it fails or after a while.
//!
//! Each client's connection has its own connections to the application, as with HTTP/1.1. In a shared one a client that does
//! not read its answers could stop the others: the application then reads no more of its requests, and the window of the
//! connection is full for all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// Applications that were found to speak HTTP/1.1, and until when that is believed.
#[derive(Default)]
pub struct Apps(Mutex<HashMap<SocketAddr, Instant>>);

/// More applications than a pod has; more addresses than this are attempts.
const MOST_APPS: usize = 256;

impl Apps {
    /// What was found out of `addr` holds no more: it may be another application now.
    pub fn forget(&self, addr: SocketAddr) {
        self.known().remove(&addr);
    }

    fn speaks_http1(&self, addr: SocketAddr) -> bool {
        self.known()
            .get(&addr)
            .is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, addr: SocketAddr, time: Duration) {
        let mut known = self.known();
        if known.len() >= MOST_APPS {
            known.clear();
        }
        known.insert(addr, Instant::now() + time);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The HTTP/2 connections of one client to the application that it calls.
#[derive(Default)]
pub struct Links(Turn<Vec<Link>>);

struct Link {
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
    Http2(Link),
    Other,
    Silence,
}

/// Whom to connect to, and how.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// What is known of applications.
    pub apps: &'a Apps,
    /// The application.
    pub addr: SocketAddr,
    /// It is declared to speak HTTP/2.
    pub certain: bool,
    /// How connections are opened.
    pub dial: &'a DialOptions,
    /// Bounds of what it answers.
    pub limits: &'a Limits,
}

impl Links {
    /// A place in an HTTP/2 connection to the application; `None`: it speaks HTTP/1.1.
    ///
    /// # Errors
    /// There is no connection to it, it does not speak what it is declared to, or takes no more streams.
    pub async fn place(&self, to: &To<'_>) -> Result<Option<Lease>, ConnectFailure> {
        let deadline = Instant::now() + PLACE;
        while Instant::now() < deadline {
            let Some(mut lease) = self.lease(to).await? else {
                return Ok(None);
            };
            match timeout(PLACE, lease.sender.clone().ready()).await {
                Err(_) => break,
                Ok(Ok(sender)) => {
                    lease.sender = sender;
                    return Ok(Some(lease));
                }
                // The application has ended it meanwhile: another one.
                Ok(Err(_)) => {}
            }
        }
        Err(ConnectFailure::Busy { addr: to.addr })
    }

    /// One stream at a time connects, the others wait for what it finds.
    async fn lease(&self, to: &To<'_>) -> Result<Option<Lease>, ConnectFailure> {
        let mut links = self.0.lock().await;
        links.retain(|link| !link.driver.is_finished());
        if let Some(lease) = links.iter().find(|link| link.has_room()).map(Link::lease) {
            return Ok(Some(lease));
        }
        if links.is_empty() && !to.certain && to.apps.speaks_http1(to.addr) {
            return Ok(None);
        }
        if links.len() < APP_CONNECTIONS {
            let remember = match look(to).await? {
                Found::Http2(link) => {
                    let lease = link.lease();
                    links.push(link);
                    return Ok(Some(lease));
                }
                _ if to.certain => return Err(ConnectFailure::NotHttp2 { addr: to.addr }),
                Found::Other => REMEMBER_HTTP1,
                Found::Silence => REMEMBER_SILENCE,
            };
            to.apps.remember(to.addr, remember);
            return Ok(None);
        }
        let least = links.iter().min_by_key(|link| link.active());
        least
            .map(|link| Some(link.lease()))
            .ok_or(ConnectFailure::Busy { addr: to.addr })
    }
}

impl Link {
    fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.active() < self.sender.current_max_send_streams().min(APP_STREAMS)
    }

    fn lease(&self) -> Lease {
        self.active.fetch_add(1, Ordering::AcqRel);
        Lease {
            sender: self.sender.clone(),
            active: Arc::clone(&self.active),
        }
    }
}

/// Connects and speaks HTTP/2: either the application answers in it, or it is something else.
async fn look(to: &To<'_>) -> Result<Found, ConnectFailure> {
    let addr = to.addr;
    let stream = connect_app(addr, to.dial).await?;
    let (stream, heard) = Sniffed::new(stream);
    let Ok((sender, connection)) = client(to.limits).handshake::<_, Bytes>(stream).await else {
        return Ok(Found::Other);
    };
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%addr, %error, "HTTP/2 connection to the application ended");
        }
    });
    let patience = if to.certain { CERTAIN } else { PROBE };
    let found = match timeout(patience, heard).await {
        Ok(Ok(true)) => {
            return Ok(Found::Http2(Link {
                sender,
                active: Arc::default(),
                driver,
            }));
        }
        Ok(_) => Found::Other,
        Err(_) => Found::Silence,
    };
    driver.abort();
    Ok(found)
}
