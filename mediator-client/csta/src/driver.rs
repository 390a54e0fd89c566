//! The task behind a CSTA link: connects by the nodes' policy, moves octets between connection and session, and turns what the
//! session and the switch say into events, replies and status.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use ecss_switch::{
    Alias, Dialect, LinkEvent,
    connect::{BoxedIo, Connect, Endpoint},
    event::{EventSink, LegObservation},
    link::{LinkCounters, LinkState, LinkStatus, OncePerMinute, Tap},
    nodes::{Nodes, NodesPolicy},
};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::CstaConfig,
    frame::Frame,
    message::{AnswerBody, Request},
    monitors::MonitorProgress,
    observe::Observer,
    session::{Failure, Loss, Output, Session, Settings},
};

/// Room for one read.
const READ_OCTETS: usize = 32 * 1024;
/// The least time between two reports of a gap, each of which makes the agent take a snapshot.
const GAP_EVERY: Duration = Duration::from_secs(1);
/// A session that was shorter than this and expired is a failure of its node, not the end of a good one.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// What the client asks of its link.
#[derive(Debug)]
pub(crate) enum Control {
    /// Send a request.
    Command { request: Request, token: Token },
    /// Replace the set of monitored devices.
    Watch(Vec<Alias>, oneshot::Sender<()>),
}

/// Where the answer to a request goes.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) reply: oneshot::Sender<Result<Answered, Failure>>,
    /// It is a snapshot, of this device or of a call.
    pub(crate) snapshot: Option<Option<Alias>>,
}

/// An answer as the client gets it.
#[derive(Debug)]
pub(crate) enum Answered {
    /// Any answer.
    Body(AnswerBody),
    /// A snapshot.
    Legs(Vec<LegObservation>),
}

/// How a session ended, as far as the next attempt is concerned.
enum End {
    Shutdown,
    FailBack,
    Lost(Loss),
}

/// What woke the driver up.
enum Turn {
    Shutdown,
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Control(Option<Control>),
    Probed(Endpoint, bool),
    Tick,
}

type Probe = Pin<Box<dyn Future<Output = (Endpoint, bool)> + Send>>;

/// One session's connection.
struct Wire {
    reader: ReadHalf<BoxedIo>,
    writer: WriteHalf<BoxedIo>,
    inbox: BytesMut,
    /// Something was written and not yet flushed.
    dirty: bool,
}

pub(crate) struct Driver {
    connect_timeout: Duration,
    connect: Arc<dyn Connect>,
    sink: EventSink,
    shutdown: CancellationToken,
    controls: mpsc::Receiver<Control>,
    controls_closed: bool,
    status: watch::Sender<LinkStatus>,
    progress: watch::Sender<MonitorProgress>,
    counters: Arc<LinkCounters>,
    once: OncePerMinute,
    session: Session<Token>,
    observer: Observer,
    nodes: Option<Nodes>,
    probe: Option<Probe>,
    /// The session has been reported as up.
    up: bool,
    active_since: Option<Instant>,
    failing_back: bool,
    /// The session has been asked to end, because of shutdown or fail-back.
    stopping: bool,
    gap: Option<String>,
    gap_at: Instant,
}

