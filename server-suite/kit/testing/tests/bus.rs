//! The event bus on both real databases, in one process and over a real RabbitMQ, with everything killed that can be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use elph_kit::{
    bus::{
        Bus, BusSettings, Event, Fault, Handler, Heard, Hearing, PublishError, Transaction,
        dead::{self, Fate},
    },
    database::Database,
    metrics::Metrics,
};
use elph_kit_testing::{TestBroker, TestDatabase};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::json;
use sqlx::Row;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(90);
const DOMAIN: &str = "biysk.local";
const TOPIC: &str = "test.happened";

/// The order in which events are handled, in all copies.
static PLACE: AtomicI64 = AtomicI64::new(0);

// === a copy of the server, as far as the bus is concerned ===

struct Copy {
    bus: Bus,
    database: Database,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Copy {
    async fn start(settings: &BusSettings, place: &TestDatabase) -> anyhow::Result<Self> {
        Self::start_named(settings, place, "elph").await
    }

    /// `name`: what PostgreSQL knows its connections by.
    async fn start_named(settings: &BusSettings, place: &TestDatabase, name: &str) -> anyhow::Result<Self> {
        // Of its own, so that it can end in the middle of everything.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (settings, mut database) = (settings.clone(), place.settings.clone());
        if place.name == "postgres" {
            database.url += &format!("&application_name={name}");
        }
        let opened = runtime.spawn(async move {
            let (metrics, stop, tasks) = (Metrics::default(), CancellationToken::new(), TaskTracker::new());
            let database = Database::open(&database).await?;
            let bus = Bus::open(&settings, &database, [DOMAIN.to_owned()], &metrics, &tasks, &stop).await?;
            sqlx::query(
                "CREATE TABLE IF NOT EXISTS handled (queue TEXT NOT NULL, id TEXT NOT NULL, number BIGINT NOT NULL, copy TEXT NOT NULL, place BIGINT NOT NULL)",
            )
            .execute(database.pool())
            .await?;
            anyhow::Ok((bus, database, metrics, stop, tasks))
        });
        let (bus, database, metrics, stop, tasks) = opened.await??;
        Ok(Self { bus, database, metrics, stop, tasks, runtime: Some(runtime) })
    }

    async fn publish(&self, number: usize) -> anyhow::Result<Event> {
        self.publish_with(json!({ "number": number })).await
    }

    async fn publish_with(&self, body: serde_json::Value) -> anyhow::Result<Event> {
        let event = Event::new(TOPIC, DOMAIN, body);
        let mut transaction = self.bus.begin().await?;
        self.bus.publish(&mut transaction, &event).await?;
        self.bus.commit(transaction).await?;
        Ok(event)
    }

    async fn work(&self, service: &str) -> anyhow::Result<Arc<Switch>> {
        let switch = Arc::new(Switch::default());
        let handler = Writes { queue: service.to_owned(), copy: self.bus.copy().to_owned(), switch: switch.clone() };
        let (bus, service) = (self.bus.clone(), service.to_owned());
        let runtime = self.runtime.as_ref().context("it has ended")?;
        runtime.spawn(async move { bus.work(&service, &["test.*"], handler).await }).await??;
        Ok(switch)
    }

    async fn hear(&self) -> anyhow::Result<Hearing> {
        let bus = self.bus.clone();
        Ok(self.runtime.as_ref().context("it has ended")?.spawn(async move { bus.hear(&["test.#"]) }).await?)
    }

    /// A counter's sum over its labels.
    fn count(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.metrics.encode()?;
        let wanted = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = text.lines().filter(wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Ends as SIGTERM would.
    async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.context("the bus did not end")?;
        self.database.close().await;
        self.runtime.take().context("it has ended")?.shutdown_background();
        Ok(())
    }
}

impl Drop for Copy {
    /// Ends as SIGKILL would: whatever runs is dropped where it is.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Handles events by writing down that it did.
struct Writes {
    queue: String,
    copy: String,
    switch: Arc<Switch>,
}

/// Lets a poisonous event be handled.
#[derive(Default)]
struct Switch {
    cured: AtomicBool,
}

impl Handler for Writes {
    async fn handle(&self, event: &Event, transaction: &mut Transaction) -> Result<(), Fault> {
        sqlx::query("INSERT INTO handled (queue, id, number, copy, place) VALUES ($1, $2, $3, $4, $5)")
            .bind(self.queue.clone())
            .bind(event.id.to_string())
            .bind(event.body.get("number").and_then(serde_json::Value::as_i64).unwrap_or(-1))
            .bind(self.copy.clone())
            .bind(PLACE.fetch_add(1, Ordering::Relaxed))
            .execute(&mut **transaction)
            .await?;
        if event.body.get("poison").is_some() && !self.switch.cured.load(Ordering::Relaxed) {
            return Err(Fault::Event("it is poisonous".to_owned()));
        }
        Ok(())
    }
}

/// How often each event was handled, by id; numbers in the order in which they were.
async fn handled(database: &Database, queue: &str) -> anyhow::Result<(BTreeMap<String, usize>, Vec<i64>)> {
    let rows = sqlx::query("SELECT id, number FROM handled WHERE queue = $1 ORDER BY place")
        .bind(queue.to_owned())
        .fetch_all(database.pool())
        .await?;
    let (mut times, mut numbers) = (BTreeMap::new(), Vec::new());
    for row in rows {
        *times.entry(row.try_get("id")?).or_default() += 1;
        numbers.push(row.try_get("number")?);
    }
    Ok((times, numbers))
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            // A database that is away is away.
            outcome if began.elapsed() > PATIENCE => {
                return Err(outcome.err().unwrap_or_else(|| anyhow::anyhow!("not in time"))).with_context(|| what.to_owned());
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until so many events were handled, and checks that each was once.
async fn exactly(database: &Database, queue: &str, events: usize) -> anyhow::Result<Vec<i64>> {
    let what = format!("{events} events are handled by {queue}");
    until(&what, async || Ok((handled(database, queue).await?.0.len() >= events).then_some(()))).await?;
    let (times, numbers) = handled(database, queue).await?;
    ensure!(times.len() == events && times.values().all(|times| *times == 1), "{} of {events}, {:?}", times.len(), times.values().max());
    Ok(numbers)
}

async fn rows(database: &Database, table: &'static str) -> anyhow::Result<i64> {
    let sql = match table {
        "bus_outbox" => "SELECT COUNT(*) AS rows FROM bus_outbox",
        _ => "SELECT COUNT(*) AS rows FROM bus_inbox",
    };
    Ok(sqlx::query(sql).fetch_one(database.pool()).await?.try_get("rows")?)
}

/// Whoever has not spoken is taken for dead from now on, instead of in ten seconds.
async fn end_leases(database: &Database) -> anyhow::Result<()> {
    sqlx::query("UPDATE bus_copies SET until = 0").execute(database.pool()).await?;
    Ok(())
}

/// A client that is not the bus.
async fn stranger(broker: &TestBroker) -> anyhow::Result<(Connection, Channel)> {
    let url = broker.settings.url.clone().context("no address")?;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn send(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> anyhow::Result<()> {
    let sent = channel.basic_publish(exchange.into(), key.into(), BasicPublishOptions::default(), body, lapin::BasicProperties::default());
    ensure!(sent.await?.await?.is_ack(), "not confirmed");
    Ok(())
}

// === in one process ===

#[tokio::test]
async fn an_event_is_out_if_and_only_if_its_transaction_is_committed_and_events_keep_their_order() -> anyhow::Result<()> {
    for place in TestDatabase::both().await? {
        let copy = Copy::start(&BusSettings::default(), &place).await?;
        copy.work("one").await?;
        copy.work("two").await?;
        for number in 0..150 {
            let mut transaction = copy.bus.begin().await?;
            copy.bus.publish(&mut transaction, &Event::new(TOPIC, DOMAIN, json!({ "number": -5 }))).await?;
            transaction.rollback().await?;
            copy.publish(number).await?;
        }
        let mut transaction = copy.bus.begin().await?;
        let many: Vec<Event> = (150..300).map(|number| Event::new(TOPIC, DOMAIN, json!({ "number": number }))).collect();
        copy.bus.publish_all(&mut transaction, &many).await?;
        copy.bus.commit(transaction).await?;
        for queue in ["one", "two"] {
            let numbers = exactly(&copy.database, queue, 300).await?;
            ensure!(numbers == (0..300).collect::<Vec<_>>(), "{}, {queue}: {numbers:?}", place.name);
        }
        ensure!(rows(&copy.database, "bus_outbox").await? == 0 && rows(&copy.database, "bus_inbox").await? == 600);
        until("it is counted", async || Ok((copy.count("elph_server_bus_handled_total")? == 600.0).then_some(()))).await?;
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let place = TestDatabase::sqlite()?;
    let copy = Copy::start(&BusSettings::default(), &place).await?;
    let mut transaction = copy.bus.begin().await?;
    for (event, why) in [
        (Event::new(TOPIC, "another.local", json!({})), "there is no domain"),
        (Event::new("Test", DOMAIN, json!({})), "no topic"),
        (Event::new(TOPIC, DOMAIN, json!("x".repeat(70_000))), "octets"),
    ] {
        let refused = copy.bus.publish(&mut transaction, &event).await.unwrap_err();
        ensure!(matches!(&refused, PublishError::Unfit(what) if what.contains(why)), "{refused}");
    }
    copy.bus.commit(transaction).await?;
    ensure!(rows(&copy.database, "bus_outbox").await? == 0);
    copy.end().await
}

#[tokio::test]
async fn without_rabbitmq_a_crash_anywhere_loses_nothing_and_repeats_nothing() -> anyhow::Result<()> {
    for place in TestDatabase::both().await? {
        let mut published = 0;
        for _crash in 0..4 {
            let copy = Copy::start(&BusSettings::default(), &place).await?;
            copy.work("one").await?;
            for _ in 0..40 {
                copy.publish(published).await?;
                published += 1;
            }
            end_leases(&copy.database).await?;
            // With events in the outbox, in the queue and in a handler.
            drop(copy);
        }
        let copy = Copy::start(&BusSettings::default(), &place).await?;
        copy.work("one").await?;
        end_leases(&copy.database).await?;
        exactly(&copy.database, "one", published).await.context(place.name)?;
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_handled_long_ago_is_forgotten_and_what_was_not_is_remembered() -> anyhow::Result<()> {
    for place in TestDatabase::both().await? {
        let first = Copy::start(&BusSettings::default(), &place).await?;
        for number in 0..2500 {
            let time = if number < 2300 { 1_000 } else { i64::MAX };
            sqlx::query("INSERT INTO bus_inbox (queue, id, time) VALUES ('elph.one', $1, $2)")
                .bind(Uuid::now_v7().simple().to_string())
                .bind(time)
                .execute(first.database.pool())
                .await?;
        }
        first.end().await?;
        let copy = Copy::start(&BusSettings::default(), &place).await?;
        until("it is forgotten", async || Ok((rows(&copy.database, "bus_inbox").await? == 200).then_some(()))).await?;
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_listener_that_does_not_listen_costs_no_more_memory_and_is_told_to_take_stock() -> anyhow::Result<()> {
    let place = TestDatabase::sqlite()?;
    let copy = Copy::start(&BusSettings::default(), &place).await?;
    let mut hearing = copy.hear().await?;
    ensure!(hearing.next().await == Some(Heard::Anew));
    for number in 0..10_000 {
        copy.bus.tell(Event::new(TOPIC, DOMAIN, json!({ "number": number })));
    }
    let mut heard = 0;
    while let Ok(Some(Heard::Event(_))) = timeout(Duration::from_millis(200), hearing.next()).await {
        heard += 1;
    }
    ensure!((1000..10_000).contains(&heard), "{heard}");
    copy.bus.tell(Event::new(TOPIC, DOMAIN, json!({ "number": "last" })));
    ensure!(hearing.next().await == Some(Heard::Anew));
    ensure!(matches!(hearing.next().await, Some(Heard::Event(event)) if event.body["number"] == "last"));
    copy.end().await
}

// === in both ways ===

/// In one process and over RabbitMQ, on both databases.
async fn everywhere() -> anyhow::Result<(Option<TestBroker>, Vec<(TestDatabase, BusSettings, String)>)> {
    let broker = TestBroker::start().await?;
    let mut all = Vec::new();
    let ways = std::iter::once(BusSettings::default()).chain(broker.as_ref().map(|broker| broker.settings.clone()));
    for settings in ways {
        for place in TestDatabase::both().await? {
            let service = format!("{}_{}", place.name, if settings.url.is_some() { "rabbitmq" } else { "alone" });
            all.push((place, BusSettings { attempts: 3, ..settings.clone() }, service));
        }
    }
    Ok((broker, all))
}

#[tokio::test]
async fn a_poisonous_event_becomes_a_dead_letter_the_others_go_on_and_a_retry_brings_it_back() -> anyhow::Result<()> {
    let (_broker, ways) = everywhere().await?;
    for (place, settings, service) in ways {
        let copy = Copy::start(&settings, &place).await?;
        let switch = copy.work(&service).await?;
        copy.publish(0).await?;
        let poison = copy.publish_with(json!({ "number": 1, "poison": true })).await?;
        let other = copy.publish_with(json!({ "number": 2, "poison": true })).await?;
        copy.publish(3).await?;
        ensure!(exactly(&copy.database, &service, 2).await? == [0, 3], "{service}");
        let letters = async |ids: &[Uuid], fate| dead::letters(&settings, &copy.database, Some(&service), ids, fate).await;
        let listed = until("both are dead", async || {
            let listed = letters(&[], Fate::Keep).await?;
            Ok((listed.len() == 2).then_some(listed))
        })
        .await
        .context(service.clone())?;
        let first = listed.first().context("none")?;
        ensure!(first.event.as_ref() == Some(&poison) && first.queue == format!("elph.{service}") && first.died.is_some(), "{first:?}");
        ensure!(settings.url.is_some() || first.error.as_deref() == Some("it is poisonous"), "{first:?}");
        ensure!(copy.count("elph_server_bus_dead_total")? == 2.0 && copy.count("elph_server_bus_failed_attempts_total")? == 6.0);
        // A retry before the cause is mended: dead again.
        letters(&[poison.id], Fate::Retry).await?;
        until("it has died again", async || Ok((copy.count("elph_server_bus_dead_total")? == 3.0).then_some(()))).await?;
        switch.cured.store(true, Ordering::Relaxed);
        let retried = until("it can be retried", async || {
            let retried = letters(&[poison.id], Fate::Retry).await?;
            Ok((!retried.is_empty()).then_some(retried))
        })
        .await?;
        ensure!(retried.len() == 1, "{retried:?}");
        exactly(&copy.database, &service, 3).await?;
        ensure!(letters(&[other.id], Fate::Drop).await?.len() == 1 && letters(&[], Fate::Keep).await?.is_empty(), "{service}");
        exactly(&copy.database, &service, 3).await?;
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_event_that_comes_twice_is_handled_once() -> anyhow::Result<()> {
    let (broker, ways) = everywhere().await?;
    for (place, settings, service) in ways {
        let copy = Copy::start(&settings, &place).await?;
        copy.work(&service).await?;
        let event = copy.publish(0).await?;
        exactly(&copy.database, &service, 1).await?;
        match &broker {
            Some(broker) if settings.url.is_some() => {
                let (_connection, channel) = stranger(broker).await?;
                for _ in 0..3 {
                    send(&channel, "elph.events", TOPIC, &serde_json::to_vec(&event)?).await?;
                }
            }
            _ => {
                for _ in 0..3 {
                    let mut transaction = copy.bus.begin().await?;
                    copy.bus.publish(&mut transaction, &event).await?;
                    copy.bus.commit(transaction).await?;
                    until("it is out", async || Ok((rows(&copy.database, "bus_outbox").await? == 0).then_some(()))).await?;
                }
            }
        }
        copy.publish(1).await?;
        exactly(&copy.database, &service, 2).await?;
        let repeated = async || Ok((copy.count("elph_server_bus_repeated_total")? >= 1.0).then_some(()));
        until("it is recognised", repeated).await.context(service.clone())?;
        exactly(&copy.database, &service, 2).await?;
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_publisher_that_crashes_between_the_commit_and_sending_loses_nothing() -> anyhow::Result<()> {
    let (_broker, ways) = everywhere().await?;
    for (place, settings, service) in ways {
        let crashing = Copy::start(&settings, &place).await?;
        let mut transaction = crashing.bus.begin().await?;
        for number in 0..20 {
            crashing.bus.publish(&mut transaction, &Event::new(TOPIC, DOMAIN, json!({ "number": number }))).await?;
        }
        // Past the bus, which is not woken.
        transaction.commit().await?;
        drop(crashing);
        let copy = Copy::start(&settings, &place).await?;
        copy.work(&service).await?;
        end_leases(&copy.database).await?;
        let numbers = until("they are handled", async || {
            let numbers = handled(&copy.database, &service).await?.1;
            Ok((numbers.len() == 20 || rows(&copy.database, "bus_outbox").await? == 0).then_some(numbers))
        });
        numbers.await?;
        // Unless it was quicker than the crash, when nobody had asked for them yet.
        let adopted = copy.count("elph_server_bus_adopted_total")?;
        if adopted > 0.0 {
            let numbers = exactly(&copy.database, &service, 20).await.context(service.clone())?;
            ensure!(numbers == (0..20).collect::<Vec<_>>(), "{numbers:?}");
        }
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_crosses_from_one_domain_to_another() -> anyhow::Result<()> {
    let Some(broker) = TestBroker::start().await? else { return Ok(()) };
    for place in TestDatabase::both().await? {
        let copy = Copy::start(&broker.settings, &place).await?;
        copy.work(place.name).await?;
        let mut hearing = copy.hear().await?;
        ensure!(hearing.next().await == Some(Heard::Anew));
        let (_connection, channel) = stranger(&broker).await?;
        let foreign = Event::new(TOPIC, "another.local", json!({ "number": 7 }));
        send(&channel, "elph.events", TOPIC, &serde_json::to_vec(&foreign)?).await?;
        send(&channel, "elph.events", TOPIC, b"no event at all").await?;
        let own = copy.publish(1).await?;
        ensure!(exactly(&copy.database, place.name, 1).await? == [1]);
        ensure!(matches!(hearing.next().await, Some(Heard::Event(event)) if event.id == own.id));
        ensure!(copy.count("elph_server_bus_foreign_total")? == 1.0);
        ensure!(copy.count("elph_server_bus_dead_total")? == 1.0, "what is no event is a dead letter");
        copy.end().await?;
    }
    Ok(())
}

// === over RabbitMQ ===

#[tokio::test]
async fn rabbitmq_killed_and_back_while_events_are_published_loses_none_and_each_is_handled_once() -> anyhow::Result<()> {
    const EVENTS: usize = 3000;
    let Some(mut broker) = TestBroker::start().await? else { return Ok(()) };
    for place in TestDatabase::both().await? {
        let (one, two) = (Copy::start(&broker.settings, &place).await?, Copy::start(&broker.settings, &place).await?);
        one.work(place.name).await?;
        two.work(place.name).await?;
        let publishing = async {
            for number in 0..EVENTS {
                (if number % 2 == 0 { &one } else { &two }).publish(number).await?;
                if number % 10 == 0 {
                    sleep(Duration::from_millis(15)).await;
                }
            }
            anyhow::Ok(())
        };
        let killing = async {
            for already in [EVENTS / 10, EVENTS / 3] {
                let some = async || Ok((handled(&one.database, place.name).await?.0.len() >= already).then_some(()));
                until("some are handled", some).await?;
                broker.kill().await?;
                until("it is told", async || Ok((!one.bus.reasons().is_empty()).then_some(()))).await?;
                broker.resume().await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(publishing, killing)?;
        let outcome = exactly(&one.database, place.name, EVENTS).await;
        let (done, left) = (handled(&one.database, place.name).await?.0.len(), rows(&one.database, "bus_outbox").await?);
        outcome.with_context(|| {
            format!("{}: {done} handled, {left} in the outbox, {:?} {:?}", place.name, one.bus.reasons(), two.bus.reasons())
        })?;
        until("everything is well", async || Ok(one.bus.reasons().is_empty().then_some(()))).await?;
        until("nothing waits", async || Ok((rows(&one.database, "bus_outbox").await? == 0).then_some(()))).await?;
        one.end().await?;
        two.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn rabbitmq_that_is_not_there_yet_is_waited_for_and_told_meanwhile() -> anyhow::Result<()> {
    let Some(mut broker) = TestBroker::start().await? else { return Ok(()) };
    broker.kill().await?;
    for place in TestDatabase::both().await? {
        let copy = Copy::start(&broker.settings, &place).await?;
        copy.work(place.name).await?;
        for number in 0..100 {
            copy.publish(number).await?;
        }
        let address = broker.address().to_string();
        let told = async || Ok(copy.bus.reasons().first().is_some_and(|reason| reason.contains(&address)).then_some(()));
        until("it is told", told).await?;
        let seen =
            async || Ok((copy.count("elph_server_bus_waiting")? == 100.0).then_some(copy.count("elph_server_bus_waiting_oldest_seconds")?));
        ensure!(until("what waits is seen", seen).await? > 0.0);
        ensure!(copy.count("elph_server_bus_connected")? == 0.0);
        broker.resume().await?;
        let numbers = exactly(&copy.database, place.name, 100).await?;
        ensure!(numbers == (0..100).collect::<Vec<_>>(), "{numbers:?}");
        until("everything is well", async || Ok(copy.bus.reasons().is_empty().then_some(()))).await?;
        copy.end().await?;
        broker.kill().await?;
    }
    Ok(())
}

#[tokio::test]
async fn events_go_over_tls_and_a_certificate_of_an_unknown_authority_is_refused() -> anyhow::Result<()> {
    let Some(broker) = TestBroker::start().await? else { return Ok(()) };
    for place in TestDatabase::both().await? {
        let copy = Copy::start(&broker.encrypted, &place).await?;
        copy.work(place.name).await?;
        for number in 0..10 {
            copy.publish(number).await?;
        }
        exactly(&copy.database, place.name, 10).await?;
        copy.end().await?;
    }
    let place = TestDatabase::sqlite()?;
    let unknown = BusSettings { ca_file: None, ..broker.encrypted.clone() };
    let copy = Copy::start(&unknown, &place).await?;
    let reason = until("it is told", async || Ok(copy.bus.reasons().into_iter().next())).await?;
    ensure!(reason.to_lowercase().contains("certificate"), "{reason}");
    copy.end().await
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_virtual_host_are_told_with_what_to_look_at() -> anyhow::Result<()> {
    let Some(broker) = TestBroker::start().await? else { return Ok(()) };
    let address = broker.address();
    for (url, wanted) in [
        (format!("amqp://guest:wrong@{address}/%2F"), "refuses the user 'guest': wrong password"),
        (format!("amqp://nobody@{address}/%2F"), "refuses the user 'nobody': wrong password"),
        (format!("amqp://guest:guest@{address}/nowhere"), "into the virtual host 'nowhere': there is none"),
    ] {
        let place = TestDatabase::sqlite()?;
        let settings = BusSettings { url: Some(url), ..BusSettings::default() };
        let copy = Copy::start(&settings, &place).await?;
        let reason = until("it is told", async || Ok(copy.bus.reasons().into_iter().next())).await?;
        ensure!(reason.contains(wanted) && reason.contains(&address.to_string()) && !reason.contains("guest:"), "{reason}");
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_copies_share_a_queue_and_one_that_crashes_leaves_its_work_to_the_other() -> anyhow::Result<()> {
    let Some(broker) = TestBroker::start().await? else { return Ok(()) };
    for place in TestDatabase::both().await? {
        let settings = BusSettings { prefetch: 4, ..broker.settings.clone() };
        let (one, two) = (Copy::start(&settings, &place).await?, Copy::start_named(&settings, &place, "crashing").await?);
        one.work(place.name).await?;
        two.work(place.name).await?;
        let share = async |copy: &Copy| -> anyhow::Result<i64> {
            let count = sqlx::query("SELECT COUNT(*) AS rows FROM handled WHERE copy = $1").bind(copy.bus.copy().to_owned());
            Ok(count.fetch_one(one.database.pool()).await?.try_get("rows")?)
        };
        let mut published = 0;
        while share(&one).await? < 50 || share(&two).await? < 50 {
            for _ in 0..50 {
                one.publish(published).await?;
                published += 1;
            }
            ensure!(published < 5000, "one of them does all the work");
        }
        for _ in 0..200 {
            one.publish(published).await?;
            published += 1;
        }
        drop(two);
        if place.name == "postgres" {
            // As the kernel would after a crash of the whole process.
            let cut = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'crashing'";
            sqlx::query(cut).execute(one.database.pool()).await?;
        }
        exactly(&one.database, place.name, published).await.context(place.name)?;
        one.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_copy_hears_what_happens_and_is_told_when_it_may_have_missed_something() -> anyhow::Result<()> {
    let Some(mut broker) = TestBroker::start().await? else { return Ok(()) };
    let place = TestDatabase::sqlite()?;
    let copies = [Copy::start(&broker.settings, &place).await?, Copy::start(&broker.settings, &place).await?];
    let [one, two] = &copies;
    let mut hearings = [one.hear().await?, two.hear().await?];
    for hearing in &mut hearings {
        ensure!(hearing.next().await == Some(Heard::Anew));
    }
    let lasting = one.publish(1).await?;
    let fleeting = Event::new("test.now", DOMAIN, json!({}));
    for hearing in &mut hearings {
        ensure!(matches!(hearing.next().await, Some(Heard::Event(event)) if *event == lasting));
    }
    two.bus.tell(fleeting.clone());
    for hearing in &mut hearings {
        ensure!(matches!(hearing.next().await, Some(Heard::Event(event)) if *event == fleeting));
    }
    broker.kill().await?;
    // Nobody hears it: it is dropped and counted, and nobody waits.
    until("it is dropped", async || {
        one.bus.tell(fleeting.clone());
        Ok((one.count("elph_server_bus_untold_total")? > 0.0).then_some(()))
    })
    .await?;
    let missed = two.publish(2).await?;
    broker.resume().await?;
    for hearing in &mut hearings {
        // Either it came back in time to hear it, or it knows that it has to look.
        ensure!(timeout(PATIENCE, hearing.next()).await? == Some(Heard::Anew));
    }
    until("it is out", async || Ok((rows(&one.database, "bus_outbox").await? == 0).then_some(()))).await?;
    let last = one.publish(3).await?;
    for hearing in &mut hearings {
        loop {
            match timeout(PATIENCE, hearing.next()).await? {
                Some(Heard::Event(event)) if *event == last => break,
                Some(Heard::Event(event)) => ensure!(*event == missed || *event == fleeting, "{event:?}"),
                other => ensure!(other == Some(Heard::Anew), "{other:?}"),
            }
        }
    }
    for copy in copies {
        copy.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn while_the_database_is_away_events_wait_and_none_is_blamed() -> anyhow::Result<()> {
    let Some(broker) = TestBroker::start().await? else { return Ok(()) };
    let Some(mut place) = TestDatabase::both().await?.into_iter().find(|place| place.name == "postgres") else { return Ok(()) };
    let copy = Copy::start(&broker.settings, &place).await?;
    copy.work("one").await?;
    for number in 0..100 {
        copy.publish(number).await?;
    }
    let (_connection, channel) = stranger(&broker).await?;
    place.end().await?;
    // Without the bus, which has no database.
    for number in 100..120 {
        let event = Event::new(TOPIC, DOMAIN, json!({ "number": number }));
        send(&channel, "elph.events", TOPIC, &serde_json::to_vec(&event)?).await?;
    }
    ensure!(copy.publish(0).await.is_err());
    place.start().await?;
    exactly(&copy.database, "one", 120).await?;
    ensure!(copy.count("elph_server_bus_dead_total")? == 0.0 && copy.count("elph_server_bus_failed_attempts_total")? == 0.0);
    copy.end().await
}
