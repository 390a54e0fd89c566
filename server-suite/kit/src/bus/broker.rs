//! RabbitMQ (AMQP 0-9-1): connections that are made when needed and made again when lost, and the exchanges and queues on them.

use std::time::Duration;

use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use parking_lot::RwLock;
use tokio::{sync::Mutex, time::timeout};
use uuid::Uuid;

use super::{BusSettings, Event, store::Bound};

/// The exchange of all events, by topic.
pub(super) const EVENTS: &str = "elph.events";
/// The exchange of dead letters, by queue.
pub(super) const DEAD: &str = "elph.dead";
/// A connection, a channel or a declaration that is not there by then is tried again.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether a channel is still open.
const LOOK: Duration = Duration::from_secs(3);
/// What is to outlive a restart of RabbitMQ.
pub(super) const PERSISTENT: u8 = 2;
const FLEETING: u8 = 1;
/// The name of the queue of dead letters.
pub(super) fn dead_of(queue: &str) -> String {
    format!("{queue}.dead")
}

/// A connection that is made when it is needed.
pub(super) struct Link {
    settings: BusSettings,
    purpose: &'static str,
    connection: Mutex<Option<Connection>>,
    /// Why it is not there; none: it is, or nobody has asked for it.
    trouble: RwLock<Option<String>>,
}

impl Link {
    pub(super) fn new(settings: BusSettings, purpose: &'static str) -> Self {
        Self { settings, purpose, connection: Mutex::new(None), trouble: RwLock::default() }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.read().clone()
    }

    /// Something went wrong on a channel of it.
    pub(super) fn lost(&self, why: &str) {
        let mut trouble = self.trouble.write();
        if trouble.is_none() {
            tracing::warn!(purpose = self.purpose, error = why, "rabbitmq is away");
        }
        *trouble = Some(why.to_owned());
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        let opened = self.open().await;
        match &opened {
            Ok(_) => {
                if self.trouble.write().take().is_some() {
                    tracing::info!(purpose = self.purpose, "rabbitmq is there");
                }
            }
            Err(why) => self.lost(why),
        }
        opened
    }

    async fn open(&self) -> Result<Channel, String> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.status().connected())
            && let Ok(Ok(channel)) = timeout(PATIENCE, connection.create_channel()).await
        {
            return Ok(channel);
        }
        *held = None;
        let connection = self.connect().await?;
        let channel = within(connection.create_channel()).await?;
        *held = Some(connection);
        Ok(channel)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let (uri, tls) = self.settings.address()?;
        let name = format!("elph-server, {}", self.purpose);
        let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
        let (place, user, vhost) =
            (format!("{}:{}", uri.authority.host, uri.authority.port), uri.authority.userinfo.username.clone(), uri.vhost.clone());
        let runtime = lapin::runtime::default_runtime().map_err(|error| told(&error))?;
        match timeout(PATIENCE, Connection::connect_uri_with_config(uri, properties, tls, runtime)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(refused(&error, &place, &user, &vhost)),
            Err(_) => Err(format!("{place} does not answer")),
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // It may be gone already.
            let _gone = timeout(Duration::from_secs(2), connection.close(200, "bye".into())).await;
        }
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(asked: impl Future<Output = lapin::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| told(&error)),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Waits until a channel is closed, whoever else is told of it or not.
pub(super) async fn closed(channel: &Channel) -> String {
    while channel.status().connected() {
        tokio::time::sleep(LOOK).await;
    }
    "the channel was closed".to_owned()
}

/// Why a connection was refused, with what to look at. RabbitMQ's codes are AMQP 0-9-1's, 1.2.
fn refused(error: &lapin::Error, place: &str, user: &str, vhost: &str) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) if error.get_id() == 403 => {
            format!("{place} refuses the user '{user}': wrong password, or no permission for the virtual host '{vhost}'")
        }
        ErrorKind::ProtocolError(error) if error.get_id() == 530 => {
            format!("{place} does not let the user '{user}' into the virtual host '{vhost}': there is none, or no permission")
        }
        _ => format!("{place}: {}", told(error)),
    }
}

