//! The Call API as the agent uses it: a handle that executes commands, and the task that keeps a session with one of the nodes.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ecss_switch::{
    CallCommand, CommandError, ConferenceCommand, Dialect, Domain, Operation,
    command::{CallOutcome, ConferenceOutcome},
    connect::{Connect, Endpoint},
    dialect::Field,
    event::{EventSink, LegObservation},
    link::{LinkCounters, LinkStatus, Tap},
};
use secrecy::SecretString;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    driver::Driver,
    session::Command,
    shape::{Outcome, ShapeFields, list_fields, shape_fields},
};

/// What the Call API needs to know.
#[derive(Debug, Clone)]
pub struct CallApiConfig {
    /// The switch's nodes, the preferred one first.
    pub nodes: Vec<Endpoint>,
    /// The domain that the session belongs to.
    pub domain: Domain,
    /// Who logs in.
    pub login: String,
    /// The password.
    pub password: SecretString,
    /// The longest silence of a living link.
    pub half_open_after: Duration,
    /// How long a connection, its TLS handshake and its WebSocket upgrade may take.
    pub connect_timeout: Duration,
    /// How long a command may take, its wait for a turn included.
    pub command_timeout: Duration,
    /// How long a preferred node must have been reachable before the session moves back to it.
    pub fail_back_after: Duration,
    /// How many commands may wait for their answers at a time, and as many again for their turn.
    pub window: usize,
    /// What the jitter of waits is drawn from; `None`: the operating system.
    pub seed: Option<u64>,
}

/// Whom to tell how a command ended.
pub(crate) type Waiter = oneshot::Sender<Result<Outcome, CommandError>>;

/// The Call API of one domain of one switch. Clones share the session.
#[derive(Clone)]
pub struct CallApi {
    commands: mpsc::Sender<Command<Waiter>>,
    dialect: Arc<Dialect>,
    domain: Domain,
    command_timeout: Duration,
    status: watch::Receiver<LinkStatus>,
    counters: Arc<LinkCounters>,
}

impl fmt::Debug for CallApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallApi").field("domain", &self.domain).field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

// === impl CallApi ===

impl CallApi {
    /// Starts the task that logs in, keeps the session and feeds `sink`, until `shutdown`.
    pub fn start(
        config: CallApiConfig,
        dialect: Arc<Dialect>,
        connect: Arc<dyn Connect>,
        sink: EventSink,
        tap: Option<Arc<dyn Tap>>,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let node = config.nodes.first().map_or_else(String::new, ToString::to_string);
        let (commands, queue) = mpsc::channel(config.window.max(1));
        let (status_writer, status) = watch::channel(LinkStatus::new(node));
        let counters = Arc::new(LinkCounters::default());
        let api = Self {
            commands,
            dialect: dialect.clone(),
            domain: config.domain.clone(),
            command_timeout: config.command_timeout,
            status,
            counters: counters.clone(),
        };
        let driver = Driver::new(config, dialect, connect, sink, tap, shutdown, queue, status_writer, counters);
        (api, tokio::spawn(driver.run()))
    }

    /// The link's state.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// What the link counts.
    pub fn counters(&self) -> Arc<LinkCounters> {
        self.counters.clone()
    }

    /// Executes a call command.
    pub async fn execute_call(&self, command: CallCommand) -> Result<CallOutcome, CommandError> {
        match self.execute(command.operation(), self.fields(&command)).await? {
            Outcome::Call(outcome) => Ok(outcome),
            Outcome::Conference(_) | Outcome::Legs(_) => Err(other_kind()),
        }
    }

    /// Executes a conference command.
    pub async fn execute_conference(&self, command: ConferenceCommand) -> Result<ConferenceOutcome, CommandError> {
        match self.execute(command.operation(), self.fields(&command)).await? {
            Outcome::Conference(outcome) => Ok(outcome),
            Outcome::Call(_) | Outcome::Legs(_) => Err(other_kind()),
        }
    }

    /// The legs of every call that is going on: the snapshot of this backend.
    pub async fn list_calls(&self) -> Result<Vec<LegObservation>, CommandError> {
        match self.execute(Operation::CallList, list_fields(&self.domain)).await? {
            Outcome::Legs(legs) => Ok(legs),
            Outcome::Call(_) | Outcome::Conference(_) => Err(other_kind()),
        }
    }

    fn fields<C: ShapeFields>(&self, command: &C) -> BTreeMap<Field, String> {
        shape_fields(command, &self.domain, &self.dialect)
    }

    async fn execute(&self, operation: Operation, fields: BTreeMap<Field, String>) -> Result<Outcome, CommandError> {
        let shape = self.dialect.operations.get(&operation).ok_or(CommandError::Unnamed { operation })?;
        if shape.service == "terminal" {
            return Err(CommandError::not_sent("the dialect sends it over the HTTP terminal, not over the Call API"));
        }
        let deadline = Instant::now() + self.command_timeout;
        let (waiter, answer) = oneshot::channel();
        let command = Command { operation, fields, deadline: deadline.into_std(), waiter };
        match timeout_at(deadline, self.commands.send(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CommandError::not_sent("the link is shut down")),
            Err(_) => return Err(CommandError::not_sent("too many commands are waiting")),
        }
        // the session ends every command by its deadline; a waiter that is dropped is a task that died
        answer.await.unwrap_or_else(|_| Err(CommandError::unknown("the link was shut down before the answer came")))
    }
}

fn other_kind() -> CommandError {
    CommandError::BadAnswer { cause: "the answer is one of another operation".to_owned() }
}
