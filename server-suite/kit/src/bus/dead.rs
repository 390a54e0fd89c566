//! Dead letters, for `elph-server bus dead`: to look at, to try again, to throw away. In RabbitMQ they lie in the queue
//! `elph.<service>.dead`, without it in a table.

use jiff::Timestamp;
use lapin::{
    Channel, Confirmation,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use uuid::Uuid;

use super::{
    BusSettings, Event,
    broker::{self, Link, dead_of, within},
    store::Store,
};
use crate::database::{Database, DatabaseError};

/// Dead letters of one queue that are looked at, at most.
const MOST: u16 = 10_000;

/// A dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Whose it is.
    pub queue: String,
    /// The event; none: it is a message that is no event.
    pub event: Option<Event>,
    /// When it died.
    pub died: Option<Timestamp>,
    /// Why, where that is known; the log of then says it, too.
    pub error: Option<String>,
}

/// What is to become of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Look at them.
    Keep,
    /// Back into their queue.
    Retry,
    /// Away.
    Drop,
}

/// Why dead letters cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    /// The tables.
    #[error(transparent)]
    Open(#[from] DatabaseError),
    /// The database.
    #[error("the dead letters cannot be read")]
    Database(#[from] sqlx::Error),
    /// RabbitMQ.
    #[error("bus: {0}")]
    Broker(String),
}

/// Dead letters of all queues, or of `only` one service, or with these ids; what became of them.
pub async fn letters(
    settings: &BusSettings,
    database: &Database,
    only: Option<&str>,
    ids: &[Uuid],
    fate: Fate,
) -> Result<Vec<DeadLetter>, DeadError> {
    let store = Store::open(database).await?;
    let queues = store.bound().await?.into_iter().map(|bound| bound.queue);
    let queues: Vec<String> = queues.filter(|queue| only.is_none_or(|only| queue.strip_prefix(super::PREFIX) == Some(only))).collect();
    let wanted = |event: Option<&Event>| ids.is_empty() || event.is_some_and(|event| ids.contains(&event.id));
    let mut all = Vec::new();
    if settings.url.is_none() {
        for queue in queues {
            for (event, died, error) in store.dead(&queue, MOST.into()).await? {
                if wanted(Some(&event)) {
                    decide(&store, &queue, &event, fate).await?;
                    all.push(DeadLetter { queue: queue.clone(), event: Some(event), died: Some(died), error: Some(error) });
                }
            }
        }
        return Ok(all);
    }
    let link = Link::new(settings.clone(), "dead letters");
    for queue in queues {
        let channel = link.channel().await.map_err(DeadError::Broker)?;
        all.extend(of_queue(&channel, &queue, wanted, fate).await.map_err(DeadError::Broker)?);
    }
    link.close().await;
    Ok(all)
}

async fn decide(store: &Store, queue: &str, event: &Event, fate: Fate) -> Result<(), sqlx::Error> {
    if fate == Fate::Keep {
        return Ok(());
    }
    let mut transaction = store.begin().await?;
    if store.exhume(&mut transaction, queue, event.id).await? && fate == Fate::Retry {
        store.enqueue(&mut transaction, queue, event).await?;
    }
    transaction.commit().await
}

async fn of_queue(channel: &Channel, queue: &str, wanted: impl Fn(Option<&Event>) -> bool, fate: Fate) -> Result<Vec<DeadLetter>, String> {
    let dead = dead_of(queue);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let count = within(channel.queue_declare(dead.as_str().into(), durable, FieldTable::default())).await?.message_count();
    within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let (mut letters, mut left) = (Vec::new(), None);
    for _ in 0..count.min(MOST.into()) {
        let Some(got) = within(channel.basic_get(dead.as_str().into(), BasicGetOptions::default())).await? else { break };
        let event: Option<Event> = serde_json::from_slice(&got.delivery.data).ok();
        if !wanted(event.as_ref()) {
            left = Some(got.delivery.delivery_tag);
            continue;
        }
        letters.push(DeadLetter { queue: queue.to_owned(), event, died: died(&got.delivery), error: None });
        match fate {
            Fate::Keep => left = Some(got.delivery.delivery_tag),
            Fate::Retry => {
                back(channel, queue, &got.delivery).await?;
                within(got.delivery.acker.ack(BasicAckOptions::default())).await?;
            }
            Fate::Drop => drop(within(got.delivery.acker.ack(BasicAckOptions::default())).await?),
        }
    }
    if let Some(last) = left {
        // All that were looked at alone, in their places.
        within(channel.basic_nack(last, BasicNackOptions { multiple: true, requeue: true })).await?;
    }
    Ok(letters)
}

/// Into its queue, past the exchange: others have handled it.
async fn back(channel: &Channel, queue: &str, delivery: &Delivery) -> Result<(), String> {
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(broker::PERSISTENT)
        .with_app_id("elph-server".into());
    let options = lapin::options::BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = within(channel.basic_publish("".into(), queue.into(), options, &delivery.data, properties)).await?;
    match within(confirm).await? {
        Confirmation::Ack(None) => Ok(()),
        _ => Err(format!("the queue {queue} does not take it; start the service that works on it once")),
    }
}

/// RabbitMQ writes it into the header `x-death`.
fn died(delivery: &Delivery) -> Option<Timestamp> {
    let AMQPValue::FieldArray(deaths) = delivery.properties.headers().as_ref()?.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
    let AMQPValue::Timestamp(seconds) = last.inner().get("time")? else { return None };
    Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()
}
