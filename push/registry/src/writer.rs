//! The one thread that writes. What arrives while it commits is committed together next.

use std::{io, sync::Arc, thread};

use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Error, Fault},
    rules::{Batch, Limits},
    store::Store,
};

/// So many changes are committed together at most.
const MOST_TOGETHER: usize = 512;
/// So many may wait.
const MOST_WAITING: usize = 1024;

/// What the thread is told.
pub(crate) enum Message {
    /// A change.
    Change(Box<dyn Job>),
    /// Reads fail: open the file anew.
    Mend,
    /// Commit what waits, close the file, and say so.
    Close(oneshot::Sender<()>),
}

/// A change and whoever waits for it.
pub(crate) trait Job: Send {
    /// Makes the change in the batch's transaction.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Fault>;
    /// Answers, once the transaction is on disk or has failed.
    fn answer(self: Box<Self>, committed: Result<(), Error>);
}

/// A change made of a function.
pub(crate) struct Change<T, F> {
    work: Option<F>,
    result: Option<Result<T, Error>>,
    waiting: oneshot::Sender<Result<T, Error>>,
}

pub(crate) fn start(store: Arc<Store>, limits: Limits) -> io::Result<mpsc::Sender<Message>> {
    let (queue, messages) = mpsc::channel(MOST_WAITING);
    thread::Builder::new().name("push-registry".to_owned()).spawn(move || run(&store, limits, messages))?;
    Ok(queue)
}

fn run(store: &Store, limits: Limits, mut messages: mpsc::Receiver<Message>) {
    let mut closing = None;
    while closing.is_none()
        && let Some(first) = messages.blocking_recv()
    {
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Change(job) => jobs.push(job),
                Message::Mend => store.mend(),
                Message::Close(closed) => closing = Some(closed),
            }
            if jobs.len() < MOST_TOGETHER && closing.is_none() {
                next = messages.try_recv().ok();
            }
        }
        if jobs.is_empty() {
            continue;
        }
        let committed = commit(store, limits, &mut jobs);
        if let Err(error @ Error::Store { source, .. }) = &committed {
            tracing::error!(%error, reason = %source, changes = jobs.len(), "changes of the registry of devices are lost and refused");
            store.mend();
        }
        for job in jobs {
            job.answer(committed.clone());
        }
    }
    store.close();
    // Whoever still waits gets no answer, and thereby learns that it is closed.
    drop(messages);
    if let Some(closed) = closing {
        let _nobody_waits = closed.send(());
    }
}

/// All or nothing.
fn commit(store: &Store, limits: Limits, jobs: &mut [Box<dyn Job>]) -> Result<(), Error> {
    let counts = store.with("write", |database| {
        let mut txn = database.begin_write()?;
        // The file must open at once after a crash: without this, every page would have to be read.
        txn.set_quick_repair(true);
        let mut batch = Batch::open(&txn, limits)?;
        for job in jobs {
            job.run(&mut batch)?;
        }
        let finished = batch.finish(&txn, &store.counts())?;
        if finished.changed {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        Ok(finished.counts)
    })?;
    if let Some(counts) = counts {
        store.publish(counts);
    }
    Ok(())
}

// === impl Change ===

impl<T, F> Change<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Batch<'_>) -> Result<Result<T, Error>, Fault> + Send + 'static,
{
    /// The change, and where it will be answered.
    pub(crate) fn of(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, Error>>) {
        let (waiting, answer) = oneshot::channel();
        (Box::new(Self { work: Some(work), result: None, waiting }), answer)
    }
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: FnOnce(&mut Batch<'_>) -> Result<Result<T, Error>, Fault> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Fault> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(batch)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>) {
        let answer = match (committed, self.result) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(Error::Closed),
        };
        // Whoever asked may have given up; the change stands.
        let _given_up = self.waiting.send(answer);
    }
}
