//! The task that keeps a session: chooses a node, logs in, opens the WebSocket where the dialect knows its path, and begins anew
//! when it is lost. Sessions are node-local: another node means another login.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ecss_switch::{
    Dialect, LinkEvent,
    connect::{Connect, Endpoint},
    event::EventSink,
    link::{LinkCounters, LinkState, LinkStatus, OncePerMinute, Tap},
    nodes::{Nodes, NodesPolicy},
};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{CallApiConfig, Waiter},
    http::{Cookie, login, logout, open},
    session::{Command, Received, Session, SessionConfig},
    socket::{Socket, upgrade},
};

/// A session that lived shorter than this did not work, whatever the switch said.
const SHORT_LIVED: Duration = Duration::from_secs(1);
/// How often in a row a short-lived session is opened again without a wait.
const QUICK_RELOGINS: u32 = 3;
/// The shortest time between two reported gaps; each asks the agent for a snapshot.
const GAP_INTERVAL: Duration = Duration::from_secs(1);

/// Why a session is over.
pub(crate) enum End {
    /// The link is shut down.
    Shutdown,
    /// The connection is gone.
    Lost(String),
    /// The switch closed the WebSocket in an orderly way.
    Closed(String),
    /// The session has expired.
    Relogin,
    /// A preferred node is back.
    FailBack,
}

/// An open session.
struct Link {
    cookie: Cookie,
    /// Absent: the dialect knows no path for it, and commands go over HTTP.
    socket: Option<Box<Socket>>,
}

/// The task.
pub(crate) struct Driver {
    pub(crate) config: Arc<CallApiConfig>,
    pub(crate) dialect: Arc<Dialect>,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) sink: EventSink,
    pub(crate) tap: Option<Arc<dyn Tap>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) commands: mpsc::Receiver<Command<Waiter>>,
    pub(crate) session: Session<Waiter>,
    pub(crate) counters: Arc<LinkCounters>,
    status: watch::Sender<LinkStatus>,
    once: OncePerMinute,
    gap_reported: Option<Instant>,
    pub(crate) gap_due: Option<Instant>,
}

// === impl Driver ===

impl Driver {
    #[expect(clippy::too_many_arguments, reason = "called once, by the one constructor of the public handle")]
    pub(crate) fn new(
        config: CallApiConfig,
        dialect: Arc<Dialect>,
        connect: Arc<dyn Connect>,
        sink: EventSink,
        tap: Option<Arc<dyn Tap>>,
        shutdown: CancellationToken,
        commands: mpsc::Receiver<Command<Waiter>>,
        status: watch::Sender<LinkStatus>,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let session_config =
            SessionConfig { domain: config.domain.clone(), window: config.window.max(1), half_open_after: config.half_open_after };
        Self {
            session: Session::new(session_config, dialect.clone(), counters.clone()),
            config: Arc::new(config),
            dialect,
            connect,
            sink,
            tap,
            shutdown,
            commands,
            counters,
            status,
            once: OncePerMinute::default(),
            gap_reported: None,
            gap_due: None,
        }
    }

