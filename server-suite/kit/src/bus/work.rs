//! Work queues: an event is handled once, in one SQL transaction with the note that it was. What cannot be handled becomes a dead letter
//! and the next one goes on; what cannot be handled only now, since the database is away, waits.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions},
    types::FieldTable,
};
use tokio::time::timeout;

use super::{
    Event, Inner, Transaction,
    broker::{self, within},
    counts::of,
    store::Bound,
    wait::Backoff,
};

/// How long a handler may take.
const HANDLING: Duration = Duration::from_secs(60);
/// How often the database's queues are looked into when nothing wakes us.
const POLL: Duration = Duration::from_secs(1);

/// Does the work of a queue.
pub trait Handler: Send + Sync + 'static {
    /// Handles one event. What is written through the transaction is kept if and only if the event counts as handled; what is done beside
    /// it may be done again. It has a minute.
    fn handle(&self, event: &Event, transaction: &mut Transaction) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Why an event could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is the event: after some attempts it becomes a dead letter.
    #[error("{0}")]
    Event(String),
    /// It is not the event, but the database or somebody else who is needed: it waits, for as long as it takes.
    #[error("{0}")]
    Later(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let text = elph_shell::told(&error);
        if passes(&error) { Self::Later(text) } else { Self::Event(text) }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Event(format!("the body is not as expected: {error}"))
    }
}

/// Whether an error has to do with the database being away or busy and not with what it was asked.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        // PostgreSQL: connections, rollbacks for others' sake, resources, shutting down; SQLite: busy and locked.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "40", "53", "57"].iter().any(|class| code.len() == 5 && code.starts_with(class))
                || ["5", "6", "261", "517"].contains(&code.as_ref())
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}

/// What became of an event.
enum Verdict {
    /// It is not needed any more.
    Done,
    /// A dead letter, and why.
    Dead(String),
    /// We end; it is for the next one.
    Stopped,
}

/// A queue with its handler.
pub(super) struct Work<H> {
    pub(super) inner: Arc<Inner>,
    pub(super) bound: Bound,
    pub(super) handler: H,
}

impl<H: Handler> Work<H> {
    pub(super) async fn run(self) {
        if self.inner.broker.is_some() { self.at_broker().await } else { self.at_database().await }
    }

    /// Until it is handled, dead, or we end.
    async fn settle(&self, event: &Event) -> Verdict {
        let (counts, queue) = (&self.inner.counts, &self.bound.queue);
        if !self.inner.domains.contains(&event.domain) {
            counts.foreign.get_or_create(&of(queue)).inc();
            return Verdict::Done;
        }
        let (mut attempts, mut backoff, mut told) = (0, Backoff::default(), false);
        loop {
            match self.attempt(event).await {
                Ok(first) => {
                    (if first { &counts.handled } else { &counts.repeated }).get_or_create(&of(queue)).inc();
                    return Verdict::Done;
                }
                Err(Fault::Event(why)) => {
                    attempts += 1;
                    counts.failed.get_or_create(&of(queue)).inc();
                    if attempts >= self.inner.settings.attempts {
                        return Verdict::Dead(why);
                    }
                    tracing::debug!(queue, id = %event.id, topic = event.topic, error = why, "an event could not be handled; it is tried again");
                }
                Err(Fault::Later(why)) => {
                    if !told {
                        tracing::warn!(queue, error = why, "events wait for what handling them needs");
                    }
                    told = true;
                }
            }
            if !backoff.wait(&self.inner.stop).await {
                return Verdict::Stopped;
            }
        }
    }

    /// Handles an event; false: it was handled before.
    async fn attempt(&self, event: &Event) -> Result<bool, Fault> {
        let store = &self.inner.store;
        let mut transaction = store.begin().await?;
        let first = store.first(&mut transaction, &self.bound.queue, event.id).await?;
        if first {
            match timeout(HANDLING, self.handler.handle(event, &mut transaction)).await {
                Ok(handled) => handled?,
                Err(_) => return Err(Fault::Event(format!("handling took longer than {} s", HANDLING.as_secs()))),
            }
        }
        if self.inner.broker.is_none() {
            store.dequeue(&mut transaction, &self.bound.queue, event.id).await?;
        }
        // A commit whose answer is lost is found in the inbox the next time.
        transaction.commit().await.map_err(|error| Fault::Later(elph_shell::told(&error)))?;
        if first {
            self.inner.wake.notify_one();
        }
        Ok(first)
    }

    fn died(&self, event: &Event, why: &str) {
        let queue = &self.bound.queue;
        self.inner.counts.dead.get_or_create(&of(queue)).inc();
        tracing::error!(queue, id = %event.id, topic = event.topic, domain = event.domain, error = why, "an event became a dead letter");
    }

