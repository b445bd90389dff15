//! Many small records, few commits: what callers hand in while one commit runs goes into the next one. A caller waits
//! until its own record is on the disk; nothing is ever acknowledged before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Issued, Store, StoreError};

/// Records that wait for a commit; past it callers wait for room.
const QUEUE: usize = 1024;
/// Records in one commit.
const BATCH: usize = 512;

/// After so many in one commit there are more to come,
const BUSY: usize = 4;
/// and so long is waited for them.
const LINGER: Duration = Duration::from_millis(1);

type Waiting = (Issued, oneshot::Sender<bool>);

/// The handle through which issuers record.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Waiting>,
}

impl Recorder {
    /// A recorder, and the task that does its work; it ends when the last handle is dropped.
    pub fn new(store: Arc<dyn Store>) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (Self { queue }, write(store, waiting))
    }

    /// Returns once the record is on the disk.
    ///
    /// # Errors
    /// When it is not: then the certificate must not be handed out.
    pub async fn record(&self, issued: Issued) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.queue
            .send((issued, done))
            .await
            .map_err(|_| StoreError::Closed)?;
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(StoreError::Closed),
        }
    }
}

async fn write(store: Arc<dyn Store>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch: Vec<Waiting> = Vec::with_capacity(BATCH);
    let mut busy = false;
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if busy {
            // Whoever is about to record does so before the commit: fewer of them. Nobody who comes alone waits.
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH
                && let Ok(one) = waiting.try_recv()
            {
                batch.push(one);
            }
        }
        busy = batch.len() >= BUSY;
        let (records, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let written = store.record(&records).await;
        if let Err(error) = &written {
            tracing::error!(%error, records = records.len(), "what was issued could not be recorded, so it is not handed out");
        }
        for answer in answers {
            let _caller_gone = answer.send(written.is_ok());
        }
    }
}
