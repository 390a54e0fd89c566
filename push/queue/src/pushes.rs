//! The queue as its callers see it.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use push_core::{DeviceId, PushId};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, broadcast, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    commit,
    core::{Core, Hashes, Prepared},
    count::Snapshot,
    history,
    life::{Cancelled, History, Job, Life, Receipt, Refused, State, Watched},
    log::{Log, OpenError},
    options::Options,
    outbox::Synced,
    recover::{Recovered, recover},
    run::{self, Senders, Shared, TokenGone},
};

/// How long a close waits for the disk.
const CLOSE: Duration = Duration::from_secs(10);
/// Histories that are read at the same time.
const READERS: usize = 1;

/// The queue. Clones are the same one; when the last is dropped it stops at once, as in a crash: `close` is the way to end it.
#[derive(Clone)]
pub struct Pushes {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    handle: Handle,
    lanes: Mutex<Vec<JoinHandle<()>>>,
    log: Mutex<Option<JoinHandle<()>>>,
    readers: Semaphore,
    _stop: (DropGuard, DropGuard),
}

/// Steps of pushes as they happen.
#[derive(Debug)]
pub struct Watch {
    receiver: broadcast::Receiver<Arc<Life>>,
}

// === impl Pushes ===

impl Pushes {
    /// Reads what waits in the directory and begins to send it. Blocks until it is read; needs a tokio runtime.
    pub fn open(directory: &Path, options: Options, senders: Senders, gone: Arc<dyn TokenGone>) -> Result<(Self, Recovered), OpenError> {
        let handle = Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
        let mut log = Log::open(directory, &options)?;
        let hashes = Hashes::default();
        let now = options.clock.millis();
        let mut core = Core::new(options.clone());
        core.set_senders(&senders);
        let mut recovered = recover(&log, &mut core, &hashes, now)?;
        recovered.without_sender = core.set_senders(&senders);
        say_without_sender(&recovered.without_sender);
        log.begin_first(now).map_err(|source| OpenError::Io { directory: directory.to_owned(), source })?;
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            options,
            hashes,
            commit: Notify::new(),
            gone,
            directory: directory.to_owned(),
            stop: CancellationToken::new(),
            stop_log: CancellationToken::new(),
        });
        let committing = handle.spawn(commit::run(shared.clone(), log));
        let inner = Inner {
            _stop: (shared.stop.clone().drop_guard(), shared.stop_log.clone().drop_guard()),
            handle,
            lanes: Mutex::default(),
            log: Mutex::new(Some(committing)),
            readers: Semaphore::new(READERS),
            shared,
        };
        inner.run_lanes();
        Ok((Self { inner: Arc::new(inner) }, recovered))
    }

    /// Takes pushes: all of them or, if it is refused, none. It ends when they are on disk; dropping it does not take them back.
    pub async fn accept(&self, jobs: Vec<Job>) -> Result<Vec<Receipt>, Refused> {
        let shared = &self.inner.shared;
        let now = shared.options.clock.millis();
        let (prepared, frames) = Prepared::all(jobs, &shared.hashes, shared.options.most_age);
        let (receipts, wait) = shared.core.lock().admit(prepared, &frames, now)?;
        drop(frames);
        if let Some(wait) = wait {
            shared.commit.notify_one();
            // A disk that does not answer is noticed where it is written to.
            wait.await.map_err(|_| Refused::Closed)?.map_err(Refused::Disk)?;
        }
        Ok(receipts)
    }

    /// Ends a push that waits, and says what became of it otherwise. It is final also after a crash once this returns.
    pub async fn cancel(&self, id: PushId) -> Cancelled {
        let shared = &self.inner.shared;
        let now = shared.options.clock.millis();
        let (found, wait) = shared.core.lock().cancel(id, now);
        if let Some(wait) = wait {
            shared.commit.notify_one();
            if let Err(error) = self.synced(wait).await {
                tracing::warn!(%id, %error, "a cancellation is not on disk yet, the push would be sent after a crash");
            }
        }
        found
    }

    async fn synced(&self, wait: oneshot::Receiver<Synced>) -> Result<(), Refused> {
        // One batch may be under way before the own one.
        let patience = self.inner.shared.options.disk_patience * 2;
        match tokio::time::timeout(patience, wait).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(trouble))) => Err(Refused::Disk(trouble)),
            Ok(Err(_)) => Err(Refused::Closed),
            Err(_) => Err(Refused::Disk(format!("it has not answered for {} s", patience.as_secs()))),
        }
    }

    /// The state of a push that waits or ended lately.
    pub fn state(&self, id: PushId) -> Option<State> {
        self.inner.shared.core.lock().state(id)
    }

    /// What happened to a push, as long as the log is kept.
    pub async fn history(&self, id: PushId) -> io::Result<Option<History>> {
        self.read(move |directory| history::of_push(directory, id)).await
    }

    /// What happened to the last pushes of a device, the newest first.
    pub async fn history_of_device(&self, device: &DeviceId, limit: usize) -> io::Result<Vec<History>> {
        let device = device.clone();
        self.read(move |directory| history::of_device(directory, &device, limit)).await
    }

    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let _turn = self.inner.readers.acquire().await.map_err(io::Error::other)?;
        // The last steps may still be in memory.
        self.flush().await.map_err(io::Error::other)?;
        let directory = self.inner.shared.directory.clone();
        tokio::task::spawn_blocking(move || read(&directory)).await.map_err(io::Error::other)?
    }

    async fn flush(&self) -> Result<(), Refused> {
        let wait = self.inner.shared.core.lock().outbox.wait();
        self.inner.shared.commit.notify_one();
        self.synced(wait).await
    }

    /// Steps from now on.
    pub fn watch(&self) -> Watch {
        Watch { receiver: self.inner.shared.core.lock().watch() }
    }

    /// The queue in numbers.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.inner.shared.options.clock.millis();
        self.inner.shared.core.lock().snapshot(now)
    }

    /// Replaces the senders, after a change of the configuration. What waited because of the old one's trouble goes at once.
    pub fn set_senders(&self, senders: &Senders) {
        let without = self.inner.shared.core.lock().set_senders(senders);
        say_without_sender(&without);
        self.inner.run_lanes();
    }

    /// Begins nothing more, waits until what is under way has ended, but not longer than `patience`, and ends with all on disk.
    pub async fn close(&self, patience: Duration) {
        let Inner { shared, lanes, log, .. } = &*self.inner;
        let notifies: Vec<_> = {
            let mut core = shared.core.lock();
            core.close();
            core.lanes.iter().map(|lane| lane.notify.clone()).collect()
        };
        for notify in notifies {
            notify.notify_one();
        }
        let until = Instant::now() + patience;
        let running = std::mem::take(&mut *lanes.lock());
        for mut lane in running {
            if tokio::time::timeout_at(until, &mut lane).await.is_err() {
                shared.stop.cancel();
                // It ends at the next point where it waits.
                let _ = tokio::time::timeout(CLOSE, lane).await;
            }
        }
        shared.stop.cancel();
        if let Err(error) = tokio::time::timeout(CLOSE, self.flush()).await.unwrap_or(Err(Refused::Closed)) {
            tracing::warn!(%error, "the last steps of pushes are not on disk, some may be sent again");
        }
        shared.stop_log.cancel();
        let committing = log.lock().take();
        if let Some(committing) = committing {
            // Otherwise it hangs on the disk.
            let _ = tokio::time::timeout(CLOSE, committing).await;
        }
    }
}

impl fmt::Debug for Pushes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pushes").field("directory", &self.inner.shared.directory).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    /// Starts the lanes that do not run yet.
    fn run_lanes(&self) {
        let mut running = self.lanes.lock();
        let notifies: Vec<_> = self.shared.core.lock().lanes.iter().map(|lane| lane.notify.clone()).collect();
        for (lane, notify) in (0_u16..).zip(notifies).skip(running.len()) {
            running.push(self.handle.spawn(run::run(self.shared.clone(), lane, notify)));
        }
    }
}

fn say_without_sender(without: &[(push_core::AppName, usize)]) {
    for (app, waiting) in without {
        tracing::warn!(%app, waiting, "pushes wait for an application that is not configured, until their deadlines");
    }
}

// === impl Watch ===

impl Watch {
    /// The next step; `None`: the queue has ended.
    pub async fn next(&mut self) -> Option<Watched> {
        match self.receiver.recv().await {
            Ok(life) => Some(Watched::Life(life)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Watched::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