    /// Keeps a session until the shutdown.
    pub(crate) async fn run(mut self) {
        let policy = NodesPolicy { fail_back_after: self.config.fail_back_after, seed: self.config.seed, ..NodesPolicy::default() };
        match Nodes::new(self.config.nodes.clone(), policy) {
            Ok(nodes) => self.keep(nodes).await,
            Err(error) => self.report(LinkState::Down, None, Some(error.to_string())),
        }
        self.session.lost("the link is shut down");
        self.settle();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            let refusal = ecss_switch::CommandError::not_sent("the link is shut down");
            let _ = command.waiter.send(Err(refusal));
        }
    }

    async fn keep(&mut self, mut nodes: Nodes) {
        let mut again: Option<Endpoint> = None;
        let mut quick = 0;
        loop {
            let relogin = again.is_some();
            let endpoint = match again.take() {
                Some(endpoint) => endpoint,
                None => {
                    let (endpoint, wait) = nodes.next();
                    if self.meanwhile(sleep(wait)).await.is_none() {
                        return;
                    }
                    endpoint
                }
            };
            self.report(LinkState::Connecting, Some(&endpoint), None);
            let attempt = self.attempt(endpoint.clone());
            let link = match self.meanwhile(attempt).await {
                None => return,
                Some(Ok(link)) => link,
                Some(Err(cause)) => {
                    self.session.lost(&cause);
                    nodes.failed(&endpoint, now());
                    self.report(LinkState::Down, Some(&endpoint), Some(cause));
                    continue;
                }
            };
            if nodes.connected(&endpoint, now()) {
                LinkCounters::add(&self.counters.failovers);
            }
            if relogin {
                LinkCounters::add(&self.counters.relogins);
            }
            self.up(&endpoint);
            let since = Instant::now();
            let Link { cookie, socket } = link;
            let end = match socket {
                Some(socket) => self.drive_socket(socket, &mut nodes).await,
                None => self.drive_http(&endpoint, &cookie, &mut nodes).await,
            };
            let short = since.elapsed() < SHORT_LIVED;
            quick = if short { quick + 1 } else { 0 };
            self.sink.send(LinkEvent::Down);
            match end {
                End::Shutdown => {
                    self.report(LinkState::Down, Some(&endpoint), None);
                    self.session.lost("the link is shut down");
                    self.settle();
                    self.leave(endpoint, cookie).await;
                    return;
                }
                End::Relogin if quick <= QUICK_RELOGINS => {
                    self.session.reopening();
                    again = Some(endpoint);
                }
                // an orderly close is how some switches say that the session has expired: the same node deserves one try
                End::Closed(cause) if !short => {
                    LinkCounters::add(&self.counters.sessions_lost);
                    tracing::info!(link = "call_api", node = %endpoint, cause, "the switch closed the session");
                    self.session.reopening();
                    again = Some(endpoint);
                }
                End::FailBack => {
                    self.session.reopening();
                    nodes.fail_back(now());
                    let leave = self.leave(endpoint, cookie);
                    if self.meanwhile(leave).await.is_none() {
                        return;
                    }
                }
                End::Lost(cause) | End::Closed(cause) => self.lost(&mut nodes, &endpoint, cause),
                // the commands keep waiting, by the nodes' back-off
                End::Relogin => {
                    LinkCounters::add(&self.counters.sessions_lost);
                    self.session.reopening();
                    nodes.failed(&endpoint, now());
                    self.report(LinkState::Down, Some(&endpoint), Some("the switch expires every new session at once".to_owned()));
                }
            }
            self.settle();
        }
    }

    fn lost(&mut self, nodes: &mut Nodes, endpoint: &Endpoint, cause: String) {
        LinkCounters::add(&self.counters.sessions_lost);
        self.session.lost(&cause);
        nodes.failed(endpoint, now());
        self.report(LinkState::Down, Some(endpoint), Some(cause));
    }

    /// Login and upgrade, apart from this task's state.
    fn attempt(&self, endpoint: Endpoint) -> Pin<Box<dyn Future<Output = Result<Link, String>> + Send + 'static>> {
        let (config, dialect, connect, tap) = (self.config.clone(), self.dialect.clone(), self.connect.clone(), self.tap.clone());
        Box::pin(async move {
            let cookie = login(&config, &dialect, &*connect, &endpoint, tap.as_deref()).await?;
            let Some(path) = &dialect.call_api.websocket_path else { return Ok(Link { cookie, socket: None }) };
            match upgrade(&config, path, &*connect, &endpoint, &cookie, tap.as_deref()).await {
                Ok(socket) => Ok(Link { cookie, socket: Some(Box::new(socket)) }),
                // or each attempt would leave a session behind
                Err(cause) => {
                    logout(&config, &dialect, &*connect, &endpoint, &cookie, tap.as_deref()).await;
                    Err(cause)
                }
            }
        })
    }

    /// The logout from a session that is given up, apart from this task's state.
    fn leave(&self, endpoint: Endpoint, cookie: Cookie) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let (config, dialect, connect, tap) = (self.config.clone(), self.dialect.clone(), self.connect.clone(), self.tap.clone());
        Box::pin(async move { logout(&config, &dialect, &*connect, &endpoint, &cookie, tap.as_deref()).await })
    }

    /// Waits for something while commands keep being answered for, as the session's phase demands. `None`: shut down.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        loop {
            self.settle();
            let wakeup = self.session.next_wakeup(false).map(Instant::from_std);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                output = &mut future => return Some(output),
                Some(command) = self.commands.recv(), if self.session.has_room() => self.session.submit(command),
                () = until(wakeup) => {
                    self.session.timers(now());
                }
            }
        }
    }

    /// Tells those whose commands have ended.
    pub(crate) fn settle(&mut self) {
        while let Some((waiter, result)) = self.session.poll_settled() {
            // a caller that has gone away needs no answer
            let _ = waiter.send(result);
        }
    }

    fn up(&mut self, endpoint: &Endpoint) {
        LinkCounters::add(&self.counters.sessions_opened);
        tracing::info!(link = "call_api", node = %endpoint, dialect = self.dialect.name, "the session is up");
        self.report(LinkState::Up, Some(endpoint), None);
        self.gap_due = None;
        self.sink.send(LinkEvent::Up);
    }

    fn report(&self, state: LinkState, endpoint: Option<&Endpoint>, error: Option<String>) {
        if let Some(cause) = &error {
            tracing::warn!(link = "call_api", node = endpoint.map(tracing::field::display), cause, "the session is down");
        }
        self.status.send_modify(|status| {
            if status.state != state {
                status.since = Timestamp::now();
            }
            status.state = state;
            if let Some(endpoint) = endpoint {
                status.node = endpoint.to_string();
            }
            if state == LinkState::Up {
                status.sessions += 1;
            }
            if error.is_some() {
                status.last_error = error;
            }
        });
    }

    /// Passes on what a message held.
    pub(crate) fn deliver(&mut self, received: Received) {
        for event in received.events {
            self.sink.send(LinkEvent::Seen(event));
        }
        if let Some((kind, detail)) = received.complaint
            && self.once.may_log(kind)
        {
            tracing::warn!(link = "call_api", kind, detail, "bad input from the switch");
        }
        if received.gap {
            let at = self.gap_reported.map_or_else(Instant::now, |at| at + GAP_INTERVAL);
            self.gap_due.get_or_insert(at);
            self.report_gap();
        }
    }

    /// Reports a gap when it is due: each is reported, but a stream of bad events asks for one snapshot a second, not for each.
    pub(crate) fn report_gap(&mut self) {
        let now = Instant::now();
        if self.gap_due.is_some_and(|due| due <= now) {
            self.gap_due = None;
            self.gap_reported = Some(now);
            self.sink.send(LinkEvent::Gap { cause: "an event of the Call API could not be understood".to_owned() });
        }
    }
}

/// The probe of a preferred node, if one is under way.
#[derive(Default)]
pub(crate) struct Probe(Option<Probing>);

/// A probe under way: the node, and whether it could be reached.
type Probing = Pin<Box<dyn Future<Output = (Endpoint, bool)> + Send>>;

impl Probe {
    /// Starts one if it is time.
    pub(crate) fn start(&mut self, nodes: &mut Nodes, driver: &Driver) {
        if self.0.is_some() {
            return;
        }
        if let Some(endpoint) = nodes.should_probe(now()) {
            let (connect, within) = (driver.connect.clone(), driver.config.connect_timeout);
            self.0 = Some(Box::pin(async move {
                let reachable = open(&*connect, &endpoint, within).await.is_ok();
                (endpoint, reachable)
            }));
        }
    }

    /// Its result; pending for ever while there is none.
    pub(crate) async fn result(&mut self) -> (Endpoint, bool) {
        match &mut self.0 {
            Some(probe) => {
                let result = probe.await;
                self.0 = None;
                result
            }
            None => std::future::pending().await,
        }
    }
}

/// Waits until then, or for ever.
pub(crate) async fn until(wakeup: Option<Instant>) {
    match wakeup {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The runtime's clock, which tests may simulate.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}
