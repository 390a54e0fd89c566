//! The terminal's tokio driver: one task that owns the session and the choice of node, and a handle that commands are given to.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ecss_switch::{
    Dialect,
    connect::{Connect, Endpoint},
    error::CommandError,
    event::{EventSink, LinkEvent},
    link::{LinkCounters, LinkState, LinkStatus, OncePerMinute, Tap},
    nodes::{Nodes, NodesPolicy},
};
use jiff::Timestamp;
use rand::Rng;
use secrecy::SecretString;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    http::Http,
    session::{Answer, Command, Effect, Failure, Reply, Request, Session, SessionConfig, Settings, Ticket},
    xml::Limits,
};

/// Commands between the handles and the task.
const QUEUE: usize = 64;
/// Commands that wait for a session or their turn.
const WAITING: usize = 256;
/// How long a stopping driver waits for commands on their way, and then for its logout.
const LEAVING: Duration = Duration::from_secs(1);

/// Where the terminal is and how patient we are with it.
#[derive(Debug, Clone)]
pub struct TerminalConfig {
    /// The switch's nodes, the preferred one first.
    pub nodes: Vec<Endpoint>,
    /// User of the switch.
    pub login: String,
    /// Its password.
    pub password: SecretString,
    /// Within this time a link that went silent is noticed.
    pub half_open_after: Duration,
    /// For a connection, TLS handshake included.
    pub connect_timeout: Duration,
    /// From a command's submission to its result.
    pub command_timeout: Duration,
    /// Most commands on their way at a time.
    pub max_parallel: usize,
    /// How long a preferred node must have been reachable again before the session moves back to it.
    pub fail_back_after: Duration,
    /// What the jitter of waits and the prefix of request ids are drawn from; `None`: the operating system.
    pub seed: Option<u64>,
}

/// The handle: cheap to clone, usable from any task. A command goes on when its caller is dropped.
#[derive(Clone)]
pub struct Terminal {
    queue: mpsc::Sender<Submission>,
    status: watch::Receiver<LinkStatus>,
    settings: watch::Receiver<Settings>,
    counters: Arc<LinkCounters>,
    dialect: Arc<Dialect>,
    patience: Duration,
    once: Arc<OncePerMinute>,
}

struct Submission {
    command: Command,
    at: Instant,
    reply: oneshot::Sender<Result<Reply, CommandError>>,
}

impl Terminal {
    /// Starts the driver. It logs in by itself, again and again, until `shutdown`; the handle of its task ends after the logout.
    pub fn start(
        config: TerminalConfig,
        dialect: Arc<Dialect>,
        connect: Arc<dyn Connect>,
        sink: EventSink,
        tap: Option<Arc<dyn Tap>>,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let counters: Arc<LinkCounters> = Arc::default();
        let (queue, submissions) = mpsc::channel(QUEUE);
        let once: Arc<OncePerMinute> = Arc::default();
        let node = config.nodes.first().map(Endpoint::to_string).unwrap_or_default();
        let (status_writer, status) = watch::channel(LinkStatus::new(node));
        let (settings_writer, settings) = watch::channel(Settings::default());
        let handle = Self {
            queue,
            status,
            settings,
            counters: counters.clone(),
            dialect: dialect.clone(),
            patience: config.command_timeout,
            once: once.clone(),
        };
        let policy = NodesPolicy { fail_back_after: config.fail_back_after, seed: config.seed, ..NodesPolicy::default() };
        let nodes = Nodes::new(config.nodes.clone(), policy);
        // The low half tells a session's requests from another's as well as the whole would.
        let nonce = config.seed.map_or_else(|| rand::rng().random(), |seed| seed as u32);
        let session = Session::new(session_config(&config, &dialect), dialect, counters.clone(), nonce);
        let driver = Driver {
            config,
            session,
            connect,
            sink,
            tap,
            shutdown,
            submissions,
            status: status_writer,
            settings: settings_writer,
            counters,
            replies: HashMap::new(),
            exchanges: JoinSet::new(),
            under_way: HashMap::new(),
            probes: JoinSet::new(),
            up: false,
            once,
        };
        let task = tokio::spawn(async move {
            match nodes {
                Ok(nodes) => driver.run(nodes).await,
                Err(error) => tracing::error!(%error, "the terminal cannot start"),
            }
        });
        (handle, task)
    }

