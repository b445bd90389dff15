//! Accept loops: listening sockets enter, each connection goes to its flow on the data workers. Bounded in number; a
//! connection over the bound is closed at once instead of waiting for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::dial::tune;
use crate::flow::Context;

/// What an accept loop needs.
#[derive(Clone)]
pub(super) struct Accepting {
    pub(super) ctx: Arc<Context>,
    pub(super) data: Handle,
    pub(super) room: Arc<Semaphore>,
}

/// After a failed accept (no descriptors left, say): long enough not to spin, short enough not to be noticed.
const PAUSE: Duration = Duration::from_millis(50);

/// What is said of connections that find no place: a line now and then, however many they are.
#[derive(Default)]
struct Crowded {
    said: Option<tokio::time::Instant>,
    closed: u64,
}

/// Time between two such lines.
const SAY_AGAIN: Duration = Duration::from_secs(10);

impl Crowded {
    fn closed(&mut self, peer: SocketAddr) {
        self.closed += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            let closed = std::mem::take(&mut self.closed);
            tracing::warn!(closed, last = %peer, "closed: as many connections are open as `limits.connections` allows");
            self.said = Some(tokio::time::Instant::now());
        }
    }
}

/// Accepts on `listener` until the drain begins.
pub(super) async fn accept<F, Fut>(accepting: Accepting, listener: TcpListener, flow: F)
where
    F: Fn(Arc<Context>, TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Accepting { ctx, data, room } = accepting;
    let mut crowded = Crowded::default();
    loop {
        let accepted = tokio::select! {
            () = ctx.drain.beginning() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            crowded.closed(peer);
            continue;
        };
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "the connection was gone before it was taken");
            continue;
        }
        let serving = flow(Arc::clone(&ctx), stream, peer);
        ctx.drain.spawn(&data, async move {
            serving.await;
            drop(place);
        });
    }
}