impl Driver {
    #[expect(clippy::too_many_arguments, reason = "called once, by `Csta::start`, which has the same list")]
    pub(crate) fn new(
        config: CstaConfig,
        dialect: &Dialect,
        connect: Arc<dyn Connect>,
        sink: EventSink,
        tap: Option<Arc<dyn Tap>>,
        shutdown: CancellationToken,
        controls: mpsc::Receiver<Control>,
        status: watch::Sender<LinkStatus>,
        progress: watch::Sender<MonitorProgress>,
        counters: Arc<LinkCounters>,
    ) -> Self {
        let observer = Observer::new(dialect, &config.domain);
        let settings = Settings {
            domain: config.domain,
            password: config.password,
            duration: config.session_duration,
            half_open_after: config.half_open_after,
            command_timeout: config.command_timeout,
            window: config.window,
        };
        let now = Instant::now();
        let policy = NodesPolicy { fail_back_after: config.fail_back_after, seed: config.seed, ..NodesPolicy::default() };
        Self {
            connect_timeout: config.connect_timeout,
            connect,
            sink,
            shutdown,
            controls,
            controls_closed: false,
            status,
            progress,
            session: Session::new(settings, dialect, Arc::clone(&counters), tap, now.into_std()),
            counters,
            once: OncePerMinute::default(),
            observer,
            nodes: Nodes::new(config.nodes, policy).ok(),
            probe: None,
            up: false,
            active_since: None,
            failing_back: false,
            stopping: false,
            gap: None,
            gap_at: now,
        }
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            let Some((endpoint, wait)) = self.nodes.as_mut().map(Nodes::next) else {
                self.report(LinkState::Down, None, Some("no node is configured".to_owned()));
                self.idle(std::future::pending::<()>()).await;
                break;
            };
            if !wait.is_zero() && self.idle(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
            self.report(LinkState::Connecting, Some(&endpoint), None);
            let connect = Arc::clone(&self.connect);
            let attempt = timeout(self.connect_timeout, connect.connect(&endpoint));
            let error = match self.idle(attempt).await {
                None => break,
                Some(Ok(Ok(io))) => match self.serve(io, &endpoint).await {
                    End::Shutdown => break,
                    End::FailBack => {
                        tracing::info!(link = "csta", from = %endpoint, "moving back to a preferred node");
                        continue;
                    }
                    End::Lost(loss) => loss.to_string(),
                },
                Some(Ok(Err(error))) => {
                    self.node_failed(&endpoint);
                    format!("cannot connect: {error}")
                }
                Some(Err(_)) => {
                    self.node_failed(&endpoint);
                    "cannot connect in time".to_owned()
                }
            };
            tracing::warn!(link = "csta", node = %endpoint, %error, "link is down");
            self.report(LinkState::Down, Some(&endpoint), Some(error));
        }
        self.report(LinkState::Down, None, None);
        // Commands that came too late are told so; nobody waits for a task that is gone.
        self.controls.close();
        while let Ok(control) = self.controls.try_recv() {
            self.control(control);
        }
        self.replies();
    }

