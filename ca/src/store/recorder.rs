//! Many small records, few commits: what callers hand in while one commit runs goes into the next one. A caller waits
//! until its own record is on the disk; nothing is ever acknowledged before.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Issued, Store, StoreError};

/// Records that wait for a commit; past it callers wait for room.
const QUEUE: usize = 1024;
/// Records in one commit.
const BATCH: usize = 512;

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
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        // Whoever is about to record does so before the commit: fewer of them, and nobody waits for a timer.
        tokio::task::yield_now().await;
        while batch.len() < BATCH
            && let Ok(one) = waiting.try_recv()
        {
            batch.push(one);
        }
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
