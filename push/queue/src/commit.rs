//! Puts batches on disk: whatever came while one was being synced is the next. With nothing under way a push is written at once.
//! Files in which little waits are emptied into the newest, so that a start has little to read.

use std::{sync::Arc, time::Duration};

use push_core::Backoff;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    core::Core,
    index::{Place, Ticket},
    log::{Log, prepare_spare, read_places},
    options::Waits,
    outbox::{Batch, Storing, Synced, Wanted},
    record::{Progress, put_carried, put_ended},
    run::Shared,
};

/// Steps wait so long for company.
const SOON: Duration = Duration::from_millis(2);
/// Steps are synced after so long: a power failure costs no more of them.
const SYNC: Duration = Duration::from_secs(1);
/// Between attempts to write after the disk has refused.
const REFUSED: Waits = Waits { first: Duration::from_millis(500), most: Duration::from_secs(10) };
/// Pushes that are published under one lock.
const PUBLISHED: usize = 256;
/// Files beside those that the waiting pushes fill, before the oldest is emptied.
const SLACK: u64 = 8;
/// Files that are emptied at a time.
const EMPTIED: usize = 2;

/// Runs the log until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, log: Log) {
    let spare = Spare::default();
    let mut committer = Committer { shared, log: Some(log), unsynced: false, synced: Instant::now(), spare, done_before: 0, backoff: None };
    committer.maintain().await;
    while committer.wanted().await {
        if !committer.commit().await {
            break;
        }
    }
    // Nothing is written any more: nobody shall wait for it.
    drop(committer.shared.core.lock().outbox.give_up());
    // It holds the directory's lock: whoever opens the queue next must get it.
    let patience = committer.shared.options.disk_patience;
    committer.spare.end(patience).await;
}

struct Committer {
    shared: Arc<Shared>,
    /// `None` while a thread has it.
    log: Option<Log>,
    /// Something was written and not synced.
    unsynced: bool,
    synced: Instant,
    spare: Spare,
    /// Nothing in the files before this one waits, and all that was to be said about it is written.
    done_before: u32,
    /// The disk refuses.
    backoff: Option<Backoff>,
}

/// The file that is being filled with zeros.
#[derive(Default)]
struct Spare(Option<tokio::task::JoinHandle<std::io::Result<()>>>);

// === impl Committer ===

