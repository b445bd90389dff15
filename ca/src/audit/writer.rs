//! The one task that writes: what callers hand in while one batch is written goes into the next one. The disk is waited
//! for on a thread that may wait.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::chain::members;
use super::file::Sink;
use super::{Event, Waiting, What};

/// Records in one write.
const BATCH: usize = 512;
/// After so many in one write there are more to come,
const BUSY: usize = 4;
/// and so long is waited for them.
const LINGER: Duration = Duration::from_millis(1);
/// How often what was written is forced down to the disk: a crash of the whole machine may take as much of the log.
const SYNC: Duration = Duration::from_secs(1);

/// What is written to, and what is missing in it.
struct Writer {
    sink: Sink,
    /// Records that could not be written since the last one that was.
    lost: u64,
    synced: Instant,
    dirty: bool,
}

pub async fn write(sink: Sink, mut waiting: mpsc::Receiver<Waiting>) {
    let mut writer = Writer {
        sink,
        lost: 0,
        synced: Instant::now(),
        dirty: false,
    };
    let mut busy = false;
    loop {
        let mut batch = Vec::with_capacity(16);
        let next = waiting.recv_many(&mut batch, BATCH);
        let some = if writer.dirty {
            tokio::time::timeout(SYNC, next).await.ok()
        } else {
            Some(next.await)
        };
        if busy {
            // Whoever is about to record does so before the write. Nobody who comes alone waits.
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH
                && let Ok(one) = waiting.try_recv()
            {
                batch.push(one);
            }
        }
        busy = batch.len() >= BUSY;
        let ended = some == Some(0);
        let work = tokio::task::spawn_blocking(move || {
            writer.batch(batch, ended);
            writer
        });
        writer = match work.await {
            Ok(writer) if !ended => writer,
            // The runtime is going down, or nobody can record any more.
            Ok(_) | Err(_) => return,
        };
    }
}

impl Writer {
    /// Writes a batch, tells everybody in it how it went, and synchronises when that is due.
    fn batch(&mut self, batch: Vec<Waiting>, last: bool) {
        if batch.iter().any(|one| matches!(one.what, What::Reopen)) {
            self.sink.sync();
            self.sink.reopen();
        }
        let written = self.records(&batch);
        for done in batch.into_iter().filter_map(|one| one.done) {
            let _caller_gone = done.send(written);
        }
        if last || (self.dirty && self.synced.elapsed() >= SYNC) {
            self.sink.sync();
            (self.synced, self.dirty) = (Instant::now(), false);
        }
    }

    fn records(&mut self, batch: &[Waiting]) -> bool {
        // How much is missing stands before what follows it.
        let gap = (self.lost > 0).then(|| {
            let mut gap = Event::new("audit", "lost").because(&"records could not be written");
            gap.untold = self.lost;
            members(&gap, SystemTime::now())
        });
        let of_callers = batch.iter().filter_map(|one| match &one.what {
            What::Record(members) => Some(members.as_slice()),
            What::Reopen => None,
        });
        let count = of_callers.clone().count();
        if count == 0 {
            return true;
        }
        let records: Vec<&[u8]> = gap.iter().map(Vec::as_slice).chain(of_callers).collect();
        match self.sink.write(&records) {
            Ok(()) => {
                if self.lost > 0 {
                    tracing::warn!(lost = self.lost, "the audit log is written again");
                }
                (self.lost, self.dirty) = (0, true);
                true
            }
            Err(error) => {
                if self.lost == 0 {
                    tracing::error!(%error, "the audit log cannot be written");
                }
                self.lost = self.lost.saturating_add(count as u64);
                false
            }
        }
    }
}
