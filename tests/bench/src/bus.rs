//! The event bus: events per second from the SQL transaction through the outbox until RabbitMQ has confirmed them, beside a bare client
//! of RabbitMQ that publishes the same octets with confirmations and no database.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use elph_kit::{
    bus::{Bus, Event},
    database::Database,
    metrics::Metrics,
};
use elph_kit_testing::{TestBroker, TestDatabase};
use futures_util::{StreamExt, TryStreamExt};
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    feed::PATIENCE,
    report::{Better, Table, median, progress},
};

const EVENTS: usize = 10_000;
const ROUNDS: usize = 5;
/// Events that are on their way at the same time, as the outbox has it.
const WINDOW: usize = 256;
/// Transactions side by side.
const AT_ONCE: usize = 8;
/// Events of a transaction where there are many.
const MANY: usize = 100;
const DOMAIN: &str = "bench.local";
const QUEUE: &str = "elph.bench";

pub(crate) async fn run() -> anyhow::Result<Table> {
    let broker = TestBroker::start().await?.context("RabbitMQ is not installed; run: packaging/dev-setup bench")?;
    let connection = Connection::connect(broker.settings.url.as_deref().context("no address")?, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    queue(&channel).await?;
    let mut table = Table::new("bus");
    for place in TestDatabase::both().await? {
        let (metrics, stop, tasks) = (Metrics::default(), CancellationToken::new(), TaskTracker::new());
        let database = Database::open(&place.settings).await?;
        let bus = Bus::open(&broker.settings, &database, [DOMAIN.to_owned()], &metrics, &tasks, &stop).await?;
        let (mut single, mut many, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            progress(&format!("bus, {}, round {round} of {ROUNDS}", place.name));
            let figures = [ours(&bus, &metrics, 1).await?, ours(&bus, &metrics, MANY).await?, publish(&channel).await?];
            channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await?;
            // The first one warms up.
            if round > 0 {
                for (all, figure) in [&mut single, &mut many, &mut bare].into_iter().zip(figures) {
                    all.push(figure);
                }
            }
        }
        let bare = median(bare);
        for (what, figures) in [("one event a transaction", single), ("100 events a transaction", many)] {
            let row = table.row(format!("{}, {what}", place.name), "1/s", Better::Higher, median(figures));
            row.beside("bare lapin, no database", bare);
        }
        stop.cancel();
        tasks.close();
        tokio::time::timeout(PATIENCE, tasks.wait()).await.context("the bus did not end")?;
    }
    table.note("from the first transaction until RabbitMQ has confirmed the last event and it is out of the outbox; 8 transactions at once, 256 events");
    table.note("on their way at once in both. Lasting events into a lasting queue; PostgreSQL without fsync. All share the two cores.");
    connection.close(200, "bye".into()).await?;
    Ok(table)
}

async fn queue(channel: &Channel) -> anyhow::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("elph.events".into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
    channel.queue_bind(QUEUE.into(), "elph.events".into(), "#".into(), QueueBindOptions::default(), FieldTable::default()).await?;
    Ok(channel.confirm_select(ConfirmSelectOptions::default()).await?)
}

fn event(number: usize) -> Event {
    Event::new("bench.happened", DOMAIN, json!({ "alias": "1001", "number": number, "text": "as long as a change of status with a note" }))
}

fn published(metrics: &Metrics) -> anyhow::Result<usize> {
    let text = metrics.encode()?;
    let line = text.lines().find_map(|line| line.strip_prefix("elph_server_bus_published_total ")).context("no such counter")?;
    Ok(line.trim().parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(began: Instant) -> f64 {
    EVENTS as f64 / began.elapsed().as_secs_f64()
}

/// Events per second through the outbox.
async fn ours(bus: &Bus, metrics: &Metrics, together: usize) -> anyhow::Result<f64> {
    let (before, began) = (published(metrics)?, Instant::now());
    let transactions = futures_util::stream::iter((0..EVENTS).step_by(together)).map(|first| async move {
        let events: Vec<Event> = (first..first + together).map(event).collect();
        let mut transaction = bus.begin().await?;
        bus.publish_all(&mut transaction, &events).await?;
        bus.commit(transaction).await?;
        anyhow::Ok(())
    });
    transactions.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    while published(metrics)? < before + EVENTS {
        ensure!(began.elapsed() < PATIENCE, "{} of {EVENTS} are out", published(metrics)? - before);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(rate(began))
}

/// Events per second of the client alone.
async fn publish(channel: &Channel) -> anyhow::Result<f64> {
    let began = Instant::now();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    for first in (0..EVENTS).step_by(WINDOW) {
        let mut asked = Vec::with_capacity(WINDOW);
        for number in first..(first + WINDOW).min(EVENTS) {
            let body = serde_json::to_vec(&event(number))?;
            let properties = lapin::BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
            asked.push(channel.basic_publish("elph.events".into(), "bench.happened".into(), options, &body, properties).await?);
        }
        for confirm in asked {
            ensure!(confirm.await?.is_ack(), "not confirmed");
        }
    }
    Ok(rate(began))
}