impl Committer {
    /// Waits until there is something to write; false: the queue ends.
    async fn wanted(&mut self) -> bool {
        let stop = self.shared.stop_log.clone();
        if let Some(backoff) = &mut self.backoff {
            let wait = backoff.next_wait();
            return tokio::select! {
                () = stop.cancelled() => false,
                () = tokio::time::sleep(wait) => true,
            };
        }
        let mut soon = None;
        loop {
            let wanted = self.shared.core.lock().outbox.wanted();
            let until = match wanted {
                Wanted::Now => return !stop.is_cancelled(),
                Wanted::Soon => Some(*soon.get_or_insert_with(|| Instant::now() + SOON)),
                Wanted::Never => self.unsynced.then(|| self.synced + SYNC),
            };
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = self.shared.commit.notified() => {}
                () = sleep => return true,
            }
        }
    }

    /// Writes one batch; false: the runtime ends.
    async fn commit(&mut self) -> bool {
        self.spare.look(&mut self.log).await;
        let Some(mut log) = self.log.take() else { return false };
        let (mut batch, oldest) = {
            let mut core = self.shared.core.lock();
            (core.outbox.take(), core.oldest_segment().map(|(oldest, _)| oldest))
        };
        let mut waiters = std::mem::take(&mut batch.waiters);
        let current = log.current().unwrap_or(0);
        let due = self.unsynced && self.synced.elapsed() >= SYNC;
        let sync = due || !batch.stores.is_empty() || !waiters.is_empty() || self.backoff.is_some();
        let now = self.shared.options.clock.millis();
        let writing = tokio::task::spawn_blocking(move || {
            let result = log.write(&batch, sync, now);
            (log, batch, result)
        });
        let Some((log, mut batch, result)) = self.patiently(writing, &mut waiters).await else { return false };
        batch.waiters = waiters;
        let begun = match result {
            Ok(placed) => {
                if sync {
                    (self.unsynced, self.synced) = (false, Instant::now());
                    self.shared.core.lock().sync.add(placed.took);
                } else {
                    self.unsynced = true;
                }
                // The endings of all that no longer waits are in this batch or in one before it.
                self.done_before = oldest.map_or(current, |oldest| oldest.min(current));
                self.shared.core.lock().disk_bytes = log.bytes();
                self.published(batch, placed.segment, placed.base);
                placed.begun
            }
            Err(error) => {
                self.refused(batch, &error.to_string());
                false
            }
        };
        self.log = Some(log);
        if begun {
            self.maintain().await;
        }
        true
    }

    /// Waits for a write; when it takes too long, all who wait are told so, and nothing is accepted until it ends. That is the deadline of
    /// those who hand pushes in: one for all of them.
    async fn patiently<T>(&self, mut writing: tokio::task::JoinHandle<T>, waiters: &mut Vec<oneshot::Sender<Synced>>) -> Option<T> {
        let patience = self.shared.options.disk_patience;
        if let Ok(written) = tokio::time::timeout(patience, &mut writing).await {
            return written.ok();
        }
        let trouble = format!("the disk has not answered for {} s", patience.as_secs());
        tracing::error!(trouble, "the push queue cannot be written, nothing is accepted");
        waiters.append(&mut self.shared.core.lock().hangs(&trouble));
        for waiter in waiters.drain(..) {
            // Who no longer waits need not know.
            let _ = waiter.send(Err(trouble.clone()));
        }
        let written = writing.await.ok();
        self.shared.core.lock().mended();
        tracing::info!("the push queue is written again");
        written
    }

    fn published(&mut self, mut batch: Batch, segment: u32, base: u64) {
        if self.backoff.take().is_some() {
            self.shared.core.lock().mended();
            tracing::info!("the push queue is written again");
        }
        let now = self.shared.options.clock.millis();
        for some in batch.storing.chunks(PUBLISHED) {
            let lanes = self.shared.core.lock().publish(some, segment, base, now);
            for lane in lanes {
                lane.notify_one();
            }
        }
        for waiter in batch.waiters.drain(..) {
            // Who no longer waits need not know.
            let _ = waiter.send(Ok(()));
        }
        self.shared.core.lock().outbox.give_back(batch);
    }

    fn refused(&mut self, batch: Batch, trouble: &str) {
        let now = self.shared.options.clock.millis();
        self.shared.core.lock().refuse(batch, trouble, now);
        if self.backoff.is_none() {
            tracing::error!(trouble, "the push queue cannot be written, nothing is accepted");
            self.backoff = Some(Backoff::new(REFUSED.first, REFUSED.most));
        }
    }

    /// After a new file has begun: old ones are emptied, kept or removed, and the next one is prepared.
    async fn maintain(&mut self) {
        let emptied = self.empty().await;
        let Some(mut log) = self.log.take() else { return };
        let oldest = self.done_before;
        let now = self.shared.options.clock.millis();
        let retiring = tokio::task::spawn_blocking(move || {
            // What could not be emptied keeps its name, whatever the index says.
            let result = if emptied { log.retire(oldest, now) } else { Ok(()) };
            (log, result)
        });
        let Some((log, result)) = self.patiently(retiring, &mut Vec::new()).await else { return };
        if let Err(error) = result {
            tracing::warn!(%error, "old files of the push queue cannot be put away");
        }
        self.shared.core.lock().disk_bytes = log.bytes();
        self.spare.begin(&log);
        self.log = Some(log);
    }

    /// Moves what waits in the oldest files to the newest, if much else lies behind it; false: that failed.
    async fn empty(&mut self) -> bool {
        for _ in 0..EMPTIED {
            let Some(log) = &self.log else { return false };
            let Some(pushes) = oldest_to_empty(&self.shared.core.lock(), log) else { return true };
            if !self.carry(pushes).await {
                return false;
            }
        }
        true
    }

    /// Moves pushes to the newest file.
    async fn carry(&mut self, pushes: Vec<(Ticket, Place, Progress, bool)>) -> bool {
        let Some(mut log) = self.log.take() else { return false };
        let now = self.shared.options.clock.millis();
        let carrying = tokio::task::spawn_blocking(move || {
            let places: Vec<Place> = pushes.iter().map(|(_, place, ..)| *place).collect();
            let mut batch = Batch::default();
            let mut moves = Vec::with_capacity(pushes.len());
            read_places(log.directory(), &places, |index, record| {
                let Some((ticket, place, progress, cancelled)) = pushes.get(index).copied() else { return };
                let offset = batch.stores.len();
                let length = put_carried(&mut batch.stores, record, progress);
                moves.push((place, Storing { ticket, offset, length }));
                if cancelled {
                    // It must not come to life again: its ending is in a file that a start does not read.
                    let reason = push_core::Reason::known("cancelled");
                    let state = crate::life::State::Dropped;
                    put_ended(&mut batch.stores, record.id, now, progress.attempts, state, Some(&reason), None);
                }
            });
            let all = moves.len() == pushes.len();
            let result = log.write(&batch, true, now);
            (log, moves, all, result)
        });
        let Some((log, moves, all, result)) = self.patiently(carrying, &mut Vec::new()).await else { return false };
        self.log = Some(log);
        match result {
            Ok(placed) => {
                for some in moves.chunks(PUBLISHED) {
                    let mut core = self.shared.core.lock();
                    for (from, Storing { ticket, offset, length }) in some {
                        let offset = u32::try_from(placed.base + *offset as u64).unwrap_or(u32::MAX);
                        core.moved(*ticket, *from, Place { segment: placed.segment, offset, length: *length });
                    }
                }
                if !all {
                    tracing::error!("waiting pushes cannot be read back from an old file of the push queue");
                }
                all
            }
            Err(error) => {
                self.refused(Batch::default(), &error.to_string());
                false
            }
        }
    }
}