/// An error in words.
pub(super) fn told(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => format!("{} {}", error.get_id(), error.get_message()),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

// === exchanges and queues ===

/// The exchanges of events and of dead letters.
pub(super) async fn declare_exchanges(channel: &Channel) -> Result<(), String> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for (name, kind) in [(EVENTS, ExchangeKind::Topic), (DEAD, ExchangeKind::Direct)] {
        within(channel.exchange_declare(name.into(), kind, options, FieldTable::default())).await?;
    }
    Ok(())
}

/// A queue, what it takes, and where its dead letters go.
pub(super) async fn declare(channel: &Channel, bound: &Bound) -> Result<(), String> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let dead = dead_of(&bound.queue);
    within(channel.queue_declare(dead.as_str().into(), durable, FieldTable::default())).await?;
    bind(channel, &dead, DEAD, &dead).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(DEAD.into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.into()));
    within(channel.queue_declare(bound.queue.as_str().into(), durable, arguments)).await?;
    for topic in &bound.topics {
        bind(channel, &bound.queue, EVENTS, topic).await?;
    }
    Ok(())
}

pub(super) async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), String> {
    let (queue, exchange, key) = (ShortString::from(queue), ShortString::from(exchange), ShortString::from(key));
    within(channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default())).await
}

// === publishing ===

/// A channel on which each event is confirmed.
pub(super) struct Publisher {
    channel: Channel,
    /// Queues that are surely there.
    declared: Vec<Bound>,
}

/// What became of events.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// RabbitMQ has them.
    pub(super) confirmed: Vec<Uuid>,
    /// It has no queue for them.
    pub(super) returned: Vec<Uuid>,
    /// Why not all of them are confirmed.
    pub(super) error: Option<String>,
}

impl Publisher {
    pub(super) async fn open(link: &Link) -> Result<Self, String> {
        let channel = link.channel().await?;
        within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        declare_exchanges(&channel).await?;
        Ok(Self { channel, declared: Vec::new() })
    }

    /// Makes the queues that are wanted, so that no event comes before its queue.
    pub(super) async fn declare(&mut self, bound: Vec<Bound>) -> Result<(), String> {
        for new in bound.iter().filter(|bound| !self.declared.contains(bound)) {
            declare(&self.channel, new).await?;
        }
        self.declared = bound;
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Publishes and waits for the confirmations of all.
    pub(super) async fn publish(&self, events: &[Event]) -> Sent {
        let (mut sent, mut asked) = (Sent::default(), Vec::with_capacity(events.len()));
        for event in events {
            match publish(&self.channel, EVENTS, &event.topic, event, true).await {
                Ok(confirm) => asked.push((event.id, confirm)),
                Err(error) => {
                    sent.error = Some(error);
                    break;
                }
            }
        }
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        for (id, confirm) in asked {
            let confirmed = tokio::select! {
                confirmed = confirm => confirmed,
                () = &mut patience => {
                    sent.error = Some("no confirmation".to_owned());
                    break;
                }
            };
            match confirmed {
                Ok(Confirmation::Ack(returned)) => {
                    sent.confirmed.push(id);
                    // Which one came back it says itself: the confirmation that carries it may be another's.
                    let id = returned
                        .as_ref()
                        .and_then(|it| it.delivery.properties.message_id().as_ref())
                        .map(|id| Uuid::try_parse(id.as_str()));
                    sent.returned.extend(id.and_then(Result::ok));
                }
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => sent.error = Some("an event was not taken".to_owned()),
                Err(error) => sent.error = Some(told(&error)),
            }
        }
        sent.confirmed.retain(|id| !sent.returned.contains(id));
        sent
    }
}

/// Writes one event to an exchange; the confirmation is waited for by the caller.
pub(super) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    event: &Event,
    lasting: bool,
) -> Result<lapin::PublisherConfirm, String> {
    let body = event.envelope().map_err(|error| error.to_string())?;
    let seconds = u64::try_from(event.time.as_second()).unwrap_or(0);
    let properties = lapin::BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(if lasting { PERSISTENT } else { FLEETING })
        .with_message_id(event.id.to_string().into())
        .with_timestamp(seconds)
        .with_type(event.topic.as_str().into())
        .with_app_id("elph-server".into());
    let options = BasicPublishOptions { mandatory: lasting, ..BasicPublishOptions::default() };
    within(channel.basic_publish(exchange.into(), key.into(), options, &body, properties)).await
}
