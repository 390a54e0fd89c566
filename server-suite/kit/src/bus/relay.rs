//! Brings events out of the database to where they are wanted. Each copy looks after the events that it published itself, in their order,
//! and after those of copies whose lease is over. Deleted is what is surely out: what is published again is recognised by its id.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Event, Inner,
    broker::{self, Publisher},
    store::Bound,
    wait::Backoff,
};

/// Events that are on their way at the same time.
const BATCH: i64 = 256;
/// How often the outbox is looked into when nothing wakes us.
const POLL: Duration = Duration::from_secs(1);
/// Signs of life, and for how long each is good. Two of three may be lost.
const LIVES: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(10);
/// How often what was handled long ago is forgotten.
const FORGETS: Duration = Duration::from_secs(3600);
/// How long the last events are given when we end.
const LAST: Duration = Duration::from_secs(5);

/// How long services may still tell fleeting events when we end.
const LINGER: Duration = Duration::from_millis(500);

/// What a copy does for its events.
pub(super) struct Relay {
    inner: Arc<Inner>,
    publisher: Option<Publisher>,
    lived: Option<Instant>,
    forgot: Option<Instant>,
}

impl Relay {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, publisher: None, lived: None, forgot: None }
    }

    pub(super) async fn run(mut self) {
        let (mut backoff, stop) = (Backoff::default(), self.inner.stop.clone());
        while !stop.is_cancelled() {
            match self.turn().await {
                // There may be more.
                Ok(sent) if sent > 0 => backoff = Backoff::default(),
                Ok(_) => {
                    backoff = Backoff::default();
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.inner.wake.notified() => {}
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
                Err(why) => {
                    tracing::debug!(error = why, "events wait in the outbox");
                    backoff.wait(&stop).await;
                }
            }
        }
        self.end().await;
    }

    /// What there is still to send, in a little time; then others may have what is left.
    async fn end(&mut self) {
        let all = async { while matches!(self.pass().await, Ok(sent) if sent > 0) {} };
        let _late = tokio::time::timeout(LAST, all).await;
        if let Err(error) = self.inner.store.leave(&self.inner.copy).await {
            tracing::debug!(error = elph_shell::told(&error), "the lease ends by itself");
        }
    }

    async fn turn(&mut self) -> Result<usize, String> {
        if self.lived.is_none_or(|at| at.elapsed() >= LIVES) {
            self.live().await.map_err(|error| elph_shell::told(&error))?;
            self.lived = Some(Instant::now());
        }
        self.pass().await
    }

    async fn live(&mut self) -> Result<(), sqlx::Error> {
        let Inner { store, copy, counts, .. } = &*self.inner;
        store.live(copy, LEASE).await?;
        let adopted = store.adopt(copy).await?;
        if adopted > 0 {
            counts.adopted.inc_by(adopted);
            tracing::info!(events = adopted, "events of a copy that has ended are taken over");
        }
        let waiting = store.waiting().await?;
        counts.waiting.set(waiting.events);
        let age = waiting.since.map_or(0.0, |since| Timestamp::now().duration_since(since).as_secs_f64());
        counts.oldest.set(age.max(0.0));
        if self.forgot.is_none_or(|at| at.elapsed() >= FORGETS) {
            store.forget(self.inner.settings.remember.0).await?;
            self.forgot = Some(Instant::now());
        }
        Ok(())
    }

    /// Sends the next events of this copy; how many.
    async fn pass(&mut self) -> Result<usize, String> {
        let lost = |error: sqlx::Error| elph_shell::told(&error);
        // Also when there is nothing to send: who asks whether we are ready is to know.
        self.publisher = self.publisher.take().filter(Publisher::is_open);
        if self.inner.broker.is_some() && self.publisher.is_none() {
            let inner = self.inner.clone();
            let Some(broker) = &inner.broker else { return Ok(0) };
            let opened = Publisher::open(&broker.publishing).await;
            self.inner.counts.connected.set(i64::from(opened.is_ok()));
            self.publisher = Some(opened.inspect_err(|why| broker.publishing.lost(why))?);
        }
        let events = self.inner.store.next(&self.inner.copy, BATCH).await.map_err(lost)?;
        if events.is_empty() {
            return Ok(0);
        }
        match self.publisher.take() {
            Some(mut publisher) => {
                // Read after the events: whoever waits for one of them has written down before that it does.
                publisher.declare(self.inner.store.bound().await.map_err(lost)?).await?;
                self.send(publisher, &events).await
            }
            None => self.deliver(events).await.map_err(lost),
        }
    }

    async fn send(&mut self, publisher: Publisher, events: &[Event]) -> Result<usize, String> {
        let lost = |error: sqlx::Error| elph_shell::told(&error);
        let (inner, mut sent) = (self.inner.clone(), publisher.publish(events).await);
        if !sent.returned.is_empty() {
            // A queue that is wanted and not there yet, or not any more, is made; the event waits for it.
            let bound = inner.store.bound().await.map_err(lost)?;
            for event in events.iter().filter(|event| sent.returned.contains(&event.id)) {
                if bound.iter().any(|bound| bound.wants(&event.topic)) {
                    sent.error = Some("a queue was missing".to_owned());
                } else {
                    sent.confirmed.push(event.id);
                    inner.counts.unrouted.inc();
                }
            }
        }
        match (&sent.error, &inner.broker) {
            (Some(why), Some(broker)) => {
                broker.publishing.lost(why);
                inner.counts.connected.set(0);
            }
            _ => self.publisher = Some(publisher),
        }
        if !sent.confirmed.is_empty() {
            let deleted = async {
                let mut transaction = inner.store.begin().await?;
                inner.store.sent(&mut transaction, &sent.confirmed).await?;
                transaction.commit().await
            };
            deleted.await.map_err(lost)?;
        }
        inner.counts.published.inc_by(sent.confirmed.len() as u64);
        sent.error.map_or(Ok(sent.confirmed.len()), Err)
    }

    /// From the outbox into the queues of the database, in one transaction.
    async fn deliver(&mut self, events: Vec<Event>) -> Result<usize, sqlx::Error> {
        let inner = &self.inner;
        let bound = inner.store.bound().await?;
        let mut routes: HashMap<&str, Vec<&Bound>> = HashMap::new();
        for event in &events {
            let wanted = || bound.iter().filter(|bound| bound.wants(&event.topic)).collect();
            routes.entry(&event.topic).or_insert_with(wanted);
        }
        let mut transaction = inner.store.begin().await?;
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        inner.store.sent(&mut transaction, &ids).await?;
        let mut unrouted = 0;
        for event in &events {
            let queues = routes.get(event.topic.as_str()).map(Vec::as_slice).unwrap_or_default();
            for bound in queues {
                inner.store.enqueue(&mut transaction, &bound.queue, event).await?;
            }
            unrouted += u64::from(queues.is_empty() && !inner.is_heard(&event.topic));
        }
        transaction.commit().await?;
        inner.counts.published.inc_by(ids.len() as u64);
        inner.counts.unrouted.inc_by(unrouted);
        for event in events {
            inner.tell_here(&Arc::new(event));
        }
        inner.queued.send_replace(());
        Ok(ids.len())
    }
}

/// Sends fleeting events to RabbitMQ as they come; what does not get out at once is dropped.
pub(super) async fn tell(inner: Arc<Inner>, mut told: mpsc::Receiver<Event>) {
    let Some(broker) = &inner.broker else { return };
    let (mut channel, mut backoff) = (None, Backoff::default());
    loop {
        let next = tokio::select! {
            next = told.recv() => next,
            // What services have to say at their end comes at once.
            () = after(&inner.stop, LINGER) => None,
        };
        let Some(event) = next else { break };
        if channel.is_none() {
            match broker.publishing.channel().await {
                Ok(opened) => {
                    if broker::declare_exchanges(&opened).await.is_ok() {
                        (channel, backoff) = (Some(opened), Backoff::default());
                    }
                }
                Err(why) => tracing::debug!(error = why, "a fleeting event is dropped"),
            }
        }
        let sent = match &channel {
            Some(open) => broker::publish(open, broker::EVENTS, &event.topic, &event, false).await.map(drop),
            None => Err("rabbitmq is away".to_owned()),
        };
        if sent.is_err() {
            inner.counts.untold.inc();
            channel = None;
            backoff.wait(&inner.stop).await;
        }
    }
    broker.publishing.close().await;
}

async fn after(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}
