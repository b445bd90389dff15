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

/// Accepts on `listener` until the drain begins.
pub(super) async fn accept<F, Fut>(accepting: Accepting, listener: TcpListener, flow: F)
where
    F: Fn(Arc<Context>, TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Accepting { ctx, data, room } = accepting;
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
            tracing::warn!(%peer, "closed: as many connections are open as `limits.connections` allows");
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
