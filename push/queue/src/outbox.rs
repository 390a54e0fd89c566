//! What waits for the disk. Stored pushes are waited for and synced; steps of their lives are written soon, and kept if the disk refuses
//! them: without the endings, pushes that were sent would be sent again after a restart.

use push_core::PushId;
use tokio::sync::oneshot;

use crate::index::Ticket;

/// Steps that are worth a write of their own.
const PLENTY: usize = 64 * 1024;
/// Steps kept while the disk refuses; beyond it only endings are, of which there are no more than pushes wait.
const KEPT: usize = 8 << 20;
/// Buffers above it are not kept for the next batch.
const REUSED: usize = 1 << 20;

/// Whether it is on disk; the text says why not.
pub(crate) type Synced = Result<(), String>;

/// A push on its way to the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storing {
    pub(crate) ticket: Ticket,
    /// Of its frame in the batch.
    pub(crate) offset: usize,
    pub(crate) length: u32,
}

/// One write.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) stores: Vec<u8>,
    pub(crate) storing: Vec<Storing>,
    pub(crate) life: Vec<u8>,
    pub(crate) waiters: Vec<oneshot::Sender<Synced>>,
}

/// How soon a write is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Now,
    Soon,
    Never,
}

/// The next write.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    batch: Batch,
    /// An older batch's buffers.
    spare: Batch,
    /// The disk refuses: steps that are no endings may be left out.
    pub(crate) refusing: bool,
}

// === impl Outbox ===

impl Outbox {
    pub(crate) fn wanted(&self) -> Wanted {
        let Batch { stores, life, waiters, .. } = &self.batch;
        if !stores.is_empty() || !waiters.is_empty() || life.len() >= PLENTY {
            Wanted::Now
        } else if life.is_empty() {
            Wanted::Never
        } else {
            Wanted::Soon
        }
    }

    /// Where a stored push is written; its frame begins at the end of it.
    pub(crate) fn store(&mut self, frame: &[u8], ticket: Ticket) {
        let offset = self.batch.stores.len();
        self.batch.stores.extend_from_slice(frame);
        self.batch.storing.push(Storing { ticket, offset, length: frame.len() as u32 });
    }

    /// Where a step is written that can be missed.
    pub(crate) fn step(&mut self) -> Option<&mut Vec<u8>> {
        (!self.refusing || self.batch.life.len() < KEPT).then_some(&mut self.batch.life)
    }

    /// Where an ending is written.
    pub(crate) fn ending(&mut self) -> &mut Vec<u8> {
        &mut self.batch.life
    }

    /// Told when all that is here now is on disk.
    pub(crate) fn wait(&mut self) -> oneshot::Receiver<Synced> {
        let (told, wait) = oneshot::channel();
        self.batch.waiters.push(told);
        wait
    }

    /// Those who wait, to be told that it takes too long.
    pub(crate) fn give_up(&mut self) -> Vec<oneshot::Sender<Synced>> {
        std::mem::take(&mut self.batch.waiters)
    }

    pub(crate) fn take(&mut self) -> Batch {
        std::mem::replace(&mut self.batch, std::mem::take(&mut self.spare))
    }

    /// Its buffers are used again.
    pub(crate) fn give_back(&mut self, mut batch: Batch) {
        let Batch { stores, storing, life, waiters } = &mut batch;
        stores.clear();
        stores.shrink_to(REUSED);
        storing.clear();
        storing.shrink_to(REUSED / size_of::<Storing>());
        life.clear();
        life.shrink_to(REUSED);
        waiters.clear();
        self.spare = batch;
    }

    /// The disk refused the batch: its steps go before those that came since. What was to be stored is taken out.
    pub(crate) fn refused(&mut self, batch: Batch) -> (Vec<Storing>, Vec<oneshot::Sender<Synced>>) {
        let Batch { stores: _, storing, mut life, waiters } = batch;
        life.append(&mut self.batch.life);
        self.batch.life = life;
        self.batch.stores.clear();
        let mut all = storing;
        all.append(&mut self.batch.storing);
        let mut told = waiters;
        told.append(&mut self.batch.waiters);
        self.refusing = true;
        (all, told)
    }
}

/// Endings of pushes that were refused although a part of them may be in a file.
pub(crate) fn revoke(outbox: &mut Outbox, id: PushId, now: u64) {
    crate::record::put_ended(outbox.ending(), id, now, 0, crate::life::State::Dropped, None, None);
}