    /// The link's state, now and as it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// What is counted about the link.
    pub fn counters(&self) -> Arc<LinkCounters> {
        self.counters.clone()
    }

    /// A record of an answer lacks what makes it one.
    pub(crate) fn count_unreadable(&self) {
        LinkCounters::add(&self.counters.messages_bad);
        if self.once.may_log("record") {
            tracing::warn!(link = "terminal", "a record in an answer of the switch cannot be understood");
        }
    }

    /// What the switch said about itself at the last login.
    pub fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// The dialect in use.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// Runs a command. The typed ones of `command` are built on this.
    pub async fn run(&self, command: Command) -> Result<Reply, CommandError> {
        let at = tokio::time::Instant::now();
        let (reply, result) = oneshot::channel();
        let submission = Submission { command, at: at.into_std(), reply };
        match tokio::time::timeout_at(at + self.patience, self.queue.send(submission)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CommandError::not_sent("the terminal has stopped")),
            Err(_) => return Err(CommandError::not_sent("too many commands wait for the switch")),
        }
        // The driver answers within the command's own deadline; this one is only for a driver that is gone.
        match tokio::time::timeout_at(at + self.patience.saturating_mul(2) + LEAVING, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(CommandError::unknown("the terminal has stopped")),
        }
    }
}

/// An interval and a time-out that together stay within `half_open_after`.
fn session_config(config: &TerminalConfig, dialect: &Dialect) -> SessionConfig {
    let keepalive_timeout = config.half_open_after / 3;
    let most = config.half_open_after.saturating_sub(keepalive_timeout);
    let wanted = Duration::from_secs(u64::from(dialect.terminal.keepalive_interval_s.max(1)));
    SessionConfig {
        login: config.login.clone(),
        password: config.password.clone(),
        max_parallel: config.max_parallel.max(1),
        max_waiting: WAITING,
        command_timeout: config.command_timeout,
        keepalive_after: wanted.min(most),
        keepalive_timeout,
    }
}

/// Why a node was left.
enum Left {
    /// It failed, or there was no session to be had.
    Lost(String),
    /// A preferred node is back.
    FailBack,
    /// The program stops.
    Shutdown,
}

struct Driver {
    config: TerminalConfig,
    session: Session,
    connect: Arc<dyn Connect>,
    sink: EventSink,
    tap: Option<Arc<dyn Tap>>,
    shutdown: CancellationToken,
    submissions: mpsc::Receiver<Submission>,
    status: watch::Sender<LinkStatus>,
    settings: watch::Sender<Settings>,
    counters: Arc<LinkCounters>,
    replies: HashMap<Ticket, oneshot::Sender<Result<Reply, CommandError>>>,
    exchanges: JoinSet<Result<Answer, Failure>>,
    /// Serial of each exchange, and whether its request may have left.
    under_way: HashMap<Id, (u64, Arc<AtomicBool>)>,
    probes: JoinSet<(Endpoint, bool)>,
    up: bool,
    once: Arc<OncePerMinute>,
}

impl Driver {
    async fn run(mut self, mut nodes: Nodes) {
        let mut cause = String::from("not connected yet");
        loop {
            let (node, wait) = nodes.next();
            if !wait.is_zero() && self.rest(wait, &cause).await {
                break;
            }
            match self.serve(&node, &mut nodes).await {
                Left::Lost(why) => {
                    if self.once.may_log("lost") {
                        tracing::warn!(link = "terminal", %node, cause = %why, "no session with the switch");
                    }
                    self.set_down(Some(&why));
                    nodes.failed(&node, now());
                    cause = why;
                }
                Left::FailBack => {
                    tracing::info!(link = "terminal", %node, "moving back to the preferred node");
                    self.set_down(None);
                    nodes.fail_back(now());
                }
                Left::Shutdown => break,
            }
        }
        self.submissions.close();
        while let Ok(submission) = self.submissions.try_recv() {
            let _ = submission.reply.send(Err(CommandError::not_sent("the terminal is stopping")));
        }
        self.session.fail_waiting("the terminal is stopping");
        self.settle_done();
        self.set_down(None);
    }

