//! The event bus between services and between copies of the server. An event is published in the SQL transaction of what it tells of and
//! is out when that is committed: never one without the other. Where it goes is either this process with queues in the database, or, with
//! `[bus] url`, RabbitMQ; services see no difference.
//!
//! - [`Bus::publish`] – durable: it reaches every work queue that wants its topic, once each, also over crashes of anybody.
//! - [`Bus::work`] – a work queue of a service; its copies share the work. Handled once, or a dead letter after some attempts.
//! - [`Bus::hear`] – every copy hears it. Nothing is promised but that one is told when something may have been missed.
//! - [`Bus::tell`] – fleeting: what only listeners need, and only now. It costs no SQL.
//!
//! Order: a queue gets the events of one copy in the order in which they were made; several copies that work on one queue work side by side.

mod broker;
mod counts;
pub mod dead;
mod event;
mod hear;
mod relay;
mod settings;
mod store;
mod wait;
mod work;

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use sqlx::Any;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    broker::Link,
    counts::Counts,
    hear::Ear,
    relay::Relay,
    store::{Bound, Store},
    work::Work,
};
pub use self::{
    event::Event,
    hear::{Heard, Hearing},
    settings::BusSettings,
    store::migrate,
    work::{Fault, Handler},
};
use crate::{
    database::{Database, DatabaseError},
    metrics::Metrics,
};

/// Fleeting events on their way to RabbitMQ.
const FLEETING: usize = 4096;
/// What begins the name of every queue.
const PREFIX: &str = "elph.";

/// A SQL transaction that may outlive who began it.
pub type Transaction = sqlx::Transaction<'static, Any>;

/// The bus. Clones are the same one.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    settings: BusSettings,
    store: Store,
    copy: String,
    domains: HashSet<String>,
    broker: Option<Broker>,
    counts: Counts,
    /// There is something in the outbox.
    wake: Notify,
    /// There is something in a queue of the database.
    queued: watch::Sender<()>,
    /// Listeners, where there is no RabbitMQ.
    ears: Mutex<Vec<Arc<Ear>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Broker {
    publishing: Link,
    consuming: Link,
    told: mpsc::Sender<Event>,
}

/// Why an event cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The event itself: a fault of the program.
    #[error("an event cannot be published: {0}")]
    Unfit(String),
    /// The database.
    #[error("an event cannot be written down")]
    Database(#[from] sqlx::Error),
}

// === impl Bus ===

impl Bus {
    /// Brings the tables up to date and begins to send what waits. RabbitMQ need not be there yet. `domains` are the tenants: events of
    /// others are not delivered. The tasks end after `stop`.
    pub async fn open(
        settings: &BusSettings,
        database: &Database,
        domains: impl IntoIterator<Item = String>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, DatabaseError> {
        let store = Store::open(database).await?;
        let (told, fleeting) = mpsc::channel(FLEETING);
        let link = |purpose| Link::new(settings.clone(), purpose);
        let broker = settings.url.is_some().then(|| Broker { publishing: link("publishing"), consuming: link("consuming"), told });
        let inner = Arc::new(Inner {
            settings: settings.clone(),
            store,
            copy: Uuid::now_v7().simple().to_string(),
            domains: domains.into_iter().collect(),
            broker,
            counts: Counts::new(metrics),
            wake: Notify::new(),
            queued: watch::Sender::new(()),
            ears: Mutex::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        inner.counts.connected.set(i64::from(inner.broker.is_none()));
        tasks.spawn(Relay::new(inner.clone()).run());
        if inner.broker.is_some() {
            tasks.spawn(relay::tell(inner.clone(), fleeting));
        }
        Ok(Self { inner })
    }

    /// Names this copy of the server, anew with each start.
    pub fn copy(&self) -> &str {
        &self.inner.copy
    }

    /// Whether there may be other copies.
    pub fn is_shared(&self) -> bool {
        self.inner.broker.is_some()
    }

    /// Begins a transaction in which events can be published.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.inner.store.begin().await
    }

    /// Publishes an event when the transaction is committed. Do the writing before: SQLite takes no transaction that only becomes a writer
    /// here after it has read.
    pub async fn publish(&self, transaction: &mut Transaction, event: &Event) -> Result<(), PublishError> {
        self.publish_all(transaction, std::slice::from_ref(event)).await
    }

    /// Publishes several, in this order.
    pub async fn publish_all(&self, transaction: &mut Transaction, events: &[Event]) -> Result<(), PublishError> {
        if let Some(unfit) = events.iter().find_map(|event| self.unfit(event)) {
            return Err(PublishError::Unfit(unfit));
        }
        Ok(self.inner.store.put(transaction, &self.inner.copy, events).await?)
    }

    /// Commits, and sends at once what was published. After a commit in another way it is sent within a second.
    pub async fn commit(&self, transaction: Transaction) -> Result<(), sqlx::Error> {
        transaction.commit().await?;
        self.inner.wake.notify_one();
        Ok(())
    }

    /// Tells listeners of something that matters only now. It is dropped if RabbitMQ is away; then listeners take stock anew.
    pub fn tell(&self, event: Event) {
        if let Some(unfit) = self.unfit(&event) {
            return tracing::error!(topic = event.topic, unfit, "a fleeting event cannot be told");
        }
        match &self.inner.broker {
            None => self.inner.tell_here(&Arc::new(event)),
            Some(broker) => {
                if broker.told.try_send(event).is_err() {
                    self.inner.counts.untold.inc();
                }
            }
        }
    }

    /// Works on the queue `elph.<service>`, which takes these topics (`*` is one word, `#` any number of them). It is there from now on, also
    /// while nobody works on it.
    pub async fn work(&self, service: &str, topics: &[&str], handler: impl Handler) -> Result<(), sqlx::Error> {
        let queue = format!("{PREFIX}{service}");
        self.inner.store.bind(&queue, topics).await?;
        let bound = Bound { queue, topics: topics.iter().map(|topic| (*topic).to_owned()).collect() };
        self.inner.tasks.spawn(Work { inner: self.inner.clone(), bound, handler }.run());
        Ok(())
    }

    /// Listens to these topics, as every copy does.
    pub fn hear(&self, topics: &[&str]) -> Hearing {
        let (ear, hearing) = Ear::new(topics);
        if self.inner.broker.is_some() {
            self.inner.tasks.spawn(ear.listen(self.inner.clone()));
        } else {
            ear.anew(&self.inner);
            self.inner.ears.lock().push(ear);
        }
        hearing
    }

    /// Why events do not get out or in at the moment.
    pub fn reasons(&self) -> Vec<String> {
        let Some(broker) = &self.inner.broker else { return Vec::new() };
        let mut reasons: Vec<String> = [&broker.publishing, &broker.consuming].into_iter().filter_map(Link::trouble).collect();
        reasons.dedup();
        reasons.into_iter().map(|why| format!("bus: {why}")).collect()
    }

    fn unfit(&self, event: &Event) -> Option<String> {
        if !self.inner.domains.contains(&event.domain) {
            return Some(format!("there is no domain '{}'", event.domain));
        }
        event.unfit()
    }
}

impl Inner {
    /// Tells the listeners in this process.
    fn tell_here(&self, event: &Arc<Event>) {
        let mut ears = self.ears.lock();
        ears.retain(|ear| !ear.is_gone());
        for ear in ears.iter() {
            ear.tell(self, event);
        }
    }

    fn is_heard(&self, topic: &str) -> bool {
        self.ears.lock().iter().any(|ear| ear.wants(topic))
    }
}