    // --- RabbitMQ

    async fn at_broker(&self) {
        let mut backoff = Backoff::default();
        while let Err(why) = self.consume(&mut backoff).await {
            if let Some(broker) = &self.inner.broker {
                broker.consuming.lost(&why);
            }
            if !backoff.wait(&self.inner.stop).await {
                return;
            }
        }
    }

    /// Until we end, or something goes wrong.
    async fn consume(&self, backoff: &mut Backoff) -> Result<(), String> {
        let Some(broker) = &self.inner.broker else { return Ok(()) };
        let Some(channel) = self.inner.stop.run_until_cancelled(broker.consuming.channel()).await else { return Ok(()) };
        let channel = channel?;
        broker::declare_exchanges(&channel).await?;
        broker::declare(&channel, &self.bound).await?;
        within(channel.basic_qos(self.inner.settings.prefetch, BasicQosOptions::default())).await?;
        let queue = self.bound.queue.as_str();
        let consume = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut deliveries = within(consume).await?;
        *backoff = Backoff::default();
        loop {
            let next = tokio::select! {
                () = self.inner.stop.cancelled() => return Ok(()),
                next = deliveries.next() => next,
                why = broker::closed(&channel) => return Err(why),
            };
            let delivery = next.ok_or("the queue was taken away")?.map_err(|error| broker::told(&error))?;
            if !self.delivered(&delivery).await? {
                return Ok(());
            }
        }
    }

    /// False: we end.
    async fn delivered(&self, delivery: &Delivery) -> Result<bool, String> {
        let event: Event = match serde_json::from_slice(&delivery.data) {
            Ok(event) => event,
            Err(error) => {
                let queue = &self.bound.queue;
                self.inner.counts.dead.get_or_create(&of(queue)).inc();
                tracing::error!(queue, %error, "a message that is no event became a dead letter");
                within(delivery.acker.reject(BasicRejectOptions { requeue: false })).await?;
                return Ok(true);
            }
        };
        match self.settle(&event).await {
            Verdict::Done => within(delivery.acker.ack(BasicAckOptions::default())).await?,
            Verdict::Dead(why) => {
                self.died(&event, &why);
                within(delivery.acker.reject(BasicRejectOptions { requeue: false })).await?
            }
            // Not acknowledged: RabbitMQ gives it to another, or to us again.
            Verdict::Stopped => return Ok(false),
        };
        Ok(true)
    }

    // --- the database

    async fn at_database(&self) {
        let (mut backoff, mut queued) = (Backoff::default(), self.inner.queued.subscribe());
        while !self.inner.stop.is_cancelled() {
            queued.mark_unchanged();
            let events = match self.inner.store.queued(&self.bound.queue, self.inner.settings.prefetch.into()).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::debug!(queue = self.bound.queue, error = elph_shell::told(&error), "the queue cannot be read");
                    backoff.wait(&self.inner.stop).await;
                    continue;
                }
            };
            backoff = Backoff::default();
            if events.is_empty() {
                tokio::select! {
                    () = self.inner.stop.cancelled() => return,
                    _ = queued.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
            for event in &events {
                let settled = match self.settle(event).await {
                    // It is out of the queue already, unless its domain is not ours.
                    Verdict::Done if self.inner.domains.contains(&event.domain) => Ok(()),
                    Verdict::Done => self.put_away(event, None).await,
                    Verdict::Dead(why) => {
                        self.died(event, &why);
                        self.put_away(event, Some(&why)).await
                    }
                    Verdict::Stopped => return,
                };
                if let Err(error) = settled {
                    tracing::warn!(queue = self.bound.queue, error = elph_shell::told(&error), "an event stays in its queue");
                    backoff.wait(&self.inner.stop).await;
                    break;
                }
            }
        }
    }

    async fn put_away(&self, event: &Event, dead: Option<&str>) -> Result<(), sqlx::Error> {
        let (store, queue) = (&self.inner.store, &self.bound.queue);
        let mut transaction = store.begin().await?;
        match dead {
            Some(why) => store.bury(&mut transaction, queue, event, why).await?,
            None => store.dequeue(&mut transaction, queue, event.id).await?,
        }
        transaction.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_not_blamed_for_a_database_that_is_away() {
        let away = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(Fault::from(away), Fault::Later(_)));
        assert!(matches!(Fault::from(sqlx::Error::PoolTimedOut), Fault::Later(_)));
        assert!(matches!(Fault::from(sqlx::Error::RowNotFound), Fault::Event(_)));
    }
}