    /// Waits before the next round of attempts, and tells callers meanwhile that there is nobody to ask. True = shut down.
    async fn rest(&mut self, wait: Duration, cause: &str) -> bool {
        let cause = format!("no node of the switch gives a session: {cause}");
        self.session.fail_waiting(&cause);
        self.settle_done();
        let until = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return true,
                () = tokio::time::sleep_until(until) => return false,
                Some(submission) = self.submissions.recv() => {
                    let _ = submission.reply.send(Err(CommandError::not_sent(cause.clone())));
                }
            }
        }
    }

    /// One node: from the first connection until it is left.
    async fn serve(&mut self, node: &Endpoint, nodes: &mut Nodes) -> Left {
        self.set_status(|status| {
            status.state = LinkState::Connecting;
            status.node = node.to_string();
        });
        let config = &self.config;
        let limits = Limits::default();
        let mut http = Http::new(self.connect.clone(), node.clone(), config.connect_timeout, config.max_parallel, limits, self.tap.clone());
        self.session.begin();
        let left = self.converse(node, nodes, &mut http).await;
        if !matches!(left, Left::Lost(_)) {
            self.leave(&http).await;
        }
        http.close();
        self.abandon();
        left
    }

    async fn converse(&mut self, node: &Endpoint, nodes: &mut Nodes, http: &mut Http) -> Left {
        let mut moving = false;
        loop {
            // Effects first: they may end the session that the next request would belong to.
            loop {
                while let Some(effect) = self.session.next_effect() {
                    if let Some(cause) = self.settle(effect, node, nodes, http) {
                        return Left::Lost(cause);
                    }
                }
                match self.session.next_request(now()) {
                    Some(request) => self.send(request, http),
                    None => break,
                }
            }
            if let Some(better) = nodes.should_probe(now()) {
                self.probe(better);
            }
            if nodes.fail_back_due(now()).is_some() && !moving {
                moving = true;
                self.session.pause();
            }
            if moving && self.session.is_quiet() {
                return Left::FailBack;
            }
            let timer = [self.session.next_timer(), nodes.probe_at()].into_iter().flatten().min();
            let timer = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Left::Shutdown,
                Some(ended) = self.exchanges.join_next_with_id() => self.ended(ended),
                Some(Ok((better, reachable))) = self.probes.join_next() => nodes.probe_result(&better, reachable, now()),
                Some(submission) = self.submissions.recv() => self.submit(submission),
                () = timer => self.session.expire(now()),
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let ticket = self.session.submit(submission.command, submission.at);
        self.replies.insert(ticket, submission.reply);
    }

    fn send(&mut self, request: Request, http: &Http) {
        LinkCounters::add(&self.counters.messages_sent);
        let serial = request.serial;
        let written = Arc::new(AtomicBool::new(false));
        let exchange = self.exchanges.spawn(http.clone().exchange(request, written.clone()));
        self.under_way.insert(exchange.id(), (serial, written));
    }

    fn ended(&mut self, ended: Result<(Id, Result<Answer, Failure>), tokio::task::JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some((serial, written)) = self.under_way.remove(&id) else { return };
        let outcome = outcome.unwrap_or_else(|error| {
            let cause = format!("the exchange broke: {error}");
            Err(Failure { written: written.load(Ordering::Acquire), timeout: false, bad: false, cause })
        });
        match outcome {
            Ok(answer) => {
                LinkCounters::add(&self.counters.messages_received);
                let bad = self.counters.messages_bad.load(Ordering::Relaxed);
                self.session.on_answer(serial, answer, now());
                if self.counters.messages_bad.load(Ordering::Relaxed) > bad && self.once.may_log("bad") {
                    tracing::warn!(link = "terminal", "an answer of the switch cannot be understood");
                }
            }
            Err(failure) => {
                if failure.bad {
                    LinkCounters::add(&self.counters.messages_bad);
                    if self.once.may_log("http") {
                        tracing::warn!(link = "terminal", cause = failure.cause, "an answer of the switch cannot be understood");
                    }
                }
                self.session.on_failure(serial, &failure, now());
            }
        }
    }

    /// Carries an effect out; a cause means that the node is lost.
    fn settle(&mut self, effect: Effect, node: &Endpoint, nodes: &mut Nodes, http: &mut Http) -> Option<String> {
        match effect {
            Effect::LoggedIn { settings, again } => {
                LinkCounters::add(&self.counters.sessions_opened);
                if !again && nodes.connected(node, now()) {
                    LinkCounters::add(&self.counters.failovers);
                }
                tracing::info!(link = "terminal", %node, version = %settings.version, again, "session with the switch is open");
                let version = Some(settings.version.clone()).filter(|version| !version.is_empty());
                self.settings.send_replace(settings);
                self.set_status(|status| {
                    status.state = LinkState::Up;
                    status.switch_version = version;
                    status.sessions += 1;
                });
                self.up = true;
                self.sink.send(LinkEvent::Up);
            }
            Effect::Expired => {
                self.session_over();
                self.set_status(|status| {
                    status.state = LinkState::Connecting;
                    status.last_error = Some("the session expired".to_owned());
                });
            }
            Effect::Lost { cause } => return Some(cause),
            Effect::DropConnections => http.drop_connections(),
            Effect::Done(ticket, result) => self.reply(ticket, result),
        }
        None
    }

    /// Passes results on when nothing else matters any more.
    fn settle_done(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            if let Effect::Done(ticket, result) = effect {
                self.reply(ticket, result);
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, result: Result<Reply, CommandError>) {
        if let Some(reply) = self.replies.remove(&ticket) {
            // A caller that is gone does not matter: the command was carried out detached from it.
            let _ = reply.send(result);
        }
    }

    /// Ends everything that is on its way: what may have left has an unknown outcome, the rest waits for the next node.
    fn abandon(&mut self) {
        self.exchanges = JoinSet::new();
        self.probes = JoinSet::new();
        for (serial, written) in std::mem::take(&mut self.under_way).into_values() {
            let written = written.load(Ordering::Acquire);
            self.session.on_failure(serial, &Failure { written, timeout: false, bad: false, cause: "the link was lost".to_owned() }, now());
        }
        self.session.link_down();
        self.settle_done();
    }

    /// Leaves no session behind: waits shortly for what is on its way, then logs out.
    async fn leave(&mut self, http: &Http) {
        self.session.pause();
        let deadline = tokio::time::Instant::now() + LEAVING;
        while !self.session.is_quiet() {
            match tokio::time::timeout_at(deadline, self.exchanges.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended),
                Ok(None) | Err(_) => break,
            }
            self.settle_done();
        }
        let deadline = tokio::time::Instant::now() + LEAVING;
        if let Some(request) = self.session.logout(deadline.into_std()) {
            LinkCounters::add(&self.counters.messages_sent);
            if let Err(failure) = http.clone().exchange(request, Arc::default()).await {
                tracing::debug!(link = "terminal", cause = %failure.cause, "the logout got no answer");
            }
        }
    }

    fn probe(&mut self, better: Endpoint) {
        let (connect, timeout) = (self.connect.clone(), self.config.connect_timeout);
        self.probes.spawn(async move {
            let reachable = matches!(tokio::time::timeout(timeout, connect.connect(&better)).await, Ok(Ok(_)));
            (better, reachable)
        });
    }

    fn session_over(&mut self) {
        if std::mem::replace(&mut self.up, false) {
            LinkCounters::add(&self.counters.sessions_lost);
            self.sink.send(LinkEvent::Down);
        }
    }

    fn set_down(&mut self, cause: Option<&str>) {
        self.session_over();
        self.set_status(|status| {
            status.state = LinkState::Down;
            if let Some(cause) = cause {
                status.last_error = Some(cause.to_owned());
            }
        });
    }

    fn set_status(&self, change: impl FnOnce(&mut LinkStatus)) {
        self.status.send_modify(|status| {
            let before = status.state;
            change(status);
            if status.state != before {
                status.since = Timestamp::now();
            }
        });
    }
}

/// The clock that tests may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