    /// Waits for something while there is no session; commands are refused meanwhile. `None`: shutdown.
    async fn idle<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        loop {
            let control = tokio::select! {
                () = self.shutdown.cancelled() => return None,
                output = &mut future => return Some(output),
                control = self.controls.recv(), if !self.controls_closed => control,
            };
            match control {
                Some(control) => self.control(control),
                None => self.controls_closed = true,
            }
            self.replies();
        }
    }

    /// One connection, from the first message to its end.
    async fn serve(&mut self, io: BoxedIo, endpoint: &Endpoint) -> End {
        let (reader, writer) = tokio::io::split(io);
        let mut wire = Wire { reader, writer, inbox: BytesMut::with_capacity(READ_OCTETS), dirty: false };
        self.session.connected(now());
        let loss = loop {
            if let Some(loss) = self.outputs(endpoint) {
                break loss;
            }
            self.publish_progress();
            match self.turn(&mut wire).await {
                Turn::Shutdown => {
                    self.stopping = true;
                    self.session.stop(now());
                }
                Turn::Read(Ok(0)) => {
                    if !wire.inbox.is_empty() {
                        LinkCounters::add(&self.counters.messages_bad);
                    }
                    self.session.disconnected("the switch closed it".to_owned());
                }
                Turn::Read(Ok(_)) => {
                    if let Some(loss) = self.read(&mut wire.inbox, endpoint) {
                        break loss;
                    }
                }
                Turn::Wrote(Ok(octets)) => {
                    wire.dirty = octets > 0;
                    self.session.wrote(octets, now());
                }
                Turn::Read(Err(error)) | Turn::Wrote(Err(error)) => self.session.disconnected(error.to_string()),
                Turn::Control(Some(control)) => self.control(control),
                Turn::Control(None) => self.controls_closed = true,
                Turn::Probed(node, reachable) => {
                    if let Some(nodes) = &mut self.nodes {
                        nodes.probe_result(&node, reachable, now());
                    }
                }
                Turn::Tick => self.tick(),
            }
        };
        self.ended(loss, endpoint)
    }

    async fn turn(&mut self, wire: &mut Wire) -> Turn {
        let timer = [self.session.poll_at().map(Instant::from_std), self.gap.as_ref().map(|_| self.gap_at), self.probe_at()];
        let timer = timer.into_iter().flatten().min();
        let Wire { reader, writer, inbox, dirty } = wire;
        if inbox.capacity() - inbox.len() < READ_OCTETS / 4 {
            inbox.reserve(READ_OCTETS);
        }
        let out = self.session.output();
        let writing = !out.is_empty();
        let flushing = !writing && *dirty;
        tokio::select! {
            () = self.shutdown.cancelled(), if !self.stopping => Turn::Shutdown,
            read = reader.read_buf(inbox) => Turn::Read(read),
            wrote = write(writer, out), if writing || flushing => Turn::Wrote(wrote),
            control = self.controls.recv(), if !self.controls_closed => Turn::Control(control),
            (node, reachable) = probed(&mut self.probe), if self.probe.is_some() => Turn::Probed(node, reachable),
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Turn::Tick,
        }
    }

    fn probe_at(&self) -> Option<Instant> {
        let nodes = self.nodes.as_ref().filter(|_| self.probe.is_none())?;
        nodes.probe_at().map(Instant::from_std)
    }

    /// Takes every whole frame out of the inbox.
    fn read(&mut self, inbox: &mut BytesMut, endpoint: &Endpoint) -> Option<Loss> {
        let framing = self.session.framing();
        loop {
            match framing.decode(inbox) {
                Ok(None) => return None,
                Ok(Some(frame)) => {
                    self.received(&frame);
                    if let Some(loss) = self.outputs(endpoint) {
                        return Some(loss);
                    }
                }
                Err(error) => {
                    LinkCounters::add(&self.counters.messages_bad);
                    if self.once.may_log(error.kind()) {
                        tracing::warn!(link = "csta", node = %endpoint, %error, "the stream cannot be followed any more");
                    }
                    self.session.disconnected(error.to_string());
                    return self.outputs(endpoint);
                }
            }
        }
    }

    fn received(&mut self, frame: &Frame) {
        let problem = match self.session.receive(frame, now()) {
            Ok(None) => return,
            Ok(Some(event)) => match self.observer.observe(&event, self.session.device_of(&event.cross_ref)) {
                Ok(seen) => return self.sink.send(LinkEvent::Seen(seen)),
                Err(error) => {
                    LinkCounters::add(&self.counters.messages_bad);
                    (error.kind(), error.to_string())
                }
            },
            Err(error) => (error.kind(), error.to_string()),
        };
        let (kind, error) = problem;
        if self.once.may_log(kind) {
            tracing::warn!(link = "csta", %error, "a message cannot be understood");
        }
        self.gap(error);
    }

    /// Reports a gap, or puts it off until the last report is old enough.
    fn gap(&mut self, cause: String) {
        if Instant::now() >= self.gap_at {
            self.gap_at = Instant::now() + GAP_EVERY;
            self.sink.send(LinkEvent::Gap { cause });
        } else {
            self.gap = Some(cause);
        }
    }

    fn tick(&mut self) {
        self.session.poll(now());
        if Instant::now() >= self.gap_at
            && let Some(cause) = self.gap.take()
        {
            self.gap(cause);
        }
        let Some(nodes) = &mut self.nodes else { return };
        if self.probe.is_none()
            && let Some(node) = nodes.should_probe(now())
        {
            let (connect, patience) = (Arc::clone(&self.connect), self.connect_timeout);
            self.probe = Some(Box::pin(async move {
                let reachable = timeout(patience, connect.connect(&node)).await.is_ok_and(|io| io.is_ok());
                (node, reachable)
            }));
        }
        let quiet = self.session.outstanding() == 0;
        if quiet && !self.stopping && nodes.fail_back_due(now()).is_some() {
            (self.failing_back, self.stopping) = (true, true);
            self.session.stop(now());
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Command { request, token } => self.session.submit(token, request, now()),
            Control::Watch(devices, done) => {
                self.session.watch(devices, now());
                self.publish_progress();
                // The caller may have stopped waiting.
                let _gone = done.send(());
            }
        }
    }

    /// Deals with what the session says. Says so if it is over.
    fn outputs(&mut self, endpoint: &Endpoint) -> Option<Loss> {
        while let Some(output) = self.session.next_output() {
            match output {
                Output::Reply(token, result) => self.reply(token, result),
                Output::Active => self.activated(endpoint),
                Output::Ready => {
                    self.up = true;
                    self.publish_progress();
                    self.sink.send(LinkEvent::Up);
                }
                Output::Late => self.gap("monitors were started after the session".to_owned()),
                Output::Lost(loss) => {
                    self.replies();
                    return Some(loss);
                }
            }
        }
        None
    }

    /// Hands out the replies that are ready; nothing else is expected while there is no session.
    fn replies(&mut self) {
        while let Some(output) = self.session.next_output() {
            if let Output::Reply(token, result) = output {
                self.reply(token, result);
            }
        }
        self.publish_progress();
    }

    fn reply(&mut self, token: Token, result: Result<AnswerBody, Failure>) {
        let answered = match (result, token.snapshot) {
            (Ok(AnswerBody::Snapshot { calling, legs }), Some(device)) => {
                Ok(Answered::Legs(self.observer.snapshot(calling.as_deref(), &legs, device.as_ref())))
            }
            (Ok(body), _) => Ok(Answered::Body(body)),
            (Err(failure), _) => Err(failure),
        };
        // The caller may have stopped waiting.
        let _gone = token.reply.send(answered);
    }

    fn activated(&mut self, endpoint: &Endpoint) {
        self.active_since = Some(Instant::now());
        LinkCounters::add(&self.counters.sessions_opened);
        if self.nodes.as_mut().is_some_and(|nodes| nodes.connected(endpoint, now())) {
            LinkCounters::add(&self.counters.failovers);
        }
        tracing::info!(link = "csta", node = %endpoint, "session is active");
        self.report(LinkState::Up, Some(endpoint), None);
    }

    fn ended(&mut self, loss: Loss, endpoint: &Endpoint) -> End {
        self.probe = None;
        self.gap = None;
        self.observer.reset();
        let lasted = self.active_since.take().map(|since| since.elapsed());
        if std::mem::take(&mut self.up) {
            self.sink.send(LinkEvent::Down);
        }
        self.replies();
        let failing_back = std::mem::take(&mut self.failing_back);
        self.stopping = false;
        if self.shutdown.is_cancelled() {
            return End::Shutdown;
        }
        if lasted.is_some() && !failing_back {
            LinkCounters::add(&self.counters.sessions_lost);
        }
        match (&loss, &mut self.nodes) {
            (Loss::Stopped, Some(nodes)) if failing_back => {
                nodes.fail_back(now());
                self.report(LinkState::Down, Some(endpoint), None);
                return End::FailBack;
            }
            // The node is well; only the session is not. It is opened again at once.
            (Loss::Expired(_), _) if lasted.is_some_and(|lasted| lasted >= GOOD_SESSION) => {
                LinkCounters::add(&self.counters.relogins);
            }
            _ => self.node_failed(endpoint),
        }
        End::Lost(loss)
    }

    fn node_failed(&mut self, endpoint: &Endpoint) {
        if let Some(nodes) = &mut self.nodes {
            nodes.failed(endpoint, now());
        }
    }

    fn publish_progress(&self) {
        let progress = self.session.progress();
        self.progress.send_if_modified(|shown| std::mem::replace(shown, progress) != progress);
    }

    fn report(&self, state: LinkState, node: Option<&Endpoint>, error: Option<String>) {
        self.status.send_modify(|status| {
            if status.state != state {
                status.state = state;
                status.since = Timestamp::now();
            }
            if let Some(node) = node {
                status.node = node.to_string();
            }
            if error.is_some() {
                status.last_error = error;
            }
            if state == LinkState::Up {
                status.sessions += 1;
            }
        });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Hands what is to be written to the connection, or sees what has been handed to it through: TLS holds records back.
async fn write(writer: &mut WriteHalf<BoxedIo>, out: &mut BytesMut) -> io::Result<usize> {
    if out.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write_buf(out).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        octets => Ok(octets),
    }
}

async fn probed(probe: &mut Option<Probe>) -> (Endpoint, bool) {
    let Some(running) = probe else { return std::future::pending().await };
    let result = running.await;
    *probe = None;
    result
}
