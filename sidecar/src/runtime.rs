//! Where work runs: data workers for connections, one control thread for everything else, so that a scrape or a key fetch
//! never delays a request; and the drain that ends both. It knows nothing of what the work is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The two sides. The control side is the thread that calls [`Runtimes::control`].
pub struct Runtimes {
    data: Runtime,
    control: Runtime,
}

impl Runtimes {
    /// Starts `workers` data workers (at least one).
    ///
    /// # Errors
    /// The system's, when no thread can be had.
    pub fn start(workers: usize) -> io::Result<Self> {
        let data = Builder::new_multi_thread()
            .worker_threads(workers.max(1))
            .thread_name("hopguard-data")
            .enable_all()
            .build()?;
        let control = Builder::new_current_thread()
            .thread_name("hopguard-control")
            .enable_all()
            .build()?;
        Ok(Self { data, control })
    }

    /// Where connections are served.
    pub fn data(&self) -> Handle {
        self.data.handle().clone()
    }

    /// Runs the control side on this thread until `work` ends.
    pub fn control<F: Future>(&self, work: F) -> F::Output {
        self.control.block_on(work)
    }

    /// Ends both sides; what still runs is cut after `grace`.
    pub fn stop(self, grace: Duration) {
        self.data.shutdown_timeout(grace);
        self.control.shutdown_timeout(grace);
    }
}

/// How long what is told to end may take to leave its record.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The end of a sidecar, in three steps: every connection is asked to finish what it does and take nothing new; what is left
/// when the time is over is told to end, and leaves its record; what does not is dropped.
#[derive(Clone, Debug)]
pub struct Drain {
    begun: CancellationToken,
    /// Looked at for each request, so it takes no lock.
    over: Arc<AtomicBool>,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self {
            begun: CancellationToken::new(),
            over: Arc::default(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs a connection on `data`; it is waited for when draining, and dropped when cut.
    pub fn spawn<F>(&self, data: &Handle, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cut = self.cut.clone();
        self.tasks.spawn_on(
            async move {
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = connection => {}
                }
            },
            data,
        );
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Resolves when the drain begins.
    pub async fn beginning(&self) {
        self.begun.cancelled().await;
    }

    /// Whether its time is over: what is still open ends now.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Begins, waits at most `grace` for the connections to end, then ends the rest: `wake` has whoever waits look at
    /// [`Self::is_over`]. Returns how many there were.
    pub async fn run(&self, grace: Duration, wake: impl FnOnce()) -> usize {
        self.begun.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.over.store(true, Ordering::Release);
        wake();
        let _dropped = tokio::time::timeout(LAST_WORDS, self.tasks.wait()).await;
        self.cut.cancel();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_and_then_cuts() {
        let drain = Drain::new();
        let asked = drain.clone();
        drain.spawn(&Handle::current(), async move { asked.beginning().await });
        drain.spawn(&Handle::current(), std::future::pending());
        let (wake, woken) = tokio::sync::oneshot::channel();
        let (said, heard) = tokio::sync::oneshot::channel();
        drain.spawn(&Handle::current(), async move {
            let _woken = woken.await;
            let _heard = said.send("a record");
        });
        assert!(!drain.has_begun() && !drain.is_over());
        let wake = || assert_eq!(wake.send(()), Ok(()));
        assert_eq!(drain.run(Duration::from_secs(30), wake).await, 2);
        assert!(drain.has_begun() && drain.is_over());
        assert_eq!(heard.await, Ok("a record"));
    }
}
