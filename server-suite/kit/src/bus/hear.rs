//! What every copy hears: without a promise that nothing is missed, but with the promise that one is told when something may have been.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::sync::mpsc;

use super::{
    Event, Inner,
    broker::{self, within},
    event::takes,
    wait::Backoff,
};

/// What a listener may be behind before it is told to take stock anew.
const BEHIND: usize = 4096;
/// What RabbitMQ keeps for a copy that does not read; the oldest go first.
const KEPT: i32 = 50_000;

/// What a listener is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// From here on everything is heard; what was before may have been missed. The first thing that is heard, and again after a lost
    /// connection or when the listener was too slow.
    Anew,
    /// It has happened.
    Event(Arc<Event>),
}

/// A listener.
pub struct Hearing {
    receiver: mpsc::Receiver<Heard>,
}

/// The bus's end of it.
pub(super) struct Ear {
    topics: Vec<String>,
    sender: mpsc::Sender<Heard>,
    /// Something may have been missed that it has not been told.
    behind: AtomicBool,
}

impl Hearing {
    /// The next thing; none: the bus has ended. Nothing is lost if this is dropped before it ends.
    pub async fn next(&mut self) -> Option<Heard> {
        self.receiver.recv().await
    }
}

impl Ear {
    pub(super) fn new(topics: &[&str]) -> (Arc<Self>, Hearing) {
        let (sender, receiver) = mpsc::channel(BEHIND);
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        (Arc::new(Self { topics, sender, behind: AtomicBool::new(false) }), Hearing { receiver })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn wants(&self, topic: &str) -> bool {
        self.topics.iter().any(|pattern| takes(pattern, topic))
    }

    /// Tells of an event if it wants it and has room.
    pub(super) fn tell(&self, inner: &Inner, event: &Arc<Event>) {
        if !inner.domains.contains(&event.domain) || !self.wants(&event.topic) {
            return;
        }
        if self.behind.load(Ordering::Relaxed) {
            self.anew(inner);
        }
        // As long as it has not been told that it missed something, what comes after would mislead it.
        if !self.behind.load(Ordering::Relaxed) && self.sender.try_send(Heard::Event(event.clone())).is_err() {
            self.behind.store(true, Ordering::Relaxed);
        }
    }

    /// Something may have been missed.
    pub(super) fn anew(&self, inner: &Inner) {
        // Room for what is to be told after it as well: one who is slow is not told over and over.
        let room = self.sender.capacity() > BEHIND / 2;
        let told = room && self.sender.try_send(Heard::Anew).is_ok();
        self.behind.store(!told, Ordering::Relaxed);
        if told {
            inner.counts.missed.inc();
        }
    }

    /// Listens at RabbitMQ, in a queue of its own that goes with the connection.
    pub(super) async fn listen(self: Arc<Self>, inner: Arc<Inner>) {
        let mut backoff = Backoff::default();
        while let Err(why) = self.consume(&inner, &mut backoff).await {
            if let Some(broker) = &inner.broker {
                broker.consuming.lost(&why);
            }
            if self.is_gone() || !backoff.wait(&inner.stop).await {
                return;
            }
        }
    }

    async fn consume(&self, inner: &Inner, backoff: &mut Backoff) -> Result<(), String> {
        let Some(broker) = &inner.broker else { return Ok(()) };
        let Some(channel) = inner.stop.run_until_cancelled(broker.consuming.channel()).await else { return Ok(()) };
        let channel = channel?;
        broker::declare_exchanges(&channel).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(KEPT));
        let queue = within(channel.queue_declare("".into(), options, arguments)).await?.name().clone();
        for topic in &self.topics {
            broker::bind(&channel, queue.as_str(), broker::EVENTS, topic).await?;
        }
        let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut deliveries = within(channel.basic_consume(queue, "".into(), unacknowledged, FieldTable::default())).await?;
        *backoff = Backoff::default();
        self.anew(inner);
        loop {
            let next = tokio::select! {
                () = inner.stop.cancelled() => return Ok(()),
                () = self.sender.closed() => return Ok(()),
                next = deliveries.next() => next,
                why = broker::closed(&channel) => return Err(why),
            };
            let delivery = next.ok_or("the queue was taken away")?.map_err(|error| broker::told(&error))?;
            match serde_json::from_slice::<Event>(&delivery.data) {
                Ok(event) => self.tell(inner, &Arc::new(event)),
                Err(error) => tracing::debug!(%error, "a message is no event"),
            }
        }
    }
}