/// What waits in the oldest file, if too much else lies behind it.
fn oldest_to_empty(core: &Core, log: &Log) -> Option<Vec<(Ticket, Place, Progress, bool)>> {
    let (oldest, _) = core.oldest_segment().filter(|(oldest, _)| Some(*oldest) != log.current())?;
    let waiting: u64 = core.segments.values().map(|holds| holds.bytes).sum();
    (log.bytes_from(oldest) > 2 * waiting + SLACK * log.segment_bytes()).then(|| core.waiting_in(oldest))
}

// === impl Spare ===

impl Spare {
    /// Begins to fill one, if there is none.
    fn begin(&mut self, log: &Log) {
        if self.0.is_none() && !log.spare {
            let (directory, bytes, lock) = (log.directory().to_owned(), log.segment_bytes(), log.lock());
            self.0 = Some(tokio::task::spawn_blocking(move || {
                let result = prepare_spare(&directory, bytes);
                drop(lock);
                result
            }));
        }
    }

    /// Waits until nothing is being filled any more, but not for a disk that does not answer.
    async fn end(&mut self, patience: Duration) {
        if let Some(filling) = self.0.take() {
            let _late = tokio::time::timeout(patience, filling).await;
        }
    }

    /// Whether it is there.
    async fn look(&mut self, log: &mut Option<Log>) {
        let Some(filling) = self.0.take_if(|filling| filling.is_finished()) else { return };
        match (filling.await, log) {
            (Ok(Ok(())), Some(log)) => log.spare = true,
            // Without it writes are slower; the next file tries again.
            (result, _) => tracing::warn!(?result, "cannot prepare the next file of the push queue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{Gone, Options, Telling, TokenGone, Verdict};

    struct Nobody;

    impl TokenGone for Nobody {
        fn token_gone(&self, _: Gone) -> Telling {
            Box::pin(std::future::ready(Verdict::Gone))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_disk_that_hangs_are_told_and_nothing_is_taken_until_it_answers() {
        let options = Options::default();
        let patience = options.disk_patience;
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(options.clone())),
            options,
            hashes: Default::default(),
            commit: Default::default(),
            gone: Arc::new(Nobody),
            directory: Default::default(),
            stop: CancellationToken::new(),
            stop_log: CancellationToken::new(),
        });
        let (synced, spare) = (Instant::now(), Spare::default());
        let committer = Committer { shared: shared.clone(), log: None, unsynced: false, synced, spare, done_before: 0, backoff: None };
        let (under_way, told) = oneshot::channel();
        let told_next = shared.core.lock().outbox.wait();
        let (answer, answered) = oneshot::channel();
        let disk = tokio::spawn(async { answered.await.unwrap() });
        let writing = tokio::spawn(async move { committer.patiently(disk, &mut vec![under_way]).await });
        let trouble = told.await.unwrap().unwrap_err();
        assert_eq!(told_next.await.unwrap(), Err(trouble.clone()), "of the write that would be next, too");
        assert!(synced.elapsed() <= patience + Duration::from_millis(1));
        assert_eq!(shared.core.lock().snapshot(0).disk_trouble, Some(trouble));
        answer.send(7).unwrap();
        assert_eq!(writing.await.unwrap(), Some(7));
        assert_eq!(shared.core.lock().snapshot(0).disk_trouble, None);
    }
}
